"""Transactions, and how one is found out about whose answer was lost.

A transaction that acknowledges can be repeated: if the first try was done, its receipts are good no more, and the next
is refused whole. Then it is asked whether the messages are gone, which while their leases last nobody else can have
brought about, and what was sent is sent again with the same deduplication ids, which stores nothing and tells the ids.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from time import monotonic

import msgspec

from tq.client.calls import FREELY, NEVER, About, Call, Steps
from tq.client.errors import OutcomeUnknown
from tq.client.messages import Message, SentBatch
from tq.client.settling import Action, receipt_of, settle_many
from tq.errors import MessageNotFound, StaleReceipt, TqError

TRIED_S = 30.0  # more than any request takes that still has an effect


def transact(
    messages: Sequence[Message], sends: Sequence[bytes], known_s: float, about: About | None
) -> Steps[list[int]]:
    """`known_s` is for how long the deduplication ids of the sends are remembered."""
    over_s = monotonic() + known_s - TRIED_S
    acks = [{"queue": message.queue, "receipt": receipt_of(message)} for message in messages]
    answer = yield _call(acks, sends, FREELY if messages else known_s, about)
    if isinstance(answer.error, StaleReceipt) and answer.is_repeated:
        yield from _check_that_all_are_gone(messages, answer.error)
        if not sends:
            return []
        if monotonic() > over_s:
            raise OutcomeUnknown(answer.error.detail) from answer.error
        answer = yield _call([], sends, NEVER, about)
    if answer.error:
        raise answer.error
    return msgspec.json.decode(answer.content, type=SentBatch).ids


def _call(acks: list[dict[str, str]], sends: Sequence[bytes], repeat_s: float, about: About | None) -> Call:
    body = b'{"ack":%b,"send":[%b]}' % (json.dumps(acks).encode(), b",".join(sends))
    return Call("POST", "/transactions", body, repeat_s=repeat_s, about=about)


def _check_that_all_are_gone(messages: Sequence[Message], refused: TqError) -> Steps[None]:
    """Raises the refusal where a message is still leased, and OutcomeUnknown where it cannot be told."""
    left_s = min(message.leased_until_s for message in messages) - monotonic()
    if left_s > 0:
        found = yield from settle_many(Action("extends", {"visibility_timeout": left_s}), messages)
        if any(isinstance(each, Message) for each in found):
            raise refused
        if all(isinstance(each, MessageNotFound) for each in found):
            return
    raise OutcomeUnknown(refused.detail) from refused
