"""What the server says of itself on stderr, which must not hold it up.

Whoever logs only puts a line into a queue, and a thread writes it: a pipe that nobody reads blocks that thread alone.
What the queue has no room for is counted, and so are lines of which there were enough in this second: a fault that
comes back with every request says the same each time.

A line is for people, or it is a JSON object. What a program may want to know of it stands in the arguments, by name:
`log.warning("a commit took %(seconds).3f s", {"event": "slow_commit", "seconds": 1.2})`. All of them are members of the
object. A traceback is one member of it; for people it is the lines behind.

The lines of the access log come many at a time. They have a bound of their own, and are not of the kind of which a few
are enough.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import select
import signal
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import lru_cache
from threading import Event, Thread
from typing import Any

MAX_LINES = 1_000  # that wait to be written; with a traceback each about 2 MB
MAX_ALIKE = 10  # a second, of those that have their text in common
MAX_ACCESS_LINES = 50_000  # that wait: one to ten seconds of requests, about 8 MB
LOOK_S = 1.0  # how often it is looked whether lines were left out
FLUSH_S = 1.0  # so long whoever ends waits for what is still to be written

# Are for the main thread. It blocks them when it ends, and one that another thread took would end the process then.
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

LOGGER = "tq"  # what lines are said to be of that are of no part of the server
_CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029]")  # all but the end of a line


def timestamp(seconds: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    second = int(seconds)
    return f"{_second(second)}.{int((seconds - second) * 1000):03d}Z"


@lru_cache(maxsize=1)  # there are many lines in one
def _second(second: int) -> str:
    return f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}"


def without_control(text: str) -> str:
    """Nothing in it moves a cursor or begins a line of its own."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


class TextFormatter(logging.Formatter):
    """One line for people, and those of a traceback."""

    def format(self, record: logging.LogRecord) -> str:
        said = without_control(record.getMessage()).replace("\n", "\\n")
        line = f"{timestamp(record.created)} {record.levelname} {record.name}: {said}"
        if record.exc_info:
            line += "\n" + without_control(self.formatException(record.exc_info))
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object in one line."""

    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(record.args, dict):
            members = {**record.args, **members}
        if record.exc_info:
            members["traceback"] = self.formatException(record.exc_info)
        return json.dumps(members, default=str)


class StderrHandler(logging.Handler):
    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self.setFormatter(TextFormatter())
        self._descriptor = descriptor
        self._lines: queue.Queue[str | Sequence[bytes] | Event | None] = queue.Queue(MAX_LINES)
        self._second = 0
        self._alike: Counter[str] = Counter()
        self._left_out = 0
        self._left_out_told = 0  # by the thread alone, which says each of these so once
        self._access_lines_taken = 0
        self._access_lines_written = 0  # by the thread alone
        self._access_lines_left_out = 0
        self._access_lines_left_out_told = 0
        self._thread = Thread(target=self._write_lines, name="tq-log", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        second = int(record.created)
        if second != self._second:
            self._second = second
            self._alike.clear()
        kind = str(record.msg)
        self._alike[kind] += 1
        if self._alike[kind] > MAX_ALIKE:
            self._left_out += 1
            return
        try:
            self._lines.put_nowait(self.format(record))
        except queue.Full:
            self._left_out += 1

    def write_access(self, lines: Sequence[bytes]) -> None:
        """Write lines of the access log, or count them when too many wait."""
        try:
            if self._access_lines_taken - self._access_lines_written + len(lines) > MAX_ACCESS_LINES:
                raise queue.Full
            self._lines.put_nowait(lines)
            self._access_lines_taken += len(lines)
        except queue.Full:
            self._access_lines_left_out += len(lines)

    def drain(self) -> None:
        """Return when what waits was written, or could not be soon: what else goes to stderr comes behind it then."""
        written = Event()
        with suppress(queue.Full):
            self._lines.put_nowait(written)
            written.wait(FLUSH_S)

    def close(self) -> None:
        """Write what waits, or as much of it as can be written soon. `logging` itself calls this at the end."""
        with suppress(queue.Full):
            self._lines.put_nowait(None)
            self._thread.join(FLUSH_S)
        super().close()

    def _write_lines(self) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        line: str | Sequence[bytes] | Event | None = ""
        while line is not None:
            try:
                line = self._lines.get(timeout=LOOK_S)
            except queue.Empty:
                line = ""
            if isinstance(line, Event):
                line.set()
            elif isinstance(line, str):
                if line:
                    self._write(line.encode(errors="backslashreplace"))
            elif line:
                self._write(b"\n".join(line))
                self._access_lines_written += len(line)
            if self._lines.empty():
                self._tell_left_out()

    def _tell_left_out(self) -> None:
        left_out = self._left_out
        if left_out > self._left_out_told:
            self._tell("%(lines)d more lines like these were left out", left_out - self._left_out_told)
            self._left_out_told = left_out
        left_out = self._access_lines_left_out
        if left_out > self._access_lines_left_out_told:
            self._tell("%(lines)d lines of the access log were left out", left_out - self._access_lines_left_out_told)
            self._access_lines_left_out_told = left_out

    def _tell(self, sentence: str, lines: int) -> None:
        args = {"event": "lines_left_out", "lines": lines}
        record = logging.LogRecord(LOGGER, logging.WARNING, __file__, 0, sentence, (args,), None)
        self._write(self.format(record).encode())

    def _write(self, data: bytes) -> None:
        data += b"\n"
        with suppress(OSError):  # nobody is there to be told
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
