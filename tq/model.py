"""The nouns of tq: messages, queues, and the commands and queries that may be asked of them.

Everything here is frozen data without behaviour, so that it can be queued, logged, replayed or sent to another
process. A *command* may change state and is applied by `lifecycle.apply`; a *query* only looks and is answered by
`lifecycle.answer`. Each class says what its result is. Times and durations are integers of milliseconds (times since
the Unix epoch, UTC), but for the settings of a queue, which are seconds, as their owner wrote them.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

MAX_SEQUENCE = (1 << 56) - 1  # of a message in its queue; nobody will get there
QUEUE_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,79}"  # what a queue may be called, as a regular expression
MAX_QUEUES = 10_000  # each open sub-database makes every transaction 4 ns slower
MAX_MESSAGE_BYTES = 128 * 1024 * 1024  # what 65,536 chunks can hold, rounded down to a power of two
MAX_PAGE = 1_000  # messages or queues in one answer
MESSAGE_COST_BYTES = 256  # what a message costs beside its content, in memory and in the time of a commit
MAX_PAGE_BYTES = 4 * 1024 * 1024  # message bodies in one answer, so that an answer fits in memory
MAX_PARTS = 1_000  # actions or parts of one command, so that it does not hold up its group
MAX_POLLED = 100  # queues in one receive
MAX_PRIORITY = 9
MAX_GROUP_BYTES = 128  # UTF-8 of a group or a deduplication id: they are parts of keys
MAX_REASON_BYTES = 512  # UTF-8 of why a message was rejected
MAX_LIMIT = (1 << 63) - 1  # of messages or bytes in a queue: what a record on disk can hold
MAX_HEADERS_BYTES = 65_536  # UTF-8 of one message's headers, names and values

MAX_VISIBILITY_S = 43_200  # 12 hours, as in SQS
MAX_DELAY_S = 31_536_000  # a year
MAX_WAIT_S = 60  # proxies cut off what is silent for longer
MAX_DEDUP_S = 604_800  # a week: each id remembered is a record

State = Literal["ready", "in_flight", "delayed", "blocked"]
STATES: tuple[State, ...] = ("ready", "in_flight", "delayed", "blocked")


class DeadLetter(Struct, frozen=True, forbid_unknown_fields=True):
    """Where messages go that nobody could handle."""

    queue: Annotated[str, Meta(description="Name of the dead-letter queue, which must exist.")]
    max_receives: Annotated[
        int, Meta(ge=1, le=1_000, description="Receives after which a message that was not acknowledged moves.")
    ]
    on_expiry: Annotated[bool, Meta(description="Whether a message whose TTL is over moves too.")] = False


_Visibility = Annotated[
    float,
    Meta(ge=0, le=MAX_VISIBILITY_S, description="Seconds that a lease lasts when the receive names none."),
]
_Delay = Annotated[float, Meta(ge=0, le=MAX_DELAY_S, description="Seconds before a sent message can be received.")]
_Ttl = Annotated[
    float,
    Meta(
        ge=0.001, le=MAX_DELAY_S, description="Seconds after which an unconsumed message is dropped or dead-lettered."
    ),
]
_MaxMessages = Annotated[
    int, Meta(ge=1, le=MAX_LIMIT, description="Messages the queue may hold, in any state; then `overflow`.")
]
_MaxBytes = Annotated[
    int, Meta(ge=1, le=MAX_LIMIT, description="Bytes of content the queue may hold; then `overflow`.")
]
_MaxMessageBytes = Annotated[
    int, Meta(ge=1, le=MAX_MESSAGE_BYTES, description="Largest content a message may have, bytes.")
]
_DedupWindow = Annotated[
    float, Meta(ge=0, le=MAX_DEDUP_S, description="Seconds that a deduplication id is remembered.")
]


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a queue's owner may choose."""

    visibility_timeout: _Visibility = 30
    delay: _Delay = 0
    ttl: _Ttl | None = None
    max_messages: _MaxMessages | None = None
    max_bytes: _MaxBytes | None = None
    overflow: Literal["reject", "drop_oldest"] = "reject"
    max_message_bytes: _MaxMessageBytes = 1_048_576
    dead_letter: DeadLetter | None = None
    dedup_window: _DedupWindow = 300
    paused: bool = False


class SettingsChange(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Some of a queue's settings; those that are UNSET stay as they are."""

    visibility_timeout: _Visibility | UnsetType = UNSET
    delay: _Delay | UnsetType = UNSET
    ttl: _Ttl | UnsetType | None = UNSET
    max_messages: _MaxMessages | UnsetType | None = UNSET
    max_bytes: _MaxBytes | UnsetType | None = UNSET
    overflow: Literal["reject", "drop_oldest"] | UnsetType = UNSET
    max_message_bytes: _MaxMessageBytes | UnsetType = UNSET
    dead_letter: DeadLetter | UnsetType | None = UNSET
    dedup_window: _DedupWindow | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


# --- messages -------------------------------------------------------------


class Draft(Struct, frozen=True):
    """A message that is not sent yet. Without a `media_type` the content is JSON text in UTF-8.

    What is None is taken from the queue's settings: `delay_ms` and `ttl_ms`.
    """

    content: bytes
    media_type: str | None = None
    delay_ms: int | None = None
    ttl_ms: int | None = None
    priority: int = 0
    group: str | None = None
    dedup_id: str | None = None
    headers: dict[str, str] | None = None


class DeadLetterOrigin(Struct, frozen=True):
    """How a message got into a dead-letter queue: from where, why, and after how many receives."""

    source: str
    reason: str
    receive_count: int


class Message(Struct, frozen=True):
    """A message as it is handed out: `content` is byte for byte what was sent.

    `attempt` counts its leases and is never shown. `state` is where it is when it was looked at, and None when it was
    received. `receipt` and `visible_at_ms` come with a lease; `visible_at_ms` also with a message that is delayed.
    """

    id: int
    content: bytes
    media_type: str | None
    sent_at_ms: int
    receive_count: int
    priority: int = 0
    group: str | None = None
    headers: dict[str, str] | None = None
    dead_letter: DeadLetterOrigin | None = None
    attempt: int = 0
    receipt: str | None = None
    visible_at_ms: int | None = None
    expires_at_ms: int | None = None
    state: State | None = None


class Sent(Struct, frozen=True):
    """The id of each message of a send. `duplicates`: places in `ids` where an earlier message's id stands."""

    ids: tuple[int, ...]
    duplicates: tuple[int, ...] = ()


class Received(Struct, frozen=True):
    """Messages that a receive took out of one queue. `quarantined`: ids found damaged on the way and set aside.

    `is_cut_short`: so many were damaged or expired that it stopped; behind them there may be more.
    """

    messages: tuple[Message, ...] = ()
    queue: str = ""
    quarantined: tuple[int, ...] = ()
    is_cut_short: bool = False


class MessagePage(Struct, frozen=True):
    """`next` is what to ask for `after`, or None at the end."""

    messages: tuple[Message, ...]
    next: str | None


# --- queues -------------------------------------------------------------


class Counters(Struct, frozen=True):
    """What has ever happened to the messages of a queue.

    Every message that was there is still there, or acked (also when it was received without a lease), expired,
    dead-lettered, redriven, purged, dropped (rejected without a dead-letter queue, or by `drop_oldest`), cancelled or
    quarantined.
    """

    sent: int = 0
    duplicates: int = 0
    received: int = 0
    acked: int = 0
    released: int = 0
    timed_out: int = 0
    expired: int = 0
    dead_lettered: int = 0
    redriven: int = 0
    purged: int = 0
    dropped: int = 0
    cancelled: int = 0
    quarantined: int = 0


class Counts(Struct, frozen=True):
    """How many messages there are now, by state."""

    ready: int = 0
    in_flight: int = 0
    delayed: int = 0
    blocked: int = 0


class QueueInfo(Struct, frozen=True):
    name: str
    settings: QueueSettings
    created_at_ms: int
    messages: Counts
    bytes: int
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


# --- commands -------------------------------------------------------------


class Command(Struct, frozen=True):
    """Base of what may change state. `grows`: the store refuses it when there is no room left."""

    grows: ClassVar[bool] = False

    @property
    def cost_bytes(self) -> int:
        """What it takes to hold the command, commit it and hold its result: bounds what waits, and groups."""
        return MESSAGE_COST_BYTES


class CreateQueue(Command, frozen=True):
    """Result: `Created`. Raises InvalidQueueName, InvalidRequest (dead letter), QueueExists, TooManyQueues."""

    name: str
    settings: QueueSettings = QueueSettings()
    grows: ClassVar[bool] = True


class PutQueue(Command, frozen=True):
    """Create the queue or replace its settings. Result: `Created`. Raises as CreateQueue but for QueueExists."""

    name: str
    settings: QueueSettings = QueueSettings()
    grows: ClassVar[bool] = True


class PatchQueue(Command, frozen=True):
    """Change some settings. Result: `QueueInfo`. Raises QueueNotFound, InvalidRequest (dead letter)."""

    name: str
    change: SettingsChange


class DeleteQueue(Command, frozen=True):
    """Result: None. Raises QueueNotFound, QueueNotEmpty."""

    name: str
    if_empty: bool = False


class PurgeQueue(Command, frozen=True):
    """Drop every message that is in the queue, in any state, and forget its deduplication ids.

    Result: how many messages. Raises QueueNotFound, Overloaded.
    """

    name: str


class Send(Command, frozen=True):
    """All drafts or none. Result: `Sent`. Raises QueueNotFound, MessageTooLarge, QueueFull."""

    queue: str
    drafts: tuple[Draft, ...]
    grows: ClassVar[bool] = True

    @property
    def cost_bytes(self) -> int:
        size = len(self.drafts) * MESSAGE_COST_BYTES
        for draft in self.drafts:
            size += len(draft.content)
        return size


class Receive(Command, frozen=True):
    """Take the next messages of the first queue that has any.

    Without `visibility_ms` they are removed; with it they are leased for so long, and with -1 for as long as the queue
    says. `wait_ms` is the broker's business: how long to wait for a message when there is none.
    Result: `Received`. Raises QueueNotFound.
    """

    queues: tuple[str, ...]
    limit: int = 1
    visibility_ms: int | None = None
    wait_ms: int = 0

    @property
    def cost_bytes(self) -> int:
        return self.limit * MESSAGE_COST_BYTES


class Ack(Struct, frozen=True, tag=True):
    """The message was handled: remove it."""

    receipt: str


class Extend(Struct, frozen=True, tag=True):
    """Hide the message for `visibility_ms` from now; 0 releases it at once."""

    receipt: str
    visibility_ms: int


class Release(Struct, frozen=True, tag=True):
    """Give the message back, to be received again after `delay_ms`."""

    receipt: str
    delay_ms: int = 0


class Reject(Struct, frozen=True, tag=True):
    """Nobody will ever handle this message: to the dead-letter queue, or away with it where there is none."""

    receipt: str
    reason: str = "rejected"


Action = Ack | Extend | Release | Reject


class Settle(Command, frozen=True):
    """Say what becomes of leased messages, each for itself, in one commit.

    Result: for each action None, or when the message is visible again (ms; `Extend`, `Release`), or the TqError it was
    refused with: MessageNotFound, StaleReceipt. Raises QueueNotFound.
    """

    queue: str
    actions: tuple[Action, ...]

    @property
    def cost_bytes(self) -> int:
        return len(self.actions) * MESSAGE_COST_BYTES


class Cancel(Command, frozen=True):
    """Remove a message that is not in flight. Result: None. Raises QueueNotFound, MessageNotFound, InFlight."""

    queue: str
    id: int


class Unreceive(Command, frozen=True):
    """Undo a receive whose answer could not be delivered: the messages go back to their places, not counted.

    Result: None. Raises QueueNotFound.
    """

    queue: str
    messages: tuple[Message, ...]
    grows: ClassVar[bool] = False


class Redrive(Command, frozen=True):
    """Move up to `limit` ready messages out of a dead-letter queue, to where each came from or to one queue.

    A message that came from nowhere, or from a queue that is not there any more, stays.
    Result: `Redriven`. Raises QueueNotFound.
    """

    queue: str
    to: str | None = None
    limit: int = MAX_SEQUENCE
    after: bytes = b""
    before: int = 0


class Redriven(Struct, frozen=True):
    """How many messages were moved. To go on: `after` that key, and only ids below `before`.

    `after` is empty when the end of the queue was reached. `before` is what the first slice found, so that messages
    which come in meanwhile are not moved too, and for ever.
    """

    moved: int
    after: bytes
    before: int


class Transaction(Command, frozen=True):
    """All or nothing: acknowledge and send over any number of queues.

    Result: `Sent`. Raises QueueNotFound, MessageTooLarge, QueueFull and StaleReceipt; then nothing is done.
    """

    acks: tuple[tuple[str, str], ...] = ()  # queue, receipt
    sends: tuple[tuple[str, Draft], ...] = ()
    grows: ClassVar[bool] = True

    @property
    def cost_bytes(self) -> int:
        parts = len(self.sends) + len(self.acks)
        return sum([len(draft.content) for _, draft in self.sends]) + parts * MESSAGE_COST_BYTES


class Tick(Command, frozen=True):
    """Do what is due: at most `limit` delays, leases, lifetimes and deduplication windows that are over.

    Result: `Ticked`. The broker puts one before and one behind the commands of a group.
    """

    limit: int


class Ticked(Struct, frozen=True):
    """When something is due next (ms), and how many messages became ready in each queue during the group."""

    next_due_ms: int | None
    arrivals: dict[str, int]


class Sweep(Command, frozen=True):
    """Reclaim up to `limit` records of purged or deleted queues. Result: whether more are left."""

    limit: int


class SetClock(Command, frozen=True):
    """Say how far the timers' clock is ahead of the wall clock (ms). Result: None."""

    offset_ms: int


class Probe(Command, frozen=True):
    """Write and sync one small record. Result: None."""


# --- queries -------------------------------------------------------------


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
    """Result: `MessagePage` of one state, in the order of delivery. Raises QueueNotFound, InvalidRequest (`after`)."""

    queue: str
    state: State = "ready"
    after: str = ""
    limit: int = 10


class GetTotals(Query, frozen=True):
    """Result: `Totals` over all queues."""


class GetClock(Query, frozen=True):
    """Result: `Clock`."""


class Clock(Struct, frozen=True):
    """The latest time that was stored (ms), and how far the timers' clock is ahead of the wall clock."""

    latest_ms: int
    offset_ms: int


class GetStatus(Query, frozen=True):
    """Result: `Status`. Answered by the broker."""


class GetHealth(Query, frozen=True):
    """Result: None. Answered by the broker. Raises StorageFailed when the server can no longer write."""
