"""What a consumer holds: messages that it has leased ahead, those in hand, and what is to be told of them.

Each message that was leased is waiting, then in hand, until there is a wish what becomes of it: an acknowledgement or a
release. A `round` tells the server all wishes in one request, and extends, in the same one, the leases of what it
holds when half of their time is over. What was settled by other means is let go of.

Nothing here waits or does I/O. Threads share it, each method takes the lock; `ring` wakes whoever waits for a change.
"""

from __future__ import annotations

import json
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from time import monotonic
from typing import Literal

from tq.client.calls import FREELY, Call, Steps, ask, queue_path
from tq.client.errors import OutcomeUnknown, by_code
from tq.client.messages import Message
from tq.client.settling import DONE, MAX_AT_ONCE, Kind, judged, rows_of
from tq.errors import TqError

LOG = logging.getLogger("tq.client")
MAX_UNTOLD = 1_000  # wishes that wait: beyond that nothing more is leased

Bell = Literal["workers", "poller", "keeper"]


class Held:
    """A message that is leased. `is_let_go`: somebody else is just settling it."""

    __slots__ = ("is_in_hand", "is_let_go", "is_lost", "is_waiting", "message", "until_s", "wish")

    def __init__(self, message: Message) -> None:
        self.message = message
        self.until_s = message.leased_until_s
        self.is_waiting = False
        self.is_in_hand = False
        self.is_lost = False
        self.is_let_go = False
        self.wish: Kind | None = None

    @property
    def is_kept(self) -> bool:
        """Its lease is to last."""
        return not (self.wish or self.is_let_go or self.is_lost)

    @property
    def group(self) -> tuple[str, str] | None:
        return (self.message.queue, self.message.group) if self.message.group else None


class Leases:
    def __init__(
        self, queues: str | Sequence[str], visibility_timeout: float, prefetch: int, wait: float, retry_s: float
    ) -> None:
        if not visibility_timeout > 0:
            raise ValueError("A consumer leases for some time.")
        if not 0 <= prefetch <= MAX_AT_ONCE:
            raise ValueError(f"`prefetch` is 0 to {MAX_AT_ONCE}.")
        self.queues = queues
        self.visibility_s, self.wait_s, self.retry_s = visibility_timeout, wait, retry_s
        self.lock = threading.RLock()  # a signal handler may come in between
        self.ring: Callable[[Bell, int], None] = lambda bell, count: None
        self.error: BaseException | None = None
        self._is_raised = False
        self.is_stopping = False
        self.is_closing = False  # nothing more is leased: when all wishes are told it is over
        self.over_s = math.inf  # when to stop trying to tell them
        self._prefetch = prefetch
        self._hungry = 0
        self._held: dict[str, Held] = {}
        self._waiting: deque[Held] = deque()
        self._wishes: deque[Held] = deque()
        self._busy: set[tuple[str, str]] = set()
        self._extend_s = math.inf

    # --- for the poller -------------------------------------------------------------------

    def room(self) -> int:
        """How many messages to lease now. Few are not worth a request, as long as some wait."""
        with self.lock:
            wanted = self._prefetch + self._hungry
            room = wanted - len(self._waiting)
            if len(self._wishes) >= MAX_UNTOLD or (self._waiting and 2 * room < wanted):
                return 0
            return max(0, min(room, MAX_AT_ONCE))

    def add(self, messages: Iterable[Message]) -> None:
        with self.lock:
            count = 0
            for message in messages:
                assert message.receipt
                held = self._held[message.receipt] = Held(message)
                if self.is_stopping:
                    self._wish(held, "releases")
                    continue
                held.is_waiting = True
                self._waiting.append(held)
                self._extend_s = min(self._extend_s, held.until_s - self.visibility_s / 2)
                count += 1
            self.ring("workers", count)
            self.ring("keeper", 1)

    # --- for those who handle messages -------------------------------------------------------------------

    def take(self) -> Message | None:
        """The next message, if there is one that may be handled now. Raises what has ended the consumer."""
        with self.lock:
            if self.error:
                self._is_raised = True
                raise self.error
            for held in tuple(self._waiting):
                if held.until_s <= monotonic():
                    self._lose(held, "its lease ended before it was handled")
                elif held.group not in self._busy:
                    self._waiting.remove(held)
                    held.is_waiting, held.is_in_hand = False, True
                    if held.group:
                        self._busy.add(held.group)
                    if self.room():
                        self.ring("poller", 1)
                    return held.message
            return None

    def hunger(self, by: int) -> None:
        """So many more, or fewer, wait for a message."""
        with self.lock:
            self._hungry += by
            self.ring("poller", 1)

    def handled(self, message: Message) -> None:
        self._settle(message, "receipts")

    def give_back(self, message: Message) -> None:
        self._settle(message, "releases")

    def _settle(self, message: Message, wish: Kind) -> None:
        with self.lock:
            held = self._held.get(message.receipt or "")
            if held and held.is_lost:
                self._drop(held)
            elif held and not held.wish:
                self._wish(held, wish)

    def is_lost(self, message: Message) -> bool:
        with self.lock:
            held = self._held.get(message.receipt or "")
            return held is not None and (held.is_lost or held.until_s <= monotonic())

    # --- what others settle -------------------------------------------------------------------

    def let_go(self, messages: Iterable[Message]) -> None:
        self._mark(messages, True)

    def keep(self, messages: Iterable[Message]) -> None:
        """It was not settled after all."""
        self._mark(messages, False)

    def _mark(self, messages: Iterable[Message], is_let_go: bool) -> None:
        with self.lock:
            for message in messages:
                if held := self._held.get(message.receipt or ""):
                    held.is_let_go = is_let_go
                    if held.wish:
                        self._wishes.append(held)
            self._plan_extension()
            self.ring("keeper", 1)

    def forget(self, messages: Iterable[Message], is_back: bool) -> None:
        """It was settled. One that went back comes again before those of its group that wait here: so must they."""
        with self.lock:
            for message in messages:
                held = self._held.get(message.receipt or "")
                if not held:
                    continue
                self._drop(held)
                for other in tuple(self._waiting):
                    if is_back and held.group and other.group == held.group:
                        self._wish(other, "releases")

    # --- ends -------------------------------------------------------------------

    def stop(self, error: BaseException | None = None) -> None:
        """Lease nothing more, and give back what waits."""
        with self.lock:
            self.error = self.error or error
            self.is_stopping = True
            for held in tuple(self._waiting):
                self._wish(held, "releases")
            for bell in ("workers", "poller", "keeper"):
                self.ring(bell, MAX_AT_ONCE)

    def give_all_back(self) -> None:
        """What is still in hand too."""
        with self.lock:
            self.stop()
            self.over_s = monotonic() + self.retry_s
            for held in tuple(self._held.values()):
                self._settle(held.message, "releases")

    def close(self) -> None:
        """No poll can bring anything more."""
        with self.lock:
            self.is_closing = True
            self.ring("keeper", 1)

    def settle_up(self) -> None:
        """Raises OutcomeUnknown where an acknowledgement was not answered, and what else nobody was told."""
        with self.lock:
            untold = [held.message for held in self._held.values() if held.wish == "receipts"]
        if untold:
            ids = ", ".join(str(message.id) for message in untold)
            raise OutcomeUnknown(f"Messages were handled, but may be received again: {ids}") from self.error
        if self.error and not self._is_raised:
            raise self.error

    # --- for the keeper -------------------------------------------------------------------

    def due_s(self) -> float:
        """In how many seconds a round is to be made."""
        with self.lock:
            return 0 if self._wishes else max(0, self._extend_s - monotonic())

    def round(self) -> Steps[None]:
        """Tell the server what is to become of messages, and have it extend what lasts no longer than half its time."""
        for queue, jobs in self._jobs().items():
            body: dict[str, list[object]] = {}
            for held, kind in jobs:
                receipt = held.message.receipt
                said = {"visibility_timeout": self.visibility_s} if kind == "extends" else {}
                body.setdefault(kind, []).append(receipt if kind == "receipts" else {"receipt": receipt, **said})
            call = Call("POST", queue_path(queue, "acks"), json.dumps(body).encode(), repeat_s=FREELY)
            try:
                answer = yield from ask(call)
                rows = rows_of(answer.content, len(jobs))
            except TqError as refusal:
                self._refused(jobs, refusal)
                continue
            with self.lock:
                for (held, kind), row in zip(jobs, rows, strict=True):
                    is_done = row.status == DONE[kind]
                    error = None if is_done else judged(kind, by_code(row.status), answer.is_repeated, held.until_s)
                    self._told(held, kind, error, answer.asked_s)
        with self.lock:
            self._plan_extension()
            if self.room():
                self.ring("poller", 1)

    def _refused(self, jobs: list[tuple[Held, Kind]], error: TqError) -> None:
        """This ends the consumer, but the server may still be told of the messages of other queues."""
        with self.lock:
            for held, kind in jobs:
                if kind == "extends" and not held.wish:
                    self._lose(held, str(error))
            self.stop(error)

    def _jobs(self) -> dict[str, list[tuple[Held, Kind]]]:
        """As many as go into a request, for each queue, in the order in which they are answered."""
        with self.lock:
            some: dict[Kind, list[Held]] = {"receipts": [], "releases": [], "extends": []}
            for _ in range(min(len(self._wishes), MAX_AT_ONCE)):
                held = self._wishes.popleft()
                if held.wish and not held.is_let_go:
                    some[held.wish].append(held)
            room = MAX_AT_ONCE - len(some["receipts"]) - len(some["releases"])
            if self._extend_s <= monotonic():
                some["extends"] = self._to_extend()[:room]
            jobs: dict[str, list[tuple[Held, Kind]]] = {}
            for kind, there in some.items():
                for held in there:
                    jobs.setdefault(held.message.queue, []).append((held, kind))
            return jobs

    def _to_extend(self) -> list[Held]:
        """The most urgent first."""
        soon_s = monotonic() + self.visibility_s / 2
        soon = [each for each in self._held.values() if each.is_kept and each.until_s <= soon_s]
        return sorted(soon, key=lambda each: each.until_s)

    def _plan_extension(self) -> None:
        ends_s = [each.until_s for each in self._held.values() if each.is_kept]
        self._extend_s = min(ends_s, default=math.inf) - self.visibility_s / 2

    def _told(self, held: Held, kind: Kind, error: TqError | None, asked_s: float) -> None:
        if self._held.get(held.message.receipt or "") is not held or held.is_let_go:
            return  # settled by others meanwhile
        if kind != "extends":
            self._drop(held)
            if error and kind == "receipts":
                LOG.warning("message %d of %s may be handled again: %s", held.message.id, held.message.queue, error)
        elif error is None:
            held.until_s = asked_s + self.visibility_s
        elif not held.wish:
            self._lose(held, str(error))

    # --- their states -------------------------------------------------------------------

    def _wish(self, held: Held, wish: Kind) -> None:
        held.wish = wish
        self._leave(held)
        self._wishes.append(held)
        self.ring("keeper", 1)

    def _lose(self, held: Held, why: str) -> None:
        LOG.warning("lost the lease of message %d of %s: %s", held.message.id, held.message.queue, why)
        held.is_lost = True
        if held.is_waiting:
            self._drop(held)

    def _drop(self, held: Held) -> None:
        self._leave(held)
        self._held.pop(held.message.receipt or "", None)

    def _leave(self, held: Held) -> None:
        """It waits no longer, and is in nobody's hand."""
        if held.is_waiting:
            self._waiting.remove(held)
        elif held.is_in_hand and held.group:
            self._busy.discard(held.group)
            self.ring("workers", 1)
        held.is_waiting = held.is_in_hand = False
