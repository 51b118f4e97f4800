"""The load of `tq bench`: raw requests on connections of its own, each sending the next when the answer is there.

The client is made for convenience and would be the slowest part; here an answer is only scanned for its end, its status
and a receipt. What a connection asks is a generator: it yields requests and is sent their answers.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
import time
from collections.abc import Callable, Generator, Sequence
from typing import Any
from urllib.parse import urlsplit

from msgspec import Struct

CONNECT_SECONDS = 10.0
ANSWER_SECONDS = 30.0  # for those that are still to come when the time is over

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_STATUS = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_RECEIPT = re.compile(rb'"receipt":"([^"]+)"')

Asking = Generator[bytes, bytes, None]


class LoadFailed(Exception):
    """What ended a load. The message is a sentence for whoever runs it."""


class Wire:
    """The requests, as bytes, to one queue."""

    def __init__(self, url: str, token: str | None, queue: str) -> None:
        parts = urlsplit(url)
        self.host = parts.hostname or ""
        self.tls = ssl.create_default_context() if parts.scheme == "https" else None
        self.port = parts.port or (443 if self.tls else 80)
        self._path = f"{parts.path.rstrip('/')}/queues/{queue}/messages"
        self._head = f"Host: {parts.netloc.rpartition('@')[2]}\r\n" + (
            f"Authorization: Bearer {token}\r\n" if token else ""
        )

    def request(self, method: str, rest: str = "", body: bytes = b"", media_type: str = "application/json") -> bytes:
        head = f"{method} {self._path}{rest} HTTP/1.1\r\n{self._head}"
        if method == "POST":
            head += f"Content-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        return head.encode() + b"\r\n" + body


def sends(wire: Wire, envelope: bytes) -> Asking:
    request = wire.request("POST", body=envelope)
    while True:
        _status(request, (yield request), b"201")


def fills(wire: Wire, envelope: bytes, size: int, count: int) -> Asking:
    """So many batches of the size."""
    request = wire.request("POST", "", (envelope + b"\n") * size, "application/x-ndjson")
    for _ in range(count):
        _status(request, (yield request), b"201")


def receives(wire: Wire) -> Asking:
    """Until there is none."""
    request = wire.request("POST", "/receive")
    while _status(request, (yield request), b"200", b"204") == b"200":
        pass


def leases_and_acks(wire: Wire) -> Asking:
    """Until there is none."""
    lease = wire.request("POST", "/receive?visibility_timeout=60")
    while _status(lease, answer := (yield lease), b"200", b"204") == b"200":
        receipt = _RECEIPT.search(answer)
        assert receipt
        ack = wire.request("DELETE", f"/{receipt[1].decode()}")
        _status(ack, (yield ack), b"204")


def _status(request: bytes, answer: bytes, *good: bytes) -> bytes:
    """Raises LoadFailed."""
    found = _STATUS.match(answer)
    if not found or found[1] not in good:
        what = answer.partition(b"\r\n\r\n")[2] or answer
        asked = request.partition(b" HTTP/")[0].decode()
        raise LoadFailed(f"{asked} was answered with {what[:300].decode(errors='replace')}")
    return found[1]


class Found(Struct, frozen=True):
    """What a load gave: rounds of requests, the time they took in all, and how long each took, in rising order."""

    seconds: float
    rising_ns: Sequence[int]
    cores: float  # of the processor, that this process took meanwhile

    @property
    def per_second(self) -> float:
        return len(self.rising_ns) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, percent: float) -> float:
        """By nearest rank: the smallest time that `percent` of all do not exceed."""
        if not self.rising_ns:
            return 0.0
        return self.rising_ns[max(0, math.ceil(len(self.rising_ns) * percent / 100) - 1)] / 1e6


class _Connection(asyncio.Protocol):
    def __init__(self, load: _Load, asking: Asking) -> None:
        self._load = load
        self._asking = asking
        self._transport: Any = None
        self._received = b""
        self._answers = 0
        self._begun_ns = 0
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def begin(self) -> None:
        self._begun_ns = time.perf_counter_ns()
        self._transport.write(next(self._asking))

    def data_received(self, data: bytes) -> None:
        self._received = self._received + data if self._received else data
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(self._received, 0, head + 2)  # a 204 has none
        size = head + 4 + (int(length[1]) if length else 0)
        if len(self._received) < size:
            return
        answer, self._received = self._received[:size], self._received[size:]
        self._go_on(answer)

    def _go_on(self, answer: bytes) -> None:
        load, now_ns = self._load, time.perf_counter_ns()
        try:
            request = self._asking.send(answer)
        except StopIteration:
            self._end()
            return
        except LoadFailed as failure:
            self._end(failure)
            return
        self._answers += 1
        if self._answers % load.per_round == 0:
            load.latencies_ns.append(now_ns - self._begun_ns)
            load.last_ns = now_ns
            self._begun_ns = now_ns
            if now_ns > load.end_ns:
                self._end()
                return
        self._transport.write(request)

    def connection_lost(self, error: Exception | None) -> None:
        self._end(LoadFailed(f"The server has closed a connection{f' ({error})' if error else ''}."))

    def close(self) -> None:
        """What it failed of was said of another one, if it was."""
        self._end()
        self.over.exception()

    def _end(self, failure: LoadFailed | None = None) -> None:
        if not self.over.done():
            self._transport.close()
            if failure:
                self.over.set_exception(failure)
            else:
                self.over.set_result(None)


class _Load:
    """What the connections of a load share."""

    def __init__(self, per_round: int) -> None:
        self.per_round = per_round
        self.latencies_ns: list[int] = []
        self.last_ns = 0
        self.end_ns = math.inf


async def load(
    wire: Wire, ask: Callable[[], Asking], connections: int, seconds: float = math.inf, per_round: int = 1
) -> Found:
    """Each connection asks for so long, or until its generator ends; a round is so many answers. Raises LoadFailed."""
    shared = _Load(per_round)
    made = await asyncio.gather(*[_connect(wire, shared, ask()) for _ in range(connections)])
    cpu_s, begun_ns = time.process_time(), time.perf_counter_ns()
    shared.last_ns = begun_ns
    shared.end_ns = begun_ns + seconds * 1e9
    try:
        for one in made:
            one.begin()
        limit_s = seconds + ANSWER_SECONDS if seconds < math.inf else None
        answers = [one.over for one in made]
        done, waiting = await asyncio.wait(answers, timeout=limit_s, return_when=asyncio.FIRST_EXCEPTION)
        for each in done:
            each.result()
        if waiting:
            raise LoadFailed(f"The server has not answered within {ANSWER_SECONDS:.0f} s.")
    finally:
        for one in made:
            one.close()
    took_s = (shared.last_ns - begun_ns) / 1e9
    cores = (time.process_time() - cpu_s) / ((time.perf_counter_ns() - begun_ns) / 1e9)
    return Found(took_s, sorted(shared.latencies_ns), cores)


async def _connect(wire: Wire, shared: _Load, asking: Asking) -> _Connection:
    """Raises LoadFailed."""
    loop = asyncio.get_running_loop()
    connecting = loop.create_connection(lambda: _Connection(shared, asking), wire.host, wire.port, ssl=wire.tls)
    try:
        _, connection = await asyncio.wait_for(connecting, CONNECT_SECONDS)
    except OSError as error:  # a TimeoutError too
        raise LoadFailed(f"No connection to {wire.host}:{wire.port} ({error.strerror or 'no answer'}).") from error
    return connection
