"""All connections of a server together: how many there may be, and the memory of what is on its way.

A request is held until all of it is there, and an answer until its client has taken it. Each connection may hold
`FREE_BYTES` of both, so that those with small requests notice nothing of the others; what is more is weighed, and
where it is too much over all connections, the slowest of them gives way. So whoever stands still goes first, who is
quickest always gets to the end, and one who is alone is never too much.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import Generic, Protocol, TypeVar

from msgspec import Struct

from tq.errors import Overloaded
from tq.metrics import Metrics

ROOM = 8  # a part of what may be held is made free at once: to look for the slowest takes some milliseconds
FREE_BYTES = 64 * 1024  # of each connection; as much as is read ahead of what is parsed

log = logging.getLogger("tq.web")


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
    def __init__(self, limits: Limits, metrics: Metrics | None = None) -> None:
        self.limits = limits
        self.metrics = metrics or Metrics()
        self.metrics.gauges["connections"] = lambda: len(self.members)
        self.metrics.gauges["connections_max"] = lambda: limits.max_connections
        self.metrics.gauges["transit_bytes"] = lambda: self._weighed_bytes
        self.metrics.gauges["transit_max_bytes"] = lambda: limits.max_transit_bytes
        self.members: set[M] = set()
        self.by_address: Counter[str] = Counter()
        self._weighed: set[M] = set()
        self._weighed_bytes = 0

    def enter(self, member: M) -> tuple[Overloaded | None, int]:
        """Count one more. Why it must be refused, and how many are too many with it."""
        self.members.add(member)
        self.by_address[member.peer] += 1
        self.metrics.connections_opened += 1
        over = len(self.members) - self.limits.max_connections
        if over > 0:
            return self._refuse(member, "total", "There are too many connections."), over
        over = self.by_address[member.peer] - self.limits.max_connections_per_address
        if over > 0:
            return self._refuse(member, "address", "There are too many connections from this address."), over
        return None, 0

    def _refuse(self, member: M, reason: str, sentence: str) -> Overloaded:
        self.metrics.connections_refused[reason] += 1
        told = {"event": "connection_refused", "client": member.peer, "reason": reason, "open": len(self.members)}
        log.warning("a connection from %(client)s is refused, %(open)d are open (%(reason)s)", told)
        return Overloaded(sentence)

    def leave(self, member: M) -> None:
        self.members.discard(member)
        self.by_address[member.peer] -= 1
        if not self.by_address[member.peer]:
            del self.by_address[member.peer]
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
