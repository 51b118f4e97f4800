"""Where a message is, and how it gets from one place to another.

Everything that changes a message's place goes through `place` and `displace`, which keep together what belongs
together: the record, the counter of its state, and its entry among what is due. What they do not decide is where it
goes next: that is said by `come_back`, when a lease ended without an ack, and `finish`, when its life is over.
"""

from __future__ import annotations

from msgspec.structs import replace

from tq import codec, keys
from tq.codec import ChunkedBody, CorruptRecord, MessageRecord
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.model import STATES, DeadLetterOrigin, State
from tq.store import Space

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
    if state in _DUE:
        group.due.put(keys.due_key(record.due_at_ms, _DUE[state], queue.id, key), b"")


def displace(group: Group, queue: Queue, state: State, key: bytes, record: MessageRecord) -> None:
    """Take a message out of the state it is in."""
    if state == "ready":
        queue.ready.delete(key)
        return
    group.tx.space(_SPACES[state]).delete(keys.shared_key(queue.id, key))
    setattr(queue.record, state, getattr(queue.record, state) - 1)
    queue.is_changed = True
    if state in _DUE:
        group.due.delete(keys.due_key(record.due_at_ms, _DUE[state], queue.id, key))


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
    queue.record.bytes -= codec.content_bytes(record)
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
    """Take a message out of its group. When it was the head, the next one is unblocked and becomes the head."""
    groups = group.tx.space(keys.GROUPS)
    if groups.get(prefix) != key:
        groups.delete(prefix + key)
        return
    groups.delete(prefix)
    first = next(groups.scan(prefix, keys.after_prefix(prefix)), None)
    if first is None:
        return
    groups.delete(first[0])
    following = first[0][len(prefix) :]
    groups.put(prefix, following)
    value = group.tx.space(keys.BLOCKED).get(keys.shared_key(queue.id, following)) or b""
    record = read_or_set_aside(group, queue, "blocked", following, value)
    if record is not None:
        displace(group, queue, "blocked", following, record)
        enter(group, queue, following, record)


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
    is_last = letter is not None and record.receive_count >= letter.max_receives
    if letter and is_last and move(group, queue, key, record, letter.queue, "max_receives"):
        return
    if is_expired(group, record):
        expire(group, queue, key, record)
        return
    enter(group, queue, key, replace(record, due_at_ms=group.now_ms + delay_ms if delay_ms else 0))


def is_expired(group: Group, record: MessageRecord) -> bool:
    return 0 < record.expires_at_ms <= group.now_ms


def expire(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> None:
    """End a message that was displaced and whose time to live is over."""
    letter = queue.record.settings.dead_letter
    if letter and letter.on_expiry and move(group, queue, key, record, letter.queue, "expired"):
        return
    finish(group, queue, key, record, "expired")


def move(group: Group, queue: Queue, key: bytes, record: MessageRecord, to: str, reason: str | None) -> bool:
    """Move a message that was displaced to another queue; False when there is none of that name.

    With a reason it goes to a dead-letter queue, without one it comes out of it. The limits of the target do not
    count: a message is never lost because there is no room for it where it must go.
    """
    target = group.find(to)
    if target is None or target is queue:
        return False
    body = record.body
    if isinstance(body, ChunkedBody):
        prefix = keys.shared_key(queue.id, key)
        pieces = [piece for _, piece in group.chunks.scan(prefix, keys.after_prefix(prefix))]
    else:
        pieces = []
    origin = DeadLetterOrigin(queue.name, reason, record.receive_count) if reason else None
    ttl = target.record.settings.ttl
    moved = replace(
        record,
        receive_count=0,
        attempt=0,
        due_at_ms=0,
        expires_at_ms=group.now_ms + round(ttl * 1000) if ttl else 0,
        dead_letter=origin,
    )
    finish(group, queue, key, record, "dead_lettered" if reason else "redriven")
    settle_new(group, target, keys.priority_of(key), moved, pieces)
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


def append_new(queue: Queue, value: bytes, size: int) -> int:
    """What `settle_new` comes to for most messages: ready at once, and nothing but a record. Returns its id."""
    record = queue.record
    sequence = record.next_sequence
    record.next_sequence = sequence + 1
    record.bytes += size
    queue.ready.append(keys.message_key(sequence), value)
    queue.arrived += 1
    queue.is_changed = True
    return sequence


def settle_in(group: Group, queue: Queue, key: bytes, record: MessageRecord, pieces: list[bytes]) -> None:
    """Store what a message has besides its record, wherever that is: its chunks, its lifetime, its part of `bytes`."""
    queue.record.bytes += codec.content_bytes(record)
    queue.is_changed = True
    for number, piece in enumerate(pieces):
        group.chunks.put(keys.chunk_key(queue.id, key, number), piece)
    if record.expires_at_ms:
        group.due.put(keys.due_key(record.expires_at_ms, DueKind.TTL, queue.id, key), b"")


def read_or_set_aside(group: Group, queue: Queue, state: State, key: bytes, value: bytes) -> MessageRecord | None:
    """A message's record, or None for one that is damaged and goes to quarantine. Not for what may still be refused."""
    try:
        return codec.unpack_message(value)
    except CorruptRecord:
        quarantine(group, queue, state, key, value)
        return None


def quarantine(group: Group, queue: Queue, state: State, key: bytes, value: bytes) -> None:
    """Set a message aside whose record cannot be read. What else is known of it is found without the record."""
    shared = keys.shared_key(queue.id, key)
    space_of(group, queue, state).delete(key_in(queue, state, key))
    if state != "ready":
        setattr(queue.record, state, getattr(queue.record, state) - 1)
    group.tx.space(keys.QUARANTINE).put(shared, value)
    queue.count("quarantined")
    prefix = keys.queue_prefix(queue.id)
    for entry, head in group.tx.space(keys.GROUPS).scan(prefix, keys.after_prefix(prefix)):
        if head == key or entry.endswith(key):  # a slow search, but only a disk that lies leads here
            leave_group(group, queue, entry if head else entry[:-8], key)
            return


def read(group: Group, queue: Queue, key: bytes, record: MessageRecord) -> MessageRecord:
    """The record with its whole body and headers. Raises CorruptRecord."""
    if isinstance(record.body, bytes):
        return record
    prefix = keys.shared_key(queue.id, key)
    chunks = group.chunks.scan(prefix, keys.after_prefix(prefix))
    return codec.join_body(record, [piece for _, piece in chunks])
