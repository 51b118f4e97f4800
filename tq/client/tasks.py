"""Consuming with tasks of asyncio: one leases ahead, one tells the server what is to become of messages."""

from __future__ import annotations

import asyncio
import math
import weakref
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING

from tq.client.connecting import Line
from tq.client.leases import LOG, Bell, Leases
from tq.client.messages import Message
from tq.client.retrying import Tries
from tq.client.tracing import Work
from tq.errors import TqError

if TYPE_CHECKING:
    from tq.client.aio import AsyncClient


class Stopped(Exception):
    """It is not to be tried again."""


class Tasks:
    """What works for a consumer. It knows nothing of the `AsyncMessages` of the user, which may be forgotten."""

    def __init__(self, client: AsyncClient, leases: Leases) -> None:
        self.leases = leases
        self.tracing = client._tracing
        self.left: list[Work] = []  # what loops have left in the middle of it
        self._client = client
        self._line = Line()
        self._workers: deque[asyncio.Future[None]] = deque()
        self._bells = {"poller": asyncio.Event(), "keeper": asyncio.Event()}
        leases.ring = self._ring

    def start(self) -> None:
        self._client._consumers.add(self.leases)
        self._loop = asyncio.get_running_loop()
        self._poller = self._loop.create_task(self._poll(), name="tq-poller")
        self._keeper = self._loop.create_task(self._keep(), name="tq-keeper")

    def _ring(self, bell: Bell, count: int) -> None:
        if bell != "workers":
            self._bells[bell].set()
            return
        while self._workers and count:
            waiting = self._workers.popleft()
            if not waiting.done():
                waiting.set_result(None)
                count -= 1

    async def next(self) -> Message | None:
        """Waits for a message; None when it was stopped."""
        leases = self.leases
        message = leases.take()
        if message or leases.is_stopping:
            return message
        leases.hunger(1)
        try:
            while not (message := leases.take()) and not leases.is_stopping:
                woken = self._loop.create_future()
                self._workers.append(woken)
                try:
                    await woken
                except asyncio.CancelledError:
                    if woken.done() and not woken.cancelled():
                        self._ring("workers", 1)  # another one may have what this one was woken for
                    raise
            return message
        finally:
            leases.hunger(-1)

    def end_left(self, error: BaseException | None) -> None:
        while self.left:
            self.left.pop().end(error)

    def stop(self) -> None:
        self.leases.stop()
        self._line.hang_up()

    async def close(self) -> None:
        """Give back what was not handled, and wait until the server knows all. Raises as `Leases.settle_up`."""
        self.end_left(None)
        self.leases.give_all_back()
        self._line.hang_up()
        try:
            await asyncio.wait([self._poller], timeout=self._client._place.timeout_s)
            self.leases.close()
            await asyncio.wait([self._keeper])
        finally:
            self._client._consumers.discard(self.leases)
            self._poller.cancel()
            self._keeper.cancel()
        self.leases.settle_up()

    def abandon(self) -> None:
        """Whoever held it has forgotten it."""
        if self._loop.is_running():
            self._loop.call_soon_threadsafe(lambda: self._loop.create_task(self._close_abandoned()))

    async def _close_abandoned(self) -> None:
        try:
            await self.close()
        except Exception:
            LOG.exception("a consumer that was not closed could not tell the server all")

    # --- the tasks -------------------------------------------------------------------

    async def _poll(self) -> None:
        leases = self.leases
        transport = self._client._new_transport()
        ask = partial(self._client._ask_on, transport, pause=self._pause_poll, trace=self._line.async_trace)
        try:
            while room := await self._wait_for_room():
                poll = self._client._receive(leases.queues, room, leases.wait_s, leases.visibility_s, True)
                leases.add(await self._client._run(poll, ask))
        except Stopped:
            pass
        except Exception as error:
            leases.stop(error)
        finally:
            self._line.drop()
            await transport.aclose()

    async def _wait_for_room(self) -> int:
        """0 when it was stopped."""
        bell = self._bells["poller"]
        while not self.leases.is_stopping:
            bell.clear()
            if room := self.leases.room():
                return room
            await bell.wait()
        return 0

    async def _pause_poll(self, tries: Tries) -> None:
        self._line.drop()
        if tries.count == 1 and not self.leases.is_stopping:
            LOG.warning("no messages can be leased at the moment: %s", tries.why)
        over_s = monotonic() + tries.pause_s
        bell = self._bells["poller"]
        while not self.leases.is_stopping and (left_s := over_s - monotonic()) > 0:
            bell.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), left_s)
        if self.leases.is_stopping:
            raise Stopped

    async def _keep(self) -> None:
        leases = self.leases
        transport = self._client._new_transport()
        ask = partial(self._client._ask_on, transport, pause=self._pause_round)
        try:
            while await self._wait_for_round():
                await self._client._run(leases.round(), ask)
        except Stopped:
            pass
        except Exception as error:
            leases.stop(error)
            self._line.hang_up()
        finally:
            await transport.aclose()

    async def _wait_for_round(self) -> bool:
        """False when all is told."""
        bell = self._bells["keeper"]
        while due_s := self.leases.due_s():
            if self.leases.is_closing:
                return False
            bell.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), None if due_s == math.inf else due_s)
        return True

    async def _pause_round(self, tries: Tries) -> None:
        """Raises Stopped when time is over before it is, also where that is said meanwhile."""
        until_s = monotonic() + tries.pause_s
        if tries.count == 1:
            LOG.warning("leases can be neither extended nor ended at the moment: %s", tries.why)
        bell = self._bells["keeper"]
        while (left_s := min(until_s, self.leases.over_s) - monotonic()) > 0:
            bell.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(bell.wait(), left_s)
        if self.leases.over_s < until_s:
            raise Stopped


class AsyncMessages:
    """The messages of `AsyncClient.consume`, each of which is acknowledged when the next one is asked for.

    Several tasks may iterate over it at a time; each has a message in hand. Leaving the `async with` gives back what
    was not handled.
    """

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._finalizer: weakref.finalize[[], AsyncMessages] | None = None

    def _start(self) -> None:
        if not self._finalizer:
            self._finalizer = weakref.finalize(self, self._tasks.abandon)
            self._finalizer.atexit = False  # no event loop runs any more
            self._tasks.start()

    async def __aenter__(self) -> AsyncMessages:
        self._start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._tasks.end_left(error)
        if self._finalizer and self._finalizer.detach():
            try:
                await self._tasks.close()
            except TqError as unknown:
                if not kind:
                    raise
                LOG.warning("%s", unknown)

    async def close(self) -> None:
        """What leaving the `async with` does."""
        await self.__aexit__(None, None, None)

    def __aiter__(self) -> AsyncIterator[Message]:
        self._start()
        return Worker(self, self._tasks)

    def stop(self) -> None:
        """Have each loop end when the message in its hand is handled. For the thread of the event loop."""
        self._tasks.stop()

    def is_lost(self, message: Message) -> bool:
        """Whether the lease of a message in hand is over, so that another consumer may have it."""
        return self._tasks.leases.is_lost(message)


class Worker:
    """One loop over messages. It keeps `AsyncMessages` alive, which is closed when both are forgotten."""

    def __init__(self, messages: AsyncMessages, tasks: Tasks) -> None:
        self._messages = messages
        self._tasks = tasks
        self._in_hand: Message | None = None
        self._work: Work | None = None

    def __aiter__(self) -> Worker:
        return self

    async def __anext__(self) -> Message:
        if self._in_hand:
            self._tasks.leases.handled(self._in_hand)
            self._in_hand = None
            if self._work:
                self._work.end()
        self._in_hand = await self._tasks.next()
        if not self._in_hand:
            raise StopAsyncIteration
        if tracing := self._tasks.tracing:
            self._work = tracing.begin(self._in_hand)
        return self._in_hand

    def __del__(self) -> None:
        if self._in_hand:
            self._tasks.leases.give_back(self._in_hand)
            if self._work:
                self._work.leave()
                self._tasks.left.append(self._work)
