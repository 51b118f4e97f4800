"""Programs that use the client as programs do and tell what they did: `python -m tests.consuming ROLE URL LOG NAME`.

They go on until SIGTERM, or until they are killed. What they ask of the server is recorded with it (`tests.recorded`).
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

import tq
from tests.recorded import Log, record

QUEUE = "jobs"
TIMEOUT_S = 1.0  # for an answer: a connection that is silent is given up soon
LEASE_S = 1.0
WAIT_S = 0.5
PREFETCH = 8
IN_FLIGHT = 4
MAX_BATCH = 15
GROUP_SIZE = 5  # so many in a row
GIVEN_UP = (tq.errors.QueueFull, tq.NoAnswer)  # after half a minute of tries; then something else is sent
TEXT = "".join(random.Random(0).choices("abcdefg 0123456789 {}[],: äß€漢字", k=5_000))


class Failed(Exception):
    """What the work on a message may end with."""


class Program:
    log: Log

    def __init__(self, url: str, name: str) -> None:
        self.url = url
        self.chance = random.Random(name)
        self.is_over = False
        self.stop: Callable[[], object] = lambda: None
        self._name = name
        self._count = 0

    def end(self, *_: object) -> None:
        self.is_over = True
        self.stop()

    # --- sending -------------------------------------------------------------

    def drafts(self) -> list[tq.Envelope]:
        """Contents that no one else sends: one, or some."""
        return [self._draft() for _ in range(self.chance.choice((1, 1, self.chance.randrange(2, MAX_BATCH))))]

    def _draft(self) -> tq.Envelope:
        self._count += 1
        size = int(len(TEXT) ** self.chance.random())
        content = {"by": self._name, "number": self._count, "text": TEXT[:size]}
        is_grouped = self._count // GROUP_SIZE % 3 == 0
        return tq.Envelope(content=content, group=f"{self._name} {self._count // GROUP_SIZE}" if is_grouped else None)

    # --- consuming -------------------------------------------------------------

    def work(self, message: tq.Message) -> float:
        """Begin to work on a message: for how many seconds that is."""
        self._tell("handling", message)
        return self.chance.choices((0, 0.02, 1.5 * LEASE_S), (100, 10, 1))[0]

    def end_work(self, message: tq.Message) -> None:
        """Raises Failed now and then."""
        if self.chance.random() < 0.02:
            self._tell("failed", message)
            raise Failed
        self._tell("handled", message)

    def _tell(self, kind: str, message: tq.Message) -> None:
        self.log.write(kind, receipt=message.receipt, content=msgspec.Raw(message.raw))


def produce(program: Program) -> None:
    with tq.Client(program.url, timeout=TIMEOUT_S) as client:
        while not program.is_over:
            drafts = program.drafts()
            with suppress(*GIVEN_UP):
                if len(drafts) == 1:
                    client.send(QUEUE, drafts[0].content, group=drafts[0].group)
                else:
                    client.send_many(QUEUE, drafts)


async def produce_async(program: Program) -> None:
    async with tq.AsyncClient(program.url, timeout=TIMEOUT_S) as client:

        async def one() -> None:
            while not program.is_over:
                drafts = program.drafts()
                with suppress(*GIVEN_UP):
                    if len(drafts) == 1:
                        await client.send(QUEUE, drafts[0].content, group=drafts[0].group)
                    else:
                        await client.send_many(QUEUE, drafts)

        await asyncio.gather(*[one() for _ in range(IN_FLIGHT)])


OPTIONS: dict[str, Any] = {"visibility_timeout": LEASE_S, "prefetch": PREFETCH, "wait": WAIT_S}


def consume(program: Program, threads: int = 1) -> None:
    """An exception ends `consume`, as it does in a program that does not catch it; this one begins again."""
    with tq.Client(program.url, timeout=TIMEOUT_S) as client:
        while not program.is_over:
            with client.consume(QUEUE, **OPTIONS) as messages:
                program.stop = messages.stop
                others = [threading.Thread(target=handle, args=(program, messages)) for _ in range(threads - 1)]
                for other in others:
                    other.start()
                handle(program, messages)
                for other in others:
                    other.join()


def handle(program: Program, messages: Any) -> None:
    try:
        for message in messages:
            time.sleep(program.work(message))
            program.end_work(message)
    except Failed:
        messages.stop()


def consume_with_threads(program: Program) -> None:
    consume(program, 3)


async def consume_async(program: Program) -> None:
    async with tq.AsyncClient(program.url, timeout=TIMEOUT_S) as client:
        while not program.is_over:
            try:
                async with client.consume(QUEUE, **OPTIONS) as messages:
                    program.stop = messages.stop
                    async for message in messages:
                        await asyncio.sleep(program.work(message))
                        program.end_work(message)
            except Failed:
                pass


ROLES: dict[str, Callable[[Program], object]] = {
    "producer": produce,
    "async producer": lambda program: asyncio.run(produce_async(program)),
    "consumer": consume,
    "threads": consume_with_threads,
    "async consumer": lambda program: asyncio.run(consume_async(program)),
}


def main(role: str, url: str, path: str, name: str) -> None:
    """The log is there when SIGTERM can come."""
    program = Program(url, name)
    signal.signal(signal.SIGTERM, program.end)
    program.log = Log(Path(path))
    record(program.log)
    ROLES[role](program)


if __name__ == "__main__":
    main(*sys.argv[1:])
