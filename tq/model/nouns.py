"""The nouns of tq: messages, queues, what they hold and how much of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from tq.errors import TqError

MAX_SEQUENCE = (1 << 56) - 1  # of a message in its queue; nobody will get there
QUEUE_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,79}"  # what a queue may be called, as a regular expression
ANY_QUEUE_NAME = "[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}"  # with those that only SQS can make
MAX_QUEUES = 10_000  # each open sub-database makes every transaction 4 ns slower
MAX_MESSAGE_BYTES = 128 * 1024 * 1024  # what 65,536 chunks can hold, rounded down to a power of two
MAX_PAGE = 1_000  # messages or queues in one answer
MESSAGE_COST_BYTES = 256  # what a message costs beside its content, in memory and in the time of a commit
MAX_PAGE_BYTES = 4 * 1024 * 1024  # of messages in one answer, so that an answer fits in memory
MAX_GROUP_PAGES = 8  # after so many full answers, or as much in small ones, the other receives are for the next group
MAX_PARTS = 1_000  # actions or parts of one command, so that it does not hold up its group
MAX_POLLED = 100  # queues in one receive
MAX_PRIORITY = 9
MAX_GROUP_BYTES = 128  # UTF-8 of a group or a deduplication id: they are parts of keys
MAX_LIMIT = (1 << 63) - 1  # of messages or bytes in a queue: what a record on disk can hold
MAX_TYPE_LENGTH = 255  # characters of a Content-Type that is kept; RFC 6838 allows 127 on each side of the slash
MAX_HEADERS_BYTES = 65_536  # UTF-8 of one message's headers, names and values

MAX_VISIBILITY_S = 43_200  # 12 hours, as in SQS
MAX_DELAY_S = 31_536_000  # a year
MAX_WAIT_S = 60  # proxies cut off what is silent for longer
MAX_DEDUP_S = 604_800  # a week: each id remembered is a record
RECEIVE_ATTEMPT_MS = 300_000  # how long a receive can be asked for again by its attempt id, as in SQS

State = Literal["ready", "in_flight", "delayed", "blocked"]
STATES: tuple[State, ...] = ("ready", "in_flight", "delayed", "blocked")


class DeadLetter(Struct, frozen=True, forbid_unknown_fields=True):
    """Where messages go that nobody could handle."""

    queue: Annotated[str, Meta(description="Name of the dead-letter queue, which must exist.")]
    max_receives: Annotated[
        int, Meta(ge=1, le=1_000, description="Receives after which a message that was not acknowledged moves.")
    ]
    on_expiry: Annotated[bool, Meta(description="Whether a message whose TTL is over moves too.")] = False
    on_receive: Annotated[
        bool,
        Meta(description="Whether it moves when it would be received once more, as in SQS, not when its lease ends."),
    ] = False


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
_Retention = Annotated[
    float,
    Meta(
        ge=0.001,
        le=MAX_DELAY_S,
        description="Seconds after which a message is dropped or dead-lettered wherever it is, in flight too; for the "
        "messages that are there as well.",
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
_MaxInFlight = Annotated[
    int, Meta(ge=1, le=MAX_LIMIT, description="Messages that may be leased at a time; a receive of more is refused.")
]
_ReceiveWait = Annotated[
    float, Meta(ge=0, le=MAX_WAIT_S, description="Seconds that a receive over SQS waits when it does not say.")
]
_DedupScope = Annotated[
    Literal["queue", "group"], Meta(description="Whether a deduplication id is known in the queue or in its group.")
]
_ContentDedup = Annotated[
    bool, Meta(description="Whether the SHA-256 of the content is the deduplication id of a message without one.")
]
_Fifo = Annotated[
    bool,
    Meta(
        description="Strict order by group, as in a FIFO queue of SQS: every message has a group and a deduplication "
        "id, and a receive of many may take several of one group. Cannot be changed."
    ),
]


class QueueSettings(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a queue's owner may choose."""

    visibility_timeout: _Visibility = 30
    delay: _Delay = 0
    ttl: _Ttl | None = None
    retention: _Retention | None = None
    max_messages: _MaxMessages | None = None
    max_bytes: _MaxBytes | None = None
    overflow: Literal["reject", "drop_oldest"] = "reject"
    max_message_bytes: _MaxMessageBytes = 1_048_576
    dead_letter: DeadLetter | None = None
    dedup_window: _DedupWindow = 300
    dedup_scope: _DedupScope = "queue"
    content_dedup: _ContentDedup = False
    fifo: _Fifo = False
    max_in_flight: _MaxInFlight | None = None
    receive_wait: _ReceiveWait = 0
    paused: bool = False


class SettingsChange(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Some of a queue's settings; those that are UNSET stay as they are."""

    visibility_timeout: _Visibility | UnsetType = UNSET
    delay: _Delay | UnsetType = UNSET
    ttl: _Ttl | UnsetType | None = UNSET
    retention: _Retention | UnsetType | None = UNSET
    max_messages: _MaxMessages | UnsetType | None = UNSET
    max_bytes: _MaxBytes | UnsetType | None = UNSET
    overflow: Literal["reject", "drop_oldest"] | UnsetType = UNSET
    max_message_bytes: _MaxMessageBytes | UnsetType = UNSET
    dead_letter: DeadLetter | UnsetType | None = UNSET
    dedup_window: _DedupWindow | UnsetType = UNSET
    dedup_scope: _DedupScope | UnsetType = UNSET
    content_dedup: _ContentDedup | UnsetType = UNSET
    max_in_flight: _MaxInFlight | UnsetType | None = UNSET
    receive_wait: _ReceiveWait | UnsetType = UNSET
    paused: bool | UnsetType = UNSET


# --- messages -------------------------------------------------------------


TEXT = ""
"""The `media_type` of content that is text in UTF-8 and stands for a JSON string."""


def is_media_type(text: str) -> bool:
    """Whether it can be kept with content, for it becomes a header when that is received."""
    return len(text) <= MAX_TYPE_LENGTH and text.isascii() and text.isprintable()


class Attribute(Struct, frozen=True, array_like=True):
    """What SQS calls a message attribute, of another type than String: those are `headers`. Binary values are bytes."""

    type: str
    value: str | bytes


def _head_size(headers: dict[str, str] | None, attributes: dict[str, Attribute] | None) -> int:
    """Bytes of names, types and values as SQS counts them, to which a header is an attribute of the type String."""
    size = 0
    for name, text in (headers or {}).items():
        size += len(name.encode()) + len("String") + len(text.encode())
    for name, attribute in (attributes or {}).items():
        value = attribute.value
        size += len(name.encode()) + len(attribute.type.encode())
        size += len(value) if isinstance(value, bytes) else len(value.encode())
    return size


class Draft(Struct, frozen=True):
    """A message that is not sent yet. Without a `media_type` the content is JSON text in UTF-8; see also `TEXT`.

    What is None is taken from the queue's settings: `delay_ms` and `ttl_ms`. `notes` are a protocol's, for its clients.
    """

    content: bytes
    media_type: str | None = None
    delay_ms: int | None = None
    ttl_ms: int | None = None
    priority: int = 0
    group: str | None = None
    dedup_id: str | None = None
    headers: dict[str, str] | None = None
    attributes: dict[str, Attribute] | None = None
    notes: dict[str, str] | None = None

    @property
    def size(self) -> int:
        """Bytes of content, headers and attributes."""
        size = len(self.content)
        return size + _head_size(self.headers, self.attributes) if self.headers or self.attributes else size


class DeadLetterOrigin(Struct, frozen=True):
    """How a message got into a dead-letter queue: from where, why, and after how many receives."""

    source: str
    reason: str
    receive_count: int


class Message(Struct, frozen=True):
    """A message as it is handed out: `content` is byte for byte what was sent.

    `attempt` counts its leases and is never shown. `uuid` is its identity over all queues, where it was asked for; it
    keeps it when it is dead-lettered. `state` is where it is when it was looked at, and None when it was received.
    `receipt` and `visible_at_ms` come with a lease; `visible_at_ms` also with a message that is delayed. `ahead_ms`
    and `receives_before` are what `codec` says of them.
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
    dedup_id: str | None = None
    attributes: dict[str, Attribute] | None = None
    notes: dict[str, str] | None = None
    first_received_at_ms: int | None = None
    uuid: bytes | None = None
    ahead_ms: int = 0
    receives_before: int = 0

    @property
    def size(self) -> int:
        """Bytes of content, headers and attributes."""
        size = len(self.content)
        return size + _head_size(self.headers, self.attributes) if self.headers or self.attributes else size


class Sent(Struct, frozen=True):
    """The id of each message of a send. `duplicates`: places in `ids` where an earlier message's id stands.

    `uuid_prefix`: what their uuids begin with, where it was asked for; the other 7 bytes are the id. `refused`: of a
    send of each for itself, what was wrong with those whose place in `ids` is 0.
    """

    ids: tuple[int, ...]
    duplicates: tuple[int, ...] = ()
    uuid_prefix: bytes = b""
    refused: tuple[tuple[int, TqError], ...] = ()


class Received(Struct, frozen=True):
    """Messages that a receive took out of one queue. `quarantined`: ids found damaged on the way and set aside.

    `is_cut_short`: so many were damaged, expired or dead-lettered, or others of its group were given so much, that it
    stopped; behind them there may be more.
    `wait_ms`: how long the queue wants a receive to wait that leaves it to the queue. `ready_at_ms`: when there will be
    a message in a FIFO queue that holds back what is too young. `is_full`: in a queue no more could be leased.
    """

    messages: tuple[Message, ...] = ()
    queue: str = ""
    quarantined: tuple[int, ...] = ()
    is_cut_short: bool = False
    wait_ms: int = 0
    ready_at_ms: int | None = None
    is_full: bool = False


class MessagePage(Struct, frozen=True):
    """`next` is what to ask for `after`, or None at the end."""

    messages: tuple[Message, ...]
    next: str | None


# --- queues -------------------------------------------------------------


class Counters(Struct, frozen=True, gc=False):
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


# Those of them that count messages which are not in the queue any more.
ENDS = frozenset(("acked", "expired", "dead_lettered", "redriven", "purged", "dropped", "cancelled", "quarantined"))


class Counts(Struct, frozen=True, gc=False):
    """How many messages there are now, by state."""

    ready: int = 0
    in_flight: int = 0
    delayed: int = 0
    blocked: int = 0


class QueueInfo(Struct, frozen=True):
    """`held_back`: how many of the ready and blocked messages of a FIFO queue its delay does not let out yet."""

    name: str
    settings: QueueSettings
    created_at_ms: int
    messages: Counts
    bytes: int
    oldest_message_age_ms: int | None
    counters: Counters
    notes: dict[str, str] = {}
    held_back: int = 0


class QueuePage(Struct, frozen=True):
    """`next` is the name to ask for `after`, or None at the end."""

    queues: tuple[QueueInfo, ...]
    next: str | None


class Created(Struct, frozen=True):
    info: QueueInfo
    is_new: bool


class Totals(Struct, frozen=True):
    """`after` is the queue from behind which to go on; empty when all were counted."""

    queues: int
    messages: Counts
    after: str = ""


class Figures(Struct, frozen=True, gc=False):
    """The numbers of a queue at one moment. The age is that of the oldest message that is ready."""

    name: str
    created_at_ms: int
    messages: Counts
    bytes: int
    oldest_message_age_ms: int | None
    counters: Counters


class FiguresPage(Struct, frozen=True):
    """`after` is the queue from behind which to go on; empty when there are no more."""

    figures: tuple[Figures, ...]
    after: str = ""


class QueueHistory(Struct, frozen=True):
    """What is known of a queue's last hour, oldest first: how long ago, and the columns of `tq.history` then."""

    name: str
    ages_ms: tuple[int, ...]
    columns: dict[str, tuple[int, ...]]


class RecentHistory(Struct, frozen=True):
    """Likewise in short, for several queues by name. All end together; who came later has fewer numbers."""

    ages_ms: tuple[int, ...]
    queues: dict[str, dict[str, tuple[int, ...]]]


class Sources(Struct, frozen=True):
    """`after` is the queue from behind which to go on looking; empty when there are no more, or enough were found."""

    names: tuple[str, ...]
    after: str = ""


class StorageInfo(Struct, frozen=True):
    """The storage behind the server. `available_bytes` is what sends may still fill; None when nothing bounds it.

    `reserve_bytes` are kept for receiving.
    """

    engine: str
    path: str
    file_bytes: int
    used_bytes: int
    available_bytes: int | None
    reserve_bytes: int = 0


class Status(Struct, frozen=True):
    version: str
    uptime_ms: int
    totals: Totals
    storage: StorageInfo
