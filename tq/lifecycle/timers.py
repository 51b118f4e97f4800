"""Time: what is due is done, a bounded number of entries at a time.

`due` is the timer wheel: its keys begin with the time, so the first key is what is due next. It lies on disk with
everything else, so a restart forgets no timer and reads none. Messages have entries of their own there for all but the
retention of their queue: one entry stands for the oldest of them all, which is the first in its place (see `_oldest`).
"""

from __future__ import annotations

from itertools import islice

from tq import codec, keys, model
from tq.codec import MessageRecord
from tq.keys import DueKind
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import (
    come_back,
    displace,
    enter,
    expire,
    is_aged,
    locate,
    read_or_set_aside,
    space_of,
)
from tq.model import STATES, State

CLOCK_GRAIN_MS = 1_000  # how often the time is stored while nothing else happens


def tick(group: Group, command: model.Tick) -> model.Ticked:
    aged = 0
    for entry, value in _due(group, command.limit):
        if group.ended_bytes >= model.MAX_PAGE_BYTES:
            break  # what is large is copied on its way to a dead-letter queue, and takes as long as many that are small
        group.due.delete(entry)
        try:
            time_ms, kind, queue_id, key = keys.parse_due(entry)
        except ValueError:
            continue  # it is damaged, and must not keep the others waiting
        queue = group.find_by_id(queue_id)
        if queue is None:
            continue  # purged or deleted since
        if kind is DueKind.LEASE:
            _end_wait(group, queue, "in_flight", key, time_ms)
        elif kind is DueKind.DELAY:
            _end_wait(group, queue, "delayed", key, time_ms)
        elif kind is DueKind.TTL:
            _end_life(group, queue, key)
        elif kind is DueKind.DEDUP:
            _forget(group, queue, value, time_ms)
        elif kind is DueKind.ATTEMPT:
            _forget_attempt(group, queue, key, time_ms)
        elif queue.record.watch_ms == time_ms:
            aged += _end_ages(group, queue, command.limit - aged)
    keep_time(group)
    first = next(group.due.scan(), None)
    return model.Ticked(keys.due_time_ms(first[0]) if first else None, group.arrivals())


def _due(group: Group, limit: int) -> list[tuple[bytes, bytes]]:
    """What is due, the oldest first, up to a limit."""
    return list(islice(group.due.scan(b"", (group.now_ms + 1).to_bytes(8)), limit)) if limit else []


def _end_wait(group: Group, queue: Queue, state: State, key: bytes, time_ms: int) -> None:
    """A lease or a delay is over."""
    found = locate(group, queue, key)
    if found is None or found[0] != state:
        return
    record = read_or_set_aside(group, queue, state, key, found[1])
    if record is None or record.due_at_ms != time_ms:
        return
    displace(group, queue, state, key, record)
    if state == "delayed":
        enter(group, queue, key, record)
    else:
        queue.count("timed_out")
        come_back(group, queue, key, record)


def _end_life(group: Group, queue: Queue, key: bytes) -> None:
    """A message's time to live is over. One in flight is left to its consumer; it expires when it comes back."""
    found = locate(group, queue, key)
    if found is None or found[0] == "in_flight":
        return
    state, value = found
    record = read_or_set_aside(group, queue, state, key, value)
    if record is not None:
        displace(group, queue, state, key, record)
        expire(group, queue, key, record)


def _end_ages(group: Group, queue: Queue, limit: int) -> int:
    """Expire what is in the queue for longer than its retention, the oldest first; returns how many, up to a limit."""
    for aged in range(limit):
        if group.ended_bytes >= model.MAX_PAGE_BYTES:
            limit = aged
            break
        oldest = _oldest(group, queue)
        if oldest is None:
            group.watch(queue, 0)
            return aged
        state, key, record = oldest
        if record is None:
            continue
        if not is_aged(group, queue, record):
            group.watch(queue, record.born_ms + queue.retention_ms)
            return aged
        displace(group, queue, state, key, record)
        expire(group, queue, key, record)
    group.watch(queue, group.now_ms)
    return limit


def _oldest(group: Group, queue: Queue) -> tuple[State, bytes, MessageRecord | None] | None:
    """The oldest message of a queue; without a record when one was damaged on the way and set aside.

    It is the first of a state and a priority, because those were sent in the order of their keys. Only a dead letter
    can be older than what stands before it, and has its turn behind that.
    """
    oldest: tuple[State, bytes, MessageRecord] | None = None
    for state in STATES:
        space = space_of(group, queue, state)
        prefix = b"" if state == "ready" else keys.queue_prefix(queue.id)
        start = prefix
        while first := next(space.scan(start, keys.after_prefix(prefix)), None):
            key = first[0][len(prefix) :]
            record = read_or_set_aside(group, queue, state, key, first[1])
            if record is None:
                return state, key, None
            if oldest is None or record.born_ms < oldest[2].born_ms:
                oldest = state, key, record
            start = prefix + bytes([key[0] + 1])
    return oldest


def _forget(group: Group, queue: Queue, dedup_id: bytes, time_ms: int) -> None:
    """`dedup_id` is what its key has behind the queue's id."""
    dedup = group.tx.space(keys.DEDUP)
    key = keys.queue_prefix(queue.id) + dedup_id
    value = dedup.get(key)
    if value is not None and codec.unpack_dedup(value)[1] == time_ms:
        dedup.delete(key)


def _forget_attempt(group: Group, queue: Queue, attempt_id: bytes, time_ms: int) -> None:
    attempts = group.tx.space(keys.ATTEMPTS)
    key = keys.queue_prefix(queue.id) + attempt_id
    value = attempts.get(key)
    if value is not None and codec.unpack_attempt(value)[0] == time_ms:
        attempts.delete(key)


def keep_time(group: Group) -> None:
    """Store how late it is, so that time does not go back when the wall clock does while the server is down."""
    clock = group.clock()
    if group.now_ms - clock.latest_ms >= CLOCK_GRAIN_MS:
        group.set_clock(model.Clock(group.now_ms, clock.offset_ms))


def set_clock(group: Group, command: model.SetClock) -> None:
    group.set_clock(model.Clock(group.now_ms, command.offset_ms))
    if command.boot:
        group.tx.space(keys.META).put(keys.BOOT, codec.pack_boot(command.boot))
