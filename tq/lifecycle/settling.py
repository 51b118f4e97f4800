"""What becomes of leased messages: acknowledged, held longer, given back, rejected; and what takes many of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace

from tq import codec, keys, model
from tq.codec import CorruptRecord, MessageRecord
from tq.errors import InFlight, LeaseTooLong, MessageNotFound, NotAReceipt, StaleReceipt, TqError
from tq.lifecycle.group import Group, Queue
from tq.lifecycle.places import (
    come_back,
    displace,
    finish,
    locate,
    move,
    place,
)
from tq.lifecycle.sending import carry_out, make_plan
from tq.model import State


def settle(group: Group, command: model.Settle) -> tuple[int | TqError | None, ...]:
    queue = group.queue(command.queue)
    if command.is_any:
        return tuple([_settle_any(group, queue, action) for action in command.actions])
    results: list[int | TqError | None] = []
    for action in command.actions:
        try:
            key, record = leased(group, queue, action.receipt)
            results.append(_ACTIONS[type(action)](group, queue, key, record, action))
        except TqError as refusal:
            results.append(refusal)
    return tuple(results)


def leased(group: Group, queue: Queue, receipt: str) -> tuple[bytes, MessageRecord]:
    """The message that a receipt is for. Raises MessageNotFound, StaleReceipt."""
    parsed = keys.parse_receipt(receipt)
    if parsed is None:
        raise MessageNotFound(f"{receipt[:100]!r} is not a receipt.")
    queue_id, key, attempt = parsed
    if queue_id != queue.id:
        raise StaleReceipt("The receipt is of a queue that was purged or deleted since, or of another one.")
    value = group.tx.space(keys.IN_FLIGHT).get(keys.shared_key(queue_id, key))
    if value is None:
        if locate(group, queue, key):
            raise StaleReceipt(f"The lease of message {keys.sequence_of(key)} is over.")
        raise MessageNotFound(f"There is no message {keys.sequence_of(key)} in the queue {queue.name!r} any more.")
    try:
        record = codec.unpack_message(value)
    except CorruptRecord as error:
        raise MessageNotFound(f"Message {keys.sequence_of(key)} is damaged.") from error
    if record.attempt != attempt:
        raise StaleReceipt(f"The lease of message {keys.sequence_of(key)} is over.")
    return key, record


def _settle_any(group: Group, queue: Queue, action: model.Action) -> int | TqError | None:
    """Settle a message by any receipt that it ever had."""
    try:
        found = _find(group, queue, action.receipt)
        if found is None and isinstance(action, model.Ack):
            return None
        if found is None:
            raise MessageNotFound(f"There is no message for the receipt in the queue {queue.name!r} any more.")
        state, key, record = found
        if isinstance(action, model.Ack):
            displace(group, queue, state, key, record)
            finish(group, queue, key, record, "acked")
            return None
        if state != "in_flight":
            raise StaleReceipt(f"The lease of message {keys.sequence_of(key)} is over.")
        if isinstance(action, model.Extend) and record.received_at_ms:
            held_ms = group.now_ms + action.visibility_ms - record.received_at_ms
            if held_ms // 1000 > model.MAX_VISIBILITY_S:
                raise LeaseTooLong
        return _ACTIONS[type(action)](group, queue, key, record, action)
    except TqError as refusal:
        return refusal


def _find(group: Group, queue: Queue, receipt: str) -> tuple[State, bytes, MessageRecord] | None:
    """The message that had a receipt, and its state. Raises NotAReceipt, StaleReceipt, MessageNotFound."""
    parsed = keys.parse_receipt(receipt)
    if parsed is None:
        raise NotAReceipt
    queue_id, key, attempt = parsed
    if queue_id != queue.id:
        if group.find_by_id(queue_id):
            raise NotAReceipt
        return None  # purged since
    found = locate(group, queue, key)
    if found is None:
        return None
    state, value = found
    try:
        record = codec.unpack_message(value)
    except CorruptRecord as error:
        raise MessageNotFound(f"Message {keys.sequence_of(key)} is damaged.") from error
    if attempt > record.attempt:
        raise NotAReceipt
    if queue.is_fifo and (state != "in_flight" or attempt != record.attempt):
        raise StaleReceipt(f"The lease of message {keys.sequence_of(key)} is over.")
    return state, key, record


def _ack(group: Group, queue: Queue, key: bytes, record: MessageRecord, _: model.Ack) -> None:
    displace(group, queue, "in_flight", key, record)
    finish(group, queue, key, record, "acked")


def _extend(group: Group, queue: Queue, key: bytes, record: MessageRecord, action: model.Extend) -> int:
    displace(group, queue, "in_flight", key, record)
    place(group, queue, "in_flight", key, replace(record, due_at_ms=group.now_ms + action.visibility_ms))
    return group.wall_ms() + action.visibility_ms


def _release(group: Group, queue: Queue, key: bytes, record: MessageRecord, action: model.Release) -> int:
    displace(group, queue, "in_flight", key, record)
    queue.count("released")
    come_back(group, queue, key, record, action.delay_ms)
    return group.wall_ms() + action.delay_ms


def _reject(group: Group, queue: Queue, key: bytes, record: MessageRecord, action: model.Reject) -> None:
    letter = queue.record.settings.dead_letter
    if letter:
        group.find(letter.queue)  # one that is damaged refuses the message, and nothing is written yet
    displace(group, queue, "in_flight", key, record)
    if not letter or not move(group, queue, key, record, letter.queue, action.reason):
        finish(group, queue, key, record, "dropped")


_ACTIONS: dict[type, Callable[[Group, Queue, bytes, MessageRecord, Any], int | None]] = {
    model.Ack: _ack,
    model.Extend: _extend,
    model.Release: _release,
    model.Reject: _reject,
}


def cancel(group: Group, command: model.Cancel) -> None:
    queue = group.queue(command.queue)
    for priority in range(model.MAX_PRIORITY + 1):
        key = keys.message_key(command.id, priority)
        found = locate(group, queue, key)
        if found is None:
            continue
        state, value = found
        if state == "in_flight":
            raise InFlight(f"Message {command.id} is leased; acknowledge it with its receipt.")
        try:
            record = codec.unpack_message(value)
        except CorruptRecord:
            break  # it will go to quarantine when its turn comes: what is refused writes nothing
        displace(group, queue, state, key, record)
        finish(group, queue, key, record, "cancelled")
        return
    raise MessageNotFound(f"There is no message {command.id} in the queue {command.queue!r}.")


def transact(group: Group, command: model.Transaction) -> model.Sent:
    """Everything is checked before anything is written, so that it is all or nothing."""
    taken: dict[tuple[str, bytes], MessageRecord] = {}
    freed: Counter[str] = Counter()
    freed_bytes: Counter[str] = Counter()
    for index, (name, receipt) in enumerate(command.acks):
        try:
            key, record = leased(group, group.queue(name), receipt)
        except (StaleReceipt, MessageNotFound) as error:
            raise StaleReceipt(f"{error.detail} - at `$.ack[{index}]`.") from error
        if (name, key) in taken:
            raise StaleReceipt(f"The receipt is given twice - at `$.ack[{index}]`.")
        taken[name, key] = record
        freed[name] += 1
        freed_bytes[name] += codec.content_bytes(record)
    drafts: dict[str, list[model.Draft]] = {}
    for name, draft in command.sends:
        drafts.setdefault(name, []).append(draft)
    plans = {
        name: make_plan(group, group.queue(name), each, freed[name], freed_bytes[name]) for name, each in drafts.items()
    }
    for (name, key), record in taken.items():
        _ack(group, group.queue(name), key, record, model.Ack(""))
    sent = {name: carry_out(group, group.queue(name), plan) for name, plan in plans.items()}
    return _in_order(command, sent)


def _in_order(command: model.Transaction, sent: dict[str, model.Sent]) -> model.Sent:
    """The ids in the order in which the transaction lists its sends."""
    places: Counter[str] = Counter()
    ids: list[int] = []
    duplicates: list[int] = []
    for index, (name, _) in enumerate(command.sends):
        place_there = places[name]
        places[name] += 1
        ids.append(sent[name].ids[place_there])
        if place_there in sent[name].duplicates:
            duplicates.append(index)
    return model.Sent(tuple(ids), tuple(duplicates))
