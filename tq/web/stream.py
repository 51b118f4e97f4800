"""A request and its answer as the delegates of `web.connection` see them, of tq's kind and of Tornado's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from tornado import httputil

from tq.errors import InternalError, InvalidRequest, TqError
from tq.web.parser import Head

log = logging.getLogger("tq.web")


class Line(Protocol):
    """What a stream needs of the connection that it is on."""

    peer: str
    protocol: str
    is_draining: bool

    def answered(self) -> None:
        """There is something to write."""

    def written(self) -> asyncio.Future[None]:
        """Write what there is; done when the client takes more."""

    def fail(self, stream: Stream, error: TqError) -> None:
        """Answer with an error, or cut off an answer that has begun."""

    def is_ended(self) -> bool:
        """Whether the client has ended its side."""

    def is_all_in_hand(self, stream: Stream) -> bool:
        """Whether nothing is behind this request."""

    def abandon(self) -> None:
        """Close at once."""


class WholeRequest(httputil.HTTPMessageDelegate):
    """A delegate that is given its request whole, and answers with `Stream.respond`."""

    may_overlap = False  # it may run while others of its connection do, before and behind it
    needs_client = False  # a client that ends its side while this runs counts as gone

    def receive(self, head: Head, body: bytes) -> None:
        """Take the request; what it asks for is done in its turn."""
        raise NotImplementedError

    def run(self) -> None:
        """Answer, now or later: it is this request's turn."""
        raise NotImplementedError


class Stream(httputil.HTTPConnection):
    """One request and its answer: what a delegate is given as `request_conn`."""

    delegate: httputil.HTTPMessageDelegate | None = None
    is_finished = False  # all of its answer is in `out`, or was written
    _is_chunked = False
    _close_callback: Callable[[], None] | None = None
    task: asyncio.Task[None] | None = None  # asyncio itself does not keep it alive

    def __init__(self, connection: Line, head: Head, body: bytes) -> None:
        self._connection = connection
        self.head = head
        self.body = body
        self.keep_alive = head.keep_alive
        self.out: list[bytes] = []

    # --- for a WholeRequest -------------------------------------------------------------

    def respond(self, head: bytes, body: bytes | None) -> None:
        """The whole answer: `head` is the status line and the headers but for those of the framing, which end it.

        A body of None is for the statuses that have none, and no length of it either (RFC 9110, 8.6).
        """
        connection = self._connection
        is_plain = self.keep_alive and not connection.is_draining and not self.head.is_1_0
        framing = b"" if is_plain else self._connection_header()
        if body is None:
            answer = b"%b%b\r\n" % (head, framing)
        elif self.head.method == "HEAD":
            answer = b"%bContent-Length: %d\r\n%b\r\n" % (head, len(body), framing)
        else:
            answer = b"%bContent-Length: %d\r\n%b\r\n%b" % (head, len(body), framing, body)
        self.out.append(answer)
        self.is_finished = True
        connection.answered()

    def is_abandoned(self) -> bool:
        """Whether the client has ended its side, so that there may be nobody to answer."""
        return self._connection.is_ended()

    def abandon(self) -> None:
        """Answer nothing, and close the connection."""
        self._connection.abandon()

    def _connection_header(self) -> bytes:
        if self._connection.is_draining and self._connection.is_all_in_hand(self):
            self.keep_alive = False
        if not self.keep_alive:
            return b"Connection: close\r\n"
        return b"Connection: keep-alive\r\n" if self.head.is_1_0 else b""

    # --- for Tornado's delegates: the interface of httputil.HTTPConnection ----------------

    @property
    def context(self) -> Stream:
        """Where Tornado looks for `remote_ip` and `protocol`."""
        return self

    @property
    def remote_ip(self) -> str:
        return self._connection.peer

    @property
    def protocol(self) -> str:
        return self._connection.protocol

    def set_close_callback(self, callback: Callable[[], None] | None) -> None:
        self._close_callback = callback

    def write_headers(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
        chunk: bytes | None = None,
    ) -> asyncio.Future[None]:
        assert isinstance(start_line, httputil.ResponseStartLine)
        if self.head.method != "HEAD" and start_line.code not in (204, 304) and "Content-Length" not in headers:
            if self.head.is_1_0:
                self.keep_alive = False  # the end of the connection is the end of the body
            else:
                self._is_chunked = True
                headers["Transfer-Encoding"] = "chunked"
        lines = [f"HTTP/1.1 {start_line.code} {start_line.reason}", *(f"{n}: {v}" for n, v in headers.get_all()), ""]
        self.out.append("\r\n".join(lines).encode("latin-1") + self._connection_header() + b"\r\n")
        return self.write(chunk) if chunk else self._connection.written()

    def write(self, chunk: bytes) -> asyncio.Future[None]:
        if chunk and self.head.method != "HEAD":
            self.out.append(b"%x\r\n%b\r\n" % (len(chunk), chunk) if self._is_chunked else bytes(chunk))
        return self._connection.written()

    def finish(self) -> None:
        if self._is_chunked:
            self.out.append(b"0\r\n\r\n")
        self.is_finished = True
        self._close_callback = None
        self._connection.answered()

    async def drive(self, delegate: httputil.HTTPMessageDelegate) -> None:
        """Give the request to a delegate of Tornado's kind, each part when it has taken the one before."""
        head = self.head
        version = "HTTP/1.0" if head.is_1_0 else "HTTP/1.1"
        start_line = httputil.RequestStartLine(head.method, head.target, version)
        headers = httputil.HTTPHeaders()
        try:
            for name, value in head.pairs:
                headers.add(name.decode("latin-1"), value.decode("latin-1").rstrip(" \t"))
            await _taken(delegate.headers_received(start_line, headers))
            if self.body:
                await _taken(delegate.data_received(self.body))
            delegate.finish()
        except httputil.HTTPInputError as error:
            self._connection.fail(self, InvalidRequest(f"{error}."))
        except Exception:
            log.exception("%s %s failed", head.method, head.path)
            self._connection.fail(self, InternalError())

    def lost(self) -> None:
        """The connection is closed, and nobody will see the answer."""
        if self._close_callback:
            self._close_callback()
        elif self.delegate and not self.is_finished:
            self.delegate.on_connection_close()


async def _taken(awaitable: Awaitable[None] | None) -> None:
    if awaitable is not None:
        await awaitable
