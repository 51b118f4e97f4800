"""`tq receive`: messages to stdout, or to a command each.

A message is leased, handed over, and only then acknowledged. Whatever comes between gives it back: at once where this
process can say so, else when its lease is over.
"""

from __future__ import annotations

import asyncio
import math
import os
import stat
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from tq.cli.output import is_for_people, say
from tq.cli.remote import Place, on_server, queue_argument
from tq.cli.showing import form_for
from tq.errors import EXIT_EMPTY

if TYPE_CHECKING:
    from tq.cli.leasing import Leases
    from tq.client import Message

BATCH = 100  # messages that are printed together, and acknowledged in one request
CHUNK_BYTES = 4_096  # PIPE_BUF: a pipe that can be written to takes as much without a wait


@click.command()
@queue_argument
@click.option("--max", "most", type=click.IntRange(min=1), help="Messages at the most: 1, or with --follow all.")
@click.option("--follow", is_flag=True, help="Go on until Ctrl-C.")
@click.option("--wait", type=click.FloatRange(min=0), default=0.0, help="Seconds to wait when there is none.")
@click.option(
    "--lease",
    type=click.FloatRange(min=1, max=43_200),
    default=30.0,
    show_default=True,
    help="Seconds after which a message comes back if this command is killed; else it is made longer.",
)
@click.option("--raw", is_flag=True, help="Print the contents alone.")
@click.option("--exec", "command", metavar="CMD", help="Give each message to a command, on stdin.")
@click.option("--jobs", type=click.IntRange(min=1, max=1_000), default=1, show_default=True, help="Commands at a time.")
@click.option("--timeout", type=click.FloatRange(min=0.001), help="Seconds after which a command is ended.")
@click.option(
    "--retry-delay",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Seconds after which a message whose command failed can be received again.",
)
@on_server
def receive(
    place: Place,
    queue: str,
    as_json: bool,
    most: int | None,
    follow: bool,
    wait: float,
    lease: float,
    raw: bool,
    command: str | None,
    jobs: int,
    timeout: float | None,
    retry_delay: float,
) -> None:
    """Receive messages.

    Each is leased, printed, and then acknowledged; or given to a command, and acknowledged when that ends with 0. Else
    it goes back to the queue.
    """
    from tq.cli.leasing import Leases
    from tq.client import AsyncClient

    limit = most or (sys.maxsize if follow else 1)

    async def run() -> int:
        async with place.make(AsyncClient) as client:
            leases = Leases(place, client, queue, lease, math.inf if follow else wait)
            if command is not None:
                from tq.cli.executing import Executions, Work

                work = Work(command, jobs, timeout, retry_delay)
                return await Executions(place, leases, queue, work).run(limit)
            return await _print(leases, form_for(as_json, raw, follow or limit > 1), limit)

    code = asyncio.run(run())
    if code == EXIT_EMPTY and is_for_people(as_json):
        say(f"There is no message in {queue}.")
    sys.exit(code)


async def _print(leases: Leases, form: Callable[[Message], bytes], limit: int) -> int:
    """The exit code."""
    out = _Stdout()
    printed = 0
    while printed < limit and (messages := await leases.next(min(BATCH, limit - printed))):
        async with leases.kept(messages):
            try:
                is_written = await leases.until_stopped(out.write(b"".join(map(form, messages))))
            except OSError:
                await leases.release(messages)
                raise
        if not is_written:
            await leases.release(messages)
            break
        await leases.ack(messages)
        printed += len(messages)
    if leases.stop.is_set():
        raise KeyboardInterrupt
    return 0 if printed else EXIT_EMPTY


class _Stdout:
    """Writes what the reader takes, and can be cancelled while that takes nothing."""

    def __init__(self) -> None:
        self._fd = sys.stdout.fileno()
        self._is_file = stat.S_ISREG(os.fstat(self._fd).st_mode)

    async def write(self, data: bytes) -> bool:
        """True when all is written, into a file so that a crash of the system does not take it. Raises OSError."""
        rest = memoryview(data)
        while rest:
            await self._writable()
            rest = rest[os.write(self._fd, rest[:CHUNK_BYTES]) :]
        if self._is_file:
            os.fdatasync(self._fd)
        return True

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        free = loop.create_future()
        try:
            loop.add_writer(self._fd, free.set_result, None)
        except PermissionError:
            return  # of a file: it takes everything
        try:
            await free
        finally:
            loop.remove_writer(self._fd)
