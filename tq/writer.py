"""Group commit: all commands that wait are committed together, again and again.

There is no timer and nothing to tune: what arrives while a group is committed, or in the same turn of the event loop,
is the next group, so groups grow with the load, and one command alone is committed at once. The results of a group
are handed over in one call.

*Where a group is committed.* On the event loop itself while that is quick: a thread would fight with the loop for the
GIL at every system call. A disk that turns out to be slow, or was not used for a while, or a group that is large, gets
a thread, and the loop goes on serving meanwhile. So only a disk that stalls in the midst of work is found out on the
loop, once. Either way one commit runs at a time, from its begin to its end on one thread, as LMDB wants it.

*What is due.* A `Tick` stands before the commands of every group, so that what is due is done first, and another behind
them, which says what is due next. The writer wakes by itself then.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from tq.errors import Overloaded, StorageFailed
from tq.logs import SIGNALS
from tq.metrics import Metrics
from tq.model import Command, Tick, Ticked
from tq.store import Store

MAX_GROUP_COMMANDS = 1_000  # bounds the time until the first of a group is answered
MAX_GROUP_BYTES = 4 * 1024 * 1024
MAX_DUE = 50  # timers done in one group, 1 to 2 ms of work: a million that end at once must not hold up the requests
RETRY_MS = 1_000  # until what is due is tried again when it failed, as on a full disk
MAX_SLEEP_S = 1.0  # how soon it is noticed that the machine itself has slept
INLINE_BYTES = 256 * 1024  # a group that costs less is committed on the loop: a few ms of work, but for large bodies …
SLOW_S = 0.03  # … and a commit that takes longer was the last on the loop,
QUICK_COMMITS = 10  # until so many in a row were quicker again
SLOW_COMMIT_S = 0.5  # and longer is told: who waits for an answer notices, and no disk that is well takes so long
TELL_S = 60.0  # where commits are made is told once in this time, for a disk may be quick and slow by turns
IDLE_S = 1.0  # after which it is not known any more that the disk is quick: the first commit then gets the thread

log = logging.getLogger("tq.writer")


class Entry:
    """A command that waits. One that `is_dropped` in time is neither applied nor delivered."""

    command: Command
    cost_bytes = 0  # the command's, once it waits
    came_s = 0.0  # when the first command of its turn of the loop began to wait
    is_dropped = False


E = TypeVar("E", bound=Entry)


class Writer(Generic[E]):
    """Owns the write side of a store, from its first command to `close`. It lives on the running event loop."""

    def __init__(
        self,
        store: Store,
        now_ms: Callable[[], int],
        deliver: Callable[[Sequence[E], Sequence[Any], Any], None],
        *,
        max_waiting_commands: int,
        max_waiting_bytes: int,
        metrics: Metrics | None = None,
    ) -> None:
        """`deliver` is called on the loop with the entries of each group, what came of each, and the last `Ticked`.

        What came of it is a result or the exception that the command failed with; what it did is on disk.
        """
        self._store = store
        self._now_ms = now_ms
        self._deliver = deliver
        self._max_commands = max_waiting_commands
        self._max_bytes = max_waiting_bytes
        self._loop = asyncio.get_running_loop()
        self._thread = ThreadPoolExecutor(1, "tq-writer", signal.pthread_sigmask, (signal.SIG_BLOCK, SIGNALS))
        self._waiting: deque[E] = deque()
        self._waiting_bytes = 0
        self._came_s = 0.0
        self._is_scheduled = False
        self._is_committing = False  # on the thread
        self._is_closing = False
        self._quick_commits = QUICK_COMMITS
        self._is_told_slow = False  # the log says that commits are made on the thread
        self._may_tell_s = 0.0
        self._known_until_s = 0.0  # how long the disk is taken to be as quick as it was
        self._next_due_ms: int | None = 0  # unknown until the first group: look at once
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_ms = 0
        self._idle = asyncio.Event()
        self.failure: StorageFailed | None = None
        self._metrics = metrics or Metrics()
        self._metrics.gauges["waiting_commands"] = lambda: len(self._waiting)
        self._metrics.gauges["waiting_commands_max"] = lambda: self._max_commands
        self._metrics.gauges["store_failed"] = lambda: self.failure is not None
        self._metrics.gauges["waiting_command_bytes"] = lambda: self._waiting_bytes
        self._schedule()

    def submit(self, entry: E, *, is_owed: bool = False) -> None:
        """Queue a command for the next group. Raises Overloaded and StorageFailed.

        What is owed is taken even when too much waits, and while the writer closes.
        """
        size = entry.command.cost_bytes
        if self.failure:
            raise self.failure
        if is_owed:
            self._enqueue(entry, size)
            return
        if self._is_closing:
            raise Overloaded("The server is stopping.")
        if len(self._waiting) >= self._max_commands:
            self._metrics.refused["waiting_commands"] += 1
            raise Overloaded(f"{len(self._waiting):,} commands wait for the disk; try again.")
        if self._waiting and self._waiting_bytes + size > self._max_bytes:
            self._metrics.refused["waiting_bytes"] += 1
            raise Overloaded(f"{self._waiting_bytes:,} bytes wait for the disk; try again.")
        self._enqueue(entry, size)

    def _enqueue(self, entry: E, size: int) -> None:
        entry.cost_bytes = size
        self._waiting.append(entry)
        self._waiting_bytes += size
        if not self._is_scheduled:
            self._schedule()
        entry.came_s = self._came_s

    async def close(self) -> None:
        """Commit what waits. Later commands get Overloaded."""
        self._is_closing = True
        while self._waiting or self._is_committing:
            self._idle.clear()
            await self._idle.wait()
        if self._alarm:
            self._alarm.cancel()
        self._thread.shutdown(wait=False)  # it has nothing to do any more

    # --- groups -------------------------------------------------------------

    def _schedule(self) -> None:
        """Commit in the next turn of the loop: whatever else is read in this one is in the group."""
        self._came_s = time.perf_counter()
        if not self._is_committing:
            self._is_scheduled = True
            self._loop.call_soon(self._run)

    def _run(self) -> None:
        self._is_scheduled = False
        if self._is_committing or not (self._waiting or (self._is_due() and not self._is_closing)):
            return
        entries, size = self._next_group()
        commands = [Tick(MAX_DUE), *[entry.command for entry in entries], Tick(0)]
        is_known_quick = self._quick_commits >= QUICK_COMMITS and time.perf_counter() < self._known_until_s
        if is_known_quick and size < INLINE_BYTES:
            self._done(entries, commands, *self._commit(commands), size)
        else:
            self._is_committing = True
            self._metrics.commits_aside += 1
            self._thread.submit(self._commit_aside, entries, commands, size)

    def _next_group(self) -> tuple[list[E], int]:
        """What waits, as far as the bounds of a group allow, and what it costs."""
        size = self._waiting_bytes
        if len(self._waiting) <= MAX_GROUP_COMMANDS and size <= MAX_GROUP_BYTES:
            group = list(self._waiting)
            self._waiting.clear()
        else:
            group = []
            size = 0
            while self._waiting and len(group) < MAX_GROUP_COMMANDS and size < MAX_GROUP_BYTES:
                entry = self._waiting.popleft()
                size += entry.cost_bytes
                group.append(entry)
        self._waiting_bytes -= size
        return [entry for entry in group if not entry.is_dropped], size

    def _commit_aside(self, entries: list[E], commands: list[Command], size: int) -> None:
        """On the thread."""
        results, took_s = self._commit(commands)
        self._loop.call_soon_threadsafe(self._done_aside, entries, commands, results, took_s, size)

    def _done_aside(
        self, entries: list[E], commands: list[Command], results: list[Any], took_s: float, size: int
    ) -> None:
        self._is_committing = False
        self._done(entries, commands, results, took_s, size)

    def _commit(self, commands: list[Command]) -> tuple[list[Any], float]:
        """The results, and how long it took; nothing when it failed."""
        if self.failure:
            return [self.failure] * len(commands), 0
        began_s = time.perf_counter()
        try:
            results = self._store.commit(commands, self._now_ms())
            if len(results) != len(commands):
                raise StorageFailed(f"{len(commands)} commands got {len(results)} results")
            ended_s = time.perf_counter()
            self._known_until_s = ended_s + IDLE_S
            return results, ended_s - began_s
        except Exception as error:
            # Whatever it was, the state of the store is unknown now, and the promise is not to guess.
            known = error if isinstance(error, StorageFailed) else StorageFailed(str(error))
            told = {"event": "storage_failed", "error": str(known)}
            log.error("the storage failed: %(error)s", told, exc_info=None if known is error else error)
            self.failure = known
            return [known] * len(commands), 0

    def _done(self, entries: list[E], commands: list[Command], results: list[Any], took_s: float, size: int) -> None:
        self._quick_commits = 0 if took_s > SLOW_S else self._quick_commits + 1
        if took_s:
            self._metrics.add_commit(len(entries), size, took_s, self._store.synced_s)
        if took_s > SLOW_S or self._is_told_slow:
            self._tell(len(entries), took_s)
        ticked = results[-1]
        self._next_due_ms = ticked.next_due_ms if isinstance(ticked, Ticked) else None
        if isinstance(results[0], Exception) and self._next_due_ms is not None:
            self._next_due_ms = max(self._next_due_ms, self._now_ms() + RETRY_MS)
        try:
            self._deliver(entries, results[1:-1], ticked)
        finally:
            self._time(entries, commands)
            self._go_on()

    def _time(self, entries: list[E], commands: list[Command]) -> None:
        """Count how long the commands of a group took, from the turn of the loop that brought them until now."""
        if not entries:
            return
        now_s = time.perf_counter()
        if entries[0].came_s == entries[-1].came_s:
            self._metrics.add_group(commands, now_s - entries[0].came_s)
        else:
            for entry in entries:
                self._metrics.command_seconds(type(entry.command)).add(now_s - entry.came_s)

    def _tell(self, commands: int, took_s: float) -> None:
        """Say in the log that the disk is slow, or quick again."""
        told = {"commands": commands, "seconds": round(took_s, 3)}
        if took_s > SLOW_COMMIT_S:
            log.warning("a commit of %(commands)d commands took %(seconds).3f s", {"event": "slow_commit", **told})
        is_slow = self._quick_commits < QUICK_COMMITS
        now_s = time.monotonic()
        if is_slow == self._is_told_slow or now_s < self._may_tell_s:
            return
        self._is_told_slow = is_slow
        self._may_tell_s = now_s + TELL_S
        if is_slow:
            log.info("a commit took %(seconds).3f s: commits go to the thread", {"event": "commits_on_thread", **told})
        else:
            log.info("the disk is quick again: commits are made on the loop", {"event": "commits_on_loop"})

    def _go_on(self) -> None:
        """See to it that the next group comes in its time."""
        if not self._waiting:
            self._idle.set()
            if self._is_closing or not self._is_due():
                self._set_alarm()
                return
        if not self._is_scheduled:
            self._schedule()

    # --- what is due -------------------------------------------------------------

    def _is_due(self) -> bool:
        """There is something to do without a command. Once the storage failed nothing ever is."""
        return self._next_due_ms is not None and self._next_due_ms <= self._now_ms()

    def _set_alarm(self) -> None:
        """Wake when something is due; one that is set already for an earlier time goes off first."""
        due_ms = self._next_due_ms
        if due_ms is None or self._is_closing or (self._alarm and self._alarm_ms <= due_ms):
            return
        if self._alarm:
            self._alarm.cancel()
        self._alarm_ms = due_ms
        sleep_s = max(0, due_ms - self._now_ms()) / 1000
        self._alarm = self._loop.call_later(min(sleep_s, MAX_SLEEP_S), self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        if not self._is_due():
            self._set_alarm()
        elif not self._is_scheduled:
            self._schedule()
