"""`python -m benchmarks.watched`: what it costs a server under load to be watched.

Sends of many connections are measured in rounds. In each round every way to be watched has its turn, in an order
that is turned round each time, and is compared with the plain server in the same round: what else goes on in the
machine meets all of them alike. The figure is the median of the rounds.

Each connection sends some requests without waiting for the answers, so that the server has as much to do as it can.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import click
from msgspec import Struct

from benchmarks.load import ROOT, Failed, HttpRequest, Loader, choose_loader
from benchmarks.own import ENVELOPE
from benchmarks.server import Client, ServerProcess

SCRAPE_S = 1.0  # Prometheus asks every 15 to 60 seconds
PIPELINED = 8
OLDEST_SAMPLE_S = 6.0  # the queues are sampled every 5 seconds: then all of them have lines


SCRAPED = "scraped each second"
# What each is called, and its version and flags. The first is what the others are compared with, and the second says
# how much two servers differ that are the same.
WAYS = (("plain", ROOT), ("plain, another", ROOT), (SCRAPED, ROOT), ("access log", ROOT, "--access-log"))


class Way(Struct):
    """One way to be watched, by a server of its own.

    For each round requests/s, and the microseconds of the processor for one.
    """

    name: str
    server: ServerProcess
    rates: list[float] = []
    costs: list[float] = []
    scrape_ms: list[float] = []
    scraped_bytes: int = 0

    @property
    def is_scraped(self) -> bool:
        return self.name == SCRAPED


@click.command()
@click.option("--rounds", default=15, show_default=True)
@click.option("--seconds", default=2, show_default=True, help="Of each way in each round.")
@click.option("--connections", default=32, show_default=True)
@click.option("--queues", default=100, show_default=True, help="Each has a message, and lines in the metrics.")
@click.option("--before", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Another version of tq.")
@click.option("--dir", "parent", type=click.Path(exists=True, file_okay=False, path_type=Path))
def main(rounds: int, seconds: int, connections: int, queues: int, before: Path | None, parent: Path | None) -> None:
    """Print what scraping and the access log cost; with --before, also what this version costs."""
    with tempfile.TemporaryDirectory(prefix="tq-watched-", dir=parent) as made, ExitStack() as stack:
        directory = Path(made)
        ways = [
            Way(name, stack.enter_context(_started(directory / str(number), queues, *flags, root=root)))
            for number, (name, root, *flags) in enumerate(WAYS if before is None else (*WAYS, ("before", before)))
        ]
        loader = choose_loader("auto", directory)
        time.sleep(OLDEST_SAMPLE_S)
        for number in range(rounds):
            for way in ways if number % 2 else reversed(ways):
                _measure(way, loader, connections, seconds)
    _print(ways)


@contextmanager
def _started(directory: Path, queues: int, *flags: str, root: Path = ROOT) -> Iterator[ServerProcess]:
    directory.mkdir()
    options = ("serve", "--port", "0", "--data-dir", str(directory / "data"), *flags)
    with ServerProcess(directory, "tq", *options, root=root) as server, Client(server.port) as client:
        for number in range(queues):
            client.json("POST", "/queues", b'{"name":"queue-%d"}' % number)
            client.json("POST", f"/queues/queue-{number}/messages", ENVELOPE.encode())
        yield server


def _measure(way: Way, loader: Loader, connections: int, seconds: int) -> None:
    url = f"http://127.0.0.1:{way.server.port}"
    is_over = threading.Event()
    scraper = threading.Thread(target=_scrape, args=(way, url, is_over))
    if way.is_scraped:
        scraper.start()
    before_s = way.server.cpu_seconds()
    try:
        sample = loader.run(
            HttpRequest("POST", f"{url}/queues/queue-0/messages", ENVELOPE, pipelined=PIPELINED), connections, seconds
        )
    finally:
        is_over.set()
        if way.is_scraped:
            scraper.join()
    way.rates.append(sample.requests_per_s)
    way.costs.append((way.server.cpu_seconds() - before_s) / sample.requests * 1_000_000)


def _scrape(way: Way, url: str, is_over: threading.Event) -> None:
    request = urllib.request.Request(f"{url}/metrics", headers={"Accept": "application/openmetrics-text"})
    while not is_over.is_set():
        began_s = time.perf_counter()
        with urllib.request.urlopen(request) as reply:
            way.scraped_bytes = len(reply.read())
        way.scrape_ms.append((time.perf_counter() - began_s) * 1_000)
        is_over.wait(SCRAPE_S)


def _print(ways: list[Way]) -> None:
    plain = ways[0]
    if min(plain.rates) <= 0:
        raise Failed("nothing was measured")
    click.echo("| | requests/s | of plain | microseconds of the processor for a request | of plain |")
    click.echo("| --- | ---: | ---: | ---: | ---: |")
    for way in ways:
        rates = statistics.median(rate / other for rate, other in zip(way.rates, plain.rates, strict=True))
        costs = statistics.median(cost / other for cost, other in zip(way.costs, plain.costs, strict=True))
        rate, cost = statistics.median(way.rates), statistics.median(way.costs)
        click.echo(f"| {way.name} | {rate:,.0f} | {rates:.1%} | {cost:.2f} | {costs:.1%} |")
    scraped = next(way for way in ways if way.is_scraped)
    click.echo(
        f"\n{len(scraped.scrape_ms)} scrapes of {scraped.scraped_bytes:,} bytes, "
        f"median {statistics.median(scraped.scrape_ms):.0f} ms under load"
    )


if __name__ == "__main__":
    main()
