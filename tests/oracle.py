"""What queues do, said a second time and naively: lists and dicts, every cost ignored.

It shares nothing with `lifecycle` but the nouns of `model`. At the end stand the engines that tests open by
themselves, and the one command that only tests give: `Do`, which reaches past `lifecycle` into the spaces.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from tq import errors, lifecycle, model
from tq.errors import TqError
from tq.store import Store, Tx
from tq.store.lmdb import LmdbStore
from tq.store.memory import MemoryStore

RECORD_BYTES = 1_984  # a larger message record is kept apart from its content
PIECE_BYTES = 4_080


@dataclass
class OracleQueue:
    settings: model.QueueSettings
    created_at_ms: int
    place: int
    messages: list[model.Message] = field(default_factory=list)
    sent: int = 0
    received: int = 0
    purged: int = 0


class Oracle:
    """`run` a command or query and get its result, or the TqError it is refused with."""

    def __init__(self, max_queues: int, max_garbage: int, max_page_bytes: int) -> None:
        self.queues: dict[str, OracleQueue] = {}
        self._garbage: dict[int, int] = {}  # records that lie in each place that was let go
        self._places = 0
        self._max_queues = max_queues
        self._max_garbage = max_garbage
        self._max_page_bytes = max_page_bytes

    def run(self, request: model.Command | model.Query, now_ms: int) -> Any:
        name = re.sub(r"(?!^)([A-Z])", r"_\1", type(request).__name__).lower()
        try:
            return getattr(self, "_" + name)(request, now_ms)
        except TqError as refusal:
            return refusal

    def _find(self, name: str) -> OracleQueue:
        self._check_name(name)
        if name not in self.queues:
            raise errors.QueueNotFound
        return self.queues[name]

    def _check_name(self, name: str) -> None:
        is_word = name.isascii() and name.replace(".", "").replace("_", "").replace("-", "").isalnum()
        if not is_word or len(name) > 80 or not name[0].isalnum():
            raise errors.InvalidQueueName

    def _new_place(self) -> int:
        self._places += 1
        return self._places

    def _let_go(self, queue: OracleQueue) -> None:
        self._garbage[queue.place] = sum(1 + _pieces(message) for message in queue.messages)

    # --- queues

    def _create_queue(self, command: model.CreateQueue, now_ms: int) -> model.Created:
        self._check_name(command.name)
        is_new = command.name not in self.queues
        if is_new:
            if len(self.queues) >= self._max_queues:
                raise errors.TooManyQueues
            self.queues[command.name] = OracleQueue(command.settings, now_ms, self._new_place())
        if self.queues[command.name].settings != command.settings:
            raise errors.QueueExists
        return model.Created(self._get_queue(model.GetQueue(command.name), now_ms), is_new)

    def _delete_queue(self, command: model.DeleteQueue, _: int) -> None:
        queue = self._find(command.name)
        if command.if_empty and queue.messages:
            raise errors.QueueNotEmpty
        if len(self._garbage) >= self._max_garbage:
            raise errors.Overloaded
        self._let_go(queue)
        del self.queues[command.name]

    def _purge_queue(self, command: model.PurgeQueue, _: int) -> int:
        queue = self._find(command.name)
        if len(self._garbage) >= self._max_garbage:
            raise errors.Overloaded
        self._let_go(queue)
        queue.place = self._new_place()
        purged = len(queue.messages)
        queue.purged += purged
        queue.messages = []
        return purged

    def _sweep(self, command: model.Sweep, _: int) -> bool:
        if self._garbage:
            oldest = min(self._garbage)
            if command.limit > self._garbage[oldest]:
                del self._garbage[oldest]
            else:
                self._garbage[oldest] -= command.limit
        return bool(self._garbage)

    def _probe(self, _: model.Probe, __: int) -> None:
        return None

    def _get_queue(self, query: model.GetQueue, now_ms: int) -> model.QueueInfo:
        queue = self._find(query.name)
        oldest = queue.messages[0].sent_at_ms if queue.messages else None
        return model.QueueInfo(
            name=query.name,
            settings=queue.settings,
            created_at_ms=queue.created_at_ms,
            messages=model.Counts(len(queue.messages)),
            oldest_message_age_ms=None if oldest is None else max(0, now_ms - oldest),
            counters=model.Counters(queue.sent, queue.received, queue.purged, 0),
        )

    def _list_queues(self, query: model.ListQueues, now_ms: int) -> model.QueuePage:
        names = [n for n in sorted(self.queues) if n.startswith(query.prefix) and n > query.after]
        page = names[: query.limit]
        infos = [self._get_queue(model.GetQueue(name), now_ms) for name in page]
        return model.QueuePage(tuple(infos), page[-1] if page != names else None)

    def _get_totals(self, _: model.GetTotals, __: int) -> model.Totals:
        ready = sum(len(queue.messages) for queue in self.queues.values())
        return model.Totals(len(self.queues), model.Counts(ready))

    # --- messages

    def _send(self, command: model.Send, now_ms: int) -> list[int]:
        queue = self._find(command.queue)
        if any(len(draft.content) > queue.settings.max_message_bytes for draft in command.drafts):
            raise errors.MessageTooLarge
        ids = []
        for draft in command.drafts:
            queue.sent += 1
            ids.append(queue.sent)
            queue.messages.append(model.Message(queue.sent, draft.content, draft.media_type, now_ms, 0, "ready"))
        return ids

    def _receive(self, command: model.Receive, _: int) -> model.Received:
        queue = self._find(command.queue)
        taken = self._page(queue.messages, command.limit)
        del queue.messages[: len(taken)]
        queue.received += len(taken)
        return model.Received(
            tuple(model.Message(m.id, m.content, m.media_type, m.sent_at_ms, m.receive_count + 1) for m in taken)
        )

    def _get_message(self, query: model.GetMessage, _: int) -> model.Message:
        for message in self._find(query.queue).messages:
            if message.id == query.id:
                return message
        raise errors.MessageNotFound

    def _peek(self, query: model.Peek, _: int) -> model.MessagePage:
        after = [m for m in self._find(query.queue).messages if m.id > query.after]
        page = self._page(after, query.limit)
        return model.MessagePage(tuple(page), page[-1].id if page != after else None)

    def _page(self, messages: list[model.Message], limit: int) -> list[model.Message]:
        """The first ones, until they are as many as asked for or reach the bytes of a page."""
        page: list[model.Message] = []
        while len(page) < min(limit, len(messages)) and sum(len(m.content) for m in page) < self._max_page_bytes:
            page.append(messages[len(page)])
        return page


def inline_bytes(media_type: str | None) -> int:
    """The longest content that is kept in its record, for a time since 1970-02-19 and a media type of 1 to 31 bytes."""
    version, array, time, count, content_head, checksum = 1, 1, 9, 1, 3, 4
    media = 1 + len(media_type or "")
    return RECORD_BYTES - (version + array + time + count + media + content_head + checksum)


def _pieces(message: model.Message) -> int:
    if len(message.content) <= inline_bytes(message.media_type):
        return 0
    return -(-len(message.content) // PIECE_BYTES)


# --- past the rules ---------------------------------------------------------------------------


class Do(model.Command, frozen=True):
    """Result: what `do` returns, or the TqError it raises. It may read and write any space."""

    do: Callable[[Tx], Any]


class Grow(Do, frozen=True):
    """A `Do` that the store refuses when it is full."""

    grows: ClassVar[bool] = True


def apply(tx: Tx, commands: Sequence[model.Command], now_ms: int) -> list[Any]:
    """`lifecycle.apply`, and `Do` besides."""
    results: list[Any] = []
    for is_raw, grouped in groupby(commands, lambda command: isinstance(command, Do)):
        run: list[Any] = list(grouped)
        results += [_do(tx, command) for command in run] if is_raw else lifecycle.apply(tx, run, now_ms)
    return results


def _do(tx: Tx, command: Do) -> Any:
    try:
        return command.do(tx)
    except TqError as refusal:
        return refusal


def put(space: str, key: bytes, value: bytes) -> Do:
    return Do(lambda tx: tx.space(space).put(key, value))


def delete(space: str, key: bytes) -> Do:
    return Do(lambda tx: tx.space(space).delete(key))


def dump(tx: Tx) -> dict[str, list[tuple[bytes, bytes]]]:
    """Everything in a store: the pairs of each space that is not empty."""
    spaces = {name: list(tx.space(name).scan()) for name in tx.spaces()}
    return {name: pairs for name, pairs in spaces.items() if pairs}


def open_engine(kind: str, path: Path, **options: Any) -> Store:
    """An engine that runs `apply` of this module."""
    if kind == "memory":
        return MemoryStore(apply)
    return LmdbStore(path, apply, **{"max_spaces": lifecycle.MAX_SPACES, "reserve_bytes": 1 << 20, **options})
