"""Rules that SQS brought, one a test: receipts, dead letters, receives that are repeated, bounds and notes."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from tests.bench import FIFO, LEASE_MS, NOW_MS, Bench
from tests.engines import Do
from tq import errors, keys, model
from tq.model import Ack, CreateQueue, Draft, Extend, Peek, Receive, Release, Send, Settle

# --- receipts ---------------------------------------------------------------------------


def test_the_receipt_of_a_lease_that_is_over_is_refused(bench: Bench) -> None:
    """Also where SQS takes any receipt in another queue."""
    bench.create()
    bench.send("g1")
    old = bench.receive()["g1"]
    bench.later(LEASE_MS)
    for action in (Ack(old), Extend(old, 1), Release(old)):
        [refusal] = bench.settle(action, is_any=True)
        assert isinstance(refusal, errors.StaleReceipt)
    new = bench.receive()["g1"]
    [refusal] = bench.settle(Ack(old), is_any=True)
    assert isinstance(refusal, errors.StaleReceipt)
    assert bench.settle(Ack(new), is_any=True) == (None,)
    assert bench.settle(Ack(new), is_any=True) == (None,)


def test_any_receipt_will_do_in_another_queue(bench: Bench) -> None:
    for name in ("q", "r"):
        bench.run(CreateQueue(name), Send(name, (Draft(b"1"),)))
    first, other = bench.receive(queue="q")["1"], bench.receive(queue="r")["1"]
    bench.later(LEASE_MS)
    second = bench.receive(queue="q")["1"]
    foreign, stranger, extended, deleted, again, late = bench.run(
        Settle("q", (Ack(other), Ack("x"), Extend(first, 1), Ack(first), Ack(second), Extend(second, 1)), True)
    )
    assert (type(foreign), type(stranger)) == (errors.NotAReceipt, errors.NotAReceipt)
    assert (extended, deleted, again) == (bench.now_ms + 1, None, None)
    assert isinstance(late, errors.MessageNotFound)
    assert bench.ask(model.GetQueue("q")).messages == model.Counts()


def test_a_receipt_that_was_never_given_out_deletes_nothing(bench: Bench) -> None:
    bench.run(CreateQueue("q"), Send("q", (Draft(b"1"),)))
    bench.receive(queue="q")
    [refusal] = bench.run(Settle("q", (Ack(keys.receipt(1, keys.message_key(1), 2)),), True))
    assert isinstance(refusal, errors.NotAReceipt)
    assert bench.states("q") == {"1": "in_flight"}


def test_a_receipt_of_what_was_purged_deletes_nothing_and_is_not_refused(bench: Bench) -> None:
    bench.create()
    bench.send("g1")
    receipt = bench.receive()["g1"]
    bench.run(model.PurgeQueue("f.fifo"))
    bench.send("g2")
    result = bench.settle(Ack(receipt), Extend(receipt, 1), is_any=True)
    assert (result[0], type(result[1])) == (None, errors.MessageNotFound)
    assert list(bench.receive()) == ["g2"]


# --- dead letters ---------------------------------------------------------------------------


def with_dead(bench: Bench, max_receives: int, on_receive: bool) -> None:
    bench.create("d.fifo")
    bench.create(dead_letter=model.DeadLetter("d.fifo", max_receives, on_receive=on_receive))


@pytest.mark.parametrize("on_receive", [True, False])
def test_dead_letters_keep_their_order(bench: Bench, on_receive: bool) -> None:
    with_dead(bench, 1, on_receive)
    bench.send("g1", "h1", "g2", "g3")
    assert list(bench.receive(3)) == ["g1", "g2", "g3"]
    bench.later(LEASE_MS)
    assert list(bench.receive()) == ["h1"]
    assert bench.content_order("d.fifo") == ["g1", "g2", "g3"]


def test_a_dead_letter_leaves_at_the_next_receive_and_the_next_of_its_group_comes(bench: Bench) -> None:
    with_dead(bench, 2, on_receive=True)
    bench.send("g1", "g2")
    for _ in range(2):
        assert list(bench.receive(1)) == ["g1"]
        bench.later(LEASE_MS)
    assert bench.states() == {"g1": "ready", "g2": "blocked"}
    assert bench.states("d.fifo") == {}
    assert list(bench.receive(1)) == ["g2"]
    assert bench.states("d.fifo") == {"g1": "ready"}


def test_a_dead_letter_keeps_what_it_had(bench: Bench) -> None:
    with_dead(bench, 1, on_receive=True)
    bench.send("g1")
    [before] = bench.run(Receive(("f.fifo",), 1, LEASE_MS, with_uuids=True)).messages
    bench.later(LEASE_MS)
    assert bench.receive() == {}
    [after] = bench.run(Receive(("d.fifo",), 1, LEASE_MS, with_uuids=True)).messages
    assert (after.uuid, after.receive_count, after.group) == (before.uuid, 2, "g")
    assert after.first_received_at_ms == before.first_received_at_ms == NOW_MS
    assert after.dead_letter == model.DeadLetterOrigin("f.fifo", "max_receives", 1)


def test_without_a_dead_letter_queue_the_message_comes_again(bench: Bench) -> None:
    with_dead(bench, 1, on_receive=True)
    bench.send("g1")
    bench.run(model.DeleteQueue("d.fifo"), model.Sweep(100))
    for _ in range(3):
        assert list(bench.receive()) == ["g1"]
        bench.later(LEASE_MS)


@pytest.mark.parametrize("on_receive", [True, False])
def test_a_dead_letter_queue_that_is_damaged_takes_nothing_and_loses_nothing(bench: Bench, on_receive: bool) -> None:
    with_dead(bench, 1, on_receive)
    bench.send("g1")
    sound = bench.store.read(lambda tx: tx.space(keys.QUEUES).get(b"d.fifo"))
    bench.store.commit([Do(lambda tx: tx.space(keys.QUEUES).put(b"d.fifo", b"?"))], bench.now_ms)
    for _ in range(3):
        bench.now_ms += LEASE_MS
        [_, received] = bench.store.commit([model.Tick(9), Receive(("f.fifo",), 1, LEASE_MS)], bench.now_ms)
        assert [message.content for message in received.messages] == [b"g1"]
    bench.store.commit([Do(lambda tx: tx.space(keys.QUEUES).put(b"d.fifo", sound))], bench.now_ms)


def test_a_fifo_queue_knows_no_priority_of_what_is_moved_to_it(bench: Bench) -> None:
    bench.create()
    bench.run(CreateQueue("q"), Send("q", (Draft(b"1", group="g"), Draft(b"2", group="g", priority=9))))
    bench.run(model.Redrive("q", "f.fifo"))
    bench.run(model.Redrive("q", "f.fifo"))
    assert bench.content_order("f.fifo") == ["1", "2"]


def test_a_task_moves_all_of_a_group(bench: Bench) -> None:
    """Though only its first is ready when the task begins, and newer messages come behind."""
    with_dead(bench, 1, on_receive=False)
    bench.send("g1", "h1", "g2", "g3", "i1", queue="d.fifo")
    task = bench.run(model.StartMove("d.fifo", "m", "f.fifo"))
    assert task.to_move == 5
    bench.send("j1", queue="d.fifo")
    while task.status == "running":
        task = bench.run(model.MoveSome("d.fifo", "m", 2))
    assert (task.status, task.moved) == ("completed", 5)
    assert bench.states("d.fifo") == {"j1": "ready"}
    assert list(bench.receive()) == ["g1", "g2", "g3", "h1", "i1"]


def test_nothing_is_rejected_into_a_damaged_queue(bench: Bench) -> None:
    with_dead(bench, 1, on_receive=True)
    bench.send("g1")
    receipt = bench.receive()["g1"]
    sound = bench.store.read(lambda tx: tx.space(keys.QUEUES).get(b"d.fifo"))
    bench.store.commit([Do(lambda tx: tx.space(keys.QUEUES).put(b"d.fifo", b"?"))], bench.now_ms)
    reject = Settle("f.fifo", (model.Reject(receipt),))
    [[refusal]] = bench.store.commit([reject], bench.now_ms)
    assert isinstance(refusal, errors.QueueDamaged)
    bench.store.commit([Do(lambda tx: tx.space(keys.QUEUES).put(b"d.fifo", sound))], bench.now_ms)
    assert bench.states() == {"g1": "in_flight"}
    assert bench.run(reject) == (None,)
    assert bench.states("d.fifo") == {"g1": "ready"}


def test_a_dead_letter_keeps_its_uuid_from_queue_to_queue(bench: Bench) -> None:
    bench.create("e.fifo")
    bench.create("d.fifo", dead_letter=model.DeadLetter("e.fifo", 1, on_receive=True))
    bench.create(dead_letter=model.DeadLetter("d.fifo", 1, on_receive=True))
    bench.send("g1")
    uuids = set()
    for queue in ("f.fifo", "d.fifo", "e.fifo"):
        [message] = bench.run(Receive((queue,), 1, LEASE_MS, with_uuids=True)).messages
        uuids.add(message.uuid)
        bench.later(LEASE_MS)
        bench.receive(1, queue)
    assert (len(uuids), message.dead_letter.source) == (1, "d.fifo")


@pytest.mark.parametrize("on_receive", [True, False])
def test_receives_count_in_each_dead_letter_queue_anew(bench: Bench, on_receive: bool) -> None:
    """Also when a message was given back after a receive that removed it."""
    bench.create("e.fifo")
    bench.create("d.fifo", dead_letter=model.DeadLetter("e.fifo", 2, on_receive=on_receive))
    bench.create(dead_letter=model.DeadLetter("d.fifo", 2, on_receive=True))
    bench.send("g1")
    for _ in range(2):
        assert list(bench.receive(visibility_ms=0)) == ["g1"]
    assert bench.receive() == {}
    removed = bench.run(Receive(("d.fifo",)))
    assert [message.receive_count for message in removed.messages] == [3]
    bench.run(model.Unreceive("d.fifo", removed.messages))
    for _ in range(2):
        assert list(bench.receive(queue="d.fifo", visibility_ms=0)) == ["g1"]
    assert bench.receive(queue="d.fifo") == {}
    assert bench.states("e.fifo") == {"g1": "ready"}


# --- receives that are repeated ---------------------------------------------------------------------------


def test_an_attempt_that_is_repeated_gets_the_same_receipts_and_a_new_lease(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "h1")
    first = bench.receive(2, attempt_id="a")
    bench.later(LEASE_MS - 1)
    assert bench.receive(2, attempt_id="a") == first
    bench.later(LEASE_MS - 1)
    assert bench.states() == {"g1": "in_flight", "g2": "in_flight", "h1": "ready"}
    [message] = [m for m in bench.ask(Peek("f.fifo", "in_flight")).messages if m.content == b"g1"]
    assert message.receive_count == 1
    assert list(bench.receive(2, attempt_id="b")) == ["h1"]


def test_an_attempt_is_not_repeated_when_some_of_it_is_gone(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "h1")
    first = bench.receive(2, attempt_id="a")
    bench.settle(Ack(first["g2"]))
    assert list(bench.receive(2, attempt_id="a")) == ["h1"]
    assert bench.states() == {"g1": "in_flight", "h1": "in_flight"}


def test_an_attempt_is_not_repeated_when_its_leases_are_over(bench: Bench) -> None:
    bench.create()
    bench.send("g1")
    first = bench.receive(attempt_id="a")
    bench.later(LEASE_MS)
    assert bench.receive(attempt_id="a") != first
    assert bench.ask(Peek("f.fifo", "in_flight")).messages[0].receive_count == 2


def test_an_attempt_can_be_repeated_for_so_long(bench: Bench) -> None:
    bench.create()
    bench.send("g1")
    lease = {"visibility_ms": 2 * model.RECEIVE_ATTEMPT_MS, "attempt_id": "a"}
    first = bench.receive(**lease)
    bench.later(model.RECEIVE_ATTEMPT_MS - 1)
    assert bench.receive(**lease) == first
    bench.later(1)
    assert bench.receive(**lease) == {}
    assert bench.store.read(lambda tx: tx.space(keys.ATTEMPTS).count()) == 0


def test_an_attempt_is_repeated_though_as_many_as_may_be_are_in_flight(bench: Bench) -> None:
    bench.create(max_in_flight=1)
    bench.send("g1", "h1")
    first = bench.receive(attempt_id="a")
    assert list(first) == ["g1"]
    assert bench.receive(attempt_id="a") == first
    assert isinstance(bench.run(Receive(("f.fifo",), 1, LEASE_MS, attempt_id="b")), errors.TooManyInFlight)


# --- other queues have these too ---------------------------------------------------------------------------


def test_no_more_are_in_flight_than_may_be(bench: Bench) -> None:
    bench.run(CreateQueue("q", model.QueueSettings(max_in_flight=3)), CreateQueue("r"))
    bench.run(Send("q", tuple(Draft(b"%d" % n) for n in range(6))), Send("r", (Draft(b"r"),)))
    assert list(bench.receive(2, "q")) == ["0", "1"]
    assert list(bench.receive(2, "q")) == ["2"]
    assert isinstance(bench.run(Receive(("q",), 1, LEASE_MS)), errors.TooManyInFlight)
    assert bench.run(Receive(("q", "r"), 1, LEASE_MS)).queue == "r"
    assert list(bench.receive(1, "q", visibility_ms=None)) == ["3"]


def test_attributes_count_against_the_largest_message(bench: Bench) -> None:
    bench.run(CreateQueue("q", model.QueueSettings(max_message_bytes=20)))
    attribute = {"n": model.Attribute("Number", "1")}  # 1 + 6 + 1
    fits = Draft(b"x" * 5, headers={"h": "w"[:0]}, attributes=attribute)  # 5 + 7 + 8
    assert bench.run(Send("q", (fits,))).ids == (1,)
    for larger in (
        {"content": b"x" * 6},
        {"headers": {"h": "v"}},
        {"attributes": {"n": model.Attribute("Number", "12")}},
    ):
        refusal = bench.run(Send("q", (structs.replace(fits, **larger),)))
        assert (type(refusal), refusal.limit) == (errors.MessageTooLarge, 20)
    noted = structs.replace(fits, notes={"k": "v" * 100})
    assert bench.run(Send("q", (noted,))).ids == (2,)


def test_notes_change_only_where_they_are_as_expected(bench: Bench) -> None:
    bench.run(CreateQueue("q", notes={"k": "v"}))
    patch = model.PatchQueue("q", model.SettingsChange(delay=1), {"k": None, "l": "x"}, {"k": "w"})
    assert bench.run(patch) is None
    info = bench.ask(model.GetQueue("q"))
    assert (info.notes, info.settings.delay) == ({"k": "v"}, 0)
    info = bench.run(structs.replace(patch, expected={"k": "v", "m": None}))
    assert (info.notes, info.settings.delay) == ({"l": "x"}, 1)
    bench.run(model.DeleteQueue("q"), model.Sweep(100))
    bench.run(model.PutQueue("q"))
    assert bench.ask(model.GetQueue("q")).notes == {}


def test_a_queue_is_a_fifo_queue_for_life(bench: Bench) -> None:
    bench.create()
    assert isinstance(bench.run(model.PutQueue("f.fifo")), errors.InvalidRequest)
    assert isinstance(bench.run(CreateQueue("q", FIFO)), errors.InvalidRequest)
    assert isinstance(bench.run(CreateQueue("q.fifo")), errors.InvalidRequest)
    assert bench.run(model.PutQueue("q.fifo", FIFO)).is_new


def test_headers_and_attributes_count_for_what_may_wait() -> None:
    draft = model.Draft(b"12", headers={"h": "x" * 100}, attributes={"a": model.Attribute("Binary", b"x" * 1_000)})
    content = model.Draft(b"12")
    more = draft.size - content.size
    assert (content.size, more) == (2, len("h") + len("String") + 100 + len("a") + len("Binary") + 1_000)
    assert model.Send("q", (draft,)).cost_bytes == model.Send("q", (content,)).cost_bytes + more
    assert (
        model.Transaction((), (("q", draft),)).cost_bytes == model.Transaction((), (("q", content),)).cost_bytes + more
    )


# --- retention ---------------------------------------------------------------------------


def with_an_old_dead_letter(bench: Bench) -> None:
    """One of half a minute, behind a message that is new, in a queue that keeps them for a minute."""
    bench.run(CreateQueue("dead", model.QueueSettings(retention=60)))
    letter = model.DeadLetter("dead", 1, on_receive=True)
    bench.run(CreateQueue("q", model.QueueSettings(dead_letter=letter)), Send("q", (Draft(b"old"),)))
    bench.receive(queue="q", visibility_ms=0)
    bench.later(30_000)
    bench.run(Send("dead", (Draft(b"young"),)))
    bench.receive(queue="q")


def test_a_dead_letter_is_as_old_as_it_was(bench: Bench) -> None:
    """It goes in its time when younger ones were there before it but are gone."""
    with_an_old_dead_letter(bench)
    bench.run(Send("dead", (Draft(b"youngest"),)))
    assert list(bench.states("dead")) == ["young", "old", "youngest"]
    bench.run(Receive(("dead",)))
    bench.later(30_000)
    assert bench.states("dead") == {"youngest": "ready"}


def test_behind_a_younger_one_a_message_that_is_too_old_is_not_received(bench: Bench) -> None:
    with_an_old_dead_letter(bench)
    bench.later(30_000)
    assert list(bench.receive(queue="dead")) == ["young"]


def test_a_damaged_message_does_not_hide_older_ones(bench: Bench) -> None:
    bench.run(CreateQueue("q", model.QueueSettings(retention=60)), Send("q", (Draft(b"1"), Draft(b"2"), Draft(b"3"))))
    queue_id = bench.store.read(lambda tx: keys.queue_id_of(next(tx.space(keys.NAMES).scan())[0]))

    def damage(tx: Any) -> None:
        tx.space(keys.ready_space(queue_id)).put(keys.message_key(1), b"?")

    bench.store.commit([Do(damage)], bench.now_ms)
    bench.now_ms += 60_000
    bench.store.commit([model.Tick(2)], bench.now_ms)
    assert bench.states("q") == {"3": "ready"}
    bench.store.commit([model.Tick(2)], bench.now_ms)
    info = bench.ask(model.GetQueue("q"))
    assert (info.messages, info.counters.expired, info.counters.quarantined) == (model.Counts(), 2, 1)


def test_the_wall_clock_has_no_say_in_how_old_a_message_is(bench: Bench) -> None:
    """Set back by an hour, it says that the older message was sent later; set forward, that it is old."""
    bench.run(CreateQueue("q", model.QueueSettings(retention=60)), Send("q", (Draft(b"older"),)))
    bench.run(model.SetClock(3_600_000))
    bench.later(30_000)
    bench.run(Send("q", (Draft(b"younger", delay_ms=1_000_000),)))
    bench.run(model.SetClock(-3_600_000))
    bench.later(29_999)
    assert list(bench.states("q")) == ["older", "younger"]
    bench.later(1)
    assert list(bench.states("q")) == ["younger"]


def test_a_tick_has_an_end_over_several_queues(bench: Bench) -> None:
    for name in ("q", "r"):
        bench.run(CreateQueue(name, model.QueueSettings(retention=60)), Send(name, (Draft(b"1"), Draft(b"2"))))
    bench.now_ms += 60_000
    for left in (2, 0):
        bench.store.commit([model.Tick(2)], bench.now_ms)
        assert sum(bench.ask(model.GetQueue(name)).messages.ready for name in ("q", "r")) == left
