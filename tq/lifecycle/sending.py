"""Sending: what is refused, what is a duplicate, what must make room, and then the messages themselves.

A send is planned before anything is written, because a command that is refused must leave no trace.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import islice

from msgspec import Struct

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import MessageTooLarge, QueueFull
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import append_new, displace, finish, read_or_set_aside, settle_new

MAX_DROPPED = 10_000  # by one send to a full queue that drops its oldest


class Plan(Struct):
    """What a send will do to one queue.

    `known`: for each draft the id it duplicates or None, empty when no draft has a deduplication id. `drops`: the keys
    of what goes before, to make room.
    """

    drafts: Sequence[model.Draft]
    known: Sequence[int | None]
    drops: Sequence[bytes]


def send(group: Group, command: model.Send) -> model.Sent:
    queue = group.queue(command.queue)
    return carry_out(group, queue, make_plan(group, queue, command.drafts))


def make_plan(
    group: Group,
    queue: Queue,
    drafts: Sequence[model.Draft],
    freed_messages: int = 0,
    freed_bytes: int = 0,
) -> Plan:
    """Raises MessageTooLarge, QueueFull. What the same transaction is about to free counts as free."""
    settings = queue.record.settings
    largest = settings.max_message_bytes
    known: Sequence[int | None] = ()
    drops: Sequence[bytes] = ()
    for draft in drafts:
        if len(draft.content) > largest:
            raise MessageTooLarge(
                f"Message {drafts.index(draft)} has {len(draft.content):,} bytes of content; "
                f"{largest:,} is the most that the queue {queue.name!r} takes."
            )
        if draft.dedup_id is not None and not known:
            known = _find_duplicates(group, queue, drafts)
    if settings.max_messages or settings.max_bytes:
        new = [len(draft.content) for index, draft in enumerate(drafts) if not known or known[index] is None]
        drops = _make_room(queue, len(new) - freed_messages, sum(new) - freed_bytes)
    return Plan(drafts, known, drops)


def _find_duplicates(group: Group, queue: Queue, drafts: Sequence[model.Draft]) -> Sequence[int | None]:
    """For each draft the id of the message it repeats: an earlier one's, or one that this send is about to make."""
    next_id = queue.record.next_sequence
    found: list[int | None] = []
    here: dict[str, int] = {}
    for draft in drafts:
        duplicate = None
        if draft.dedup_id is not None:
            duplicate = here.get(draft.dedup_id) or _remembered(group, queue, draft.dedup_id)
            if duplicate is None:
                here[draft.dedup_id] = next_id
        found.append(duplicate)
        next_id += duplicate is None
    return found


def _remembered(group: Group, queue: Queue, dedup_id: str) -> int | None:
    value = group.tx.space(keys.DEDUP).get(keys.dedup_key(queue.id, dedup_id))
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
    pairs = zip(plan.drafts, plan.known, strict=True)
    ids = tuple([_store(group, queue, draft) if known is None else known for draft, known in pairs])
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


def _store(group: Group, queue: Queue, draft: model.Draft) -> int:
    """Store a message; the delay and the lifetime are those of its queue, for a draft that names none."""
    content = draft.content
    delay_ms = queue.delay_ms if draft.delay_ms is None else draft.delay_ms
    ttl_ms = queue.ttl_ms if draft.ttl_ms is None else draft.ttl_ms
    is_special = delay_ms or ttl_ms or draft.priority or draft.group or draft.headers
    if len(content) <= codec.SURELY_INLINE_BYTES and not is_special:
        value = codec.pack_new(group.wall_ms(), content, draft.media_type)
        message_id = append_new(queue, value, len(content))
    else:
        now_ms = group.now_ms
        record, pieces = codec.split_body(
            MessageRecord(
                sent_at_ms=group.wall_ms(),
                body=content,
                media_type=draft.media_type,
                due_at_ms=now_ms + delay_ms if delay_ms else 0,
                expires_at_ms=now_ms + ttl_ms if ttl_ms else 0,
                group=draft.group,
                headers=draft.headers,
            )
        )
        message_id = settle_new(group, queue, draft.priority, record, pieces)
    if draft.dedup_id is not None:
        _remember(group, queue, draft.dedup_id, keys.message_key(message_id, draft.priority))
    return message_id


def _remember(group: Group, queue: Queue, dedup_id: str, key: bytes) -> None:
    window_ms = round(queue.record.settings.dedup_window * 1000)
    if window_ms:
        forget_at_ms = group.now_ms + window_ms
        group.tx.space(keys.DEDUP).put(keys.dedup_key(queue.id, dedup_id), codec.pack_dedup(key, forget_at_ms))
        due = keys.due_key(forget_at_ms, DueKind.DEDUP, queue.id, key)
        group.due.put(due, dedup_id.encode())
