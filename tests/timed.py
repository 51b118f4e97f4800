"""A store that takes as long for a commit as it is told, and commands for a writer on it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from tq.model import Command, Ticked
from tq.writer import Entry, Writer

PATIENCE_S = 10  # only how long a test that fails takes to say so


class Wish(Entry):
    """An entry whose result is handed to a function."""

    def __init__(self, command: Command, done: Callable[[Any], None]) -> None:
        self.command = command
        self.done = done


class Sized(Command, frozen=True):
    """A command of a cost of its own choice."""

    cost: int

    @property
    def cost_bytes(self) -> int:
        return self.cost


class TimedStore:
    """Takes as long for a commit as it is told, and notes the threads that commit."""

    def __init__(self) -> None:
        self.took_s = 0.0
        self.synced_s = 0.0
        self.threads: list[str] = []

    def commit(self, commands: list[Command], now_ms: int) -> list[Any]:
        self.threads.append("loop" if threading.current_thread() is threading.main_thread() else "aside")
        time.sleep(self.took_s)
        return [Ticked(None, {}), *commands[1:-1], Ticked(None, {})]


async def committed(timed: Writer, command: Command) -> Any:
    """Submit a command and wait for its result."""
    future = asyncio.get_running_loop().create_future()
    timed.submit(Wish(command, future.set_result))
    return await asyncio.wait_for(future, PATIENCE_S)


def deliver(entries: Sequence[Entry], results: Sequence[Any], ticked: Any) -> None:
    for entry, result in zip(entries, results, strict=True):
        entry.done(result)
