"""What one damaged record could do to all others, and must not. On both engines; the strict one sees half-done ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import Do, delete, open_engine, put
from tq import codec, keys, lifecycle, model
from tq.errors import QueueDamaged
from tq.model import CreateQueue, Draft, QueueSettings, Receive, Send, Tick
from tq.store import Store

NOW_MS = 1_000_000


@pytest.fixture(params=["lmdb", "memory"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    engine = open_engine(request.param, tmp_path / "data")
    yield engine
    engine.close()


def run(engine: Store, *commands: model.Command, at_ms: int = 0) -> Any:
    """The result of the last command. None may fail unexpectedly."""
    results = engine.commit(list(commands), NOW_MS + at_ms)
    for result in results:
        assert isinstance(result, QueueDamaged) or not isinstance(result, Exception), results
    return results[-1]


def take(engine: Store, queue: str = "q", limit: int = 100, at_ms: int = 0) -> list[bytes]:
    return [message.content for message in run(engine, Receive((queue,), limit), at_ms=at_ms).messages]


def counts(engine: Store, queue: str = "q") -> model.Counts:
    found: model.Counts = engine.read(lambda tx: lifecycle.answer(tx, model.GetQueue(queue), NOW_MS)).messages
    return found


ODD_TIMERS = [
    keys.due_key(1, keys.DueKind.LEASE, 1, keys.message_key(1))[:8] + b"\xff" * 13,
    b"\0" * 8,
    b"\1",
    keys.due_key(1, keys.DueKind.LEASE, 1, b""),
    keys.due_key(1, keys.DueKind.TTL, 1, b"\xff" * 9),
    keys.due_key(1, keys.DueKind.RETENTION, 1, b"x"),
    keys.due_key(1, keys.DueKind.DELAY, 99, keys.message_key(1)),
]


@pytest.mark.parametrize("entry", ODD_TIMERS, ids=bytes.hex)
def test_a_damaged_timer_stops_no_other(engine: Store, entry: bytes) -> None:
    run(engine, CreateQueue("q"), Send("q", (Draft(b"a"),)), Receive(("q",), visibility_ms=10))
    run(engine, put(keys.DUE, entry, b"\xff"))
    ticked = run(engine, Tick(50), Tick(0), at_ms=10)
    assert counts(engine) == model.Counts(ready=1)
    assert ticked.next_due_ms in (None, 1 << 56)  # in the far future: what is due now would be tried again at once


def test_the_timers_of_a_damaged_queue_stop_no_other(engine: Store) -> None:
    run(engine, CreateQueue("bad"), CreateQueue("q"))
    for name in ("bad", "q"):
        run(engine, Send(name, (Draft(b"a"),)), Receive((name,), visibility_ms=10))
    run(engine, put(keys.QUEUES, b"bad", b"\2damaged"))
    assert run(engine, Tick(50), at_ms=10).next_due_ms is None
    assert counts(engine) == model.Counts(ready=1)


@pytest.mark.parametrize("garbage", [b"\0", b"\0\0\0", keys.queue_prefix(1), b"\0\0\0\1\0"], ids=bytes.hex)
def test_damaged_garbage_takes_nothing_that_lives(engine: Store, garbage: bytes) -> None:
    drafts = (Draft(b"a"), Draft(b"b", delay_ms=10), Draft(b"c" * 10_000))
    run(engine, CreateQueue("q"), Send("q", drafts))
    run(engine, put(keys.GARBAGE, garbage, b""))
    assert run(engine, model.Sweep(1_000)) is False
    run(engine, Tick(50), at_ms=10)
    assert sorted(take(engine)) == [b"a", b"b", b"c" * 10_000]


@pytest.mark.parametrize("number", [b"", b"\0" * 8, b"\0" * 7 + b"\1", b"\xff" * 8, b"\xff" * 20], ids=bytes.hex)
def test_no_two_queues_get_the_same_place(engine: Store, number: bytes) -> None:
    run(engine, CreateQueue("q"), Send("q", (Draft(b"a"),)), CreateQueue("purged"), model.PurgeQueue("purged"))
    run(engine, put(keys.META, keys.NEXT_QUEUE_ID, number))
    run(engine, CreateQueue("new"), Send("new", (Draft(b"b"),)))
    assert (take(engine, "new"), take(engine)) == ([b"b"], [b"a"])


@pytest.mark.parametrize("name", [b"", b"other", b"\xff\xfe", b"no such queue", b"x" * 200])
def test_a_damaged_name_ends_no_lease_of_another_queue(engine: Store, name: bytes) -> None:
    run(engine, CreateQueue("q"), CreateQueue("other"))
    for queue, visibility_ms in (("q", 10), ("other", 10_000)):
        run(engine, Send(queue, (Draft(b"a"),)), Receive((queue,), visibility_ms=visibility_ms))
    run(engine, put(keys.NAMES, keys.queue_prefix(1), name))
    run(engine, Tick(50), at_ms=10)
    assert counts(engine, "other") == model.Counts(in_flight=1)
    assert counts(engine) == model.Counts(in_flight=1)  # its own timer is lost, and it is still counted


@pytest.mark.parametrize("spoilt", [b"", b"\3damaged"])
def test_a_group_of_many_damaged_messages(engine: Store, spoilt: bytes) -> None:
    """They are set aside one after the other, not one inside the other, and the first sound one follows."""
    many = 1_500
    run(engine, CreateQueue("q"), Send("q", tuple(Draft(b"%d" % number, group="g") for number in range(many))))
    blocked = [keys.shared_key(1, keys.message_key(number)) for number in range(2, many)]
    run(engine, *[put(keys.BLOCKED, key, spoilt) for key in blocked])
    assert take(engine, limit=1) == [b"0"]
    assert take(engine) == [b"%d" % (many - 1)]
    assert counts(engine) == model.Counts()


def test_messages_that_are_not_found_are_told_of(engine: Store) -> None:
    """As when the page of a queue is lost: it must not look empty."""
    run(
        engine,
        CreateQueue("q"),
        CreateQueue("other"),
        Send("q", (Draft(b"a"), Draft(b"b"))),
        Send("other", (Draft(b"c"),)),
    )
    run(engine, delete(keys.ready_space(1), keys.message_key(1)))
    for command in (Receive(("q",)), Send("q", (Draft(b"d"),)), model.PurgeQueue("q")):
        result = run(engine, command)
        assert isinstance(result, QueueDamaged)
        assert "1 ready messages" in result.detail
    assert take(engine, "other") == [b"c"]


ODD_KEYS = [b"\xff" * 8, b"\xff", b"\x09" + b"\xff" * 20, b"\0"]


@pytest.mark.parametrize("key", ODD_KEYS, ids=bytes.hex)
@pytest.mark.parametrize("settings", [QueueSettings(), QueueSettings(retention=1)], ids=["plain", "retention"])
def test_a_key_that_is_none_goes_to_quarantine(engine: Store, key: bytes, settings: QueueSettings) -> None:
    record = codec.pack_new(NOW_MS, 0, b"odd", None, 0)
    run(engine, CreateQueue("q", settings), Send("q", (Draft(b"a"),)), put(keys.ready_space(1), key, record))
    run(engine, Send("q", (Draft(b"b"),)))
    assert take(engine) == [b"a", b"b"]
    info = engine.read(lambda tx: lifecycle.answer(tx, model.GetQueue("q"), NOW_MS))
    assert (info.messages, info.counters.quarantined) == (model.Counts(), 1)
    run(engine, Tick(50), put(keys.ready_space(1), key, record), Tick(50), at_ms=2_000)
    assert take(engine, at_ms=2_000) == []


def test_what_was_taken_goes_back_before_a_damaged_head(engine: Store) -> None:
    run(engine, CreateQueue("q"), Send("q", (Draft(b"a", group="g"), Draft(b"b", group="g"))))
    received = run(engine, Receive(("q",)))
    run(engine, put(keys.ready_space(1), keys.message_key(2), b"\3damaged"), model.Unreceive("q", received.messages))
    assert take(engine) + take(engine) == [b"a"]
    assert counts(engine) == model.Counts()


def test_names_that_are_none_are_not_listed(engine: Store) -> None:
    run(engine, CreateQueue("q"), Do(lambda tx: tx.space(keys.QUEUES).put(b"q\xff", b"x")))
    page = engine.read(lambda tx: lifecycle.answer(tx, model.ListQueues(), NOW_MS))
    assert [info.name for info in page.queues] == ["q"]
