"""Both clients under one face, so that each case runs through either.

The body of a loop is a generator: it yields what is to be waited for, a condition, or a method of the client with its
argument (or a dict of them), and is sent the result; what it returns may be BREAK.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.harness import wait_until
from tq.client import AsyncClient, Client

BREAK = object()
Body = Callable[[Any, Any], Generator[Any, Any, Any]]
PATIENCE_S = 20


class Blocking:
    """`Client` as it is."""

    def __init__(self, url: str, **options: Any) -> None:
        self.client = Client(url, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def handle(self, queue: Any, body: Body, **options: Any) -> None:
        """Loop over the messages of a queue."""
        with self.client.consume(queue, **options) as messages:
            self._loop(messages, body)

    def handle_at_once(self, queue: str, body: Body, workers: int, **options: Any) -> None:
        """Several loops over the same messages."""
        with self.client.consume(queue, **options) as messages, ThreadPoolExecutor(workers) as pool:
            for done in [pool.submit(self._loop, messages, body) for _ in range(workers)]:
                done.result()

    def _loop(self, messages: Any, body: Body) -> None:
        for message in messages:
            if self._run(body(message, messages)) is BREAK:
                break

    def _run(self, steps: Generator[Any, Any, Any]) -> Any:
        try:
            wanted = next(steps)
            while True:
                try:
                    result = self._do(wanted)
                except Exception as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(result)
        except StopIteration as end:
            return end.value

    def _do(self, wanted: Any) -> Any:
        if callable(wanted):
            return wait_until(wanted, PATIENCE_S)
        name, argument = wanted
        kwargs, args = (argument, ()) if isinstance(argument, dict) else ({}, (argument,))
        return getattr(self.client, name)(*args, **kwargs)


class Awaited:
    """`AsyncClient` on an event loop of its own; each method is awaited to its end."""

    def __init__(self, url: str, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.client = AsyncClient(url, **options)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.client, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            result = found(*args, **kwargs)
            return self.loop.run_until_complete(result) if inspect.isawaitable(result) else result

        return call

    def handle(self, queue: Any, body: Body, **options: Any) -> None:
        self.loop.run_until_complete(self._handle(queue, body, 1, **options))

    def handle_at_once(self, queue: str, body: Body, workers: int, **options: Any) -> None:
        self.loop.run_until_complete(self._handle(queue, body, workers, **options))

    async def _handle(self, queue: Any, body: Body, workers: int, **options: Any) -> None:
        async with self.client.consume(queue, **options) as messages:
            if workers == 1:
                await self._loop(messages, body)
                return
            async with asyncio.TaskGroup() as tasks:
                for _ in range(workers):
                    tasks.create_task(self._loop(messages, body))

    async def _loop(self, messages: Any, body: Body) -> None:
        async for message in messages:
            if await self._run(body(message, messages)) is BREAK:
                break

    async def _run(self, steps: Generator[Any, Any, Any]) -> Any:
        try:
            wanted = next(steps)
            while True:
                try:
                    result = await self._do(wanted)
                except Exception as error:
                    wanted = steps.throw(error)
                else:
                    wanted = steps.send(result)
        except StopIteration as end:
            return end.value

    async def _do(self, wanted: Any) -> Any:
        if not callable(wanted):
            name, argument = wanted
            kwargs, args = (argument, ()) if isinstance(argument, dict) else ({}, (argument,))
            return await getattr(self.client, name)(*args, **kwargs)
        over_s = time.monotonic() + PATIENCE_S
        while not wanted():
            assert time.monotonic() < over_s
            await asyncio.sleep(0.01)
        return None

    def close(self) -> None:
        self.loop.run_until_complete(self.client.close())
        self.loop.close()
