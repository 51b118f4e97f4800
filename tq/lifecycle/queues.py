"""Queues: made, changed, emptied and removed.

Purging and deleting only let go: they take the queue's internal id away in O(1), and `sweep` reclaims what lies under
that id in slices of bounded size, so that a queue of ten million messages holds nobody up.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice

import msgspec

from tq import codec, keys, model
from tq.codec import CorruptRecord, QueueRecord
from tq.errors import InvalidRequest, Overloaded, QueueExists, QueueNotEmpty, TooManyQueues
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.looking import describe

MAX_GARBAGE = 1_000  # purged queues that may wait to be swept, so that the number of sub-databases is bounded
MAX_HOPS = 100  # from one dead-letter queue to the next


def create(group: Group, command: model.CreateQueue) -> model.Created:
    queue = group.find(command.name)
    if queue is None:
        queue = _add(group, command.name, command.settings)
        group.set_notes(command.name, command.notes)
        return model.Created(describe(group, queue), True)
    if queue.record.settings != command.settings:
        raise QueueExists(f"The queue {command.name!r} exists with other settings.")
    return model.Created(describe(group, queue), False)


def put(group: Group, command: model.PutQueue) -> model.Created:
    queue = group.find(command.name)
    if queue is None:
        return model.Created(describe(group, _add(group, command.name, command.settings)), True)
    _set(group, queue, command.settings)
    return model.Created(describe(group, queue), False)


def patch(group: Group, command: model.PatchQueue) -> model.QueueInfo | None:
    queue = group.queue(command.name)
    notes: dict[str, str | None] = {}
    notes.update(group.notes(command.name) if command.notes or command.expected else {})
    if any(notes.get(name) != text for name, text in command.expected.items()):
        return None
    changes = {
        name: value for name, value in msgspec.structs.asdict(command.change).items() if value is not msgspec.UNSET
    }
    _set(group, queue, msgspec.structs.replace(queue.record.settings, **changes))
    if command.notes:
        notes.update(command.notes)
        group.set_notes(command.name, {name: text for name, text in notes.items() if text is not None})
    return describe(group, queue)


def bring_back(group: Group, command: model.CreateQueue) -> None:
    """As `create`, of a queue whose dead-letter queue need not be there: it may have been deleted before."""
    queue = group.find(command.name)
    if queue is None:
        _add(group, command.name, command.settings, needs_target=False)
        group.set_notes(command.name, command.notes)
    elif queue.record.settings != command.settings:
        raise QueueExists(f"The queue {command.name!r} exists with other settings.")


def _add(group: Group, name: str, settings: model.QueueSettings, needs_target: bool = True) -> Queue:
    limit = min(group.max_queues, model.MAX_QUEUES)
    if group.tx.space(keys.QUEUES).count() >= limit:
        raise TooManyQueues(f"The server holds {limit:,} queues, as many as it may.")
    _check_dead_letter(group, name, settings, needs_target)
    if settings.fifo != name.endswith(".fifo"):
        raise InvalidRequest("The name of a FIFO queue, and of no other, ends with '.fifo' - at `$.fifo`.")
    return group.add(name, QueueRecord(0, 1, group.wall_ms(), settings))


def _set(group: Group, queue: Queue, settings: model.QueueSettings) -> None:
    _check_dead_letter(group, queue.name, settings)
    if settings.fifo != queue.is_fifo:
        raise InvalidRequest(f"Whether {queue.name!r} is a FIFO queue was said when it was made - at `$.fifo`.")
    before = queue.record.settings
    if (before.paused and not settings.paused) or (queue.is_fifo and before.delay > settings.delay):
        queue.arrived += queue.ready.count()
    queue.configure(settings)
    queue.is_changed = True
    if before.retention != settings.retention:
        group.watch(queue, group.now_ms if settings.retention and queue.total() else 0)


def _check_dead_letter(group: Group, name: str, settings: model.QueueSettings, needs_target: bool = True) -> None:
    """The target must exist, and following the targets must never lead back."""
    hops = 0
    letter = settings.dead_letter
    while letter is not None:
        if letter.queue == name:
            raise InvalidRequest(f"The dead letters of {name!r} would come back to it - at `$.dead_letter.queue`.")
        target = group.find(letter.queue)
        if target is None and hops == 0 and needs_target:
            raise InvalidRequest(f"There is no queue named {letter.queue!r} - at `$.dead_letter.queue`.")
        hops += 1
        if hops > MAX_HOPS:
            raise InvalidRequest(f"Dead letters may go on at most {MAX_HOPS} times - at `$.dead_letter.queue`.")
        letter = target.record.settings.dead_letter if target else None


def delete(group: Group, command: model.DeleteQueue) -> None:
    queue = group.queue(command.name)
    if command.if_empty and queue.total():
        raise QueueNotEmpty(f"The queue {command.name!r} holds {queue.total():,} messages.")
    _check_garbage(group)
    group.remove(queue)


def purge(group: Group, command: model.PurgeQueue) -> int:
    queue = group.queue(command.name)
    _check_garbage(group)
    purged = queue.total()
    group.renew(queue)
    record = queue.record
    record.bytes = record.in_flight = record.delayed = record.blocked = 0
    queue.count("purged", purged)
    return purged


def _check_garbage(group: Group) -> None:
    if group.tx.space(keys.GARBAGE).count() >= MAX_GARBAGE:
        raise Overloaded("Too many purged queues wait to be swept; try again.")


def sweep(group: Group, command: model.Sweep) -> bool:
    garbage = group.tx.space(keys.GARBAGE)
    first = next(garbage.scan(), None)
    if first is None:
        return False
    prefix = first[0]
    if len(prefix) != 4 or group.tx.space(keys.NAMES).get(prefix) is not None:
        garbage.delete(prefix)  # damaged: what belongs to a queue is no garbage
        return garbage.count() > 0
    queue_id = keys.queue_id_of(prefix)
    left = command.limit
    for name in keys.BY_QUEUE:
        left -= _clear(group, name, queue_id, left, prefix, keys.after_prefix(prefix))
    ready_name = keys.ready_space(queue_id)
    left -= _clear(group, ready_name, queue_id, left)
    if left > 0:
        group.tx.drop(ready_name)
        garbage.delete(prefix)
    return garbage.count() > 0


def _clear(group: Group, name: str, queue_id: int, limit: int, start: bytes = b"", stop: bytes | None = None) -> int:
    """Delete up to `limit` records of a space and what is due for them; returns how many."""
    space = group.tx.space(name)
    doomed = list(islice(space.scan(start, stop), limit))
    for key, value in doomed:
        space.delete(key)
        for due in _due_keys(name, queue_id, key, value):
            group.due.delete(due)
    return len(doomed)


def _due_keys(name: str, queue_id: int, key: bytes, value: bytes) -> Iterator[bytes]:
    """The entries of `due` that a record has."""
    if name == keys.DEDUP:
        message, time_ms = codec.unpack_dedup(value)
        yield keys.due_key(time_ms, DueKind.DEDUP, queue_id, message)
    elif name == keys.ATTEMPTS:
        yield keys.due_key(codec.unpack_attempt(value)[0], DueKind.ATTEMPT, queue_id, key[4:])
    elif name not in (keys.GROUPS, keys.CHUNKS, keys.QUARANTINE):
        with suppress(CorruptRecord):
            record = codec.unpack_message(value)
            if record.expires_at_ms:
                yield keys.due_key(record.expires_at_ms, DueKind.TTL, queue_id, key[-8:])
            if name in (keys.IN_FLIGHT, keys.DELAYED):
                kind = DueKind.LEASE if name == keys.IN_FLIGHT else DueKind.DELAY
                yield keys.due_key(record.due_at_ms, kind, queue_id, key[-8:])


def probe(group: Group, _: model.Probe) -> None:
    group.tx.space(keys.META).put(keys.PROBED_AT, group.now_ms.to_bytes(8))
