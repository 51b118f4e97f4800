"""Records to bytes and back: msgpack between a version byte and a checksum.

    +-------------+---------------------+-----------------------------------+
    | version (1) | msgpack array       | CRC-32 of all before it (4, BE)   |
    +-------------+---------------------+-----------------------------------+

    message record, version 3:
        [sent_at_ms, receive_count, attempt, due_at_ms, expires_at_ms, media_type, body, first_received_at_ms, more,
         ahead_ms, received_at_ms]
        attempt         how often it was leased, counted up by each lease and never back
        due_at_ms       when the lease or the delay is over; 0 in other states
        expires_at_ms   when its time to live is over; 0 when it has none
        media_type      nil for JSON text, "" for text that stands for a JSON string
        body            the bytes themselves, or [size, CRC-32, bytes of headers before it] when they lie in `chunks`;
                        "headers" as a map, or [headers, attributes, notes]
        first_received_at_ms    when it was leased first; 0 before
        more            nil, or a map of what few messages have: "group", "headers", "dead_letter", "dedup_id",
                        "attributes" (name to [type, value]), "notes", "uuid", "receives_before"
        ahead_ms        its age counts from `sent_at_ms` + this by the timers' clock, which may be ahead of the wall's
        received_at_ms  when it was leased last, by the timers' clock; 0 before
    message record, version 2: the same without the last two; version 1: without `first_received_at_ms` too
    queue record, version 2:
        [id, next_sequence, created_at_ms, settings, bytes, in_flight, delayed, blocked, counters, watch_ms]
        settings        a map of those that differ from their defaults
        counters        a map of those that are not 0
        watch_ms        when `due` has its entry for the queue's retention; 0 when it has none
    queue record, version 1: the same without `watch_ms`
    notes, version 1: a map of texts
    move task, version 1: a map of the fields of `model.MoveTask`

LMDB keeps no checksums of its own, so every record carries one and a chunked body another. To change a record: add the
new layout under the next version number, keep reading the old one, and add its golden bytes to the tests.
"""

from __future__ import annotations

from typing import Any
from zlib import crc32

import msgpack
import msgspec

from tq.model import Attribute, Boot, Clock, DeadLetterOrigin, MoveTask, QueueSettings

VERSION = 1
MESSAGE_VERSION = 3
QUEUE_VERSION = 2
CHUNK_BYTES = 4_080  # with its 16-byte header, one 4 KiB page of LMDB exactly
SURELY_INLINE_BYTES = 512  # the rest of a record without headers has less than 1,400 bytes
MAX_INLINE_BYTES = 1_984  # a larger value would not fit twice in a page and get pages of its own


_VERSION_BYTE = bytes([VERSION])
_MESSAGE_VERSION_BYTE = bytes([MESSAGE_VERSION])
_QUEUE_VERSION_BYTE = bytes([QUEUE_VERSION])
_DEFAULT_SETTINGS = QueueSettings()
_pack = msgpack.Packer().pack  # `packb` makes one for each call


class CorruptRecord(Exception):
    """The bytes are not what was written: damaged on disk, or of a version that this code does not know."""


class ChunkedBody(msgspec.Struct, frozen=True):
    """A body that lies in `chunks`, behind the message's packed headers if those were too large as well."""

    size: int
    checksum: int
    headers_size: int = 0

    @property
    def chunks(self) -> int:
        return -(-self.size // CHUNK_BYTES)


class MessageRecord(msgspec.Struct, frozen=True):
    sent_at_ms: int
    body: bytes | ChunkedBody
    media_type: str | None = None
    receive_count: int = 0
    attempt: int = 0
    due_at_ms: int = 0
    expires_at_ms: int = 0
    first_received_at_ms: int = 0
    ahead_ms: int = 0
    received_at_ms: int = 0
    group: str | None = None
    headers: dict[str, str] | None = None
    dead_letter: DeadLetterOrigin | None = None
    dedup_id: str | None = None
    attributes: dict[str, Attribute] | None = None
    notes: dict[str, str] | None = None
    uuid: bytes | None = None
    receives_before: int = 0  # of its receives: in the queue that it is a dead letter of

    @property
    def receives_here(self) -> int:
        return self.receive_count - self.receives_before

    @property
    def born_ms(self) -> int:
        """When its age began, by the timers' clock."""
        return self.sent_at_ms + self.ahead_ms

    @property
    def has_head(self) -> bool:
        """Whether there is anything that goes before a body in `chunks`."""
        return bool(self.headers or self.attributes or self.notes)


class QueueRecord(msgspec.Struct):
    """The one record that is changed in place: `lifecycle` keeps it for a group of commands and writes it once."""

    id: int
    next_sequence: int
    created_at_ms: int
    settings: QueueSettings
    bytes: int = 0
    in_flight: int = 0
    delayed: int = 0
    blocked: int = 0
    counters: dict[str, int] = msgspec.field(default_factory=dict)
    watch_ms: int = 0


def pack_message(record: MessageRecord) -> bytes:
    body = record.body
    return _seal(
        [
            record.sent_at_ms,
            record.receive_count,
            record.attempt,
            record.due_at_ms,
            record.expires_at_ms,
            record.media_type,
            body if isinstance(body, bytes) else [body.size, body.checksum, body.headers_size],
            record.first_received_at_ms,
            _more(record) or None,
            record.ahead_ms,
            record.received_at_ms,
        ],
        _MESSAGE_VERSION_BYTE,
    )


def pack_new(sent_at_ms: int, ahead_ms: int, body: bytes, media_type: str | None, expires_at_ms: int) -> bytes:
    """`pack_message` of a record that has only these."""
    return _seal([sent_at_ms, 0, 0, 0, expires_at_ms, media_type, body, 0, None, ahead_ms, 0], _MESSAGE_VERSION_BYTE)


def _more(record: MessageRecord) -> dict[str, Any]:
    more: dict[str, Any] = {}
    if record.group:
        more["group"] = record.group
    if record.headers:
        more["headers"] = record.headers
    if record.dead_letter:
        more["dead_letter"] = list(msgspec.structs.astuple(record.dead_letter))
    if record.dedup_id:
        more["dedup_id"] = record.dedup_id
    if record.attributes:
        more["attributes"] = _plain_attributes(record.attributes)
    if record.notes:
        more["notes"] = record.notes
    if record.uuid:
        more["uuid"] = record.uuid
    if record.receives_before:
        more["receives_before"] = record.receives_before
    return more


def _plain_attributes(attributes: dict[str, Attribute]) -> dict[str, list[Any]]:
    return {name: [attribute.type, attribute.value] for name, attribute in attributes.items()}


def _attributes(plain: dict[str, list[Any]] | None) -> dict[str, Attribute] | None:
    return {name: Attribute(*pair) for name, pair in plain.items()} if plain else None


def unpack_message(value: bytes) -> MessageRecord:
    """Raises CorruptRecord."""
    try:
        fields = _unseal(value, MESSAGE_VERSION)
        if value[0] < MESSAGE_VERSION:
            if value[0] == VERSION:
                fields.insert(7, 0)
            fields += (0, 0)
        sent_ms, receives, attempt, due_ms, expires_ms, media_type, body, first_ms, more, ahead_ms, last_ms = fields
        if not isinstance(body, bytes):
            body = ChunkedBody(*body)
        if not more:
            return MessageRecord(
                sent_ms, body, media_type, receives, attempt, due_ms, expires_ms, first_ms, ahead_ms, last_ms
            )
        origin = more.get("dead_letter")
        return MessageRecord(
            sent_ms,
            body,
            media_type,
            receives,
            attempt,
            due_ms,
            expires_ms,
            first_ms,
            ahead_ms,
            last_ms,
            more.get("group"),
            more.get("headers"),
            DeadLetterOrigin(*origin) if origin else None,
            more.get("dedup_id"),
            _attributes(more.get("attributes")),
            more.get("notes"),
            more.get("uuid"),
            more.get("receives_before", 0),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(f"not a message record: {error}") from error


def split_body(record: MessageRecord) -> tuple[MessageRecord, list[bytes]]:
    """Cut headers and body into chunks when the record would be too large with them."""
    assert isinstance(record.body, bytes)
    size = len(record.body)
    if size <= SURELY_INLINE_BYTES and not record.has_head:
        return record, []
    if size <= MAX_INLINE_BYTES and len(pack_message(record)) <= MAX_INLINE_BYTES:
        return record, []
    head = _pack_head(record) if record.has_head else b""
    whole = head + record.body
    body = ChunkedBody(len(whole), crc32(whole), len(head))
    pieces = [whole[at : at + CHUNK_BYTES] for at in range(0, len(whole), CHUNK_BYTES)]
    return msgspec.structs.replace(record, body=body, headers=None, attributes=None, notes=None), pieces


def _pack_head(record: MessageRecord) -> bytes:
    is_plain = not record.attributes and not record.notes
    attributes = _plain_attributes(record.attributes or {})
    packed: bytes = _pack(record.headers if is_plain else [record.headers, attributes, record.notes])
    return packed


def join_body(record: MessageRecord, pieces: list[bytes]) -> MessageRecord:
    """The record as it was before it was split. Raises CorruptRecord when the pieces are not what was split."""
    body = record.body
    assert isinstance(body, ChunkedBody)
    whole = b"".join(pieces)
    if len(whole) != body.size or crc32(whole) != body.checksum:
        raise CorruptRecord("the chunks are not the body that was sent")
    try:
        head = msgpack.unpackb(whole[: body.headers_size]) if body.headers_size else None
        headers, plain, notes = head if isinstance(head, list) else (head, None, None)
        attributes = _attributes(plain)
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(f"not the headers of a message: {error}") from error
    content = whole[body.headers_size :]
    return msgspec.structs.replace(record, body=content, headers=headers, attributes=attributes, notes=notes)


def content_bytes(record: MessageRecord) -> int:
    """The size of the content, wherever it lies."""
    body = record.body
    return len(body) if isinstance(body, bytes) else body.size - body.headers_size


def stored_bytes(record: MessageRecord) -> int:
    """What there is to copy of a message: its content, and its headers where they lie with it."""
    body = record.body
    return len(body) if isinstance(body, bytes) else body.size


def pack_dedup(message: bytes, forget_at_ms: int) -> bytes:
    return message + forget_at_ms.to_bytes(8)


def unpack_dedup(value: bytes) -> tuple[bytes, int]:
    """The key of the message that has the deduplication id, and when that is forgotten (ms)."""
    return value[:8], int.from_bytes(value[8:16])


def pack_clock(clock: Clock) -> bytes:
    value = clock.latest_ms.to_bytes(8) + clock.offset_ms.to_bytes(8, signed=True)
    return value + crc32(value).to_bytes(4)


def unpack_clock(value: bytes | None) -> Clock:
    """The clock as it was stored; at zero when it never was, or is damaged: then the wall clock alone counts.

    Until its checksum came it had 16 bytes.
    """
    if not value or (len(value) != 16 and crc32(value[:16]).to_bytes(4) != value[16:]):
        return Clock(0, 0)
    return Clock(int.from_bytes(value[:8]), int.from_bytes(value[8:16], signed=True))


def pack_boot(boot: Boot) -> bytes:
    return _seal(msgspec.structs.asdict(boot), _VERSION_BYTE)


def unpack_boot(value: bytes | None) -> Boot | None:
    """None when it was never stored, and when it is damaged: nobody needs to know."""
    try:
        return msgspec.convert(_unseal(value or b"", VERSION), Boot)
    except (CorruptRecord, ValueError):
        return None


def pack_queue(record: QueueRecord) -> bytes:
    return _seal(
        [
            record.id,
            record.next_sequence,
            record.created_at_ms,
            msgspec.to_builtins(record.settings),
            record.bytes,
            record.in_flight,
            record.delayed,
            record.blocked,
            record.counters,
            record.watch_ms,
        ],
        _QUEUE_VERSION_BYTE,
    )


def unpack_queue(value: bytes) -> QueueRecord:
    """Raises CorruptRecord."""
    try:
        fields = _unseal(value, QUEUE_VERSION)
        if value[0] == VERSION:
            fields.append(0)
        queue_id, next_sequence, created_at_ms, settings, size, in_flight, delayed, blocked, counters, watch_ms = fields
        known = msgspec.convert(settings, QueueSettings) if settings != {} else _DEFAULT_SETTINGS
    except (TypeError, ValueError, AttributeError) as error:
        raise CorruptRecord(f"not a queue record: {error}") from error
    return QueueRecord(
        queue_id, next_sequence, created_at_ms, known, size, in_flight, delayed, blocked, counters, watch_ms
    )


def pack_notes(notes: dict[str, str]) -> bytes:
    return _seal(notes, _VERSION_BYTE)


def unpack_notes(value: bytes) -> dict[str, str]:
    """Raises CorruptRecord."""
    try:
        return msgspec.convert(_unseal(value, VERSION), dict[str, str])
    except ValueError as error:
        raise CorruptRecord(f"not a record of notes: {error}") from error


def pack_move(task: MoveTask) -> bytes:
    return _seal(msgspec.structs.asdict(task), _VERSION_BYTE)


def unpack_move(value: bytes) -> MoveTask:
    """Raises CorruptRecord."""
    try:
        return MoveTask(**_unseal(value, VERSION))
    except (TypeError, ValueError) as error:
        raise CorruptRecord(f"not a move task: {error}") from error


LEASE_BYTES = 12  # of a message's key and attempt


def pack_attempt(until_ms: int, leases: list[tuple[bytes, int]]) -> bytes:
    return until_ms.to_bytes(8) + b"".join([key + attempt.to_bytes(4) for key, attempt in leases])


def unpack_attempt(value: bytes) -> tuple[int, list[tuple[bytes, int]]]:
    """Until when a receive can be asked for again (ms), and the keys and attempts of what it leased."""
    pieces = [value[at : at + LEASE_BYTES] for at in range(8, len(value), LEASE_BYTES)]
    return int.from_bytes(value[:8]), [(piece[:8], int.from_bytes(piece[8:])) for piece in pieces]


def _seal(fields: Any, version: bytes) -> bytes:
    value: bytes = version + _pack(fields)
    return value + crc32(value).to_bytes(4)


def _unseal(value: bytes, latest: int) -> Any:
    if not value or not VERSION <= value[0] <= latest:
        raise CorruptRecord(f"record version {value[:1].hex() or 'missing'} is unknown")
    if crc32(value[:-4]) != int.from_bytes(value[-4:]):
        raise CorruptRecord("the checksum does not match")
    return msgpack.unpackb(value[1:-4])
