"""What the server has counted since it started, as data.

Whoever knows of something adds to a cell here, at the place where it is known anyway; nobody else is asked, and no
clock is read for a request. `web.metrics` shows the cells when somebody looks. What need not be counted, because it can
be looked at, is a function among `gauges`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from heapq import nlargest
from itertools import islice
from operator import attrgetter
from typing import Any

from msgspec import Struct

from tq import model

# Upper bounds of buckets. From a commit in memory to a disk that stalls, each some two and a half times the one before.
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMMANDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000)
BYTES = tuple(1024 * 4**power for power in range(9))  # 1 KiB to 64 MiB

# Kinds of operations, of which there are few: each has a histogram.
_KINDS: dict[str, tuple[type[model.Command], ...]] = {
    "send": (model.Send,),
    "receive": (model.Receive,),
    "settle": (model.Settle,),
    "transaction": (model.Transaction,),
    "move": (model.Redrive, model.StartMove, model.CancelMove),
    "queue": (model.CreateQueue, model.PutQueue, model.PatchQueue, model.DeleteQueue, model.PurgeQueue, model.Cancel),
    "probe": (model.Probe,),
}
OWN = "own"  # what the server asks of itself
QUERY = "query"
KINDS = (*_KINDS, OWN, QUERY)

OVERLOADS = ("waiting_commands", "waiting_bytes", "waiters", "transit_bytes")
CONNECTIONS_REFUSED = ("total", "address", "unanswered")
CONNECTIONS_CUT = ("header", "body", "answer", "idle", "transit_bytes", "flood")

ROUTE_UNKNOWN = "unknown"  # of requests that are for no route, whatever their path
METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
METHOD_OTHER = "other"


class Histogram:
    """How many values were up to each bound and above the one before; in the last place, above all."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


Outcome = int | tuple[int, str]
"""A status, or a status with the code of an error."""


class Metrics:
    def __init__(self) -> None:
        # By method and path of the route.
        self.requests: defaultdict[tuple[str, str], defaultdict[Outcome, int]] = defaultdict(_outcomes)
        self.sqs_requests: Counter[tuple[str, str]] = Counter()  # by operation and code
        self.seconds = {kind: Histogram(SECONDS) for kind in KINDS}
        self._of_command = {command: self.seconds[kind] for kind, commands in _KINDS.items() for command in commands}
        self.commit_seconds = Histogram(SECONDS)
        self.sync_seconds = Histogram(SECONDS)
        self.commit_commands = Histogram(COMMANDS)
        self.commit_bytes = Histogram(BYTES)
        self.commits_aside = 0
        self.loop_delay_seconds = Histogram(SECONDS)
        self.refused: Counter[str] = Counter()  # for too much of what
        self.connections_opened = 0
        self.connections_refused: Counter[str] = Counter()  # by reason
        self.connections_cut: Counter[str] = Counter()  # by reason
        self.handshakes_failed = 0
        self.gauges: dict[str, Callable[[], float]] = {}
        self.overview = Overview()
        self.of_queues: dict[str, tuple[Overview, bytes]] = {}  # what was written of them, by format, until the next

    def outcomes(self, method: str, path: str = ROUTE_UNKNOWN) -> defaultdict[Outcome, int]:
        """Where requests of a route are counted; `path` is as the route has it."""
        return self.requests[method if method in METHODS else METHOD_OTHER, path]

    def command_seconds(self, command: type[Any]) -> Histogram:
        return self._of_command.get(command) or self.seconds[OWN]

    def add_group(self, commands: Iterable[model.Command], seconds: float) -> None:
        """Commands that came in the same turn of the loop, and were done together; ticks among them do not count."""
        for command, times in Counter(map(type, commands)).items():
            if command is not model.Tick:
                self.command_seconds(command).add(seconds, times)

    def add_commit(self, commands: int, size_bytes: int, seconds: float, sync_seconds: float) -> None:
        self.commit_commands.add(commands)
        self.commit_bytes.add(size_bytes)
        self.commit_seconds.add(seconds)
        self.sync_seconds.add(sync_seconds)


def _outcomes() -> defaultdict[Outcome, int]:
    return defaultdict(int)


# --- all queues together --------------------------------------------------------------

TOLD_QUEUES = 100  # have figures of their own, those with the most messages; each is some twenty lines
SUMMED_QUEUES = 250  # in one turn of the loop, less than a millisecond of work

EVENTS = model.Counters.__struct_fields__
STATES = model.Counts.__struct_fields__
_events = attrgetter(*EVENTS)
_states = attrgetter(*STATES)


class Overview(Struct, frozen=True):
    """What a sample of all queues comes to. `totals` by `EVENTS` are of queues that were deleted meanwhile, too."""

    sample: Mapping[str, model.Figures] = {}
    biggest: tuple[model.Figures, ...] = ()
    messages: tuple[int, ...] = (0,) * len(STATES)
    bytes: int = 0
    oldest_message_age_ms: int = 0
    totals: tuple[int, ...] = (0,) * len(EVENTS)
    gone: tuple[int, ...] = (0,) * len(EVENTS)  # of them, those of queues that were deleted


def size_of(figures: model.Figures) -> int:
    return sum(_states(figures.messages))


def events_of(figures: model.Figures) -> Iterable[tuple[str, int]]:
    return zip(EVENTS, _events(figures.counters), strict=True)


def states_of(figures: model.Figures) -> Iterable[tuple[str, int]]:
    return zip(STATES, _states(figures.messages), strict=True)


def follow(before: Overview, sample: Mapping[str, model.Figures]) -> Generator[None, None, Overview]:
    """The overview of the next sample, in parts. Totals never become less, so a queue that is gone is still counted."""
    gone = before.gone
    for part in _parts(before.sample.values()):
        lost = [old for old in part if (new := sample.get(old.name)) is None or new.created_at_ms != old.created_at_ms]
        gone = _sums([gone, *(_events(old.counters) for old in lost)])
        yield
    biggest: list[model.Figures] = []
    messages, totals = (0,) * len(STATES), gone
    size_bytes = age_ms = 0
    for part in _parts(sample.values()):
        biggest = nlargest(TOLD_QUEUES, (*biggest, *part), key=lambda figures: (size_of(figures), figures.name))
        messages = _sums([messages, *(_states(figures.messages) for figures in part)])
        totals = _sums([totals, *(_events(figures.counters) for figures in part)])
        size_bytes += sum(figures.bytes for figures in part)
        age_ms = max(age_ms, *(figures.oldest_message_age_ms or 0 for figures in part))
        yield
    return Overview(sample, tuple(biggest), messages, size_bytes, age_ms, totals, gone)


def _parts(figures: Iterable[model.Figures]) -> Iterator[list[model.Figures]]:
    left = iter(figures)
    while part := list(islice(left, SUMMED_QUEUES)):
        yield part


def _sums(rows: list[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(map(sum, zip(*rows, strict=True)))
