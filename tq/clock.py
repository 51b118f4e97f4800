"""Time for timers: a clock that never jumps, kept beside the wall clock that does.

Leases, delays and lifetimes must neither end early nor hang because somebody sets the clock. So timers run on a clock
of their own: it starts at the wall clock's time and then counts real time (CLOCK_BOOTTIME, which goes on while the
machine sleeps). When the wall clock jumps, only the *offset* between the two changes; it is stored, so that a restart
knows it.

What the clock began from is stored too, with the start of the machine that the count belongs to. So as long as the
machine runs, the time in which the server was down is counted like any other, wherever the wall clock was set
meanwhile. After a start of the machine nothing but the wall clock tells how long that was, and it is believed; but when
it was set back, the timers' clock goes on from the latest time that was stored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from tq.model import Boot, Clock, SetClock

JUMP_MS = 1_000  # a smaller difference is the wall clock being slewed

log = logging.getLogger("tq.clock")

_STARTED = {"event": "machine_started"}


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def elapsed_ms() -> int:
    """Real time since some moment, never set and never going back."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000


def boot_id() -> str:
    """Tells the start of the machine, and the namespace, that `elapsed_ms` counts from; empty where it is not known."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return ""


class TimerClock:
    """`now_ms()` never goes back; `offset_ms` is how far it is ahead of the wall clock.

    `began_ms` is what it said when `elapsed_ms` was zero.
    """

    def __init__(
        self,
        latest_ms: int,
        offset_ms: int,
        wall_ms: Callable[[], int] = wall_ms,
        elapsed_ms: Callable[[], int] = elapsed_ms,
        began_ms: int | None = None,
    ) -> None:
        """`latest_ms` and `offset_ms` as they were last stored; zeros when they never were.

        `began_ms` as it was stored, if that was of the same count; else None.
        """
        self._wall_ms = wall_ms
        self._elapsed_ms = elapsed_ms
        counted_ms = elapsed_ms()
        if began_ms is None or began_ms + counted_ms < latest_ms:  # less than was counted before is another count
            began_ms = max(wall_ms() + offset_ms, latest_ms) - counted_ms
        self.began_ms = began_ms
        self.offset_ms = offset_ms
        self.follow()

    @classmethod
    def resumed(cls, stored: Clock) -> TimerClock:
        """The clock of this machine, as it goes on from what was stored."""
        boot = stored.boot
        if boot and boot.id != boot_id():
            log.info("the machine was started since: how long that took is known by the wall clock alone", _STARTED)
        began_ms = boot.began_ms if boot and boot.id == boot_id() else None
        return cls(stored.latest_ms, stored.offset_ms, began_ms=began_ms)

    def to_store(self) -> SetClock:
        """The command by which the next clock knows what this one has found."""
        boot = boot_id()
        return SetClock(self.offset_ms, Boot(boot, self.began_ms) if boot else None)

    def now_ms(self) -> int:
        return self.began_ms + self._elapsed_ms()

    def follow(self) -> bool:
        """Look at the wall clock; True when it has jumped, and `offset_ms` changed with it."""
        offset_ms = self.now_ms() - self._wall_ms()
        if abs(offset_ms - self.offset_ms) < JUMP_MS:
            return False
        self.offset_ms = offset_ms
        return True
