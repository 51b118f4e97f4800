"""Messages that are leased for as long as somebody works on them, until a signal comes.

The first signal says that no more are wanted, the second that what is under way ends too.
"""

from __future__ import annotations

import asyncio
import math
import signal
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from tq.cli.output import say
from tq.cli.remote import Place, passes, told
from tq.client import AsyncClient, Message
from tq.errors import TqError

POLL_SECONDS = 20.0  # proxies cut off what is silent for longer

T = TypeVar("T")


class Leases:
    """Messages of one queue. `wait_s` is for how long one is waited for; `inf` outlasts the server's absence too."""

    def __init__(self, place: Place, client: AsyncClient, queue: str, lease_s: float, wait_s: float) -> None:
        self.stop, self.kill = asyncio.Event(), asyncio.Event()
        self._place, self._client, self._queue = place, client, queue
        self._lease_s, self._wait_s = lease_s, wait_s
        self._is_away = False
        for signum in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signum, self._signalled)

    def _signalled(self) -> None:
        (self.kill if self.stop.is_set() else self.stop).set()

    async def next(self, most: int) -> list[Message]:
        """None when there are none, or a signal came."""
        over_s = time.monotonic() + self._wait_s
        while not self.stop.is_set():
            wait_s = min(POLL_SECONDS, max(0.0, over_s - time.monotonic()))
            asking = self._client.receive(self._queue, max=most, wait=wait_s, visibility_timeout=self._lease_s)
            try:
                messages = await self.until_stopped(asking) or []
            except TqError as error:
                self._bear(error)
                continue
            self._is_away = False
            if messages and self.stop.is_set():
                await self.release(messages)
            elif messages or time.monotonic() >= over_s:
                return messages
        return []

    def _bear(self, error: TqError) -> None:
        """What passes is waited for where somebody waits for ever, and said once. Raises it else."""
        if not passes(error) or self._wait_s < math.inf:
            raise error
        if not self._is_away:
            say(f"{told(error, self._place)[0]} It is tried again.")
        self._is_away = True

    async def until_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What it returns; None when a signal came before, and it was cancelled."""
        task = asyncio.ensure_future(work)
        stop = asyncio.ensure_future(self.stop.wait())
        await asyncio.wait({task, stop}, return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            return await task
        return None

    @asynccontextmanager
    async def kept(self, messages: Sequence[Message]) -> AsyncIterator[None]:
        """Their leases are made longer meanwhile."""
        keeping = asyncio.ensure_future(self._keep(messages))
        try:
            yield
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def _keep(self, messages: Sequence[Message]) -> None:
        while messages:
            await asyncio.sleep(self._lease_s / 3)
            with suppress(TqError):  # tried again next time; whoever acknowledges is told if that is too late
                kept = await self._client.extend_many(messages, self._lease_s)
                messages = [each for each in kept if isinstance(each, Message)]

    async def ack(self, messages: Sequence[Message]) -> None:
        """They are handled. It is said of those for which the server will not have it."""
        try:
            errors = await self._client.ack_many(messages)
        except TqError as error:
            errors = [error] * len(messages)
        for message, failure in zip(messages, errors, strict=True):
            if failure:
                say(f"Message {message.id} was handled, but it may come again: {told(failure, self._place)[0]}")

    async def release(self, messages: Sequence[Message], delay_s: float = 0) -> None:
        """They are not handled. Where the server cannot be told they come back when their leases are over."""
        try:
            await self._client.release_many(messages, delay=delay_s)
        except TqError as error:
            say(f"{told(error, self._place)[0]} What was received comes back when its lease is over.")
