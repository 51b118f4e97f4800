"""Where a message is, and how it gets from one place to another.

Everything that changes a message's place goes through `place` and `displace`, which keep together what belongs
together: the record, the counter of its state, and its entry among what is due. What they do not decide is where it
goes next: that is said by `come_back`, when a lease ended without an ack, and `finish`, when its life is over.
"""

from __future__ import annotations

from msgspec.structs import replace

from tq import codec, keys
from tq.codec import ChunkedBody, CorruptRecord, MessageRecord
from tq.errors import StorageDamaged
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.model import STATES, DeadLetterOrigin, State
from tq.store import Space

MAX_ODD_KEY_BYTES = 64  # of a key that is none, which may be longer than any can be

_SPACES = {"in_flight": keys.IN_FLIGHT, "delayed": keys.DELAYED, "blocked": keys.BLOCKED}
_DUE = {"in_flight": DueKind.LEASE, "delayed": DueKind.DELAY}


def place(group: Group, queue: Queue, state: State, key: bytes, record: MessageRecord) -> None:
    """Put a message that is nowhere into a state. Its `due_at_ms` says when it leaves again by itself."""
    value = codec.pack_message(record)
    if state == "ready":
        queue.ready.put(key, value)
        queue.arrived += 1
        return
    shared = keys.shared_key(queue.id, key)
    group.tx.space(_SPACES[state]).put(shared, value)
    setattr(queue.record, state, getattr(queue.record, state) + 1)
    queue.is_changed = True
    queue.was_full |= queue.is_full()
    if state in _DUE:
        group.due.put(keys.due_key(record.due_at_ms, _DUE[state], queue.id, key), b"")


def displace(group: Group, queue: Queue, state: State, key: bytes, record: MessageRecord) -> None:
    """Take a message out of the state it is in. Raises StorageDamaged."""
    take_out(group, queue, state, key)
    if state in _DUE:
        group.due.delete(keys.due_key(record.due_at_ms, _DUE[state], queue.id, key))


def take_out(group: Group, queue: Queue, state: State, key: bytes) -> None:
    """The part of it that needs no record: of a damaged message what is due stays, and does nothing in its time.

    Raises StorageDamaged when what was found is not there: it would be found again and again.
    """
    if not space_of(group, queue, state).delete(key_in(queue, state, key)):
        raise StorageDamaged(f"A message of the queue {queue.name!r} is found in the data file and cannot be removed.")
    if state != "ready":
        setattr(queue.record, state, getattr(queue.record, state) - 1)
        queue.is_changed = True


def space_of(group: Group, queue: Queue, state: State) -> Space:
    return queue.ready if state == "ready" else group.tx.space(_SPACES[state])


def key_in(queue: Queue, state: State, key: bytes) -> bytes:
    """A message's key in the space of a state."""
    return key if state == "ready" else keys.shared_key(queue.id, key)


def locate(group: Group, queue: Queue, key: bytes) -> tuple[State, bytes] | None:
    """The state a message is in, and its record's bytes."""
    for state in STATES:
        value = space_of(group, queue, state).get(key_in(queue, state, key))
        if value is not None:
            return state, value
    return None


def finish(group: Group, queue: Queue, key: bytes, record: MessageRecord, counter: str) -> None:
    """End the life of a message that was displaced; `counter` says how it ended."""
    queue.count(counter)
    body = record.body
    size = codec.content_bytes(record)
    queue.record.bytes -= size
    group.ended_bytes += size
    if not isinstance(body, bytes):
        for number in range(body.chunks):
            group.chunks.delete(keys.chunk_key(queue.id, key, number))
    if record.expires_at_ms:
        group.due.delete(keys.due_key(record.expires_at_ms, DueKind.TTL, queue.id, key))
    if record.group:
        leave_group(group, queue, keys.group_prefix(queue.id, record.group), key)


def join_group(group: Group, queue: Queue, name: str, key: bytes) -> bool:
    """Make a message the head of its group, or let it wait behind the head; whether it is the head."""
    groups = group.tx.space(keys.GROUPS)
    prefix = keys.group_prefix(queue.id, name)
    is_head = groups.get(prefix) is None
    if is_head:
        groups.put(prefix, key)
    else:
        groups.put(prefix + key, b"")
    return is_head


def leave_group(group: Group, queue: Queue, prefix: bytes, key: bytes) -> None:
    """Take a message out of its group. When it was the head, the next one becomes the head, unblocked if need be."""
    groups = group.tx.space(keys.GROUPS)
    if groups.get(prefix) != key:
        groups.delete(prefix + key) or groups.delete(keys.beside_prefix(prefix) + key)
        return
    groups.delete(prefix)
    if not queue.is_fifo or not _take_over(groups, prefix):
        _lead_next(group, queue, prefix)


def first_of(groups: Space, prefix: bytes) -> bytes | None:
    """The first key behind a prefix in `groups`."""
    first = next(groups.scan(prefix + b"\0", keys.after_prefix(prefix)), None)
    return first[0][len(prefix) :] if first else None


def _take_over(groups: Space, prefix: bytes) -> bool:
    """Make one that is in flight beside the head the new head; False when there is none."""
    beside = keys.beside_prefix(prefix)
    other = first_of(groups, beside)
    if other is None:
        return False
    groups.delete(beside + other)
    groups.put(prefix, other)
    return True


def _lead_next(group: Group, queue: Queue, prefix: bytes) -> None:
    """Make the first blocked message of a group that can be read its head; those before it are set aside."""
    groups = group.tx.space(keys.GROUPS)
    while (key := first_of(groups, prefix)) is not None and groups.delete(prefix + key):
        value = group.tx.space(keys.BLOCKED).get(keys.shared_key(queue.id, key))
        if value is None:
            continue
        try:
            record = unpack(key, value)
        except CorruptRecord:
            take_out(group, queue, "blocked", key)
            _set_aside(group, queue, key, value)
            continue
        groups.put(prefix, key)
        displace(group, queue, "blocked", key, record)
        enter(group, queue, key, record)
        return


def return_to_group(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> None:
    """A message that was in flight becomes ready again, or delayed.

    In a FIFO queue it waits while another of its group is in flight; then the first of them all is the head.
    """
    if not queue.is_fifo or not record.group:
        enter(group, queue, key, record)
        return
    groups = group.tx.space(keys.GROUPS)
    prefix = keys.group_prefix(queue.id, record.group)
    first: bytes | None = None
    if groups.get(prefix) != key:
        groups.delete(keys.beside_prefix(prefix) + key)
    elif not _take_over(groups, prefix):
        first = first_of(groups, prefix)
        if first is None or first > key:
            enter(group, queue, key, record)
            return
    groups.put(prefix + key, b"")
    place(group, queue, "blocked", key, record)
    if first is not None:
        _lead_next(group, queue, prefix)


def enter(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> None:
    """Make a message ready, or delayed where its time has not come."""
    if record.due_at_ms > group.now_ms:
        place(group, queue, "delayed", key, record)
    else:
        place(group, queue, "ready", key, replace(record, due_at_ms=0) if record.due_at_ms else record)


def come_back(group: Group, queue: Queue, key: bytes, record: MessageRecord, delay_ms: int = 0) -> None:
    """What becomes of a message whose lease ended without an ack: it was displaced, and its lease counts.

    It is dead-lettered when that was its last chance, expires when its time to live is over, and else goes back to
    its place.
    """
    letter = queue.record.settings.dead_letter
    is_last = letter is not None and not letter.on_receive and record.receives_here >= letter.max_receives
    if letter and is_last and move(group, queue, key, record, letter.queue, "max_receives"):
        return
    if is_expired(group, queue, record):
        expire(group, queue, key, record)
        return
    return_to_group(group, queue, key, replace(record, due_at_ms=group.now_ms + delay_ms if delay_ms else 0))


def held_back_ms(group: Group, queue: Queue, record: MessageRecord) -> int:
    """How long the delay of a FIFO queue still holds back a message (ms). Whatever was received once is old enough."""
    if not queue.is_fifo or not queue.delay_ms or record.receive_count:
        return 0
    return max(0, record.born_ms + queue.delay_ms - group.now_ms)


def is_expired(group: Group, queue: Queue, record: MessageRecord) -> bool:
    """Whether its time to live or the queue's retention is over."""
    return 0 < record.expires_at_ms <= group.now_ms or is_aged(group, queue, record)


def is_aged(group: Group, queue: Queue, record: MessageRecord) -> bool:
    return 0 < queue.retention_ms <= group.now_ms - record.born_ms


def expire(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> None:
    """End a message that was displaced and whose time to live is over."""
    letter = queue.record.settings.dead_letter
    if letter and letter.on_expiry and move(group, queue, key, record, letter.queue, "expired"):
        return
    finish(group, queue, key, record, "expired")


def move(group: Group, queue: Queue, key: bytes, record: MessageRecord, to: str, reason: str | None) -> bool:
    """Move a message that was displaced to another queue; False when there is none of that name.

    With a reason it goes to a dead-letter queue, without one it comes out of it. The limits of the target do not
    count: a message is never lost because there is no room for it where it must go. Out of a queue with `on_receive`
    it keeps its count of receives, though only those to come count there, and, but in a FIFO queue, its age, as in SQS;
    a FIFO queue takes its priority away.
    What comes out of a dead-letter queue is sent anew.
    """
    target = group.find_sound(to)
    if target is None or target is queue:
        return False
    body = record.body
    if isinstance(body, ChunkedBody):
        prefix = keys.shared_key(queue.id, key)
        pieces = [piece for _, piece in group.chunks.scan(prefix, keys.after_prefix(prefix))]
    else:
        pieces = []
    origin = DeadLetterOrigin(queue.name, reason, record.receive_count) if reason else None
    letter = queue.record.settings.dead_letter
    keeps_count = reason is not None and letter is not None and letter.on_receive
    is_of_age = keeps_count and reason != "expired" and not target.is_fifo
    sent_at_ms = record.sent_at_ms if reason else group.wall_ms()
    ahead_ms = record.ahead_ms if is_of_age else group.now_ms - sent_at_ms
    moved = replace(
        record,
        sent_at_ms=sent_at_ms,
        ahead_ms=ahead_ms,
        receive_count=record.receive_count if keeps_count else 0,
        receives_before=record.receive_count if keeps_count else 0,
        attempt=0,
        due_at_ms=0,
        expires_at_ms=sent_at_ms + ahead_ms + target.ttl_ms if target.ttl_ms else 0,
        dead_letter=origin,
        first_received_at_ms=record.first_received_at_ms if keeps_count else 0,
        received_at_ms=0,
        uuid=(record.uuid or queue.uuid(keys.sequence_of(key))) if reason else None,
    )
    finish(group, queue, key, record, "dead_lettered" if reason else "redriven")
    settle_new(group, target, 0 if target.is_fifo else keys.priority_of(key), moved, pieces)
    target.count("sent")
    return True


def settle_new(group: Group, queue: Queue, priority: int, record: MessageRecord, pieces: list[bytes]) -> int:
    """Give a message that is new to the queue a key and a place, behind its group if need be. Returns its id."""
    sequence = queue.record.next_sequence
    queue.record.next_sequence = sequence + 1
    key = keys.message_key(sequence, priority)
    settle_in(group, queue, key, record, pieces)
    if record.group and not join_group(group, queue, record.group, key):
        place(group, queue, "blocked", key, record)
    elif priority == 0 and record.due_at_ms <= group.now_ms:
        # The lowest rank and the newest number: no key of the queue is greater.
        queue.ready.append(key, codec.pack_message(replace(record, due_at_ms=0) if record.due_at_ms else record))
        queue.arrived += 1
    else:
        enter(group, queue, key, record)
    return sequence


def append_new(group: Group, queue: Queue, value: bytes, size: int, expires_at_ms: int) -> int:
    """What `settle_new` comes to for most messages: ready at once, and nothing but a record. Returns its id."""
    record = queue.record
    sequence = record.next_sequence
    record.next_sequence = sequence + 1
    record.bytes += size
    key = keys.message_key(sequence)
    queue.ready.append(key, value)
    queue.arrived += 1
    queue.is_changed = True
    if expires_at_ms:
        group.due.put(keys.due_key(expires_at_ms, DueKind.TTL, queue.id, key), b"")
    if queue.retention_ms and not record.watch_ms:
        group.watch(queue, group.now_ms + queue.retention_ms)
    return sequence


def settle_in(group: Group, queue: Queue, key: bytes, record: MessageRecord, pieces: list[bytes]) -> None:
    """Store what a message has besides its record, wherever that is: chunks, its part of `bytes`, when it expires."""
    queue.record.bytes += codec.content_bytes(record)
    queue.is_changed = True
    for number, piece in enumerate(pieces):
        group.chunks.put(keys.chunk_key(queue.id, key, number), piece)
    if record.expires_at_ms:
        group.due.put(keys.due_key(record.expires_at_ms, DueKind.TTL, queue.id, key), b"")
    if queue.retention_ms:
        watch_ms = queue.record.watch_ms
        retained_until_ms = record.born_ms + queue.retention_ms
        if not watch_ms or retained_until_ms < watch_ms:
            group.watch(queue, retained_until_ms)


def read_or_set_aside(group: Group, queue: Queue, state: State, key: bytes, value: bytes) -> MessageRecord | None:
    """A message's record, or None for one that is damaged and goes to quarantine. Not for what may still be refused."""
    try:
        return unpack(key, value)
    except CorruptRecord:
        take_out(group, queue, state, key)
        quarantine(group, queue, key, value)
        return None


def unpack(key: bytes, value: bytes) -> MessageRecord:
    """Raises CorruptRecord, also for a record under a key that was never given out."""
    if not keys.is_message_key(key):
        raise CorruptRecord("the key is not one of a message")
    return codec.unpack_message(value)


def quarantine(group: Group, queue: Queue, key: bytes, value: bytes) -> None:
    """Set aside what was taken out and cannot be read. What else is known of it is found without its record."""
    _set_aside(group, queue, key, value)
    prefix = keys.queue_prefix(queue.id)
    for entry, head in group.tx.space(keys.GROUPS).scan(prefix, keys.after_prefix(prefix)):
        if head == key or entry.endswith(key):  # a slow search, but only a disk that lies leads here
            leave_group(group, queue, entry if head else keys.group_prefix_of(entry), key)
            return


def _set_aside(group: Group, queue: Queue, key: bytes, value: bytes) -> None:
    group.tx.space(keys.QUARANTINE).put(keys.shared_key(queue.id, key[:MAX_ODD_KEY_BYTES]), value)
    queue.count("quarantined")


def read(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> MessageRecord:
    """The record with its whole body and headers. Raises CorruptRecord."""
    if isinstance(record.body, bytes):
        return record
    prefix = keys.shared_key(queue.id, key)
    chunks = group.chunks.scan(prefix, keys.after_prefix(prefix))
    return codec.join_body(record, [piece for _, piece in chunks])
