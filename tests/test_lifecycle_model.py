"""Random commands against both engines and a naive model at once: results, visible state and stored bytes must agree.

The domains are tiny, so that commands meet: three queues, few contents, settings and times, bounds of one or two
messages, receives, queues and purges. What an example prints are the numbers that were drawn, and below each rule the
time and the group of commands that came of them.
"""

from __future__ import annotations

import ast
import copy
import logging
import operator
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)
from msgspec import structs

from tests import naive, oracle
from tests.engines import Do, dump, open_engine
from tests.harness import findings
from tests.naive import receipt_of
from tests.oracle import Oracle
from tq import keys, lifecycle, model
from tq.audit import audit
from tq.codec import CHUNK_BYTES
from tq.errors import TqError
from tq.lifecycle import queues, receiving

FORGED = "r" + "A" * 22
START_MS = 1_700_000_000_000
PAGE_BYTES = 9_000  # two or three of the larger contents
MAX_SKIPPED = 2
FASTEST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here depends on a real disk
TEXT = "text/plain"

EXAMPLES = 100
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)

# Most is about one queue, so that commands meet there; "a" and "ab" because one name begins with the other.
names = st.sampled_from(["a"] * 8 + ["b"] * 2 + ["ab"])
any_name = st.sampled_from(["a"] * 12 + ["b"] * 3 + ["ab", "c", "-bad"])
limits = st.sampled_from([1, 1, 2, 10])
times_ms = st.sampled_from([0, 1, 1_000, 1_000, 2_000])
SETTINGS_OF = {
    "visibility_timeout": st.sampled_from([2, 1, 0]),
    "delay": st.sampled_from([0] * 7 + [1]),
    "ttl": st.sampled_from([None] * 4 + [1, 2]),
    "max_messages": st.sampled_from([None] * 4 + [1, 2, 2, 2]),
    "max_bytes": st.sampled_from([None] * 5 + [1, 2, 2 * CHUNK_BYTES]),
    "overflow": st.sampled_from(["reject", "drop_oldest"]),
    "max_message_bytes": st.sampled_from([1_048_576] * 5 + [CHUNK_BYTES]),
    "dead_letter": st.none()
    | st.builds(model.DeadLetter, any_name | st.just("b"), st.sampled_from([1, 2]), st.booleans()),
    "dedup_window": st.sampled_from([0, 1, 1, 2]),
    "paused": st.sampled_from([False] * 7 + [True]),
}
queue_settings = st.builds(model.QueueSettings, **SETTINGS_OF)
first_letters = st.none() | st.builds(model.DeadLetter, st.just("b"), st.sampled_from([1, 2]), st.booleans())
tight = st.builds(
    model.QueueSettings,
    overflow=st.sampled_from(["drop_oldest", "drop_oldest", "reject"]),
    dead_letter=first_letters,
    max_messages=st.sampled_from([None, 2, 3, 3]),
    max_bytes=st.sampled_from([None, None, 2, 3]),
)
first_settings = tight | st.builds(model.QueueSettings, **SETTINGS_OF | {"dead_letter": first_letters})
changed = SETTINGS_OF | {"paused": st.booleans()}
changes = st.fixed_dictionaries({}, optional=changed).map(lambda chosen: model.SettingsChange(**chosen))

contents = st.sampled_from([b"x", b"x", b"", b"yy", b"yy", b"z" * CHUNK_BYTES, b"z" * (CHUNK_BYTES + 1)])
drafts = st.builds(
    model.Draft,
    contents,
    st.sampled_from([None, TEXT]),
    delay_ms=st.sampled_from([None] * 6 + [0, 1_000, 2_000]),
    ttl_ms=st.sampled_from([None] * 4 + [1_000, 1_000, 1, 2_000]),
    priority=st.sampled_from([0, 0, 0, 1, 9, 9]),
    group=st.sampled_from([None] * 3 + ["g", "g", "h"]),
    dedup_id=st.sampled_from([None] * 4 + ["d", "d", "e"]),
    headers=st.sampled_from([None, None, {"h": "v"}]),
)
few_drafts = st.lists(drafts, min_size=1, max_size=3).map(tuple)
ids = st.integers(0, 8)
lease_times_ms = st.sampled_from([2_000, 2_000, 2_000, 1_000, 1, 0, -1, -1])
leases = st.none() | lease_times_ms
places = st.builds(keys.message_key, ids, st.sampled_from([0, 0, 1, 9]))

# What is known only when a command runs is drawn as a number: which of the leases that are held, of the receipts that
# were ever handed out, of the messages that are there, or of the receives that may be given back. 0 is the latest.
LIVE, OLD = "live ", "old "
whiches = st.sampled_from([0, 0, 0, 1, 1, 2])
live, old = [f"{LIVE}{which}" for which in (0, 0, 0, 1, 1, 2)], [f"{OLD}{which}" for which in (0, 1, 2)]
receipts = st.sampled_from([*live, *live, *old, FORGED, "rubbish"])
OWNER = "owner"  # the queue that the receipt is of
owners = st.sampled_from([OWNER] * 6 + ["a", "b", "ab"])
actions = st.one_of(
    st.builds(model.Ack, receipts),
    st.builds(model.Extend, receipts, times_ms),
    st.builds(model.Release, receipts, times_ms),
    st.builds(model.Release, receipts),
    st.builds(model.Reject, receipts),
)
sends = st.builds(model.Send, any_name, few_drafts)
from_queues = st.tuples(any_name) | st.sampled_from([("a", "b"), ("b", "a"), ("ab", "a"), ("a", "ab", "b")])
receives = st.builds(model.Receive, from_queues, limits, leases)
settles = st.builds(model.Settle, owners, st.lists(actions, min_size=1, max_size=3).map(tuple))
acks = st.lists(st.tuples(owners, receipts), max_size=2).map(tuple)
transactions = st.builds(model.Transaction, acks, st.lists(st.tuples(owners, drafts), max_size=3).map(tuple))
returns = st.builds(model.Unreceive, whiches.map(str), st.just(()))
ticks = st.builds(model.Tick, st.sampled_from([0, 1, 2, 100, 100]))
redrives = st.builds(
    model.Redrive,
    st.sampled_from(["b", "b", "a", "ab", "c"]),
    st.none() | names,
    limits,
    st.just(b"") | places,
    st.sampled_from([0, 0, 1, 2, 3]),
)
purges = st.builds(model.PurgeQueue, any_name)
WEIGHTS = [
    (16, sends),
    (14, receives),
    (14, settles),
    (6, transactions),
    (5, returns),
    (6, ticks),
    (3, st.builds(model.Cancel, any_name, ids | whiches.map(operator.neg))),
    (4, redrives),
    (3, st.builds(model.PatchQueue, any_name, changes)),
    (1, st.builds(model.PutQueue, any_name, queue_settings)),
    (1, st.builds(model.CreateQueue, any_name, queue_settings)),
    (1, st.builds(model.DeleteQueue, any_name, st.sampled_from([True, True, False]))),
    (1, purges),
    (2, st.builds(model.Sweep, limits)),
    (1, st.just(model.Probe())),
    (1, st.builds(model.SetClock, st.sampled_from([0, 1_500, -1_500]))),
]
KINDS = [kind for weight, kind in WEIGHTS for _ in range(weight)]
waits_ms = st.sampled_from([0, 1_000, 1_000, 999, 2_000])
steps_ms = st.sampled_from([0, 0, 0, 0, 1, 999, 1_000, 1_000, 2_000])


@st.composite
def commands(draw: st.DrawFn) -> model.Command:
    """Not `one_of`, which takes nested alternatives out of their nests and so forgets what they weigh."""
    return draw(KINDS[draw(st.sampled_from(range(len(KINDS))))])


later = st.one_of([settles] * 3 + [transactions] * 2 + [returns] * 2 + [purges])  # most often about what is leased
groups = st.lists(commands(), min_size=2, max_size=8)

prefixes = st.sampled_from(["", "a", "ab", "b", "é"])
queries = st.one_of(
    st.builds(model.ListQueues, prefixes, st.just("") | names, limits),
    st.builds(model.Peek, any_name, st.sampled_from(model.STATES), st.just("") | places.map(bytes.hex), limits),
    st.builds(model.GetMessage, any_name, ids | whiches.map(operator.neg)),
    st.builds(model.GetQueue, any_name),
    st.just(model.GetTotals()),
    st.just(model.GetClock()),
)


class Poisoned(Exception):
    """What the one bad command of a group fails with."""


def poison(_: Any) -> None:
    raise Poisoned


class Machine(RuleBasedStateMachine):
    accepted: ClassVar[set[type]] = set()  # the commands and queries that were not refused, over all examples

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(model, "MAX_PAGE_BYTES", PAGE_BYTES)
        self.patch.setattr(receiving, "MAX_SKIPPED", MAX_SKIPPED)
        self.patch.setattr(logging.getLogger("tq.store"), "disabled", True)  # of groups that were poisoned
        self.base = tempfile.TemporaryDirectory(dir=FASTEST)
        self.crashes = 0
        self.now_ms = START_MS
        self.lmdb = open_engine("lmdb", self.path)
        self.memory = open_engine("memory", self.path)
        self.oracle = Oracle(0, 0, PAGE_BYTES, MAX_SKIPPED)
        self.receipts: list[tuple[str, str]] = []
        self.received: list[tuple[int, model.Received]] = []

    @property
    def path(self) -> Path:
        return Path(self.base.name) / str(self.crashes)

    @initialize(
        max_queues=st.sampled_from([3, 3, 3, 2]),
        max_garbage=st.integers(1, 4),
        chosen=st.tuples(first_settings, first_settings),
        drafts=few_drafts,
    )
    def begin(
        self,
        max_queues: int,
        max_garbage: int,
        chosen: tuple[model.QueueSettings, ...],
        drafts: tuple[model.Draft, ...],
    ) -> None:
        self.patch.setattr(model, "MAX_QUEUES", max_queues)
        self.patch.setattr(queues, "MAX_GARBAGE", max_garbage)
        self.oracle = Oracle(max_queues, max_garbage, PAGE_BYTES, MAX_SKIPPED)
        self.run([model.CreateQueue("b"), model.CreateQueue("a", chosen[0]), model.CreateQueue("ab", chosen[1])])
        self.run([model.Send(name, (draft,)) for draft in drafts for name in ("a", "b")])

    def teardown(self) -> None:
        self.lmdb.close()
        self.patch.undo()
        found = findings(self.path)
        self.base.cleanup()
        assert found == []

    # --- commands

    def run(self, drawn: list[model.Command]) -> None:
        """The oracle goes first: what one command hands out another of the same group may use."""
        runs_alone = any(isinstance(command, Do) for command in drawn)
        group: list[model.Command] = []
        expected: list[Any] = []
        self.oracle.begin_group()
        for command in drawn:
            if runs_alone:
                self.oracle.begin_group()
            group.append(self.filled_in(command))
            expected.append(Poisoned() if isinstance(command, Do) else self.oracle.ask(group[-1], self.now_ms))
            self.remember(group[-1], expected[-1])
        note((self.now_ms - START_MS, group))
        assert plain(self.lmdb.commit(group, self.now_ms)) == plain(expected)
        assert plain(self.memory.commit(group, self.now_ms)) == plain(expected)

    def remember(self, request: model.Command | model.Query, result: Any) -> None:
        if not isinstance(result, Exception):
            self.accepted.add(type(request))
        if isinstance(result, model.Received) and result.messages:
            self.received.append((self.oracle.queues[result.queue].birth, result))
            self.receipts += [(result.queue, m.receipt) for m in result.messages if m.receipt]

    def filled_in(self, request: Any) -> Any:
        """The command or query with what was meant in place of the number that was drawn."""
        if isinstance(request, model.Settle):
            owner = self.receipt(request.actions[0].receipt)[0]
            actions = [structs.replace(action, receipt=self.receipt(action.receipt)[1]) for action in request.actions]
            return model.Settle(owner if request.queue == OWNER else request.queue, tuple(actions))
        if isinstance(request, model.Transaction):
            owned = [(name, *self.receipt(receipt)) for name, receipt in request.acks]
            acks = [(owner if name == OWNER else name, receipt) for name, owner, receipt in owned]
            owner = acks[0][0] if acks else "a"
            sends = [(owner if name == OWNER else name, draft) for name, draft in request.sends]
            return model.Transaction(tuple(acks), tuple(sends))
        if isinstance(request, model.Unreceive):
            return self.give_back(int(request.queue))
        if isinstance(request, model.Cancel | model.GetMessage) and request.id <= 0:
            queue = self.oracle.queues.get(request.queue)
            there = [message.id for message in queue.messages] if queue else []
            return structs.replace(request, id=there[request.id % len(there)] if there else 0)
        return request

    def receipt(self, drawn: str) -> tuple[str, str]:
        """A receipt and whose it is."""
        if not drawn.startswith((LIVE, OLD)):
            return "a", drawn
        known = self.receipts
        if drawn.startswith(LIVE):
            queues = self.oracle.queues.values()
            known = [(queue.name, receipt_of(queue, message)) for queue in queues for message in queue.of("in_flight")]
        known = known or self.receipts or [("a", FORGED)]
        return known[-1 - int(drawn.split()[1]) % len(known)]

    def give_back(self, which: int) -> model.Unreceive:
        """What was received, as long as its queue lives, and once."""
        if which < len(self.received):
            birth, received = self.received.pop(-1 - which)
            if received.queue in self.oracle.queues and self.oracle.queues[received.queue].birth == birth:
                return model.Unreceive(received.queue, received.messages)
        return model.Unreceive("a", ())

    def step(self, by_ms: int, group: list[model.Command]) -> None:
        self.now_ms += by_ms
        self.run(group)

    # Hypothesis leaves out some of the rules in each example, so whatever most depends on is in several.

    @rule(by_ms=steps_ms, command=commands())
    def alone(self, by_ms: int, command: model.Command) -> None:
        self.step(by_ms, [command])

    @rule(name=names, drafts=few_drafts, limit=limits, lease_ms=lease_times_ms, by_ms=waits_ms, command=later)
    def lease_and_then(self, name: str, drafts: Any, limit: int, lease_ms: int, by_ms: int, command: Any) -> None:
        self.run([model.Send(name, drafts), model.Receive((name,), limit, lease_ms)])
        self.everything_agrees()
        self.step(by_ms, [command])

    @rule(name=names, limit=limits, lease_ms=lease_times_ms, by_ms=waits_ms, tick=ticks, command=later)
    def lease_until(self, name: str, limit: int, lease_ms: int, by_ms: int, tick: Any, command: Any) -> None:
        self.run([model.Receive((name,), limit, lease_ms)])
        self.step(by_ms, [tick])
        self.everything_agrees()
        self.run([command])

    @rule(by_ms=steps_ms, group=groups)
    def together(self, by_ms: int, group: list[model.Command]) -> None:
        self.step(by_ms, group)

    @rule(by_ms=steps_ms, group=groups, limit=limits)
    def as_the_writer_does_it(self, by_ms: int, group: list[model.Command], limit: int) -> None:
        self.step(by_ms, [model.Tick(limit), *group, model.Tick(0)])

    @rule(by_ms=steps_ms, group=groups, at=st.integers(0, 8))
    def with_a_poisoned_one(self, by_ms: int, group: list[model.Command], at: int) -> None:
        self.step(by_ms, [*group[:at], Do(poison), *group[at:]])

    @rule(name=names, to=st.none() | names, limit=limits)
    def redrive_all(self, name: str, to: str | None, limit: int) -> None:
        """Slice by slice, as the broker does it."""
        command = model.Redrive(name, to, limit)
        for _ in range(100):
            result = copy.deepcopy(self.oracle).ask(command, self.now_ms)
            self.run([command])
            if isinstance(result, Exception) or not result.after:
                return
            command = model.Redrive(name, to, limit, result.after, result.before)
        raise AssertionError("it goes on for ever")

    # --- the world

    @rule(is_crash=st.booleans())
    def restart(self, is_crash: bool) -> None:
        """After a crash it goes on with what lay on disk while the store was open."""
        before = self.path
        if is_crash:
            self.crashes += 1
            shutil.copytree(before, self.path, ignore=shutil.ignore_patterns("reserve", "*lock*"))
        self.lmdb.close()
        self.lmdb = open_engine("lmdb", self.path)

    # --- looking

    @rule(queries=st.lists(queries, min_size=1, max_size=5))
    def ask(self, queries: list[model.Query]) -> None:
        for drawn in queries:
            query = self.filled_in(drawn)
            expected = self.oracle.ask(query, self.now_ms)
            self.remember(query, expected)
            for store in (self.lmdb, self.memory):
                found = store.read(lambda tx, query=query: answer(tx, query, self.now_ms))
                assert plain([found]) == plain([expected])

    @invariant()
    def everything_agrees(self) -> None:
        seen, on_disk = self.lmdb.read(self.see_through_lifecycle)
        assert seen == see(self.oracle.ask, self.now_ms)
        assert on_disk == self.memory.read(dump)

    def see_through_lifecycle(self, tx: Any) -> Any:
        assert audit(tx) == []
        return see(lambda query, now_ms: answer(tx, query, now_ms), self.now_ms), dump(tx)


def answer(tx: Any, query: model.Query, now_ms: int) -> Any:
    try:
        return lifecycle.answer(tx, query, now_ms)
    except TqError as refusal:
        return refusal


def see(ask: Any, now_ms: int) -> list[Any]:
    """All that a client could find out by asking."""
    seen = [ask(model.GetTotals(), now_ms), ask(model.GetClock(), now_ms), ask(model.ListQueues(), now_ms)]
    for queue in seen[-1].queues:
        for state in model.STATES:
            after = ""
            while after is not None:  # a page ends early after so many bytes
                seen.append(ask(model.Peek(queue.name, state, after, 100), now_ms))
                after = seen[-1].next
    return seen


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
    Machine.accepted.clear()
    run_state_machine_as_test(Machine, settings=SETTINGS)
    assert lifecycle._APPLY.keys() | lifecycle._ANSWER.keys() == Machine.accepted, "each must have its turn"


@pytest.mark.slow
def test_both_engines_do_as_the_model_does_at_length() -> None:
    run_state_machine_as_test(Machine, settings=settings(SETTINGS, max_examples=10 * EXAMPLES))


def test_lifecycle_knows_every_command_and_query() -> None:
    """So that the one above misses none."""
    by_the_broker = {model.GetStatus, model.GetHealth}
    known = {found for found in vars(model).values() if isinstance(found, type)}
    assert lifecycle._APPLY.keys() == {each for each in known if issubclass(each, model.Command)} - {model.Command}
    queries = {each for each in known if issubclass(each, model.Query)} - {model.Query}
    assert lifecycle._ANSWER.keys() == queries - by_the_broker


@pytest.mark.parametrize("path", [Path(oracle.__file__), Path(naive.__file__)], ids=lambda path: path.stem)
def test_the_model_shares_no_code_with_what_it_checks(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name for name in found if name.startswith("tq")} <= {"tq.errors", "tq.model", "tq.errors.TqError"}
