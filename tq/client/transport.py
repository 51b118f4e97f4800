"""A client's connections, each of them a transport of httpx with one place.

httpx's pool looks at all that it has, for each request, and in each of them whether its socket can be read: with 32
connections that takes ten times as long as the rest. So here idle ones lie on a stack, and that used last is taken. One
on which a request failed or was cancelled does not come back to it.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections import deque
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")


def _options(idle_s: float, tls: ssl.SSLContext | None) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=idle_s)
    # Without TLS nothing is verified, and the certificates of the system need not be read.
    return {"limits": limits, "verify": tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


def _plain(response: httpx.Response) -> httpx.Response:
    """Its body is taken as it comes: nobody asked for a compressed one, which may be a thousand times as large."""
    response.headers.pop("Content-Encoding", None)
    return response


class _Stack(Generic[T]):
    """What is idle, since when: the last at the end. Threads may share it, as each step is one of the interpreter's."""

    def __init__(self, idle_s: float) -> None:
        self._idle: deque[tuple[T, float]] = deque()
        self._idle_s = idle_s
        self.is_closed = False

    def take(self) -> T | None:
        if self.is_closed:
            raise RuntimeError("The client is closed.")
        try:
            return self._idle.pop()[0]
        except IndexError:
            return None

    def give_back(self, one: T) -> list[T]:
        """Those that are to be closed: one that was idle for too long, or all when the client was closed meanwhile."""
        now_s = monotonic()
        self._idle.append((one, now_s))
        if self.is_closed:
            return self.close()
        try:
            return [self._idle.popleft()[0]] if self._idle[0][1] < now_s - self._idle_s else []
        except IndexError:
            return []  # another thread has taken it

    def close(self) -> list[T]:
        self.is_closed = True
        closing: list[T] = []
        with suppress(IndexError):
            while True:  # another thread may give one back meanwhile, and then look whether this is closed
                closing.append(self._idle.pop()[0])
        return closing


class Transport(httpx.BaseTransport):
    """At most `most` connections at a time; one that was idle for `idle_s` is closed. Threads may share it."""

    def __init__(self, most: int, idle_s: float, tls: ssl.SSLContext | None) -> None:
        self._options = _options(idle_s, tls)
        self._stack: _Stack[httpx.HTTPTransport] = _Stack(idle_s)
        self._room = threading.BoundedSemaphore(most)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, read to its end. Raises httpx.TransportError."""
        with self._room:
            one = self._stack.take() or httpx.HTTPTransport(**self._options)
            try:
                response = _plain(one.handle_request(request))
                response.read()
            except BaseException:
                one.close()  # whatever it is in the middle of, nobody else is to get that
                raise
            for closing in self._stack.give_back(one):
                closing.close()
        return response

    def close(self) -> None:
        """Close what is idle; what is under way goes on to its end."""
        for one in self._stack.close():
            one.close()


class AsyncTransport(httpx.AsyncBaseTransport):
    """As `Transport`, for the tasks of one event loop."""

    def __init__(self, most: int, idle_s: float, tls: ssl.SSLContext | None) -> None:
        self._options = _options(idle_s, tls)
        self._stack: _Stack[httpx.AsyncHTTPTransport] = _Stack(idle_s)
        self._room = asyncio.BoundedSemaphore(most)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, read to its end. Raises httpx.TransportError."""
        async with self._room:
            one = self._stack.take() or httpx.AsyncHTTPTransport(**self._options)
            try:
                response = _plain(await one.handle_async_request(request))
                await response.aread()
            except BaseException:
                await one.aclose()
                raise
            for closing in self._stack.give_back(one):
                await closing.aclose()
        return response

    async def aclose(self) -> None:
        """Close what is idle; what is under way goes on to its end."""
        for one in self._stack.close():
            await one.aclose()
