"""The loader for what wrk cannot load: one process, one epoll loop, raw sockets, and prepared requests.

`python -m benchmarks.loader` reads a `Work` as JSON on stdin and prints a `Found`. The same loop serves every protocol.
In a closed loop each connection sends its next request when the answer is there, round and round, and ends only when
its round is done, so that none leaves a message behind. With a `rate` the loop is open: requests are due at
fixed times, and each counts from when it was due, however long it then had to wait for a connection.
"""

from __future__ import annotations

import contextlib
import math
import re
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence

import msgspec
from msgspec import Struct

from benchmarks.wires import CONNECTION, SIZES, TOKEN, UNASKED, Step, WireName, exchange

FINISH_SECONDS = 20.0  # for answers that are still to come when the time is over
READ_BYTES = 1 << 18


class Work(Struct, frozen=True):
    """`hello` is sent once on each connection, `steps` are sent in turn. `rate` is requests/s of an open loop."""

    port: int
    wire: WireName
    steps: list[Step]
    connections: int
    duration_s: float
    hello: list[Step] = []
    rate: float | None = None


class Found(Struct, frozen=True):
    """A run that finds its queue empty ends there: `seconds` is until the last good answer. `cpu_s` is of the load."""

    requests: int
    seconds: float
    p50_ms: float = 0
    p99_ms: float = 0
    p999_ms: float = 0
    cpu_s: float = 0
    errors: int = 0
    first_error: str = ""


class Connection:
    """What it sends, and what is under way. Its socket does not block."""

    def __init__(self, work: Work, number: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", work.port), FINISH_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        exchange(self.socket, work.wire, [_numbered(step, number) for step in work.hello])
        self.socket.setblocking(False)
        self.steps = [_Prepared(_numbered(step, number)) for step in work.steps]
        self.next = 0  # of the steps
        self.begun_ns = 0
        self.tokens: Sequence[bytes] = ()
        self.received = b""
        self.unsent = b""

    def send(self, begun_ns: int) -> None:
        step = self.steps[self.next]
        self.begun_ns = begun_ns
        self.unsent = step.request if len(step.pieces) == 1 else _filled(step.pieces, self.tokens)
        self.flush()

    def flush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self.unsent = self.unsent[self.socket.send(self.unsent) :]


class _Prepared:
    def __init__(self, step: Step) -> None:
        self.request = step.request
        self.pieces = step.request.split(TOKEN)
        self.good = re.compile(step.good, re.DOTALL)
        self.empty = re.compile(step.empty, re.DOTALL) if step.empty else None


def _filled(pieces: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """The request with the tokens where they belong."""
    *before, last = pieces
    return b"".join([piece + token for piece, token in zip(before, tokens, strict=True)]) + last


def _numbered(step: Step, number: int) -> Step:
    return msgspec.structs.replace(step, request=step.request.replace(CONNECTION, b"%d" % number))


class Load:
    """One run: its connections, its clock, and what it found."""

    def __init__(self, work: Work) -> None:
        self._size = SIZES[work.wire]
        self._epoll = select.epoll()
        connections = [Connection(work, number) for number in range(work.connections)]
        self._open = {one.socket.fileno(): one for one in connections}
        for fd in self._open:
            self._epoll.register(fd, select.EPOLLIN)
        self._interval_ns = int(1e9 / work.rate) if work.rate else 0
        self._free: list[Connection] = []  # of an open loop
        self._due_ns: deque[int] = deque()  # when those should have been sent that wait for a connection
        self._latencies_ns: list[int] = []
        self._errors: list[str] = []
        self._begun_ns = self._last_ns = self._next_ns = time.perf_counter_ns()
        self._end_ns = self._begun_ns + int(work.duration_s * 1e9)

    def run(self) -> Found:
        before_s = time.process_time()
        for one in list(self._open.values()):
            self._go_on(one, self._begun_ns)
        while self._open:
            now_ns = time.perf_counter_ns()
            if now_ns > self._end_ns + FINISH_SECONDS * 1e9:
                self._errors.append("no answer in time")
                break
            if self._interval_ns:
                self._send_due(now_ns)
            for fd, events in self._wait(now_ns):
                one = self._open[fd]
                if events & select.EPOLLOUT:
                    one.flush()
                    self._watch(one)
                if events & ~select.EPOLLOUT:
                    self._receive(one)
        return self._found(time.process_time() - before_s)

    def _wait(self, now_ns: int) -> list[tuple[int, int]]:
        """In an open loop until the next request is due at most. select(2) knows microseconds, epoll none."""
        if not self._interval_ns:
            return self._epoll.poll(1)
        due_s = (self._next_ns - now_ns) / 1e9 if self._next_ns < self._end_ns else 0.1
        select.select([self._epoll], [], [], max(0.0, due_s))
        return self._epoll.poll(0)

    def _send_due(self, now_ns: int) -> None:
        while self._next_ns <= min(now_ns, self._end_ns):
            self._due_ns.append(self._next_ns)
            self._next_ns += self._interval_ns
        while self._due_ns and self._free:
            self._send(self._free.pop(), self._due_ns.popleft())
        if self._next_ns > self._end_ns and not self._due_ns:
            while self._free:
                self._retire(self._free.pop())

    def _send(self, one: Connection, begun_ns: int) -> None:
        try:
            one.send(begun_ns)
        except OSError as error:
            self._fail(one, f"connection lost: {error}")
            return
        if one.unsent:
            self._watch(one)

    def _watch(self, one: Connection) -> None:
        self._epoll.modify(one.socket, select.EPOLLIN | (select.EPOLLOUT if one.unsent else 0))

    def _receive(self, one: Connection) -> None:
        try:
            data = one.socket.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._fail(one, "connection lost")
            return
        one.received = (one.received + data).removeprefix(UNASKED) if one.received else data.removeprefix(UNASKED)
        size = self._size(one.received)
        if size is not None:
            reply, one.received = one.received[:size], one.received[size:]
            self._take(one, reply)

    def _take(self, one: Connection, reply: bytes) -> None:
        now_ns = time.perf_counter_ns()
        step = one.steps[one.next]
        good = step.good.match(reply)
        if good:
            self._latencies_ns.append(now_ns - one.begun_ns)
            self._last_ns = now_ns
            one.tokens = good.groups()
            one.next = (one.next + 1) % len(one.steps)
            self._go_on(one, now_ns)
        elif step.empty and step.empty.match(reply):
            self._end_ns = min(self._end_ns, now_ns)
            self._retire(one)
        else:
            self._fail(one, f"answered {reply[:200]!r}")

    def _go_on(self, one: Connection, now_ns: int) -> None:
        if self._interval_ns:
            self._free.append(one)
        elif now_ns < self._end_ns or one.next:
            self._send(one, now_ns)
        else:
            self._retire(one)

    def _fail(self, one: Connection, why: str) -> None:
        self._errors.append(why)
        self._retire(one)

    def _retire(self, one: Connection) -> None:
        del self._open[one.socket.fileno()]
        one.socket.close()

    def _found(self, cpu_s: float) -> Found:
        rising = sorted(self._latencies_ns)
        if not rising or self._errors:
            first = self._errors[0] if self._errors else "no message was there"
            return Found(len(rising), 0, errors=len(self._errors) or 1, first_error=first)
        p50_ms, p99_ms, p999_ms = (percentile(rising, percent) / 1e6 for percent in (50, 99, 99.9))
        return Found(len(rising), (self._last_ns - self._begun_ns) / 1e9, p50_ms, p99_ms, p999_ms, cpu_s)


def percentile(rising: Sequence[float], percent: float) -> float:
    """By nearest rank: the smallest value that `percent` of all do not exceed."""
    return rising[max(0, math.ceil(len(rising) * percent / 100) - 1)]


if __name__ == "__main__":
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=Work)
    sys.stdout.buffer.write(msgspec.json.encode(Load(work).run()))
