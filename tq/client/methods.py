"""Every method that `Client` and `AsyncClient` share, as a program of calls."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import monotonic
from typing import Any, Unpack
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from tq.client import sending, settling
from tq.client.calls import FREELY, NEVER, About, Call, Steps, ask, look, method, queue_path
from tq.client.leases import Leases
from tq.client.messages import Message, Move, Page, Queue, Sent, SentBatch, Settings, Status, many_messages, one_message
from tq.client.settling import ACK, Action
from tq.client.transacting import transact
from tq.errors import StorageFailed, TqError
from tq.model import State

LEASE_S = 30  # as the queue's own default
KNOWN_S = 30.0  # how long what is known of a queue is believed
MAX_KNOWN = 1_000  # queues
PAGE = 1_000  # queues in one answer, as many as there may be


class _Known(Struct):
    """What of a queue's settings a send must know to be repeatable."""

    dedup_window: float
    content_dedup: bool


class _Queues(Struct):
    queues: list[Queue]
    next: str | None


class _Moves(Struct):
    moves: list[Move]


class _Count(Struct):
    purged: int = 0
    moved: int = 0


class Methods:
    """Methods are generators, which `method` has the client run."""

    def __init__(self, retry_seconds: float) -> None:
        self._retry_s = retry_seconds
        self._queues: dict[str, tuple[float, _Known]] = {}
        self._consumers: set[Leases] = set()

    # --- queues ---------------------------------------------------------------------------

    @method
    def create_queue(self, queue: str, **settings: Unpack[Settings]) -> Steps[Queue]:
        """Create a queue, or find it there with these settings. Raises QueueExists where it has others."""
        body = msgspec.json.encode({"name": queue, **settings})
        answer = yield from ask(Call("POST", "/queues", body, repeat_s=FREELY))
        return _queue(answer.content)

    @method
    def put_queue(self, queue: str, **settings: Unpack[Settings]) -> Steps[Queue]:
        """Create a queue, or replace its settings: those that are left out take their defaults."""
        return (yield from self._change("PUT", queue, settings))

    @method
    def update_queue(self, queue: str, **settings: Unpack[Settings]) -> Steps[Queue]:
        """Change some of a queue's settings. Raises QueueNotFound."""
        return (yield from self._change("PATCH", queue, settings))

    def _change(self, verb: str, queue: str, settings: Settings) -> Steps[Queue]:
        answer = yield from ask(Call(verb, queue_path(queue), msgspec.json.encode(settings), repeat_s=FREELY))
        self._queues.pop(queue, None)
        return _queue(answer.content)

    @method
    def queue(self, queue: str) -> Steps[Queue]:
        """A queue's settings, and what is in it. Raises QueueNotFound."""
        return _queue((yield from look(queue_path(queue))))

    @method
    def queues(self, prefix: str = "") -> Steps[list[Queue]]:
        """All queues whose names begin with `prefix`, by name."""
        found: list[Queue] = []
        after: str | None = ""
        while after is not None:
            query = urlencode({"prefix": prefix, "after": after, "limit": PAGE})
            page = msgspec.json.decode((yield from look(f"/queues?{query}")), type=_Queues)
            found += page.queues
            after = page.next
        return found

    @method
    def delete_queue(self, queue: str, *, if_empty: bool = False) -> Steps[None]:
        """Delete a queue with its messages. Raises QueueNotFound, and QueueNotEmpty where that was asked for."""
        yield from ask(Call("DELETE", queue_path(queue) + ("?if_empty=true" if if_empty else "")))
        self._queues.pop(queue, None)

    # --- sending ---------------------------------------------------------------------------

    @method
    def send(
        self,
        queue: str,
        content: Any,
        *,
        delay: float | None = None,
        ttl: float | None = None,
        priority: int = 0,
        group: str | None = None,
        dedup_id: str | None = None,
        headers: dict[str, str] | None = None,
        content_type: str | None = None,
    ) -> Steps[Sent]:
        """Send one message: any JSON value, or bytes, which are kept with their `content_type`.

        When it returns, the message is on disk. Raises QueueNotFound, QueueFull, MessageTooLarge.
        """
        envelope = sending.Envelope(
            content=content,
            delay=delay,
            ttl=ttl,
            priority=priority,
            group=group,
            dedup_id=dedup_id,
            headers=headers,
        )
        body, media_type, query = sending.one(envelope, content_type)
        key, repeat_s = yield from self._key(queue, dedup_id is not None)
        target = queue_path(queue, "messages") + query
        answer = yield from ask(
            Call("POST", target, body, media_type, _headers(key), repeat_s, about=About("send", queue))
        )
        sent = msgspec.json.decode(answer.content, type=Sent)
        return Sent(sent.id) if answer.is_repeated else sent

    @method
    def send_batch(self, queue: str, items: Iterable[Any]) -> Steps[SentBatch]:
        """Send up to 10,000 messages, all or none. An item is a content or an `Envelope`."""
        return (yield from self._send_batch(queue, sending.one_batch(items)))

    def _send_batch(self, queue: str, batch: sending.Batch) -> Steps[SentBatch]:
        about = About("send", queue, batch.count)
        key, repeat_s = yield from self._key(queue, False)
        target = queue_path(queue, "messages")
        answer = yield from ask(
            Call("POST", target, batch.body, batch.media_type, _headers(key), repeat_s, about=about)
        )
        told = _decode_ids(answer.content)
        # Where all are there already, an earlier try has sent them.
        is_ours = answer.is_repeated and len(told.duplicates) == len(told.ids)
        return SentBatch(told.ids) if is_ours else told

    def _key(self, queue: str, has_id: bool) -> Steps[tuple[str, float]]:
        """An id by which a send can be repeated, where it needs one, and for how long it can."""
        if not self._retry_s:
            return "", NEVER
        known = yield from self._known(queue)
        if has_id or known.content_dedup or not known.dedup_window:
            return "", known.dedup_window
        return sending.new_key(), known.dedup_window

    def _known(self, queue: str) -> Steps[_Known]:
        until_s, known = self._queues.get(queue, (0.0, None))
        if known is None or until_s < monotonic():
            asked_s = monotonic()
            known = msgspec.json.decode((yield from look(queue_path(queue))), type=_Known)
            if len(self._queues) >= MAX_KNOWN:
                self._queues.clear()
            self._queues[queue] = asked_s + KNOWN_S, known
        return known

    # --- receiving ---------------------------------------------------------------------------

    def _receive(
        self,
        queues: str | Sequence[str],
        most: int | None,
        wait: float,
        visibility_timeout: float | None,
        is_repeatable: bool,
    ) -> Steps[list[Message]]:
        """A lease can be asked for again by its `attempt_id`; a removal only when it was not done for sure."""
        asked: dict[str, Any] = {"wait": wait}
        if most is not None:
            asked["max"] = most
        if visibility_timeout is not None:
            asked["visibility_timeout"] = visibility_timeout
            if is_repeatable:
                asked["attempt_id"] = sending.new_key()
        if isinstance(queues, str):
            target, queue = queue_path(queues, "messages", "receive"), queues
        else:
            target, queue = "/receive", ""
            asked["queues"] = list(queues)
        body, repeat_s = json.dumps(asked).encode(), NEVER if visibility_timeout is None else FREELY
        answer = yield from ask(
            Call("POST", target, body, repeat_s=repeat_s, wait_s=wait, about=About("receive", queue, most))
        )
        if answer.status == 204:
            return []
        leased_until_s = answer.asked_s + (visibility_timeout or 0)
        if most is None:
            return [one_message(answer.content, queue, leased_until_s)]
        return many_messages(answer.content, queue, leased_until_s).messages

    @method
    def ack(self, message: Message) -> Steps[None]:
        """Tell that a message was handled: it is removed.

        Raises StaleReceipt when its lease is over, MessageNotFound when it is gone.
        """
        yield from self._settle_one(ACK, message)

    @method
    def release(self, message: Message, *, delay: float = 0) -> Steps[None]:
        """Give a message back, to be received again after `delay` seconds. Raises as `ack`."""
        yield from self._settle_one(Action("releases", {"delay": delay}), message)

    @method
    def extend(self, message: Message, seconds: float) -> Steps[Message]:
        """Have the lease last for so many seconds from now: the message with its new times. Raises as `ack`."""
        return (yield from self._settle_one(_extend(seconds), message))

    @method
    def reject(self, message: Message, reason: str = "rejected") -> Steps[None]:
        """Nobody will ever handle it: to the dead-letter queue, or away where there is none. Raises as `ack`."""
        yield from self._settle_one(Action("rejects", {"reason": reason}), message)

    @method
    def ack_many(self, messages: Sequence[Message]) -> Steps[list[TqError | None]]:
        """Each for itself: None, or the error that `ack` would raise."""
        return _errors((yield from self._settle_many(ACK, messages)))

    @method
    def release_many(self, messages: Sequence[Message], *, delay: float = 0) -> Steps[list[TqError | None]]:
        """Each for itself: None, or the error that `release` would raise."""
        return _errors((yield from self._settle_many(Action("releases", {"delay": delay}), messages)))

    @method
    def extend_many(self, messages: Sequence[Message], seconds: float) -> Steps[list[Message | TqError]]:
        """Each for itself: the message with its new times, or the error that `extend` would raise."""
        return (yield from self._settle_many(_extend(seconds), messages))

    @method
    def reject_many(self, messages: Sequence[Message], reason: str = "rejected") -> Steps[list[TqError | None]]:
        """Each for itself: None, or the error that `reject` would raise."""
        return _errors((yield from self._settle_many(Action("rejects", {"reason": reason}), messages)))

    def _settle_one(self, action: Action, message: Message) -> Steps[Message]:
        with self._settling(action, [message]):
            return (yield from settling.settle_one(action, message))

    def _settle_many(self, action: Action, messages: Sequence[Message]) -> Steps[list[Message | TqError]]:
        with self._settling(action, messages):
            return (yield from settling.settle_many(action, messages))

    @contextmanager
    def _settling(self, action: Action, messages: Sequence[Message]) -> Iterator[None]:
        """Have the consumers of this client let go of messages that are settled by other means than theirs."""
        consumers = tuple(self._consumers) if action.kind != "extends" else ()
        for consumer in consumers:
            consumer.let_go(messages)
        try:
            yield
        except BaseException:
            for consumer in consumers:
                consumer.keep(messages)
            raise
        for consumer in consumers:
            consumer.forget(messages, is_back=action.kind == "releases")

    # --- looking and moving ---------------------------------------------------------------------------

    @method
    def peek(self, queue: str, *, state: State = "ready", after: str | None = None, limit: int = 10) -> Steps[Page]:
        """Messages of one state in the order of delivery; `after` is the `next` of the page before."""
        query = {"state": state, "limit": str(limit)} | ({"after": after} if after else {})
        return many_messages((yield from look(f"{queue_path(queue, 'peek')}?{urlencode(query)}")), queue)

    @method
    def message(self, queue: str, id: int) -> Steps[Message]:  # noqa: A002
        """Look at one message. Raises MessageNotFound."""
        return one_message((yield from look(queue_path(queue, "messages", id))), queue)

    @method
    def cancel(self, queue: str, id: int) -> Steps[None]:  # noqa: A002
        """Remove a message that is not leased. Raises MessageNotFound, InFlight."""
        yield from ask(Call("DELETE", queue_path(queue, "messages", int(id))))

    @method
    def purge(self, queue: str) -> Steps[int]:
        """Drop every message of a queue: how many."""
        answer = yield from ask(Call("DELETE", queue_path(queue, "messages")))
        return msgspec.json.decode(answer.content, type=_Count).purged

    @method
    def redrive(self, queue: str, *, to: str | None = None, limit: int | None = None) -> Steps[int]:
        """Move messages out of a dead-letter queue, back to where each came from or to one queue: how many."""
        body = msgspec.json.encode({"to": to} if limit is None else {"to": to, "limit": limit})
        answer = yield from ask(Call("POST", queue_path(queue, "redrive"), body))
        return msgspec.json.decode(answer.content, type=_Count).moved

    @method
    def start_move(self, queue: str, *, to: str | None = None, per_second: int | None = None) -> Steps[Move]:
        """Begin a redrive that runs by itself. Raises MoveRunning."""
        body = msgspec.json.encode({"to": to, "per_second": per_second})
        return _move((yield from ask(Call("POST", queue_path(queue, "moves"), body))).content)

    @method
    def moves(self, queue: str) -> Steps[list[Move]]:
        """The latest ten moves out of a queue, the last first."""
        return msgspec.json.decode((yield from look(queue_path(queue, "moves"))), type=_Moves).moves

    @method
    def cancel_move(self, queue: str, id: str) -> Steps[Move]:  # noqa: A002
        """End a move that is running. Raises MoveNotFound."""
        return _move((yield from ask(Call("DELETE", queue_path(queue, "moves", id)))).content)

    # --- transactions ---------------------------------------------------------------------------

    @method
    def transaction(self, *, ack: Sequence[Message] = (), send: Sequence[tuple[str, Any]] = ()) -> Steps[list[int]]:
        """Acknowledge messages and send others, all or nothing: the ids of what was sent.

        A send is a queue and a content or an `Envelope`. Raises StaleReceipt when any lease is over.
        """
        known_s = FREELY
        sends: list[bytes] = []
        for queue, item in send:
            envelope = sending.in_envelope(item)
            key, remembered_s = yield from self._key(queue, envelope.dedup_id is not None)
            sends.append(sending.to_json(replace(envelope, dedup_id=key) if key else envelope, queue=queue))
            known_s = min(known_s, remembered_s)
        queues = {queue for queue, _ in send}
        about = About("send", queues.pop() if len(queues) == 1 else "", len(send)) if send else None
        with self._settling(ACK, ack):
            return (yield from transact(ack, sends, known_s, about))

    # --- the server ---------------------------------------------------------------------------

    @method
    def status(self) -> Steps[Status]:
        """The server: version, totals, storage."""
        return msgspec.json.decode((yield from look("/status")), type=Status)

    @method
    def healthy(self) -> Steps[bool]:
        """Whether the server can write, as far as it knows. Asks once. Raises Unreachable."""
        return (yield from _is_well("/healthz"))

    @method
    def ready(self) -> Steps[bool]:
        """Whether the server has just written and synced a record. Asks once. Raises Unreachable."""
        return (yield from _is_well("/readyz"))


def _is_well(target: str) -> Steps[bool]:
    answer = yield Call("GET", target, looks=True, once=True)
    if isinstance(answer.error, StorageFailed):
        return False
    if answer.error:
        raise answer.error
    return True


def _extend(seconds: float) -> Action:
    if not seconds > 0:
        raise ValueError("A lease is extended by some time; `release` ends it.")
    return Action("extends", {"visibility_timeout": seconds})


def _errors(results: list[Message | TqError]) -> list[TqError | None]:
    return [each if isinstance(each, TqError) else None for each in results]


def _headers(key: str) -> tuple[tuple[bytes, bytes], ...]:
    return ((b"Idempotency-Key", key.encode()),) if key else ()


def _queue(content: bytes) -> Queue:
    return msgspec.json.decode(content, type=Queue)


def _move(content: bytes) -> Move:
    return msgspec.json.decode(content, type=Move)


def _decode_ids(content: bytes) -> SentBatch:
    return msgspec.json.decode(content, type=SentBatch)
