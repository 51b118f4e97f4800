"""The loader that takes wrk's place: keep-alive connections on raw sockets, in a process of its own.

`python -m benchmarks.loader '{"method", "url", "body", "connections", "duration_s"}'` prints the latency of every
request as JSON. Only 200 and 201 are successes, so a receive that finds its queue empty (204) is an error.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any
from urllib.parse import urlsplit

FINISH_SECONDS = 20.0  # for answers that are still to come when the time is over

_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)


class Load:
    """What the connections of one run share: the request, the end, and what they found."""

    def __init__(self, request: bytes, duration_s: float) -> None:
        self.request = request
        self.begun_ns = time.perf_counter_ns()
        self.end_ns = self.begun_ns + int(duration_s * 1e9)
        self.latencies_ns: list[int] = []
        self.errors: list[str] = []


class Connection(asyncio.Protocol):
    """Sends the request, waits for its answer, and sends it again until the time is over."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._sent_ns = 0
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        self._send()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        size = answer_size(self._buffer)
        if size is None:
            return
        now_ns = time.perf_counter_ns()
        status, self._buffer = self._buffer[9:12], self._buffer[size:]
        if status in (b"200", b"201"):
            self._load.latencies_ns.append(now_ns - self._sent_ns)
        else:
            self._load.errors.append(f"status {status.decode()}")
        if now_ns < self._load.end_ns:
            self._send()
        else:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self._load.errors.append(f"connection lost: {error}")
            self._end()

    def _send(self) -> None:
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(self._load.request)

    def _end(self) -> None:
        self.ended.set_result(None)
        self._transport.close()


def answer_size(buffer: bytes) -> int | None:
    """Bytes of the answer that the buffer begins with; None while it is not whole. A 204 has no length."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = _LENGTH.search(buffer, 0, head)
    size = head + 4 + (int(length[1]) if length else 0)
    return size if len(buffer) >= size else None


async def run(work: dict[str, Any]) -> dict[str, Any]:
    """Load one URL and say what was found: seconds, every latency, and the errors."""
    url = urlsplit(work["url"])
    body = work["body"].encode()
    headers = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    head = f"{work['method']} {url.path} HTTP/1.1\r\nHost: {url.netloc}\r\n{headers}\r\n"
    load = Load(head.encode() + body, work["duration_s"])
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(load), url.hostname, url.port)
        for _ in range(work["connections"])
    ]
    _, late = await asyncio.wait([one.ended for _, one in opened], timeout=work["duration_s"] + FINISH_SECONDS)
    load.errors += ["no answer in time"] * len(late)
    return {
        "seconds": (time.perf_counter_ns() - load.begun_ns) / 1e9,
        "latencies_ns": load.latencies_ns,
        "errors": len(load.errors),
        "first_error": load.errors[0] if load.errors else None,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run(json.loads(sys.argv[1])))))
