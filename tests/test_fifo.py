"""What a FIFO queue promises of order, groups, delays and deduplication, one rule a test."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec import structs

from tests.bench import LEASE_MS, NOW_MS, Bench
from tests.engines import Do
from tq import errors, keys, model
from tq.lifecycle import looking
from tq.model import Ack, Draft, Extend, Peek, Receive, Release, Send

# --- batches and locks ---------------------------------------------------------------------------


def test_a_batch_comes_from_one_group_first_and_then_from_others(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "h1", "g2", "i1", "h2", "g3")
    assert list(bench.receive(5)) == ["g1", "g2", "g3", "h1", "h2"]
    assert list(bench.receive()) == ["i1"]


def test_a_batch_may_end_within_a_group(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3", "h1")
    assert list(bench.receive(2)) == ["g1", "g2"]
    assert bench.states() == {"g1": "in_flight", "g2": "in_flight", "g3": "blocked", "h1": "ready"}
    assert list(bench.receive()) == ["h1"]


def test_what_is_received_without_a_lease_comes_in_order(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "h1", "g2", "g3")
    assert list(bench.receive(2, visibility_ms=None)) == ["g1", "g2"]
    assert list(bench.receive(2, visibility_ms=None)) == ["h1", "g3"]


def test_a_group_with_anything_in_flight_is_locked(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3")
    receipts = bench.receive(2)
    bench.settle(Ack(receipts["g1"]))
    assert bench.receive() == {}
    assert bench.states() == {"g2": "in_flight", "g3": "blocked"}


@pytest.mark.parametrize("order", [("g1", "g2", "g3"), ("g3", "g1", "g2"), ("g2", "g3", "g1")])
def test_deleting_all_of_a_batch_unlocks_its_group(bench: Bench, order: tuple[str, ...]) -> None:
    bench.create()
    bench.send("g1", "g2", "g3", "g4")
    receipts = bench.receive(3)
    for content in order:
        assert bench.receive() == {}
        bench.settle(Ack(receipts[content]))
    assert list(bench.receive()) == ["g4"]


def test_a_new_send_never_unlocks(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2")
    receipts = bench.receive(2)
    bench.settle(Ack(receipts["g1"]))
    bench.send("g3")
    assert bench.receive() == {}
    assert bench.states() == {"g2": "in_flight", "g3": "blocked"}


def test_the_first_comes_back_while_the_second_is_in_flight(bench: Bench) -> None:
    """The group stays locked, and afterwards it goes on in order."""
    bench.create()
    bench.send("g1", "g2", "g3")
    receipts = bench.receive(2)
    bench.settle(Extend(receipts["g2"], 2 * LEASE_MS))
    bench.later(LEASE_MS)
    assert bench.states() == {"g1": "blocked", "g2": "in_flight", "g3": "blocked"}
    assert bench.receive() == {}
    bench.later(LEASE_MS)
    assert bench.states() == {"g1": "ready", "g2": "blocked", "g3": "blocked"}
    assert list(bench.receive()) == ["g1", "g2", "g3"]


def test_the_first_comes_back_and_the_second_is_deleted(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3")
    receipts = bench.receive(2)
    bench.settle(Release(receipts["g1"]))
    bench.settle(Ack(receipts["g2"]))
    assert list(bench.receive()) == ["g1", "g3"]


def test_the_second_comes_back_while_the_first_is_in_flight(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3")
    receipts = bench.receive(3)
    bench.settle(Release(receipts["g2"]))
    bench.settle(Release(receipts["g3"]), Ack(receipts["g1"]))
    assert bench.states() == {"g2": "ready", "g3": "blocked"}


def test_extending_the_first_keeps_later_ones_blocked(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2")
    receipts = bench.receive(1)
    bench.settle(Extend(receipts["g1"], 3 * LEASE_MS))
    bench.later(2 * LEASE_MS)
    assert bench.receive() == {}
    bench.later(LEASE_MS)
    assert list(bench.receive()) == ["g1", "g2"]


def test_one_that_is_released_with_a_delay_holds_up_its_group(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3", "h1")
    receipts = bench.receive(2)
    bench.settle(Release(receipts["g1"], 500), Ack(receipts["g2"]))
    assert bench.states() == {"g1": "delayed", "g3": "blocked", "h1": "ready"}
    assert list(bench.receive()) == ["h1"]
    bench.later(500)
    assert list(bench.receive()) == ["g1", "g3"]


def test_a_batch_ends_a_group_at_one_whose_delay_is_not_over(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3", "h1")
    receipts = bench.receive(2)
    bench.settle(Release(receipts["g2"], 500), Release(receipts["g1"]))
    assert list(bench.receive()) == ["g1", "h1"]


@pytest.mark.parametrize("visibility_ms", [None, LEASE_MS])
def test_a_batch_that_could_not_be_delivered_is_as_it_was(bench: Bench, visibility_ms: int | None) -> None:
    bench.create()
    bench.send("g1", "g2", "h1", "g3")
    before = bench.ask(Peek("f.fifo")), bench.ask(Peek("f.fifo", "blocked"))
    received = bench.run(Receive(("f.fifo",), 3, visibility_ms))
    bench.run(model.Unreceive("f.fifo", received.messages))
    assert bench.states() == {"g1": "ready", "h1": "ready", "g2": "blocked", "g3": "blocked"}
    if visibility_ms is None:
        assert (bench.ask(Peek("f.fifo")), bench.ask(Peek("f.fifo", "blocked"))) == before
    [first, *_] = bench.ask(Peek("f.fifo")).messages
    assert (first.receive_count, first.first_received_at_ms) == (0, None)
    assert list(bench.receive()) == ["g1", "g2", "g3", "h1"]


def test_a_damaged_message_does_not_hold_up_its_group(bench: Bench) -> None:
    bench.create()
    bench.send("g1", "g2", "g3", "h1", "h2")

    def damage(tx: Any) -> None:
        tx.space(keys.ready_space(1)).put(keys.message_key(1), b"?")
        tx.space(keys.BLOCKED).put(keys.shared_key(1, keys.message_key(5)), b"?")

    bench.store.commit([Do(damage)], bench.now_ms)
    received = bench.run(Receive(("f.fifo",), 10, LEASE_MS))
    assert [message.content for message in received.messages] == [b"h1"]
    assert received.quarantined == (1, 5)
    assert list(bench.receive()) == ["g2", "g3"]
    bench.run(model.PurgeQueue("f.fifo"), model.Sweep(100))


# --- deduplication ---------------------------------------------------------------------------


def test_a_deduplication_id_is_known_after_the_delete_and_until_its_window_ends(bench: Bench) -> None:
    bench.create(dedup_window=300)
    first = bench.send("g1")
    bench.settle(Ack(bench.receive()["g1"]))
    assert bench.send("g1") == model.Sent(first.ids, (0,))
    bench.later(299_999)
    assert bench.send("g1") == model.Sent(first.ids, (0,))
    bench.later(1)
    assert bench.send("g1") == model.Sent((2,))


def test_a_purge_forgets_deduplication_ids(bench: Bench) -> None:
    bench.create()
    bench.send("g1")
    bench.run(model.PurgeQueue("f.fifo"))
    assert bench.send("g1").duplicates == ()


@pytest.mark.parametrize(("scope", "duplicates"), [("queue", (1, 2)), ("group", (2,))])
def test_a_deduplication_id_is_the_queue_s_or_the_group_s(bench: Bench, scope: Any, duplicates: tuple[int]) -> None:
    bench.create(dedup_scope=scope)
    drafts = [Draft(b"x", group=group, dedup_id="d") for group in ("g", "h", "g")]
    assert bench.run(Send("f.fifo", tuple(drafts))).duplicates == duplicates
    assert bench.run(Send("f.fifo", tuple(drafts))).duplicates == (0, 1, 2)


def test_the_content_is_the_deduplication_id_where_there_is_none(bench: Bench) -> None:
    bench.create(content_dedup=True)
    drafts = [
        Draft(b"x", group="g"),
        Draft(b"x", group="h"),
        Draft(b"x", group="g", dedup_id="d"),
        Draft(b"y", group="g"),
    ]
    assert bench.run(Send("f.fifo", tuple(drafts))).duplicates == (1,)
    [message, *_] = bench.run(Receive(("f.fifo",))).messages
    assert message.dedup_id == "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"group": None}, errors.GroupMissing),
        ({"group": ""}, errors.GroupMissing),
        ({"dedup_id": None}, errors.DedupIdMissing),
        ({"delay_ms": 1}, errors.NotInFifo),
        ({"priority": 1}, errors.NotInFifo),
    ],
)
def test_what_a_fifo_queue_does_not_take(bench: Bench, changes: dict[str, Any], error: type) -> None:
    bench.create()
    good = Draft(b"x", group="g", dedup_id="d", delay_ms=0)
    bad = structs.replace(good, **changes)
    assert isinstance(bench.run(Send("f.fifo", (good, bad))), error)
    assert bench.states() == {}
    each = bench.run(Send("f.fifo", (bad, good), is_each=True))
    assert (each.ids, [place for place, _ in each.refused]) == ((0, 1), [0])


# --- delays ---------------------------------------------------------------------------


def test_the_delay_is_looked_at_when_a_message_is_received(bench: Bench) -> None:
    bench.create(delay=60)
    bench.send("g1", "g2", "h1")
    received = bench.run(Receive(("f.fifo",), 10, LEASE_MS))
    assert (received.messages, received.ready_at_ms) == ((), NOW_MS + 60_000)
    assert bench.ask(model.GetQueue("f.fifo")).held_back == 3
    bench.run(model.PatchQueue("f.fifo", model.SettingsChange(delay=10)))
    bench.later(9_999)
    assert bench.receive() == {}
    bench.later(1)
    assert bench.ask(model.GetQueue("f.fifo")).held_back == 0
    assert list(bench.receive()) == ["g1", "g2", "h1"]


def test_a_longer_delay_counts_for_what_was_sent_before(bench: Bench) -> None:
    bench.create()
    bench.send("g1")
    bench.run(model.PatchQueue("f.fifo", model.SettingsChange(delay=60)))
    assert bench.receive() == {}


def test_a_batch_ends_at_what_is_too_young(bench: Bench) -> None:
    bench.create(delay=60)
    bench.send("g1", "h1")
    bench.later(30_000)
    bench.send("g2")
    bench.later(10_000)
    bench.send("i1")
    bench.later(20_000)
    received = bench.run(Receive(("f.fifo",), 10, LEASE_MS))
    assert [message.content for message in received.messages] == [b"g1", b"h1"]
    assert received.ready_at_ms == NOW_MS + 90_000
    assert bench.ask(model.GetQueue("f.fifo")).held_back == 2


def test_what_was_received_once_is_held_back_no_more(bench: Bench) -> None:
    bench.create()
    bench.send("g1")
    bench.receive()
    bench.run(model.PatchQueue("f.fifo", model.SettingsChange(delay=60)))
    bench.later(LEASE_MS)
    assert bench.ask(model.GetQueue("f.fifo")).held_back == 0
    assert list(bench.receive()) == ["g1"]


@pytest.mark.parametrize("counted", [100, 3, 1])
def test_how_many_are_held_back(bench: Bench, monkeypatch: pytest.MonkeyPatch, counted: int) -> None:
    """Also of so many that they are not counted."""
    monkeypatch.setattr(looking, "MAX_COUNTED", counted)
    bench.create(delay=60)
    held = [0]
    for step in range(4):
        bench.send(f"g{step}", f"h{step}")
        bench.later(20_000)
        held.append(bench.ask(model.GetQueue("f.fifo")).held_back)
    bench.receive()
    held.append(bench.ask(model.GetQueue("f.fifo")).held_back)
    bench.later(100_000)
    held.append(bench.ask(model.GetQueue("f.fifo")).held_back)
    assert held == [0, 2, 4, 4, 4, 4, 0]
    bench.receive(visibility_ms=None)
    assert bench.ask(model.GetQueue("f.fifo")).held_back == 0


def test_a_few_are_held_back_behind_many_that_are_not(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted, though their numbers have gaps."""
    monkeypatch.setattr(looking, "MAX_COUNTED", 5)
    bench.create(delay=60)
    bench.send(*[f"{letter}1" for letter in "abcdefgh"])
    bench.later(60_000)
    bench.send("i1", "j1", "k1", "l1")
    for message_id in (10, 11):
        bench.run(model.Cancel("f.fifo", message_id))
    assert bench.ask(model.GetQueue("f.fifo")).held_back == 2
