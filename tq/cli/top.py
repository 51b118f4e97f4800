"""`tq top`: the queues of a server as they change."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
from msgspec import Struct

from tq.cli.completion import queue_names
from tq.cli.output import count, escaped, is_for_people, print_json, span, table
from tq.cli.remote import Place, on_server, passes, told
from tq.cli.showing import timestamp
from tq.errors import TqError

if TYPE_CHECKING:
    from rich.console import RenderableType

    from tq.client import Client, Queue

OTHER_LINES = 5  # of a screen: what is above and below the rows
TITLES = ("queue", "ready", "in flight", "delayed", "sent/s", "received/s", "acked/s", "oldest")
SPARED = ("delayed", "received/s", "in flight", "sent/s", "acked/s")  # where the terminal is narrow


class Row(Struct, frozen=True):
    """A queue at one moment; rates are null until it was looked at twice."""

    name: str
    ready: int
    in_flight: int
    delayed: int
    blocked: int
    bytes: int
    oldest_message_age_seconds: float | None
    sent_per_second: float | None
    received_per_second: float | None
    acked_per_second: float | None

    @property
    def depth(self) -> int:
        return self.ready + self.in_flight + self.delayed + self.blocked


# Which rows stand first; of equal ones the first by name.
SORTS: dict[str, Callable[[Row], float]] = {
    "depth": lambda row: -row.depth,
    "rate": lambda row: -((row.sent_per_second or 0) + (row.acked_per_second or 0)),
    "age": lambda row: -(row.oldest_message_age_seconds or 0),
    "name": lambda row: 0,
}


def rows(queues: Sequence[Queue], before: Sequence[Queue], seconds: float) -> list[Row]:
    """What the queues are now, with rates since the look `seconds` ago."""
    earlier = {queue.name: queue for queue in before}
    return [_row(queue, earlier.get(queue.name), seconds) for queue in queues]


def _row(queue: Queue, before: Queue | None, seconds: float) -> Row:
    rates: list[float | None] = [None, None, None]
    if before and before.created_at == queue.created_at:  # else it is another one of the name
        for at, name in enumerate(("sent", "received", "acked")):
            rates[at] = round((getattr(queue.totals, name) - getattr(before.totals, name)) / seconds, 1)
    held = queue.messages
    counts = (held.ready, held.in_flight, held.delayed, held.blocked)
    return Row(queue.name, *counts, queue.bytes, queue.oldest_message_age_seconds, *rates)


class Looks:
    """Looks at the queues of a server, each compared with the one before."""

    def __init__(self, place: Place, client: Client, prefix: str, sort: str) -> None:
        self.rows: list[Row] = []
        self.failure = ""  # of the last look: a sentence
        self._place, self._client, self._prefix = place, client, prefix
        self._order = SORTS[sort]
        self._queues: list[Queue] = []
        self._at_s = 0.0

    def look(self) -> None:
        """A server that has answered before and does not is looked at again next time. Raises TqError."""
        now_s = time.monotonic()
        try:
            queues = self._client.queues(self._prefix)
        except TqError as error:
            if not (self._at_s and passes(error)):
                raise
            self.failure = told(error, self._place)[0]
            return
        self.failure = ""
        # The list is by name, and sorting is stable.
        self.rows = sorted(rows(queues, self._queues, now_s - self._at_s), key=self._order)
        self._queues, self._at_s = queues, now_s

    def as_json(self) -> dict[str, Any]:
        said: dict[str, Any] = {"at": timestamp(datetime.now(UTC))}
        return said | ({"error": self.failure} if self.failure else {"queues": self.rows})

    def for_people(self, width: int, height: int | None) -> RenderableType:
        """As many rows as there is room for."""
        from rich.console import Group
        from rich.text import Text

        shown = self.rows if height is None else self.rows[: max(0, height - OTHER_LINES)]
        total = sum(row.depth for row in self.rows)
        head = f"{self._place.url}   {count(len(self.rows), 'queue')}, {count(total, 'message')}"
        rest = len(self.rows) - len(shown)
        return Group(
            Text(escaped(head), no_wrap=True, overflow="ellipsis"),
            Text(escaped(self.failure), "red", no_wrap=True, overflow="ellipsis"),
            table(TITLES, map(_cells, shown), width, SPARED, folds=height is None),
            Text(f"and {count(rest, 'queue')} more" if rest else ""),
        )


def _cells(row: Row) -> tuple[str, ...]:
    rates = ["" if rate is None else f"{rate:,.1f}" for rate in (row.sent_per_second, row.received_per_second)]
    acked = "" if row.acked_per_second is None else f"{row.acked_per_second:,.1f}"
    return (
        row.name,
        *[f"{figure:,}" for figure in (row.ready, row.in_flight, row.delayed)],
        *rates,
        acked,
        span(row.oldest_message_age_seconds),
    )


@click.command()
@click.argument("prefix", default="", shell_complete=queue_names)
@click.option(
    "--sort", type=click.Choice(list(SORTS)), default="depth", show_default=True, help="Which queues stand first."
)
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Print one table, after two looks.")
@on_server
def top(place: Place, prefix: str, as_json: bool, sort: str, interval: float, once: bool) -> None:
    """Watch the queues: depth, age and rates.

    All queues, or those whose names begin with PREFIX. It ends with q or Ctrl-C.
    """
    from rich.console import Console
    from rich.live import Live

    with place.client(retry_seconds=0) as client:
        looks = Looks(place, client, prefix, sort)
        looks.look()
        if not is_for_people(as_json):
            for _ in _turns(interval, once):
                looks.look()
                print_json(looks.as_json())
            return
        console = Console(highlight=False)
        if once:
            for _ in _turns(interval, once):
                looks.look()
            console.print(looks.for_people(console.width, None))
            return
        with Live(console=console, screen=True, auto_refresh=False) as live:
            live.update(looks.for_people(console.width, console.height), refresh=True)
            for _ in _turns(interval, once):
                looks.look()
                live.update(looks.for_people(console.width, console.height), refresh=True)


def _turns(interval: float, once: bool) -> Iterator[None]:
    """One each `interval` seconds, until q is typed."""
    with _keys() as fds:
        next_s = time.monotonic() + interval
        while True:
            while (left_s := next_s - time.monotonic()) > 0:
                if select.select(fds, [], [], left_s)[0] and os.read(fds[0], 100) in (b"q", b"Q", b""):
                    return
            next_s = max(next_s + interval, time.monotonic())
            yield
            if once:
                return


@contextmanager
def _keys() -> Iterator[list[int]]:
    """The terminal that keys are typed at, if there is one; each is known at once, and not shown."""
    if sys.stdin is None or not (sys.stdin.isatty() and sys.stdout.isatty()):  # None where it was closed
        yield []
        return
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    tty.setcbreak(fd)
    try:
        yield [fd]
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
