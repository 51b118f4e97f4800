"""Group commit: one thread that commits everything that waits, again and again.

While it waits for the disk (the GIL is free then) more commands arrive, and they are the next group. There is no
timer and nothing to tune: groups grow with the load, and one alone is committed at once. The results of a group are
handed over in one call.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from tq.errors import Overloaded, StorageFailed
from tq.model import Command
from tq.store import Store

MAX_GROUP_COMMANDS = 1_000  # bounds the time until the first of a group is answered
MAX_GROUP_BYTES = 4 * 1024 * 1024

Done = Callable[[Any], None]
"""Called once with a command's result, or with the exception it failed with."""

log = logging.getLogger("tq.writer")


class Writer:
    """Owns the write side of a store from its first command to `close`."""

    def __init__(
        self,
        store: Store,
        clock: Callable[[], int],
        deliver: Callable[[list[tuple[Done, Any]]], None],
        *,
        max_waiting_commands: int,
        max_waiting_bytes: int,
    ) -> None:
        """`deliver` is called on the writer's thread with the results of each group, in order."""
        self._store = store
        self._clock = clock
        self._deliver = deliver
        self._max_commands = max_waiting_commands
        self._max_bytes = max_waiting_bytes
        self._waiting: deque[tuple[Command, Done]] = deque()
        self._waiting_bytes = 0
        self._changed = threading.Condition()
        self._is_closing = False
        self.failure: StorageFailed | None = None
        self._thread = threading.Thread(target=self._run, name="tq-writer", daemon=True)
        self._thread.start()

    def submit(self, command: Command, done: Done) -> None:
        """Queue a command for the next group. Raises Overloaded and StorageFailed."""
        size = command.cost_bytes
        with self._changed:
            if self.failure:
                raise self.failure
            if self._is_closing:
                raise Overloaded("The server is stopping.")
            if len(self._waiting) >= self._max_commands:
                raise Overloaded(f"{len(self._waiting):,} commands wait for the disk; try again.")
            if self._waiting and self._waiting_bytes + size > self._max_bytes:
                raise Overloaded(f"{self._waiting_bytes:,} bytes wait for the disk; try again.")
            self._waiting.append((command, done))
            self._waiting_bytes += size
            self._changed.notify()

    def close(self) -> None:
        """Commit what waits, then end the thread. Later commands get Overloaded."""
        with self._changed:
            self._is_closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            dones = [done for _, done in group]
            results = self._commit([command for command, _ in group])
            self._deliver(list(zip(dones, results, strict=True)))

    def _next_group(self) -> list[tuple[Command, Done]]:
        """What waits, as far as the bounds of a group allow; empty when the writer is to end."""
        group: list[tuple[Command, Done]] = []
        size = 0
        with self._changed:
            while not self._waiting and not self._is_closing:
                self._changed.wait()
            while self._waiting and len(group) < MAX_GROUP_COMMANDS and size < MAX_GROUP_BYTES:
                group.append(self._waiting.popleft())
                size += group[-1][0].cost_bytes
            self._waiting_bytes -= size
        return group

    def _commit(self, commands: list[Command]) -> list[Any]:
        if self.failure:
            return [self.failure] * len(commands)
        try:
            results = self._store.commit(commands, self._clock())
            if len(results) != len(commands):
                raise StorageFailed(f"{len(commands)} commands got {len(results)} results")
            return results
        except Exception as error:
            # Whatever it was, the state of the store is unknown now, and the promise is not to guess.
            log.exception("the storage failed")
            known = error if isinstance(error, StorageFailed) else StorageFailed(str(error))
            self.failure = known
            return [known] * len(commands)
