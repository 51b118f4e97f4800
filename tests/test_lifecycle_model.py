"""Random commands against both engines and a naive model at once: results, visible state and stored bytes must agree.

The domains are tiny, so that commands meet: three queues, few contents, settings and times, bounds of one or two
messages, receives, queues and purges.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.engines import Do, dump, open_engine
from tests.harness import findings
from tests.oracle import Oracle
from tq import lifecycle, model
from tq.audit import audit
from tq.codec import CHUNK_BYTES
from tq.errors import TqError
from tq.lifecycle import queues

START_MS = 1_700_000_000_000
PAGE_BYTES = 9_000  # two or three of the larger contents
FASTEST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here depends on a real disk
TEXT = "text/plain"

EXAMPLES = 60
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

names = st.sampled_from(["a", "ab", "b"])
any_name = st.one_of(names, names, names, st.sampled_from(["c", "-bad"]))
limits = st.sampled_from([1, 1, 2, 3, 10])
seconds = st.sampled_from([0, 0, 1, 2])
times_ms = st.sampled_from([0, 1, 1_000, 1_000, 2_000])
letters = st.none() | st.builds(model.DeadLetter, any_name, st.sampled_from([1, 1, 2]), st.booleans())
SETTINGS_OF = {
    "visibility_timeout": seconds,
    "delay": seconds,
    "ttl": st.sampled_from([None, None, 1, 2]),
    "max_messages": st.sampled_from([None, None, None, 1, 2]),
    "max_bytes": st.sampled_from([None, None, None, 1, 2, 2 * CHUNK_BYTES]),
    "overflow": st.sampled_from(["reject", "drop_oldest"]),
    "max_message_bytes": st.sampled_from([1_048_576, CHUNK_BYTES]),
    "dead_letter": letters,
    "dedup_window": seconds,
    "paused": st.sampled_from([False, False, False, True]),
}
queue_settings = st.builds(model.QueueSettings, **SETTINGS_OF)
changes = st.fixed_dictionaries({}, optional=SETTINGS_OF).map(lambda chosen: model.SettingsChange(**chosen))

contents = st.sampled_from([b"", b"x", b"yy", b"x", b"z" * CHUNK_BYTES, b"z" * (CHUNK_BYTES + 1)])
drafts = st.builds(
    model.Draft,
    contents,
    st.sampled_from([None, TEXT]),
    delay_ms=st.none() | times_ms,
    ttl_ms=st.none() | times_ms,
    priority=st.sampled_from([0, 0, 0, 1, 9]),
    group=st.sampled_from([None, None, "g", "g", "h"]),
    dedup_id=st.sampled_from([None, None, "d", "e"]),
    headers=st.sampled_from([None, None, {"h": "v"}]),
)
few_drafts = st.lists(drafts, min_size=1, max_size=4).map(tuple)
ids = st.integers(0, 12)
ticks = st.builds(model.Tick, st.sampled_from([0, 1, 2, 10, 100]))
leases = st.none() | st.sampled_from([-1, 0, 1, 1_000, 2_000])
after_keys = st.just("") | st.builds(lambda rank, number: f"{rank:02x}{number:014x}", st.sampled_from([0, 8, 9]), ids)


def receives_from(name: st.SearchStrategy[str]) -> st.SearchStrategy[model.Command]:
    return st.builds(model.Receive, st.lists(name, min_size=1, max_size=2).map(tuple), limits, leases)


def commands_to(name: st.SearchStrategy[str], receipts: list[tuple[str, str]]) -> st.SearchStrategy[model.Command]:
    """Commands to queues of these names. Receipts are most often shown to the queue they are of."""
    sends = st.builds(model.Send, name, few_drafts)
    receives = receives_from(name)
    owned = st.sampled_from([*receipts, ("a", "rubbish"), ("a", "r" + "A" * 22)])
    parts = st.lists(st.tuples(name, drafts), max_size=3).map(tuple)
    kinds = [
        *[sends, receives] * 4,
        *[st.lists(owned, min_size=1, max_size=3).flatmap(settles)] * 4,
        *[st.builds(model.Transaction, st.lists(owned, max_size=2).map(tuple), parts)] * 2,
        *[ticks] * 3,
        st.builds(model.Cancel, name, ids),
        st.builds(model.Redrive, name, st.none() | name, limits),
        st.builds(model.CreateQueue, name, queue_settings),
        st.builds(model.PutQueue, name, queue_settings),
        st.builds(model.PatchQueue, name, changes),
        st.builds(model.PatchQueue, name, changes),
        st.builds(model.DeleteQueue, name, st.booleans()),
        st.builds(model.PurgeQueue, name),
        st.builds(model.Sweep, limits),
        st.just(model.Probe()),
    ]
    return st.one_of(kinds)


def settles(owned: list[tuple[str, str]]) -> st.SearchStrategy[model.Settle]:
    return st.builds(model.Settle, st.just(owned[0][0]) | names, st.tuples(*[actions_on(r) for _, r in owned]))


def actions_on(receipt: str) -> st.SearchStrategy[model.Action]:
    shown = st.just(receipt)
    return st.one_of(
        st.builds(model.Ack, shown),
        st.builds(model.Extend, shown, times_ms),
        st.builds(model.Release, shown, times_ms),
        st.builds(model.Reject, shown),
    )


prefixes = ["", "a", "ab", "b", "é"]
lists = st.builds(model.ListQueues, st.sampled_from(prefixes), st.one_of(st.just(""), names), limits)
peeks = st.builds(model.Peek, any_name, st.sampled_from(model.STATES), after_keys, limits)
looks = st.builds(model.GetMessage, any_name, ids)
gets = st.builds(model.GetQueue, any_name)
queries = st.one_of(lists, peeks, looks, gets, st.just(model.GetTotals()), st.just(model.GetClock()))


class Poisoned(Exception):
    """What the one bad command of a group fails with."""


def poison(_: Any) -> None:
    raise Poisoned


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(model, "MAX_PAGE_BYTES", PAGE_BYTES)
        self.base = tempfile.TemporaryDirectory(dir=FASTEST)
        self.crashes = 0
        self.now_ms = START_MS
        self.lmdb = open_engine("lmdb", self.path)
        self.memory = open_engine("memory", self.path)
        self.oracle = Oracle(0, 0, PAGE_BYTES)
        self.receipts: list[tuple[str, str]] = []
        self.received: list[tuple[int, model.Received]] = []

    @property
    def path(self) -> Path:
        return Path(self.base.name) / str(self.crashes)

    @initialize(
        max_queues=st.sampled_from([3, 3, 3, 2]),
        max_garbage=st.integers(1, 4),
        chosen=st.lists(queue_settings, min_size=3, max_size=3),
    )
    def begin(self, max_queues: int, max_garbage: int, chosen: list[model.QueueSettings]) -> None:
        self.patch.setattr(model, "MAX_QUEUES", max_queues)
        self.patch.setattr(queues, "MAX_GARBAGE", max_garbage)
        self.oracle = Oracle(max_queues, max_garbage, PAGE_BYTES)
        self.run([model.CreateQueue(name) for name in ("a", "ab", "b")])
        self.run([model.PutQueue(name, each) for name, each in zip(("a", "ab", "b"), chosen, strict=True)])

    def teardown(self) -> None:
        self.lmdb.close()
        self.patch.undo()
        found = findings(self.path)
        self.base.cleanup()
        assert found == []

    # --- commands

    def run(self, group: list[model.Command]) -> None:
        on_disk = self.lmdb.commit(group, self.now_ms)
        in_memory = self.memory.commit(group, self.now_ms)
        if any(isinstance(command, Do) for command in group):  # then each runs alone
            expected = [Poisoned() if isinstance(c, Do) else self.oracle.run([c], self.now_ms)[0] for c in group]
        else:
            expected = self.oracle.run(group, self.now_ms)
        assert plain(on_disk) == plain(expected)
        assert plain(in_memory) == plain(expected)
        for result in expected:
            if isinstance(result, model.Received) and result.messages and result.queue in self.oracle.queues:
                self.received.append((self.oracle.queues[result.queue].birth, result))
                self.receipts += [(result.queue, m.receipt) for m in result.messages if m.receipt]

    @property
    def commands(self) -> st.SearchStrategy[model.Command]:
        return commands_to(any_name, self.receipts[-5:])

    @property
    def groups(self) -> st.SearchStrategy[list[model.Command]]:
        recent = self.receipts[-5:]
        one_queue = names.flatmap(lambda name: st.lists(commands_to(st.just(name), recent), min_size=2, max_size=8))
        return st.one_of(one_queue, st.lists(commands_to(names, recent), min_size=1, max_size=8))

    @rule(data=st.data())
    def alone(self, data: st.DataObject) -> None:
        self.run([data.draw(self.commands)])

    @rule(data=st.data())
    def alone_again(self, data: st.DataObject) -> None:
        """The same, for its weight among the rules."""
        self.run([data.draw(self.commands)])

    @rule(data=st.data(), limit=limits)
    def together(self, data: st.DataObject, limit: int) -> None:
        """As the writer does it."""
        self.run([model.Tick(limit), *data.draw(self.groups), model.Tick(0)])

    @rule(data=st.data())
    def together_again(self, data: st.DataObject) -> None:
        self.run(data.draw(self.groups))

    @rule(data=st.data(), at=st.integers(0, 8))
    def with_a_poisoned_one(self, data: st.DataObject, at: int) -> None:
        group = data.draw(self.groups)
        self.run([*group[:at], Do(poison), *group[at:]])

    @rule(name=names, drafts=few_drafts, limit=limits, visibility_ms=leases)
    def send_and_receive(self, name: str, drafts: tuple[model.Draft, ...], limit: int, visibility_ms: int) -> None:
        self.run([model.Send(name, drafts), model.Receive((name,), limit, visibility_ms)])

    @precondition(lambda self: self.received)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """What was received, as long as its queue lives, and once."""
        birth, received = self.received.pop(data.draw(st.integers(0, len(self.received) - 1)))
        if received.queue in self.oracle.queues and self.oracle.queues[received.queue].birth == birth:
            self.run([model.Unreceive(received.queue, received.messages)])

    @rule(name=names, to=st.none() | names, limit=limits)
    def redrive_all(self, name: str, to: str | None, limit: int) -> None:
        """Slice by slice, as the broker does it."""
        command = model.Redrive(name, to, limit)
        for _ in range(100):
            result = self.oracle_of(command)
            self.run([command])
            if isinstance(result, Exception) or not result.after:
                return
            command = model.Redrive(name, to, limit, result.after, result.before)
        raise AssertionError("it goes on for ever")

    def oracle_of(self, command: model.Command) -> Any:
        """What a command would give."""
        return copy.deepcopy(self.oracle).run([command], self.now_ms)[0]

    # --- the world

    @rule(by_ms=st.sampled_from([1, 999, 1_000, 2_000]), ticks=st.lists(ticks, max_size=3))
    def time_goes_on(self, by_ms: int, ticks: list[model.Command]) -> None:
        self.now_ms += by_ms
        if ticks:
            self.run(ticks)

    @rule(offset_ms=st.sampled_from([0, 0, 1_500, -1_500]))
    def the_wall_clock_jumps(self, offset_ms: int) -> None:
        self.run([model.SetClock(offset_ms)])

    @rule()
    def reopen(self) -> None:
        self.lmdb.close()
        self.lmdb = open_engine("lmdb", self.path)

    @rule()
    def crash(self) -> None:
        """Go on with what lay on disk while the store was open."""
        before = self.path
        self.crashes += 1
        shutil.copytree(before, self.path, ignore=shutil.ignore_patterns("reserve", "*lock*"))
        self.lmdb.close()
        self.lmdb = open_engine("lmdb", self.path)

    # --- looking

    @rule(query=queries)
    def ask(self, query: model.Query) -> None:
        expected = self.oracle.ask(query, self.now_ms)
        for store in (self.lmdb, self.memory):
            assert plain([store.read(lambda tx: answer(tx, query, self.now_ms))]) == plain([expected])

    @invariant()
    def everything_agrees(self) -> None:
        expected = see(self.oracle.ask, self.now_ms)
        on_disk, disk_bytes = self.lmdb.read(self.see_through_lifecycle)
        in_memory, memory_bytes = self.memory.read(self.see_through_lifecycle)
        assert on_disk == expected
        assert in_memory == expected
        assert disk_bytes == memory_bytes

    def see_through_lifecycle(self, tx: Any) -> Any:
        assert audit(tx) == []
        return see(lambda query, now_ms: answer(tx, query, now_ms), self.now_ms), dump(tx)


def answer(tx: Any, query: model.Query, now_ms: int) -> Any:
    try:
        return lifecycle.answer(tx, query, now_ms)
    except TqError as refusal:
        return refusal


def see(ask: Any, now_ms: int) -> list[Any]:
    """All that a client could find out by asking, page by page."""
    seen = [ask(model.GetTotals(), now_ms), ask(model.ListQueues(), now_ms)]
    for prefix in prefixes:
        seen += pages(lambda after, prefix=prefix: ask(model.ListQueues(prefix, after, 1), now_ms), "")
    for queue in seen[1].queues:
        for state in model.STATES:
            seen += pages(lambda at, name=queue.name, s=state: ask(model.Peek(name, s, at, 100), now_ms), "")
    return seen


def pages(ask: Any, after: Any) -> list[Any]:
    """Every page, each asked for after the one before."""
    found = [ask(after)]
    while found[-1].next is not None and len(found) < 100:  # more are not there: it goes in a circle
        found.append(ask(found[-1].next))
    return found


def plain(results: Sequence[Any]) -> list[Any]:
    """Refusals by their class: what they say in words is not modelled."""
    return [plain_one(result) for result in results]


def plain_one(result: Any) -> Any:
    if isinstance(result, Exception):
        return type(result)
    if isinstance(result, tuple):
        return plain(result)
    if isinstance(result, model.Ticked):
        return result.next_due_ms, {name: number for name, number in result.arrivals.items() if number}
    return result


def test_both_engines_do_as_the_model_does() -> None:
    run_state_machine_as_test(Machine, settings=SETTINGS)


@pytest.mark.slow
def test_both_engines_do_as_the_model_does_at_length() -> None:
    run_state_machine_as_test(Machine, settings=settings(SETTINGS, max_examples=10 * EXAMPLES))
