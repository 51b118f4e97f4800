"""Requests over HTTP/1.1, one at a time on each connection, as transports for httpx.

httpx's own look at every connection for each request, and go through several layers for each piece of one: where 32
requests are in flight each takes more than a millisecond of the processor. These keep a stack of idle connections, and
read answers with the parser of the server. What goes wrong is told with httpx's errors, and what httpcore's `trace`
tells of a connection that is made they tell too.
"""

from __future__ import annotations

import asyncio
import select
import socket
import ssl
import threading
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

import httptools
import httpx

READ_BYTES = 1 << 18
_MADE = "connection.connect_tcp.complete"
_NO_BODY = (204, 304)
_LENGTHS = {b"content-length", b"transfer-encoding"}


class _Reading:
    """The answer to one request. `response` is there when all of it is; `is_reusable`: the connection is free then."""

    def __init__(self) -> None:
        self.response: httpx.Response | None = None
        self.is_reusable = False
        self._parser = httptools.HttpResponseParser(self)
        self._headers: list[tuple[bytes, bytes]] = []
        self._body: list[bytes] = []
        self._ends_with_connection = False

    def feed(self, data: bytes) -> httpx.Response | None:
        """Raises httpx.RemoteProtocolError."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.is_reusable = False
            if self.response is None:
                raise httpx.RemoteProtocolError(f"the answer is not HTTP/1.1: {error}") from error
        return self.response

    def end(self) -> httpx.Response:
        """The connection has ended. Raises httpx.RemoteProtocolError where that is not the end of the answer."""
        if self._ends_with_connection:
            self.on_message_complete()
        if self.response is None:
            raise httpx.RemoteProtocolError("the server has closed the connection")
        return self.response

    # --- httptools' callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        self.is_reusable = False  # behind the answer there is more
        self._headers, self._body = [], []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        has_body = self._parser.get_status_code() not in _NO_BODY
        self._ends_with_connection = has_body and _LENGTHS.isdisjoint(name.lower() for name, _ in self._headers)

    def on_body(self, piece: bytes) -> None:
        self._body.append(piece)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if self.response is None and status >= 200:  # before it there may be a 100 (Continue)
            self.is_reusable = self._parser.should_keep_alive() and not self._ends_with_connection
            self.response = httpx.Response(status, headers=self._headers, content=b"".join(self._body))


def _written(request: httpx.Request) -> bytes:
    head = [b"%b %b HTTP/1.1" % (request.method.encode(), request.url.raw_path)]
    head += [b"%b: %b" % pair for pair in request.headers.raw]
    return b"\r\n".join([*head, b"", request.read()])


def _port(url: httpx.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


class _Connection:
    """What both kinds of connections are. `is_free`: another request can be asked on it. `used_s` is monotonic."""

    def __init__(self) -> None:
        self.is_free = False
        self.used_s = monotonic()
        self._poll = select.poll()

    def watch(self, descriptor: int) -> None:
        self._poll.register(descriptor, select.POLLIN)

    def is_quiet(self) -> bool:
        """Nothing came unasked, which would be its end."""
        return not self._poll.poll(0)

    def close(self) -> None:
        raise NotImplementedError


C = TypeVar("C", bound=_Connection)


class _Stack(Generic[C]):
    """The connections that there are; of the idle ones that was used last is taken first. Threads may share it."""

    def __init__(self, idle_s: float) -> None:
        self._idle_s = idle_s
        self._idle: list[C] = []
        self._all: set[C] = set()
        self._is_closed = False

    def add(self, made: C) -> C:
        self._all.add(made)
        return made

    def take(self) -> C | None:
        if self._is_closed:
            raise RuntimeError("The client is closed.")
        with suppress(IndexError):
            while True:
                found = self._idle.pop()
                if found.is_free and monotonic() - found.used_s < self._idle_s and found.is_quiet():
                    return found
                self._drop(found)
        return None

    def give_back(self, one: C) -> None:
        if one.is_free and not self._is_closed:
            one.used_s = monotonic()
            self._idle.append(one)
        else:
            self._drop(one)

    def _drop(self, one: C) -> None:
        one.close()
        self._all.discard(one)

    def close(self) -> None:
        self._is_closed = True
        for one in tuple(self._all):
            self._drop(one)


# --- blocking -------------------------------------------------------------


class Transport(httpx.BaseTransport):
    """At most `most` connections at a time; one that was idle for `idle_s` is not used again. Threads may share it."""

    def __init__(self, most: int, idle_s: float, tls: ssl.SSLContext | None) -> None:
        self._stack: _Stack[_Blocking] = _Stack(idle_s)
        self._room = threading.BoundedSemaphore(most)
        self._tls = tls

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.TransportError."""
        timeouts = request.extensions["timeout"]
        with self._room:
            connection = self._stack.take() or self._connect(request, timeouts["connect"])
            try:
                return connection.ask(request, timeouts["read"])
            finally:
                self._stack.give_back(connection)

    def close(self) -> None:
        self._stack.close()

    def _connect(self, request: httpx.Request, seconds: float) -> _Blocking:
        host = request.url.host
        try:
            made = socket.create_connection((host, _port(request.url)), seconds)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if trace := request.extensions.get("trace"):
                trace(_MADE, {"return_value": _Told(made)})
            if self._tls:
                made = self._tls.wrap_socket(made, server_hostname=host)
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {seconds:g} s") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        return self._stack.add(_Blocking(made))


class _Told:
    """A connection as httpcore tells of it."""

    def __init__(self, made: Any) -> None:
        self._made = made

    def get_extra_info(self, name: str) -> Any:
        return self._made if name == "socket" else None


class _Blocking(_Connection):
    def __init__(self, made: socket.socket) -> None:
        super().__init__()
        self._socket = made
        self.watch(made.fileno())

    def ask(self, request: httpx.Request, seconds: float) -> httpx.Response:
        """The answer, unless the server is silent for so many seconds."""
        self.is_free = False
        self._socket.settimeout(seconds)
        left = memoryview(_written(request))
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # it may have answered before it has read all
                while left:
                    left = left[self._socket.send(left) :]
            reading, response = _Reading(), None
            while response is None:
                data = self._socket.recv(READ_BYTES)
                response = reading.feed(data) if data else reading.end()
        except TimeoutError as error:
            raise httpx.ReadTimeout(f"nothing came within {seconds:g} s") from error
        except OSError as error:
            raise httpx.ReadError(str(error)) from error
        self.is_free = reading.is_reusable and not left
        return response

    def close(self) -> None:
        self.is_free = False
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # for a thread that may still read
        self._socket.close()


# --- asyncio -------------------------------------------------------------


class AsyncTransport(httpx.AsyncBaseTransport):
    """As `Transport`, for the tasks of one event loop."""

    def __init__(self, most: int, idle_s: float, tls: ssl.SSLContext | None) -> None:
        self._stack: _Stack[_Awaited] = _Stack(idle_s)
        self._room = asyncio.BoundedSemaphore(most)
        self._tls = tls

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Raises httpx.TransportError."""
        timeouts = request.extensions["timeout"]
        async with self._room:
            connection = self._stack.take() or await self._connect(request, timeouts["connect"])
            try:
                return await connection.ask(request, timeouts["read"])
            finally:
                self._stack.give_back(connection)

    async def aclose(self) -> None:
        self._stack.close()
        await asyncio.sleep(0)  # in which the sockets are closed

    async def _connect(self, request: httpx.Request, seconds: float) -> _Awaited:
        host, loop = request.url.host, asyncio.get_running_loop()
        try:
            async with asyncio.timeout(seconds):
                made, connection = await loop.create_connection(
                    lambda: _Awaited(loop), host, _port(request.url), ssl=self._tls
                )
        except TimeoutError as error:
            raise httpx.ConnectTimeout(f"no connection within {seconds:g} s") from error
        except OSError as error:
            raise httpx.ConnectError(str(error)) from error
        self._stack.add(connection)
        if trace := request.extensions.get("trace"):
            await trace(_MADE, {"return_value": made})
        return connection


class _Awaited(_Connection, asyncio.Protocol):
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._loop = loop
        self._transport: Any = None
        self._reading: _Reading | None = None
        self._answer: asyncio.Future[httpx.Response] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard_s = 0.0
        self._unsent_bytes = 0

    async def ask(self, request: httpx.Request, seconds: float) -> httpx.Response:
        """The answer, unless the server is silent for so many seconds."""
        self.is_free = False
        self._reading, self._answer = _Reading(), self._loop.create_future()
        self._transport.write(_written(request))
        self._heard_s, self._unsent_bytes = self._loop.time(), self._transport.get_write_buffer_size()
        self._timer = self._loop.call_later(seconds, self._look, seconds)
        try:
            response = await self._answer
        finally:
            self._timer.cancel()
            reading, self._reading = self._reading, None
        is_sent = not self._transport.get_write_buffer_size()
        self.is_free = reading.is_reusable and is_sent and not self._transport.is_closing()
        return response

    def close(self) -> None:
        self.is_free = False
        if self._transport:
            self._transport.abort()

    def _look(self, seconds: float) -> None:
        """Whether anything came or went meanwhile, so that there is more time."""
        unsent_bytes = self._transport.get_write_buffer_size()
        if unsent_bytes < self._unsent_bytes:
            self._heard_s = self._loop.time()
        self._unsent_bytes = unsent_bytes
        left_s = self._heard_s + seconds - self._loop.time()
        if left_s > 0:
            self._timer = self._loop.call_later(left_s, self._look, seconds)
        else:
            self._end(httpx.ReadTimeout(f"nothing came within {seconds:g} s"))

    def _end(self, found: httpx.Response | httpx.TransportError) -> None:
        """What the answer is, where it is still waited for."""
        if self._answer is None or self._answer.done():
            return
        if isinstance(found, httpx.Response):
            self._answer.set_result(found)
        else:
            self._answer.set_exception(found)

    # --- asyncio's callbacks -------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self.watch(transport.get_extra_info("socket").fileno())

    def data_received(self, data: bytes) -> None:
        if self._reading is None:
            self.close()  # nobody has asked for it
            return
        self._heard_s = self._loop.time()
        try:
            response = self._reading.feed(data)
        except httpx.RemoteProtocolError as error:
            self._end(error)
        else:
            if response:
                self._end(response)

    def connection_lost(self, error: Exception | None) -> None:
        self.is_free = False
        try:
            if error:
                raise httpx.ReadError(str(error))
            if self._reading:
                self._end(self._reading.end())
        except httpx.TransportError as lost:
            self._end(lost)
