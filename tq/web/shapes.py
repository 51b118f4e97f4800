"""The shapes of what goes over the wire: query strings and bodies on the way in, then what the answers show.

The route table names them, requests are decoded with them, answers are encoded from them, and the OpenAPI document is
made of them. One exception: `web.formats` writes a `Message` by hand, to splice its content in as it came.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct, UnsetType

from tq import model

MAX_BATCH = 10_000  # messages in one send, so that one batch does not hold up the others for long
MAX_KEY_LENGTH = 120  # characters of an Idempotency-Key, which becomes a deduplication id

QueueName = Annotated[
    str,
    Meta(
        description="1 to 80 of A-Z a-z 0-9 . _ -, the first a letter or a digit.",
        # Not as a `pattern`, because `lifecycle` checks it and answers with a code of its own.
        extra_json_schema={"pattern": f"^{model.QUEUE_NAME}$"},
    ),
]
Receipt = Annotated[str, Meta(description="What the receive answered as `receipt`.")]
VARIABLES: dict[str, Any] = {
    "queue": QueueName,
    "id": Annotated[str, Meta(description="The `id` of a message, or its `receipt` while it is leased.")],
    "move": Annotated[str, Meta(description="The `id` of a move.")],
}

Limit = Annotated[int, Meta(ge=1, le=model.MAX_PAGE)]
Max = Annotated[int, Meta(ge=1, le=model.MAX_PAGE, description="Messages to take; the answer is then a list.")]
Wait = Annotated[
    float, Meta(ge=0, le=model.MAX_WAIT_S, description="Seconds to wait for a message when there is none.")
]
Visibility = Annotated[
    float,
    Meta(ge=0, le=model.MAX_VISIBILITY_S, description="Seconds that the lease lasts. Without it a receive removes."),
]
Delay = Annotated[float, Meta(ge=0, le=model.MAX_DELAY_S, description="Seconds before it can be received again.")]
Reason = Annotated[str, Meta(min_length=1, max_length=128, description="Why, kept with the message.")]
Parts = Meta(max_length=model.MAX_PARTS)


# --- in: query strings -------------------------------------------------------------


class ListParameters(Struct, frozen=True, forbid_unknown_fields=True):
    prefix: Annotated[str, Meta(description="Only the queues whose names begin with it.")] = ""
    after: Annotated[str, Meta(description="The `next` of the page before.")] = ""
    limit: Limit = 100


class HistoryParameters(Struct, frozen=True, forbid_unknown_fields=True):
    prefix: Annotated[str, Meta(description="Only the queues whose names begin with it.")] = ""
    limit: Limit = 100


class DeleteParameters(Struct, frozen=True, forbid_unknown_fields=True):
    if_empty: Annotated[bool, Meta(description="Refuse when there are messages.")] = False


class ReceiveParameters(Struct, frozen=True, forbid_unknown_fields=True):
    max: Max | UnsetType = UNSET
    visibility_timeout: Visibility | UnsetType = UNSET
    wait: Wait | UnsetType = UNSET
    attempt_id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="A second receive with it, within 5 minutes, gets the same messages while they are leased. "
                "≤ 128 bytes.",
                extra_json_schema={"maxLength": model.MAX_GROUP_BYTES},
            ),
        ]
        | UnsetType
    ) = UNSET


class PeekParameters(Struct, frozen=True, forbid_unknown_fields=True):
    state: Annotated[model.State, Meta(description="Which messages to show.")] = "ready"
    after: Annotated[str, Meta(description="The `next` of the page before.")] = ""
    limit: Limit = 10


# --- in: bodies -------------------------------------------------------------


class Options(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a producer may say of a message beside its content. In a query string for content that is bytes."""

    delay: (
        Annotated[
            float,
            Meta(
                ge=0, le=model.MAX_DELAY_S, description="Seconds before it can be received; else the queue's `delay`."
            ),
        ]
        | UnsetType
    ) = UNSET
    ttl: (
        Annotated[
            float,
            Meta(gt=0, le=model.MAX_DELAY_S, description="Seconds after which it expires; else the queue's `ttl`."),
        ]
        | UnsetType
    ) = UNSET
    priority: Annotated[int, Meta(ge=0, le=model.MAX_PRIORITY, description="0 to 9; 9 is received first.")] = 0
    group: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="Messages of a group are received one at a time, in order. ≤ 128 bytes.",
                extra_json_schema={"maxLength": model.MAX_GROUP_BYTES},
            ),
        ]
        | UnsetType
    ) = UNSET
    dedup_id: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="A second send with it answers with the first one's id. ≤ 128 bytes.",
                extra_json_schema={"maxLength": model.MAX_GROUP_BYTES},
            ),
        ]
        | UnsetType
    ) = UNSET


class Envelope(Options, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a producer says of one message."""

    content: Raw
    headers: (
        Annotated[dict[str, str], Meta(description="Strings that come back with the message, such as `traceparent`.")]
        | UnsetType
    ) = UNSET


Batch = Annotated[list[Envelope], Meta(extra_json_schema={"minItems": 1, "maxItems": MAX_BATCH})]  # `formats` counts
IdempotencyKey = Annotated[
    str,
    Meta(max_length=MAX_KEY_LENGTH, pattern="^[\t -~]*$", description="The `dedup_id` of messages that have none."),
]


class NewQueue(model.QueueSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: QueueName


class PollBody(ReceiveParameters, frozen=True, forbid_unknown_fields=True, kw_only=True):
    queues: Annotated[
        list[QueueName],
        Meta(min_length=1, max_length=model.MAX_POLLED, description="The first of these that has a message gives it."),
    ]


class Change(Struct, frozen=True, forbid_unknown_fields=True):
    """One thing to become of a message."""

    visibility_timeout: Visibility | UnsetType = UNSET
    delay: Delay | UnsetType = UNSET
    dead_letter: Literal[True] | UnsetType = UNSET
    reason: Reason = "rejected"


CHANGES = ("visibility_timeout", "delay", "dead_letter")  # of which a `Change` has exactly one
OneChange = Annotated[Change, Meta(extra_json_schema={"oneOf": [{"required": [name]} for name in CHANGES]})]


class ReleaseItem(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    delay: Delay = 0


class ExtendItem(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    visibility_timeout: Visibility


class RejectItem(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    reason: Reason = "rejected"


class Acks(Struct, frozen=True, forbid_unknown_fields=True):
    receipts: Annotated[list[Receipt], Parts] = []
    releases: Annotated[list[ReleaseItem], Parts] = []
    extends: Annotated[list[ExtendItem], Parts] = []
    rejects: Annotated[list[RejectItem], Parts] = []


class RedriveBody(Struct, frozen=True, forbid_unknown_fields=True):
    to: Annotated[QueueName, Meta(description="Move all to this queue instead of where each came from.")] | None = None
    limit: Annotated[int, Meta(ge=1, le=model.MAX_SEQUENCE, description="Move at most so many.")] = model.MAX_SEQUENCE


class NewMove(Struct, frozen=True, forbid_unknown_fields=True):
    to: Annotated[QueueName, Meta(description="Move all to this queue instead of where each came from.")] | None = None
    per_second: Annotated[int, Meta(ge=1, le=10_000, description="Messages a second, at the most.")] | None = None


class AckPart(Struct, frozen=True, forbid_unknown_fields=True):
    queue: QueueName
    receipt: Receipt


class SendPart(Envelope, frozen=True, forbid_unknown_fields=True, kw_only=True):
    queue: QueueName


class TransactionBody(Struct, frozen=True, forbid_unknown_fields=True):
    ack: Annotated[list[AckPart], Parts] = []
    send: Annotated[list[SendPart], Parts] = []


# --- out -------------------------------------------------------------

Timestamp = Annotated[str, Meta(description="RFC 3339, UTC, milliseconds.", extra_json_schema={"format": "date-time"})]

Queue = msgspec.defstruct(
    "Queue",
    [
        ("name", QueueName),
        *((setting.name, setting.type) for setting in msgspec.structs.fields(model.QueueSettings)),
        ("created_at", Timestamp),
        ("messages", model.Counts),
        ("bytes", Annotated[int, Meta(description="Of content.")]),
        ("oldest_message_age_seconds", float | None),
        ("totals", model.Counters),
    ],
    frozen=True,
    forbid_unknown_fields=True,
)


class QueuePage(Struct, frozen=True, forbid_unknown_fields=True):
    queues: list[Queue]  # type: ignore[valid-type]
    next: Annotated[str | None, Meta(description="The `after` of the next page; null at the end.")]


class Purged(Struct, frozen=True, forbid_unknown_fields=True):
    purged: int


class Sent(Struct, frozen=True, forbid_unknown_fields=True):
    """The answer to a message that was sent alone."""

    id: int
    duplicate: Literal[True] | UnsetType = UNSET


class SentBatch(Struct, frozen=True, forbid_unknown_fields=True):
    ids: tuple[int, ...]
    duplicates: (
        Annotated[tuple[int, ...], Meta(description="The places in `ids` of those that are of earlier messages.")]
        | UnsetType
    ) = UNSET


class Attribute(Struct, frozen=True, forbid_unknown_fields=True):
    """An attribute that came over SQS and is not of the type String: those are headers. Binary values are base64."""

    type: str
    value: str


class Message(Struct, frozen=True, forbid_unknown_fields=True):
    """A message that was received, or looked at."""

    id: int
    content: Any
    sent_at: Timestamp
    receive_count: int
    encoding: Literal["base64", "json"] | UnsetType = UNSET
    content_type: str | UnsetType = UNSET
    queue: QueueName | UnsetType = UNSET
    receipt: Receipt | UnsetType = UNSET
    visible_at: Timestamp | UnsetType = UNSET
    expires_at: Timestamp | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    group: str | UnsetType = UNSET
    headers: dict[str, str] | UnsetType = UNSET
    dedup_id: str | UnsetType = UNSET
    attributes: dict[str, Attribute] | UnsetType = UNSET
    dead_letter: model.DeadLetterOrigin | UnsetType = UNSET
    state: model.State | UnsetType = UNSET


class Messages(Struct, frozen=True, forbid_unknown_fields=True):
    messages: list[Message]


class MessagePage(Messages, frozen=True, forbid_unknown_fields=True):
    next: Annotated[str | None, Meta(description="The `after` of the next page; null at the end.")]


class Changed(Struct, frozen=True, forbid_unknown_fields=True):
    visible_at: Timestamp | UnsetType = UNSET


class Settled(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: str
    status: Annotated[str, Meta(description="acked, released, extended or rejected, or the code of an error.")]
    visible_at: Timestamp | UnsetType = UNSET


class Results(Struct, frozen=True, forbid_unknown_fields=True):
    results: list[Settled]


class Moved(Struct, frozen=True, forbid_unknown_fields=True):
    moved: int


class Move(Struct, frozen=True, forbid_unknown_fields=True):
    """A move of messages: `to_move` is how many there were when it began."""

    id: str
    status: Literal["running", "completed", "cancelled", "failed"]
    to: QueueName | None
    per_second: int | None
    started_at: Timestamp
    moved: int
    to_move: int
    failure: (
        Annotated[
            str, Meta(description="`target_gone`, or `no_source` when some came from nowhere or a queue that is gone.")
        ]
        | UnsetType
    ) = UNSET


class Moves(Struct, frozen=True, forbid_unknown_fields=True):
    moves: list[Move]


SecondsAgo = Annotated[list[float], Meta(description="When each of the numbers was, the oldest first.")]


class Figures(Struct, frozen=True, forbid_unknown_fields=True):
    """Numbers of a queue, one of each for each time. From `sent` on they count what has happened until then."""

    ready: list[int]
    in_flight: list[int]
    delayed: list[int]
    blocked: list[int]
    bytes: list[int]
    oldest_message_age_seconds: list[float | None]
    sent: list[int]
    received: list[int]
    acked: list[int]
    timed_out: list[int]
    dead_lettered: list[int]


class History(Struct, frozen=True, forbid_unknown_fields=True):
    """Empty for a queue that is not among those whose history is kept, or not yet."""

    queue: QueueName
    seconds_ago: SecondsAgo
    figures: Figures


class RecentFigures(Struct, frozen=True, forbid_unknown_fields=True):
    """They end with the last of the times. `messages` in any state, the most since the time before."""

    messages: list[int]
    sent: list[int]
    received: list[int]
    acked: list[int]
    timed_out: list[int]
    dead_lettered: list[int]


class RecentHistory(Struct, frozen=True, forbid_unknown_fields=True):
    seconds_ago: SecondsAgo
    queues: dict[str, RecentFigures]


class Status(Struct, frozen=True, forbid_unknown_fields=True):
    status: Literal["ok"]
    version: str
    uptime_seconds: float
    queues: int
    messages: model.Counts
    storage: model.StorageInfo


class Well(Struct, frozen=True, forbid_unknown_fields=True):
    status: Literal["ok"] = "ok"
