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
import select
import socket
import struct
import sys
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tornado import httputil
from tornado.iostream import StreamClosedError

from tq.errors import Overloaded, RequestTimeout, TqError
from tq.web.parser import Head, KnownHeads, RequestParser
from tq.web.stream import Stream, WholeRequest
from tq.web.traffic import FREE_BYTES, Traffic

FEED_BYTES = 16 * 1024  # are parsed before it is looked whether requests have piled up
MAX_UNFED_BYTES = FREE_BYTES  # are read ahead of what is parsed; a client that is gone is noticed only while reading
MAX_RUNNING = 64  # requests of one connection that overlap
TURN_S = 0.005  # for one connection's requests before others have their turn: queries are answered at once
MOMENT_S = 0.001  # is added to times that speeds are made of
DISCARD_BYTES = 64 * 1024 * 1024  # are read behind the last answer, so that the client gets to see it
MAX_REFUSED = 32  # connections above the limit that are told so with patience; the others are closed at once
SLOWEST_BYTES_S = 16 * 1024  # a body or an answer that moves slower than this, after its grace, is given up
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection(asyncio.Protocol):
    """One TCP or TLS connection, from its first byte to its last."""

    def __init__(
        self,
        delegate: httputil.HTTPServerConnectionDelegate,
        traffic: Traffic[Connection],
        problem: Callable[[Stream, TqError], tuple[bytes, bytes]],
        known: KnownHeads,
    ) -> None:
        """`problem` makes head and body of the answer to a stream that is refused here.

        `traffic` and `known` are shared by connections that have the same limits.
        """
        self._delegate = delegate
        self._traffic = traffic
        self._limits = limits = traffic.limits
        self._problem = problem
        self._loop = asyncio.get_running_loop()
        self._transport: Any = None
        self.peer = ""
        self.protocol = "http"
        self.weighed_bytes = 0
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
        self._written_bytes = 0  # since then: the transport holds each answer until the last byte of it has left
        self._is_ended = False  # the client will send nothing more
        self._is_last = False  # the last answer was written, or nobody is there to read it
        self._is_lingering = False
        self._is_held_up = False  # some of what was read waits for requests before it
        self._writers: list[asyncio.Future[None]] = []
        self.is_draining = False

    # --- asyncio.Protocol -------------------------------------------------------------

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=FREE_BYTES, low=0)
        peer = transport.get_extra_info("peername")
        self.peer = str(peer[0]) if peer else ""
        if transport.get_extra_info("ssl_object"):
            self.protocol = "https"
        self._since = self._loop.time()
        refusal, over = self._traffic.enter(self)
        if refusal:
            # What the client sends meanwhile is read, or it would get a reset in place of the answer.
            self._discarded_bytes = over <= MAX_REFUSED
            self._parser.refuse(refusal)
            self._pump()

    def data_received(self, data: bytes) -> None:
        if self._parser.is_over:
            self._discarded_bytes += len(data)
            if self._discarded_bytes > DISCARD_BYTES:
                self._cut("flood")
        elif self._unfed:
            self._unfed = bytes(self._unfed) + data
            self._set_reading()
            self._weigh()
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
        self._lose()
        self._traffic.leave(self)
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
            stream.delegate = None

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
        self._written_bytes = 0
        self._weigh()
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
        elif parser.part:
            self._weigh()

    def _forget_input(self) -> None:
        self._parser.close()
        self._parsed.clear()
        if self._next:
            self._next.delegate = None  # each refers to the other, and to the body
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
        if not self._is_reading or self._unfed or self.weighed_bytes:
            self._set_reading()
            self._weigh()
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
            stream.respond(*self._problem(stream, stream.head.refusal))
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
            data = out[0] if len(out) == 1 else b"".join(out)
            self._transport.write(data)
            if self._is_write_paused:
                self._written_bytes += len(data)
                self._weigh()

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
        stream.respond(*self._problem(stream, error))

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

    # --- memory -----------------------------------------------------------------------------

    def _weigh(self) -> None:
        """Say how much is held here: what came in, but for what is of a few bytes, and what did not leave."""
        parser = self._parser
        held_bytes = len(self._unfed) + self._written_bytes
        if parser.part == "body":
            held_bytes += parser.size
        if self._next:
            held_bytes += len(self._next.body)
        elif self._parsed:
            held_bytes += len(self._parsed[0][1])
        if held_bytes > FREE_BYTES or self.weighed_bytes:
            self._traffic.weigh(self, held_bytes)

    def _moved_bytes(self) -> int:
        """So much of what the client has to take has left, or else of the body that it sends has come."""
        if self._is_write_paused or self._transport.is_closing():
            return self._unsent_bytes - self._left_bytes()
        return self._parser.size if self._parser.part == "body" else self.weighed_bytes

    def speed(self) -> float:
        """So that one that has just begun is quick until it shows that it is not."""
        return (self._moved_bytes() + FREE_BYTES) / (self._loop.time() - self._since + MOMENT_S)

    def give_way(self) -> None:
        """A body that is coming is refused; where an answer does not leave, that is the end of the connection."""
        if self._parser.part == "body" and not self._is_write_paused:
            self._traffic.metrics.refused["transit_bytes"] += 1
            self._discarded_bytes += 1  # the client is in the midst of sending: it is to see the answer
            self._parser.refuse(Overloaded("The server holds too much that is on its way; try again."))
            self._unfed = b""
            self._pump()
        elif not self._transport.is_closing() or self._transport.get_write_buffer_size():
            self._cut("transit_bytes")

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
        if self not in self._traffic.members or (is_closing and not self._transport.get_write_buffer_size()):
            return  # it is gone, or as good as gone
        limits = self._limits
        part = self._parser.part
        silence_s = now - self._since
        if self._is_write_paused or is_closing:
            self._weigh()
            if silence_s > limits.body_seconds + self._moved_bytes() / SLOWEST_BYTES_S:
                self._cut("answer")
        elif self._is_lingering:
            if silence_s > limits.header_seconds:
                self._cut("answer")
        elif self._is_held_up or self._parser.owes_continue:
            pass  # it is not the client who is slow
        elif part == "header":
            if silence_s > limits.header_seconds:
                self._time_out(part)
        elif part == "body":
            if silence_s > limits.body_seconds + self._moved_bytes() / SLOWEST_BYTES_S:
                self._time_out(part)
        elif not self._running and not self._has_waiting and silence_s > limits.idle_seconds:
            self._traffic.metrics.connections_cut["idle"] += 1
            self._transport.close()

    def _cut(self, reason: str) -> None:
        self._traffic.metrics.connections_cut[reason] += 1
        self._reset()

    def _reset(self) -> None:
        """Close at once, and let the kernel forget what it has not sent."""
        option = struct.pack("ii", 1, 0)  # on, for 0 seconds
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
        self._transport.abort()

    def _time_out(self, part: str) -> None:
        self._traffic.metrics.connections_cut[part] += 1
        self._parser.refuse(RequestTimeout(f"The {part} took too long to arrive."))
        self._pump()


def _overlaps(stream: Stream) -> bool:
    return isinstance(stream.delegate, WholeRequest) and stream.delegate.may_overlap
