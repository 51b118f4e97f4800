"""Receiving: messages are taken from the front of a queue, and removed or leased; and given back, if it was in vain.

A damaged message goes to quarantine when its turn comes, one whose time is over expires, one that was received often
enough becomes a dead letter, and the next is taken. What the front of a FIFO queue is, `_GroupByGroup` says. A receive
with an attempt id gets once more what it got before.
"""

from __future__ import annotations

from contextlib import suppress

from msgspec.structs import replace

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import TooManyInFlight, TqError
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.looking import show
from tq.lifecycle.places import (
    displace,
    expire,
    finish,
    first_of,
    held_back_ms,
    is_expired,
    join_group,
    locate,
    move,
    place,
    quarantine,
    read,
    return_to_group,
    settle_in,
    take_out,
    unpack,
)
from tq.lifecycle.settling import leased

MAX_SKIPPED = (
    100  # damaged or expired messages on the way of one receive, so that its time is bounded; large ones fewer
)


def receive(group: Group, command: model.Receive) -> model.Received:
    queues = [group.queue(name) for name in command.queues]  # before any is touched: one that is missing refuses all
    quarantined: tuple[int, ...] = ()
    is_cut_short = is_full = False
    ready_at_ms: int | None = None
    for queue in queues:
        if queue.record.settings.paused:
            continue
        received = _take_again(group, queue, command) if command.attempt_id else _take(group, queue, command)
        if received.messages:
            return replace(received, quarantined=quarantined + received.quarantined) if quarantined else received
        quarantined += received.quarantined
        is_cut_short |= received.is_cut_short
        is_full |= received.is_full
        ready_at_ms = min(filter(None, (ready_at_ms, received.ready_at_ms)), default=None)
    wait_s = next(filter(None, (queue.record.settings.receive_wait for queue in queues)), 0)
    return model.Received((), "", quarantined, is_cut_short, round(wait_s * 1000), ready_at_ms, is_full)


def _most(queue: Queue, most: int, command: model.Receive) -> int:
    """How many of `most` may still be leased. Raises TooManyInFlight for who does not wait, nor has another queue."""
    waits = command.wait_ms > 0 or (command.wait_ms < 0 and queue.record.settings.receive_wait)
    if queue.is_full() and len(command.queues) == 1 and not waits:
        raise TooManyInFlight(f"{queue.record.in_flight:,} messages of the queue {queue.name!r} are in flight.")
    return max(0, min(command.limit, most - queue.record.in_flight))


def _take(group: Group, queue: Queue, command: model.Receive) -> model.Received:
    if group.received_bytes >= model.MAX_GROUP_PAGES * model.MAX_PAGE_BYTES:
        return model.Received(is_cut_short=True)  # all answers of a group are in memory at once
    due_at_ms = _lease_until(group, queue, command)
    settings = queue.record.settings
    limit = command.limit
    if settings.max_in_flight and due_at_ms is not None:
        limit = _most(queue, settings.max_in_flight, command)
        if not limit:
            return model.Received(is_full=True)
    front = _GroupByGroup(group, queue) if queue.is_fifo else queue.ready
    most_receives = _most_receives(group, settings.dead_letter) if settings.dead_letter else 0
    messages: list[model.Message] = []
    taken: list[tuple[bytes, MessageRecord]] = []
    over: list[tuple[bytes, MessageRecord]] = []
    damaged: list[tuple[bytes, bytes]] = []
    is_cut_short = False
    size = over_bytes = 0
    # They are all out of `ready` before more is done with them, so that nothing steps into their places meanwhile.
    while item := front.pop_first():
        key, value = item
        try:
            record = unpack(key, value)
            is_over = (record.expires_at_ms or queue.retention_ms) and is_expired(group, queue, record)
            if is_over or (most_receives and record.receives_here >= most_receives):
                over.append((key, record))
                over_bytes += codec.content_bytes(record)
            else:
                whole = record if isinstance(record.body, bytes) else read(group, queue, key, record)
                after = _taken(group, whole, due_at_ms)
                messages.append(show(group, queue, key, after, None, due_at_ms is not None, command.with_uuids))
                taken.append((key, after if whole is record else _taken(group, record, due_at_ms)))
                size += messages[-1].size
        except CorruptRecord:
            damaged.append(item)
        is_full = len(taken) == limit or size >= model.MAX_PAGE_BYTES
        is_cut_short = len(over) + len(damaged) == MAX_SKIPPED or over_bytes >= model.MAX_PAGE_BYTES
        if is_full or is_cut_short:
            break
    for key, record in taken:
        if due_at_ms is None:
            finish(group, queue, key, record, "acked")
        else:
            place(group, queue, "in_flight", key, record)
    if taken:
        queue.count("received", len(taken))
        group.received_bytes += size
    ready_at_ms = front.ready_at_ms if isinstance(front, _GroupByGroup) else None
    if not over and not damaged:
        return model.Received(tuple(messages), queue.name, ready_at_ms=ready_at_ms)
    for key, record in over:
        _end(group, queue, key, record)
    for key, value in damaged:
        quarantine(group, queue, key, value)
    is_cut_short |= queue.is_fifo  # the next of their groups are ready only now
    ids = tuple(keys.sequence_of(key) for key, _ in damaged)
    return model.Received(tuple(messages), queue.name, ids, is_cut_short, ready_at_ms=ready_at_ms)


def _most_receives(group: Group, letter: model.DeadLetter) -> int:
    """After so many receives the next one moves a message to the dead-letter queue; 0 for never."""
    return letter.max_receives if letter.on_receive and group.find_sound(letter.queue) else 0


def _end(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> None:
    """The time to live of a message is over, or it would be received once too often."""
    letter = queue.record.settings.dead_letter
    if is_expired(group, queue, record):
        expire(group, queue, key, record)
    elif letter:
        move(group, queue, key, record, letter.queue, "max_receives")


class _GroupByGroup:
    """The front of a FIFO queue: a message, those behind it in its group, then the next of another group.

    A message is held back while it is younger than the queue's delay; `ready_at_ms` says until when.
    """

    __slots__ = ("_group", "_groups", "_prefix", "_queue", "ready_at_ms")

    def __init__(self, group: Group, queue: Queue) -> None:
        self._group = group
        self._queue = queue
        self._groups = group.tx.space(keys.GROUPS)
        self._prefix = b""
        self.ready_at_ms: int | None = None

    def pop_first(self) -> tuple[bytes, bytes] | None:
        if self._prefix:
            follower = self._pop_follower()
            if follower:
                return follower
        first = next(self._queue.ready.scan(), None)
        if first is None:
            return None
        key, value = first
        name: str | None = None
        with suppress(CorruptRecord):
            record = unpack(key, value)
            if self._is_held_back(record):
                return None
            name = record.group
        self._queue.ready.pop_first()
        self._prefix = keys.group_prefix(self._queue.id, name) if name else b""
        return first

    def _pop_follower(self) -> tuple[bytes, bytes] | None:
        """The next one of the group, which stands beside its head from now on."""
        key = first_of(self._groups, self._prefix)
        if key is None:
            return None
        value = self._group.tx.space(keys.BLOCKED).get(keys.shared_key(self._queue.id, key))
        if value is None:
            return None  # its entry is damaged
        with suppress(CorruptRecord):
            record = codec.unpack_message(value)
            if record.due_at_ms > self._group.now_ms or self._is_held_back(record):
                return None
        take_out(self._group, self._queue, "blocked", key)
        self._groups.delete(self._prefix + key)
        self._groups.put(keys.beside_prefix(self._prefix) + key, b"")
        return key, value

    def _is_held_back(self, record: MessageRecord) -> bool:
        left_ms = held_back_ms(self._group, self._queue, record)
        if left_ms:
            self.ready_at_ms = min(filter(None, (self.ready_at_ms, self._group.now_ms + left_ms)))
        return left_ms > 0


def _take_again(group: Group, queue: Queue, command: model.Receive) -> model.Received:
    """What the receive with this attempt id got before, as long as all of it is still in flight; else what is next."""
    assert command.attempt_id is not None
    due_at_ms = _lease_until(group, queue, command)
    if due_at_ms is None:
        return _take(group, queue, command)
    attempts = group.tx.space(keys.ATTEMPTS)
    attempt_key = keys.attempt_key(queue.id, command.attempt_id)
    value = attempts.get(attempt_key)
    until_ms, leases = codec.unpack_attempt(value) if value else (0, [])
    held = [_held(group, queue, key, attempt) for key, attempt in leases]
    if until_ms > group.now_ms and None not in held:
        found = [(key, record) for (key, _), record in zip(leases, held, strict=True) if record]
        return _extended(group, queue, found, due_at_ms, command.with_uuids)
    received = _take(group, queue, command)
    if value:
        attempts.delete(attempt_key)
        group.due.delete(keys.due_key(until_ms, DueKind.ATTEMPT, queue.id, command.attempt_id.encode()))
    if received.messages:
        until_ms = group.now_ms + model.RECEIVE_ATTEMPT_MS
        leases = [(keys.message_key(each.id, each.priority), each.attempt) for each in received.messages]
        attempts.put(attempt_key, codec.pack_attempt(until_ms, leases))
        group.due.put(keys.due_key(until_ms, DueKind.ATTEMPT, queue.id, command.attempt_id.encode()), b"")
    return received


def _held(group: Group, queue: Queue, key: bytes, attempt: int) -> MessageRecord | None:
    """The record of a message that is still in flight by this attempt."""
    value = group.tx.space(keys.IN_FLIGHT).get(keys.shared_key(queue.id, key))
    with suppress(CorruptRecord):
        record = codec.unpack_message(value) if value else None
        if record and record.attempt == attempt and read(group, queue, key, record):
            return record
    return None


def _extended(
    group: Group, queue: Queue, held: list[tuple[bytes, MessageRecord]], due_at_ms: int, has_uuid: bool
) -> model.Received:
    messages: list[model.Message] = []
    for key, record in held:
        displace(group, queue, "in_flight", key, record)
        after = replace(record, due_at_ms=due_at_ms)
        place(group, queue, "in_flight", key, after)
        messages.append(show(group, queue, key, read(group, queue, key, after), None, True, has_uuid))
    return model.Received(tuple(messages), queue.name)


def _lease_until(group: Group, queue: Queue, command: model.Receive) -> int | None:
    if command.visibility_ms is None:
        return None
    if command.visibility_ms < 0:
        return group.now_ms + round(queue.record.settings.visibility_timeout * 1000)
    return group.now_ms + command.visibility_ms


def _taken(group: Group, record: MessageRecord, due_at_ms: int | None) -> MessageRecord:
    """The record as it is after this receive."""
    if due_at_ms is None:
        return replace(record, receive_count=record.receive_count + 1, due_at_ms=0)
    return replace(
        record,
        receive_count=record.receive_count + 1,
        attempt=record.attempt + 1,
        due_at_ms=due_at_ms,
        first_received_at_ms=record.first_received_at_ms or group.wall_ms(),
        received_at_ms=group.now_ms,
    )


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
            before = _not_taken(record)
            if is_expired(group, queue, record):
                expire(group, queue, key, before)  # the timer of its lifetime has gone off while it was leased
            else:
                return_to_group(group, queue, key, before)


def _not_taken(record: MessageRecord) -> MessageRecord:
    """The record as it was before the receive that took it."""
    receives = record.receive_count - 1
    first_ms = record.first_received_at_ms if receives else 0
    return replace(record, receive_count=receives, due_at_ms=0, first_received_at_ms=first_ms)


def _restore(group: Group, queue: Queue, message: model.Message) -> None:
    """Bring back a message that was removed, ahead of the ones of its group that followed it."""
    key = keys.message_key(message.id, message.priority)
    is_ours = message.id < queue.record.next_sequence and queue.record.counters.get("acked", 0) > 0
    if not is_ours or locate(group, queue, key):
        return  # the queue was deleted since, and this is another one of its name
    record = MessageRecord(
        sent_at_ms=message.sent_at_ms,
        body=message.content,
        media_type=message.media_type,
        receive_count=message.receive_count - 1,
        attempt=message.attempt,
        expires_at_ms=message.expires_at_ms + group.ahead_ms() if message.expires_at_ms else 0,
        ahead_ms=message.ahead_ms,
        receives_before=message.receives_before,
        group=message.group,
        headers=message.headers,
        dead_letter=message.dead_letter,
        first_received_at_ms=message.first_received_at_ms or 0,
        dedup_id=message.dedup_id,
        attributes=message.attributes,
        notes=message.notes,
        uuid=None if message.uuid == queue.uuid(message.id) else message.uuid,
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
    """Block the head of a group behind `key`, which becomes the head; False when it is older, or in flight."""
    groups = group.tx.space(keys.GROUPS)
    head = groups.get(prefix) or b""
    found = locate(group, queue, head)
    if found is None or found[0] == "in_flight" or keys.sequence_of(head) < keys.sequence_of(key):
        return False
    try:
        record = unpack(head, found[1])
    except CorruptRecord:
        return False  # it will be set aside when its turn comes
    displace(group, queue, found[0], head, record)
    place(group, queue, "blocked", head, record)
    groups.delete(prefix + key)
    groups.put(prefix + head, b"")
    groups.put(prefix, key)
    return True
