"""The bytes of every key, and that their order is the order of the numbers in them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tq import keys

patient = settings(deadline=None)  # the machine may be busy

sequences = st.integers(0, keys.MAX_SEQUENCE)
queue_ids = st.integers(0, (1 << 32) - 1)
chunk_numbers = st.integers(0, (1 << 16) - 1)


def test_names_of_the_spaces() -> None:
    names = (keys.META, keys.QUEUES, keys.CHUNKS, keys.QUARANTINE, keys.GARBAGE)
    assert names == ("meta", "queues", "chunks", "quarantine", "garbage")
    assert keys.ready_space(258) == "queue/258"
    assert (keys.NEXT_QUEUE_ID, keys.PROBED_AT) == (b"next_queue_id", b"probed_at")


@pytest.mark.parametrize(
    ("key", "golden"),
    [
        (keys.message_key(0), "0900000000000000"),
        (keys.message_key(1), "0900000000000001"),
        (keys.message_key(0x01020304050607), "0901020304050607"),
        (keys.message_key(keys.MAX_SEQUENCE), "09ffffffffffffff"),
        (keys.queue_prefix(258), "00000102"),
        (keys.shared_key(258, keys.message_key(3)), "00000102 0900000000000003"),
        (keys.chunk_key(258, keys.message_key(3), 4), "00000102 0900000000000003 0004"),
        (keys.chunk_key(0xFFFFFFFF, keys.message_key(3), 0xFFFF), "ffffffff 0900000000000003 ffff"),
    ],
)
def test_golden_keys(key: bytes, golden: str) -> None:
    assert key.hex() == golden.replace(" ", "")


def test_the_last_sequence_number_has_seven_bytes() -> None:
    assert keys.MAX_SEQUENCE == 256**7 - 1


@patient
@given(sequences)
def test_a_sequence_number_comes_back(sequence: int) -> None:
    assert keys.sequence_of(keys.message_key(sequence)) == sequence


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
