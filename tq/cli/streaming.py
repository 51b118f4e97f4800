"""Lines on their way to a queue: many of them, in constant memory, each once.

They are sent in batches, one after the other, each with an idempotency key made of the run's id and the number of its
first line. So a batch whose answer was lost can be sent again, also by another run that is told the id and how many
lines are sent for sure, and nothing is doubled as long as the queue remembers the ids.
"""

from __future__ import annotations

import os
import re
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from secrets import token_hex
from typing import Any, BinaryIO

import click
import msgspec

from tq.cli.envelopes import Form
from tq.cli.lines import Batch, LineTooLong, batches
from tq.cli.output import count, fail, is_for_people, print_json, span
from tq.cli.remote import Place, told
from tq.client import Client, SentBatch
from tq.client.calls import Call, Steps, ask, method, queue_path
from tq.client.sending import NDJSON
from tq.errors import EXIT_INTERRUPTED, EXIT_REFUSED, EXIT_USAGE, InvalidRequest, MessageTooLarge, StartError, TqError

RETRY_SECONDS = 120.0  # a server that is restarted amid many lines is waited for
QUIET_SECONDS = 2.0  # without an answer, after which a terminal is told that the server is waited for


class Sender(Client):
    """A client that sends what is in the server's form already."""

    @method
    def send_form(self, queue: str, body: bytes, media_type: str, query: str, has_id: bool) -> Steps[dict[str, Any]]:
        """One message: what the server answers."""
        key, repeat_s = yield from self._key(queue, has_id)
        target = queue_path(queue, "messages") + query
        headers = ((b"Idempotency-Key", key.encode()),) if key else ()
        answer = yield from ask(Call("POST", target, body, media_type, headers, repeat_s))
        sent: dict[str, Any] = msgspec.json.decode(answer.content)
        if answer.is_repeated and key:
            sent.pop("duplicate", None)  # of an earlier try
        return sent

    @method
    def send_lines(self, queue: str, lines: list[bytes], key: str) -> Steps[tuple[int, int]]:
        """A batch of envelopes: how many there were, and how many of them were there before."""
        known = yield from self._known(queue)
        # Of content that is its own id, repetitions are found by that; with another id they would not be.
        headers = () if known.content_dedup or not known.dedup_window else ((b"Idempotency-Key", key.encode()),)
        target = queue_path(queue, "messages")
        answer = yield from ask(Call("POST", target, b"\n".join(lines), NDJSON, headers, known.dedup_window))
        sent = msgspec.json.decode(answer.content, type=SentBatch)
        return len(sent.ids), 0 if answer.is_repeated else len(sent.duplicates)  # or they are of the try before


class _BadLine(Exception):
    """A line that is no message, or that the server refuses. The message is a sentence without its end."""

    def __init__(self, number: int, why: str) -> None:
        super().__init__(f"Line {number:,} is refused: {why.rstrip('.')}")


class _Run:
    """What has become of the lines so far. All up to `sure` are sent; none behind `begun` are."""

    def __init__(self, client: Sender, queue: str, form: Form | None, run_id: str, after: int) -> None:
        self._client, self._queue, self._form = client, queue, form
        self.id = run_id
        self.sure = self.begun = after
        self.messages = self.duplicates = 0

    def send(self, batch: Batch) -> None:
        """Raises _BadLine; what is before the line is sent then. Raises TqError."""
        good, bad = self._envelopes(batch)
        if good:
            self._send(Batch(good, batch.numbers[: len(good)], batch.upto))
        if bad:
            raise bad

    def _envelopes(self, batch: Batch) -> tuple[list[bytes], _BadLine | None]:
        """As many as are before the first line that is none."""
        if self._form is None:
            return batch.lines, None
        good: list[bytes] = []
        for number, line in zip(batch.numbers, batch.lines, strict=True):
            try:
                good.append(self._form.envelope(line))
            except ValueError as error:  # of msgspec too
                return good, _BadLine(number, str(error))
        return good, None

    def _send(self, batch: Batch) -> None:
        """A batch that is refused is halved, until it is a line."""
        self.begun = batch.upto
        try:
            messages, duplicates = self._client.send_lines(self._queue, batch.lines, f"{self.id}:{batch.numbers[0]}")
        except (InvalidRequest, MessageTooLarge) as error:
            self.begun = self.sure  # nothing was stored
            if len(batch.lines) == 1:
                raise _BadLine(batch.numbers[0], error.detail) from error
            for half in batch.halves():
                self._send(half)
        else:
            self.messages += messages
            self.duplicates += duplicates
            self.sure = batch.upto


class _Stopping:
    """What a signal does: the batch in hand is sent before the end; a second one ends at once."""

    def __init__(self) -> None:
        self.is_asked = False
        self._reads = False

    def __call__(self, *_: object) -> None:
        if self.is_asked or self._reads:
            raise KeyboardInterrupt
        self.is_asked = True

    def each(self, items: Iterator[Batch]) -> Iterator[Batch]:
        """The items until a signal comes, which also ends the wait for one. Raises KeyboardInterrupt."""
        while True:
            self._reads = True
            if self.is_asked:
                raise KeyboardInterrupt
            item = next(items, None)
            self._reads = False
            if item is None:
                return
            yield item


def send_lines(place: Place, queue: str, file: BinaryIO, form: Form | None, resume: str | None, as_json: bool) -> None:
    """Send each line of the file, and say how many were sent, also when that ends too soon."""
    run_id, after = _resumed(resume)
    stopping = _Stopping()
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stopping)
    began_s = time.monotonic()
    with place.client() as client:
        window_s = client.queue(queue).dedup_window
    sender = place.make(Sender, RETRY_SECONDS)
    with sender:
        run = _Run(sender, queue, form, run_id, after)
        try:
            with _progress(file, run) as tell:
                for batch in stopping.each(batches(file.fileno(), after, tell)):
                    run.send(batch)
        except (_BadLine, LineTooLong) as error:
            fail(f"{error}. {_so_far(run, window_s)}", EXIT_REFUSED)
        except TqError as error:
            sentence, exit_code = told(error, place)
            fail(f"{sentence} {_so_far(run, window_s)}", exit_code)
        except KeyboardInterrupt:
            fail(f"Interrupted. {_so_far(run, window_s)}", EXIT_INTERRUPTED)
    if is_for_people(as_json):
        took_s = time.monotonic() - began_s
        again = f", {run.duplicates:,} of them before" if run.duplicates else ""
        click.echo(
            f"{count(run.messages, 'message')} sent{again}; {span(took_s)}, {run.messages / took_s:,.0f} a second"
        )
    else:
        print_json({"sent": run.messages, "duplicates": run.duplicates, "lines": run.sure, "run": run.id})


def _resumed(resume: str | None) -> tuple[str, int]:
    """The id of a run, and how many lines are sent for sure. Raises StartError."""
    if resume is None:
        return token_hex(6), 0
    found = re.fullmatch(r"([\w-]{1,60}):(\d{1,18})", resume, re.ASCII)
    if not found:
        raise StartError("--resume takes what an interrupted run has said, as 3f2a9c:120000.", EXIT_USAGE)
    return found[1], int(found[2])


def _so_far(run: _Run, window_s: float) -> str:
    """What is sent for sure, what may be, and how to go on."""
    if run.begun == run.sure:
        return f"Up to line {run.sure:,} all is sent, and nothing behind; to go on: --resume {run.id}:{run.sure}."
    said = f"Up to line {run.sure:,} all is sent, and up to {run.begun:,} it may be"
    if not window_s:
        return f"{said}; the queue has no dedup_window, so sending that again may double it."
    return f"{said}; to go on without doubling any, within {span(window_s)}: --resume {run.id}:{run.sure}."


@contextmanager
def _progress(file: BinaryIO, run: _Run) -> Iterator[Callable[[int], object]]:
    """A bar on a terminal; what is yielded is called with the bytes that were read."""
    if sys.stderr is None or not sys.stderr.isatty() or file.isatty():  # None where it was closed
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    figures = os.fstat(file.fileno())
    length = figures.st_size if stat.S_ISREG(figures.st_mode) else None
    began_s = time.monotonic()
    last_s = [began_s, 0.0]  # when something was sent, and how much

    class Rate(ProgressColumn):
        max_refresh = 0.1

        def render(self, task: Task) -> Text:
            now_s = time.monotonic()
            if run.messages != last_s[1]:
                last_s[:] = [now_s, run.messages]
            if run.begun > run.sure and now_s - last_s[0] > QUIET_SECONDS:
                return Text(f"waiting for the server, {span(now_s - last_s[0])}", "yellow")
            return Text(f"{run.messages:,} sent, {run.messages / max(now_s - began_s, 0.001):,.0f} a second")

    columns = [TextColumn("send"), BarColumn(), Rate(), *([TimeRemainingColumn()] if length else [])]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("send", total=length)
        yield lambda read: progress.advance(bar, read)
