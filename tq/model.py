"""The nouns of tq: messages, queues, and the commands and queries that may be asked of them.

Everything here is frozen data, so that it can be queued, logged, replayed or sent to another
process. A *command* may change state and is applied by `lifecycle.apply`; a *query* only looks and is answered by
`lifecycle.answer`. Each class says what its result is. Times are integers of milliseconds since the Unix epoch, UTC.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct

MAX_QUEUES = 10_000  # each open sub-database makes every transaction 4 ns slower
MAX_MESSAGE_BYTES = 128 * 1024 * 1024  # what 65,536 chunks can hold, rounded down to a power of two
MAX_PAGE = 1_000  # messages or queues in one answer
MESSAGE_COST_BYTES = 256  # what a message costs beside its content, in memory and in the time of a commit
MAX_PAGE_BYTES = 4 * 1024 * 1024  # message bodies in one answer, so that an answer fits in memory


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a queue's owner may choose."""

    max_message_bytes: Annotated[
        int,
        Meta(ge=1, le=MAX_MESSAGE_BYTES, description="Largest content a message may have, bytes."),
    ] = 1_048_576


class Draft(Struct, frozen=True):
    """A message that is not sent yet. Without a `media_type` the content is JSON text in UTF-8."""

    content: bytes
    media_type: str | None = None


class Message(Struct, frozen=True):
    """A message as it is handed out: `content` is byte for byte what was sent.

    `state` is where it is, when it was looked at; None when it was received and is gone.
    """

    id: int
    content: bytes
    media_type: str | None
    sent_at_ms: int
    receive_count: int
    state: Literal["ready"] | None = None


class Received(Struct, frozen=True):
    """The messages that a receive took. `quarantined`: ids found damaged on the way and set aside."""

    messages: tuple[Message, ...]
    quarantined: tuple[int, ...] = ()


class MessagePage(Struct, frozen=True):
    """`next` is the id to ask for `after`, or None at the end."""

    messages: tuple[Message, ...]
    next: int | None


class Counters(Struct, frozen=True):
    """How many messages a queue has ever sent, handed out, purged, and set aside as damaged."""

    sent: int
    received: int
    purged: int
    quarantined: int


class Counts(Struct, frozen=True):
    """How many messages there are now, by state."""

    ready: int
    in_flight: int = 0
    delayed: int = 0
    blocked: int = 0


class QueueInfo(Struct, frozen=True):
    name: str
    settings: QueueSettings
    created_at_ms: int
    messages: Counts
    oldest_message_age_ms: int | None
    counters: Counters


class QueuePage(Struct, frozen=True):
    """`next` is the name to ask for `after`, or None at the end."""

    queues: tuple[QueueInfo, ...]
    next: str | None


class Created(Struct, frozen=True):
    info: QueueInfo
    is_new: bool


class Totals(Struct, frozen=True):
    queues: int
    messages: Counts


class StorageInfo(Struct, frozen=True):
    """The storage behind the server. `available_bytes` is what sends may still fill; None when nothing bounds it."""

    engine: str
    path: str
    file_bytes: int
    used_bytes: int
    available_bytes: int | None


class Status(Struct, frozen=True):
    version: str
    uptime_ms: int
    totals: Totals
    storage: StorageInfo


class Command(Struct, frozen=True):
    """Base of what may change state. `grows`: the store refuses it when there is no room left."""

    grows: ClassVar[bool] = False

    @property
    def cost_bytes(self) -> int:
        """What it takes to hold the command, commit it and hold its result: bounds what waits, and groups."""
        return MESSAGE_COST_BYTES


class CreateQueue(Command, frozen=True):
    """Result: `Created`. Raises InvalidQueueName, QueueExists, TooManyQueues."""

    name: str
    settings: QueueSettings = QueueSettings()
    grows: ClassVar[bool] = True


class DeleteQueue(Command, frozen=True):
    """Result: None. Raises QueueNotFound, QueueNotEmpty."""

    name: str
    if_empty: bool = False


class PurgeQueue(Command, frozen=True):
    """Drop every message that is in the queue now. Result: how many. Raises QueueNotFound, Overloaded."""

    name: str


class Send(Command, frozen=True):
    """All drafts or none. Result: the ids, rising, in the order given. Raises QueueNotFound, MessageTooLarge."""

    queue: str
    drafts: tuple[Draft, ...]
    grows: ClassVar[bool] = True

    @property
    def cost_bytes(self) -> int:
        return sum(len(draft.content) + MESSAGE_COST_BYTES for draft in self.drafts)


class Receive(Command, frozen=True):
    """Take the next messages and remove them. Result: `Received`. Raises QueueNotFound."""

    queue: str
    limit: int = 1

    @property
    def cost_bytes(self) -> int:
        return self.limit * MESSAGE_COST_BYTES


class Sweep(Command, frozen=True):
    """Reclaim up to `limit` records of purged or deleted queues. Result: whether more are left."""

    limit: int


class Probe(Command, frozen=True):
    """Write and sync one small record. Result: None."""


class Query(Struct, frozen=True):
    """Base of what only looks."""


class GetQueue(Query, frozen=True):
    """Result: `QueueInfo`. Raises QueueNotFound."""

    name: str


class ListQueues(Query, frozen=True):
    """Result: `QueuePage`, by name, of those that begin with `prefix` and come after `after`."""

    prefix: str = ""
    after: str = ""
    limit: int = 100


class GetMessage(Query, frozen=True):
    """Result: `Message`. Raises QueueNotFound, MessageNotFound."""

    queue: str
    id: int


class Peek(Query, frozen=True):
    """Result: `MessagePage`, in the order of delivery, after the message `after`. Raises QueueNotFound."""

    queue: str
    after: int = 0
    limit: int = 10


class GetTotals(Query, frozen=True):
    """Result: `Totals` over all queues."""


class GetStatus(Query, frozen=True):
    """Result: `Status`. Answered by the broker."""


class GetHealth(Query, frozen=True):
    """Result: None. Answered by the broker. Raises StorageFailed when the server can no longer write."""
