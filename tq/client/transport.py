"""A client's connections, each of them a transport of httpx with one place.

httpx's pool looks at all that it has, for each request, and in each of them whether its socket can be read: with 32
connections that takes ten times as long as the rest. So here idle ones lie on a stack, and that used last is taken.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from typing import Any, Generic, TypeVar

import httpx

T = TypeVar("T")


def _options(idle_s: float, tls: ssl.SSLContext | None) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=idle_s)
    # Without TLS nothing is verified, and the certificates of the system need not be read.
    return {"limits": limits, "verify": tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


class _Stack(Generic[T]):
    """What is idle. Threads may share it, because each step of it is one of the interpreter's."""

    def __init__(self) -> None:
        self._idle: list[T] = []
        self.is_closed = False

    def take(self) -> T | None:
        if self.is_closed:
            raise RuntimeError("The client is closed.")
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def give_back(self, one: T) -> list[T]:
        """Those that are to be closed: none, or all when the client was closed meanwhile."""
        self._idle.append(one)
        return self.close() if self.is_closed else []

    def close(self) -> list[T]:
        self.is_closed = True
        closing, self._idle = self._idle, []
        return closing


class Transport(httpx.BaseTransport):
    """At most `most` connections at a time; one that was idle for `idle_s` is not used again. Threads may share it."""

    def __init__(self, most: int, idle_s: float, tls: ssl.SSLContext | None) -> None:
        self._options = _options(idle_s, tls)
        self._stack: _Stack[httpx.HTTPTransport] = _Stack()
        self._room = threading.BoundedSemaphore(most)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, read to its end. Raises httpx.TransportError."""
        with self._room:
            one = self._stack.take() or httpx.HTTPTransport(**self._options)
            try:
                response = one.handle_request(request)
                response.read()
            finally:
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
        self._stack: _Stack[httpx.AsyncHTTPTransport] = _Stack()
        self._room = asyncio.BoundedSemaphore(most)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, read to its end. Raises httpx.TransportError."""
        async with self._room:
            one = self._stack.take() or httpx.AsyncHTTPTransport(**self._options)
            try:
                response = await one.handle_async_request(request)
                await response.aread()
            finally:
                for closing in self._stack.give_back(one):
                    await closing.aclose()
        return response

    async def aclose(self) -> None:
        """Close what is idle; what is under way goes on to its end."""
        for one in self._stack.close():
            await one.aclose()
