"""The client for asyncio."""

from __future__ import annotations

import asyncio
import math
import ssl
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import httpx

from tq.client import sending
from tq.client.calls import Answer, Awaits, Call, Steps
from tq.client.connecting import IDLE_S, Place
from tq.client.leases import Leases
from tq.client.messages import Message, SentBatch
from tq.client.methods import LEASE_S, Methods
from tq.client.retrying import Tries
from tq.client.tasks import AsyncMessages, Tasks
from tq.client.tracing import tracing
from tq.client.transport import AsyncTransport

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

T = TypeVar("T")


async def _pause(tries: Tries) -> None:
    await asyncio.sleep(tries.pause_s)


class AsyncClient(Methods, Awaits):
    """A client of one server. Tasks of one event loop may share it.

    `url` is `TQ_URL` or http://localhost:8000, and `token` is `TQ_TOKEN`, where they are not given. A request that
    fails is tried again for `retry_seconds`, where that cannot do harm; 0 tries once. `timeout` is how many seconds a
    server may be silent, in a long poll beyond what it was asked to wait. `verify` is a context of `ssl` for servers
    whose certificate is signed by no authority that the system knows. Spans go to `tracer_provider`, or OpenTelemetry's
    own where that is installed.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 10,
        retry_seconds: float = 30,
        max_connections: int = 100,
        verify: ssl.SSLContext | bool = True,
        tracer_provider: TracerProvider | None = None,
    ) -> None:
        super().__init__(retry_seconds)
        self._place = Place(url, token, timeout, verify)
        self._transport = self._new_transport(max_connections)
        self._tracing = tracing(tracer_provider, self._place.host, self._place.port)

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close its connections."""
        await self._transport.aclose()

    def _new_transport(self, connections: int = 1) -> AsyncTransport:
        return AsyncTransport(connections, IDLE_S, self._place.tls)

    async def _run(self, steps: Steps[T], ask: Callable[[Call], Awaitable[Answer]] | None = None) -> T:
        ask = ask or self._ask
        try:
            call = next(steps)
            while True:
                call = steps.send(await ask(call))
        except StopIteration as result:
            return result.value  # type: ignore[no-any-return]

    async def _ask(self, call: Call) -> Answer:
        return await self._ask_on(self._transport, call, _pause, self._retry_s)

    async def _ask_on(
        self,
        transport: AsyncTransport,
        call: Call,
        pause: Callable[[Tries], Awaitable[object]],
        retry_s: float = math.inf,
        **extensions: Any,
    ) -> Answer:
        tries = Tries(call, retry_s, self._place.timeout_s)
        if self._tracing is None or call.about is None:
            return await self._try(transport, call, pause, tries, **extensions)
        with self._tracing.asking(call, call.about) as asking:
            return asking.answered(await self._try(transport, asking.call, pause, tries, **extensions))

    async def _try(
        self,
        transport: AsyncTransport,
        call: Call,
        pause: Callable[[Tries], Awaitable[object]],
        tries: Tries,
        **extensions: Any,
    ) -> Answer:
        while True:
            tries.begin()
            try:
                response = await transport.handle_async_request(self._place.request(call, **extensions))
                content = await response.aread()
            except httpx.TransportError as error:
                tries.failed(error)
            else:
                answer = tries.answered(response.status_code, content, response.headers.get)
                if answer:
                    return answer
            await pause(tries)

    @overload
    async def receive(
        self,
        queue: str | Sequence[str],
        *,
        wait: float = 0,
        visibility_timeout: float = LEASE_S,
        remove: bool = False,
    ) -> Message | None: ...

    @overload
    async def receive(
        self,
        queue: str | Sequence[str],
        *,
        max: int,
        wait: float = 0,
        visibility_timeout: float = LEASE_S,
        remove: bool = False,
    ) -> list[Message]: ...

    async def receive(
        self,
        queue: str | Sequence[str],
        *,
        max: int | None = None,  # noqa: A002
        wait: float = 0,
        visibility_timeout: float = LEASE_S,
        remove: bool = False,
    ) -> Message | list[Message] | None:
        """Lease the next message for `visibility_timeout` seconds, or None where there is none within `wait` seconds.

        With `max` a list of up to so many. Of several queues the first that has any gives them. `remove` takes them
        out of the queue at once instead: what is not handled then is lost.
        """
        found = await self._run(
            self._receive(queue, max, wait, None if remove else visibility_timeout, bool(self._retry_s))
        )
        return found if max is not None else next(iter(found), None)

    async def send_many(
        self,
        queue: str,
        items: Iterable[Any] | AsyncIterable[Any],
        *,
        on_batch: Callable[[SentBatch], object] | None = None,
    ) -> int:
        """Send any number of messages, in batches that are whole or absent: how many.

        An item is a content or an `Envelope`. `on_batch` is called with the ids of each batch that was sent.
        """
        count = 0
        async for batch in _batches(items):
            sent = await self._run(self._send_batch(queue, batch))
            count += batch.count
            if on_batch:
                on_batch(sent)
        return count

    def consume(
        self,
        queue: str | Sequence[str],
        *,
        visibility_timeout: float = LEASE_S,
        prefetch: int = 10,
        wait: float = 20,
    ) -> AsyncMessages:
        """The messages of a queue, or of several, one after the other, for as long as it is not stopped.

        They are leased for `visibility_timeout` seconds, which are extended until they are handled, `prefetch` of them
        ahead. A message is acknowledged when the next one is asked for, and given back when the `with` is left before
        that. `wait` is how long each long poll lasts.
        """
        return AsyncMessages(Tasks(self, Leases(queue, visibility_timeout, prefetch, wait, self._retry_s)))


async def _batches(items: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[sending.Batch]:
    if not isinstance(items, AsyncIterable):
        for batch in sending.batches(items):
            yield batch
        return
    batcher = sending.Batcher()
    async for item in items:
        if full := batcher.add(item):
            yield full
    if last := batcher.take():
        yield last
