"""The audit finds what raw writes spoil, each in its own words, and nothing in a store that is sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engines import Do, delete, open_engine, put
from tq import codec, keys, model
from tq.audit import audit
from tq.codec import MessageRecord
from tq.keys import DueKind
from tq.model import CreateQueue, DeleteQueue, Draft, PurgeQueue, Receive, Send, Sweep
from tq.store import Store

NOW_MS = 1_700_000_000_000
LARGE = Draft(bytes(range(256)) * 40)  # three chunks
LESS_BYTES = "queue q: 10244 bytes are there and 10247 are counted"
NO_SUM = "the checksum does not match"


@pytest.fixture(params=["lmdb", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Queue q with id 1 and messages 2, 3 (large) and 4; message 1 was received."""
    store = open_engine(request.param, tmp_path)
    drafts = (Draft(b"one"), Draft(b"two"), LARGE, Draft(b"four"))
    store.commit([CreateQueue("q"), Send("q", drafts), Receive(("q",))], NOW_MS)
    assert store.read(audit) == []
    yield store
    store.close()


def findings(engine: Store, *spoil: model.Command) -> list[str]:
    assert not [result for result in engine.commit(spoil, NOW_MS) if isinstance(result, Exception)]
    return engine.read(audit)


def ready(sequence: int) -> tuple[str, bytes]:
    return keys.ready_space(1), keys.message_key(sequence)


def chunk(number: int, queue_id: int = 1, sequence: int = 3) -> tuple[str, bytes]:
    return keys.CHUNKS, keys.chunk_key(queue_id, keys.message_key(sequence), number)


def change_queue(**changes: Any) -> Do:
    """Rewrite the record of q."""

    def do(tx: Any) -> None:
        record = codec.unpack_queue(tx.space(keys.QUEUES).get(b"q"))
        tx.space(keys.QUEUES).put(b"q", codec.pack_queue(msgspec.structs.replace(record, **changes)))

    return Do(do)


def copy_queue(name: bytes) -> Do:
    return Do(lambda tx: tx.space(keys.QUEUES).put(name, tx.space(keys.QUEUES).get(b"q")))


def belongs_to_nothing(name: str, key: bytes) -> str:
    return f"{name}: {key.hex()} belongs to no {'message' if name == 'chunks' else 'queue'}"


def of_no_queue(name: str, key: bytes) -> str:
    return f"{name}: {key.hex()} belongs to no queue"


RECORD = codec.QueueRecord(1, 1, 0, model.QueueSettings())
MESSAGE = codec.pack_message(MessageRecord(NOW_MS, b"x"))


# --- nothing to find ---------------------------------------------------------------------------


def test_a_new_store_is_sound(tmp_path: Path) -> None:
    for kind in ("lmdb", "memory"):
        store = open_engine(kind, tmp_path)
        assert store.read(audit) == []
        store.close()


def test_garbage_quarantine_and_half_a_sweep_are_sound(engine: Store) -> None:
    engine.commit([CreateQueue("other"), Send("other", (LARGE, LARGE))], NOW_MS)
    assert findings(engine, put(*ready(3), b"")) != []
    assert findings(engine, Receive(("q",), 9)) == []
    assert findings(engine, Send("q", (LARGE,)), PurgeQueue("q"), DeleteQueue("other")) == []
    while engine.commit([Sweep(2)], NOW_MS)[0]:
        assert engine.read(audit) == []
    assert engine.read(audit) == []


# --- queues ---------------------------------------------------------------------------


def test_a_queue_record_that_cannot_be_read(engine: Store) -> None:
    found = findings(engine, put(keys.QUEUES, b"q", codec.pack_queue(RECORD)[:-1] + b"?"))
    chunks = [belongs_to_nothing("chunks", chunk(number)[1]) for number in range(3)]
    homeless = [of_no_queue("chunks", chunk(number)[1]) for number in range(3)]
    assert found == [
        f"queue q: {NO_SUM}",
        "names: {1: 'q'} are not the queues {}",
        *chunks,
        *homeless,
        "queue/1 belongs to no queue",
    ]


def test_two_queues_of_one_id(engine: Store) -> None:
    assert findings(engine, copy_queue(b"r")) == [
        "queue r: its id 1 is not its own",
        "names: {1: 'q'} are not the queues {1: 'r'}",
    ]


def test_a_queue_whose_id_was_let_go(engine: Store) -> None:
    assert findings(engine, put(keys.GARBAGE, keys.queue_prefix(1), b"")) == ["queue q: its id 1 is not its own"]


def test_a_queue_whose_id_is_to_be_given_out(engine: Store) -> None:
    lower = put(keys.META, keys.NEXT_QUEUE_ID, (1).to_bytes(8))
    assert findings(engine, lower) == ["queue q: its id 1 is not its own"]


def test_a_queue_without_a_next_id(engine: Store) -> None:
    assert findings(engine, delete(keys.META, keys.NEXT_QUEUE_ID)) == ["queue q: its id 1 is not its own"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"counters": {"acked": 2}}, "queue q: 4 came, 3 are there and 2 are gone"),
        ({"counters": {}}, "queue q: 4 came, 3 are there and 0 are gone"),
        *[
            ({"counters": {"acked": 1, end: 1}}, "queue q: 4 came, 3 are there and 2 are gone")
            for end in ("expired", "dead_lettered", "redriven", "purged", "dropped", "cancelled", "quarantined")
        ],
        ({"next_sequence": 6}, "queue q: 5 came, 3 are there and 1 are gone"),
        ({"bytes": 1}, "queue q: 10247 bytes are there and 1 are counted"),
        ({"in_flight": 1}, "queue q: 0 messages are in_flight and 1 are counted"),
        ({"delayed": 1}, "queue q: 0 messages are delayed and 1 are counted"),
        ({"blocked": 1}, "queue q: 0 messages are blocked and 1 are counted"),
    ],
)
def test_counters_that_do_not_add_up(engine: Store, changes: dict[str, int], sentence: str) -> None:
    assert findings(engine, change_queue(**changes)) == [sentence]


# --- messages ---------------------------------------------------------------------------


def test_a_message_that_is_lost(engine: Store) -> None:
    found = findings(engine, delete(*ready(2)))
    assert found == ["queue q: 4 came, 2 are there and 1 are gone", LESS_BYTES]


@pytest.mark.parametrize(
    "key",
    [
        keys.message_key(0),
        keys.message_key(5),
        keys.message_key(model.MAX_SEQUENCE),
        keys.message_key(4) + b"\0",
        keys.message_key(4)[:-1],
    ],
    ids=bytes.hex,
)
def test_a_key_that_was_not_given_out(engine: Store, key: bytes) -> None:
    found = findings(engine, put(ready(1)[0], key, MESSAGE), change_queue(counters={}, bytes=10_248))
    assert found == [f"queue q: the key {key.hex()} is not one that was given out"]


def test_two_messages_of_one_number(engine: Store) -> None:
    double = put(ready(1)[0], keys.message_key(4, priority=1), MESSAGE)
    found = findings(engine, double, change_queue(counters={}, bytes=10_248))
    assert found == [f"queue q: the key {ready(4)[1].hex()} is not one that was given out"]


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (MESSAGE[:-1] + b"?", NO_SUM),
        (b"", "record version missing is unknown"),
        (b"\4", "record version 04 is unknown"),
    ],
)
def test_a_message_that_cannot_be_read(engine: Store, value: bytes, why: str) -> None:
    assert findings(engine, put(*ready(2), value)) == [f"queue q: message 2: {why}", LESS_BYTES]


NOT_SENT = "queue q: message 3: the chunks are not the body that was sent"


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_chunk_that_is_lost_or_changed(engine: Store, number: int) -> None:
    assert findings(engine, put(*chunk(number), b"changed")) == [NOT_SENT]
    assert findings(engine, delete(*chunk(number))) == [NOT_SENT]


def test_a_count_that_is_wrong(engine: Store) -> None:
    """No raw write does that: LMDB itself would have to miscount."""

    class Miscounting:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def space(self, name: str) -> Any:
            return Miscounting(self.inner.space(name))

        def count(self) -> int:
            return int(self.inner.count()) + 1

    found = engine.read(lambda tx: audit(Miscounting(tx)))
    assert found == ["queue q: 3 messages are ready and 4 are counted"]


# --- what belongs to nothing -------------------------------------------------------------------


@pytest.mark.parametrize(
    "key", [chunk(3)[1], chunk(0, sequence=2)[1], chunk(0, sequence=9)[1], chunk(0, queue_id=7)[1]]
)
def test_a_chunk_of_no_message(engine: Store, key: bytes) -> None:
    found = findings(engine, put(keys.CHUNKS, key, b"x"))
    homeless = [] if keys.queue_id_of(key) == 1 else [of_no_queue("chunks", key)]
    assert found == [belongs_to_nothing("chunks", key), *homeless]


def test_a_message_that_leaves_its_chunks(engine: Store) -> None:
    found = findings(engine, delete(*ready(3)), change_queue(counters={"acked": 2}, bytes=7))
    assert found == [belongs_to_nothing("chunks", chunk(number)[1]) for number in range(3)]


def test_quarantine_of_no_queue(engine: Store) -> None:
    key = keys.shared_key(7, keys.message_key(1))
    assert findings(engine, put(keys.QUARANTINE, key, b"x")) == [belongs_to_nothing("quarantine", key)]


def test_a_space_of_no_queue(engine: Store) -> None:
    assert findings(engine, put(keys.ready_space(7), keys.message_key(1), MESSAGE)) == ["queue/7 belongs to no queue"]


def test_garbage_that_is_forgotten(engine: Store) -> None:
    engine.commit([PurgeQueue("q")], NOW_MS)
    found = findings(engine, delete(keys.GARBAGE, keys.queue_prefix(1)))
    chunks = [belongs_to_nothing("chunks", chunk(number)[1]) for number in range(3)]
    homeless = [of_no_queue("chunks", chunk(number)[1]) for number in range(3)]
    assert found == [*chunks, *homeless, "queue/1 belongs to no queue"]


def test_every_finding_is_reported(engine: Store) -> None:
    found = findings(engine, delete(*chunk(0)), put(*ready(2), b"?"), copy_queue(b"r"))
    assert len(found) == 8  # both records and the bytes twice, as two queues claim them; the id, and the name


def test_notes_of_no_queue(engine: Store) -> None:
    assert findings(engine, put(keys.NOTES, b"r", codec.pack_notes({"k": "v"}))) == ["notes: r is no queue"]


def test_notes_that_cannot_be_read(engine: Store) -> None:
    assert findings(engine, put(keys.NOTES, b"q", b"?")) == ["notes of q: record version 3f is unknown"]


MOVE = codec.pack_move(model.MoveTask("m", "q", None, None, NOW_MS, 1))


def move_key(queue: str) -> bytes:
    return keys.moves_prefix(queue) + (1).to_bytes(8)


def test_notes_and_moves_of_a_queue_are_sound(engine: Store) -> None:
    assert findings(engine, put(keys.NOTES, b"q", codec.pack_notes({"k": "v"}))) == []
    assert findings(engine, put(keys.MOVES, move_key("q"), MOVE)) == []


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        (move_key("q"), b"", ["a move out of q: record version missing is unknown"]),
        (b"q1" + (1).to_bytes(8), MOVE, [f"moves: {(b'q1' + bytes(7)).hex()}01 is not where the tasks of q are"]),
        (
            move_key("r"),
            MOVE,
            [f"moves: {move_key('r').hex()} is not where the tasks of q are", "moves: r is no queue"],
        ),
    ],
)
def test_a_move_that_is_not_where_it_belongs(engine: Store, key: bytes, value: bytes, found: list[str]) -> None:
    assert findings(engine, put(keys.MOVES, key, value)) == found


# --- states, timers, groups ---------------------------------------------------------------------------


@pytest.fixture(params=["lmdb", "memory"])
def busy(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Queue q with message 1 leased, 2 blocked behind it, 3 delayed, 4 ready with a lifetime and a deduplication id."""
    store = open_engine(request.param, tmp_path)
    drafts = (
        Draft(b"1", group="g"),
        Draft(b"2", group="g"),
        Draft(b"3", delay_ms=10),
        Draft(b"4", ttl_ms=20, dedup_id="d"),
    )
    store.commit([CreateQueue("q"), Send("q", drafts), Receive(("q",), visibility_ms=30)], NOW_MS)
    assert store.read(audit) == []
    yield store
    store.close()


def shared(sequence: int) -> bytes:
    return keys.shared_key(1, keys.message_key(sequence))


def due(by_ms: int, kind: DueKind, sequence: int) -> bytes:
    return keys.due_key(NOW_MS + by_ms, kind, 1, keys.message_key(sequence))


DUE = [due(30, DueKind.LEASE, 1), due(10, DueKind.DELAY, 3), due(20, DueKind.TTL, 4), due(300_000, DueKind.DEDUP, 4)]
GROUP = keys.group_prefix(1, "g")


@pytest.mark.parametrize("entry", DUE)
def test_a_timer_that_is_lost(busy: Store, entry: bytes) -> None:
    assert findings(busy, delete(keys.DUE, entry)) == [f"due: {keys.parse_due(entry)} is missing"]


@pytest.mark.parametrize("entry", [due(31, DueKind.LEASE, 1), due(1, DueKind.DELAY, 4), due(9, DueKind.TTL, 1)])
def test_a_timer_for_nothing(busy: Store, entry: bytes) -> None:
    assert findings(busy, put(keys.DUE, entry, b"")) == [f"due: {keys.parse_due(entry)} is for nothing"]


@pytest.mark.parametrize(
    ("space", "state", "sequence"), [(keys.IN_FLIGHT, "in_flight", 1), (keys.DELAYED, "delayed", 3)]
)
def test_a_message_of_a_state_that_is_lost(busy: Store, space: str, state: str, sequence: int) -> None:
    found = findings(busy, delete(space, shared(sequence)))
    assert found[:2] == [
        f"queue q: 0 messages are {state} and 1 are counted",
        "queue q: 4 came, 3 are there and 0 are gone",
    ]


def test_a_message_in_two_states(busy: Store) -> None:
    value = codec.pack_message(MessageRecord(NOW_MS, b"4"))
    found = findings(busy, put(keys.BLOCKED, shared(4), value))
    assert "queue q: message 4 is ready and blocked" in found
    assert "queue q: message 4 is blocked and has no group" in found


def test_a_ready_message_that_is_due(busy: Store) -> None:
    found = findings(busy, put(*ready(4), codec.pack_message(MessageRecord(NOW_MS, b"4", due_at_ms=5))))
    assert "queue q: message 4 is ready and due at 5" in found


def test_a_group_whose_head_is_lost(busy: Store) -> None:
    assert findings(busy, delete(keys.GROUPS, GROUP)) == [f"groups: {GROUP.hex()} and its messages do not agree"]


def test_a_group_of_the_wrong_head(busy: Store) -> None:
    found = findings(busy, put(keys.GROUPS, GROUP, keys.message_key(2)))
    assert set(found) == {f"groups: {GROUP.hex()} and its messages do not agree"}


def test_a_blocked_message_that_its_group_forgot(busy: Store) -> None:
    entry = GROUP + keys.message_key(2)
    assert findings(busy, delete(keys.GROUPS, entry)) == [f"groups: {entry.hex()} and its messages do not agree"]


def test_two_of_a_group_that_are_not_blocked(busy: Store) -> None:
    value = codec.pack_message(MessageRecord(NOW_MS, b"4", group="g"))
    found = findings(busy, put(*ready(4), value))
    assert [f for f in found if "is not the only one of its group" in f]


def test_a_group_that_nothing_leads(busy: Store) -> None:
    """Though `groups` says the same."""
    found = findings(busy, delete(keys.IN_FLIGHT, shared(1)), delete(keys.GROUPS, GROUP))
    assert "queue q: nothing leads the group of message 2" in found


def test_a_deduplication_id_of_no_queue(busy: Store) -> None:
    key = keys.dedup_key(7, "d")
    found = findings(busy, put(keys.DEDUP, key, codec.pack_dedup(keys.message_key(1), 5)))
    assert found == [f"dedup: {key.hex()} belongs to no queue"] * 2


# --- FIFO queues and repeated receives ----------------------------------------------------------------------


@pytest.fixture(params=["lmdb", "memory"])
def fifo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Queue q.fifo: 1, 2 and 3 in flight by a receive that can be repeated, 4 blocked; of another group 5 and 6."""
    store = open_engine(request.param, tmp_path)
    drafts = [Draft(b"x", group=group, dedup_id=str(n)) for n, group in enumerate("gggghh")]
    create = CreateQueue("q.fifo", model.QueueSettings(fifo=True))
    receive = Receive(("q.fifo",), 3, visibility_ms=30, attempt_id="a")
    store.commit([create, Send("q.fifo", tuple(drafts)), receive], NOW_MS)
    assert store.read(audit) == []
    yield store
    store.close()


BESIDE = keys.beside_prefix(GROUP)
ATTEMPT = keys.attempt_key(1, "a")


def disagree(*entries: bytes) -> set[str]:
    return {f"groups: {entry.hex()} and its messages do not agree" for entry in entries}


def test_a_batch_is_sound_in_any_order_of_its_end(fifo: Store) -> None:
    received = fifo.commit([Receive(("q.fifo",), 3, 30, attempt_id="a")], NOW_MS)[0]
    receipts = [message.receipt for message in received.messages]
    for ends in ([model.Ack(receipts[1])], [model.Release(receipts[0])], [model.Release(receipts[2])]):
        assert findings(fifo, model.Settle("q.fifo", tuple(ends))) == []


def test_any_of_those_in_flight_may_be_the_head(fifo: Store) -> None:
    swap = [put(keys.GROUPS, GROUP, keys.message_key(2)), delete(keys.GROUPS, BESIDE + keys.message_key(2))]
    assert findings(fifo, *swap, put(keys.GROUPS, BESIDE + keys.message_key(1), b"")) == []


@pytest.mark.parametrize("number", [2, 3])
def test_one_beside_the_head_that_its_group_forgot(fifo: Store, number: int) -> None:
    entry = BESIDE + keys.message_key(number)
    assert set(findings(fifo, delete(keys.GROUPS, entry))) == disagree(entry)


@pytest.mark.parametrize("number", [1, 4, 5, 9])
def test_one_that_is_not_beside_the_head(fifo: Store, number: int) -> None:
    entry = BESIDE + keys.message_key(number)
    assert set(findings(fifo, put(keys.GROUPS, entry, b""))) == disagree(entry)


def test_a_head_that_is_not_in_flight_while_others_are(fifo: Store) -> None:
    found = set(findings(fifo, put(keys.GROUPS, GROUP, keys.message_key(4))))
    assert found == disagree(GROUP)


def let_out(space: str, key: bytes, sequence: int) -> Do:
    """A blocked message is somewhere else all at once."""

    def do(tx: Any) -> None:
        value = tx.space(keys.BLOCKED).get(shared(sequence))
        tx.space(keys.BLOCKED).delete(shared(sequence))
        tx.space(space).put(key, value)

    return Do(do)


@pytest.mark.parametrize("number", [4, 6])
def test_a_ready_message_ahead_of_its_turn(fifo: Store, number: int) -> None:
    found = findings(fifo, let_out(keys.ready_space(1), keys.message_key(number), number))
    assert f"queue q.fifo: message {number} is ready ahead of its turn" in found


def test_a_delayed_message_ahead_of_its_turn(fifo: Store) -> None:
    found = findings(fifo, let_out(keys.DELAYED, shared(4), 4))
    assert "queue q.fifo: message 4 is delayed ahead of its turn" in found


def test_the_first_of_a_group_must_lead_it(fifo: Store) -> None:
    swap = [
        let_out(keys.ready_space(1), keys.message_key(6), 6),
        put(keys.GROUPS, keys.group_prefix(1, "h"), keys.message_key(6)),
        delete(keys.GROUPS, keys.group_prefix(1, "h") + keys.message_key(6)),
    ]
    found = findings(fifo, *swap)
    assert "queue q.fifo: message 6 is ready ahead of its turn" in found


def attempt_due(by_ms: int) -> bytes:
    return keys.due_key(NOW_MS + by_ms, DueKind.ATTEMPT, 1, b"a")


def test_a_timer_of_an_attempt_that_is_lost(fifo: Store) -> None:
    entry = attempt_due(model.RECEIVE_ATTEMPT_MS)
    assert findings(fifo, delete(keys.DUE, entry)) == [f"due: {keys.parse_due(entry)} is missing"]


def test_a_timer_of_no_attempt(fifo: Store) -> None:
    assert findings(fifo, put(keys.DUE, attempt_due(1), b"")) == [
        f"due: {keys.parse_due(attempt_due(1))} is for nothing"
    ]
    entry = attempt_due(model.RECEIVE_ATTEMPT_MS)
    assert findings(fifo, delete(keys.DUE, attempt_due(1)), delete(keys.ATTEMPTS, ATTEMPT)) == [
        f"due: {keys.parse_due(entry)} is for nothing"
    ]


def test_an_attempt_of_no_message(fifo: Store) -> None:
    value = codec.pack_attempt(NOW_MS + model.RECEIVE_ATTEMPT_MS, [])
    assert findings(fifo, put(keys.ATTEMPTS, ATTEMPT, value)) == [f"attempts: {ATTEMPT.hex()} is of no message"]


def test_an_attempt_of_no_queue(fifo: Store) -> None:
    key = keys.attempt_key(7, "a")
    assert findings(fifo, put(keys.ATTEMPTS, key, codec.pack_attempt(5, []))) == [of_no_queue("attempts", key)]


def test_what_a_purge_leaves_of_attempts_and_groups_is_sound(fifo: Store) -> None:
    assert findings(fifo, PurgeQueue("q.fifo")) == []
    while fifo.commit([Sweep(2)], NOW_MS)[0]:
        assert fifo.read(audit) == []
    assert fifo.read(lambda tx: [tx.space(name).count() for name in (keys.ATTEMPTS, keys.GROUPS, keys.DUE)]) == [0] * 3
