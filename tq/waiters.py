"""Those who wait for a message, in the order in which they came.

One list for each queue, the oldest first; one who waits on several queues stands in each of their lists.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from sortedcontainers import SortedDict


class Waiter:
    """Somebody who waits on `queues`. `number` says when they came; one who waits again keeps it.

    `is_leasing`: for a lease, for which there may be no room though there is a message.
    """

    __slots__ = ("is_leasing", "number", "queues", "wake")

    def __init__(self, number: int, queues: tuple[str, ...], is_leasing: bool, wake: Callable[[], None]) -> None:
        self.number = number
        self.queues = queues
        self.is_leasing = is_leasing
        self.wake = wake


class Waiters:
    def __init__(self) -> None:
        self._lists: dict[str, SortedDict] = {}

    def add(self, waiter: Waiter) -> None:
        for name in waiter.queues:
            self._lists.setdefault(name, SortedDict())[waiter.number] = waiter

    def remove(self, waiter: Waiter) -> None:
        """Take a waiter off every list; one that stands on none stays so."""
        for name in waiter.queues:
            waiting = self._lists.get(name)
            if waiting is not None and waiting.pop(waiter.number, None) and not waiting:
                del self._lists[name]

    def take(self, queue: str, most: int | None = None) -> list[Waiter]:
        """Remove and return the oldest waiters of a queue, all of them without `most`."""
        taken = list(islice(self._lists[queue].values(), most)) if queue in self._lists else []
        for waiter in taken:
            self.remove(waiter)
        return taken

    def take_plain(self, queue: str) -> Waiter | None:
        """Remove and return the oldest waiter of a queue that is not for a lease."""
        waiting = self._lists[queue].values() if queue in self._lists else ()
        waiter = next((each for each in waiting if not each.is_leasing), None)
        if waiter:
            self.remove(waiter)
        return waiter

    def queues(self) -> list[str]:
        """The queues that somebody waits on."""
        return list(self._lists)

    def __len__(self) -> int:
        return len({number for waiting in self._lists.values() for number in waiting})
