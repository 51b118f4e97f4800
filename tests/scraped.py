"""What a server tells of itself, as the official parsers of Prometheus read it."""

from __future__ import annotations

from typing import Any

from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from tests.harness import Server, wait_until
from tq.web.metrics import OPENMETRICS, TEXT

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


def parsed(text: bytes, content_type: str) -> list[Any]:
    """The families of a page, each once."""
    read = {TEXT: read_text, OPENMETRICS: read_openmetrics}[content_type]
    families = list(read(text.decode()))
    names = [family.name for family in families]
    assert len(names) == len(set(names))
    return families


def series_of(families: list[Any]) -> Series:
    found: Series = {}
    for family in families:
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found, f"{key} twice"
            found[key] = sample.value
    return found


class Scraped:
    """One look at a server."""

    def __init__(self, server: Server, accept: str = "") -> None:
        reply = server.request("GET", "/metrics", headers={"Accept": accept} if accept else {})
        assert reply.status == 200
        self.families = parsed(reply.body, reply.headers["Content-Type"])
        self.series = series_of(self.families)

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of the series that have these labels, maybe among others; there is one at least."""
        wanted = labels.items()
        found = [value for (each, has), value in self.series.items() if each == name and wanted <= has]
        assert found, (name, labels)
        return sum(found)

    def has(self, name: str, **labels: str) -> bool:
        return any(each == name and labels.items() <= has for each, has in self.series)


def sampled(server: Server, **events: int) -> Scraped:
    """Wait until the sample of all queues is of now: until so much has happened to messages."""
    found = Scraped(server)

    def is_there() -> bool:
        nonlocal found
        found = Scraped(server)
        return all(found("tq_messages_handled_total", event=event) == number for event, number in events.items())

    wait_until(is_there, 60)
    return found
