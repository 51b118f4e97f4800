"""Records to bytes and back: msgpack between a version byte and a checksum.

    +-------------+---------------------+-----------------------------------+
    | version (1) | msgpack array       | CRC-32 of all before it (4, BE)   |
    +-------------+---------------------+-----------------------------------+

    message record, version 1: [sent_at_ms, receive_count, media_type | nil, body]
        body is the bytes themselves, or [size, CRC-32] when they lie in `chunks`
    queue record, version 1: [id, next_sequence, created_at_ms, settings, sent, received, purged, quarantined]
        settings is a map of those that differ from their defaults

LMDB keeps no checksums of its own, so every record carries one and a chunked body another. To change a record: add the
new layout under the next version number, keep reading the old one, and add its golden bytes to the tests.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgpack
import msgspec

from tq.model import QueueSettings

VERSION = 1
CHUNK_BYTES = 4_080  # with its 16-byte header, one 4 KiB page of LMDB exactly
MAX_INLINE_BYTES = 1_984  # a larger value would not fit twice in a page and get pages of its own


class CorruptRecord(Exception):
    """The bytes are not what was written: damaged on disk, or of a version that this code does not know."""


class ChunkedBody(msgspec.Struct, frozen=True):
    """A body that lies in `chunks`."""

    size: int
    checksum: int

    @property
    def chunks(self) -> int:
        return -(-self.size // CHUNK_BYTES)


class MessageRecord(msgspec.Struct, frozen=True):
    sent_at_ms: int
    receive_count: int
    media_type: str | None
    body: bytes | ChunkedBody


class QueueRecord(msgspec.Struct):
    """The one record that is changed in place: `lifecycle` keeps it for a batch and writes it once."""

    id: int
    next_sequence: int
    created_at_ms: int
    settings: QueueSettings
    sent: int = 0
    received: int = 0
    purged: int = 0
    quarantined: int = 0


def pack_message(record: MessageRecord) -> bytes:
    body = record.body
    packed = body if isinstance(body, bytes) else [body.size, body.checksum]
    return _seal([record.sent_at_ms, record.receive_count, record.media_type, packed])


def unpack_message(value: bytes) -> MessageRecord:
    """Raises CorruptRecord."""
    try:
        sent_at_ms, receive_count, media_type, packed = _unseal(value)
        body = packed if isinstance(packed, bytes) else ChunkedBody(*packed)
    except (TypeError, ValueError) as error:
        raise CorruptRecord(f"not a message record: {error}") from error
    return MessageRecord(sent_at_ms, receive_count, media_type, body)


def split_body(body: bytes) -> tuple[ChunkedBody, list[bytes]]:
    """Cut a body that is too large for its record into chunks."""
    pieces = [body[at : at + CHUNK_BYTES] for at in range(0, len(body), CHUNK_BYTES)]
    return ChunkedBody(len(body), crc32(body)), pieces


def join_body(body: ChunkedBody, pieces: list[bytes]) -> bytes:
    """Raises CorruptRecord when the pieces are not the body that was split."""
    joined = b"".join(pieces)
    if len(joined) != body.size or crc32(joined) != body.checksum:
        raise CorruptRecord("the chunks are not the body that was sent")
    return joined


def pack_queue(record: QueueRecord) -> bytes:
    return _seal(
        [
            record.id,
            record.next_sequence,
            record.created_at_ms,
            msgspec.to_builtins(record.settings),
            record.sent,
            record.received,
            record.purged,
            record.quarantined,
        ]
    )


def unpack_queue(value: bytes) -> QueueRecord:
    """Raises CorruptRecord."""
    try:
        queue_id, next_sequence, created_at_ms, settings, *counters = _unseal(value)
        known = msgspec.convert(settings, QueueSettings)
        return QueueRecord(queue_id, next_sequence, created_at_ms, known, *counters)
    except (TypeError, ValueError) as error:
        raise CorruptRecord(f"not a queue record: {error}") from error


def _seal(fields: list[Any]) -> bytes:
    value: bytes = bytes([VERSION]) + msgpack.packb(fields)
    return value + crc32(value).to_bytes(4)


def _unseal(value: bytes) -> list[Any]:
    if not value or value[0] != VERSION:
        raise CorruptRecord(f"record version {value[:1].hex() or 'missing'} is unknown")
    if crc32(value[:-4]) != int.from_bytes(value[-4:]):
        raise CorruptRecord("the checksum does not match")
    fields: list[Any] = msgpack.unpackb(value[1:-4])
    return fields
