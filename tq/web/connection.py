"""The server side of HTTP/1.1 on one connection: whose turn it is, what leaves when, and how long anything may take.

Delegates of two kinds are served, by Tornado's own interfaces:

- A `WholeRequest` is given its request as plain data when all of it is there, and answers with bytes. No headers
  object, coroutine or future is made for it. Every route of tq is of this kind.
- Any other `HTTPMessageDelegate`, above all a `RequestHandler` in a `tornado.web.Application`, is called as Tornado's
  own connection would call it, and may stream its answer.

A client may send requests without waiting for their answers (pipelining). They run one after the other, but for
delegates which say that they `may_overlap`: a row of sends shares a commit.

A client that ends its side of the connection is still answered (`printf … | nc` does so). But there is no telling it
from one that is gone, so a delegate that `needs_client` is told that it is, and so is one of Tornado's kind.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import select
import socket
import struct
import sys
import termios
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import Struct
from tornado import httputil
from tornado.iostream import StreamClosedError

from tq.errors import InternalError, InvalidRequest, Overloaded, RequestTimeout, TqError
from tq.web.parser import Head, KnownHeads, RequestParser

FEED_BYTES = 16 * 1024  # are parsed before it is looked whether requests have piled up
MAX_UNFED_BYTES = 64 * 1024  # are read ahead of what is parsed; a client that is gone is noticed only while reading
MAX_RUNNING = 64  # requests of one connection that overlap
TURN_S = 0.005  # for one connection's requests before others have their turn: queries are answered at once
DISCARD_BYTES = 64 * 1024 * 1024  # are read behind the last answer, so that the client gets to see it
MAX_REFUSED = 32  # connections above the limit that are told so with patience; the others are closed at once
SLOWEST_BYTES_S = 16 * 1024  # a body or an answer that moves slower than this, after its grace, is given up
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"

log = logging.getLogger("tq.web")


class Limits(Struct, frozen=True):
    """How many connections there may be; of one, the bytes of a request and the seconds of silence in each part."""

    max_connections: int
    max_header_bytes: int
    max_body_bytes: int
    header_seconds: float
    body_seconds: float
    idle_seconds: float


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

    def __init__(self, connection: Connection, head: Head, body: bytes) -> None:
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


class Connection(asyncio.Protocol):
    """One TCP or TLS connection, from its first byte to its last."""

    def __init__(
        self,
        delegate: httputil.HTTPServerConnectionDelegate,
        limits: Limits,
        problem: Callable[[TqError], tuple[bytes, bytes]],
        connections: set[Connection],
        known: KnownHeads,
    ) -> None:
        """`problem` makes head and body of the answer to what is refused here; `connections` are those that live.

        `known` is shared by connections that have the same limits.
        """
        self._delegate = delegate
        self._limits = limits
        self._problem = problem
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self.peer = ""
        self.protocol = "http"
        # Requests that were parsed wait for their turn, then they run, until they are answered.
        self._parsed: deque[tuple[Head, bytes]] = deque()
        self._next: Stream | None = None  # the first of those that wait, once its delegate was asked
        self._running: deque[Stream] = deque()
        self._parser = RequestParser(self._parsed, known, limits.max_header_bytes, limits.max_body_bytes)
        self._unfed: memoryview | bytes = b""
        self._since = 0.0  # when what the client should do now began
        self._discarded_bytes = 0
        self._is_reading = True
        self._is_pumping = False
        self._is_pump_due = False
        self._is_write_paused = False
        self._unsent_bytes = 0  # when the client began to be waited for
        self._is_ended = False  # the client will send nothing more
        self._is_last = False  # the last answer was written, or nobody is there to read it
        self._is_lingering = False
        self._is_held_up = False  # some of what was read waits for requests before it
        self._writers: list[asyncio.Future[None]] = []
        self.is_draining = False

    # --- asyncio.Protocol -------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        if transport.get_extra_info("ssl_object"):
            self.protocol = "https"
        self._since = self._loop.time()
        self._connections.add(self)
        if len(self._connections) > self._limits.max_connections:
            # What the client sends meanwhile is read, or it would get a reset in place of the answer.
            self._discarded_bytes = len(self._connections) <= self._limits.max_connections + MAX_REFUSED
            self._parser.refuse(Overloaded("There are too many connections."))
            self._pump()

    def data_received(self, data: bytes) -> None:
        if self._parser.is_over:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self._reset()
        elif self._unfed:
            self._unfed = bytes(self._unfed) + data
            self._set_reading()
        else:
            self._unfed = data
            self._pump()

    def eof_received(self) -> bool:
        """Whether to keep the other side open, which asyncio cannot do with TLS."""
        self._is_ended = True
        for stream in self._running:
            delegate = stream.delegate
            if delegate and (not isinstance(delegate, WholeRequest) or delegate.needs_client):
                self.abandon()
                return False
        self._set_reading()
        is_in_hand = bool(self._running or self._parsed or self._next or self._unfed)
        return is_in_hand and not self._is_lingering and self.protocol == "http"

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)
        self._lose()
        for writer in self._writers:
            if not writer.done():
                writer.set_exception(StreamClosedError())
                writer.exception()  # whoever waits for it sees it; else it is nobody's business

    def abandon(self) -> None:
        """Close, without waiting for a turn of the loop to say so."""
        self._lose()
        self._transport.close()

    def _lose(self) -> None:
        """Nobody is there any more."""
        self._is_last = True
        self._forget_input()
        lost, self._running = self._running, deque()
        for stream in lost:
            stream.lost()

    def is_ended(self) -> bool:
        """Whether the client has ended its side by now, which may not have been read yet."""
        if self._is_ended or self._transport.is_closing():
            return True
        poll = select.poll()
        poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    def pause_writing(self) -> None:
        self._is_write_paused = True
        self._wait_for_reader()

    def _wait_for_reader(self) -> None:
        """From now on the client has to take what was written."""
        self._since = self._loop.time()
        self._unsent_bytes = self._left_bytes()

    def _left_bytes(self) -> int:
        """What was written and is still on this side, here or in the kernel."""
        waiting = fcntl.ioctl(self._transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        return int(self._transport.get_write_buffer_size()) + int.from_bytes(waiting, sys.byteorder)

    def resume_writing(self) -> None:
        self._is_write_paused = False
        for writer in self._writers:
            if not writer.done():
                writer.set_result(None)
        self._writers.clear()
        self._pump()

    # --- input ---------------------------------------------------------------------------

    def _feed(self) -> None:
        """Parse some of what was read."""
        parser = self._parser
        data, self._unfed = self._unfed, b""
        if len(data) > FEED_BYTES:
            view = memoryview(data)
            data, self._unfed = view[:FEED_BYTES], view[FEED_BYTES:]
        part = parser.part
        parser.feed(data)
        if parser.part != part or self._is_held_up:
            self._is_held_up = False
            self._since = self._loop.time()
        if parser.is_over:
            self._discarded_bytes += len(self._unfed)
            self._unfed = b""

    def _forget_input(self) -> None:
        self._parser.close()
        self._parsed.clear()
        self._next = None
        self._unfed = b""

    def _set_reading(self) -> None:
        """Read no further while what was read piles up."""
        is_reading = len(self._unfed) < MAX_UNFED_BYTES
        if is_reading != self._is_reading and not self._transport.is_closing():
            self._is_reading = is_reading
            if is_reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()

    # --- the turn ------------------------------------------------------------------------

    def answered(self) -> None:
        """A stream has something to write, or is done. Answers that come together leave together."""
        if len(self._running) == 1:
            self._pump()
        elif not self._is_pump_due:
            self._is_pump_due = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Write what can be written, run what can be run, parse what can be parsed, until nothing can."""
        self._is_pump_due = False
        if self._is_pumping:
            return
        self._is_pumping = True
        began_s = 0.0
        try:
            while True:
                if self._running:
                    self._flush()
                if self._is_last or self._is_write_paused:
                    break
                if self._next or self._parsed:
                    if not self._run_next():
                        break
                    if self._parsed:
                        began_s = began_s or time.monotonic()
                        if time.monotonic() - began_s > TURN_S:
                            self._is_pump_due = True
                            self._loop.call_soon(self._pump)
                            return
                elif self._unfed and not self._parser.is_over:
                    self._feed()
                else:
                    break
        finally:
            self._is_pumping = False
        self._settle()

    def _settle(self) -> None:
        """Nothing more can be done now."""
        if not self._is_reading or self._unfed:
            self._set_reading()
        if self._running or self._next or self._parsed:
            self._is_held_up = bool(self._unfed)
            return
        if self._parser.owes_continue:
            self._parser.owes_continue = False
            self._since = self._loop.time()
            self._transport.write(CONTINUE)
        if self._is_last or self._is_ended or self._parser.is_over:
            self._end()

    def _run_next(self) -> bool:
        """Run the first that waits, when it is its turn; whether it was."""
        stream = self._next
        if stream is None:
            head, body = self._parsed.popleft()
            stream = Stream(self, head, body)
            if not head.refusal:
                delegate = stream.delegate = self._delegate.start_request(self, stream)
                if isinstance(delegate, WholeRequest):
                    delegate.receive(head, body)
        running = self._running
        if running and (len(running) >= MAX_RUNNING or not _overlaps(stream) or not _overlaps(running[-1])):
            self._next = stream
            return False
        self._next = None
        running.append(stream)
        if isinstance(stream.delegate, WholeRequest):
            stream.delegate.run()
        elif stream.delegate:
            stream.task = self._loop.create_task(stream.drive(stream.delegate))
        else:
            assert stream.head.refusal
            stream.respond(*self._problem(stream.head.refusal))
        return True

    # --- output --------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write the answers of those whose turn it is."""
        running = self._running
        out: list[bytes] = []
        while running:
            stream = running[0]
            out += stream.out
            if not stream.is_finished:
                stream.out = []
                break
            running.popleft()
            stream.delegate = None  # each refers to the other
            if not stream.keep_alive:
                self._is_last = True
                self._forget_input()
        if out and not self._transport.is_closing():
            self._since = self._loop.time()
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def written(self) -> asyncio.Future[None]:
        """Write what a stream has so far; the future is done when the client takes more."""
        future = self._loop.create_future()
        if self._transport.is_closing():
            future.set_exception(StreamClosedError())
            future.exception()
            return future
        self.answered()
        if self._is_write_paused:
            self._writers.append(future)
        else:
            future.set_result(None)
        return future

    def fail(self, stream: Stream, error: TqError) -> None:
        """A delegate of Tornado's kind raised: answer, or cut off an answer that has begun."""
        if self._transport.is_closing():
            return
        if stream.out or stream.is_finished:
            self._reset()
            return
        stream.keep_alive = False
        stream.respond(*self._problem(error))

    def _end(self) -> None:
        """The last answer was written. While there is something unread, closing would take it back from the client."""
        if self._is_ended or not self._discarded_bytes:
            if not self._transport.is_closing():
                self._wait_for_reader()
                self._transport.close()
        elif not self._is_lingering:
            self._is_lingering = True
            self._since = self._loop.time()
            self._set_reading()
            if self._transport.can_write_eof():
                self._transport.write_eof()

    @property
    def _has_waiting(self) -> bool:
        return bool(self._next or self._parsed)

    # --- time and the end -------------------------------------------------------------------

    @property
    def is_busy(self) -> bool:
        """A request is in hand or on its way, or its answer has not left."""
        is_reading = self._parser.part or self._unfed
        return bool(is_reading or self._running or self._has_waiting or self._transport.get_write_buffer_size())

    def is_all_in_hand(self, stream: Stream) -> bool:
        """Nothing is behind this request."""
        is_behind = self._has_waiting or self._parser.part or self._unfed
        return not is_behind and bool(self._running) and self._running[-1] is stream

    def drain(self) -> None:
        """Let each answer be the last on its connection."""
        self.is_draining = True

    def close(self) -> None:
        if self.is_busy:
            self._reset()
        else:
            self._transport.close()

    def check(self, now: float) -> None:
        """Give up a client that is too slow; called every second or so with the loop's time."""
        is_closing = self._transport.is_closing()
        if self not in self._connections or (is_closing and not self._transport.get_write_buffer_size()):
            return  # it is gone, or as good as gone
        limits = self._limits
        part = self._parser.part
        silence_s = now - self._since
        if self._is_write_paused or is_closing:
            taken_bytes = self._unsent_bytes - self._left_bytes()
            if silence_s > limits.body_seconds + taken_bytes / SLOWEST_BYTES_S:
                self._reset()
        elif self._is_lingering:
            if silence_s > limits.header_seconds:
                self._reset()
        elif self._is_held_up or self._parser.owes_continue:
            pass  # it is not the client who is slow
        elif part == "header":
            if silence_s > limits.header_seconds:
                self._time_out(part)
        elif part == "body":
            if silence_s > limits.body_seconds + self._parser.size / SLOWEST_BYTES_S:
                self._time_out(part)
        elif not self._running and not self._has_waiting and silence_s > limits.idle_seconds:
            self._transport.close()

    def _reset(self) -> None:
        """Close at once, and let the kernel forget what it has not sent."""
        option = struct.pack("ii", 1, 0)  # on, for 0 seconds
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self._transport.abort()

    def _time_out(self, part: str) -> None:
        self._parser.refuse(RequestTimeout(f"The {part} took too long to arrive."))
        self._pump()


def _overlaps(stream: Stream) -> bool:
    return isinstance(stream.delegate, WholeRequest) and stream.delegate.may_overlap
