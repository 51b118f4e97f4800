"""Sending: what is refused, what is a duplicate, what must make room, and then the messages themselves.

A send is planned before anything is written, because a command that is refused must leave no trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import suppress
from hashlib import sha256
from itertools import islice

from msgspec import Struct

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import DedupIdMissing, GroupMissing, MessageTooLarge, NotInFifo, QueueFull, TqError
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import append_new, displace, finish, read_or_set_aside, settle_new

MAX_DROPPED = 10_000  # by one send to a full queue that drops its oldest


class Plan(Struct):
    """What a send will do to one queue.

    `known`: for each draft the id it duplicates or None, empty when no draft has a deduplication id. `drops`: the keys
    of what goes before, to make room. `dedup_ids`: for each draft its own id or the one that its content gives it.
    """

    drafts: Sequence[model.Draft]
    known: Sequence[int | None]
    drops: Sequence[bytes]
    dedup_ids: Sequence[str | None]


def send(group: Group, command: model.Send) -> model.Sent:
    queue = group.queue(command.queue)
    if command.is_each:
        sent = _send_each(group, queue, command.drafts)
    else:
        sent = carry_out(group, queue, make_plan(group, queue, command.drafts))
    if command.with_uuids:
        return model.Sent(sent.ids, sent.duplicates, queue.uuid_prefix(), sent.refused)
    return sent


def _send_each(group: Group, queue: Queue, drafts: Sequence[model.Draft]) -> model.Sent:
    """Each draft as if it came alone; at once, where that is the same: nothing is dropped and none is refused."""
    settings = queue.record.settings
    if not settings.max_messages and not settings.max_bytes:
        with suppress(TqError):
            return carry_out(group, queue, make_plan(group, queue, drafts))
    ids: list[int] = []
    duplicates: list[int] = []
    refused: list[tuple[int, TqError]] = []
    for index, draft in enumerate(drafts):
        try:
            sent = carry_out(group, queue, make_plan(group, queue, (draft,)))
        except TqError as refusal:
            refused.append((index, refusal))
            ids.append(0)
        else:
            ids += sent.ids
            duplicates += [index] * len(sent.duplicates)
    return model.Sent(tuple(ids), tuple(duplicates), refused=tuple(refused))


def make_plan(
    group: Group,
    queue: Queue,
    drafts: Sequence[model.Draft],
    freed_messages: int = 0,
    freed_bytes: int = 0,
) -> Plan:
    """Raises MessageTooLarge, QueueFull, GroupMissing, DedupIdMissing, NotInFifo.

    What the same transaction is about to free counts as free.
    """
    settings = queue.record.settings
    largest = settings.max_message_bytes
    known: Sequence[int | None] = ()
    drops: Sequence[bytes] = ()
    dedup_ids: Sequence[str | None] = ()
    for draft in drafts:
        size = draft.size
        if size > largest:
            refusal = MessageTooLarge(
                f"Message {drafts.index(draft)} has {size:,} bytes with its headers; "
                f"{largest:,} is the most that the queue {queue.name!r} takes."
            )
            refusal.limit = largest
            raise refusal
        if queue.is_fifo:
            _check_for_fifo(queue, draft)
        if not known and (draft.dedup_id is not None or settings.content_dedup):
            dedup_ids = [_dedup_id(queue, draft) for draft in drafts]
            known = _find_duplicates(group, queue, drafts, dedup_ids)
    if settings.max_messages or settings.max_bytes:
        new = [len(draft.content) for index, draft in enumerate(drafts) if not known or known[index] is None]
        drops = _make_room(queue, len(new) - freed_messages, sum(new) - freed_bytes)
    return Plan(drafts, known, drops, dedup_ids)


def _check_for_fifo(queue: Queue, draft: model.Draft) -> None:
    """Raises GroupMissing, DedupIdMissing, NotInFifo."""
    if not draft.group:
        raise GroupMissing
    if draft.dedup_id is None and not queue.record.settings.content_dedup:
        raise DedupIdMissing
    if draft.delay_ms or draft.priority:
        raise NotInFifo


def _dedup_id(queue: Queue, draft: model.Draft) -> str | None:
    if draft.dedup_id is None and queue.record.settings.content_dedup:
        return sha256(draft.content).hexdigest()
    return draft.dedup_id


def _dedup_key(queue: Queue, draft: model.Draft, dedup_id: str) -> bytes:
    is_of_group = queue.record.settings.dedup_scope == "group"
    return keys.dedup_key(queue.id, dedup_id, draft.group if is_of_group else None)


def _find_duplicates(
    group: Group, queue: Queue, drafts: Sequence[model.Draft], dedup_ids: Sequence[str | None]
) -> Sequence[int | None]:
    """For each draft the id of the message it repeats: an earlier one's, or one that this send is about to make."""
    next_id = queue.record.next_sequence
    found: list[int | None] = []
    here: dict[bytes, int] = {}
    for draft, dedup_id in zip(drafts, dedup_ids, strict=True):
        duplicate = None
        if dedup_id is not None:
            key = _dedup_key(queue, draft, dedup_id)
            duplicate = here.get(key) or remembered(group, key)
            if duplicate is None and queue.record.settings.dedup_window:
                here[key] = next_id
        found.append(duplicate)
        next_id += duplicate is None
    return found


def remembered(group: Group, key: bytes) -> int | None:
    """The id of the message that a deduplication id is known of."""
    value = group.tx.space(keys.DEDUP).get(key)
    if value is None:
        return None
    message, forget_at_ms = codec.unpack_dedup(value)
    return keys.sequence_of(message) if forget_at_ms > group.now_ms else None


def _make_room(queue: Queue, messages: int, size: int) -> list[bytes]:
    """The keys of ready messages that must go so that as many messages and bytes fit. Raises QueueFull."""
    settings = queue.record.settings
    over_messages = over_bytes = 0
    if settings.max_messages and messages > 0:
        over_messages = queue.total() + messages - settings.max_messages
    if settings.max_bytes and size > 0:
        over_bytes = queue.record.bytes + size - settings.max_bytes
    if over_messages <= 0 and over_bytes <= 0:
        return []
    drops: list[bytes] = []
    if settings.overflow == "drop_oldest":
        for key, value in islice(_oldest_first(queue), MAX_DROPPED):
            drops.append(key)
            over_messages -= 1
            with suppress(CorruptRecord):
                over_bytes -= codec.content_bytes(codec.unpack_message(value))
            if over_messages <= 0 and over_bytes <= 0:
                return drops
    raise QueueFull(
        f"The queue {queue.name!r} holds {queue.total():,} messages with {queue.record.bytes:,} bytes of content."
    )


def _oldest_first(queue: Queue) -> Iterator[tuple[bytes, bytes]]:
    """Ready messages in the order of their ids, whatever their priority."""
    ranks = (queue.ready.scan(bytes([rank]), bytes([rank + 1])) for rank in range(model.MAX_PRIORITY + 1))
    return heapq.merge(*ranks, key=lambda item: item[0][1:])


def carry_out(group: Group, queue: Queue, plan: Plan) -> model.Sent:
    for key in plan.drops:
        _drop(group, queue, key)
    if not plan.known:
        ids = tuple([_store(group, queue, draft) for draft in plan.drafts])
        queue.count("sent", len(ids))
        return model.Sent(ids)
    rows = zip(plan.drafts, plan.known, plan.dedup_ids, strict=True)
    ids = tuple([_store(group, queue, draft, own) if known is None else known for draft, known, own in rows])
    duplicates = tuple([index for index, known in enumerate(plan.known) if known is not None])
    queue.count("sent", len(ids) - len(duplicates))
    if duplicates:
        queue.count("duplicates", len(duplicates))
    return model.Sent(ids, duplicates)


def _drop(group: Group, queue: Queue, key: bytes) -> None:
    value = queue.ready.get(key)
    if value is None:
        return
    record = read_or_set_aside(group, queue, "ready", key, value)
    if record is not None:
        displace(group, queue, "ready", key, record)
        finish(group, queue, key, record, "dropped")


def _store(group: Group, queue: Queue, draft: model.Draft, dedup_id: str | None = None) -> int:
    """Store a message; the delay and the lifetime are those of its queue, for a draft that names none.

    The delay of a FIFO queue is looked at when a message is received.
    """
    content = draft.content
    delay_ms = draft.delay_ms
    if delay_ms is None:
        delay_ms = 0 if queue.is_fifo else queue.delay_ms
    ttl_ms = queue.ttl_ms if draft.ttl_ms is None else draft.ttl_ms
    has_place = delay_ms or draft.priority or draft.group or dedup_id
    has_head = draft.headers or draft.attributes or draft.notes
    if len(content) <= codec.SURELY_INLINE_BYTES and not (has_place or has_head):
        expires_at_ms = group.now_ms + ttl_ms if ttl_ms else 0
        value = codec.pack_new(group.wall_ms(), group.ahead_ms(), content, draft.media_type, expires_at_ms)
        message_id = append_new(group, queue, value, len(content), expires_at_ms)
    else:
        now_ms = group.now_ms
        record, pieces = codec.split_body(
            MessageRecord(
                sent_at_ms=group.wall_ms(),
                body=content,
                media_type=draft.media_type,
                due_at_ms=now_ms + delay_ms if delay_ms else 0,
                expires_at_ms=now_ms + ttl_ms if ttl_ms else 0,
                ahead_ms=group.ahead_ms(),
                group=draft.group,
                headers=draft.headers,
                dedup_id=dedup_id,
                attributes=draft.attributes,
                notes=draft.notes,
            )
        )
        message_id = settle_new(group, queue, draft.priority, record, pieces)
    if dedup_id is not None and (window_ms := round(queue.record.settings.dedup_window * 1000)):
        key = keys.message_key(message_id, draft.priority)
        remember(group, queue, _dedup_key(queue, draft, dedup_id), key, group.now_ms + window_ms)
    return message_id


def remember(group: Group, queue: Queue, dedup_key: bytes, key: bytes, forget_at_ms: int) -> None:
    """Know the deduplication id of a message until then."""
    group.tx.space(keys.DEDUP).put(dedup_key, codec.pack_dedup(key, forget_at_ms))
    group.due.put(keys.due_key(forget_at_ms, DueKind.DEDUP, queue.id, key), dedup_key[4:])
