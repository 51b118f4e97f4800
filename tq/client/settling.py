"""What a consumer says of leased messages: handled, back, longer, never; one at a time or many at once.

Each can be repeated, because a receipt is good for one lease: a second time changes nothing. But after a try whose
answer was lost the second one may be refused because the first was obeyed. As long as the lease lasts nobody but its
holder can end it, so then it was; that is a success. When the lease is over by then, it cannot be known which came
first. An acknowledgement or rejection that is told `stale_receipt` was not obeyed: the message would be gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import Any, Literal

import msgspec
from msgspec import Struct

from tq.client.calls import FREELY, Call, Steps, ask, queue_path
from tq.client.errors import OutcomeUnknown, UnknownError, by_code, read
from tq.client.messages import Message
from tq.errors import MessageNotFound, StaleReceipt, TqError

MAX_AT_ONCE = 1_000  # what the server takes in one request

Kind = Literal["receipts", "releases", "extends", "rejects"]
DONE: dict[Kind, str] = {
    "receipts": "acked",
    "releases": "released",
    "extends": "extended",
    "rejects": "rejected",
}


@dataclass(frozen=True, slots=True)
class Action:
    """What is to become of messages, with what is said of each."""

    kind: Kind
    said: dict[str, Any]


ACK = Action("receipts", {})


class _Row(Struct):
    status: str
    visible_at: datetime | None = None


class _Rows(Struct):
    results: list[_Row]


class _Changed(Struct):
    visible_at: datetime | None = None


def settle_one(action: Action, message: Message) -> Steps[Message]:
    """The message as it is then. Raises MessageNotFound, StaleReceipt, QueueNotFound, OutcomeUnknown."""
    receipt = receipt_of(message)
    target = queue_path(message.queue, "messages", receipt)
    if action.kind == "receipts":
        answer = yield Call("DELETE", target, repeat_s=FREELY)
    else:
        said = {"dead_letter": True, **action.said} if action.kind == "rejects" else action.said
        answer = yield Call("PATCH", target, json.dumps(said).encode(), repeat_s=FREELY)
    error = judged(action.kind, answer.error, answer.is_repeated, message.leased_until_s) if answer.error else None
    if error:
        raise error
    if action.kind != "extends" or answer.error:
        return message
    return _extended(message, read(answer.content, _Changed).visible_at, action, answer.asked_s)


def settle_many(action: Action, messages: Sequence[Message]) -> Steps[list[Message | TqError]]:
    """For each of the messages what became of it, or why not."""
    results: dict[int, Message | TqError] = {}
    places: dict[str, list[int]] = {}
    for place, message in enumerate(messages):
        receipt_of(message)
        places.setdefault(message.queue, []).append(place)
    for queue, there in places.items():
        for first in range(0, len(there), MAX_AT_ONCE):
            some = there[first : first + MAX_AT_ONCE]
            settled = yield from _settle_some(action, queue, [messages[place] for place in some])
            results.update(zip(some, settled, strict=True))
    return [results[place] for place in range(len(messages))]


def _settle_some(action: Action, queue: str, messages: list[Message]) -> Steps[list[Message | TqError]]:
    receipts = [receipt_of(message) for message in messages]
    parts = receipts if action.kind == "receipts" else [{"receipt": each, **action.said} for each in receipts]
    body = json.dumps({action.kind: parts}).encode()
    answer = yield from ask(Call("POST", queue_path(queue, "acks"), body, repeat_s=FREELY))
    results: list[Message | TqError] = []
    for message, row in zip(messages, rows_of(answer.content, len(messages)), strict=True):
        if row.status == DONE[action.kind]:
            is_extended = action.kind == "extends"
            results.append(_extended(message, row.visible_at, action, answer.asked_s) if is_extended else message)
        else:
            error = judged(action.kind, by_code(row.status), answer.is_repeated, message.leased_until_s)
            results.append(error or message)
    return results


def rows_of(content: bytes, count: int) -> list[_Row]:
    """What became of so many messages, in their order. Raises UnknownError."""
    rows = read(content, _Rows).results
    if len(rows) != count:
        raise UnknownError(f"The answer is of {len(rows)} messages, and {count} were asked about.")
    return rows


def judged(kind: Kind, error: TqError, is_repeated: bool, leased_until_s: float) -> TqError | None:
    """What a refusal means; None where the first of several tries has done it."""
    if not is_repeated or kind == "extends" or not isinstance(error, MessageNotFound | StaleReceipt):
        return error
    if isinstance(error, StaleReceipt) and kind != "releases":
        return error
    if monotonic() < leased_until_s:
        return None
    unknown = OutcomeUnknown(f"The lease ended while the answer was waited for: {error.detail}")
    unknown.__cause__ = error
    return unknown


def receipt_of(message: Message) -> str:
    """Raises TypeError for what is no message, as the None of a receive that found none, and ValueError without one."""
    if not isinstance(message, Message):
        raise TypeError(f"{message!r} is no message that was received.")
    if not message.receipt:
        raise ValueError(f"Message {message.id} of {message.queue!r} has no receipt: it was received without a lease.")
    return message.receipt


def _extended(message: Message, visible_at: datetime | None, action: Action, asked_s: float) -> Message:
    leased_until_s = asked_s + float(action.said["visibility_timeout"])
    return msgspec.structs.replace(message, visible_at=visible_at, leased_until_s=leased_until_s)
