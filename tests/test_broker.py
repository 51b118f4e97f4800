"""The broker on a real event loop, over either engine."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.engines import Do, apply, open_engine
from tq import keys, lifecycle
from tq.audit import audit
from tq.broker import Broker, Ticket
from tq.errors import InternalError, Overloaded, QueueNotFound, TqError
from tq.lifecycle.receiving import MAX_SKIPPED
from tq.model import Command, CreateQueue, DeleteQueue, Draft, GetQueue, Probe, Receive, Send, Sent
from tq.settings import Settings
from tq.store import Tx
from tq.store.memory import MemoryStore


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_a_receive_goes_on_behind_any_number_of_damaged_messages(kind: str, tmp_path: Path) -> None:
    """Else a consumer that stops at the first empty answer would stop in front of messages that are well."""
    count = 2 * MAX_SKIPPED + 50

    def damage(tx: Tx) -> None:
        ready = tx.space(keys.ready_space(1))
        for key, value in list(ready.scan())[:count]:
            ready.put(key, value[:-1] + bytes([value[-1] ^ 1]))

    async def run() -> tuple[Any, Any]:
        broker = Broker(open_engine(kind, tmp_path), Settings())
        await broker.call(CreateQueue("q"))
        await broker.call(Send("q", (Draft(b"1"),) * (count + 1)))
        await broker.call(Do(damage))
        found = await broker.call(Receive(("q",))), await broker.call(GetQueue("q"))
        assert (await broker.call(Receive(("q",)))).messages == ()
        await broker.close()
        return found

    received, info = asyncio.run(run())
    assert [message.id for message in received.messages] == [count + 1]
    assert info.counters.quarantined == count


@pytest.mark.parametrize("is_stopping", [False, True])
def test_what_is_given_back_has_room_always(is_stopping: bool) -> None:
    """Also when as much waits as may, or the broker stops."""

    async def run() -> int:
        store = MemoryStore(apply)
        broker = Broker(store, Settings(max_waiting_commands=1))
        await broker.call(CreateQueue("q"))
        await broker.call(Send("q", (Draft(b"1"),)))
        received = await broker.call(Receive(("q",)))
        if is_stopping:
            closing = asyncio.ensure_future(broker.close())
            broker.submit(Send("q", (Draft(b"2"),)), lambda _: None)
            broker.give_back(received)
            await closing
        else:
            broker.submit(Send("q", (Draft(b"2"),)), lambda _: None)
            broker.give_back(received)
            await broker.close()
        return store.read(lambda tx: lifecycle.answer(tx, GetQueue("q"), 0)).messages.ready

    assert asyncio.run(run()) == 2


# --- those who wait, while the disk is held -------------------------------------------------------------


@pytest.fixture(autouse=True)
def _commits_are_held_on_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the loop goes on while a test holds one."""
    monkeypatch.setattr("tq.writer.INLINE_BYTES", 0)


class Disk(MemoryStore):
    """A store in memory whose commits can be held: each waits for a permit then."""

    def __init__(self) -> None:
        super().__init__(apply)
        self._permits = threading.Semaphore(0)
        self._entered = threading.Semaphore(0)
        self._is_held = False

    def commit(self, commands: Sequence[Command], now_ms: int) -> list[Any]:
        if self._is_held:
            self._entered.release()
            self._permits.acquire()
        return super().commit(commands, now_ms)

    def hold(self) -> None:
        self._is_held = True

    async def entered(self) -> None:
        """Wait until the next group is formed and held."""
        assert await asyncio.to_thread(self._entered.acquire, timeout=10)

    def let_one_pass(self) -> None:
        self._permits.release()

    def open(self) -> None:
        self._is_held = False
        self._permits.release(10)


class Stage:
    """A broker over a disk that can be held, with queues `a` and `b`, and the results of those who wait."""

    def __init__(self, settings: Settings) -> None:
        self.disk = Disk()
        self.broker = Broker(self.disk, settings)
        self.boxes: list[list[Any]] = []
        self.tickets: list[Ticket] = []

    async def wait(self, *queues: str, seconds: float = 60, visibility_ms: int | None = None) -> None:
        """One more waits; the first one that waits is number 0."""
        box: list[Any] = []
        request = Receive(queues, wait_ms=round(seconds * 1000), visibility_ms=visibility_ms)
        ticket = self.broker.submit(request, box.append)
        assert ticket
        self.boxes.append(box)
        self.tickets.append(ticket)
        await self.until(lambda: ticket.timer is not None)

    async def until(self, condition: Callable[[], object]) -> None:
        for _ in range(10_000):
            if condition():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("not within 10 s")

    async def got(self, number: int) -> Any:
        """What a waiter got: the content of its message, None when there was none, or the error."""
        await self.until(lambda: self.boxes[number])
        (result,) = self.boxes[number]
        if isinstance(result, TqError):
            return result
        return result.messages[0].content if result.messages else None

    def submit(self, *commands: Command) -> list[Any]:
        results: list[Any] = []
        for command in commands:
            self.broker.submit(command, results.append)
        return results


def play(scene: Callable[[Stage], Awaitable[None]], settings: Settings | None = None) -> None:
    async def run() -> None:
        stage = Stage(settings or Settings())
        try:
            for name in ("a", "b"):
                await stage.broker.call(CreateQueue(name))
            await scene(stage)
            assert len(stage.broker._waiters) == sum(not box for box in stage.boxes)
        finally:
            stage.disk.open()
            await stage.broker.close()
        assert stage.disk.read(audit) == []

    asyncio.run(run())


def send(queue: str, content: bytes) -> Send:
    return Send(queue, (Draft(content),))


def test_a_woken_waiter_whose_queue_is_gone_wakes_the_next() -> None:
    async def scene(stage: Stage) -> None:
        await stage.wait("a", "b")
        await stage.wait("b")
        stage.disk.hold()
        stage.submit(send("b", b"1"))
        await stage.disk.entered()
        stage.submit(DeleteQueue("a"))  # ahead of the receive of the one who is about to be woken
        stage.disk.open()
        assert isinstance(await stage.got(0), QueueNotFound)
        assert await stage.got(1) == b"1"

    play(scene)


def test_a_waiter_cancelled_before_its_receive_is_run_wakes_the_next() -> None:
    async def scene(stage: Stage) -> None:
        await stage.wait("a")
        await stage.wait("a")
        stage.disk.hold()
        stage.submit(send("a", b"1"))
        await stage.disk.entered()
        stage.submit(Probe())
        stage.disk.let_one_pass()
        await stage.disk.entered()  # the probe's group, which nothing joins any more
        await stage.until(lambda: stage.tickets[0].is_submitted)
        stage.tickets[0].cancel()
        stage.disk.open()
        assert await stage.got(1) == b"1"
        assert (await stage.broker.call(GetQueue("a"))).counters.received == 1
        stage.boxes[0].append("gone")

    play(scene)


@pytest.mark.parametrize("visibility_ms", [None, 30_000])
def test_a_waiter_cancelled_while_its_receive_is_run_gives_the_message_to_the_next(visibility_ms: int | None) -> None:
    async def scene(stage: Stage) -> None:
        await stage.wait("a", visibility_ms=visibility_ms)
        await stage.wait("a")
        stage.disk.hold()
        stage.submit(send("a", b"1"))
        await stage.disk.entered()
        stage.disk.let_one_pass()
        await stage.until(lambda: stage.tickets[0].is_submitted)
        await stage.disk.entered()
        stage.tickets[0].cancel()
        stage.disk.open()
        assert await stage.got(1) == b"1"
        assert stage.boxes[1][0].messages[0].receive_count == 1
        stage.boxes[0].append("gone")

    play(scene)


def test_a_group_that_is_run_one_by_one_wakes_everybody() -> None:
    def fail(_: Tx) -> None:
        raise ZeroDivisionError

    async def scene(stage: Stage) -> None:
        await stage.wait("a")
        await stage.wait("b")
        stage.disk.hold()
        stage.submit(Probe())
        await stage.disk.entered()
        results = stage.submit(send("a", b"1"), Do(fail), send("b", b"2"))
        stage.disk.open()
        assert await stage.got(0) == b"1"
        assert await stage.got(1) == b"2"
        assert [type(result) for result in results] == [Sent, InternalError, Sent]

    play(scene)


def test_closing_answers_those_who_wait_and_loses_nothing() -> None:
    async def scene(stage: Stage) -> None:
        await stage.wait("a")
        await stage.wait("a", "b")
        await stage.wait("b")
        stage.disk.hold()
        stage.submit(send("a", b"1"))
        await stage.disk.entered()
        stage.broker.stop_waiting()
        stage.disk.open()
        assert [await stage.got(number) for number in range(3)] == [b"1", None, None]
        late = stage.submit(Receive(("b",), wait_ms=60_000))
        await stage.until(lambda: late)
        assert late[0].messages == ()

    play(scene)


def test_a_woken_waiter_for_whom_there_is_no_room_keeps_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.broker.RETRY_S", 0.01)

    async def scene(stage: Stage) -> None:
        await stage.wait("a", "b")
        await stage.wait("a")
        stage.disk.hold()
        stage.submit(send("a", b"1"))
        await stage.disk.entered()
        stage.submit(Probe(), Probe())
        first_timer = stage.tickets[0].timer
        stage.disk.let_one_pass()
        await stage.disk.entered()
        assert stage.tickets[0].timer not in (None, first_timer)  # it was woken, refused, and waits again
        assert len(stage.broker._waiters) == 2
        stage.disk.open()
        assert await stage.got(0) == b"1"
        await stage.broker.call(send("a", b"2"))
        assert await stage.got(1) == b"2"

    play(scene, Settings(max_waiting_commands=2))


def test_one_whose_time_is_over_while_there_is_no_room_leaves_the_message_to_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tq.broker.RETRY_S", 0.01)

    async def scene(stage: Stage) -> None:
        await stage.wait("a")
        await stage.wait("a")
        stage.disk.hold()
        stage.submit(send("a", b"1"))
        await stage.disk.entered()
        stage.submit(Probe(), Probe())
        stage.tickets[0].deadline = 0
        stage.disk.let_one_pass()
        assert isinstance(await stage.got(0), Overloaded)
        stage.disk.open()
        assert await stage.got(1) == b"1"

    play(scene, Settings(max_waiting_commands=2))
