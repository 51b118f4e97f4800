"""`tq receive --exec`: a command for each message, in a process group of its own.

A signal to this process does not reach the commands: after the first, those that run are waited for; the second ends
them, as the timeout does, by SIGTERM to the group and then SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from contextlib import suppress

import msgspec
from msgspec import Struct

from tq.cli.leasing import Leases
from tq.cli.output import count, say
from tq.cli.remote import Place
from tq.cli.showing import content_alone, timestamp
from tq.client import Message
from tq.errors import EXIT_COMMAND, EXIT_EMPTY

GRACE_SECONDS = 5.0  # between SIGTERM and SIGKILL
CANNOT_RUN = (126, 127)  # by which a shell says that it cannot run a command


class Work(Struct, frozen=True):
    command: str
    jobs: int
    timeout_s: float | None
    retry_delay_s: float


class Executions:
    """Runs the command for messages of the leases, some at a time."""

    def __init__(self, place: Place, leases: Leases, queue: str, work: Work) -> None:
        self._leases, self._work = leases, work
        self._environment = {**os.environ, "TQ_URL": place.url, "TQ_QUEUE": queue}
        if place.token:
            self._environment["TQ_TOKEN"] = place.token
        self._left = self._received = self._failed = self._running = 0
        self._is_refused = False  # by the shell

    async def run(self, limit: int) -> int:
        """The exit code."""
        self._left = limit
        warning = asyncio.ensure_future(self._warn())
        workers = [asyncio.ensure_future(self._go_on()) for _ in range(min(self._work.jobs, limit))]
        results = await asyncio.gather(*workers, return_exceptions=True)
        warning.cancel()
        for result in results:
            if isinstance(result, BaseException):
                raise result
        if self._leases.stop.is_set() and not self._is_refused:
            raise KeyboardInterrupt
        return EXIT_COMMAND if self._failed else 0 if self._received else EXIT_EMPTY

    async def _go_on(self) -> None:
        try:
            while self._left:
                self._left -= 1
                messages = await self._leases.next(1)
                if not messages:
                    self._left += 1
                    return
                self._received += 1
                await self._execute(messages[0])
        except BaseException:
            self._leases.stop.set()  # the others end what they do, and no more is begun
            raise

    async def _warn(self) -> None:
        await self._leases.stop.wait()
        if self._running and not self._is_refused:
            say(f"Waiting for {count(self._running, 'command')}; once more to end what runs.")

    async def _execute(self, message: Message) -> None:
        self._running += 1
        async with self._leases.kept([message]):
            why = await self._run(message)
        self._running -= 1
        if why is None:
            await self._leases.ack([message])
            return
        self._failed += 1
        say(f"Message {message.id} is released: {why}.")
        await self._leases.release([message], 0 if self._leases.kill.is_set() else self._work.retry_delay_s)

    async def _run(self, message: Message) -> str | None:
        """Why the command has not handled it."""
        try:
            with tempfile.TemporaryFile() as stdin:
                stdin.write(content_alone(message))
                stdin.seek(0)
                process = await asyncio.create_subprocess_shell(
                    self._work.command,
                    stdin=stdin,
                    env={**self._environment, **_said_of(message)},
                    start_new_session=True,
                )
        except OSError as error:  # the disk is full, or there are more headers than an environment holds
            return f"the command cannot be started ({error.strerror})"
        ended = await self._end(process)
        if ended:
            return ended
        code = process.returncode or 0
        if code in CANNOT_RUN:
            self._is_refused = True
            self._leases.stop.set()
            return f"the shell cannot run the command ({code}), and no more are tried"
        if code < 0:
            return f"the command was ended by {signal.Signals(-code).name}"
        return f"the command ended with {code}" if code else None

    async def _end(self, process: asyncio.subprocess.Process) -> str | None:
        """Wait for its end; why it had to be brought about."""
        ending = asyncio.ensure_future(process.wait())
        killing = asyncio.ensure_future(self._leases.kill.wait())
        await asyncio.wait({ending, killing}, timeout=self._work.timeout_s, return_when=asyncio.FIRST_COMPLETED)
        killing.cancel()
        if ending.done():
            return None
        for signum in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signum)
            await asyncio.wait({ending}, timeout=GRACE_SECONDS)
        return "the command was interrupted" if self._leases.kill.is_set() else "the command took too long"


def _said_of(message: Message) -> dict[str, str]:
    """What the command finds in its environment. A variable cannot hold a NUL, which JSON escapes."""
    said = {
        "ID": str(message.id),
        "RECEIVE_COUNT": str(message.receive_count),
        "SENT_AT": timestamp(message.sent_at),
        "PRIORITY": str(message.priority),
        "GROUP": message.group or "",
        "DEDUP_ID": message.dedup_id or "",
        "CONTENT_TYPE": message.content_type or "",
        "HEADERS": msgspec.json.encode(message.headers).decode(),
    }
    return {f"TQ_{name}": text.replace("\0", "\N{REPLACEMENT CHARACTER}") for name, text in said.items()}
