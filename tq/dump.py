"""The lines of a dump: what `tq dump` writes of a snapshot and `tq load` makes commands of.

    {"line":"dump","format":1,…}        the first: what the rest is, and its identity
    {"line":"queue","name":…}           a queue; all of them come before the first message
    {"line":"message","queue":…}        a message, in the order in which its queue hands them out
    {"line":"id","queue":…}             a deduplication id that is known still, though its message is gone
    {"line":"end","queues":…}           the last: whoever misses it has a part of a dump

The same snapshot gives the same lines, but for the identity. Times are the wall clock's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatchcase
from heapq import merge
from operator import itemgetter
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tq import codec, keys, model
from tq.codec import CorruptRecord
from tq.errors import QueueDamaged
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.looking import show
from tq.lifecycle.places import key_in, locate, read, space_of, unpack
from tq.store import Tx

FORMAT = 1
UUID_BYTES = 16

MAX_MS = 253_402_300_799_999  # the end of the year 9999, behind which no time is shown

_NAME = re.compile(model.ANY_QUEUE_NAME)
_Ms = Annotated[int, Meta(ge=0, le=MAX_MS)]
_Id = Annotated[str, Meta(min_length=1)]
_Count = Annotated[int, Meta(ge=0, le=(1 << 31) - 1)]


class Head(Struct, frozen=True, tag_field="line", tag="dump", forbid_unknown_fields=True):
    """`snapshot` tells the state that was dumped from any other, `queues` are the patterns that were asked for."""

    format: Literal[1]
    version: str
    id: Annotated[str, Meta(pattern="^[0-9a-f]{32}$")]
    snapshot: str
    queues: tuple[str, ...]


class QueueLine(Struct, frozen=True, tag_field="line", tag="queue", omit_defaults=True, forbid_unknown_fields=True):
    name: str
    settings: model.QueueSettings
    notes: dict[str, str] = {}


class MessageLine(Struct, frozen=True, tag_field="line", tag="message", omit_defaults=True, forbid_unknown_fields=True):
    """One of `content` (JSON), `text` and `base64` is there; the last also for JSON that is more than one line.

    `age_from_ms` says when its age began, if not when it was sent.
    """

    queue: str
    id: int
    sent_at_ms: _Ms
    content: Raw | UnsetType = UNSET
    text: str | UnsetType = UNSET
    base64: bytes | UnsetType = UNSET
    content_type: str | None = None
    priority: Annotated[int, Meta(ge=0, le=model.MAX_PRIORITY)] = 0
    group: _Id | None = None
    headers: dict[str, str] | None = None
    attributes: dict[str, tuple[str, str]] = {}
    binary_attributes: dict[str, tuple[str, bytes]] = {}
    notes: dict[str, str] | None = None
    visible_at_ms: _Ms | None = None
    expires_at_ms: _Ms | None = None
    age_from_ms: _Ms | None = None
    receive_count: _Count = 0
    receives_before: _Count = 0
    first_received_at_ms: _Ms | None = None
    dead_letter: model.DeadLetterOrigin | None = None
    uuid: bytes | None = None
    dedup_id: _Id | None = None
    dedup_until_ms: _Ms = 0
    dedup_in_group: bool = False


class IdLine(Struct, frozen=True, tag_field="line", tag="id", omit_defaults=True, forbid_unknown_fields=True):
    queue: str
    dedup_id: _Id
    until_ms: _Ms
    group: _Id | None = None


class End(Struct, frozen=True, tag_field="line", tag="end", forbid_unknown_fields=True):
    queues: int
    messages: int


Line = Head | QueueLine | MessageLine | IdLine | End
Part = model.CreateQueue | model.LoadedMessage | model.LoadedId

encode: Callable[[Line], bytes] = msgspec.json.Encoder().encode
decode: Callable[[bytes], Line] = msgspec.json.Decoder(Line).decode
_skip = msgspec.json.Decoder(Raw).decode


# --- out -------------------------------------------------------------


def lines(tx: Tx, patterns: Sequence[str], report: Callable[[str], None]) -> Iterator[Line]:
    """All but the head. What is damaged cannot be dumped, and is reported."""
    group = Group(tx, 0)
    queues: list[Queue] = []
    messages = 0
    for name, value in matching(tx, patterns or ("*",)):
        if not _NAME.fullmatch(name):
            report(f"a queue whose name is {name!r}")
            continue
        try:
            queues.append(Queue(name, codec.unpack_queue(value), tx))
        except CorruptRecord as error:
            report(f"queue {name}: {error}")
            continue
        try:
            notes = group.notes(name)
        except QueueDamaged as error:
            notes = {}
            report(str(error).rstrip("."))
        yield QueueLine(name, queues[-1].record.settings, notes)
    for queue in queues:
        for line in _messages(group, queue, report):
            messages += 1
            yield line
        yield from _ids(group, queue, report)
    yield End(len(queues), messages)


def matching(tx: Tx, patterns: Sequence[str]) -> list[tuple[str, bytes]]:
    """Names and records of the queues whose names match one of the patterns."""
    found = [(key.decode(errors="replace"), value) for key, value in tx.space(keys.QUEUES).scan()]
    return [(name, value) for name, value in found if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _messages(group: Group, queue: Queue, report: Callable[[str], None]) -> Iterator[MessageLine]:
    states = [_in_state(group, queue, state) for state in model.STATES]
    missing = queue.total() + queue.missing()
    for key, value, state in merge(*states, key=itemgetter(0)):
        missing -= 1
        try:
            record = read(group, queue, key, unpack(key, value))
        except CorruptRecord as error:
            report(f"queue {queue.name}: message {keys.sequence_of(key)}: {error}")
        else:
            yield _line(group, queue, key, show(group, queue, key, record, state))
    if missing > 0:
        report(f"queue {queue.name}: {missing:,} messages are not found")


def _in_state(group: Group, queue: Queue, state: model.State) -> Iterator[tuple[bytes, bytes, model.State]]:
    prefix = key_in(queue, state, b"")
    stop = keys.after_prefix(prefix) if prefix else None
    for key, value in space_of(group, queue, state).scan(prefix, stop):
        yield key[len(prefix) :], value, state


def _line(group: Group, queue: Queue, key: bytes, message: model.Message) -> MessageLine:
    age_from_ms = message.sent_at_ms + message.ahead_ms - group.ahead_ms()
    until_ms, in_group = _known_until_ms(group, queue, key, message)
    attributes = message.attributes or {}
    return MessageLine(
        queue=queue.name,
        id=message.id,
        sent_at_ms=message.sent_at_ms,
        **_content(message),
        priority=message.priority,
        group=message.group,
        headers=message.headers,
        attributes={name: (a.type, a.value) for name, a in attributes.items() if isinstance(a.value, str)},
        binary_attributes={name: (a.type, a.value) for name, a in attributes.items() if isinstance(a.value, bytes)},
        notes=message.notes,
        visible_at_ms=None if message.state == "in_flight" else message.visible_at_ms,
        expires_at_ms=message.expires_at_ms,
        age_from_ms=None if age_from_ms == message.sent_at_ms else max(0, age_from_ms),
        receive_count=message.receive_count,
        receives_before=message.receives_before,
        first_received_at_ms=message.first_received_at_ms,
        dead_letter=message.dead_letter,
        uuid=message.uuid,
        dedup_id=message.dedup_id,
        dedup_until_ms=until_ms,
        dedup_in_group=in_group,
    )


def _content(message: model.Message) -> dict[str, Any]:
    content, media_type = message.content, message.media_type
    try:
        if media_type is None and b"\n" not in content and b"\r" not in content:
            _skip(content)
            return {"content": Raw(content)}
        if media_type == model.TEXT:
            return {"text": content.decode()}
    except ValueError:
        pass  # not what it was sent as, but it comes back as it is
    return {"base64": content, "content_type": media_type}


def _known_until_ms(group: Group, queue: Queue, key: bytes, message: model.Message) -> tuple[int, bool]:
    """Until when a message's deduplication id is known, and whether in its group only."""
    if message.dedup_id:
        for in_group in (False, True) if message.group else (False,):
            scope = message.group if in_group else None
            value = group.tx.space(keys.DEDUP).get(keys.dedup_key(queue.id, message.dedup_id, scope))
            if value and value[:8] == key:
                return _until_ms(group, value), in_group
    return 0, False


def _until_ms(group: Group, value: bytes) -> int:
    """When a deduplication id is forgotten, by the wall clock; 0 where its record is damaged."""
    until_ms = codec.unpack_dedup(value)[1] - group.ahead_ms()
    return until_ms if 0 <= until_ms <= MAX_MS else 0


def _ids(group: Group, queue: Queue, report: Callable[[str], None]) -> Iterator[IdLine]:
    prefix = keys.queue_prefix(queue.id)
    for key, value in group.tx.space(keys.DEDUP).scan(prefix, keys.after_prefix(prefix)):
        message, _ = codec.unpack_dedup(value)
        if locate(group, queue, message) is None:
            try:
                dedup_id, in_group = keys.parse_dedup(key)
            except (ValueError, IndexError):
                dedup_id, in_group = "", None
            until_ms = _until_ms(group, value)
            if dedup_id and until_ms:
                yield IdLine(queue.name, dedup_id, until_ms, in_group)
            else:
                report(f"queue {queue.name}: the deduplication id {key[4:].hex()}")


# --- in -------------------------------------------------------------


def part_of(line: QueueLine | MessageLine | IdLine) -> Part:
    """What is to be loaded of a line. Raises ValueError."""
    if isinstance(line, QueueLine):
        return model.CreateQueue(line.name, line.settings, line.notes)
    if any(len(text.encode()) > model.MAX_GROUP_BYTES for text in (line.group, line.dedup_id) if text):
        raise ValueError(f"a group and a deduplication id have at most {model.MAX_GROUP_BYTES} bytes of UTF-8")
    if isinstance(line, IdLine):
        return model.LoadedId(line.queue, line.dedup_id, line.until_ms, line.group)
    content, media_type = _content_of(line)
    _check_history(line)
    attributes = {name: model.Attribute(*pair) for name, pair in (line.attributes | line.binary_attributes).items()}
    message = model.Message(
        id=line.id,
        content=content,
        media_type=media_type,
        sent_at_ms=line.sent_at_ms,
        receive_count=line.receive_count,
        priority=line.priority,
        group=line.group,
        headers=line.headers,
        dead_letter=line.dead_letter,
        visible_at_ms=line.visible_at_ms,
        expires_at_ms=line.expires_at_ms,
        dedup_id=line.dedup_id,
        attributes=attributes or None,
        notes=line.notes,
        first_received_at_ms=line.first_received_at_ms,
        uuid=line.uuid,
        ahead_ms=0 if line.age_from_ms is None else line.age_from_ms - line.sent_at_ms,
        receives_before=line.receives_before,
    )
    return model.LoadedMessage(line.queue, message, line.dedup_until_ms, line.dedup_in_group)


def _content_of(line: MessageLine) -> tuple[bytes, str | None]:
    found: list[tuple[bytes, str | None]] = []
    if not isinstance(line.content, UnsetType):
        found.append((bytes(line.content), None))
    if not isinstance(line.text, UnsetType):
        found.append((line.text.encode(), model.TEXT))
    if not isinstance(line.base64, UnsetType):
        found.append((line.base64, line.content_type))
    if len(found) != 1:
        raise ValueError("a message has one of content, text and base64")
    [(content, media_type)] = found
    if len(content) > model.MAX_MESSAGE_BYTES:
        raise ValueError("the message is too large")
    if media_type and not model.is_media_type(media_type):  # it becomes a header
        raise ValueError(f"a content_type has at most {model.MAX_TYPE_LENGTH} printable ASCII characters")
    return content, media_type


def _check_history(line: MessageLine) -> None:
    """Raises ValueError for what no message can have behind it."""
    if line.dead_letter and not 0 <= line.dead_letter.receive_count < 1 << 31:
        raise ValueError("the receive_count of dead_letter is out of range")
    if line.receives_before > line.receive_count:
        raise ValueError("receives_before is more than receive_count")
    if line.uuid is not None and len(line.uuid) != UUID_BYTES:
        raise ValueError(f"a uuid has {UUID_BYTES} bytes")
