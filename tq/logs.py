"""What the server says of itself on stderr, which must not hold it up.

Whoever logs only puts a line into a queue, and a thread writes it: a pipe that nobody reads blocks that thread alone.
What the queue has no room for is counted, and so are lines of which there were enough in this second: a fault that
comes back with every request says the same each time.
"""

from __future__ import annotations

import logging
import os
import queue
import select
from collections import Counter
from contextlib import suppress
from threading import Event, Thread

MAX_LINES = 1_000  # that wait to be written; with a traceback each about 2 MB
MAX_ALIKE = 10  # a second, of those that have their text in common
LOOK_S = 1.0  # how often it is looked whether lines were left out
FLUSH_S = 1.0  # so long whoever ends waits for what is still to be written


class StderrHandler(logging.Handler):
    def __init__(self, descriptor: int = 2) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._descriptor = descriptor
        self._lines: queue.Queue[str | Event | None] = queue.Queue(MAX_LINES)
        self._second = 0
        self._alike: Counter[str] = Counter()
        self._left_out = 0
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
        line: str | Event | None = ""
        while line is not None:
            try:
                line = self._lines.get(timeout=LOOK_S)
            except queue.Empty:
                line = ""
            if isinstance(line, Event):
                line.set()
            elif line:
                self._write(line)
            if self._left_out and self._lines.empty():
                left_out, self._left_out = self._left_out, 0
                self._write(f"{left_out:,} more lines like these were left out")

    def _write(self, line: str) -> None:
        data = f"{line}\n".encode(errors="backslashreplace")
        with suppress(OSError):  # nobody is there to be told
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:
                    select.select([], [self._descriptor], [])
