"""tq next to other queues that are told to be durable, each with its real server, in one run.

Every repeat runs every cell, the systems of a cell one right after the other, and ratios are taken within a repeat, as
in `benchmarks.measure`. All servers run throughout; those that are not loaded are idle.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import click
from msgspec import Struct

from benchmarks.adapters import PEERS, Absent, Cell, Peer, PeerRow
from benchmarks.load import Failed, Loader, Sample
from benchmarks.machine import settle
from benchmarks.measure import Plan, Spread, Step, new_setup, spread

HTTP = ("tq", "do-nothing Tornado", "FastAPI + SQLite")
OTHERS = ("Redis", "beanstalkd", "RabbitMQ", "NATS JetStream")
LEASING = ("tq", *OTHERS)
OPEN_SHARE = 0.5  # of the closed loop's requests/s, at which an open loop runs
LOADER_BOUND = 0.85  # of a core; a loader that uses more may be what limits the figure

Runs = dict[tuple[str, Cell], list[Sample]]


class PeerFigures(Struct, frozen=True):
    """A cell of a system. `loader_cores` is None where the loader is the system itself."""

    system: str
    durability: str
    cell: Cell
    messages_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread
    p999_ms: Spread | None
    loader_cores: Spread | None

    @property
    def is_loader_bound(self) -> bool:
        return self.loader_cores is not None and self.loader_cores.median > LOADER_BOUND


class PeerRatio(Struct, frozen=True):
    """`is_at_most`: the other could perhaps do more than its loader asked of it."""

    what: str
    to: str
    ratio: Spread
    is_at_most: bool = False


class PeerResults(Struct, frozen=True):
    """`versions` are of the others; `absent` says of each system that did not take part why."""

    figures: list[PeerFigures]
    ratios: list[PeerRatio]
    absent: list[str]
    versions: list[str] = []


class _Wanted(Struct, frozen=True):
    """A ratio of tq's to another's: of messages/s, or of the median time of a request."""

    what: str
    to: str
    ours: Cell
    theirs: Cell
    is_time: bool = False


def cells(plan: Plan) -> dict[Cell, tuple[str, ...]]:
    """Which systems run which cells, in this order: what takes, takes the messages of the cells before it."""
    size = plan.content_bytes
    return {
        Cell("send", 1, size): ("two fdatasyncs", *HTTP, *OTHERS),
        Cell("send", 32, size): HTTP,
        Cell("send", 128, size): (*HTTP, *OTHERS),
        Cell("send", 512, size): HTTP[:2],
        Cell("receive", 32, size): HTTP,
        Cell("receive", 128, size): (*HTTP, "Redis"),
        Cell("lease, ack", 128, size): LEASING,
        Cell("send, lease, ack", 128, size): LEASING,
        **{
            Cell("send", connections, size, batch): systems
            for batch in (10, 100, 1_000)
            for connections, systems in ((1, ("tq", "raw py-lmdb")), (32, ("tq",)))
        },
        Cell("send", 32, 10_000): HTTP,
        Cell("send", 32, 1 << 20): HTTP,
        Cell("send", 128, size, is_open=True): HTTP,
    }


def _wanted(plan: Plan) -> list[_Wanted]:
    size = plan.content_bytes
    same = [
        ("do-nothing Tornado", Cell("send", 128, size)),
        ("Redis", Cell("send", 128, size)),
        ("Redis", Cell("receive", 128, size)),
        ("FastAPI + SQLite", Cell("send", 32, size)),
        ("FastAPI + SQLite", Cell("receive", 32, size)),
        ("Redis", Cell("lease, ack", 128, size)),
        *((other, Cell("send", 128, size)) for other in OTHERS[1:]),
        *((other, Cell("lease, ack", 128, size)) for other in OTHERS[1:]),
        *((other, Cell("send, lease, ack", 128, size)) for other in OTHERS),
    ]
    one, batch = Cell("send", 1, size), Cell("send", 1, size, 100)
    return [
        *(_Wanted(f"messages/s: {describe(cell)}", other, cell, cell) for other, cell in same),
        _Wanted(f"p50: {describe(one)}", "two fdatasyncs", one, one, is_time=True),
        _Wanted(f"messages/s: {describe(batch)}", "raw py-lmdb", batch, batch),
        _Wanted("messages/s: batches of 100, 32 connections", "raw py-lmdb", Cell("send", 32, size, 100), batch),
    ]


def describe(cell: Cell) -> str:
    what = f"batches of {cell.batch:,}" if cell.batch > 1 else cell.operation
    count = f"{cell.connections} connection{'s' if cell.connections > 1 else ''}"
    return f"{what}, {count}{', open loop' if cell.is_open else ''}"


def peer_steps(plan: Plan) -> int:
    return len(PEERS) + plan.repeats * sum(map(len, cells(plan).values()))


def compare_peers(plan: Plan, loader: Loader, directory: Path, step: Step) -> PeerResults:
    """Raises Failed. A system that is not installed, or does not start, is told and left out."""
    runs: Runs = defaultdict(list)
    running: dict[str, Peer] = {}
    absent: list[str] = []
    with ExitStack() as stack:
        for row in PEERS:
            with step(f"{row.name} starts"):
                _start(row, stack, plan, loader, directory, running, absent)
        for _ in range(plan.repeats):
            for cell, systems in cells(plan).items():
                for name in systems:
                    with step(f"{name}, {describe(cell)}"):
                        if name in running:
                            if plan.warm_up_s:  # else it is a quick run, whose figures mean nothing
                                settle()
                            rate = _rate(name, cell, runs) if cell.is_open else None
                            runs[name, cell].append(running[name].measure(cell, plan.duration_s, rate))
    durability = {row.name: row.durability for row in PEERS}
    figures = [_figures(name, durability[name], cell, samples) for (name, cell), samples in runs.items()]
    versions = [f"{name} {peer.version}" for name, peer in running.items() if peer.version]
    return PeerResults(figures, _ratios(plan, runs), absent, versions)


def _start(
    row: PeerRow,
    stack: ExitStack,
    plan: Plan,
    loader: Loader,
    directory: Path,
    running: dict[str, Peer],
    absent: list[str],
) -> None:
    try:
        peer = stack.enter_context(row.start(new_setup(plan, loader, directory, row.name)))
    except (Absent, Failed) as why:
        absent.append(f"{row.name} is left out: {why}")
        click.echo(absent[-1], err=True)
        return
    running[row.name] = peer
    if plan.warm_up_s and row.name in (*HTTP, *OTHERS):
        peer.measure(Cell("send", 128, plan.content_bytes), plan.warm_up_s, None)


def _rate(name: str, cell: Cell, runs: Runs) -> float:
    """Half of what the closed loop of this repeat has shown."""
    closed = Cell(cell.operation, cell.connections, cell.content_bytes)
    return OPEN_SHARE * runs[name, closed][-1].requests_per_s


def _figures(system: str, durability: str, cell: Cell, samples: Sequence[Sample]) -> PeerFigures:
    p999s_ms = [sample.p999_ms for sample in samples if sample.p999_ms is not None]
    cores = [sample.loader_cores for sample in samples if sample.loader_cores is not None]
    return PeerFigures(
        system,
        durability,
        cell,
        spread(sample.requests_per_s * cell.messages_per_request for sample in samples),
        spread(sample.p50_ms for sample in samples),
        spread(sample.p99_ms for sample in samples),
        spread(p999s_ms) if p999s_ms else None,
        spread(cores) if cores else None,
    )


def _ratios(plan: Plan, runs: Runs) -> list[PeerRatio]:
    found = []
    for one in _wanted(plan):
        pairs = list(zip(runs.get(("tq", one.ours), []), runs.get((one.to, one.theirs), []), strict=False))
        if pairs and one.is_time:
            found.append(PeerRatio(one.what, one.to, spread(our.p50_ms / their.p50_ms for our, their in pairs)))
        elif pairs:
            factor = one.ours.messages_per_request / one.theirs.messages_per_request
            values = [our.requests_per_s / their.requests_per_s * factor for our, their in pairs]
            theirs = _figures(one.to, "", one.theirs, [their for _, their in pairs])
            found.append(PeerRatio(one.what, one.to, spread(values), theirs.is_loader_bound))
    return found
