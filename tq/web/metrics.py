"""`GET /metrics`: the table of all metrics, and how they are written for Prometheus.

A row says what a metric is and where its figures are found. The text of a row is made by prometheus-client, from one
collector; it is made in parts, between which others have their turn of the event loop.
"""

from __future__ import annotations

import math
import platform
import re
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from itertools import accumulate, islice
from typing import Literal

from msgspec import Struct
from prometheus_client import generate_latest as as_text
from prometheus_client.core import Metric
from prometheus_client.openmetrics.exposition import generate_latest as as_openmetrics
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from tq import __version__, model
from tq.metrics import (
    CONNECTIONS_CUT,
    CONNECTIONS_REFUSED,
    EVENTS,
    OVERLOADS,
    STATES,
    Histogram,
    Metrics,
    Overview,
    events_of,
    follow,
    states_of,
)
from tq.web.exchange import Request, Response, Steps

PART = 250  # samples that are written in one turn of the loop, a millisecond of work
TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_END = b"# EOF\n"  # of OpenMetrics alone


class Seen(Struct, frozen=True):
    """What there is to show. `overview` is of the latest sample of all queues."""

    metrics: Metrics
    storage: model.StorageInfo
    overview: Overview


Values = Iterable[tuple[tuple[str, ...], float | Histogram]]
"""The values of labels, and the figure."""


class Family(Struct, frozen=True):
    """A metric. Its name ends with its unit, and that of a counter with `_total` behind it."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    values: Callable[[Seen], Values]
    labels: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        last = self.name.removesuffix("_total").rpartition("_")[2]
        return last if last in ("seconds", "bytes") else ""


def _one(value: Callable[[Seen], float | Histogram]) -> Callable[[Seen], Values]:
    return lambda seen: [((), value(seen))]


def _gauge(name: str) -> Callable[[Seen], Values]:
    """What is looked at now; nothing where there is nobody who could, as without a socket."""
    return lambda seen: [((), look())] if (look := seen.metrics.gauges.get(name)) else []


def _by(counts: Callable[[Seen], Mapping[str, int]], names: Iterable[str]) -> Callable[[Seen], Values]:
    """Each of the names, also those that did not happen: what begins with its first event shows no increase by it."""
    return lambda seen: [((name,), counts(seen).get(name, 0)) for name in names]


def _requests(seen: Seen) -> Values:
    for (method, path), outcomes in list(seen.metrics.requests.items()):
        for outcome, number in list(outcomes.items()):
            status, code = outcome if isinstance(outcome, tuple) else (outcome, "")
            yield (method, path, str(status), code), number


def _seconds(milliseconds: int | None) -> float:
    return (milliseconds or 0) / 1000


FAMILIES = (
    Family(
        "tq_build_info",
        "gauge",
        "1, with the version of tq and of Python, and the engine of the storage.",
        lambda seen: [((__version__, platform.python_version(), seen.storage.engine), 1)],
        ("version", "python", "engine"),
    ),
    # --- requests
    Family(
        "tq_http_requests_total",
        "counter",
        "Requests that were answered, by the route's method and path, the status, and the code of an error.",
        _requests,
        ("method", "route", "status", "code"),
    ),
    Family(
        "tq_sqs_requests_total",
        "counter",
        "Requests over SQS that were answered, by the operation, and the code of an error.",
        lambda seen: list(seen.metrics.sqs_requests.items()),
        ("operation", "code"),
    ),
    Family(
        "tq_operation_duration_seconds",
        "histogram",
        "From when an operation came, or a receive that waited was woken, until its answer was given. Commands that "
        "came in one turn of the loop count as one time, that of the first.",
        lambda seen: [((kind,), histogram) for kind, histogram in seen.metrics.seconds.items()],
        ("kind",),
    ),
    Family(
        "tq_overload_refusals_total",
        "counter",
        "What was refused with 503 for too much of something at a time.",
        _by(lambda seen: seen.metrics.refused, OVERLOADS),
        ("reason",),
    ),
    # --- connections
    Family("tq_connections", "gauge", "Connections that are open.", _gauge("connections")),
    Family("tq_connections_max", "gauge", "Connections there may be.", _gauge("connections_max")),
    Family(
        "tq_connections_opened_total",
        "counter",
        "Connections that were accepted.",
        _one(lambda seen: seen.metrics.connections_opened),
    ),
    Family(
        "tq_connections_refused_total",
        "counter",
        "Of these, those of which there were too many: in all, from one address, or so many that they got no answer.",
        _by(lambda seen: seen.metrics.connections_refused, CONNECTIONS_REFUSED),
        ("reason",),
    ),
    Family(
        "tq_connections_cut_total",
        "counter",
        "Connections that were given up: a header, body or the taking of an answer was too slow, nothing came for too "
        "long, too much was on its way, or too much came behind the last answer.",
        _by(lambda seen: seen.metrics.connections_cut, CONNECTIONS_CUT),
        ("reason",),
    ),
    Family("tq_tls_handshakes", "gauge", "TLS handshakes that have begun.", _gauge("handshakes")),
    Family(
        "tq_tls_handshakes_failed_total",
        "counter",
        "TLS handshakes that failed.",
        _one(lambda seen: seen.metrics.handshakes_failed),
    ),
    Family(
        "tq_transit_bytes",
        "gauge",
        "Bodies and answers on their way, in bytes, beyond 64 KiB of each connection.",
        _gauge("transit_bytes"),
    ),
    Family("tq_transit_max_bytes", "gauge", "How many of these there may be, in bytes.", _gauge("transit_max_bytes")),
    # --- waiting, commits
    Family("tq_receives_waiting", "gauge", "Receives that wait for a message.", _gauge("waiters")),
    Family("tq_receives_waiting_max", "gauge", "How many may wait.", _gauge("waiters_max")),
    Family("tq_commands_waiting", "gauge", "Commands that wait for the next commit.", _gauge("waiting_commands")),
    Family("tq_commands_waiting_max", "gauge", "How many may wait.", _gauge("waiting_commands_max")),
    Family(
        "tq_commands_waiting_bytes",
        "gauge",
        "Size of the commands that wait for the next commit, in bytes.",
        _gauge("waiting_command_bytes"),
    ),
    Family(
        "tq_commit_duration_seconds",
        "histogram",
        "How long a commit took: applying a group of commands, writing and syncing.",
        _one(lambda seen: seen.metrics.commit_seconds),
    ),
    Family(
        "tq_commit_sync_seconds",
        "histogram",
        "How long of a commit was writing and syncing.",
        _one(lambda seen: seen.metrics.sync_seconds),
    ),
    Family(
        "tq_commit_commands",
        "histogram",
        "Commands of a commit; none where only what was due was done.",
        _one(lambda seen: seen.metrics.commit_commands),
    ),
    Family(
        "tq_commit_size_bytes",
        "histogram",
        "Size of the commands of a commit, in bytes.",
        _one(lambda seen: seen.metrics.commit_bytes),
    ),
    Family(
        "tq_commits_on_thread_total",
        "counter",
        "Commits that were made on a thread, for the disk is slow or the group large.",
        _one(lambda seen: seen.metrics.commits_aside),
    ),
    Family(
        "tq_loop_delay_seconds",
        "histogram",
        "How much later than it should the event loop came to what it does ten times a second.",
        _one(lambda seen: seen.metrics.loop_delay_seconds),
    ),
    # --- storage
    Family(
        "tq_store_failed",
        "gauge",
        "1 when a write or sync has failed, so that the server ends.",
        _gauge("store_failed"),
    ),
    Family(
        "tq_store_file_bytes",
        "gauge",
        "How far the data file is used, with its free pages, in bytes.",
        _one(lambda seen: seen.storage.file_bytes),
    ),
    Family(
        "tq_store_used_bytes",
        "gauge",
        "Pages of the data file that hold something, in bytes.",
        _one(lambda seen: seen.storage.used_bytes),
    ),
    Family(
        "tq_store_available_bytes",
        "gauge",
        "What sends may still fill before they get 507, in bytes.",
        lambda seen: [((), room)] if (room := seen.storage.available_bytes) is not None else [],
    ),
    Family(
        "tq_store_reserve_bytes",
        "gauge",
        "Room that is kept for receiving when sends are refused, in bytes.",
        _one(lambda seen: seen.storage.reserve_bytes),
    ),
    # --- queues
    Family("tq_queues", "gauge", "Queues there are.", _one(lambda seen: len(seen.overview.sample))),
    Family(
        "tq_queues_left_out",
        "gauge",
        "Queues that have no figures of their own here, for others have more messages.",
        _one(lambda seen: len(seen.overview.sample) - len(seen.overview.biggest)),
    ),
    Family(
        "tq_messages",
        "gauge",
        "Messages in all queues, by state.",
        lambda seen: [((state,), number) for state, number in zip(STATES, seen.overview.messages, strict=True)],
        ("state",),
    ),
    Family(
        "tq_messages_size_bytes",
        "gauge",
        "Content of the messages in all queues, in bytes.",
        _one(lambda seen: seen.overview.bytes),
    ),
    Family(
        "tq_oldest_message_age_seconds",
        "gauge",
        "Age of the oldest message that is ready in any queue; 0 when none is.",
        _one(lambda seen: _seconds(seen.overview.oldest_message_age_ms)),
    ),
    Family(
        "tq_messages_handled_total",
        "counter",
        "What has happened to messages, also before this start, but for queues that were deleted before it.",
        lambda seen: [((event,), number) for event, number in zip(EVENTS, seen.overview.totals, strict=True)],
        ("event",),
    ),
    Family(
        "tq_queue_messages",
        "gauge",
        "Messages in a queue, by state.",
        lambda seen: (
            ((figures.name, state), number) for figures in seen.overview.biggest for state, number in states_of(figures)
        ),
        ("queue", "state"),
    ),
    Family(
        "tq_queue_size_bytes",
        "gauge",
        "Content of the messages in a queue, in bytes.",
        lambda seen: [((figures.name,), figures.bytes) for figures in seen.overview.biggest],
        ("queue",),
    ),
    Family(
        "tq_queue_oldest_message_age_seconds",
        "gauge",
        "Age of the oldest message of a queue that is ready; 0 when none is.",
        lambda seen: [((figures.name,), _seconds(figures.oldest_message_age_ms)) for figures in seen.overview.biggest],
        ("queue",),
    ),
    Family(
        "tq_queue_messages_handled_total",
        "counter",
        "What has happened to the messages of a queue since it was made.",
        lambda seen: (
            ((figures.name, event), number) for figures in seen.overview.biggest for event, number in events_of(figures)
        ),
        ("queue", "event"),
    ),
)


OF_QUEUES = tuple(family for family in FAMILIES if "queue" in family.labels)
OF_THE_MOMENT = tuple(family for family in FAMILIES if family not in OF_QUEUES)


class ServerCollector(Collector):
    """The metrics of these families, in parts: one of many samples comes several times."""

    def __init__(self, seen: Seen, families: Iterable[Family]) -> None:
        self._seen = seen
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for family in self._families:
            values = family.values(self._seen)
            samples = (sample for labels, value in values for sample in _samples(family, labels, value))
            while part := list(islice(samples, PART)):
                metric = Metric(family.name.removesuffix("_total"), family.help, family.kind, family.unit)
                metric.samples = part
                yield metric


def _samples(family: Family, labels: tuple[str, ...], value: float | Histogram) -> Iterator[Sample]:
    named = dict(zip(family.labels, labels, strict=True))
    if not isinstance(value, Histogram):
        yield Sample(family.name, named, value)
        return
    sums, total = list(accumulate(value.counts)), value.total
    for bound, number in zip((*value.bounds, math.inf), sums, strict=True):
        yield Sample(
            f"{family.name}_bucket", {**named, "le": "+Inf" if bound == math.inf else str(float(bound))}, number
        )
    yield Sample(f"{family.name}_count", named, sums[-1])
    yield Sample(f"{family.name}_sum", named, total)


class _Only(Collector):
    """One metric, for the writers of prometheus-client, which take a collector."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterator[Metric]:
        yield self._metric


def get_metrics(_: Request) -> model.GetMetrics:
    """Look at what the server has counted, as Prometheus reads it."""
    return model.GetMetrics()


def metrics_shown(request: Request, found: tuple[Metrics, model.StorageInfo, Mapping[str, model.Figures]]) -> Steps:
    metrics, storage, sample = found
    before = metrics.overview
    if before.sample is not sample:
        overview = yield from follow(before, sample)
        if metrics.overview is before:  # else somebody else has asked meanwhile
            metrics.overview = overview
    seen = Seen(metrics, storage, metrics.overview)
    is_open = _wants_openmetrics(request.headers.get("accept", ""))
    write, content_type = (as_openmetrics, OPENMETRICS) if is_open else (as_text, TEXT)
    process = write(ProcessCollector(registry=None))
    text = yield from _written(write, ServerCollector(seen, OF_THE_MOMENT))
    sampled, of_queues = metrics.of_queues.get(content_type, (None, b""))
    if sampled is not seen.overview:
        of_queues = yield from _written(write, ServerCollector(seen, OF_QUEUES))
        metrics.of_queues[content_type] = seen.overview, of_queues
    return Response(200, text + of_queues + process, content_type)


def _written(write: Callable[[Collector], bytes], collector: Collector) -> Generator[None, None, bytes]:
    """What it collects as text, but for the end of it."""
    text: list[bytes] = []
    name = ""
    written = 0
    for metric in collector.collect():
        part = write(_Only(metric)).removesuffix(_END)
        text.append(part if metric.name != name else _without_comments(part))
        name = metric.name
        written += len(metric.samples)
        if written >= PART:
            written = 0
            yield
    return b"".join(text)


def _without_comments(part: bytes) -> bytes:
    """What has been said of a family already is not said again."""
    return b"".join(line for line in part.splitlines(keepends=True) if not line.startswith(b"#"))


def _wants_openmetrics(accept: str) -> bool:
    """Whether the client would rather have that than the text format, which anybody gets who does not say."""
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for wanted in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in wanted.split(";"))
        weight = next((value for name, _, value in (each.partition("=") for each in parameters) if name == "q"), "1")
        if kind in weights:
            weights[kind] = max(weights[kind], float(weight) if re.fullmatch(r"[01](\.\d{1,3})?", weight) else 0)
    return weights["application/openmetrics-text"] > weights["text/plain"]
