"""The wall clock is set, by an hour or a month, forward or back: no timer goes off early, and none is stranded.

Each kind of timer on a clock that is set while it runs, or while the server is down; then, for real, a server whose
wall clock `libfaketime` sets while the other clocks go on.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from msgspec import Struct

from tests.bench import NOW_MS, Bench
from tests.harness import Server, wait_until
from tests.sqs_wire import Query
from tq import lifecycle, model
from tq.clock import TimerClock
from tq.errors import TqError
from tq.model import CreateQueue, Draft, QueueSettings, Receive, Send, Settle
from tq.store.memory import MemoryStore

HOUR_S, MONTH_S = 3_600, 30 * 24 * 3_600
JUMPS_S = [HOUR_S, -HOUR_S, MONTH_S, -MONTH_S]
TIME_MS = 10_000  # after which most timers below are over


class Machine(Bench):
    """A bench on a machine whose wall clock can be set, under a server that can be started again."""

    def __init__(self) -> None:
        super().__init__(MemoryStore(lifecycle.apply))
        self.wall_ms, self.real_ms = NOW_MS, 5_000
        self.start()

    def start(self) -> None:
        """As the broker does it."""
        stored = self.ask(model.GetClock())
        began_ms = stored.boot.began_ms if stored.boot else None
        self.clock = TimerClock(
            stored.latest_ms, stored.offset_ms, lambda: self.wall_ms, lambda: self.real_ms, began_ms
        )
        self.store_clock()

    def store_clock(self) -> None:
        self.now_ms = self.clock.now_ms()
        self.run(model.SetClock(self.clock.offset_ms, model.Boot("this", self.clock.began_ms)))

    def pass_ms(self, passed: int) -> None:
        self.wall_ms += passed
        self.real_ms += passed
        self.now_ms = self.clock.now_ms()

    def jump(self, seconds: int, while_down: bool) -> None:
        self.wall_ms += seconds * 1000
        if while_down:
            self.start()
        else:
            assert self.clock.follow()
            self.store_clock()


class Timer(Struct):
    """What begins it, and whether it is over, given what that was."""

    begin: Callable[[Machine], Any]
    is_over: Callable[[Machine, Any], bool]
    time_ms: int = TIME_MS


def send(machine: Machine, settings: QueueSettings | None = None, **fields: Any) -> None:
    name = "q.fifo" if settings and settings.fifo else "q"
    machine.run(CreateQueue(name, settings or QueueSettings()))
    machine.run(Send(name, (Draft(b"1", **fields),)))


def lease(machine: Machine, visibility_ms: int = TIME_MS, **more: Any) -> str:
    send(machine)
    (message,) = machine.run(Receive(("q",), visibility_ms=visibility_ms, **more)).messages
    assert message.receipt
    return str(message.receipt)


def settle(machine: Machine, action: model.Action, is_any: bool = False) -> Any:
    (result,) = machine.run(Settle("q", (action,), is_any))
    return result


def is_in(state: str | None) -> Callable[[Machine, Any], bool]:
    def is_there(machine: Machine, _: Any) -> bool:
        machine.run()
        return machine.states("q").get("1") == state

    return is_there


def repeats(machine: Machine, _: Any) -> bool:
    sent: model.Sent = machine.run(Send("q", (Draft(b"1", dedup_id="x"),)))
    return not sent.duplicates


TIMERS = {
    "a lease": Timer(lease, is_in("ready")),
    "a lease that was extended": Timer(lambda m: settle(m, model.Extend(lease(m, 1), TIME_MS)), is_in("ready")),
    "a delay": Timer(lambda m: send(m, delay_ms=TIME_MS), is_in("ready")),
    "a delay after a release": Timer(lambda m: settle(m, model.Release(lease(m), TIME_MS)), is_in("ready")),
    "the delay of a FIFO queue": Timer(
        lambda m: send(m, QueueSettings(fifo=True, delay=TIME_MS // 1000), group="g", dedup_id="x"),
        lambda m, _: bool(m.run(Receive(("q.fifo",))).messages),
    ),
    "a time to live": Timer(lambda m: send(m, ttl_ms=TIME_MS), is_in(None)),
    "a retention": Timer(lambda m: send(m, QueueSettings(retention=TIME_MS // 1000)), is_in(None)),
    "a deduplication window": Timer(
        lambda m: send(m, QueueSettings(dedup_window=TIME_MS // 1000), dedup_id="x"), repeats
    ),
    "the twelve hours of a lease": Timer(
        lambda m: lease(m, 43_200_000),
        lambda m, receipt: isinstance(settle(m, model.Extend(receipt, 43_201_000 - TIME_MS), True), TqError),
    ),
    "a receive that can be repeated": Timer(
        lambda m: lease(m, 3_600_000, attempt_id="x"),
        lambda m, _: not m.run(Receive(("q",), visibility_ms=3_600_000, attempt_id="x")).messages,
        model.RECEIVE_ATTEMPT_MS,
    ),
}


@pytest.mark.parametrize("while_down", [False, True], ids=["running", "down"])
@pytest.mark.parametrize("jump_s", JUMPS_S)
@pytest.mark.parametrize("name", TIMERS)
def test_a_timer_takes_its_time_whatever_the_wall_clock_says(name: str, jump_s: int, while_down: bool) -> None:
    machine, timer = Machine(), TIMERS[name]
    began = timer.begin(machine)
    machine.pass_ms(timer.time_ms // 2)
    machine.jump(jump_s, while_down)
    machine.pass_ms(timer.time_ms - timer.time_ms // 2 - 1)
    assert not timer.is_over(machine, began), "early"
    machine.pass_ms(1)
    assert timer.is_over(machine, began), "stranded"


# --- a real server -------------------------------------------------------------

TIME_S = 3
WAIT_S = 30  # ten times as long, and nothing next to an hour
LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))


class WallClock:
    """The wall clock of servers that run with its `env`; CLOCK_MONOTONIC and CLOCK_BOOTTIME stay as they are."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.env = {
            "LD_PRELOAD": str(LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_NO_CACHE": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }
        self.set(0)

    def set(self, ahead_s: int) -> None:
        """It is so far ahead of the true time from now on."""
        self._path.write_text(f"{ahead_s:+d}\n")


class Course(Struct):
    """Timers of a server that began together, and how to see of each that it is over."""

    began_s: float
    looks: dict[str, Callable[[Server], bool]]

    def watch(self, server: Server) -> None:
        """Wait until all are over, and see that none is before its time."""
        left = dict(self.looks)

        def are_over() -> bool:
            for name, is_over in list(left.items()):
                if is_over(server):
                    assert monotonic() - self.began_s > TIME_S - 0.05, f"{name} was over early"
                    del left[name]
            return not left

        wait_until(are_over, WAIT_S)


def counts(server: Server, queue: str) -> dict[str, int]:
    found: dict[str, int] = server.request("GET", f"/queues/{queue}").json["messages"]
    return found


def post(server: Server, path: str, body: Any) -> Any:
    reply = server.request("POST", path, body)
    assert reply.status in (200, 201), reply
    return reply.json


def begin(server: Server, run: str) -> Course:
    """Begin a timer of each kind, on queues of their own."""
    kinds: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
        "lease": ({}, {}),
        "delay": ({}, {"delay": TIME_S}),
        "ttl": ({}, {"ttl": TIME_S}),
        "retention": ({"retention": TIME_S}, {}),
        "dedup": ({"dedup_window": TIME_S}, {"dedup_id": "x"}),
    }
    for kind, (settings, _) in kinds.items():
        post(server, "/queues", {"name": f"{kind}-{run}", **settings})
    began_s = monotonic()
    for kind, (_, fields) in kinds.items():
        post(server, f"/queues/{kind}-{run}/messages", {"content": 1, **fields})
    assert server.request("GET", f"/queues/lease-{run}/messages?visibility_timeout={TIME_S}").status == 200
    repeated = {"content": 1, "dedup_id": "x"}
    return Course(
        began_s,
        {
            "lease": lambda one: counts(one, f"lease-{run}")["in_flight"] == 0,
            "delay": lambda one: counts(one, f"delay-{run}")["delayed"] == 0,
            "ttl": lambda one: counts(one, f"ttl-{run}")["ready"] == 0,
            "retention": lambda one: counts(one, f"retention-{run}")["ready"] == 0,
            "dedup": lambda one: "duplicate" not in post(one, f"/queues/dedup-{run}/messages", repeated),
        },
    )


def kill_letters(server: Server, number: int) -> None:
    """So many dead letters."""
    post(server, "/queues", {"name": "dead"})
    post(server, "/queues", {"name": "source", "dead_letter": {"queue": "dead", "max_receives": 1}})
    post(server, "/queues/source/messages", [{"content": one} for one in range(number)])
    page = server.request("GET", f"/queues/source/messages?max={number}&visibility_timeout=60").json["messages"]
    post(server, "/queues/source/acks", {"rejects": [{"receipt": one["receipt"], "reason": "x"} for one in page]})


def timed_wait(server: Server, queue: str, seconds: int) -> tuple[int, float]:
    """A long poll: its status, and how long it took."""
    began_s = monotonic()
    return server.request("GET", f"/queues/{queue}/messages?wait={seconds}").status, monotonic() - began_s


def purge(server: Server) -> int:
    wire = Query(server.port)
    try:
        return wire.ask("PurgeQueue", {"QueueUrl": f"{server.url}/000000000000/empty"}).status
    finally:
        wire.close()


@pytest.mark.skipif(not LIBRARIES, reason="needs libfaketime (Debian package faketime)")
@pytest.mark.parametrize(
    ("running_s", "down_s"),
    [
        (-MONTH_S, HOUR_S),
        pytest.param(MONTH_S, -HOUR_S, marks=pytest.mark.slow),
        pytest.param(HOUR_S, -MONTH_S, marks=pytest.mark.slow),
        pytest.param(-HOUR_S, MONTH_S, marks=pytest.mark.slow),
    ],
)
def test_a_server_whose_wall_clock_is_set(
    start: Callable[..., Server], tmp_path: Path, running_s: int, down_s: int
) -> None:
    wall = WallClock(tmp_path / "clock")
    server = start("--sqs-purge-seconds", str(TIME_S), env=wall.env)
    for queue in ("empty", "woken"):
        post(server, "/queues", {"name": queue})
    kill_letters(server, TIME_S + 1)
    with ThreadPoolExecutor() as threads:
        waits = threads.submit(timed_wait, server, "empty", TIME_S)
        course = begin(server, "running")
        post(server, "/queues/woken/messages", {"content": 1, "delay": TIME_S})
        woken = threads.submit(timed_wait, server, "woken", WAIT_S)
        post(server, "/queues/dead/moves", {"per_second": 1})
        assert purge(server) == 200
        course.looks["move"] = lambda one: counts(one, "dead")["ready"] == 0
        course.looks["purge"] = lambda one: purge(one) == 200
        wall.set(running_s)
        course.watch(server)
        status, took_s = waits.result()
        assert status == 204
        assert TIME_S - 0.05 < took_s < WAIT_S
        status, took_s = woken.result()
        assert status == 200
        assert TIME_S - 1 < took_s < WAIT_S

    course = begin(server, "down")
    server.kill()
    wall.set(down_s)
    told = re.search(r"now ([+-][0-9.]+) s ahead", server.errors())
    assert told
    assert abs(float(told[1]) + running_s) < 2
    server = start(env=wall.env)
    course.watch(server)
    server.kill()
    assert "the wall clock has jumped" in server.errors()
