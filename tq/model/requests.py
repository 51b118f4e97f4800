"""What may be asked of queues and messages, as data, and what the answers are.

A *command* may change state and is applied by `lifecycle.apply`; a *query* only looks and is answered by
`lifecycle.answer`. Each class says what its result is.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from tq.errors import TqError
from tq.model.nouns import (
    MAX_QUEUES,
    MAX_SEQUENCE,
    MESSAGE_COST_BYTES,
    Draft,
    Message,
    QueueSettings,
    SettingsChange,
    State,
)

# --- commands -------------------------------------------------------------


class Command(Struct, frozen=True):
    """Base of what may change state. `grows`: it takes room."""

    grows: ClassVar[bool] = False

    @property
    def takes_room(self) -> bool:
        """The store refuses it when only the reserve is left."""
        return self.grows

    @property
    def takes_reserve(self) -> bool:
        """It may take some of the reserve, but not the last of it, which is for what gives room back."""
        return False

    def smaller(self) -> Command | None:
        """One that does a part of it, for when there is no room for all at once; None when there is none."""
        return None

    @property
    def cost_bytes(self) -> int:
        """What it takes to hold the command, commit it and hold its result: bounds what waits, and groups."""
        return MESSAGE_COST_BYTES


C = TypeVar("C", bound=Any)


def _halved(command: C) -> C | None:
    """The command with half its `limit`."""
    return replace(command, limit=command.limit // 2) if command.limit > 1 else None


class CreateQueue(Command, frozen=True):
    """Result: `Created`. Raises InvalidQueueName, InvalidRequest (dead letter), QueueExists, TooManyQueues.

    `notes` are texts that a protocol keeps with the queue for its clients.
    """

    name: str
    settings: QueueSettings = QueueSettings()
    notes: dict[str, str] = {}
    grows: ClassVar[bool] = True


class PutQueue(Command, frozen=True):
    """Create the queue or replace its settings. Result: `Created`. Raises as CreateQueue but for QueueExists."""

    name: str
    settings: QueueSettings = QueueSettings()
    grows: ClassVar[bool] = True


class PatchQueue(Command, frozen=True):
    """Change some settings and notes. Result: `QueueInfo`. Raises QueueNotFound, InvalidRequest (dead letter).

    A note that is None goes. Where one of `expected` is something else by now, nothing is done and the result is None.
    """

    name: str
    change: SettingsChange = SettingsChange()
    notes: dict[str, str | None] = {}
    expected: dict[str, str | None] = {}

    @property
    def takes_room(self) -> bool:
        return any(text is not None for text in self.notes.values())

    @property
    def takes_reserve(self) -> bool:
        return True


class DeleteQueue(Command, frozen=True):
    """Result: None. Raises QueueNotFound, QueueNotEmpty, Overloaded."""

    name: str
    if_empty: bool = False


class PurgeQueue(Command, frozen=True):
    """Drop every message that is in the queue, in any state, and forget its deduplication ids.

    Result: how many messages. Raises QueueNotFound, Overloaded.
    """

    name: str


class Send(Command, frozen=True):
    """All drafts or none; with `is_each` each for itself. `with_uuids`: the result says what their uuids begin with.

    Result: `Sent`. Raises QueueNotFound, MessageTooLarge, QueueFull, GroupMissing, DedupIdMissing, NotInFifo.
    """

    queue: str
    drafts: tuple[Draft, ...]
    is_each: bool = False
    with_uuids: bool = False
    grows: ClassVar[bool] = True

    @property
    def cost_bytes(self) -> int:
        size = len(self.drafts) * MESSAGE_COST_BYTES
        for draft in self.drafts:
            size += draft.size
        return size


class Receive(Command, frozen=True):
    """Take the next messages of the first queue that has any.

    Without `visibility_ms` they are removed; with it they are leased for so long, and with -1 for as long as the queue
    says. `wait_ms` is the broker's business: how long to wait for a message when there is none; -1 is what the queue
    says. A lease with an `attempt_id` can be repeated with it for RECEIVE_ATTEMPT_MS: the same messages, leased anew.
    Result: `Received`. Raises QueueNotFound, TooManyInFlight.
    """

    queues: tuple[str, ...]
    limit: int = 1
    visibility_ms: int | None = None
    wait_ms: int = 0
    attempt_id: str | None = None
    with_uuids: bool = False

    @property
    def takes_reserve(self) -> bool:
        return self.visibility_ms is not None  # a lease has an entry among what is due

    def smaller(self) -> Receive | None:
        return _halved(self)

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

    With `is_any` any receipt will do that a message ever had, as in SQS: an `Ack` removes it wherever it is, also if it
    is gone already, and the others need it to be in flight, which none may be for more than 12 hours from its receive
    on. But in a FIFO queue the receipt must be the latest.
    Result: for each action None, or when the message is visible again (ms; `Extend`, `Release`), or the TqError it was
    refused with: MessageNotFound, StaleReceipt, NotAReceipt, LeaseTooLong. Raises QueueNotFound.
    """

    queue: str
    actions: tuple[Action, ...]
    is_any: bool = False

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

    @property
    def takes_reserve(self) -> bool:
        return True

    def smaller(self) -> Redrive | None:
        return _halved(self)


class Redriven(Struct, frozen=True):
    """How many messages were moved. To go on: `after` that key, and only ids below `before`.

    `after` is empty when the end of the queue was reached. `before` is what the first slice found, so that messages
    which come in meanwhile are not moved too, and for ever.
    """

    moved: int
    after: bytes
    before: int


class StartMove(Command, frozen=True):
    """Begin a task that moves messages out of a queue as `Redrive` does, so many a second. The broker carries it out.

    Result: `MoveTask`. Raises QueueNotFound, MoveRunning, InvalidRequest (`to` is the queue itself).
    """

    queue: str
    id: str
    to: str | None = None
    per_second: int | None = None
    grows: ClassVar[bool] = True


class CancelMove(Command, frozen=True):
    """End a task that is running. Result: `MoveTask`. Raises QueueNotFound, MoveNotFound."""

    queue: str
    id: str


class MoveSome(Command, frozen=True):
    """Carry out a part of a task. Result: `MoveTask`. Raises QueueNotFound, MoveNotFound."""

    queue: str
    id: str
    limit: int

    @property
    def takes_reserve(self) -> bool:
        return True

    def smaller(self) -> MoveSome | None:
        return _halved(self)


class MoveTask(Struct, frozen=True):
    """A task that moves messages. `to_move`: how many were there when it began; `failure` says why it failed.

    `after` and `before` are how far it has come, as in `Redriven`; `moved_before` is how many it had moved when it
    began at the front of the queue last.
    """

    id: str
    queue: str
    to: str | None
    per_second: int | None
    started_at_ms: int
    to_move: int
    status: Literal["running", "completed", "cancelled", "failed"] = "running"
    moved: int = 0
    failure: str | None = None
    after: bytes = b""
    before: int = 0
    moved_before: int = 0


class Transaction(Command, frozen=True):
    """All or nothing: acknowledge and send over any number of queues.

    Result: `Sent`. Raises StaleReceipt, and as `Send`; then nothing is done.
    """

    acks: tuple[tuple[str, str], ...] = ()  # queue, receipt
    sends: tuple[tuple[str, Draft], ...] = ()
    grows: ClassVar[bool] = True

    @property
    def cost_bytes(self) -> int:
        parts = len(self.sends) + len(self.acks)
        return sum([draft.size for _, draft in self.sends]) + parts * MESSAGE_COST_BYTES


class Tick(Command, frozen=True):
    """Do what is due: at most `limit` entries of what is over, and as many messages that queues have kept for too long.

    Result: `Ticked`. The broker puts one before and one behind the commands of a group.
    """

    limit: int

    def smaller(self) -> Tick | None:
        return _halved(self)


class Ticked(Struct, frozen=True):
    """When something is due next (ms), and how many messages each queue has that could not be received before."""

    next_due_ms: int | None
    arrivals: dict[str, int]


class Sweep(Command, frozen=True):
    """Reclaim up to `limit` records of purged or deleted queues. Result: whether more are left."""

    limit: int

    def smaller(self) -> Sweep | None:
        return _halved(self)


class Boot(Struct, frozen=True):
    """A start of the machine, and what the timers' clock said then (ms)."""

    id: str
    began_ms: int


class SetClock(Command, frozen=True):
    """Say how far the timers' clock is ahead of the wall clock (ms), and what it counts from. Result: None."""

    offset_ms: int
    boot: Boot | None = None


class LoadedMessage(Struct, frozen=True):
    """A message of a dump, with its history, to be put behind what is in the queue.

    Its times are the wall clock's, and its age counts from `sent_at_ms` + `ahead_ms`. Its deduplication id is known
    until `dedup_until_ms` (0: not any more), with `is_of_group` in its group only. `id`, `state`, `attempt` and
    `receipt` count for nothing.
    """

    queue: str
    message: Message
    dedup_until_ms: int = 0
    is_of_group: bool = False


class LoadedId(Struct, frozen=True):
    """A deduplication id of a dump whose message was gone; with a `group` it is known in that only."""

    queue: str
    dedup_id: str
    until_ms: int
    group: str | None = None


class Load(Command, frozen=True):
    """Carry on loading a dump: all its lines behind `after` up to `upto`, or none. A queue comes alone.

    Result: None, or `Refused`. Raises InvalidRequest where the lines up to `after` are not what was loaded before.
    """

    dump: str
    after: int
    upto: int
    parts: tuple[CreateQueue | LoadedMessage | LoadedId, ...]
    grows: ClassVar[bool] = True


class Refused(Struct, frozen=True):
    """The first part of a `Load` with which something is wrong, so that nothing was done."""

    index: int
    error: TqError


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


class ListSources(Query, frozen=True):
    """Result: `Sources`, the first queues behind `after` whose dead letters go to this one, of so many looked at.

    Raises QueueNotFound.
    """

    queue: str
    after: str = ""
    limit: int = 100
    looked: int = MAX_QUEUES


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


class ListMoves(Query, frozen=True):
    """Result: the latest tasks (tuple of `MoveTask`) of a queue, the last first, or those of all that are running.

    Raises QueueNotFound.
    """

    queue: str | None = None


class GetTotals(Query, frozen=True):
    """Result: `Totals` over the queues behind `after`, of so many."""

    after: str = ""
    looked: int = MAX_QUEUES


class GetFigures(Query, frozen=True):
    """Result: `FiguresPage` over the queues behind `after`, of so many, but for those whose record is damaged."""

    after: str = ""
    looked: int = MAX_QUEUES


class GetLoaded(Query, frozen=True):
    """Result: how many lines of a dump were loaded."""

    dump: str


class GetClock(Query, frozen=True):
    """Result: `Clock`."""


class Clock(Struct, frozen=True):
    """The latest time that was stored (ms), how far the timers' clock is ahead of the wall clock, and its count."""

    latest_ms: int
    offset_ms: int
    boot: Boot | None = None


class GetStatus(Query, frozen=True):
    """Result: `Status`. Answered by the broker."""


class GetHealth(Query, frozen=True):
    """Result: None. Answered by the broker. Raises StorageFailed when the server can no longer write."""


class GetMetrics(Query, frozen=True):
    """Result: `tq.metrics.Metrics`, `StorageInfo`, and the latest `Figures` of all queues. Answered by the broker."""


class GetHistory(Query, frozen=True):
    """Result: `QueueHistory`. Answered by the broker. Raises QueueNotFound."""

    queue: str


class ListHistory(Query, frozen=True):
    """Result: `RecentHistory` of the queues that are kept and begin with `prefix`. Answered by the broker."""

    prefix: str = ""
    limit: int = 100
