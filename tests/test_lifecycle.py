"""What the state machine does not show: damage, bounds, groups by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.engines import Do, delete, dump, open_engine, put
from tq import codec, errors, keys, lifecycle, model
from tq.audit import audit
from tq.codec import CHUNK_BYTES
from tq.lifecycle import queues, receiving
from tq.lifecycle.receiving import MAX_SKIPPED
from tq.model import CreateQueue, DeleteQueue, Draft, Peek, PurgeQueue, Receive, Send, Sent, Sweep
from tq.store import Store
from tq.store.lmdb import LmdbStore

NOW_MS = 1_700_000_000_000
LARGE = bytes(range(256)) * 40  # three chunks


@pytest.fixture(params=["lmdb", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """An engine that takes `Do` too. What a test damages it must have cleared away at its end."""
    store = open_engine(request.param, tmp_path / "engine")
    yield store
    found = store.read(audit) + store.check()
    store.close()
    assert found == []


def run(engine: Store, *commands: model.Command) -> Any:
    """The results of a group, or that of a single command."""
    results = engine.commit(commands, NOW_MS)
    return results if len(commands) > 1 else results[0]


def ask(engine: Store, query: model.Query) -> Any:
    return engine.read(lambda tx: lifecycle.answer(tx, query, NOW_MS))


def fill(engine: Store, *contents: bytes, queue: str = "q") -> None:
    settings = model.QueueSettings(max_message_bytes=model.MAX_MESSAGE_BYTES)
    run(engine, CreateQueue(queue, settings), Send(queue, tuple(map(Draft, contents))))


def contents(page: model.Received | model.MessagePage) -> list[bytes]:
    return [message.content for message in page.messages]


# --- damage ---------------------------------------------------------------------------


def change(space: str, key: bytes, edit: Callable[[bytes], bytes]) -> Do:
    def do(tx: Any) -> None:
        value = tx.space(space).get(key)
        assert edit(value) != value
        tx.space(space).put(key, edit(value))

    return Do(do)


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda value: value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]


def ready_of(sequence: int) -> tuple[str, bytes]:
    """Where a message of the first queue lies."""
    return keys.ready_space(1), keys.message_key(sequence)


def chunk_of(sequence: int, number: int) -> tuple[str, bytes]:
    return keys.CHUNKS, keys.chunk_key(1, keys.message_key(sequence), number)


def spoil(*sequences: int) -> list[model.Command]:
    return [change(*ready_of(sequence), flip(5)) for sequence in sequences]


DAMAGE = {
    "first byte": change(*ready_of(2), flip(0)),
    "body": change(*ready_of(2), flip(-10)),
    "checksum": change(*ready_of(2), flip(-1)),
    "cut short": change(*ready_of(2), lambda value: value[:-1]),
    "one byte left": change(*ready_of(2), lambda value: value[:1]),
    "emptied": change(*ready_of(2), lambda _: b""),
    "another message's chunks": change(*ready_of(2), lambda _: codec.pack_message(another())),
    "first chunk lost": delete(*chunk_of(2, 0)),
    "last chunk lost": delete(*chunk_of(2, 2)),
    "chunk altered": change(*chunk_of(2, 1), flip(7)),
    "chunk cut short": change(*chunk_of(2, 1), lambda value: value[:-1]),
    "chunk too many": put(*chunk_of(2, 3), b"more"),
}


def another() -> codec.MessageRecord:
    return codec.split_body(codec.MessageRecord(NOW_MS, LARGE + b"!"))[0]


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_message_is_set_aside_and_the_next_one_taken(engine: Store, damage: model.Command) -> None:
    fill(engine, b"one", LARGE, b"three")
    run(engine, damage)

    assert contents(ask(engine, Peek("q"))) == [b"one", b"three"]
    with pytest.raises(errors.MessageNotFound):
        ask(engine, model.GetMessage("q", 2))
    assert ask(engine, model.GetQueue("q")).messages.ready == 3

    received = run(engine, Receive(("q",), 10))
    assert contents(received) == [b"one", b"three"]
    assert received.quarantined == (2,)
    info = ask(engine, model.GetQueue("q"))
    assert info.messages.ready == 0
    assert info.counters == model.Counters(sent=3, received=2, acked=2, quarantined=1)
    assert run(engine, Receive(("q",))) == model.Received(())


def test_quarantine_keeps_what_was_found(engine: Store) -> None:
    fill(engine, b"one")
    run(engine, *spoil(1), *spoil(1), *spoil(1))
    key = ready_of(1)[1]
    before = engine.read(lambda tx: tx.space(keys.ready_space(1)).get(key))
    run(engine, Receive(("q",)))
    assert dict(engine.read(dump)[keys.QUARANTINE]) == {keys.shared_key(1, key): before}


def test_what_is_damaged_does_not_count_towards_the_limit(engine: Store) -> None:
    fill(engine, b"one", b"two", b"three", b"four")
    run(engine, *spoil(1, 3))
    assert ask(engine, model.GetQueue("q")).oldest_message_age_ms is None
    received = run(engine, Receive(("q",), 2))
    assert (contents(received), received.quarantined) == ([b"two", b"four"], (1, 3))


def test_a_receive_leaves_damage_behind_its_last_message(engine: Store) -> None:
    fill(engine, b"one", b"two", b"three")
    run(engine, *spoil(2))
    assert run(engine, Receive(("q",))).quarantined == ()
    received = run(engine, Receive(("q",)))
    assert (contents(received), received.quarantined) == ([b"three"], (2,))


def test_one_receive_sets_aside_only_so_many(engine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(receiving, "MAX_SKIPPED", 3)
    fill(engine, *[b"x"] * 5, b"six")
    run(engine, *spoil(1, 2, 3, 4, 5))
    assert run(engine, Receive(("q",))) == model.Received((), quarantined=(1, 2, 3), is_cut_short=True)
    received = run(engine, Receive(("q",)))
    assert (contents(received), received.quarantined) == ([b"six"], (4, 5))


def test_the_bound_on_quarantine_is_that_of_one_receive(engine: Store) -> None:
    fill(engine, *[b"x"] * (MAX_SKIPPED + 1))
    run(engine, *spoil(*range(1, MAX_SKIPPED + 2)))
    assert [len(r.quarantined) for r in run(engine, Receive(("q",)), Receive(("q",)))] == [MAX_SKIPPED, 1]


def test_pages_lead_past_damage(engine: Store) -> None:
    fill(engine, b"one", b"two", b"three", b"four")
    run(engine, *spoil(2, 4))
    first = ask(engine, Peek("q", limit=1))
    second = ask(engine, Peek("q", after=first.next, limit=1))
    third = ask(engine, Peek("q", after=second.next, limit=1))
    assert [contents(first), contents(second), contents(third)] == [[b"one"], [b"three"], []]
    assert third.next is None
    run(engine, Receive(("q",), 10))


@pytest.mark.parametrize("end", [PurgeQueue("q"), DeleteQueue("q")])
def test_sweeping_clears_quarantine_and_chunks(engine: Store, end: model.Command) -> None:
    fill(engine, LARGE, LARGE, LARGE, b"left")
    fill(engine, LARGE, queue="other")
    run(engine, change(*chunk_of(1, 0), flip(0)), *spoil(2))
    assert run(engine, Receive(("q",))).quarantined == (1, 2)
    assert len(engine.read(dump)[keys.QUARANTINE]) == 2
    run(engine, end)
    while run(engine, Sweep(2)):
        pass
    spaces = engine.read(dump)
    assert sorted(spaces) == [keys.CHUNKS, keys.META, keys.NAMES, keys.ready_space(2), keys.QUEUES]
    assert {keys.queue_id_of(key) for key, _ in spaces[keys.CHUNKS]} == {2}


def test_a_damaged_queue_record_fails_its_own_queue_alone(engine: Store) -> None:
    fill(engine, b"one")
    fill(engine, b"two", queue="other")
    before = engine.read(lambda tx: tx.space(keys.QUEUES).get(b"q"))
    run(engine, change(keys.QUEUES, b"q", flip(3)))
    failed, received = run(engine, Receive(("q",)), Receive(("other",)))
    assert isinstance(failed, errors.QueueDamaged)
    assert contents(received) == [b"two"]
    run(engine, put(keys.QUEUES, b"q", before))


@pytest.mark.parametrize("query", [model.ListQueues(), model.GetTotals(), model.GetFigures()])
def test_a_damaged_queue_record_does_not_hide_the_other_queues(engine: Store, query: model.Query) -> None:
    fill(engine, b"one")
    fill(engine, b"two", queue="other")
    before = engine.read(lambda tx: tx.space(keys.QUEUES).get(b"q"))
    run(engine, change(keys.QUEUES, b"q", flip(3)))
    try:
        found = ask(engine, query)
    finally:
        run(engine, put(keys.QUEUES, b"q", before))
    assert "other" in str(found) or found.messages.ready >= 1


# --- bounds ---------------------------------------------------------------------------


def test_the_bytes_of_a_page_end_a_receive(engine: Store) -> None:
    mebibyte = b"m" * (model.MAX_PAGE_BYTES // 4)
    fill(engine, *[mebibyte] * 5)
    assert len(run(engine, Receive(("q",), 10)).messages) == 4
    assert len(run(engine, Receive(("q",), 10)).messages) == 1


def test_a_message_larger_than_a_page_comes_alone(engine: Store) -> None:
    huge = b"h" * (model.MAX_PAGE_BYTES + 1)
    fill(engine, huge, b"small", huge)
    assert contents(run(engine, Receive(("q",), 10))) == [huge]
    assert contents(run(engine, Receive(("q",), 10))) == [b"small", huge]


def test_the_bytes_of_a_page_end_a_peek(engine: Store) -> None:
    fill(engine, *[b"h" * (model.MAX_PAGE_BYTES - 1)] * 2, b"three")
    page = ask(engine, Peek("q", limit=10))
    assert ([message.id for message in page.messages], page.next) == ([1, 2], keys.message_key(2).hex())
    assert ask(engine, Peek("q", after=page.next)).next is None


@pytest.mark.parametrize("after", [1, 2, model.MAX_SEQUENCE - 1, model.MAX_SEQUENCE])
def test_there_is_nothing_behind_the_last_message(engine: Store, after: int) -> None:
    fill(engine, b"one")
    assert ask(engine, Peek("q", after=keys.message_key(after).hex())) == model.MessagePage((), None)


def test_purges_and_deletes_wait_for_the_sweep(engine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queues, "MAX_GARBAGE", 2)
    fill(engine, b"one")
    assert run(engine, PurgeQueue("q"), PurgeQueue("q")) == [1, 0]
    assert isinstance(run(engine, PurgeQueue("q")), errors.Overloaded)
    assert run(engine, Sweep(10)) is True
    assert run(engine, PurgeQueue("q")) == 0
    assert isinstance(run(engine, DeleteQueue("q")), errors.Overloaded)
    assert run(engine, Sweep(10)) is True
    assert run(engine, DeleteQueue("q")) is None


def test_spaces_suffice_for_any_order_of_creates_and_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deletes may outrun the sweep; what they leave must not use up the sub-databases that LMDB was opened for."""
    monkeypatch.setattr(queues, "MAX_GARBAGE", 3)
    monkeypatch.setattr(model, "MAX_QUEUES", 3)
    store = open_engine("lmdb", tmp_path, max_spaces=3 + 3 + (lifecycle.MAX_SPACES - 10_000 - 1_000))
    results = run(store, *[CreateQueue("q"), Send("q", (Draft(b"x"),)), DeleteQueue("q")] * 30)
    store.close()
    strange = [r for r in results if isinstance(r, Exception) and not isinstance(r, errors.TqError)]
    assert strange == []


def test_the_number_of_queues_is_set_for_each_start(tmp_path: Path) -> None:
    """A queue that is there stays, whatever the setting."""
    for most, refused in ((2, [False, False, True]), (1, [False, False, True]), (3, [False, False, False])):
        store = LmdbStore(
            tmp_path, partial(lifecycle.apply, max_queues=most), max_spaces=lifecycle.MAX_SPACES, reserve_bytes=1 << 20
        )
        results = store.commit([CreateQueue(name) for name in "abc"], 0)
        store.close()
        assert [isinstance(result, errors.TooManyQueues) for result in results] == refused


# --- groups ---------------------------------------------------------------------------


def test_purging_thrice_in_one_group(engine: Store) -> None:
    fill(engine, b"one", LARGE)
    assert run(engine, *[PurgeQueue("q")] * 3, Send("q", (Draft(b"three"),))) == [2, 0, 0, Sent((3,))]
    assert ask(engine, model.GetQueue("q")).counters == model.Counters(sent=3, purged=2)
    assert len(engine.read(dump)[keys.GARBAGE]) == 3
    while run(engine, Sweep(1)):
        pass
    assert sorted(engine.read(dump)) == [keys.META, keys.NAMES, keys.ready_space(4), keys.QUEUES]
    assert contents(run(engine, Receive(("q",), 10))) == [b"three"]


def test_deleting_and_creating_the_same_name_in_one_group(engine: Store) -> None:
    fill(engine, b"one", LARGE)
    small = model.QueueSettings(max_message_bytes=5)
    results = run(
        engine, DeleteQueue("q"), CreateQueue("q", small), Send("q", (Draft(b"12345"),)), Send("q", (Draft(b"123456"),))
    )
    assert results[1].is_new
    assert results[2] == Sent((1,))
    assert isinstance(results[3], errors.MessageTooLarge)
    info = ask(engine, model.GetQueue("q"))
    assert (info.settings, info.messages.ready, info.counters.sent) == (small, 1, 1)
    assert contents(run(engine, Receive(("q",), 10))) == [b"12345"]


def test_receiving_after_a_purge_in_one_group(engine: Store) -> None:
    fill(engine, b"one", LARGE)
    results = run(engine, PurgeQueue("q"), Receive(("q",)), Send("q", (Draft(LARGE),)), Receive(("q",)))
    assert results[1] == model.Received(())
    assert [(m.id, m.content) for m in results[3].messages] == [(3, LARGE)]
    assert contents(ask(engine, Peek("q"))) == []


def test_purging_and_sweeping_in_one_group(engine: Store) -> None:
    fill(engine, b"one", LARGE)
    results = run(engine, PurgeQueue("q"), Sweep(100), Send("q", (Draft(b"three"),)), Sweep(100))
    assert results == [2, False, Sent((3,)), False]
    assert contents(run(engine, Receive(("q",)))) == [b"three"]


def test_sending_nothing(engine: Store) -> None:
    assert run(engine, CreateQueue("q"), Send("q", ()))[1] == Sent(())


REFUSED = [
    (CreateQueue("q", model.QueueSettings(max_message_bytes=7)), errors.QueueExists),
    (CreateQueue("."), errors.InvalidQueueName),
    (CreateQueue("new"), errors.TooManyQueues),
    (DeleteQueue("absent"), errors.QueueNotFound),
    (DeleteQueue("q", if_empty=True), errors.QueueNotEmpty),
    (PurgeQueue("absent"), errors.QueueNotFound),
    (PurgeQueue("q"), errors.Overloaded),
    (Send("absent", (Draft(b""),)), errors.QueueNotFound),
    (Send("q", (Draft(b"fits"), Draft(LARGE), Draft(b"-" * 100_000))), errors.MessageTooLarge),
    (Receive(("absent",)), errors.QueueNotFound),
]


@pytest.mark.parametrize(("command", "error"), REFUSED, ids=repr)
def test_a_refused_command_writes_nothing(
    engine: Store, command: model.Command, error: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queues, "MAX_GARBAGE", 1)
    monkeypatch.setattr(model, "MAX_QUEUES", 1)
    settings = model.QueueSettings(max_message_bytes=len(LARGE))
    run(engine, CreateQueue("q", settings), PurgeQueue("q"), Send("q", (Draft(b"one"),)))
    before = engine.read(dump)
    assert type(run(engine, command)) is error
    assert engine.read(dump) == before


@pytest.mark.parametrize("name", ["", ".a", "a b", "a/b", "a\n", "ä", "a" * 81, "a\0"])
def test_names_that_are_not_names(engine: Store, name: str) -> None:
    send = Send(name, (Draft(b""),))
    for command in (CreateQueue(name), send, Receive((name,)), PurgeQueue(name), DeleteQueue(name)):
        assert isinstance(run(engine, command), errors.InvalidQueueName)


@pytest.mark.parametrize("name", ["a", "0", "A.b_c-9", "a" * 80, "-", "_a", "-.fifo"])
def test_names_that_are_names(engine: Store, name: str) -> None:
    assert run(engine, CreateQueue(name, model.QueueSettings(fifo=name.endswith(".fifo")))).is_new


@pytest.mark.parametrize("size", [0, codec.MAX_INLINE_BYTES, CHUNK_BYTES, CHUNK_BYTES + 1, 100_000])
def test_content_comes_back_byte_for_byte(engine: Store, size: int) -> None:
    content = random.Random(size).randbytes(size)
    fill(engine, content)
    assert contents(run(engine, Receive(("q",)))) == [content]
    assert keys.CHUNKS not in engine.read(dump)


def test_a_cancel_of_a_damaged_message_is_refused_and_writes_nothing(engine: Store) -> None:
    fill(engine, b"one")
    run(engine, change(keys.ready_space(1), keys.message_key(1), flip(3)))
    before = engine.read(dump)
    assert isinstance(run(engine, model.Cancel("q", 1)), errors.MessageNotFound)
    assert engine.read(dump) == before
    assert run(engine, Receive(("q",))).quarantined == (1,)
    while run(engine, PurgeQueue("q")) or run(engine, Sweep(100)):
        pass


# --- what random commands seldom meet ------------------------------------------------------------


def at(engine: Store, by_ms: int, *commands: model.Command) -> list[Any]:
    """The results of a group at a later time."""
    return engine.commit(commands, NOW_MS + by_ms)


def test_a_message_that_expired_while_it_was_leased_is_not_given_back(engine: Store) -> None:
    run(engine, CreateQueue("q"), Send("q", (Draft(b"1", ttl_ms=10),)))
    received = run(engine, Receive(("q",), visibility_ms=1_000))
    at(engine, 10, model.Tick(10))
    at(engine, 20, model.Unreceive("q", received.messages))
    assert ask(engine, model.GetQueue("q")).counters == model.Counters(sent=1, expired=1)


@pytest.mark.parametrize("overflow", ["reject", "drop_oldest"])
def test_a_transaction_keeps_to_the_bytes_of_a_queue(engine: Store, overflow: Any) -> None:
    """Also when it takes as many messages out as it puts in."""
    settings = model.QueueSettings(max_bytes=2, overflow=overflow)
    run(engine, CreateQueue("q", settings), Send("q", (Draft(b"1"),)))
    [message] = run(engine, Receive(("q",), visibility_ms=1_000)).messages
    result = run(engine, model.Transaction((("q", message.receipt),), (("q", Draft(b"three")),)))
    assert isinstance(result, errors.QueueFull)
    assert ask(engine, model.GetQueue("q")).messages == model.Counts(in_flight=1)


@pytest.mark.parametrize("visibility_ms", [None, 1_000])
@pytest.mark.parametrize("sent", [0, 1])
def test_nothing_is_given_back_to_another_queue_of_the_same_name(
    engine: Store, sent: int, visibility_ms: int | None
) -> None:
    fill(engine, b"one")
    received = run(engine, Receive(("q",), visibility_ms=visibility_ms))
    drafts = (Draft(b"new"),) * sent
    run(engine, DeleteQueue("q"), CreateQueue("q"), Send("q", drafts), model.Unreceive("q", received.messages))
    assert contents(ask(engine, Peek("q"))) == [b"new"] * sent
    assert isinstance(run(engine, Send("q", (Draft(b"two"),))), Sent)


def test_a_part_of_a_move_looks_at_so_many_messages(engine: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came since it began are looked at too, and stay."""
    monkeypatch.setattr("tq.lifecycle.moving.MAX_LOOKED", 2)
    fill(engine, b"1", b"2", b"3")
    run(engine, CreateQueue("to"))
    first = run(engine, model.Redrive("q", "to"))
    assert (first.moved, first.after != b"") == (2, True)
    run(engine, Send("q", (Draft(b"4"), Draft(b"5"))))
    second = run(engine, model.Redrive("q", "to", after=first.after, before=first.before))
    third = run(engine, model.Redrive("q", "to", after=second.after, before=first.before))
    assert (second.moved, third.moved, third.after) == (1, 0, b"")
