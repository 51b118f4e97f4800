"""The loader that takes wrk's place: keep-alive connections on raw sockets, in a process of its own.

`python -m benchmarks.loader '{"host", "port", "requests", "connections", "duration_s"}'` prints the latency of every
request as JSON. Only 200 and 201 are successes, and the 204 of a DELETE; so a receive that finds its queue empty (204)
is an error. A connection ends only when its round of requests is done, so that none leaves a message behind.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import Any

RECEIPT = b"{receipt}"  # stands in a request for the receipt of the answer before
FINISH_SECONDS = 20.0  # for answers that are still to come when the time is over

_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
_RECEIPT = re.compile(rb'"receipt":"([^"]+)"')


class Load:
    """What the connections of one run share: the requests, the end, and what they found."""

    def __init__(self, requests: list[bytes], duration_s: float) -> None:
        self.requests = requests
        self.begun_ns = time.perf_counter_ns()
        self.end_ns = self.begun_ns + int(duration_s * 1e9)
        self.latencies_ns: list[int] = []
        self.errors: list[str] = []


class Connection(asyncio.Protocol):
    """Sends a request, waits for its answer and sends the next, round and round until the time is over."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._next = 0
        self._receipt = b""
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
        answer, self._buffer = self._buffer[:size], self._buffer[size:]
        status = answer[9:12]
        if status in (b"200", b"201") or (status == b"204" and self._is_ack):
            self._load.latencies_ns.append(now_ns - self._sent_ns)
        else:
            self._load.errors.append(f"status {status.decode()}")
        found = _RECEIPT.search(answer)
        self._receipt = found[1] if found else b""
        if now_ns < self._load.end_ns or self._next:
            self._send()
        else:
            self._end()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.ended.done():
            self._load.errors.append(f"connection lost: {error}")
            self._end()

    def _send(self) -> None:
        request = self._load.requests[self._next].replace(RECEIPT, self._receipt)
        self._next = (self._next + 1) % len(self._load.requests)
        self._is_ack = request.startswith(b"DELETE ")
        self._sent_ns = time.perf_counter_ns()
        self._transport.write(request)

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
    """Load a server and say what was found: seconds, every latency, and the errors."""
    load = Load([request.encode("ascii") for request in work["requests"]], work["duration_s"])
    loop = asyncio.get_running_loop()
    opened = [
        await loop.create_connection(lambda: Connection(load), work["host"], work["port"])
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
