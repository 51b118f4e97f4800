"""Receiving: messages are taken from the front of a queue, and removed or leased.

A damaged message goes to quarantine when its turn comes and one whose time is over expires, and the next is taken.
"""

from __future__ import annotations

from contextlib import suppress

from msgspec.structs import replace

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import TqError
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.looking import show
from tq.lifecycle.places import (
    displace,
    enter,
    expire,
    finish,
    is_expired,
    join_group,
    locate,
    place,
    quarantine,
    read,
    settle_in,
)
from tq.lifecycle.settling import leased

MAX_SKIPPED = 100  # damaged or expired messages on the way of one receive, so that its time is bounded


def receive(group: Group, command: model.Receive) -> model.Received:
    queues = [group.queue(name) for name in command.queues]  # before any is touched: one that is missing refuses all
    quarantined: tuple[int, ...] = ()
    is_cut_short = False
    for queue in queues:
        if queue.record.settings.paused:
            continue
        received = _take(group, queue, command)
        if received.messages:
            return replace(received, quarantined=quarantined + received.quarantined) if quarantined else received
        quarantined += received.quarantined
        is_cut_short |= received.is_cut_short
    return model.Received((), quarantined=quarantined, is_cut_short=is_cut_short)


def _take(group: Group, queue: Queue, command: model.Receive) -> model.Received:
    due_at_ms = _lease_until(group, queue, command)
    messages: list[model.Message] = []
    taken: list[tuple[bytes, MessageRecord]] = []
    expired: list[tuple[bytes, MessageRecord]] = []
    damaged: list[tuple[bytes, bytes]] = []
    size = 0
    # They are all out of `ready` before more is done with them, so that nothing steps into their places meanwhile.
    while item := queue.ready.pop_first():
        key, value = item
        try:
            record = codec.unpack_message(value)
            if record.expires_at_ms and is_expired(group, record):
                expired.append((key, record))
            else:
                whole = record if isinstance(record.body, bytes) else read(group, queue, key, record)
                messages.append(show(group, queue, key, _taken(whole, due_at_ms), is_leased=due_at_ms is not None))
                taken.append((key, record))
                size += codec.content_bytes(whole)
        except CorruptRecord:
            damaged.append(item)
        is_full = len(taken) == command.limit or size >= model.MAX_PAGE_BYTES
        if is_full or len(expired) + len(damaged) == MAX_SKIPPED:
            break
    for key, record in taken:
        if due_at_ms is None:
            finish(group, queue, key, record, "acked")
        else:
            place(group, queue, "in_flight", key, _taken(record, due_at_ms))
    if taken:
        queue.count("received", len(taken))
    if not expired and not damaged:
        return model.Received(tuple(messages), queue.name)
    for key, record in expired:
        expire(group, queue, key, record)
    for key, value in damaged:
        quarantine(group, queue, "ready", key, value)
    is_cut_short = len(expired) + len(damaged) == MAX_SKIPPED
    ids = tuple(keys.sequence_of(key) for key, _ in damaged)
    return model.Received(tuple(messages), queue.name, ids, is_cut_short)


def _lease_until(group: Group, queue: Queue, command: model.Receive) -> int | None:
    if command.visibility_ms is None:
        return None
    if command.visibility_ms < 0:
        return group.now_ms + round(queue.record.settings.visibility_timeout * 1000)
    return group.now_ms + command.visibility_ms


def _taken(record: MessageRecord, due_at_ms: int | None) -> MessageRecord:
    """The record as it is after this receive."""
    if due_at_ms is None:
        return replace(record, receive_count=record.receive_count + 1)
    return replace(record, receive_count=record.receive_count + 1, attempt=record.attempt + 1, due_at_ms=due_at_ms)


def unreceive(group: Group, command: model.Unreceive) -> None:
    """A receive could not be answered: each message goes back to its place as if it had not been taken."""
    queue = group.queue(command.queue)
    for message in command.messages:
        if message.receipt is None:
            _restore(group, queue, message)
            continue
        with suppress(TqError):  # the lease may have ended in another way by now
            key, record = leased(group, queue, message.receipt)
            displace(group, queue, "in_flight", key, record)
            queue.count("received", -1)
            before = replace(record, receive_count=record.receive_count - 1, due_at_ms=0)
            if is_expired(group, record):
                expire(group, queue, key, before)  # the timer of its lifetime has gone off while it was leased
            else:
                enter(group, queue, key, before)


def _restore(group: Group, queue: Queue, message: model.Message) -> None:
    """Bring back a message that was removed, ahead of the ones of its group that followed it."""
    key = keys.message_key(message.id, message.priority)
    is_ours = message.id < queue.record.next_sequence and queue.record.counters.get("acked", 0) > 0
    if not is_ours or locate(group, queue, key):
        return  # the queue was deleted since, and this is another one of its name
    ahead_ms = group.now_ms - group.wall_ms()
    record = MessageRecord(
        sent_at_ms=message.sent_at_ms,
        body=message.content,
        media_type=message.media_type,
        receive_count=message.receive_count - 1,
        attempt=message.attempt,
        expires_at_ms=message.expires_at_ms + ahead_ms if message.expires_at_ms else 0,
        group=message.group,
        headers=message.headers,
        dead_letter=message.dead_letter,
    )
    record, pieces = codec.split_body(record)
    for counter in ("received", "acked"):
        queue.count(counter, -1)
    settle_in(group, queue, key, record, pieces)
    is_head = (
        not record.group
        or join_group(group, queue, record.group, key)
        or _step_behind(group, queue, keys.group_prefix(queue.id, record.group), key)
    )
    place(group, queue, "ready" if is_head else "blocked", key, record)


def _step_behind(group: Group, queue: Queue, prefix: bytes, key: bytes) -> bool:
    """Block the head of a group behind `key`, which becomes the head; False when the head is in flight."""
    groups = group.tx.space(keys.GROUPS)
    head = groups.get(prefix) or b""
    found = locate(group, queue, head)
    if found is None or found[0] == "in_flight":
        return False
    record = codec.unpack_message(found[1])
    displace(group, queue, found[0], head, record)
    place(group, queue, "blocked", head, record)
    groups.delete(prefix + key)
    groups.put(prefix + head, b"")
    groups.put(prefix, key)
    return True
