"""Loading: messages of a dump come back with their history, exactly once however often it is interrupted.

How many lines of the dump were loaded is stored in the transaction that loads them, and stays when all were: whoever is
killed behind the last commit, and begins again, finds that there is nothing left to do.
"""

from __future__ import annotations

from tq import codec, keys, model
from tq.codec import MessageRecord
from tq.errors import GroupMissing, InvalidRequest, NotInFifo, TqError
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import settle_new
from tq.lifecycle.queues import bring_back
from tq.lifecycle.sending import remember, remembered


def load(group: Group, command: model.Load) -> model.Refused | None:
    loaded = _loaded(group, command.dump)
    if loaded != command.after:
        raise InvalidRequest(f"{loaded:,} lines of the dump were loaded before, not {command.after:,}.")
    assert len(command.parts) == 1 or not any(isinstance(part, model.CreateQueue) for part in command.parts)
    for index, part in enumerate(command.parts):
        try:
            _check(group, part)
        except TqError as refusal:
            return model.Refused(index, refusal)
    for part in command.parts:
        if isinstance(part, model.LoadedMessage):
            _load_message(group, group.queue(part.queue), part)
        elif isinstance(part, model.LoadedId):
            _load_id(group, group.queue(part.queue), part)
    group.tx.space(keys.META).put(_key(command.dump), command.upto.to_bytes(8))
    return None


def get_loaded(group: Group, query: model.GetLoaded) -> int:
    return _loaded(group, query.dump)


def _key(dump: str) -> bytes:
    return keys.LOADED + dump.encode()


def _loaded(group: Group, dump: str) -> int:
    return int.from_bytes(group.tx.space(keys.META).get(_key(dump)) or b"")


def _check(group: Group, part: model.CreateQueue | model.LoadedMessage | model.LoadedId) -> None:
    """Raises a TqError for what cannot be loaded. A queue is made here: it is alone, and nothing comes behind it."""
    if isinstance(part, model.CreateQueue):
        bring_back(group, part)
        return
    queue = group.queue(part.queue)
    if isinstance(part, model.LoadedMessage) and queue.is_fifo:
        if not part.message.group:
            raise GroupMissing
        if part.message.priority:
            raise NotInFifo


def _load_message(group: Group, queue: Queue, part: model.LoadedMessage) -> None:
    """The limits of the queue do not count: the message was there, and is not to be lost."""
    message = part.message
    ahead_ms = group.ahead_ms()
    record, pieces = codec.split_body(
        MessageRecord(
            sent_at_ms=message.sent_at_ms,
            body=message.content,
            media_type=message.media_type,
            receive_count=message.receive_count,
            due_at_ms=max(0, message.visible_at_ms + ahead_ms) if message.visible_at_ms else 0,
            expires_at_ms=max(1, message.expires_at_ms + ahead_ms) if message.expires_at_ms else 0,
            first_received_at_ms=message.first_received_at_ms or 0,
            ahead_ms=max(message.ahead_ms + ahead_ms, -message.sent_at_ms),
            group=message.group,
            headers=message.headers,
            dead_letter=message.dead_letter,
            dedup_id=message.dedup_id,
            attributes=message.attributes,
            notes=message.notes,
            uuid=message.uuid,
            receives_before=message.receives_before,
        )
    )
    sequence = settle_new(group, queue, message.priority, record, pieces)
    queue.count("sent")
    if message.dedup_id:
        scope = message.group if part.is_of_group else None
        key = keys.message_key(sequence, message.priority)
        _remember(group, queue, keys.dedup_key(queue.id, message.dedup_id, scope), key, part.dedup_until_ms)


def _load_id(group: Group, queue: Queue, part: model.LoadedId) -> None:
    """It stands for a message that was sent and acknowledged, which has a number of its own."""
    key = keys.message_key(queue.record.next_sequence)
    queue.record.next_sequence += 1
    queue.count("sent")
    queue.count("acked")
    _remember(group, queue, keys.dedup_key(queue.id, part.dedup_id, part.group), key, part.until_ms)


def _remember(group: Group, queue: Queue, dedup_key: bytes, key: bytes, until_ms: int) -> None:
    """Unless the id is forgotten by now, or known of another message that is here already."""
    forget_at_ms = until_ms + group.ahead_ms()
    if forget_at_ms > group.now_ms and remembered(group, dedup_key) is None:
        remember(group, queue, dedup_key, key, forget_at_ms)
