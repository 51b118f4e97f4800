"""Records to bytes and back. The golden bytes are what lies in the data directories of every version since 0.1."""

from __future__ import annotations

from binascii import crc32
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.oracle import inline_bytes, open_engine, put
from tq import codec, keys, model
from tq.codec import CHUNK_BYTES, MAX_INLINE_BYTES, ChunkedBody, CorruptRecord, MessageRecord, QueueRecord
from tq.model import CreateQueue, Draft, QueueSettings, Send

NOW_MS = 1_700_000_000_000

GOLDEN_MESSAGES = [
    (
        MessageRecord(NOW_MS, 0, None, b'{"a":1}'),
        "01 94 cf0000018bcfe56800 00 c0 c407 7b2261223a317d 2496aa26",
    ),
    (
        MessageRecord(NOW_MS, 3, "text/plain", b""),
        "01 94 cf0000018bcfe56800 03 aa746578742f706c61696e c400 08dcd5ff",
    ),
    (
        MessageRecord(NOW_MS, 0, None, ChunkedBody(10_240, 3_150_855_069)),
        "01 94 cf0000018bcfe56800 00 c0 92 cd2800 cebbce3b9d 4cf6e9a5",
    ),
    (
        MessageRecord(0, 0, None, b"\xff\xff\xff"),
        "01 94 00 00 c0 c403 ffffff 8447c929",
    ),
]
GOLDEN_QUEUES = [
    (
        QueueRecord(1, 1, NOW_MS, QueueSettings()),
        "01 98 01 01 cf0000018bcfe56800 80 00 00 00 00 3ad3fa81",
    ),
    (
        QueueRecord(7, 1_001, NOW_MS, QueueSettings(max_message_bytes=65_536), 1_000, 900, 50, 5),
        "01 98 07 cd03e9 cf0000018bcfe56800 81 b16d61785f6d6573736167655f6279746573 ce00010000"
        " cd03e8 cd0384 32 05 b0ddaea0",
    ),
]

patient = settings(deadline=None)  # the machine may be busy

numbers = st.integers(0, (1 << 64) - 1)
chunked = st.builds(ChunkedBody, st.integers(0, 1 << 27), st.integers(0, (1 << 32) - 1))
messages = st.builds(
    MessageRecord, numbers, numbers, st.none() | st.text(max_size=20), st.binary(max_size=300) | chunked
)
queue_settings = st.builds(QueueSettings, st.integers(1, model.MAX_MESSAGE_BYTES))
queues = st.builds(QueueRecord, numbers, numbers, numbers, queue_settings, numbers, numbers, numbers, numbers)


def seal(fields: Any, version: int = codec.VERSION) -> bytes:
    """A record with a right checksum around anything."""
    value = bytes([version]) + msgpack.packb(fields)
    return value + crc32(value).to_bytes(4, "big")


# --- what is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(("record", "golden"), GOLDEN_MESSAGES)
def test_golden_messages(record: MessageRecord, golden: str) -> None:
    assert codec.pack_message(record).hex() == golden.replace(" ", "")
    assert codec.unpack_message(bytes.fromhex(golden)) == record


@pytest.mark.parametrize(("record", "golden"), GOLDEN_QUEUES)
def test_golden_queues(record: QueueRecord, golden: str) -> None:
    assert codec.pack_queue(record).hex() == golden.replace(" ", "")
    assert codec.unpack_queue(bytes.fromhex(golden)) == record


@pytest.mark.parametrize("golden", [golden for _, golden in GOLDEN_MESSAGES + GOLDEN_QUEUES])
def test_golden_bytes_are_as_the_codec_says(golden: str) -> None:
    """Version, msgpack, checksum: told apart here without the codec."""
    value = bytes.fromhex(golden)
    assert value[0] == 1
    assert isinstance(msgpack.unpackb(value[1:-4]), list)
    assert crc32(value[:-4]).to_bytes(4, "big") == value[-4:]


@patient
@given(messages)
def test_a_message_comes_back(record: MessageRecord) -> None:
    assert codec.unpack_message(codec.pack_message(record)) == record


@patient
@given(queues)
def test_a_queue_comes_back(record: QueueRecord) -> None:
    assert codec.unpack_queue(codec.pack_queue(record)) == record


@pytest.mark.parametrize("media_type", ["", "text/plain; charset=utf-8", "ä" * 300, "x" * 70_000])
def test_a_media_type_of_any_length_comes_back(media_type: str) -> None:
    record = MessageRecord(NOW_MS, 0, media_type, b"\0")
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


@pytest.mark.parametrize("golden", [golden for _, golden in GOLDEN_MESSAGES + GOLDEN_QUEUES])
def test_every_single_bit_and_every_length_counts(golden: str) -> None:
    value = bytes.fromhex(golden)
    spoilt = [value[:length] for length in range(len(value))] + [value + b"\0", b"\0" + value]
    for bit in range(8 * len(value)):
        flipped = int.from_bytes(value, "big") ^ (1 << bit)
        spoilt.append(flipped.to_bytes(len(value), "big"))
    for bad in spoilt:
        for unpack in (codec.unpack_message, codec.unpack_queue):
            with pytest.raises(CorruptRecord):
                unpack(bad)


@patient
@given(st.binary(max_size=100))
def test_bytes_that_are_no_record(value: bytes) -> None:
    for unpack in (codec.unpack_message, codec.unpack_queue):
        with pytest.raises(CorruptRecord):
            unpack(value)


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused(version: int) -> None:
    with pytest.raises(CorruptRecord, match=f"record version {version:02x} is unknown"):
        codec.unpack_message(seal([NOW_MS, 0, None, b""], version))


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [NOW_MS, 0, None],
        [NOW_MS, 0, None, b"", 1],
        [NOW_MS, 0, None, None],
        [NOW_MS, 0, None, [1]],
        [NOW_MS, 0, None, [1, 2, 3]],
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
        [1, 1, NOW_MS, {}, 0, 0, 0, 0, 0],
        [1, 1, NOW_MS, {"unknown": 1}, 0, 0, 0, 0],
        [1, 1, NOW_MS, {"max_message_bytes": 0}, 0, 0, 0, 0],
        [1, 1, NOW_MS, None, 0, 0, 0, 0],
        None,
    ],
)
def test_a_queue_of_another_layout_is_refused(fields: Any) -> None:
    with pytest.raises(CorruptRecord):
        codec.unpack_queue(seal(fields))


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
        (1, [1]),
        (4_079, [4_079]),
        (4_080, [4_080]),
        (4_081, [4_080, 1]),
        (8_160, [4_080, 4_080]),
        (8_161, [4_080, 4_080, 1]),
    ],
)
def test_a_body_is_split_and_joined(size: int, lengths: list[int]) -> None:
    content = bytes(n % 251 for n in range(size))
    body, pieces = codec.split_body(content)
    assert [len(piece) for piece in pieces] == lengths
    assert (body.size, body.chunks, body.checksum) == (size, len(lengths), crc32(content))
    assert codec.join_body(body, pieces) == content


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
    body, pieces = codec.split_body(bytes(n % 251 for n in range(10_000)))
    with pytest.raises(CorruptRecord):
        codec.join_body(body, spoil(pieces))


def test_the_largest_message_has_a_number_for_each_chunk() -> None:
    assert ChunkedBody(model.MAX_MESSAGE_BYTES, 0).chunks <= 1 << 16


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
    value = codec.pack_message(MessageRecord(NOW_MS, 0, media_type, content))
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
