"""Random commands against both engines and a naive model at once: results, visible state and stored bytes must agree.

The domains are tiny, so that commands meet: three queues, few contents with sizes around every bound, bounds of
a few queues, purges and bytes.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.harness import findings
from tests.oracle import Do, Oracle, dump, inline_bytes, open_engine
from tq import lifecycle, model
from tq.audit import audit
from tq.codec import CHUNK_BYTES
from tq.errors import TqError

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
queue_settings = st.sampled_from([model.QueueSettings(), model.QueueSettings(max_message_bytes=CHUNK_BYTES)])
media_types = st.sampled_from([None, TEXT])
sizes = [inline_bytes(TEXT), inline_bytes(None), CHUNK_BYTES, 2 * CHUNK_BYTES]
lengths = st.sampled_from([0, 1, 2, *(size + by for size in sizes for by in (0, 1))])
contents = st.builds(lambda byte, length: byte * length, st.sampled_from([b"x", b"y"]), lengths)
drafts = st.builds(model.Draft, contents, media_types)
ids = st.integers(0, 12)


def commands_to(name: st.SearchStrategy[str]) -> st.SearchStrategy[model.Command]:
    sends = st.builds(model.Send, name, st.lists(drafts, min_size=1, max_size=4).map(tuple))
    receives = st.builds(model.Receive, name, limits)
    creates = st.builds(model.CreateQueue, name, queue_settings)
    deletes = st.builds(model.DeleteQueue, name, st.booleans())
    purges = st.builds(model.PurgeQueue, name)
    sweeps = st.builds(model.Sweep, limits)
    return st.one_of(sends, receives, sends, receives, creates, deletes, purges, sweeps, st.just(model.Probe()))


commands = commands_to(any_name)
one_queue = names.flatmap(lambda name: st.lists(commands_to(st.just(name)), min_size=2, max_size=10))
many_queues = st.lists(commands_to(names), min_size=2, max_size=10)
groups = st.one_of(one_queue, many_queues, st.lists(commands, max_size=3))

prefixes = ["", "a", "ab", "b", "é"]
lists = st.builds(model.ListQueues, st.sampled_from(prefixes), st.one_of(st.just(""), names), limits)
peeks = st.builds(model.Peek, any_name, ids, limits)
looks = st.builds(model.GetMessage, any_name, ids)
gets = st.builds(model.GetQueue, any_name)
queries = st.one_of(lists, peeks, looks, gets, st.just(model.GetTotals()))


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

    @property
    def path(self) -> Path:
        return Path(self.base.name) / str(self.crashes)

    @initialize(
        max_queues=st.sampled_from([3, 3, 2]),
        max_garbage=st.integers(1, 4),
        first=st.lists(names, min_size=1, max_size=5),
    )
    def begin(self, max_queues: int, max_garbage: int, first: list[str]) -> None:
        self.patch.setattr(model, "MAX_QUEUES", max_queues)
        self.patch.setattr(lifecycle, "MAX_GARBAGE", max_garbage)
        self.oracle = Oracle(max_queues, max_garbage, PAGE_BYTES)
        self.run([model.CreateQueue(name) for name in first])

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
        expected = [Poisoned() if isinstance(c, Do) else self.oracle.run(c, self.now_ms) for c in group]
        assert plain(on_disk) == plain(expected)
        assert plain(in_memory) == plain(expected)

    @rule(command=commands)
    def alone(self, command: model.Command) -> None:
        self.run([command])

    @rule(command=commands)
    def alone_again(self, command: model.Command) -> None:
        """The same, for its weight among the rules."""
        self.run([command])

    @rule(group=groups)
    def together(self, group: list[model.Command]) -> None:
        self.run(group)

    @rule(group=groups)
    def together_again(self, group: list[model.Command]) -> None:
        self.run(group)

    @rule(group=groups, at=st.integers(0, 8))
    def with_a_poisoned_one(self, group: list[model.Command], at: int) -> None:
        self.run([*group[:at], Do(poison), *group[at:]])

    # --- the world

    @rule(by_ms=st.sampled_from([1, 1_000, -1, -1_000]))
    def tick(self, by_ms: int) -> None:
        self.now_ms += by_ms

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
        expected = self.oracle.run(query, self.now_ms)
        for store in (self.lmdb, self.memory):
            assert plain([store.read(lambda tx: answer(tx, query, self.now_ms))]) == plain([expected])

    @invariant()
    def everything_agrees(self) -> None:
        expected = see(self.oracle.run, self.now_ms)
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
        seen += pages(lambda after, name=queue.name: ask(model.Peek(name, after, 100), now_ms), 0)
    return seen


def pages(ask: Any, after: Any) -> list[Any]:
    """Every page, each asked for after the one before."""
    found = [ask(after)]
    while found[-1].next is not None and len(found) < 100:  # more are not there: it goes in a circle
        found.append(ask(found[-1].next))
    return found


def plain(results: list[Any]) -> list[Any]:
    """Refusals by their class: what they say in words is not modelled."""
    return [type(result) if isinstance(result, Exception) else result for result in results]


def test_both_engines_do_as_the_model_does() -> None:
    run_state_machine_as_test(Machine, settings=SETTINGS)


@pytest.mark.slow
def test_both_engines_do_as_the_model_does_at_length() -> None:
    run_state_machine_as_test(Machine, settings=settings(SETTINGS, max_examples=10 * EXAMPLES))
