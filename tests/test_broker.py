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
from tq.errors import InternalError, Overloaded, QueueNotFound, StorageFull, TqError
from tq.lifecycle.receiving import MAX_SKIPPED
from tq.model import (
    CancelMove,
    Command,
    CreateQueue,
    DeadLetter,
    DeleteQueue,
    Draft,
    GetQueue,
    ListMoves,
    MoveSome,
    MoveTask,
    PatchQueue,
    Probe,
    QueueSettings,
    Receive,
    Send,
    Sent,
    SettingsChange,
    StartMove,
)
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
        broker = Broker(store, Settings(max_waiting_commands=2))
        await broker.call(CreateQueue("q"))
        await broker.call(Send("q", (Draft(b"1"),)))
        received = await broker.call(Receive(("q",)))
        broker.submit(Probe(), lambda _: None)
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

    async def looked(self, number: int) -> None:
        """Wait until a waiter has been woken, looked and waits again."""
        timer = self.tickets[number].timer
        await self.until(lambda: self.tickets[number].timer not in (None, timer))

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


# --- waiting as a queue says ----------------------------------------------------------------------------


def test_a_receive_waits_as_long_as_its_queue_says() -> None:
    async def scene(stage: Stage) -> None:
        await stage.broker.call(CreateQueue("c", QueueSettings(receive_wait=60)))
        await stage.wait("c", seconds=-0.001)
        assert 59 < stage.tickets[0].deadline - asyncio.get_running_loop().time() <= 60
        await stage.broker.call(send("c", b"1"))
        assert await stage.got(0) == b"1"

    play(scene)


def test_a_receive_of_a_queue_that_says_nothing_does_not_wait() -> None:
    async def scene(stage: Stage) -> None:
        assert (await stage.broker.call(Receive(("a",), wait_ms=-1))).messages == ()
        await stage.broker.call(PatchQueue("a", SettingsChange(receive_wait=0.01)))
        assert (await stage.broker.call(Receive(("a",), wait_ms=-1))).messages == ()
        await stage.broker.call(PatchQueue("a", SettingsChange(receive_wait=60)))
        assert (await stage.broker.call(Receive(("a",), wait_ms=0))).messages == ()

    play(scene)


DELAY_S = 0.05


async def create_fifo(stage: Stage, delay: float = DELAY_S) -> None:
    await stage.broker.call(CreateQueue("f.fifo", QueueSettings(fifo=True, content_dedup=True, delay=delay)))


def send_fifo(*contents: bytes) -> Send:
    """Each of a group of its own."""
    return Send("f.fifo", tuple(Draft(each, group=each.decode()) for each in contents))


def test_a_waiter_wakes_when_a_young_message_is_old_enough() -> None:
    """Though nothing is committed then."""

    async def scene(stage: Stage) -> None:
        await create_fifo(stage)
        await stage.wait("f.fifo")
        started_s = asyncio.get_running_loop().time()
        await stage.broker.call(send_fifo(b"1"))
        assert await stage.got(0) == b"1"
        assert asyncio.get_running_loop().time() - started_s > DELAY_S - 0.01

    play(scene)


def test_each_of_several_waiters_wakes_for_a_young_message() -> None:
    """The oldest watches, and it is the one that the second send wakes too."""

    async def scene(stage: Stage) -> None:
        await create_fifo(stage)
        for _ in range(3):
            await stage.wait("f.fifo")
        await stage.broker.call(send_fifo(b"1"))
        await stage.broker.call(send_fifo(b"2"))
        assert {await stage.got(0), await stage.got(1)} == {b"1", b"2"}
        assert not stage.boxes[2]
        stage.tickets[2].cancel()
        stage.boxes[2].append("gone")

    play(scene)


@pytest.mark.parametrize("is_cancelled", [True, False])
def test_when_the_one_who_watches_is_gone_another_does(is_cancelled: bool) -> None:
    async def scene(stage: Stage) -> None:
        await create_fifo(stage)
        await stage.wait("f.fifo")
        await stage.wait("f.fifo")
        stage.submit(send_fifo(b"1"))
        await stage.looked(0)
        if is_cancelled:
            stage.tickets[0].cancel()
            stage.boxes[0].append("gone")
        else:
            stage.tickets[0].deadline = 0
        assert await stage.got(1) == b"1"

    play(scene)


def test_a_waiter_wakes_when_the_delay_is_made_shorter() -> None:
    async def scene(stage: Stage) -> None:
        await create_fifo(stage, delay=60)
        await stage.wait("f.fifo")
        await stage.broker.call(send_fifo(b"1"))
        await stage.broker.call(PatchQueue("f.fifo", SettingsChange(delay=0)))
        assert await stage.got(0) == b"1"

    play(scene)


# --- tasks that move messages ---------------------------------------------------------------------------


async def task_of(broker: Broker, condition: Callable[[MoveTask], object]) -> MoveTask:
    """The latest task out of queue `dead`, once it is as wanted."""
    for _ in range(10_000):
        [task, *_] = await broker.call(ListMoves("dead"))
        if condition(task):
            found: MoveTask = task
            return found
        await asyncio.sleep(0.001)
    raise AssertionError("not within 10 s")


async def prepare(broker: Broker, messages: int) -> None:
    await broker.call(CreateQueue("dead"))
    await broker.call(CreateQueue("to", QueueSettings(dead_letter=DeadLetter("dead", 1))))
    await broker.call(Send("dead", tuple(Draft(b"%d" % number) for number in range(messages))))


def play_moves(store: Any, scene: Callable[[Broker], Awaitable[None]]) -> None:
    async def run() -> None:
        broker = Broker(store, Settings())
        try:
            await scene(broker)
        finally:
            await broker.close()

    asyncio.run(run())


def is_over(task: MoveTask) -> bool:
    return task.status != "running"


def test_a_task_moves_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.broker.REDRIVE_MESSAGES", 2)

    async def scene(broker: Broker) -> None:
        await prepare(broker, 5)
        await broker.call(StartMove("dead", "m", "to"))
        task = await task_of(broker, is_over)
        assert (task.status, task.to_move, task.moved) == ("completed", 5, 5)
        received = await broker.call(Receive(("to",), 10))
        assert [message.content for message in received.messages] == [b"0", b"1", b"2", b"3", b"4"]

    play_moves(open_engine("memory", Path()), scene)


def test_a_task_keeps_to_its_rate() -> None:
    async def scene(broker: Broker) -> None:
        loop = asyncio.get_running_loop()
        await prepare(broker, 20)
        started_s = loop.time()
        await broker.call(StartMove("dead", "m", "to", per_second=100))
        first = await task_of(broker, lambda task: task.moved)
        assert first.moved == 10
        await task_of(broker, is_over)
        assert loop.time() - started_s > 0.19

    play_moves(open_engine("memory", Path()), scene)


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_a_task_goes_on_after_the_store_was_opened_again(kind: str, tmp_path: Path) -> None:
    store: Any = open_engine(kind, tmp_path)

    async def begin(broker: Broker) -> None:
        await prepare(broker, 4)
        await broker.call(StartMove("dead", "m", "to", per_second=10))
        await task_of(broker, lambda task: task.moved == 1)

    async def go_on(broker: Broker) -> None:
        task = await task_of(broker, is_over)
        assert (task.status, task.moved) == ("completed", 4)
        received = await broker.call(Receive(("to",), 10))
        assert [message.content for message in received.messages] == [b"0", b"1", b"2", b"3"]

    play_moves(store, begin)
    if kind == "lmdb":
        store = open_engine(kind, tmp_path)
    play_moves(store, go_on)


def test_a_task_that_is_cancelled_stops() -> None:
    async def scene(broker: Broker) -> None:
        await prepare(broker, 3)
        await broker.call(StartMove("dead", "m", "to", per_second=5))
        task = await broker.call(CancelMove("dead", "m"))
        assert (task.status, task.moved <= 1) == ("cancelled", True)
        await broker.call(StartMove("dead", "n", "to"))
        await task_of(broker, is_over)
        [second, first] = await broker.call(ListMoves("dead"))
        assert (second.status, first) == ("completed", task)
        assert first.moved + second.moved == 3

    play_moves(open_engine("memory", Path()), scene)


def test_a_task_whose_target_is_deleted_fails() -> None:
    async def scene(broker: Broker) -> None:
        await prepare(broker, 3)
        await broker.call(StartMove("dead", "m", "to", per_second=10))
        await task_of(broker, lambda task: task.moved == 1)
        await broker.call(DeleteQueue("to"))
        task = await task_of(broker, is_over)
        assert (task.status, task.failure, task.moved) == ("failed", "target_gone", 1)
        assert (await broker.call(GetQueue("dead"))).messages.ready == 2

    play_moves(open_engine("memory", Path()), scene)


def test_a_task_is_tried_again_when_there_was_no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.broker.RETRY_S", 0.01)

    async def scene(stage: Stage) -> None:
        await prepare(stage.broker, 3)
        stage.disk.hold()
        stage.submit(StartMove("dead", "m", "to"))
        await stage.disk.entered()
        refused = stage.submit(Probe(), Probe(), Probe())
        stage.disk.let_one_pass()
        await stage.disk.entered()
        assert isinstance(refused[0], Overloaded)
        stage.disk.open()
        task = await task_of(stage.broker, is_over)
        assert (task.status, task.moved) == ("completed", 3)

    play(scene, Settings(max_waiting_commands=2))


def test_a_task_is_tried_again_when_the_disk_was_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.broker.RETRY_S", 0.01)
    apply_move = lifecycle._APPLY[MoveSome]
    refused: list[int] = []

    def full_at_first(group: Any, command: Any) -> Any:
        if len(refused) < 6:  # a store in memory applies each command twice
            refused.append(1)
            raise StorageFull
        return apply_move(group, command)

    monkeypatch.setitem(lifecycle._APPLY, MoveSome, full_at_first)

    async def scene(broker: Broker) -> None:
        await prepare(broker, 3)
        await broker.call(StartMove("dead", "1", "to"))
        assert (await task_of(broker, is_over)).moved == 3

    play_moves(MemoryStore(apply), scene)


def test_a_task_ends_with_its_queue(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(broker: Broker) -> None:
        await prepare(broker, 3)
        task = await broker.call(StartMove("dead", "m", "to", per_second=1))
        await broker.call(DeleteQueue("dead"))
        broker._move_on(task)
        await broker.call(CreateQueue("dead"))
        broker._move_on(task)
        assert await broker.call(ListMoves("dead")) == ()

    play_moves(open_engine("memory", Path()), scene)
    assert "stopped" not in caplog.text
