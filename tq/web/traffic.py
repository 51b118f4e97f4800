"""All connections of a server together: how many there may be, and the memory of what is on its way.

A request is held until all of it is there, and an answer until its client has taken it. Each connection may hold
`FREE_BYTES` of both, so that those with small requests notice nothing of the others; what is more is weighed, and
where it is too much over all connections, the slowest of them gives way. So whoever stands still goes first, who is
quickest always gets to the end, and one who is alone is never too much.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from tq.errors import Overloaded

ROOM = 8  # a part of what may be held is made free at once: to look for the slowest takes some milliseconds
FREE_BYTES = 64 * 1024  # of each connection; as much as is read ahead of what is parsed


class Limits(Struct, frozen=True):
    """How much there may be: over all connections, then of one: the bytes of a request and the seconds of silence."""

    max_connections: int
    max_connections_per_address: int
    max_transit_bytes: int
    max_header_bytes: int
    max_body_bytes: int
    header_seconds: float
    body_seconds: float
    idle_seconds: float


class Member(Protocol):
    """A connection as seen from here. `weighed_bytes` are kept by `Traffic`."""

    peer: str
    weighed_bytes: int

    def speed(self) -> float:
        """Bytes that came or left in a second, of the request or answer that is on its way."""

    def give_way(self) -> None:
        """Let go of what is held."""


M = TypeVar("M", bound=Member)


class Traffic(Generic[M]):
    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.members: set[M] = set()
        self._by_address: Counter[str] = Counter()
        self._weighed: set[M] = set()
        self._weighed_bytes = 0

    def enter(self, member: M) -> tuple[Overloaded | None, int]:
        """Count one more. Why it must be refused, and how many are too many with it."""
        self.members.add(member)
        self._by_address[member.peer] += 1
        over = len(self.members) - self.limits.max_connections
        if over > 0:
            return Overloaded("There are too many connections."), over
        over = self._by_address[member.peer] - self.limits.max_connections_per_address
        if over > 0:
            return Overloaded("There are too many connections from this address."), over
        return None, 0

    def count_from(self, peer: str) -> int:
        return self._by_address[peer]

    def leave(self, member: M) -> None:
        self.members.discard(member)
        self._by_address[member.peer] -= 1
        if not self._by_address[member.peer]:
            del self._by_address[member.peer]
        self.weigh(member, 0)

    def weigh(self, member: M, held_bytes: int) -> None:
        """Note how much one holds. Where it is too much now, the slowest give way, for some room at once."""
        before = member.weighed_bytes
        self._set(member, max(0, held_bytes - FREE_BYTES))
        most = self.limits.max_transit_bytes
        if member.weighed_bytes <= before or self._weighed_bytes <= most:
            return
        for slowest in sorted(self._weighed, key=lambda each: each.speed())[:-1]:
            if self._weighed_bytes <= most - most // ROOM:
                break
            self._set(slowest, 0)
            slowest.give_way()

    def _set(self, member: M, weighed_bytes: int) -> None:
        self._weighed_bytes += weighed_bytes - member.weighed_bytes
        member.weighed_bytes = weighed_bytes
        if weighed_bytes:
            self._weighed.add(member)
        else:
            self._weighed.discard(member)
