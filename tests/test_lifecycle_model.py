"""Random commands against both engines and a naive model at once: results, visible state and stored bytes must agree.

The domains are tiny, so that commands meet. What an example prints are the numbers that were drawn, and below each rule
the time and the group of commands that came of them.
"""

from __future__ import annotations

import ast
import copy
import logging
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

from tests import naive, oracle, oracle_loading, oracle_places, oracle_traffic
from tests.domains import (
    FORGED,
    LIVE,
    NAMINGS,
    OLD,
    OWNER,
    START_MS,
    attempts,
    commands,
    few_drafts,
    first_settings,
    fit,
    fitted,
    groups,
    later,
    lease_times_ms,
    limits,
    loaded,
    names,
    queries,
    steps_ms,
    ticks,
    waits_ms,
)
from tests.engines import Do, dump, open_engine
from tests.harness import findings
from tests.naive import receipt_of
from tests.oracle import Oracle
from tq import lifecycle, model
from tq.audit import audit
from tq.errors import TqError
from tq.lifecycle import moving, queues, receiving

PAGE_BYTES = 9_000  # two or three of the larger contents
MAX_SKIPPED = 2
ATTEMPT_MS = 2_000
KEPT_MOVES = 2
BOUNDS = (PAGE_BYTES, MAX_SKIPPED, ATTEMPT_MS, KEPT_MOVES)
FASTEST = "/dev/shm" if Path("/dev/shm").is_dir() else None  # nothing here depends on a real disk
EXAMPLES = 200
SETTINGS = settings(
    max_examples=EXAMPLES,
    stateful_step_count=40,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


some_later = st.lists(later, min_size=1, max_size=3)
few_later = st.lists(later, max_size=1)


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
        self.patch.setattr(model, "RECEIVE_ATTEMPT_MS", ATTEMPT_MS)
        self.patch.setattr(receiving, "MAX_SKIPPED", MAX_SKIPPED)
        self.patch.setattr(moving, "KEPT_TASKS", KEPT_MOVES)
        self.patch.setattr(logging.getLogger("tq.store"), "disabled", True)  # of groups that were poisoned
        self.base = tempfile.TemporaryDirectory(dir=FASTEST)
        self.crashes = 0
        self.now_ms = START_MS
        self.lmdb = open_engine("lmdb", self.path)
        self.memory = open_engine("memory", self.path)
        self.naming: dict[str, str] = {}
        self.drafted = 0
        self.oracle = Oracle(0, 0, *BOUNDS)
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
        naming=st.sampled_from(NAMINGS),
    )
    def begin(
        self,
        max_queues: int,
        max_garbage: int,
        chosen: tuple[model.QueueSettings, ...],
        drafts: tuple[model.Draft, ...],
        naming: dict[str, str],
    ) -> None:
        self.patch.setattr(model, "MAX_QUEUES", max_queues)
        self.patch.setattr(queues, "MAX_GARBAGE", max_garbage)
        self.naming = naming
        self.oracle = Oracle(max_queues, max_garbage, *BOUNDS)
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
        request = fitted(request, self.naming)
        if isinstance(request, model.Send):
            return structs.replace(request, drafts=tuple(self.fit(request.queue, draft) for draft in request.drafts))
        if isinstance(request, model.Settle):
            owner = self.receipt(request.actions[0].receipt)[0]
            actions = [structs.replace(action, receipt=self.receipt(action.receipt)[1]) for action in request.actions]
            return model.Settle(owner if request.queue == OWNER else request.queue, tuple(actions), request.is_any)
        if isinstance(request, model.Transaction):
            owned = [(name, *self.receipt(receipt)) for name, receipt in request.acks]
            acks = [(owner if name == OWNER else name, receipt) for name, owner, receipt in owned]
            owner = acks[0][0] if acks else self.main
            sends = [(owner if name == OWNER else name, draft) for name, draft in request.sends]
            return model.Transaction(tuple(acks), tuple((name, self.fit(name, draft)) for name, draft in sends))
        if isinstance(request, model.Unreceive):
            return self.give_back(int(request.queue))
        if isinstance(request, model.Cancel | model.GetMessage) and request.id <= 0:
            queue = self.oracle.queues.get(request.queue)
            there = [message.id for message in queue.messages] if queue else []
            return structs.replace(request, id=there[request.id % len(there)] if there else 0)
        return request

    @property
    def main(self) -> str:
        """The queue that most is about."""
        return self.naming.get("a", "a")

    def fit(self, name: str, draft: model.Draft) -> model.Draft:
        self.drafted += 1
        queue = self.oracle.queues.get(name)
        return fit(draft, self.drafted, queue.settings.content_dedup) if queue and queue.settings.fifo else draft

    def receipt(self, drawn: str) -> tuple[str, str]:
        """A receipt and whose it is."""
        if not drawn.startswith((LIVE, OLD)):
            return self.main, drawn
        known = self.receipts
        if drawn.startswith(LIVE):
            queues = self.oracle.queues.values()
            known = [(queue.name, receipt_of(queue, message)) for queue in queues for message in queue.of("in_flight")]
        known = known or self.receipts or [(self.main, FORGED)]
        return known[-1 - int(drawn.split()[1]) % len(known)]

    def give_back(self, which: int) -> model.Unreceive:
        """What was received, as long as its queue lives, and once."""
        if which < len(self.received):
            birth, received = self.received.pop(-1 - which)
            if received.queue in self.oracle.queues and self.oracle.queues[received.queue].birth == birth:
                return model.Unreceive(received.queue, received.messages)
        return model.Unreceive(self.main, ())

    def step(self, by_ms: int, group: list[model.Command]) -> None:
        self.now_ms += by_ms
        self.run(group)

    # Hypothesis leaves out some of the rules in each example, so whatever most depends on is in several.

    @rule(by_ms=steps_ms, command=commands())
    def alone(self, by_ms: int, command: model.Command) -> None:
        self.step(by_ms, [command])

    @rule(name=names, drafts=few_drafts, limit=limits, lease_ms=lease_times_ms, by_ms=waits_ms, commands=some_later)
    def lease_and_then(self, name: str, drafts: Any, limit: int, lease_ms: int, by_ms: int, commands: Any) -> None:
        self.run([model.Send(name, drafts), model.Receive((name,), limit, lease_ms)])
        self.everything_agrees()
        for command in commands:
            self.step(by_ms, [command])
            self.everything_agrees()

    @rule(name=names, limit=limits, lease_ms=lease_times_ms, by_ms=waits_ms, tick=ticks, command=later)
    def lease_until(self, name: str, limit: int, lease_ms: int, by_ms: int, tick: Any, command: Any) -> None:
        self.run([model.Receive((name,), limit, lease_ms)])
        self.step(by_ms, [tick])
        self.everything_agrees()
        self.run([command])

    @rule(drafts=few_drafts, limit=limits, lease_ms=lease_times_ms, attempt=attempts, by_ms=waits_ms, group=few_later)
    def lease_twice(self, drafts: Any, limit: int, lease_ms: int, attempt: str, by_ms: int, group: Any) -> None:
        receive = model.Receive((self.main,), limit, lease_ms, attempt_id=attempt)
        self.run([model.Send(self.main, drafts), receive])
        self.step(by_ms, group)
        self.everything_agrees()
        self.run([receive])

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
        name, to = self.naming.get(name, name), self.naming.get(to or "", to)
        command = model.Redrive(name, to, limit)
        for _ in range(100):
            result = copy.deepcopy(self.oracle).ask(command, self.now_ms)
            self.run([command])
            if isinstance(result, Exception) or not result.after:
                return
            command = model.Redrive(name, to, limit, result.after, result.before)
        raise AssertionError("it goes on for ever")

    @rule(name=names, to=st.none() | names, limit=limits, group=st.just([]) | groups, is_cancelled=st.booleans())
    def move_all(self, name: str, to: str | None, limit: int, group: list[model.Command], is_cancelled: bool) -> None:
        """Part by part, as the broker does it, though other things happen meanwhile."""
        self.run([model.StartMove(name, "all", to)])
        for _ in range(100):
            self.run([model.MoveSome(name, "all", limit)])
            queue = self.oracle.queues.get(self.naming.get(name, name))
            if queue is None or not [task for task in queue.moves if (task.id, task.status) == ("all", "running")]:
                return
            self.run(group)
            group = [model.CancelMove(name, "all")] if is_cancelled else []
        raise AssertionError("it goes on for ever")

    @rule(parts=loaded, skipped=st.sampled_from([0] * 9 + [1]), command=commands())
    def load(self, parts: Any, skipped: int, command: model.Command) -> None:
        """Lines of a dump behind those that were loaded, or not quite."""
        after = self.oracle.loaded.get("dump", 0) + skipped
        named = tuple(fitted(part, self.naming) for part in parts)
        self.run([command, model.Load("dump", after, after + len(parts) + 1, named)])

    @rule(name=names)
    def cancel_a_move(self, name: str) -> None:
        self.run([model.StartMove(name, "short"), model.CancelMove(name, "short")])

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
            note(query)
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
    seen.append(ask(model.GetFigures(), now_ms))
    seen.append(ask(model.ListMoves(), now_ms))
    for queue in seen[2].queues:
        seen.append(ask(model.ListMoves(queue.name), now_ms))
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
    if isinstance(result, model.Sent) and result.refused:
        return structs.replace(result, refused=tuple((place, type(refusal)) for place, refusal in result.refused))
    if isinstance(result, model.Refused):
        return result.index, type(result.error)
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
    by_the_broker = {model.GetStatus, model.GetHealth, model.GetHistory, model.ListHistory, model.GetMetrics}
    known = {found for found in vars(model).values() if isinstance(found, type)}
    assert lifecycle._APPLY.keys() == {each for each in known if issubclass(each, model.Command)} - {model.Command}
    queries = {each for each in known if issubclass(each, model.Query)} - {model.Query}
    assert lifecycle._ANSWER.keys() == queries - by_the_broker


MODEL = [Path(module.__file__ or "") for module in (naive, oracle_places, oracle_traffic, oracle_loading, oracle)]


@pytest.mark.parametrize("path", MODEL, ids=lambda path: path.stem)
def test_the_model_shares_no_code_with_what_it_checks(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    found = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    found |= {
        f"{node.module}.{alias.name}" for node in nodes if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert {name for name in found if name.startswith("tq")} <= {"tq.errors", "tq.model", "tq.errors.TqError"}
