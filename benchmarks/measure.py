"""Which cells are run, in which order, and what is made of their samples.

A machine that is shared gets slower and faster by the minute. So no system is run to its end before the next begins:
each repeat runs every cell once, the systems of a comparison one right after the other, and a ratio is taken within
each repeat, of two cells that were neighbours in time. What is reported is the median over the repeats with the lowest
and the highest.
"""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from msgspec import Struct

from benchmarks.load import Loader, Sample
from benchmarks.machine import syncs_per_s
from benchmarks.systems import BASE, OPERATIONS, SYSTEMS, Operation, Setup, System, Tq, start_tq

SYNC_SECONDS = 1.0  # for one look at the disk
BACKLOG_QUEUE = "backlog"

Step = Callable[[str], AbstractContextManager[object]]
"""Entered with what is done next, and left when that is one step of the plan done."""


class Plan(Struct, frozen=True):
    """What to run. A cell lasts `duration_s`; a system's first cell is preceded by `warm_up_s` of each operation."""

    connections: tuple[int, ...] = (1, 32, 128)
    backlog_levels: tuple[int, int] = (1_000, 1_000_000)
    backlog_connections: int = 32
    repeats: int = 3
    duration_s: float = 3.0
    warm_up_s: float = 1.0
    content_bytes: int = 100


class Spread(Struct, frozen=True):
    """The median of some values, with the lowest and the highest."""

    median: float
    low: float
    high: float


class Speed(Struct, frozen=True):
    """One cell over all repeats."""

    requests_per_s: Spread
    p50_ms: Spread
    p99_ms: Spread


class Figures(Struct, frozen=True):
    """A cell of the comparison. `ratio` is its requests/s to those of the base; None for the base itself."""

    system: str
    operation: Operation
    connections: int
    speed: Speed
    ratio: Spread | None


class Comparison(Struct, frozen=True):
    """`syncs_per_s` of the disk meanwhile, and the cells."""

    syncs_per_s: Spread
    figures: list[Figures]


class BacklogFigures(Struct, frozen=True):
    """tq at the plan's two levels of a queue. `ratio` is the requests/s at the high one to those at the low one."""

    operation: Operation
    connections: int
    low: Speed
    high: Speed
    ratio: Spread


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    known = sorted(values)
    return Spread(statistics.median(known), known[0], known[-1])


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Spread:
    """Requests/s of ours to theirs, taken within each repeat: sample by sample, then the median of that."""
    return spread(our.requests_per_s / their.requests_per_s for our, their in zip(ours, theirs, strict=True))


def speed(samples: Sequence[Sample]) -> Speed:
    return Speed(
        spread(sample.requests_per_s for sample in samples),
        spread(sample.p50_ms for sample in samples),
        spread(sample.p99_ms for sample in samples),
    )


def system_steps(plan: Plan) -> int:
    warm_ups = len(SYSTEMS) * len(OPERATIONS) if plan.warm_up_s else 0
    return warm_ups + plan.repeats * (1 + len(plan.connections) * len(OPERATIONS) * len(SYSTEMS))


def compare_systems(plan: Plan, loader: Loader, directory: Path, step: Step) -> Comparison:
    """Raises Failed."""
    samples: dict[tuple[str, Operation, int], list[Sample]] = defaultdict(list)
    syncs: list[float] = []
    with ExitStack() as stack:
        running: dict[str, System] = {}
        for row in SYSTEMS:
            running[row.name] = stack.enter_context(row.start(new_setup(plan, loader, directory, row.name)))
        _warm_up(plan, running, step)
        for _ in range(plan.repeats):
            with step("fdatasync"):
                syncs.append(syncs_per_s(directory, min(SYNC_SECONDS, plan.duration_s)))
            for connections in plan.connections:
                for operation in OPERATIONS:
                    for name, system in running.items():
                        with step(f"{name}, {operation}, {connections} connections"):
                            sample = system.measure(operation, connections, plan.duration_s)
                        samples[name, operation, connections].append(sample)
    return Comparison(spread(syncs), [_figures(samples, *cell) for cell in samples])


def _warm_up(plan: Plan, running: dict[str, System], step: Step) -> None:
    """The first second of a server is slower: code is specialised, memory and the data file grow."""
    if plan.warm_up_s:
        for name, system in running.items():
            for operation in OPERATIONS:
                with step(f"{name}, {operation}, warming up"):
                    system.measure(operation, max(plan.connections), plan.warm_up_s)


def _figures(
    samples: dict[tuple[str, Operation, int], list[Sample]], name: str, operation: Operation, connections: int
) -> Figures:
    ours = samples[name, operation, connections]
    to_base = None if name == BASE.name else ratio(ours, samples[BASE.name, operation, connections])
    return Figures(name, operation, connections, speed(ours), to_base)


def backlog_steps(plan: Plan) -> int:
    return len(plan.backlog_levels) * (1 + plan.repeats * len(OPERATIONS))


def compare_backlogs(plan: Plan, loader: Loader, directory: Path, step: Step) -> list[BacklogFigures]:
    """A server for each level, so that the large data file of the one is not also that of the other."""
    connections = plan.backlog_connections
    samples: dict[tuple[Operation, int], list[Sample]] = defaultdict(list)
    with ExitStack() as stack:
        running: dict[int, Tq] = {}
        for level in plan.backlog_levels:
            running[level] = stack.enter_context(start_tq(new_setup(plan, loader, directory, f"backlog {level}")))
            with step(f"filling a queue to {level:,}"):
                running[level].fill(BACKLOG_QUEUE, level)
                if plan.warm_up_s:
                    running[level].measure_at(BACKLOG_QUEUE, level, "receive", connections, plan.warm_up_s)
        for _ in range(plan.repeats):
            for operation in OPERATIONS:
                for level, tq in running.items():
                    with step(f"tq, {operation}, {level:,} queued"):
                        sample = tq.measure_at(BACKLOG_QUEUE, level, operation, connections, plan.duration_s)
                    samples[operation, level].append(sample)
    low, high = plan.backlog_levels
    return [
        BacklogFigures(
            operation,
            connections,
            speed(samples[operation, low]),
            speed(samples[operation, high]),
            ratio(samples[operation, high], samples[operation, low]),
        )
        for operation in OPERATIONS
    ]


def new_setup(plan: Plan, loader: Loader, directory: Path, name: str) -> Setup:
    own = directory / name.replace(" ", "-")
    own.mkdir()
    return Setup(own, loader, plan.content_bytes)
