"""The bytes of every key, and that their order is the order of the numbers in them."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from uuid import RFC_4122, UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq import keys, model
from tq.keys import DueKind

patient = settings(deadline=None)  # the machine may be busy

sequences = st.integers(0, model.MAX_SEQUENCE)
priorities = st.integers(0, model.MAX_PRIORITY)
queue_ids = st.integers(0, (1 << 32) - 1)
chunk_numbers = st.integers(0, (1 << 16) - 1)


def test_names_of_the_spaces() -> None:
    names = (keys.META, keys.QUEUES, keys.NAMES, keys.IN_FLIGHT, keys.DELAYED, keys.BLOCKED, keys.GROUPS)
    assert names == ("meta", "queues", "names", "in_flight", "delayed", "blocked", "groups")
    assert (keys.NOTES, keys.ATTEMPTS, keys.MOVES) == ("notes", "attempts", "moves")
    names = (keys.DUE, keys.DEDUP, keys.CHUNKS, keys.QUARANTINE, keys.GARBAGE)
    assert names == ("due", "dedup", "chunks", "quarantine", "garbage")
    assert keys.ready_space(258) == "queue/258"
    names = (keys.NEXT_QUEUE_ID, keys.PROBED_AT, keys.CLOCK, keys.BOOT)
    assert names == (b"next_queue_id", b"probed_at", b"clock", b"boot")


@pytest.mark.parametrize(
    ("key", "golden"),
    [
        (keys.message_key(0), "0900000000000000"),
        (keys.message_key(1), "0900000000000001"),
        (keys.message_key(0x01020304050607), "0901020304050607"),
        (keys.message_key(model.MAX_SEQUENCE), "09ffffffffffffff"),
        (keys.message_key(3, 9), "0000000000000003"),
        (keys.message_key(3, 1), "0800000000000003"),
        (keys.queue_prefix(258), "00000102"),
        (keys.group_prefix(258, "ä"), "00000102 02 c3a4"),
        (keys.group_prefix(258, "g" * 128), "00000102 80" + "67" * 128),
        (keys.beside_prefix(keys.group_prefix(258, "ä")), "00000102 ff 02 c3a4"),
        (keys.dedup_key(258, "ab"), "00000102 6162"),
        (keys.dedup_key(258, "ab", "ä"), "00000102 ff 02 c3a4 6162"),
        (keys.attempt_key(258, "ab"), "00000102 6162"),
        (keys.moves_prefix("ab"), "6162 00"),
        (
            keys.due_key(0x18BCFE56800, DueKind.LEASE, 258, keys.message_key(3)),
            "0000018bcfe56800 01 00000102 0900000000000003",
        ),
        (keys.due_key(1, DueKind.DELAY, 0, b"k"), "0000000000000001 02 00000000 6b"),
        (keys.due_key(1, DueKind.TTL, 0, b"k"), "0000000000000001 03 00000000 6b"),
        (keys.due_key(1, DueKind.DEDUP, 0, b"k"), "0000000000000001 04 00000000 6b"),
        (keys.due_key(1, DueKind.ATTEMPT, 258, b"ab"), "0000000000000001 05 00000102 6162"),
        (keys.shared_key(258, keys.message_key(3)), "00000102 0900000000000003"),
        (keys.chunk_key(258, keys.message_key(3), 4), "00000102 0900000000000003 0004"),
        (keys.chunk_key(0xFFFFFFFF, keys.message_key(3), 0xFFFF), "ffffffff 0900000000000003 ffff"),
    ],
)
def test_golden_keys(key: bytes, golden: str) -> None:
    assert key.hex() == golden.replace(" ", "")


def test_the_last_sequence_number_has_seven_bytes() -> None:
    assert model.MAX_SEQUENCE == 256**7 - 1


@patient
@given(sequences)
def test_a_sequence_number_comes_back(sequence: int) -> None:
    assert keys.sequence_of(keys.message_key(sequence)) == sequence


@patient
@given(sequences, priorities, sequences, priorities)
def test_messages_are_ordered_by_priority_and_then_by_number(one: int, high: int, other: int, low: int) -> None:
    key = keys.message_key(one, high)
    assert (keys.sequence_of(key), keys.priority_of(key), len(key)) == (one, high, 8)
    assert (key < keys.message_key(other, low)) == ((-high, one) < (-low, other))


dues = st.tuples(st.integers(0, (1 << 64) - 1), st.sampled_from(DueKind), queue_ids, sequences)


@patient
@given(dues, dues)
def test_what_is_due_is_ordered_by_time_and_comes_back(one: tuple[Any, ...], other: tuple[Any, ...]) -> None:
    def key(due: tuple[Any, ...]) -> bytes:
        return keys.due_key(*due[:3], keys.message_key(due[3]))

    assert keys.parse_due(key(one)) == (*one[:3], keys.message_key(one[3]))
    assert (key(one) < key(other)) == (one < other)


attempts = st.integers(0, (1 << 32) - 1)


@patient
@given(queue_ids, sequences, priorities, attempts)
def test_a_receipt_comes_back(queue_id: int, sequence: int, priority: int, attempt: int) -> None:
    key = keys.message_key(sequence, priority)
    text = keys.receipt(queue_id, key, attempt)
    assert text.isascii()
    assert text[0] == "r"
    assert keys.parse_receipt(text) == (queue_id, key, attempt)


GOOD = keys.receipt(1, keys.message_key(1), 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "r",
        "1",
        "rr",
        "é",
        "r" + "ä" * 22,
        GOOD[1:],
        "x" + GOOD[1:],
        GOOD + "=",
        GOOD + "A",
        GOOD[:-1],
        GOOD[:-1] + "R",
        " " + GOOD,
        GOOD + "\n",
        GOOD[:5] + "!" + GOOD[6:],
        "r" * 10_000,
    ],
)
def test_what_is_no_receipt(text: str) -> None:
    assert keys.parse_receipt(text) is None


group_names = st.text(min_size=1, max_size=3)


@patient
@given(queue_ids, group_names, queue_ids, group_names)
def test_no_group_s_keys_lie_among_another_s(queue_id: int, group: str, other_id: int, other: str) -> None:
    is_same = (queue_id, group) == (other_id, other)
    assert keys.group_prefix(other_id, other).startswith(keys.group_prefix(queue_id, group)) == is_same


@patient
@given(group_names, group_names)
def test_what_is_beside_a_head_lies_apart_from_what_is_behind_it(group: str, other: str) -> None:
    beside = keys.beside_prefix(keys.group_prefix(1, group))
    assert not beside.startswith(keys.group_prefix(1, other))
    assert not keys.group_prefix(1, other).startswith(beside)
    assert keys.beside_prefix(keys.group_prefix(1, other)).startswith(beside) == (group == other)


@patient
@given(queue_ids, group_names, sequences)
def test_a_group_s_prefix_is_found_in_its_entries(queue_id: int, group: str, sequence: int) -> None:
    prefix = keys.group_prefix(queue_id, group)
    message = keys.message_key(sequence)
    assert keys.group_prefix_of(prefix + message) == prefix
    assert keys.group_prefix_of(keys.beside_prefix(prefix) + message) == prefix


@patient
@given(group_names, group_names, group_names, group_names)
def test_the_ids_of_a_group_are_no_other_s(group: str, dedup_id: str, other: str, another: str) -> None:
    key = keys.dedup_key(1, dedup_id, group)
    assert (key == keys.dedup_key(1, another, other)) == ((group, dedup_id) == (other, another))
    assert key != keys.dedup_key(1, another)


created = st.integers(0, (1 << 34) - 1)


def uuid(queue_id: int, created_ms: int, number: int) -> bytes:
    return keys.message_uuid(keys.uuid_prefix(queue_id, created_ms), number)


@patient
@given(queue_ids, created, sequences, queue_ids, created, sequences)
def test_a_uuid_tells_messages_apart_and_is_one(
    queue_id: int, created_ms: int, number: int, other_id: int, other_ms: int, other_number: int
) -> None:
    one, other = (queue_id, created_ms, number), (other_id, other_ms, other_number)
    assert (uuid(*one) == uuid(*other)) == (one == other)
    found = UUID(bytes=uuid(*one))
    assert (found.version, found.variant) == (8, RFC_4122)


def test_a_golden_uuid() -> None:
    assert UUID(bytes=uuid(1, 1_700_000_000_000, 2)).hex == "00000001f3f985a08000000000000002"


@patient
@given(queue_ids, sequences, chunk_numbers)
def test_a_queue_id_comes_back(queue_id: int, sequence: int, number: int) -> None:
    message = keys.message_key(sequence)
    every = (
        keys.queue_prefix(queue_id),
        keys.shared_key(queue_id, message),
        keys.chunk_key(queue_id, message, number),
    )
    assert [keys.queue_id_of(key) for key in every] == [queue_id] * 3
    assert all(longer.startswith(key) for key, longer in pairwise(every))


@patient
@given(sequences, sequences)
def test_messages_are_ordered_by_number(one: int, other: int) -> None:
    assert (keys.message_key(one) < keys.message_key(other)) == (one < other)


places = st.tuples(queue_ids, sequences, chunk_numbers)


@patient
@given(places, places)
def test_chunks_are_ordered_by_queue_and_message_and_number(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    def key(place: tuple[int, int, int]) -> bytes:
        queue_id, sequence, number = place
        return keys.chunk_key(queue_id, keys.message_key(sequence), number)

    assert (key(one) < key(other)) == (one < other)
    assert (key(one)[:12] < key(other)[:12]) == (one[:2] < other[:2])


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        (b"a", b"b"),
        (b"ab", b"ac"),
        (b"a\xff", b"b"),
        (b"a\xff\xff", b"b"),
        (b"\0", b"\1"),
        (b"\xfe", b"\xff"),
        (b"\0\0\1\xff", b"\0\0\2"),
        (b"\xff", None),
        (b"\xff\xff\xff\xff", None),
        (b"", None),
    ],
)
def test_after_prefix(prefix: bytes, after: bytes | None) -> None:
    assert keys.after_prefix(prefix) == after


few_bytes = st.lists(st.sampled_from([0, 1, 97, 254, 255]), max_size=4).map(bytes)


@patient
@given(few_bytes, few_bytes)
def test_a_key_is_before_after_prefix_exactly_when_it_begins_with_it(prefix: bytes, key: bytes) -> None:
    after = keys.after_prefix(prefix)
    is_between = prefix <= key and (after is None or key < after)
    assert is_between == key.startswith(prefix)


@pytest.mark.parametrize("queue_id", [-1, 1 << 32])
def test_a_queue_id_has_four_bytes(queue_id: int) -> None:
    with pytest.raises(OverflowError):
        keys.queue_prefix(queue_id)
