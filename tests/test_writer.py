"""Group commit, with a store that holds each commit until the test lets it go.

The writer lives on an event loop in a thread of its own. Most of it is tested with every commit on the writer's thread,
so that the loop goes on while the store holds one.
"""

from __future__ import annotations

import asyncio
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import pytest

from tests.harness import wait_until
from tests.timed import PATIENCE_S, Sized, TimedStore, Wish
from tq.errors import Overloaded, QueueNotFound, StorageFailed, StorageFull, TqError
from tq.model import Command, Receive, Tick, Ticked
from tq.store import Store
from tq.writer import (
    MAX_DUE,
    MAX_GROUP_BYTES,
    MAX_GROUP_COMMANDS,
    RETRY_MS,
    Entry,
    Writer,
)


class HeldStore:
    """Its `commit` begins, waits for a permit, and answers each command with that command.

    Every group stands between two ticks, which are checked and taken off here. Of a group of nothing else only the
    time is noted, and it needs no permit.
    """

    def __init__(self) -> None:
        self.synced_s = 0.0
        self.groups: list[list[Command]] = []
        self.times_ms: list[int] = []
        self.tick_times_ms: list[int] = []
        self.dues: list[int] = []  # what each group in turn says is due next; nothing when it is empty
        self.refusals: list[TqError] = []  # what each first tick in turn fails with
        self.begun = threading.Semaphore(0)
        self.permits = threading.Semaphore(0)
        self.answer: Callable[[list[Command]], list[Any]] = list

    def commit(self, commands: list[Command], now_ms: int) -> list[Any]:
        first, *inner, last = commands
        assert (first, last) == (Tick(MAX_DUE), Tick(0))
        before: Any = self.refusals.pop(0) if self.refusals else Ticked(None, {})
        behind = Ticked(self.dues.pop(0) if self.dues else None, {})
        if not inner:
            self.tick_times_ms.append(now_ms)
            return [before, behind]
        self.groups.append(inner)
        self.times_ms.append(now_ms)
        self.begun.release()
        assert self.permits.acquire(timeout=PATIENCE_S)
        return [before, *self.answer(inner), behind]


class Bench:
    """A writer on a held store. Each call of `deliver` is one entry of `delivered`."""

    def __init__(self, commands: int = 10_000, size: int = 1 << 30) -> None:
        self.store = HeldStore()
        self.delivered: queue.Queue[list[Any]] = queue.Queue()
        self.ticked: queue.Queue[Any] = queue.Queue()
        self.clock: Iterator[int] = itertools.count(100)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.writer = self.call(lambda: self.make(commands, size))
        assert self.ticked.get(timeout=PATIENCE_S) == Ticked(None, {})  # it looks at once what is due

    def make(self, commands: int, size: int) -> Writer[Wish]:
        return Writer(
            cast(Store, self.store),
            lambda: next(self.clock),
            self.deliver,
            max_waiting_commands=commands,
            max_waiting_bytes=size,
        )

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function on the loop and wait for its result."""

        async def run() -> Any:
            return function()

        return asyncio.run_coroutine_threadsafe(run(), self.loop).result(PATIENCE_S)

    def deliver(self, entries: Sequence[Wish], results: Sequence[Any], ticked: Any) -> None:
        for entry, result in zip(entries, results, strict=True):
            entry.done(result)
        if results:
            self.delivered.put(list(results))
        else:
            self.ticked.put(ticked)

    def wish(self, command: Command, done: Callable[[Any], None]) -> Entry:
        entry = Wish(command, done)
        self.call(lambda: self.writer.submit(entry))
        return entry

    def submit(self, *commands: Command) -> None:
        def submit_all() -> None:
            for command in commands:
                self.writer.submit(Wish(command, lambda _: None))

        self.call(submit_all)

    def close(self) -> None:
        """Close the writer; returns when it is closed."""
        asyncio.run_coroutine_threadsafe(self.writer.close(), self.loop).result(PATIENCE_S)

    def end(self) -> None:
        self.store.permits.release(1_000)
        self.close()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def block(self) -> Command:
        """Let the writer sit in a commit, so that everything else waits."""
        first = Receive(("first",))
        self.submit(first)
        self.wait_for_a_commit()
        return first

    def wait_for_a_commit(self) -> None:
        assert self.store.begun.acquire(timeout=PATIENCE_S)

    def let_go(self, commits: int = 1) -> list[list[Any]]:
        """Let commits end; what was delivered for each."""
        self.store.permits.release(commits)
        return [self.delivered.get(timeout=PATIENCE_S) for _ in range(commits)]


@pytest.fixture
def make_bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr("tq.writer.INLINE_BYTES", 0)
    made: list[Bench] = []

    def make(**bounds: int) -> Bench:
        made.append(Bench(**bounds))
        return made[-1]

    yield make
    for bench in made:
        bench.end()


@pytest.fixture
def bench(make_bench: Callable[..., Bench]) -> Bench:
    return make_bench()


def numbered(count: int) -> list[Command]:
    return [Receive((f"q{number}",)) for number in range(count)]


def sized(*sizes: int) -> list[Command]:
    return [Sized(size) for size in sizes]


# --- groups ---------------------------------------------------------------------------


def test_one_command_is_committed_at_once(bench: Bench) -> None:
    first = bench.block()
    assert bench.delivered.empty()  # nothing is answered before the commit is over
    assert bench.let_go() == [[first]]
    assert bench.store.groups == [[first]]


def test_what_arrives_during_a_commit_is_the_next_group(bench: Bench) -> None:
    first = bench.block()
    commands = numbered(3)
    bench.submit(*commands)
    assert bench.let_go() == [[first]]
    bench.wait_for_a_commit()
    last = Receive(("last",))
    bench.submit(last)
    assert bench.let_go(2) == [commands, [last]]
    assert bench.store.groups == [[first], commands, [last]]


def test_each_group_has_its_time(bench: Bench) -> None:
    bench.block()
    bench.submit(*numbered(3))
    bench.let_go(2)
    first, second = bench.store.times_ms
    assert 100 <= first < second


def test_each_command_gets_its_own_result(bench: Bench) -> None:
    results: dict[str, Any] = {}
    bench.store.answer = lambda commands: [QueueNotFound() if c.queues[0] == "b" else c.queues[0] for c in commands]
    bench.block()
    for name in "abc":
        bench.wish(Receive((name,)), lambda result, name=name: results.__setitem__(name, result))
    bench.let_go(2)
    assert (results["a"], results["c"]) == ("a", "c")
    assert isinstance(results["b"], QueueNotFound)
    assert bench.writer.failure is None


def test_a_group_has_so_many_commands(bench: Bench) -> None:
    bench.block()
    commands = numbered(2 * MAX_GROUP_COMMANDS + 500)
    bench.submit(*commands)
    delivered = bench.let_go(4)
    assert [len(results) for results in delivered] == [1, MAX_GROUP_COMMANDS, MAX_GROUP_COMMANDS, 500]
    assert list(itertools.chain(*delivered[1:])) == commands


def test_a_group_has_so_many_bytes(bench: Bench) -> None:
    third = MAX_GROUP_BYTES // 3 + 1
    bench.block()
    bench.submit(*sized(third, third, third, third, MAX_GROUP_BYTES * 2, 1, MAX_GROUP_BYTES, 0, 1))
    assert [len(results) for results in bench.let_go(5)] == [1, 3, 2, 2, 2]


def test_a_command_may_be_submitted_while_results_are_delivered(bench: Bench) -> None:
    second = Receive(("second",))
    bench.wish(Receive(("q",)), lambda _: bench.writer.submit(Wish(second, lambda _: None)))
    assert bench.let_go(2) == [[Receive(("q",))], [second]]


def test_a_dropped_command_is_neither_committed_nor_done(bench: Bench) -> None:
    done: list[Any] = []
    first = bench.block()
    entries = [bench.wish(command, done.append) for command in numbered(3)]
    entries[1].is_dropped = True
    kept = [numbered(3)[0], numbered(3)[2]]
    assert bench.let_go(2) == [[first], kept]
    assert done == kept


def test_a_command_dropped_too_late_is_done(bench: Bench) -> None:
    done: list[Any] = []
    entry = bench.wish(Receive(("q",)), done.append)
    bench.wait_for_a_commit()
    entry.is_dropped = True
    bench.let_go()
    assert done == [Receive(("q",))]


def test_a_dropped_command_leaves_its_room(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(size=100)
    bench.block()
    bench.wish(Sized(100), lambda _: None).is_dropped = True
    with pytest.raises(Overloaded):
        bench.submit(*sized(1))
    bench.let_go()
    bench.ticked.get(timeout=PATIENCE_S)  # a group of nothing
    bench.submit(*sized(100))
    bench.let_go()


# --- timers ---------------------------------------------------------------------------


def test_what_is_due_is_done_without_a_command(bench: Bench) -> None:
    bench.clock = itertools.repeat(1_000)
    bench.store.dues = [1_000, 999]
    bench.block()
    bench.let_go()
    assert [bench.ticked.get(timeout=PATIENCE_S) for _ in range(2)] == [Ticked(999, {}), Ticked(None, {})]
    assert bench.store.tick_times_ms[1:] == [1_000, 1_000]


def test_what_is_due_and_fails_is_tried_again_in_a_while(bench: Bench) -> None:
    """As on a full disk: at once would be over and over again."""
    now_ms = [1_000]
    bench.clock = iter(lambda: now_ms[0], None)
    bench.store.refusals = [StorageFull()]
    bench.store.dues = [1_000, 1_000]
    bench.block()
    bench.submit(Receive(("second",)))
    bench.let_go()
    now_ms[0] += RETRY_MS
    bench.let_go()
    bench.ticked.get(timeout=PATIENCE_S)
    assert bench.store.tick_times_ms[1:] == [1_000 + RETRY_MS]


def test_what_is_due_and_fails_does_not_come_at_once(bench: Bench) -> None:
    bench.clock = itertools.repeat(1_000)
    bench.store.refusals = [StorageFull()]
    bench.store.dues = [1_000]
    bench.block()
    bench.let_go()
    bench.block()
    bench.let_go()
    assert len(bench.store.tick_times_ms) == 1


def test_nothing_is_done_before_it_is_due(bench: Bench) -> None:
    now_ms = [0]
    bench.clock = iter(lambda: now_ms[0], None)
    bench.store.dues = [5, 5]
    bench.block()
    bench.submit(Receive(("second",)))
    bench.let_go(2)
    assert len(bench.store.tick_times_ms) == 1
    now_ms[0] = 5
    bench.ticked.get(timeout=PATIENCE_S)
    assert bench.store.tick_times_ms[1:] == [5]


# --- bounds on what waits --------------------------------------------------------------


def test_so_many_commands_wait(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(commands=3)
    first = bench.block()  # it does not wait any more
    bench.submit(*numbered(3))
    with pytest.raises(Overloaded, match="3 commands wait"):
        bench.submit(Receive(("one too many",)))
    assert bench.let_go(2) == [[first], numbered(3)]
    bench.submit(Receive(("later",)))
    assert bench.let_go() == [[Receive(("later",))]]


def test_so_many_bytes_wait(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(size=100)
    first = bench.block()
    bench.submit(*sized(60))
    with pytest.raises(Overloaded, match="60 bytes wait"):
        bench.submit(*sized(41))
    bench.submit(*sized(40), Sized(0))
    with pytest.raises(Overloaded, match="100 bytes wait"):
        bench.submit(*sized(1))
    assert bench.let_go(2) == [[first], [*sized(60, 40), Sized(0)]]


def test_room_for_bytes_comes_back_when_a_group_begins(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(size=100)
    bench.block()
    for _ in range(3):
        bench.submit(*sized(50, 50))
        bench.let_go()
        bench.wait_for_a_commit()
    bench.submit(*sized(100))
    with pytest.raises(Overloaded):
        bench.submit(*sized(1))


def test_a_command_larger_than_all_that_may_wait_goes_alone(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench(size=100)
    bench.block()
    bench.submit(*sized(1_000))
    with pytest.raises(Overloaded):
        bench.submit(*sized(1))
    bench.let_go(2)
    bench.submit(*sized(100))


# --- the end ---------------------------------------------------------------------------


def test_closing_commits_what_waits(bench: Bench) -> None:
    first = bench.block()
    bench.submit(*numbered(3))
    closing = threading.Thread(target=bench.close)
    closing.start()
    assert closing.is_alive()
    assert bench.let_go(2) == [[first], numbered(3)]
    closing.join(PATIENCE_S)
    assert not closing.is_alive()
    with pytest.raises(Overloaded, match="stopping"):
        bench.submit(Receive(("too late",)))
    assert len(bench.store.groups) == 2


def test_closing_refuses_at_once(bench: Bench) -> None:
    """Also while the last group is still being committed."""
    bench.block()
    closing = asyncio.run_coroutine_threadsafe(bench.writer.close(), bench.loop)
    with pytest.raises(Overloaded, match="stopping"):
        bench.submit(Receive(("too late",)))
    assert not closing.done()
    bench.let_go()
    closing.result(PATIENCE_S)


def test_closing_an_idle_writer_twice(bench: Bench) -> None:
    bench.close()
    bench.close()
    assert bench.store.groups == []


# --- failure ---------------------------------------------------------------------------


def test_what_a_delivery_raises_does_not_stop_the_writer() -> None:
    async def run() -> int:
        delivered = 0

        def raise_once(entries: Sequence[Entry], results: Sequence[Any], ticked: Any) -> None:
            nonlocal delivered
            delivered += len(entries)
            if delivered == MAX_GROUP_COMMANDS:
                raise ZeroDivisionError

        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        store = cast(Store, TimedStore())
        timed = Writer(store, lambda: 0, raise_once, max_waiting_commands=9_999, max_waiting_bytes=9)
        for _ in range(MAX_GROUP_COMMANDS + 500):
            timed.submit(Wish(Sized(0), lambda _: None))
        await asyncio.wait_for(timed.close(), PATIENCE_S)
        return delivered

    assert asyncio.run(run()) == MAX_GROUP_COMMANDS + 500


def fail_with(error: Exception) -> Callable[[list[Command]], list[Any]]:
    def answer(_: list[Command]) -> list[Any]:
        raise error

    return answer


@pytest.mark.parametrize("error", [StorageFailed("the disk is gone"), ZeroDivisionError("the disk is gone")])
def test_a_failed_commit_fails_its_group_and_all_after(bench: Bench, error: Exception) -> None:
    first = bench.block()
    bench.submit(*numbered(3))
    assert bench.let_go() == [[first]]
    bench.wait_for_a_commit()
    bench.submit(*numbered(2))
    bench.store.answer = fail_with(error)
    delivered = bench.let_go()  # both groups: the second needs no permit
    delivered.append(bench.delivered.get(timeout=PATIENCE_S))

    assert [len(results) for results in delivered] == [3, 2]
    for result in itertools.chain(*delivered):
        assert isinstance(result, StorageFailed)
        assert str(result) == "the disk is gone"
    assert len(bench.store.groups) == 2  # the store is not touched again
    with pytest.raises(StorageFailed, match="the disk is gone"):
        bench.submit(Receive(("later",)))
    assert isinstance(bench.writer.failure, StorageFailed)


def test_the_store_s_own_error_is_passed_on(bench: Bench) -> None:
    error = StorageFailed("as it is")
    bench.store.answer = fail_with(error)
    bench.block()
    [[result]] = bench.let_go()
    assert result is error
    assert bench.writer.failure is error


def test_a_failed_writer_can_be_closed(bench: Bench) -> None:
    bench.store.answer = fail_with(StorageFailed())
    bench.block()
    bench.let_go()
    bench.close()
    with pytest.raises(StorageFailed):
        bench.submit(Receive(("later",)))


def test_a_clock_that_fails_is_a_failure_too(bench: Bench) -> None:
    bench.clock = iter(())
    bench.submit(Receive(("q",)))
    assert isinstance(bench.delivered.get(timeout=PATIENCE_S)[0], StorageFailed)
    assert bench.store.groups == []


def test_a_store_that_gives_too_few_results_is_not_trusted_again(make_bench: Callable[..., Bench]) -> None:
    bench = make_bench()
    bench.store.commit = lambda commands, now_ms: []
    got: list[Any] = []
    bench.wish(Receive("q"), got.append)
    wait_until(lambda: bench.writer.failure is not None)
    with pytest.raises(StorageFailed):
        bench.wish(Receive("q"), got.append)
