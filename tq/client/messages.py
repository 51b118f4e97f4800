"""Messages and queues as a client shows them, and how they are read out of answers."""

from __future__ import annotations

import base64
import json
from datetime import datetime
from functools import cached_property
from typing import Any, Literal, TypedDict

import msgspec
from msgspec import Raw, Struct

from tq.client.errors import read
from tq.model import Counters, Counts, DeadLetter, DeadLetterOrigin, QueueSettings, State, StorageInfo


class Message(Struct, frozen=True, dict=True, kw_only=True):
    """A message that was received, or looked at.

    `receipt` and `visible_at` come with a lease. `state` is there when it was only looked at. `leased_until_s` is when
    its lease is over by this machine's `time.monotonic()`, at the earliest; 0 without a lease.
    """

    id: int
    queue: str = ""
    _content: Raw = msgspec.field(name="content", default=Raw(b"null"))
    sent_at: datetime
    receive_count: int = 0
    receipt: str | None = None
    visible_at: datetime | None = None
    expires_at: datetime | None = None
    priority: int = 0
    group: str | None = None
    dedup_id: str | None = None
    headers: dict[str, str] = {}
    attributes: dict[str, Any] = {}
    dead_letter: DeadLetterOrigin | None = None
    state: State | None = None
    content_type: str | None = None
    encoding: Literal["base64"] | None = None
    leased_until_s: float = 0

    @cached_property
    def content(self) -> Any:
        """What was sent: a JSON value as Python's `json` reads it, or bytes. Raises ValueError for JSON that it cannot
        read, such as a number of 5,000 digits: `raw` is there then too."""
        return json.loads(bytes(self._content)) if self.content_type is None and self.encoding is None else self.raw

    @property
    def raw(self) -> bytes:
        """The content byte for byte as it was sent."""
        if self.encoding:
            return base64.b64decode(json.loads(bytes(self._content)))
        if self.content_type is not None:
            return str(json.loads(bytes(self._content))).encode()
        return bytes(self._content)

    def __repr__(self) -> str:
        return f"Message(queue={self.queue!r}, id={self.id}, raw={self.raw[:80]!r}, receive_count={self.receive_count})"


class _Messages(Struct):
    messages: list[Message]
    next: str | None = None


class Page(Struct, frozen=True):
    """Some messages, and the `after` with which to ask for more; None at the end."""

    messages: list[Message]
    next: str | None


class Sent(Struct, frozen=True):
    """`duplicate`: a message with this `dedup_id` was there before, and `id` is its."""

    id: int
    duplicate: bool = False


class SentBatch(Struct, frozen=True):
    """The ids in the order of the messages. `duplicates`: the places of those that were there before."""

    ids: list[int]
    duplicates: list[int] = []


class Queue(QueueSettings, frozen=True, forbid_unknown_fields=False, kw_only=True, omit_defaults=False):
    """A queue: its settings, and what is in it."""

    name: str
    created_at: datetime
    messages: Counts
    bytes: int
    oldest_message_age_seconds: float | None
    totals: Counters


class Settings(TypedDict, total=False):
    """What may be said of a queue; the rest has its default."""

    visibility_timeout: float
    delay: float
    ttl: float | None
    retention: float | None
    max_messages: int | None
    max_bytes: int | None
    overflow: Literal["reject", "drop_oldest"]
    max_message_bytes: int
    dead_letter: DeadLetter | dict[str, Any] | None
    dedup_window: float
    dedup_scope: Literal["queue", "group"]
    content_dedup: bool
    fifo: bool
    max_in_flight: int | None
    receive_wait: float
    paused: bool


class Move(Struct, frozen=True):
    """A move of messages: `to_move` is how many there were when it began."""

    id: str
    status: Literal["running", "completed", "cancelled", "failed"]
    to: str | None
    per_second: int | None
    started_at: datetime
    moved: int
    to_move: int
    failure: str | None = None


class Status(Struct, frozen=True):
    """The server: its version, how many queues and messages it holds, and its storage."""

    status: str
    version: str
    uptime_seconds: float
    queues: int
    messages: Counts
    storage: StorageInfo


def one_message(content: bytes, queue: str, leased_until_s: float = 0) -> Message:
    return _placed(read(content, Message), queue, leased_until_s)


def many_messages(content: bytes, queue: str, leased_until_s: float = 0) -> Page:
    told = read(content, _Messages)
    return Page([_placed(each, queue, leased_until_s) for each in told.messages], told.next)


def _placed(message: Message, queue: str, leased_until_s: float) -> Message:
    """Tell it what the answer does not say. Nobody else has it yet."""
    if not message.queue:
        msgspec.structs.force_setattr(message, "queue", queue)
    if message.receipt:
        msgspec.structs.force_setattr(message, "leased_until_s", leased_until_s)
    return message
