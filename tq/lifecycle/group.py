"""What the commands of one transaction share: the spaces, the time, and each queue that was touched.

A queue's record is read once, changed in memory, and written once when the group of commands is done.
"""

from __future__ import annotations

import re

from tq import codec, keys
from tq.codec import CorruptRecord, QueueRecord
from tq.errors import InvalidQueueName, QueueDamaged, QueueNotFound
from tq.model import QUEUE_NAME, Clock, QueueSettings
from tq.store import Space, Tx

_QUEUE_NAME = re.compile(QUEUE_NAME)


class Queue:
    """One queue while a group runs. `arrived`: how many messages became ready since the group began."""

    __slots__ = ("arrived", "delay_ms", "id", "is_changed", "name", "ready", "record", "ttl_ms")

    def __init__(self, name: str, record: QueueRecord, tx: Tx) -> None:
        self.name = name
        self.record = record
        self.is_changed = False
        self.arrived = 0
        self.configure(record.settings)
        self.settle_in(tx)

    def configure(self, settings: QueueSettings) -> None:
        self.record.settings = settings
        self.delay_ms = round(settings.delay * 1000)
        self.ttl_ms = round((settings.ttl or 0) * 1000)

    def settle_in(self, tx: Tx) -> None:
        """Take the place that the record's id names."""
        self.id = self.record.id
        self.ready: Space = tx.space(keys.ready_space(self.id))

    def count(self, counter: str, by: int = 1) -> None:
        """Add to one of `model.Counters`."""
        counters = self.record.counters
        counters[counter] = counters.get(counter, 0) + by
        self.is_changed = True

    def total(self) -> int:
        """How many messages are in the queue, in any state."""
        record = self.record
        return self.ready.count() + record.in_flight + record.delayed + record.blocked


class Group:
    """One transaction's view of the store."""

    def __init__(self, tx: Tx, now_ms: int) -> None:
        self.tx = tx
        self.now_ms = now_ms
        self.chunks = tx.space(keys.CHUNKS)
        self.due = tx.space(keys.DUE)
        self._queues: dict[str, Queue] = {}
        self._removed: list[Queue] = []
        self._clock: Clock | None = None

    def clock(self) -> Clock:
        """The clock as it was last stored."""
        if self._clock is None:
            self._clock = codec.unpack_clock(self.tx.space(keys.META).get(keys.CLOCK))
        return self._clock

    def set_clock(self, clock: Clock) -> None:
        self.tx.space(keys.META).put(keys.CLOCK, codec.pack_clock(clock))
        self._clock = clock

    def wall_ms(self) -> int:
        """What the wall clock says: timers run on a clock that never jumps, which may be ahead of it."""
        return self.now_ms - (self._clock or self.clock()).offset_ms

    def arrivals(self) -> dict[str, int]:
        """How many messages became ready in each queue since the group began."""
        arrivals = {queue.name: queue.arrived for queue in self._queues.values() if queue.arrived}
        for queue in self._removed:
            if queue.arrived:
                arrivals[queue.name] = arrivals.get(queue.name, 0) + queue.arrived
        return arrivals

    def queue(self, name: str) -> Queue:
        """Raises InvalidQueueName, QueueNotFound, QueueDamaged."""
        found = self._queues.get(name) or self.find(name)
        if found is None:
            raise QueueNotFound(f"There is no queue named {name!r}.")
        return found

    def find(self, name: str) -> Queue | None:
        """Raises InvalidQueueName, QueueDamaged."""
        found = self._queues.get(name)
        if found is not None:
            return found
        if not _QUEUE_NAME.fullmatch(name):
            raise InvalidQueueName
        value = self.tx.space(keys.QUEUES).get(name.encode())
        if value is None:
            return None
        try:
            record = codec.unpack_queue(value)
        except CorruptRecord as error:
            raise QueueDamaged(f"The record of the queue {name!r} cannot be read: {error}.") from error
        found = self._queues[name] = Queue(name, record, self.tx)
        return found

    def find_by_id(self, queue_id: int) -> Queue | None:
        """None when the queue was purged or deleted since the id was written down."""
        name = self.tx.space(keys.NAMES).get(keys.queue_prefix(queue_id))
        return self.find(name.decode()) if name else None

    def add(self, name: str, record: QueueRecord) -> Queue:
        record.id = self._new_id(name)
        queue = self._queues[name] = Queue(name, record, self.tx)
        self._write(queue)
        return queue

    def renew(self, queue: Queue) -> None:
        """Give the queue a new, empty place; what is at the old one becomes garbage."""
        self._let_go(queue)
        queue.record.id = self._new_id(queue.name)
        queue.settle_in(self.tx)
        queue.is_changed = True

    def remove(self, queue: Queue) -> None:
        self._let_go(queue)
        self.tx.space(keys.QUEUES).delete(queue.name.encode())
        del self._queues[queue.name]
        self._removed.append(queue)

    def _new_id(self, name: str) -> int:
        meta = self.tx.space(keys.META)
        queue_id = int.from_bytes(meta.get(keys.NEXT_QUEUE_ID) or b"\x01")
        meta.put(keys.NEXT_QUEUE_ID, (queue_id + 1).to_bytes(8))
        self.tx.space(keys.NAMES).put(keys.queue_prefix(queue_id), name.encode())
        return queue_id

    def _let_go(self, queue: Queue) -> None:
        prefix = keys.queue_prefix(queue.id)
        self.tx.space(keys.NAMES).delete(prefix)
        self.tx.space(keys.GARBAGE).put(prefix, b"")

    def write_records(self) -> None:
        for queue in self._queues.values():
            if queue.is_changed:
                self._write(queue)

    def _write(self, queue: Queue) -> None:
        self.tx.space(keys.QUEUES).put(queue.name.encode(), codec.pack_queue(queue.record))
        queue.is_changed = False
