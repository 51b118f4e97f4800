"""Records to bytes and back."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engines import inline_bytes, open_engine, put
from tests.golden import (
    GOLDEN,
    GOLDEN_MESSAGES,
    GOLDEN_MOVE,
    GOLDEN_NOTES,
    GOLDEN_QUEUES,
    NOW_MS,
    OLD_MESSAGES,
    OLD_QUEUES,
)
from tq import codec, keys, model
from tq.codec import CHUNK_BYTES, MAX_INLINE_BYTES, ChunkedBody, CorruptRecord, MessageRecord, QueueRecord
from tq.model import (
    Attribute,
    Boot,
    Clock,
    CreateQueue,
    DeadLetter,
    DeadLetterOrigin,
    Draft,
    MoveTask,
    QueueSettings,
    Send,
)

patient = settings(deadline=None)  # the machine may be busy

numbers = st.integers(0, (1 << 64) - 1)
chunked = st.builds(ChunkedBody, st.integers(0, 1 << 27), st.integers(0, (1 << 32) - 1))
texts = st.text(min_size=1, max_size=20)
origins = st.builds(DeadLetterOrigin, texts, texts, numbers)
text_maps = st.dictionaries(texts, st.text(max_size=20), min_size=1, max_size=3)
attributes = st.builds(Attribute, texts, st.text(max_size=20) | st.binary(max_size=20))
messages = st.builds(
    MessageRecord,
    numbers,
    st.binary(max_size=300) | chunked,
    st.none() | st.text(max_size=20),
    *[numbers] * 5,
    st.integers(-(1 << 40), 1 << 40),
    numbers,
    st.none() | texts,
    st.none() | text_maps,
    st.none() | origins,
    st.none() | texts,
    st.none() | st.dictionaries(texts, attributes, min_size=1, max_size=3),
    st.none() | text_maps,
    st.none() | st.binary(min_size=16, max_size=16),
    numbers,
)
queue_settings = st.builds(
    QueueSettings,
    visibility_timeout=st.floats(0, model.MAX_VISIBILITY_S),
    ttl=st.none() | st.floats(0.001, model.MAX_DELAY_S),
    retention=st.none() | st.floats(0.001, model.MAX_DELAY_S),
    max_bytes=st.none() | st.integers(1, (1 << 63) - 1),
    overflow=st.sampled_from(["reject", "drop_oldest"]),
    max_message_bytes=st.integers(1, model.MAX_MESSAGE_BYTES),
    dead_letter=st.none() | st.builds(DeadLetter, texts, st.integers(1, 1_000), st.booleans(), st.booleans()),
    dedup_scope=st.sampled_from(["queue", "group"]),
    content_dedup=st.booleans(),
    fifo=st.booleans(),
    max_in_flight=st.none() | st.integers(1, (1 << 63) - 1),
    receive_wait=st.floats(0, model.MAX_WAIT_S),
    paused=st.booleans(),
)
counters = st.dictionaries(st.sampled_from(model.Counters.__struct_fields__), numbers)
moves = st.builds(
    MoveTask,
    texts,
    texts,
    st.none() | texts,
    st.none() | numbers,
    numbers,
    numbers,
    st.sampled_from(["running", "completed", "cancelled", "failed"]),
    numbers,
    st.none() | texts,
    st.binary(max_size=8),
    *[numbers] * 2,
)
queues = st.builds(QueueRecord, *[numbers] * 3, queue_settings, *[numbers] * 4, counters, numbers)


def seal(fields: Any, version: int = codec.VERSION) -> bytes:
    """A record with a right checksum around anything."""
    value = bytes([version]) + msgpack.packb(fields)
    return value + crc32(value).to_bytes(4, "big")


# --- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(("record", "golden"), GOLDEN_MESSAGES)
def test_golden_messages(record: MessageRecord, golden: str) -> None:
    assert codec.pack_message(record).hex() == golden.replace(" ", "")
    assert codec.unpack_message(bytes.fromhex(golden)) == record


@pytest.mark.parametrize(("record", "golden"), OLD_MESSAGES)
def test_messages_that_older_versions_wrote(record: MessageRecord, golden: str) -> None:
    assert codec.unpack_message(bytes.fromhex(golden)) == record


@pytest.mark.parametrize(("record", "golden"), OLD_QUEUES)
def test_queues_that_older_versions_wrote(record: QueueRecord, golden: str) -> None:
    assert codec.unpack_queue(bytes.fromhex(golden)) == record


@pytest.mark.parametrize(("record", "golden"), GOLDEN_QUEUES)
def test_golden_queues(record: QueueRecord, golden: str) -> None:
    assert codec.pack_queue(record).hex() == golden.replace(" ", "")
    assert codec.unpack_queue(bytes.fromhex(golden)) == record


ALL_GOLDEN = [golden for _, golden in GOLDEN]


def test_golden_notes_and_moves() -> None:
    notes, golden = GOLDEN_NOTES
    assert codec.pack_notes(notes).hex() == golden.replace(" ", "")
    assert codec.unpack_notes(bytes.fromhex(golden)) == notes
    task, golden = GOLDEN_MOVE
    assert codec.pack_move(task).hex() == golden.replace(" ", "")
    assert codec.unpack_move(bytes.fromhex(golden)) == task


@pytest.mark.parametrize("golden", ALL_GOLDEN)
def test_golden_bytes_are_as_the_codec_says(golden: str) -> None:
    """Version, msgpack, checksum: told apart here without the codec."""
    value = bytes.fromhex(golden)
    assert value[0] in (1, 2, 3)
    assert isinstance(msgpack.unpackb(value[1:-4]), list | dict)
    assert crc32(value[:-4]).to_bytes(4, "big") == value[-4:]


@patient
@given(messages)
def test_a_message_comes_back(record: MessageRecord) -> None:
    assert codec.unpack_message(codec.pack_message(record)) == record


@patient
@given(queues)
def test_a_queue_comes_back(record: QueueRecord) -> None:
    assert codec.unpack_queue(codec.pack_queue(record)) == record


@patient
@given(text_maps, moves)
def test_notes_and_a_move_come_back(notes: dict[str, str], task: MoveTask) -> None:
    assert codec.unpack_notes(codec.pack_notes(notes)) == notes
    assert codec.unpack_move(codec.pack_move(task)) == task


@pytest.mark.parametrize("media_type", ["", "text/plain; charset=utf-8", "ä" * 300, "x" * 70_000])
def test_a_media_type_of_any_length_comes_back(media_type: str) -> None:
    record = MessageRecord(NOW_MS, b"\0", media_type)
    assert codec.unpack_message(codec.pack_message(record)) == record


# --- what is refused ---------------------------------------------------------------------------


@patient
@given(messages, st.data())
def test_any_flipped_bit_of_a_message_is_seen(record: MessageRecord, data: st.DataObject) -> None:
    refuses_a_flipped_bit(codec.unpack_message, codec.pack_message(record), data)


@patient
@given(queues, st.data())
def test_any_flipped_bit_of_a_queue_is_seen(record: QueueRecord, data: st.DataObject) -> None:
    refuses_a_flipped_bit(codec.unpack_queue, codec.pack_queue(record), data)


def refuses_a_flipped_bit(unpack: Callable[[bytes], Any], value: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    flipped = bytearray(value)
    flipped[bit // 8] ^= 1 << bit % 8
    with pytest.raises(CorruptRecord):
        unpack(bytes(flipped))


UNPACK = (codec.unpack_message, codec.unpack_queue, codec.unpack_notes, codec.unpack_move)


@pytest.mark.parametrize("golden", ALL_GOLDEN)
def test_every_single_bit_and_every_length_counts(golden: str) -> None:
    value = bytes.fromhex(golden)
    spoilt = [value[:length] for length in range(len(value))] + [value + b"\0", b"\0" + value]
    for bit in range(8 * len(value)):
        flipped = int.from_bytes(value, "big") ^ (1 << bit)
        spoilt.append(flipped.to_bytes(len(value), "big"))
    for bad in spoilt:
        for unpack in UNPACK:
            with pytest.raises(CorruptRecord):
                unpack(bad)


@patient
@given(st.binary(max_size=100))
def test_bytes_that_are_no_record(value: bytes) -> None:
    for unpack in UNPACK:
        with pytest.raises(CorruptRecord):
            unpack(value)


@pytest.mark.parametrize("version", [0, 4, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(CorruptRecord, match=f"record version {version:02x} is unknown"):
        codec.unpack_message(seal([NOW_MS, 0, 0, 0, 0, None, b"", 0, None, 0, 0], version))


def test_only_messages_have_a_third_version() -> None:
    with pytest.raises(CorruptRecord, match="record version 03 is unknown"):
        codec.unpack_queue(seal([1, 1, NOW_MS, {}, 0, 0, 0, 0, {}, 0], 3))


@pytest.mark.parametrize(
    ("unpack", "fields"),
    [
        (codec.unpack_notes, ["k"]),
        (codec.unpack_notes, {"k": 1}),
        (codec.unpack_notes, None),
        (codec.unpack_move, ["m"]),
        (codec.unpack_move, {"id": "m"}),
        (codec.unpack_move, None),
    ],
)
def test_notes_and_moves_of_another_layout_are_refused(unpack: Callable[[bytes], Any], fields: Any) -> None:
    with pytest.raises(CorruptRecord):
        unpack(seal(fields))


@pytest.mark.parametrize(
    "fields",
    [
        [NOW_MS, 0, 0, 0, 0, None, b"", 0, None, 0],
        [NOW_MS, 0, 0, 0, 0, None, b"", 0, None, 0, 0, 0],
        [NOW_MS, 0, 0, 0, 0, None, None, 0, None, 0, 0],
        [NOW_MS, 0, 0, 0, 0, None, b"", 0, {"attributes": {"n": ["Number"]}}, 0, 0],
        [NOW_MS, 0, 0, 0, 0, None, b"", 0, {"attributes": ["n"]}, 0, 0],
        [NOW_MS, 0, 0, 0, 0, None, b"", 0, 7, 0, 0],
        {"a": 1},
        None,
    ],
)
def test_a_message_of_another_layout_of_the_latest_version_is_refused(fields: Any) -> None:
    with pytest.raises(CorruptRecord):
        codec.unpack_message(seal(fields, codec.MESSAGE_VERSION))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [NOW_MS, 0, None, b""],
        [NOW_MS, 0, 0, 0, 0, None, b""],
        [NOW_MS, 0, 0, 0, 0, None, b"", None, 1],
        [NOW_MS, 0, 0, 0, 0, None, None, None],
        [NOW_MS, 0, 0, 0, 0, None, [1], None],
        [NOW_MS, 0, 0, 0, 0, None, [1, 2, 3, 4], None],
        [NOW_MS, 0, 0, 0, 0, None, b"", 7],
        [NOW_MS, 0, 0, 0, 0, None, b"", {"dead_letter": ["q"]}],
        {"a": 1},
        None,
        7,
    ],
)
def test_a_message_of_another_layout_is_refused(fields: Any) -> None:
    with pytest.raises(CorruptRecord):
        codec.unpack_message(seal(fields))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [1, 1, NOW_MS],
        [1, 1, NOW_MS, {}, 0, 0, 0, 0, {}],
        [1, 1, NOW_MS, {}, 0, 0, 0, 0, {}, 0, 0],
        [1, 1, NOW_MS, {"unknown": 1}, 0, 0, 0, 0, {}, 0],
        [1, 1, NOW_MS, {"max_message_bytes": 0}, 0, 0, 0, 0, {}, 0],
        [1, 1, NOW_MS, None, 0, 0, 0, 0, {}, 0],
        None,
    ],
)
def test_a_queue_of_another_layout_is_refused(fields: Any) -> None:
    with pytest.raises(CorruptRecord):
        codec.unpack_queue(seal(fields, codec.QUEUE_VERSION))
    if isinstance(fields, list):
        with pytest.raises(CorruptRecord):
            codec.unpack_queue(seal(fields[:-1]))


def test_a_message_is_no_queue_and_a_queue_no_message() -> None:
    with pytest.raises(CorruptRecord):
        codec.unpack_queue(codec.pack_message(GOLDEN_MESSAGES[0][0]))
    with pytest.raises(CorruptRecord):
        codec.unpack_message(codec.pack_queue(GOLDEN_QUEUES[0][0]))


# --- bodies in chunks ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "lengths"),
    [
        (0, []),
        (1_900, []),
        (2_000, [2_000]),
        (4_079, [4_079]),
        (4_080, [4_080]),
        (4_081, [4_080, 1]),
        (8_160, [4_080, 4_080]),
        (8_161, [4_080, 4_080, 1]),
    ],
)
def test_a_body_is_split_and_joined(size: int, lengths: list[int]) -> None:
    content = bytes(n % 251 for n in range(size))
    whole = MessageRecord(NOW_MS, content)
    record, pieces = codec.split_body(whole)
    assert [len(piece) for piece in pieces] == lengths
    if lengths:
        assert record.body == ChunkedBody(size, crc32(content))
        assert isinstance(record.body, ChunkedBody)
        assert record.body.chunks == len(lengths)
        assert codec.join_body(record, pieces) == whole
    else:
        assert record is whole
    assert codec.content_bytes(record) == size


@pytest.mark.parametrize(("size", "header"), [(0, 2_000), (10, 60_000), (1_000, 1_000), (5_000, 1)])
def test_headers_lie_with_the_body_when_they_are_large(size: int, header: int) -> None:
    whole = MessageRecord(NOW_MS, b"x" * size, headers={"name": "ä" * header}, group="g", attempt=3)
    record, pieces = codec.split_body(whole)
    assert pieces
    assert record.headers is None
    assert len(codec.pack_message(record)) < 200
    assert codec.content_bytes(record) == size
    assert codec.join_body(record, pieces) == whole


@pytest.mark.parametrize("headers", [None, {"h": "ä"}])
@pytest.mark.parametrize("size", [10, 5_000])
def test_attributes_and_notes_lie_with_the_body_when_they_are_large(size: int, headers: dict[str, str] | None) -> None:
    attributes = {"b": Attribute("Binary", b"\xff" * 3_000), "n": Attribute("Number", "1")}
    whole = MessageRecord(NOW_MS, b"x" * size, headers=headers, attributes=attributes, notes={"k": "v"}, dedup_id="d")
    record, pieces = codec.split_body(whole)
    assert (record.headers, record.attributes, record.notes) == (None, None, None)
    assert codec.content_bytes(record) == size
    assert codec.join_body(record, pieces) == whole


@pytest.mark.parametrize("notes", [None, {"k": "v"}])
@pytest.mark.parametrize("attributes", [None, {"n": Attribute("Number", "1")}])
def test_what_a_message_has_beside_a_body_in_chunks_comes_back(
    attributes: dict[str, Attribute] | None, notes: dict[str, str] | None
) -> None:
    whole = MessageRecord(NOW_MS, b"x" * 5_000, attributes=attributes, notes=notes)
    record, pieces = codec.split_body(whole)
    joined = codec.join_body(record, pieces)
    assert (joined.attributes or None, joined.notes, joined.headers) == (attributes, notes, None)


def test_chunks_that_older_versions_wrote() -> None:
    """Before the body lay nothing but headers."""
    head = bytes.fromhex("81a168a2c3a4")
    record = MessageRecord(NOW_MS, ChunkedBody(len(head) + 2, crc32(head + b"ab"), len(head)))
    assert codec.join_body(record, [head + b"a", b"b"]) == MessageRecord(NOW_MS, b"ab", headers={"h": "ä"})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda pieces: pieces[:-1],
        lambda pieces: pieces[1:],
        lambda pieces: pieces[::-1],
        lambda pieces: [*pieces, b"x"],
        lambda pieces: [*pieces[:-1], pieces[-1][:-1] + b"\xff"],
        lambda pieces: [b"", *pieces[1:]],
        lambda _: [],
    ],
)
def test_pieces_that_are_not_the_body(spoil: Callable[[list[bytes]], list[bytes]]) -> None:
    record, pieces = codec.split_body(MessageRecord(NOW_MS, bytes(n % 251 for n in range(10_000))))
    with pytest.raises(CorruptRecord):
        codec.join_body(record, spoil(pieces))


def test_the_largest_message_has_a_number_for_each_chunk() -> None:
    headers = model.MAX_HEADERS_BYTES * 6  # each name and value of one byte has one or two of msgpack before it
    assert ChunkedBody(model.MAX_MESSAGE_BYTES + headers, 0).chunks <= 1 << 16


# --- small records ---------------------------------------------------------------------------


@patient
@given(st.binary(min_size=8, max_size=8), numbers)
def test_what_is_remembered_of_a_deduplication_id_comes_back(message: bytes, forget_at_ms: int) -> None:
    assert codec.unpack_dedup(codec.pack_dedup(message, forget_at_ms)) == (message, forget_at_ms)


@patient
@given(numbers, st.integers(-(1 << 63), (1 << 63) - 1))
def test_the_clock_comes_back(latest_ms: int, offset_ms: int) -> None:
    clock = Clock(latest_ms, offset_ms)
    assert codec.unpack_clock(codec.pack_clock(clock)) == clock


def test_a_damaged_clock_is_none() -> None:
    """Or a bit of it would end every lease and lifetime at once."""
    sound = codec.pack_clock(Clock(NOW_MS, -2))
    for bit in range(len(sound) * 8):
        flipped = (int.from_bytes(sound) ^ 1 << bit).to_bytes(len(sound))
        assert codec.unpack_clock(flipped) == Clock(0, 0)
    assert codec.unpack_clock(sound[:-1]) == codec.unpack_clock(b"") == Clock(0, 0)


@patient
@given(st.text(min_size=1), st.integers(-(1 << 63), (1 << 63) - 1))
def test_the_start_of_the_machine_comes_back(boot_id: str, began_ms: int) -> None:
    boot = Boot(boot_id, began_ms)
    assert codec.unpack_boot(codec.pack_boot(boot)) == boot


def test_golden_small_records() -> None:
    assert codec.pack_dedup(keys.message_key(3), NOW_MS).hex() == "09000000000000030000018bcfe56800"
    assert codec.pack_clock(Clock(NOW_MS, -2)).hex() == "0000018bcfe56800fffffffffffffffe" + "b3140c74"
    assert codec.unpack_clock(None) == Clock(0, 0)
    without_checksum = bytes.fromhex("0000018bcfe56800fffffffffffffffe")
    assert codec.unpack_clock(without_checksum) == Clock(NOW_MS, -2)
    boot = codec.pack_boot(Boot("ab", -2))
    assert boot.hex() == "0182a26964a26162a8626567616e5f6d73fe" + crc32(boot[:-4]).to_bytes(4).hex()
    assert codec.unpack_boot(None) is None
    assert codec.unpack_boot(boot[:-1] + b"x") is None
    leases = [(keys.message_key(3), 4), (keys.message_key(5, 9), 1)]
    attempt = codec.pack_attempt(NOW_MS, leases)
    assert attempt.hex() == "0000018bcfe568000900000000000003000000040000000000000005" + "00000001"
    assert codec.unpack_attempt(attempt) == (NOW_MS, leases)
    assert codec.unpack_attempt(codec.pack_attempt(1, [])) == (1, [])


# --- pages of LMDB ---------------------------------------------------------------------------


def pages_of(path: Path, *commands: model.Command) -> dict[str, int]:
    """The overflow pages of each space after these commands."""
    store = open_engine("lmdb", path)
    assert not [result for result in store.commit(commands, NOW_MS) if isinstance(result, Exception)]
    with store._env.begin() as txn:
        found = {name.decode(): txn.stat(handle)["overflow_pages"] for name, handle in store._handles.items()}
    store.close()
    return found


def test_the_largest_inline_record_stays_in_its_page(tmp_path: Path) -> None:
    record = bytes(MAX_INLINE_BYTES)
    commands = [put("queue/1", keys.message_key(n), record) for n in range(9)]
    commands += [put(keys.QUARANTINE, keys.shared_key(1, keys.message_key(n)), record) for n in range(9)]
    pages = pages_of(tmp_path, *commands)
    assert (pages["queue/1"], pages[keys.QUARANTINE]) == (0, 0)


@pytest.mark.parametrize("media_type", [None, "text/plain"])
def test_messages_are_inline_up_to_the_limit(tmp_path: Path, media_type: str | None) -> None:
    content = b"x" * inline_bytes(media_type)
    value = codec.pack_message(MessageRecord(NOW_MS, content, media_type))
    assert len(value) == MAX_INLINE_BYTES
    pages = pages_of(tmp_path / "1", CreateQueue("q"), Send("q", (Draft(content, media_type),) * 9))
    assert (pages["queue/1"], count_chunks(tmp_path / "1")) == (0, 0)
    pages = pages_of(tmp_path / "2", CreateQueue("q"), Send("q", (Draft(content + b"x", media_type),) * 9))
    assert (pages["queue/1"], count_chunks(tmp_path / "2")) == (0, 9)


def count_chunks(path: Path) -> int:
    store = open_engine("lmdb", path)
    found: int = store.read(lambda tx: tx.space(keys.CHUNKS).count())
    store.close()
    return found


@pytest.mark.parametrize(("size", "pages"), [(CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2)])
def test_a_chunk_takes_one_page(tmp_path: Path, size: int, pages: int) -> None:
    key = keys.chunk_key(1, keys.message_key(1), 0)
    assert pages_of(tmp_path, put(keys.CHUNKS, key, bytes(size)))[keys.CHUNKS] == pages
