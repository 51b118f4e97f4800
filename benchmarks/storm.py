"""A storm: very many leases, delays or lifetimes that end at the same moment, and what others feel of it.

The client is an open loop: it sends at fixed times, whether or not earlier requests are answered, and counts
from the moment at which a request was due. So a server that stands still for a second shows as a hundred requests that
waited, not as one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from benchmarks.hidden import Hiding, hide
from benchmarks.load import Failed, Loader
from benchmarks.loader import percentile
from benchmarks.measure import Plan, Step, new_setup
from benchmarks.server import Client
from benchmarks.systems import OPERATIONS, Tq, start_tq
from benchmarks.wires import answer_size

KINDS: dict[str, Hiding] = {"leases": "in flight", "delays": "delayed", "lifetimes": "expiring"}
ENDED = {"leases": "timed_out", "lifetimes": "expired"}  # the total that counts them
INTERVAL_S = 0.01  # between two requests of the open loop: far below what the server can do
SPARE = 1_000  # messages in the queue of the open loop, so that a receive that overtakes a send finds one
TRIAL_PART = 20  # a part of the fill that is done before, to see how long the whole takes
SLACK = 2.0  # by which the rest of the fill may be slower
LOOK_S = 0.25  # between two looks whether the storm is over
STORM_SECONDS = 600  # after which it is given up


class Latencies(Struct, frozen=True):
    requests: int
    p50_ms: float
    p99_ms: float
    max_ms: float


class StormFigures(Struct, frozen=True):
    """`seconds` is how long it took until all were done; `quiet` is the same load just before."""

    kind: str
    messages: int
    seconds: float
    quiet: Latencies
    storm: Latencies


def storm_steps(plan: Plan) -> int:
    return len(KINDS)


def weather_storms(plan: Plan, loader: Loader, directory: Path, step: Step) -> list[StormFigures]:
    """Raises Failed. Each kind once: a storm has thousands of requests in it."""
    found: list[StormFigures] = []
    for kind in KINDS:
        with start_tq(new_setup(plan, loader, directory, f"storm {kind}")) as tq, step(f"a storm of {kind}"):
            found.append(_weather(tq, kind, plan.backlog_levels[1], plan.duration_s))
    return found


def _weather(tq: Tq, kind: str, messages: int, quiet_s: float) -> StormFigures:
    """Raises Failed when the fill was too slow for its end, or not all has ended."""
    tq.fill("calm", SPARE)
    began = time.monotonic()
    trial = messages // TRIAL_PART
    hide(tq, "trial", KINDS[kind], trial, began + 36_000)
    end = time.monotonic() + (time.monotonic() - began) * TRIAL_PART * SLACK + quiet_s + 2
    hide(tq, "storm", KINDS[kind], messages, end)
    if time.monotonic() > end - quiet_s - 1:
        raise Failed(f"Filling a queue with {messages:,} {kind} took too long for them to end together.")
    with Client(tq.port) as client:
        quiet = asyncio.run(_open_loop(tq, lambda: time.monotonic() > end - 1))
        ended = _Ended(client, kind, messages)
        time.sleep(max(0.0, end - time.monotonic() - LOOK_S))
        storm = asyncio.run(_open_loop(tq, ended))
        assert ended.at is not None
        return StormFigures(kind, messages, ended.at - end, quiet, storm)


class _Ended:
    """Called now and then: whether all of the storm is done."""

    def __init__(self, client: Client, kind: str, messages: int) -> None:
        self._client = client
        self._kind = kind
        self._messages = messages
        self._give_up_at = time.monotonic() + STORM_SECONDS
        self.at: float | None = None

    def __call__(self) -> bool:
        info: Any = self._client.json("GET", "/queues/storm")
        done = info["totals"][ENDED[self._kind]] if self._kind in ENDED else info["messages"]["ready"]
        now = time.monotonic()
        if now > self._give_up_at:
            raise Failed(f"After {STORM_SECONDS} s {done:,} of {self._messages:,} {self._kind} had ended.")
        if done == self._messages:
            self.at = now
        return self.at is not None


async def _open_loop(tq: Tq, is_over: Callable[[], bool]) -> Latencies:
    """Send and receive in turn, at fixed times, until it is over. `is_over` may take its time."""
    loop = asyncio.get_running_loop()
    connections = _Connections(tq.port)
    requests = _requests(tq)
    tasks: list[asyncio.Task[float]] = []
    over = loop.run_in_executor(None, _until, is_over)
    due = loop.time()
    while not over.done():
        tasks.append(asyncio.create_task(connections.exchange(next(requests), due)))
        due += INTERVAL_S
        await asyncio.sleep(due - loop.time())
    await over
    rising = sorted(await asyncio.gather(*tasks))
    connections.close()
    return Latencies(len(rising), percentile(rising, 50), percentile(rising, 99), rising[-1])


def _until(is_over: Callable[[], bool]) -> None:
    while not is_over():
        time.sleep(LOOK_S)


def _requests(tq: Tq) -> Iterator[bytes]:
    while True:
        for operation in OPERATIONS:
            yield tq.setup.request(operation, tq.port, "calm").as_bytes()


class _Connections:
    """Connections that are kept; there are as many as were needed at once."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def exchange(self, request: bytes, due: float) -> float:
        """Milliseconds from when it was due until its answer was there. Raises Failed for one without a message."""
        pair = self._free.pop() if self._free else await asyncio.open_connection("127.0.0.1", self._port)
        pair[1].write(request)
        answer = b""
        while answer_size(answer) is None:
            answer += await pair[0].read(65_536)
        waited_ms = (asyncio.get_running_loop().time() - due) * 1000
        self._free.append(pair)
        if answer[9:12] not in (b"200", b"201"):
            raise Failed(f"During a storm the server answered {answer[:200]!r}")
        return waited_ms

    def close(self) -> None:
        for _, writer in self._free:
            writer.close()
