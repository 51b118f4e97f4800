"""The imperative shell around `lifecycle`: the clock, the writer, the event loop and the sweeping of garbage.

It lives on the event loop. Queries are answered at once from a snapshot; commands go to the writer, whose results
come back to the loop once for each group. Protocols translate to `submit` and from its result, and know nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from tq import __version__, lifecycle, model
from tq.errors import InternalError, StorageFailed, TqError
from tq.settings import Settings
from tq.store import Store
from tq.writer import Done, Writer

SWEEP_RECORDS = 1_000  # reclaimed in one commit, about a millisecond of work
SWEEP_RETRY_S = 1.0

log = logging.getLogger("tq.broker")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


class Broker:
    """Serves one store on the running event loop."""

    def __init__(self, store: Store, settings: Settings, clock: Callable[[], int] = now_ms) -> None:
        self._store = store
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._started_s = time.monotonic()
        self._is_sweeping = False
        self._is_closing = False
        self.failed = asyncio.Event()
        self._writer = Writer(
            store,
            clock,
            self._deliver,
            max_waiting_commands=settings.max_waiting_commands,
            max_waiting_bytes=settings.max_waiting_bytes,
        )
        self._sweep()

    def submit(self, request: model.Command | model.Query, done: Done) -> None:
        """Run a command or query and call `done` on the loop with its result or its TqError.

        A query, and a command that cannot even wait, is done before `submit` returns. When `done` is called with the
        result of a command, its effect is on disk.
        """
        try:
            if isinstance(request, model.Query):
                result = self._look(request)
            else:
                self._writer.submit(request, lambda result: self._settle(request, result, done))
                return
        except TqError as refusal:
            result = refusal
        except Exception as error:
            result = _internal(error)
        done(result)

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

    async def close(self) -> None:
        """Commit what waits, deliver its results and close the store."""
        self._is_closing = True
        await self._loop.run_in_executor(None, self._writer.close)
        self._store.close()

    def _look(self, query: model.Query) -> Any:
        if isinstance(query, model.GetHealth):
            return self._health()
        if isinstance(query, model.GetStatus):
            return self._status()
        return self._store.read(lambda tx: lifecycle.answer(tx, query, self._clock()))

    def _health(self) -> None:
        if self._writer.failure:
            raise self._writer.failure

    def _status(self) -> model.Status:
        return model.Status(
            version=__version__,
            uptime_ms=int((time.monotonic() - self._started_s) * 1000),
            totals=self._look(model.GetTotals()),
            storage=self._store.info(),
        )

    def _deliver(self, results: list[tuple[Done, Any]]) -> None:
        """On the writer's thread: wake the loop once for the whole group."""
        self._loop.call_soon_threadsafe(_call_all, results)

    def _settle(self, command: model.Command, result: Any, done: Done) -> None:
        if isinstance(result, Exception):
            if isinstance(result, StorageFailed):
                self.failed.set()
            elif not isinstance(result, TqError):
                result = _internal(result)
        elif isinstance(command, model.PurgeQueue | model.DeleteQueue):
            self._sweep()
        elif isinstance(command, model.Receive):
            for message_id in result.quarantined:
                log.error("queue %s: message %d is damaged and was set aside", command.queue, message_id)
            if result.quarantined and not result.messages:
                self.submit(command, done)  # it met nothing but damage so far: behind it there may be more
                return
        done(result)

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
            self._loop.call_later(SWEEP_RETRY_S, self._sweep)


def _call_all(results: list[tuple[Done, Any]]) -> None:
    for done, result in results:
        try:
            done(result)
        except Exception:
            log.exception("a result could not be delivered")


def _internal(error: Exception) -> InternalError:
    log.error("a request failed", exc_info=error)
    return InternalError()
