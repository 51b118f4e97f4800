"""What the commands of one transaction share: the spaces, the time, and each queue that was touched.

A queue's record is read once, changed in memory, and written once when the group of commands is done.
"""

from __future__ import annotations

import re

from tq import codec, keys
from tq.codec import CorruptRecord, QueueRecord
from tq.errors import InvalidQueueName, QueueDamaged, QueueNotFound
from tq.keys import DueKind
from tq.model import ANY_QUEUE_NAME, ENDS, MAX_QUEUES, QUEUE_NAME, Clock, QueueSettings
from tq.store import Space, Tx

_QUEUE_NAME = re.compile(QUEUE_NAME)
_ANY_QUEUE_NAME = re.compile(ANY_QUEUE_NAME)


class Queue:
    """One queue while a group runs. `arrived`: how many messages became ready since it began.

    `was_full`: at some time of it as many messages were in flight as may be.
    """

    __slots__ = (
        "_uuid_prefix",
        "arrived",
        "delay_ms",
        "id",
        "is_changed",
        "is_fifo",
        "name",
        "ready",
        "record",
        "retention_ms",
        "ttl_ms",
        "was_full",
    )

    def __init__(self, name: str, record: QueueRecord, tx: Tx) -> None:
        self.name = name
        self.record = record
        self.is_changed = False
        self.arrived = 0
        self.configure(record.settings)
        self.was_full = self.is_full()
        self.settle_in(tx)

    def configure(self, settings: QueueSettings) -> None:
        self.record.settings = settings
        self.is_fifo = settings.fifo
        self.delay_ms = round(settings.delay * 1000)
        self.ttl_ms = round((settings.ttl or 0) * 1000)
        self.retention_ms = round((settings.retention or 0) * 1000)

    def settle_in(self, tx: Tx) -> None:
        """Take the place that the record's id names."""
        self.id = self.record.id
        self._uuid_prefix = b""
        self.ready: Space = tx.space(keys.ready_space(self.id))

    def count(self, counter: str, by: int = 1) -> None:
        """Add to one of `model.Counters`."""
        counters = self.record.counters
        counters[counter] = counters.get(counter, 0) + by
        self.is_changed = True

    def is_full(self) -> bool:
        """Whether as many messages are in flight as may be."""
        most = self.record.settings.max_in_flight
        return most is not None and self.record.in_flight >= most

    def receivable(self) -> int:
        """How many messages can be received at most that could not at some time of the group."""
        most = self.record.settings.max_in_flight
        if not self.was_full or self.is_full():
            return self.arrived
        ready = self.ready.count()
        return self.arrived + (ready if most is None else min(ready, most - self.record.in_flight))

    def uuid(self, sequence: int) -> bytes:
        """The identity of a message that came into being in this queue."""
        return keys.message_uuid(self.uuid_prefix(), sequence)

    def uuid_prefix(self) -> bytes:
        self._uuid_prefix = self._uuid_prefix or keys.uuid_prefix(self.id, self.record.created_at_ms)
        return self._uuid_prefix

    def missing(self) -> int:
        """How many ready messages there should be by the queue's record, beyond those that there are."""
        record = self.record
        gone = sum([number for counter, number in record.counters.items() if counter in ENDS])
        held = record.in_flight + record.delayed + record.blocked
        return record.next_sequence - 1 - gone - held - self.ready.count()

    def total(self) -> int:
        """How many messages are in the queue, in any state."""
        record = self.record
        return self.ready.count() + record.in_flight + record.delayed + record.blocked


class Group:
    """One transaction's view of the store. `ended_bytes`: of the content of messages that left their queues so far.

    `received_bytes`: of those that were handed out.
    """

    def __init__(self, tx: Tx, now_ms: int, max_queues: int = MAX_QUEUES) -> None:
        self.tx = tx
        self.max_queues = max_queues
        self.now_ms = now_ms
        self.chunks = tx.space(keys.CHUNKS)
        self.due = tx.space(keys.DUE)
        self._queues: dict[str, Queue] = {}
        self._removed: list[Queue] = []
        self._clock: Clock | None = None
        self.ended_bytes = 0
        self.received_bytes = 0

    def clock(self) -> Clock:
        """The clock as it was last stored."""
        if self._clock is None:
            self._clock = codec.unpack_clock(self.tx.space(keys.META).get(keys.CLOCK))
        return self._clock

    def set_clock(self, clock: Clock) -> None:
        self.tx.space(keys.META).put(keys.CLOCK, codec.pack_clock(clock))
        self._clock = clock

    def ahead_ms(self) -> int:
        """How far the timers' clock, which never jumps, is ahead of the wall's."""
        return (self._clock or self.clock()).offset_ms

    def wall_ms(self) -> int:
        """What the wall clock says."""
        return self.now_ms - self.ahead_ms()

    def arrivals(self) -> dict[str, int]:
        """For how many messages of each queue somebody may have to be woken."""
        arrivals = {queue.name: number for queue in self._queues.values() if (number := queue.receivable())}
        for queue in self._removed:
            if queue.arrived:
                arrivals[queue.name] = arrivals.get(queue.name, 0) + queue.arrived
        return arrivals

    def queue(self, name: str) -> Queue:
        """Raises InvalidQueueName, QueueNotFound, QueueDamaged."""
        found = self._queues.get(name) or self.find(name)
        if found is None:
            if not _QUEUE_NAME.fullmatch(name):
                raise InvalidQueueName
            raise QueueNotFound(f"There is no queue named {name!r}.")
        return found

    def find(self, name: str) -> Queue | None:
        """Raises InvalidQueueName, QueueDamaged."""
        found = self._queues.get(name)
        if found is not None:
            return found
        if not _ANY_QUEUE_NAME.fullmatch(name):
            raise InvalidQueueName
        value = self.tx.space(keys.QUEUES).get(name.encode())
        if value is None:
            return None
        try:
            record = codec.unpack_queue(value)
        except CorruptRecord as error:
            raise QueueDamaged(f"The record of the queue {name!r} cannot be read: {error}.") from error
        found = Queue(name, record, self.tx)
        missing = found.missing()
        if missing > 0:
            raise QueueDamaged(f"{missing:,} ready messages of the queue {name!r} are not found.")
        self._queues[name] = found
        return found

    def find_sound(self, name: str) -> Queue | None:
        """As `find`, but None for a queue whose record is damaged. Raises InvalidQueueName."""
        try:
            return self.find(name)
        except QueueDamaged:
            return None

    def find_by_id(self, queue_id: int) -> Queue | None:
        """None when the queue was purged or deleted since the id was written down, or is damaged."""
        name = self.tx.space(keys.NAMES).get(keys.queue_prefix(queue_id)) or b""
        try:
            queue = self.find_sound(name.decode(errors="replace"))
        except InvalidQueueName:
            return None
        return queue if queue and queue.id == queue_id else None

    def add(self, name: str, record: QueueRecord) -> Queue:
        record.id = self._new_id(name)
        queue = self._queues[name] = Queue(name, record, self.tx)
        self._write(queue)
        return queue

    def watch(self, queue: Queue, at_ms: int) -> None:
        """Look at the ages of what is in a queue at a time, and not at another; at 0 never."""
        record = queue.record
        if record.watch_ms:
            self.due.delete(keys.due_key(record.watch_ms, DueKind.RETENTION, queue.id, b""))
        if at_ms:
            self.due.put(keys.due_key(at_ms, DueKind.RETENTION, queue.id, b""), b"")
        record.watch_ms = at_ms
        queue.is_changed = True

    def renew(self, queue: Queue) -> None:
        """Give the queue a new, empty place; what is at the old one becomes garbage."""
        self._let_go(queue)
        queue.record.id = self._new_id(queue.name)
        queue.settle_in(self.tx)
        queue.is_changed = True

    def remove(self, queue: Queue) -> None:
        self._let_go(queue)
        self.tx.space(keys.QUEUES).delete(queue.name.encode())
        self.tx.space(keys.NOTES).delete(queue.name.encode())
        moves = self.tx.space(keys.MOVES)
        prefix = keys.moves_prefix(queue.name)
        for key in [key for key, _ in moves.scan(prefix, keys.after_prefix(prefix))]:
            moves.delete(key)
        del self._queues[queue.name]
        self._removed.append(queue)

    def _new_id(self, name: str) -> int:
        meta, names, garbage = (self.tx.space(space) for space in (keys.META, keys.NAMES, keys.GARBAGE))
        queue_id = int.from_bytes(meta.get(keys.NEXT_QUEUE_ID) or b"\x01")
        if not 0 < queue_id <= keys.MAX_QUEUE_ID:
            queue_id = 1  # it was damaged
        while names.get(prefix := keys.queue_prefix(queue_id)) is not None or garbage.get(prefix) is not None:
            queue_id += 1  # no two queues may have the same, whatever stands there
        meta.put(keys.NEXT_QUEUE_ID, (queue_id + 1).to_bytes(8))
        names.put(prefix, name.encode())
        return queue_id

    def _let_go(self, queue: Queue) -> None:
        prefix = keys.queue_prefix(queue.id)
        self.watch(queue, 0)
        self.tx.space(keys.NAMES).delete(prefix)
        self.tx.space(keys.GARBAGE).put(prefix, b"")

    def notes(self, name: str) -> dict[str, str]:
        """What a protocol keeps with a queue. Raises QueueDamaged."""
        value = self.tx.space(keys.NOTES).get(name.encode())
        try:
            return codec.unpack_notes(value) if value else {}
        except CorruptRecord as error:
            raise QueueDamaged(f"The notes of the queue {name!r} cannot be read: {error}.") from error

    def set_notes(self, name: str, notes: dict[str, str]) -> None:
        if notes:
            self.tx.space(keys.NOTES).put(name.encode(), codec.pack_notes(notes))
        else:
            self.tx.space(keys.NOTES).delete(name.encode())

    def write_records(self) -> None:
        for queue in self._queues.values():
            if queue.is_changed:
                self._write(queue)

    def _write(self, queue: Queue) -> None:
        self.tx.space(keys.QUEUES).put(queue.name.encode(), codec.pack_queue(queue.record))
        queue.is_changed = False
