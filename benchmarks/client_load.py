"""The client under load, in a process of its own: `python -m benchmarks.client_load` reads a `ClientWork` on stdin.

Each load does one thing over and over until the time is over, and counts the messages that are done for sure.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec
from msgspec import Struct

import tq

LEASE_S = 3_600  # longer than any run


class ClientWork(Struct, frozen=True):
    """`load` names one of `LOADS`. `size` is how many messages a batch has, or how many requests are in flight."""

    load: str
    port: int
    queue: str
    size: int
    content_bytes: int
    duration_s: float

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def content(self) -> str:
        return "x" * (self.content_bytes - 2)


class ClientFound(Struct, frozen=True):
    """`cpu_s` is of the whole process, since the load had begun."""

    messages: int
    seconds: float
    cpu_s: float


class Clock:
    """Begins when it is made."""

    def __init__(self, duration_s: float) -> None:
        self._began_s, self._cpu_s = time.perf_counter(), time.process_time()
        self._end_s = self._began_s + duration_s

    def is_over(self) -> bool:
        return time.perf_counter() > self._end_s

    def found(self, messages: int) -> ClientFound:
        return ClientFound(messages, time.perf_counter() - self._began_s, time.process_time() - self._cpu_s)


# --- the client that blocks -------------------------------------------------------------


def send(work: ClientWork) -> ClientFound:
    with tq.Client(work.url) as client:
        client.queue(work.queue)
        clock, messages = Clock(work.duration_s), 0
        while not clock.is_over():
            client.send(work.queue, work.content)
            messages += 1
        return clock.found(messages)


def receive(work: ClientWork) -> ClientFound:
    with tq.Client(work.url) as client:
        client.queue(work.queue)
        clock, messages = Clock(work.duration_s), 0
        while not clock.is_over() and (message := client.receive(work.queue, visibility_timeout=LEASE_S)):
            client.ack(message)
            messages += 1
        return clock.found(messages)


def consume(work: ClientWork) -> ClientFound:
    """What was handled is acknowledged when the loop is left, which counts."""
    with tq.Client(work.url) as client:
        clock, messages = Clock(work.duration_s), 0
        with client.consume(work.queue, visibility_timeout=LEASE_S, prefetch=work.size) as consumed:
            for _ in consumed:
                messages += 1
                if clock.is_over():
                    consumed.stop()
        return clock.found(messages)


def send_many(work: ClientWork) -> ClientFound:
    with tq.Client(work.url) as client:
        client.queue(work.queue)
        clock, messages = Clock(work.duration_s), 0
        while not clock.is_over():
            messages += client.send_many(work.queue, [work.content] * work.size)
        return clock.found(messages)


# --- the client for asyncio -------------------------------------------------------------


def _awaited(load: Callable[[ClientWork], Coroutine[Any, Any, ClientFound]]) -> Callable[[ClientWork], ClientFound]:
    return lambda work: asyncio.run(load(work))


async def async_send(work: ClientWork) -> ClientFound:
    async with tq.AsyncClient(work.url) as client:

        async def one(clock: Clock) -> int:
            messages = 0
            while not clock.is_over():
                await client.send(work.queue, work.content)
                messages += 1
            return messages

        return await _in_flight(client, work, one)


async def async_receive(work: ClientWork) -> ClientFound:
    async with tq.AsyncClient(work.url) as client:

        async def one(clock: Clock) -> int:
            messages = 0
            while not clock.is_over() and (message := await client.receive(work.queue, visibility_timeout=LEASE_S)):
                await client.ack(message)
                messages += 1
            return messages

        return await _in_flight(client, work, one)


async def _in_flight(
    client: tq.AsyncClient, work: ClientWork, one: Callable[[Clock], Coroutine[Any, Any, int]]
) -> ClientFound:
    await client.queue(work.queue)
    clock = Clock(work.duration_s)
    messages = sum(await asyncio.gather(*[one(clock) for _ in range(work.size)]))
    return clock.found(messages)


async def async_consume(work: ClientWork) -> ClientFound:
    async with tq.AsyncClient(work.url) as client:
        clock, messages = Clock(work.duration_s), 0
        async with client.consume(work.queue, visibility_timeout=LEASE_S, prefetch=work.size) as consumed:
            async for _ in consumed:
                messages += 1
                if clock.is_over():
                    consumed.stop()
        return clock.found(messages)


async def async_send_many(work: ClientWork) -> ClientFound:
    async with tq.AsyncClient(work.url) as client:
        await client.queue(work.queue)
        clock, messages = Clock(work.duration_s), 0
        while not clock.is_over():
            messages += await client.send_many(work.queue, [work.content] * work.size)
        return clock.found(messages)


LOADS: dict[str, Callable[[ClientWork], ClientFound]] = {
    "send": send,
    "receive": receive,
    "consume": consume,
    "send_many": send_many,
    "async send": _awaited(async_send),
    "async receive": _awaited(async_receive),
    "async consume": _awaited(async_consume),
    "async send_many": _awaited(async_send_many),
}

if __name__ == "__main__":
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=ClientWork)
    sys.stdout.buffer.write(msgspec.json.encode(LOADS[work.load](work)))
