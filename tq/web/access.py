"""The access log: a line for each request that was answered, when somebody wants it.

It says who, what, and with which outcome: never a query string, a token or another header, but for the trace that
the client names. What the client wrote is escaped, so that no request can forge a line. Lines are gathered and handed
on some times a second, for a line alone would cost more to write than to make.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Sequence

import msgspec
from msgspec import Struct

from tq.logs import LOGGER, timestamp
from tq.web.exchange import Response
from tq.web.parser import Head

GATHER_S = 0.05  # so long a line waits for others
STAMP_S = 0.001  # a time is written with no more than that, so requests that are closer share one

_ODD = re.compile(r"[^\x21\x23-\x5b\x5d-\x7e]")  # whatever is not printable ASCII, and what quotes and escapes
_CREDENTIALS = re.compile(r"^((?:[a-zA-Z]+:)?//)[^/]*@")  # of a target that is a whole address
_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")  # W3C Trace Context, 3.2


class Line(Struct):
    """As JSON it is an object of these. `bytes` are those of the body, `trace_id` is of a `traceparent`."""

    message: str
    time: str
    client: str
    method: str
    path: str
    status: int
    bytes: int
    ms: float
    trace_id: str | None
    level: str = "info"
    logger: str = f"{LOGGER}.access"
    event: str = "request"


class AccessLog:
    def __init__(self, write: Callable[[Sequence[bytes]], None], *, is_json: bool = False) -> None:
        self._write = write
        self._make = _as_json if is_json else _as_text
        self._lines: list[bytes] = []
        self._stamp = ""
        self._stamped_s = 0.0

    def add(self, client: str, head: Head, response: Response, began_s: float) -> None:
        """`began_s` by `time.perf_counter`, when the request was there."""
        if not self._lines:
            asyncio.get_running_loop().call_later(GATHER_S, self.flush)
        parent = head.headers.get("traceparent")
        found = _TRACE.fullmatch(parent) if parent else None
        now_s = time.time()
        if abs(now_s - self._stamped_s) >= STAMP_S:
            self._stamp, self._stamped_s = timestamp(now_s), now_s
        line = self._make(
            self._stamp,
            client,
            head.method or "-",
            _ODD.sub(_escaped, _CREDENTIALS.sub(r"\1", head.path)) or "-",
            response.status,
            0 if head.method == "HEAD" else len(response.body),
            (time.perf_counter() - began_s) * 1000,
            found[1] if found else None,
        )
        self._lines.append(line)

    def flush(self) -> None:
        """Hand on what was gathered."""
        if self._lines:
            lines, self._lines = self._lines, []
            self._write(lines)


def _escaped(found: re.Match[str]) -> str:
    return f"\\x{ord(found[0]):02x}"


def _as_text(
    now: str, client: str, method: str, path: str, status: int, size: int, ms: float, trace_id: str | None
) -> bytes:
    line = f'{now} INFO {LOGGER}.access: {client} "{method} {path}" {status} {size} {ms:.3f} ms'
    return (f"{line} {trace_id}" if trace_id else line).encode()


def _as_json(
    now: str, client: str, method: str, path: str, status: int, size: int, ms: float, trace_id: str | None
) -> bytes:
    message = f"{method} {path} {status}"
    return msgspec.json.encode(Line(message, now, client, method, path, status, size, round(ms, 3), trace_id))
