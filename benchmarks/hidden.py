"""Messages that are in a queue and cannot be received: delayed, in flight, or blocked behind another of their group.

The next ready message should be served as fast as if they were not there. So cells on queues that are full of them are
compared with the same cells on an empty queue, each queue on a server of its own. A cell sends a message and receives
it, or sends, leases and acknowledges it, round and round, so the level of the queue stays as it is.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from msgspec import Struct

from benchmarks.load import HttpRequest, Loader, Sample, run_cycle
from benchmarks.measure import Plan, Speed, Spread, Step, new_setup, ratio, speed, spread
from benchmarks.server import Client
from benchmarks.systems import PAGE_MESSAGES, Tq, send_batch, start_tq

Hiding = Literal["none", "delayed", "in flight", "blocked", "expiring"]
HIDINGS: tuple[Hiding, ...] = ("none", "delayed", "in flight", "blocked")
ROUNDS = {"send, receive": ("send", "receive"), "send, lease, ack": ("send", "lease", "ack")}

QUEUE = "hidden"
HIDDEN_SECONDS = 36_000  # longer than any run


class HiddenFigures(Struct, frozen=True):
    """A cell. `cpu_us` is the server's processor time for a request. Ratios are to an empty queue, which has none."""

    round: str
    hiding: Hiding
    messages: int
    connections: int
    speed: Speed
    cpu_us: Spread
    ratio: Spread | None
    cpu_ratio: Spread | None


class CpuSample(Struct, frozen=True):
    sample: Sample
    cpu_us: float


def hidden_steps(plan: Plan) -> int:
    return len(HIDINGS) * (1 + plan.repeats * len(ROUNDS))


def compare_hidden(plan: Plan, loader: Loader, directory: Path, step: Step) -> list[HiddenFigures]:
    """Raises Failed. All cells are run by our own loader: wrk cannot show a receipt it was given."""
    samples: dict[tuple[str, Hiding], list[CpuSample]] = defaultdict(list)
    levels: dict[Hiding, int] = {hiding: plan.backlog_levels[1] if hiding != "none" else 0 for hiding in HIDINGS}
    with ExitStack() as stack:
        running: dict[Hiding, Tq] = {}
        for hiding in HIDINGS:
            setup = new_setup(plan, loader, directory, f"hidden {hiding}")
            running[hiding] = stack.enter_context(start_tq(setup))
            with step(f"filling a queue with {levels[hiding]:,} {hiding}"):
                hide(running[hiding], QUEUE, hiding, levels[hiding], time.monotonic() + HIDDEN_SECONDS)
                if plan.warm_up_s:
                    _measure(running[hiding], "send, lease, ack", plan.backlog_connections, plan.warm_up_s)
        for _ in range(plan.repeats):
            for name in ROUNDS:
                for hiding, tq in running.items():
                    with step(f"tq, {name}, {levels[hiding]:,} {hiding}"):
                        sample = _measure(tq, name, plan.backlog_connections, plan.duration_s)
                    samples[name, hiding].append(sample)
    return [_figures(samples, cell, levels[cell[1]], plan.backlog_connections) for cell in samples]


def _figures(
    samples: dict[tuple[str, Hiding], list[CpuSample]], cell: tuple[str, Hiding], messages: int, connections: int
) -> HiddenFigures:
    name, hiding = cell
    ours, base = samples[cell], samples[name, "none"]
    is_base = hiding == "none"
    return HiddenFigures(
        name,
        hiding,
        messages,
        connections,
        speed([one.sample for one in ours]),
        spread(one.cpu_us for one in ours),
        None if is_base else ratio([one.sample for one in ours], [one.sample for one in base]),
        None if is_base else spread(our.cpu_us / their.cpu_us for our, their in zip(ours, base, strict=True)),
    )


def _measure(tq: Tq, name: str, connections: int, duration_s: float) -> CpuSample:
    url = f"http://127.0.0.1:{tq.port}/queues/{QUEUE}/messages"
    requests = {
        "send": HttpRequest("POST", url, tq.setup.envelope),
        "receive": HttpRequest("GET", url),
        "lease": HttpRequest("GET", f"{url}?visibility_timeout={HIDDEN_SECONDS}"),
        "ack": HttpRequest("DELETE", f"{url}/{{token}}"),
    }
    before_s = tq.server.cpu_seconds()
    sample = run_cycle([requests[step] for step in ROUNDS[name]], connections, duration_s)
    return CpuSample(sample, (tq.server.cpu_seconds() - before_s) / sample.requests * 1e6)


def hide(tq: Tq, queue: str, how: Hiding, messages: int, end: float) -> None:
    """Fill a queue with messages that are hidden until the moment `end` of the monotonic clock, or expire then."""
    with Client(tq.port) as client:
        client.json("POST", "/queues", json.dumps({"name": queue}).encode())
        sent = 0
        while sent < messages:
            sent += send_batch(client, queue, _envelope(tq, how, end), messages - sent)
        to_lease = messages if how == "in flight" else 1 if how == "blocked" else 0
        while to_lease > 0:
            path = f"/queues/{queue}/messages?max={min(to_lease, PAGE_MESSAGES)}&visibility_timeout={_seconds(end)}"
            to_lease -= len(client.json("GET", path)["messages"])


def _envelope(tq: Tq, how: Hiding, end: float) -> str:
    """A message as tq's API takes it, to be hidden in this way."""
    field = {"delayed": f'"delay": {_seconds(end)}', "expiring": f'"ttl": {_seconds(end)}', "blocked": '"group": "one"'}
    return f"{tq.setup.envelope[:-1]}, {field[how]}}}" if how in field else tq.setup.envelope


def _seconds(end: float) -> str:
    return f"{end - time.monotonic():.3f}"
