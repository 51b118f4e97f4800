"""The imperative shell around `lifecycle`: the clock, the writer, and those who wait for a message.

It lives on the event loop. Queries are answered at once from a snapshot, but for those that look at all queues, which
take a turn of the loop for each part of them (`tq.survey`); commands go to the writer, whose results come back to the
loop once for each group. Protocols translate to `submit` and from its result, and know nothing else.

*Waiters.* A receive that finds nothing and may wait is kept here with a deadline, and polls nothing. Each group of
commands ends with a `Tick` that says how many messages became ready and where; as many of the oldest waiters go to
the writer again. One that comes back with empty hands keeps its old place in the line. One that was woken for a message
and does not take it, because its client is gone, another of its queues had one or is gone, wakes the next in its stead;
one that may lease no more, the next that does not lease. One for whose receive the writer has no room keeps its place
too, and is woken again. How many may wait is bounded: one more is refused.

*Work of its own.* What takes long is done in parts, each a command among the others: redrives, moves that go on by
themselves with a rate, and the sweeping of what was purged.

*Clients that are gone.* `submit` returns a ticket, and whoever holds it cancels it when the client is gone. A command
that was not applied yet is dropped then; messages that were received already are given back.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from operator import add
from typing import Any

from msgspec.structs import astuple, replace

from tq import __version__, lifecycle, model
from tq.clock import TimerClock
from tq.errors import InternalError, NotFound, Overloaded, StorageFailed, StorageFull, TqError
from tq.history import History
from tq.metrics import QUERY, Metrics
from tq.settings import Settings
from tq.store import Store
from tq.survey import LOOKED_QUEUES, Look, Sampler, look_in_parts
from tq.waiters import Waiter, Waiters
from tq.writer import Entry, Writer

SWEEP_RECORDS = 1_000  # reclaimed in one commit, about a millisecond of work
REDRIVE_MESSAGES = 500  # moved in one commit
RETRY_S = 1.0  # after which work of the broker's own is tried again when the writer was overloaded
CLOCK_CHECK_S = 1.0  # how often the wall clock is looked at

log = logging.getLogger("tq.broker")


Done = Callable[[Any], None]
"""Called once with a command's result, or with the TqError it failed with."""


class Ticket(Entry):
    """One request on its way. `cancel` it when nobody wants the answer any more."""

    # Most tickets keep these, so they are not set on each.
    number = -1  # says when a receive came that may wait
    waiter: Waiter | None = None  # once it does
    timer: asyncio.TimerHandle | None = None
    deadline = 0.0
    is_watching = False
    has_waited = False
    is_counted = False  # among those who wait
    is_cancelled = False
    is_over = False
    is_submitted = False

    def __init__(self, broker: Broker, command: model.Command, done: Done) -> None:
        self.command = command
        self._broker = broker
        self.done = done

    def cancel(self) -> None:
        if not self.is_over and not self.is_cancelled:
            self.is_cancelled = True
            self._broker.cancelled(self)


class Broker:
    """Serves one store on the running event loop."""

    def __init__(self, store: Store, settings: Settings, clock: TimerClock | None = None) -> None:
        self._store = store
        self._loop = asyncio.get_running_loop()
        self._started_s = time.monotonic()
        self._numbers = count()
        self._max_waiters = settings.max_waiters
        self._waiting = 0  # in line, or woken and on their way
        self._first_to_wait = 0  # of those numbers
        self._waiters = Waiters()
        self.metrics = Metrics()
        self.metrics.gauges["waiters"] = lambda: self._waiting
        self.metrics.gauges["waiters_max"] = lambda: self._max_waiters
        self._is_sweeping = False
        self._is_closing = False
        self.failed = asyncio.Event()
        self.failure: StorageFailed | None = None
        stored = store.read(lambda tx: lifecycle.answer(tx, model.GetClock(), 0))
        self._clock = clock or TimerClock.resumed(stored)
        self._writer: Writer[Ticket] = Writer(
            store,
            self._clock.now_ms,
            self._deliver,
            max_waiting_commands=settings.max_waiting_commands,
            max_waiting_bytes=settings.max_waiting_bytes,
            metrics=self.metrics,
        )
        if self._clock.offset_ms != stored.offset_ms:
            self._set_clock()
        self._loop.call_soon(self._store_clock)  # behind what was due meanwhile
        self._clock_timer = self._loop.call_later(CLOCK_CHECK_S, self._check_clock)
        self.history = History()
        self._sampler = Sampler(self._look, self.history, self._clock.now_ms)
        self._sweep()
        for task in store.read(lambda tx: lifecycle.answer(tx, model.ListMoves(), 0)):
            self._move_on(task)

    def submit(self, request: model.Command | model.Query, done: Done) -> Ticket | Look | None:
        """Run a command or query and call `done` on the loop with its result or its TqError.

        A query, but for those that look at all queues, and a command that cannot even wait, are done before `submit`
        returns. When `done` is called with the result of a command, its effect is on disk. What can be cancelled is
        returned; None for what is done already.
        """
        # By their types, the most frequent first: `isinstance` is slow where it says no of a struct.
        if type(request) is model.Send or type(request) is model.Settle:
            return self._try(Ticket(self, request, done))
        if type(request) is model.Receive:
            ticket = Ticket(self, request, done)
            if request.wait_ms:
                if request.wait_ms > 0:
                    ticket.deadline = self._loop.time() + request.wait_ms / 1000
                ticket.number = next(self._numbers)
            return self._try(ticket)
        if isinstance(request, model.Query):
            if type(request) is model.GetStatus:
                return self._count(done)
            if type(request) is model.ListSources:
                return self._list_sources(request, done)
            began_s = time.perf_counter()
            found = self._look(request)
            self.metrics.seconds[QUERY].add(time.perf_counter() - began_s)
            done(found)
            return None
        if type(request) is model.Redrive:
            return self._submit_redrive(request, done)
        return self._try(Ticket(self, request, done))

    async def call(self, request: model.Command | model.Query) -> Any:
        """Like `submit`, for coroutines: returns the result or raises the TqError."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def settle(result: Any) -> None:
            if not future.done():
                future.set_result(result)

        self.submit(request, settle)
        result = await future
        if isinstance(result, TqError):
            raise result
        return result

    def stop_waiting(self) -> None:
        """Answer all who wait that there is nothing: the server is about to stop."""
        self._is_closing = True
        for name in self._waiters.queues():
            self._wake(name)

    def end_waiting(self) -> None:
        """Answer all who wait now that there is nothing, and give them nothing that comes meanwhile."""
        self._first_to_wait = next(self._numbers)
        for name in self._waiters.queues():
            self._wake(name)

    async def close(self) -> None:
        """Commit what waits, deliver its results and close the store."""
        self.stop_waiting()
        self._clock_timer.cancel()
        self._sampler.stop()
        await self._writer.close()
        self._store.close()

    # --- commands -------------------------------------------------------------

    def _try(self, ticket: Ticket, *, is_owed: bool = False) -> Ticket:
        """Hand a ticket's command to the writer."""
        try:
            self._writer.submit(ticket, is_owed=is_owed)
        except TqError as refusal:
            self._finish(ticket, refusal)
        else:
            ticket.is_submitted = True
        return ticket

    def _try_again(self, ticket: Ticket) -> None:
        """Hand over the receive of one who was woken; without room for it, somebody must be woken again."""
        if ticket.timer:
            ticket.timer.cancel()
            ticket.timer = None
        if ticket.has_waited and ticket.number < self._first_to_wait:
            self._finish(ticket, model.Received())
            return
        try:
            self._writer.submit(ticket)
        except TqError as refusal:
            self._loop.call_later(RETRY_S, self._pass_on, ticket)
            if not isinstance(refusal, Overloaded) or not self._wait(ticket):
                self._finish(ticket, refusal)
        else:
            ticket.is_submitted = True

    def _settle(self, ticket: Ticket, result: Any) -> None:
        """What a ticket's command came to is on disk."""
        command = ticket.command
        ticket.is_submitted = False
        if type(command) is model.Receive:
            if not self._take(ticket, result):
                return
        elif type(command) is model.PurgeQueue or type(command) is model.DeleteQueue:
            self._sweep()
            self._wake(command.name)
        elif type(command) is model.StartMove:
            self._move_on(result)
        self._finish(ticket, result)

    def _settle_failed(self, ticket: Ticket, error: Exception) -> None:
        ticket.is_submitted = False
        if isinstance(error, StorageFailed):
            self._fail(error)
        self._pass_on(ticket)
        self._finish(ticket, error if isinstance(error, TqError) else _internal(error))

    def _take(self, ticket: Ticket, received: model.Received) -> bool:
        """What a receive got; False when it goes on waiting."""
        for message_id in received.quarantined:
            told = {"event": "quarantined", "queue": received.queue, "id": message_id}
            log.error("queue %(queue)s: message %(id)d is damaged and was set aside", told)
        if ticket.is_cancelled:
            self.give_back(received)
        elif not received.messages:
            if received.quarantined or received.is_cut_short:
                self._try_again(ticket)  # it met nothing but what is damaged or expired: behind that there may be more
                return False
            if received.is_full and ticket.waiter:
                # The message that it was woken for may be one for who does not lease.
                for name in ticket.waiter.queues:
                    plain = self._waiters.take_plain(name)
                    if plain:
                        plain.wake()
            if not ticket.deadline:
                ticket.deadline = self._loop.time() + received.wait_ms / 1000
            if self._wait(ticket, received.ready_at_ms):
                return False
        self._pass_on(ticket, "" if ticket.is_watching else received.queue)
        return True

    def _finish(self, ticket: Ticket, result: Any) -> None:
        ticket.is_over = True
        self._uncount(ticket)
        if not ticket.is_cancelled:
            ticket.done(result)

    def _uncount(self, ticket: Ticket) -> None:
        if ticket.is_counted:
            ticket.is_counted = False
            self._waiting -= 1

    def _look(self, query: model.Query) -> Any:
        if isinstance(query, model.GetHealth):
            return self._writer.failure
        if isinstance(query, model.GetMetrics):
            return self._found(lambda: (self.metrics, self._store.info(), self.history.latest))
        if isinstance(query, model.ListHistory):
            return self.history.recent(query.prefix, query.limit, self._clock.now_ms())
        if isinstance(query, model.GetHistory):
            info = self._look(model.GetQueue(query.queue))
            if not isinstance(info, model.QueueInfo):
                return info
            return self.history.of(info.name, info.created_at_ms, self._clock.now_ms())
        return self._found(lambda: self._store.read(lambda tx: lifecycle.answer(tx, query, self._clock.now_ms())))

    def _found(self, look: Callable[[], Any]) -> Any:
        """What `look` finds, or the TqError that it fails with."""
        try:
            return look()
        except StorageFailed as failure:
            self._fail(failure)
            return failure
        except TqError as refusal:
            return refusal
        except Exception as error:
            return _internal(error)

    def _fail(self, failure: StorageFailed) -> None:
        """The storage is of no use any more, and the server must end."""
        self.failure = self.failure or failure
        self.failed.set()

    def _list_sources(self, query: model.ListSources, done: Done) -> Look:
        names: list[str] = []

        def follow(part: model.Sources) -> model.Query | None:
            names.extend(part.names)
            left = query.limit - len(names)
            return replace(query, after=part.after, limit=left, looked=LOOKED_QUEUES) if part.after else None

        first = replace(query, looked=LOOKED_QUEUES)
        return look_in_parts(self._look, first, follow, lambda error: done(error or model.Sources(tuple(names))))

    def _count(self, done: Done) -> Look:
        counted = model.Totals(0, model.Counts())

        def follow(part: model.Totals) -> model.Query | None:
            nonlocal counted
            sums = map(add, astuple(counted.messages), astuple(part.messages))
            counted = model.Totals(counted.queues + part.queues, model.Counts(*sums))
            return model.GetTotals(part.after, LOOKED_QUEUES) if part.after else None

        first = model.GetTotals("", LOOKED_QUEUES)
        return look_in_parts(self._look, first, follow, lambda error: done(error or self._status(counted)))

    def _status(self, totals: model.Totals) -> model.Status | TqError:
        storage = self._found(self._store.info)
        if isinstance(storage, TqError):
            return storage
        uptime_ms = int((time.monotonic() - self._started_s) * 1000)
        return model.Status(version=__version__, uptime_ms=uptime_ms, totals=totals, storage=storage)

    def _deliver(self, tickets: Sequence[Ticket], results: Sequence[Any], ticked: Any) -> None:
        """What became of a group of commands."""
        is_torn = not isinstance(ticked, model.Ticked)
        for ticket, result in zip(tickets, results, strict=True):
            try:
                if isinstance(result, Exception):
                    is_torn |= not isinstance(result, TqError)
                    self._settle_failed(ticket, result)
                else:
                    self._settle(ticket, result)
            except Exception:
                log.exception("a result could not be delivered")
        if is_torn:
            # The group was run one by one, and its last Tick has not seen what the others brought.
            for name in self._waiters.queues():
                self._wake(name)
        else:
            for name, arrived in ticked.arrivals.items():
                self._wake(name, arrived)

    # --- those who wait -------------------------------------------------------------

    def _wait(self, ticket: Ticket, ready_at_ms: int | None = None) -> bool:
        """Keep a receive that found nothing until there is something; False when its time is over.

        Where too many wait already, it is refused.
        `ready_at_ms` is when there will be something that no commit tells of. One of those who wait watches for it, and
        wakes the next when it is done.
        """
        left_s = ticket.deadline - self._loop.time()
        if ticket.number < self._first_to_wait or left_s <= 0 or self._is_closing:
            return False
        if ticket.waiter is None:
            if self._waiting >= self._max_waiters:
                self.metrics.refused["waiters"] += 1
                self._finish(ticket, Overloaded(f"{self._waiting:,} receives wait for a message; try again."))
                return True
            self._waiting += 1
            ticket.is_counted = True
            assert isinstance(ticket.command, model.Receive)
            is_leasing = ticket.command.visibility_ms is not None
            wake = partial(self._try_again, ticket)
            ticket.waiter = Waiter(ticket.number, ticket.command.queues, is_leasing, wake)
        ticket.is_watching = ready_at_ms is not None
        if ready_at_ms is not None:
            left_s = min(left_s, max(0, ready_at_ms - self._clock.now_ms()) / 1000)
        self._waiters.add(ticket.waiter)
        ticket.has_waited = True
        ticket.timer = self._loop.call_later(left_s, self._stop_waiting, ticket)
        return True

    def _stop_waiting(self, ticket: Ticket) -> None:
        ticket.timer = None
        if ticket.waiter:
            self._waiters.remove(ticket.waiter)
        if self._loop.time() < ticket.deadline:
            self._try_again(ticket)
        else:
            self._finish(ticket, model.Received())
            if ticket.is_watching:
                self._pass_on(ticket)

    def _wake(self, queue: str, most: int | None = None) -> None:
        for waiter in self._waiters.take(queue, most):
            waiter.wake()

    def cancelled(self, ticket: Ticket) -> None:
        """A ticket's client is gone."""
        self._uncount(ticket)
        if ticket.timer:
            ticket.timer.cancel()
            ticket.timer = None
        if ticket.waiter:
            self._waiters.remove(ticket.waiter)
        is_on_its_way = ticket.is_submitted and isinstance(ticket.command, model.Receive)
        if is_on_its_way:
            ticket.is_dropped = True
        if is_on_its_way or ticket.is_watching:
            self._pass_on(ticket)

    def _pass_on(self, ticket: Ticket, queue: str = "") -> None:
        """Wake the next for what a ticket may have been woken for and did not take; it took from `queue`."""
        if ticket.waiter:
            for name in ticket.waiter.queues:
                if name != queue:
                    self._wake(name, 1)

    def give_back(self, received: model.Received) -> None:
        """Undo a receive whose answer cannot be delivered."""
        if received.messages:
            command = model.Unreceive(received.queue, received.messages)
            self._try(Ticket(self, command, _report("giving messages back")), is_owed=True)

    # --- work of its own -------------------------------------------------------------

    def _submit_redrive(self, command: model.Redrive, done: Done) -> Ticket:
        """Move in slices, so that many messages do not hold up a group; the result is the sum."""
        moved = 0

        def slice_done(result: Any) -> None:
            nonlocal moved
            if isinstance(result, TqError):
                done(result)
                return
            moved += result.moved
            left = command.limit - moved
            if not result.after or left <= 0:
                done(replace(result, moved=moved))
                return
            following = replace(command, limit=min(left, REDRIVE_MESSAGES), after=result.after, before=result.before)
            self._try(Ticket(self, following, slice_done))

        return self._try(Ticket(self, replace(command, limit=min(command.limit, REDRIVE_MESSAGES)), slice_done))

    def _move_on(self, task: model.MoveTask) -> None:
        """Carry out the next part of a task, so many messages that they take a tenth of a second by its rate."""
        if self._is_closing or task.status != "running":
            return
        per_second = task.per_second
        limit = REDRIVE_MESSAGES if per_second is None else max(1, min(REDRIVE_MESSAGES, per_second // 10))

        def moved(result: Any) -> None:
            if isinstance(result, Overloaded | InternalError | StorageFull):
                self._loop.call_later(RETRY_S, self._move_on, task)
            elif isinstance(result, model.MoveTask):
                pause_s = (result.moved - task.moved) / per_second if per_second else 0
                self._loop.call_later(pause_s, self._move_on, result)
            elif not isinstance(result, NotFound):
                told = {"event": "move_stopped", "queue": task.queue, "error": str(result)}
                log.error("moving messages out of queue %(queue)s stopped: %(error)s", told)

        self.submit(model.MoveSome(task.queue, task.id, limit), moved)

    def _sweep(self) -> None:
        """Reclaim garbage, one slice a commit, until there is none."""
        if not self._is_sweeping:
            self._is_sweeping = True
            self.submit(model.Sweep(SWEEP_RECORDS), self._swept)

    def _swept(self, result: Any) -> None:
        self._is_sweeping = False
        if result is True:
            self._sweep()
        elif isinstance(result, Exception) and not self._is_closing:
            log.warning("sweeping waits: %s", result)
            self._loop.call_later(RETRY_S, self._sweep)

    def _check_clock(self) -> None:
        if self._clock.follow():
            self._set_clock()
        self._clock_timer = self._loop.call_later(CLOCK_CHECK_S, self._check_clock)

    def _set_clock(self) -> None:
        told = {"event": "clock_jumped", "seconds": self._clock.offset_ms / 1000}
        log.warning("the wall clock has jumped: timers keep real time, now %(seconds)+.1f s ahead of it", told)
        self._store_clock()

    def _store_clock(self) -> None:
        self._try(Ticket(self, self._clock.to_store(), _report("storing the clock")), is_owed=True)


def _report(what: str) -> Done:
    """A `done` for work that nobody waits for."""

    def report(result: Any) -> None:
        if isinstance(result, Exception):
            log.error("%s failed: %s", what, result)

    return report


def _internal(error: Exception) -> InternalError:
    log.error("a request failed", exc_info=error)
    return InternalError()
