"""Group commit: one thread that commits everything that waits, again and again.

While it waits for the disk (the GIL is free then) more commands arrive, and they are the next group. There is no
timer and nothing to tune: groups grow with the load, and one alone is committed at once. The results of a group are
handed over in one call.

A `Tick` stands before the commands of every group, so that what is due is done first, and another behind them, which
says what is due next. The thread sleeps until then at the most.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from tq.errors import Overloaded, StorageFailed
from tq.model import Command, Tick, Ticked
from tq.store import Store

MAX_GROUP_COMMANDS = 1_000  # bounds the time until the first of a group is answered
MAX_GROUP_BYTES = 4 * 1024 * 1024
MAX_DUE = 100  # timers done in one group, 3 ms of work: a million that end at once must not hold up the requests
MAX_SLEEP_S = 1.0  # how soon it is noticed that the machine itself has slept

Done = Callable[[Any], None]
"""Called once with a command's result, or with the exception it failed with."""

log = logging.getLogger("tq.writer")


class Entry:
    """A command that waits. Cancelled before its group is formed, it is never applied and never done."""

    __slots__ = ("command", "done", "is_cancelled")

    def __init__(self, command: Command, done: Done) -> None:
        self.command = command
        self.done = done
        self.is_cancelled = False


class Writer:
    """Owns the write side of a store from its first command to `close`."""

    def __init__(
        self,
        store: Store,
        now_ms: Callable[[], int],
        deliver: Callable[[Sequence[tuple[Entry, Any]], Any], None],
        *,
        max_waiting_commands: int,
        max_waiting_bytes: int,
    ) -> None:
        """`deliver` is called on the writer's thread with the results of each group, in order, and its `Ticked`."""
        self._store = store
        self._now_ms = now_ms
        self._deliver = deliver
        self._max_commands = max_waiting_commands
        self._max_bytes = max_waiting_bytes
        self._waiting: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self._next_due_ms: int | None = 0  # unknown until the first group: look at once
        self.failure: StorageFailed | None = None
        self._thread = threading.Thread(target=self._run, name="tq-writer", daemon=True)
        self._thread.start()

    def submit(self, command: Command, done: Done) -> Entry:
        """Queue a command for the next group. Raises Overloaded and StorageFailed."""
        size = command.cost_bytes
        entry = Entry(command, done)
        with self._changed:
            if self.failure:
                raise self.failure
            if self._is_closing:
                raise Overloaded("The server is stopping.")
            if len(self._waiting) >= self._max_commands:
                raise Overloaded(f"{len(self._waiting):,} commands wait for the disk; try again.")
            if self._waiting and self._waiting_bytes + size > self._max_bytes:
                raise Overloaded(f"{self._waiting_bytes:,} bytes wait for the disk; try again.")
            self._waiting.append(entry)
            self._waiting_bytes += size
            self._changed.notify()
        return entry

    def close(self) -> None:
        """Commit what waits, then end the thread. Later commands get Overloaded."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while (entries := self._next_group()) is not None:
            commands = [Tick(MAX_DUE), *(entry.command for entry in entries), Tick(0)]
            _, *results, ticked = self._commit(commands)
            self._next_due_ms = ticked.next_due_ms if isinstance(ticked, Ticked) else None
            self._deliver(list(zip(entries, results, strict=True)), ticked)

    def _next_group(self) -> list[Entry] | None:
        """What waits, as far as the bounds of a group allow; nothing when only a timer is due, None at the end."""
        group: list[Entry] = []
        size = 0
        with self._changed:
            while not self._waiting:
                if self._is_closing:
                    return None
                sleep_s = self._sleep_s()
                if sleep_s == 0:
                    break
                self._changed.wait(sleep_s)
            while self._waiting and len(group) < MAX_GROUP_COMMANDS and size < MAX_GROUP_BYTES:
                entry = self._waiting.popleft()
                size += entry.command.cost_bytes
                if not entry.is_cancelled:
                    group.append(entry)
            self._waiting_bytes -= size
        return group

    def _sleep_s(self) -> float | None:
        """How long nothing is due; None for ever, or once the storage failed."""
        if self._next_due_ms is None or self.failure:
            return None
        return min(max(0, self._next_due_ms - self._now_ms()) / 1000, MAX_SLEEP_S)

    def _commit(self, commands: list[Command]) -> list[Any]:
        if self.failure:
            return [self.failure] * len(commands)
        try:
            results = self._store.commit(commands, self._now_ms())
            if len(results) != len(commands):
                raise StorageFailed(f"{len(commands)} commands got {len(results)} results")
            return results
        except Exception as error:
            # Whatever it was, the state of the store is unknown now, and the promise is not to guess.
            log.exception("the storage failed")
            known = error if isinstance(error, StorageFailed) else StorageFailed(str(error))
            self.failure = known
            return [known] * len(commands)
