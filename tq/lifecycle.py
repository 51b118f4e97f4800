"""What a message may do: the only code that changes its state.

                 send                    receive
    (draft) ────────────▶ ready ──────────────────────▶ (gone, in the receiver's hands)
                            │
                            ├── purge, delete of the queue ──▶ (gone)
                            └── found damaged ──▶ quarantine

`apply` runs a group of commands on one transaction, `answer` looks something up. Both are deterministic: no clock, no
chance, no input or output but the transaction. The rules that make a group safe to run, and to run again:

- **Validate first, write last.** A command that is refused has written nothing, so its neighbours in the group stand.
- **A queue's record is kept in memory while a group runs and written once**, when the group is done.
- **Purge and delete only let go.** They take the queue's internal id away in O(1); `Sweep` reclaims what lies under
  that id in slices of bounded size, so that a queue of ten million messages holds nobody up.
- **Damage stays local.** A message that cannot be read is moved to `quarantine` when its turn comes, and the next one
  is taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from typing import Any, Literal

from tq import codec, keys, model
from tq.codec import ChunkedBody, CorruptRecord, MessageRecord, QueueRecord
from tq.errors import (
    InvalidQueueName,
    MessageNotFound,
    MessageTooLarge,
    Overloaded,
    QueueDamaged,
    QueueExists,
    QueueNotEmpty,
    QueueNotFound,
    TooManyQueues,
    TqError,
)
from tq.store import Space, Tx

MAX_GARBAGE = 1_000  # purged queues that may wait to be swept, so that the number of sub-databases is bounded
MAX_SPACES = model.MAX_QUEUES + MAX_GARBAGE + 16  # the 16: those that queues share
MAX_QUARANTINED = 100  # by one receive, so that its time is bounded

_QUEUE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def apply(tx: Tx, commands: Sequence[model.Command], now_ms: int) -> list[Any]:
    """Run the commands in order. Each gives its result or the TqError it was refused with."""
    group = _Group(tx, now_ms)
    results: list[Any] = []
    for command in commands:
        try:
            results.append(_APPLY[type(command)](group, command))
        except TqError as refusal:
            results.append(refusal)
    group.write_records()
    return results


def answer(tx: Tx, query: model.Query, now_ms: int) -> Any:
    """The result of a query. Raises the TqErrors that its class names."""
    return _ANSWER[type(query)](_Group(tx, now_ms), query)


class _Queue:
    """One queue while a group of commands runs."""

    __slots__ = ("is_changed", "name", "ready", "record")

    def __init__(self, name: str, record: QueueRecord, tx: Tx) -> None:
        self.name = name
        self.record = record
        self.ready = tx.space(keys.ready_space(record.id))
        self.is_changed = False


class _Group:
    """What the commands of one transaction share: the spaces, the time, and each queue that was touched."""

    __slots__ = ("_queues", "chunks", "now_ms", "tx")

    def __init__(self, tx: Tx, now_ms: int) -> None:
        self.tx = tx
        self.now_ms = now_ms
        self.chunks = tx.space(keys.CHUNKS)
        self._queues: dict[str, _Queue] = {}

    def queue(self, name: str) -> _Queue:
        """Raises InvalidQueueName, QueueNotFound, QueueDamaged."""
        found = self._queues.get(name) or self._load(name)
        if found is None:
            raise QueueNotFound(f"There is no queue named {name!r}.")
        return found

    def _load(self, name: str) -> _Queue | None:
        if not _QUEUE_NAME.fullmatch(name):
            raise InvalidQueueName
        value = self.tx.space(keys.QUEUES).get(name.encode())
        if value is None:
            return None
        try:
            record = codec.unpack_queue(value)
        except CorruptRecord as error:
            raise QueueDamaged(f"The record of the queue {name!r} cannot be read: {error}.") from error
        queue = self._queues[name] = _Queue(name, record, self.tx)
        return queue

    def add(self, name: str, settings: model.QueueSettings) -> tuple[_Queue, bool]:
        """The queue of this name and whether it is new. Raises InvalidQueueName, TooManyQueues."""
        found = self._queues.get(name) or self._load(name)
        if found:
            return found, False
        if self.tx.space(keys.QUEUES).count() >= model.MAX_QUEUES:
            raise TooManyQueues(f"The server holds {model.MAX_QUEUES:,} queues, as many as it may.")
        record = QueueRecord(self.new_queue_id(), 1, self.now_ms, settings)
        queue = self._queues[name] = _Queue(name, record, self.tx)
        self._write(queue)
        return queue, True

    def new_queue_id(self) -> int:
        meta = self.tx.space(keys.META)
        queue_id = int.from_bytes(meta.get(keys.NEXT_QUEUE_ID) or b"\x01")
        meta.put(keys.NEXT_QUEUE_ID, (queue_id + 1).to_bytes(8))
        return queue_id

    def remove(self, queue: _Queue) -> None:
        self.let_go(queue.record.id)
        self.tx.space(keys.QUEUES).delete(queue.name.encode())
        del self._queues[queue.name]

    def renew(self, queue: _Queue) -> None:
        """Give the queue a new, empty place; the old one becomes garbage."""
        self.let_go(queue.record.id)
        queue.record.id = self.new_queue_id()
        queue.ready = self.tx.space(keys.ready_space(queue.record.id))
        queue.is_changed = True

    def let_go(self, queue_id: int) -> None:
        self.tx.space(keys.GARBAGE).put(keys.queue_prefix(queue_id), b"")

    def write_records(self) -> None:
        for queue in self._queues.values():
            if queue.is_changed:
                self._write(queue)

    def _write(self, queue: _Queue) -> None:
        self.tx.space(keys.QUEUES).put(queue.name.encode(), codec.pack_queue(queue.record))
        queue.is_changed = False


# --- queues ---------------------------------------------------------------------------


def _create(group: _Group, command: model.CreateQueue) -> model.Created:
    queue, is_new = group.add(command.name, command.settings)
    if queue.record.settings != command.settings:
        raise QueueExists(f"The queue {command.name!r} exists with other settings.")
    return model.Created(_info(group, queue), is_new)


def _delete(group: _Group, command: model.DeleteQueue) -> None:
    queue = group.queue(command.name)
    if command.if_empty and queue.ready.count():
        raise QueueNotEmpty(f"The queue {command.name!r} holds {queue.ready.count():,} messages.")
    _check_garbage(group)
    group.remove(queue)


def _purge(group: _Group, command: model.PurgeQueue) -> int:
    queue = group.queue(command.name)
    _check_garbage(group)
    purged = queue.ready.count()
    group.renew(queue)
    queue.record.purged += purged
    return purged


def _check_garbage(group: _Group) -> None:
    if group.tx.space(keys.GARBAGE).count() >= MAX_GARBAGE:
        raise Overloaded("Too many purged or deleted queues wait to be swept; try again.")


def _sweep(group: _Group, command: model.Sweep) -> bool:
    garbage = group.tx.space(keys.GARBAGE)
    first = next(garbage.scan(), None)
    if first is None:
        return False
    prefix = first[0]
    ready_name = keys.ready_space(keys.queue_id_of(prefix))
    left = command.limit
    for name in (keys.CHUNKS, keys.QUARANTINE):
        space = group.tx.space(name)
        left -= _clear(space, left, prefix, keys.after_prefix(prefix))
    left -= _clear(group.tx.space(ready_name), left)
    if left > 0:
        group.tx.drop(ready_name)
        garbage.delete(prefix)
    return garbage.count() > 0


def _clear(space: Space, limit: int, start: bytes = b"", stop: bytes | None = None) -> int:
    doomed = [key for key, _ in islice(space.scan(start, stop), limit)]
    for key in doomed:
        space.delete(key)
    return len(doomed)


def _probe(group: _Group, _: model.Probe) -> None:
    group.tx.space(keys.META).put(keys.PROBED_AT, group.now_ms.to_bytes(8))


def _get_queue(group: _Group, query: model.GetQueue) -> model.QueueInfo:
    return _info(group, group.queue(query.name))


def _list_queues(group: _Group, query: model.ListQueues) -> model.QueuePage:
    prefix = query.prefix.encode()
    start = max(prefix, query.after.encode() + b"\0" if query.after else b"")
    found = group.tx.space(keys.QUEUES).scan(start, keys.after_prefix(prefix))
    names = [key.decode() for key, _ in islice(found, query.limit + 1)]
    page = names[: query.limit]
    infos: list[model.QueueInfo] = []
    for name in page:
        with suppress(QueueDamaged):
            infos.append(_info(group, group.queue(name)))
    return model.QueuePage(tuple(infos), page[-1] if len(names) > query.limit else None)


def _totals(group: _Group, _: model.GetTotals) -> model.Totals:
    queues = ready = 0
    for _key, value in group.tx.space(keys.QUEUES).scan():
        queues += 1
        with suppress(CorruptRecord):
            ready += group.tx.space(keys.ready_space(codec.unpack_queue(value).id)).count()
    return model.Totals(queues, model.Counts(ready))


def _info(group: _Group, queue: _Queue) -> model.QueueInfo:
    record = queue.record
    age_ms = None
    for _, value in islice(queue.ready.scan(), 1):
        with suppress(CorruptRecord):
            age_ms = max(0, group.now_ms - codec.unpack_message(value).sent_at_ms)
    return model.QueueInfo(
        name=queue.name,
        settings=record.settings,
        created_at_ms=record.created_at_ms,
        messages=model.Counts(queue.ready.count()),
        oldest_message_age_ms=age_ms,
        counters=model.Counters(record.sent, record.received, record.purged, record.quarantined),
    )


# --- messages ---------------------------------------------------------------------------


def _send(group: _Group, command: model.Send) -> list[int]:
    queue = group.queue(command.queue)
    record = queue.record
    largest = record.settings.max_message_bytes
    for index, draft in enumerate(command.drafts):
        if len(draft.content) > largest:
            raise MessageTooLarge(
                f"Message {index} has {len(draft.content):,} bytes of content; "
                f"{largest:,} is the most that the queue {queue.name!r} takes."
            )
    first = record.next_sequence
    for sequence, draft in enumerate(command.drafts, first):
        _store(group, queue, sequence, draft)
    record.next_sequence += len(command.drafts)
    record.sent += len(command.drafts)
    queue.is_changed = True
    return list(range(first, record.next_sequence))


def _store(group: _Group, queue: _Queue, sequence: int, draft: model.Draft) -> None:
    key = keys.message_key(sequence)
    value = codec.pack_message(MessageRecord(group.now_ms, 0, draft.media_type, draft.content))
    if len(value) > codec.MAX_INLINE_BYTES:
        body, pieces = codec.split_body(draft.content)
        for number, piece in enumerate(pieces):
            group.chunks.put(keys.chunk_key(queue.record.id, key, number), piece)
        value = codec.pack_message(MessageRecord(group.now_ms, 0, draft.media_type, body))
    queue.ready.append(key, value)


def _receive(group: _Group, command: model.Receive) -> model.Received:
    queue = group.queue(command.queue)
    page = _Page(command.limit)
    taken: list[tuple[bytes, MessageRecord]] = []
    damaged: list[tuple[bytes, bytes]] = []
    for key, value in queue.ready.scan():
        try:
            record, body = _read(group, queue, key, value)
        except CorruptRecord:
            damaged.append((key, value))
        else:
            taken.append((key, record))
            page.add(_message(key, record, body, record.receive_count + 1))
        if page.is_full or len(damaged) == MAX_QUARANTINED:
            break
    for key, record in taken:
        queue.ready.delete(key)
        _delete_chunks(group, queue, key, record)
    for key, value in damaged:
        queue.ready.delete(key)
        group.tx.space(keys.QUARANTINE).put(keys.shared_key(queue.record.id, key), value)
    if taken or damaged:
        queue.record.received += len(taken)
        queue.record.quarantined += len(damaged)
        queue.is_changed = True
    return model.Received(tuple(page.messages), tuple(keys.sequence_of(key) for key, _ in damaged))


def _get_message(group: _Group, query: model.GetMessage) -> model.Message:
    queue = group.queue(query.queue)
    try:
        key = keys.message_key(query.id)
        value = queue.ready.get(key)
        if value is not None:
            record, body = _read(group, queue, key, value)
            return _message(key, record, body, record.receive_count, "ready")
    except CorruptRecord:
        pass  # it will go to quarantine when its turn comes: there is no message to show
    raise MessageNotFound(f"There is no message {query.id} in the queue {query.queue!r}.")


def _peek(group: _Group, query: model.Peek) -> model.MessagePage:
    queue = group.queue(query.queue)
    page = _Page(query.limit)
    found = queue.ready.scan(keys.message_key(query.after) + b"\0")
    for key, value in found:
        with suppress(CorruptRecord):
            record, body = _read(group, queue, key, value)
            page.add(_message(key, record, body, record.receive_count, "ready"))
        if page.is_full:
            break
    more = next(found, None) is not None
    return model.MessagePage(tuple(page.messages), page.messages[-1].id if more else None)


class _Page:
    """Messages for one answer, until there are as many as asked for or as many bytes as fit."""

    __slots__ = ("_bytes", "_limit", "messages")

    def __init__(self, limit: int) -> None:
        self.messages: list[model.Message] = []
        self._limit = limit
        self._bytes = 0

    def add(self, message: model.Message) -> None:
        self.messages.append(message)
        self._bytes += len(message.content)

    @property
    def is_full(self) -> bool:
        return len(self.messages) >= self._limit or self._bytes >= model.MAX_PAGE_BYTES


def _read(group: _Group, queue: _Queue, key: bytes, value: bytes) -> tuple[MessageRecord, bytes]:
    """A message's record and whole body. Raises CorruptRecord."""
    record = codec.unpack_message(value)
    if isinstance(record.body, bytes):
        return record, record.body
    prefix = keys.shared_key(queue.record.id, key)
    chunks = group.chunks.scan(prefix, keys.after_prefix(prefix))
    return record, codec.join_body(record.body, [piece for _, piece in chunks])


def _delete_chunks(group: _Group, queue: _Queue, key: bytes, record: MessageRecord) -> None:
    if isinstance(record.body, ChunkedBody):
        for number in range(record.body.chunks):
            group.chunks.delete(keys.chunk_key(queue.record.id, key, number))


def _message(
    key: bytes,
    record: MessageRecord,
    body: bytes,
    receive_count: int,
    state: Literal["ready"] | None = None,
) -> model.Message:
    return model.Message(keys.sequence_of(key), body, record.media_type, record.sent_at_ms, receive_count, state)


_APPLY: dict[type, Callable[[_Group, Any], Any]] = {
    model.CreateQueue: _create,
    model.DeleteQueue: _delete,
    model.PurgeQueue: _purge,
    model.Send: _send,
    model.Receive: _receive,
    model.Sweep: _sweep,
    model.Probe: _probe,
}

_ANSWER: dict[type, Callable[[_Group, Any], Any]] = {
    model.GetQueue: _get_queue,
    model.ListQueues: _list_queues,
    model.GetMessage: _get_message,
    model.Peek: _peek,
    model.GetTotals: _totals,
}
