"""The numbers of the queues: the latest of all of them, and those of the last hour of the most active ones.

Somebody else looks, every `SAMPLE_S`, and says what he found in a round of `begin`, `take` for each part of the queues,
and `finish`. Nothing is stored: it begins anew with the server.

*Latest.* `latest` has the figures of every queue as the last round found them, about half a kilobyte for each.

*The ring.* A place for each of the last `POINTS` rounds, in an array of the times and one for each of the `COLUMNS` of
each queue that is kept: 63,360 bytes for a queue, and 6.3 MB for `KEPT_QUEUES`, however many there are. Which are kept?
All, as long as they are no more. Of more, those with the most messages and the most of them sent and received since the
round before. What a queue weighed counts for a while (`FADING`), so that one that rests does not lose its past to the
first that is a little busier. A queue that is deleted leaves; one that is made again begins anew.
"""

from __future__ import annotations

import operator
from array import array
from collections.abc import Iterable
from heapq import nlargest

from msgspec import Struct

from tq.model import Counters, Counts, Figures, QueueHistory, RecentHistory

SAMPLE_S = 5.0
POINTS = 720  # an hour of them
KEPT_QUEUES = 100
RECENT_POINTS = 60  # in a short history, one for each so many: a minute
FADING = 0.99  # from round to round: half is left after six minutes

# What is kept of each round. The age is that of the oldest message that is ready. The counters only grow: who wants
# rates takes differences.
STATES = Counts.__struct_fields__
COUNTERS = ("sent", "received", "acked", "timed_out", "dead_lettered")
COLUMNS = (*STATES, "bytes", "oldest_message_age_ms", *COUNTERS)
NO_AGE = -1

_counts = operator.attrgetter(*STATES)
_counters = operator.attrgetter(*COUNTERS)


class _Kept(Struct):
    """A queue of the ring: the round it came in, and a column of numbers for each of `COLUMNS`."""

    created_at_ms: int
    first: int
    weight: float
    columns: list[array[int]]


class History:
    def __init__(self) -> None:
        self.latest: dict[str, Figures] = {}
        self._rounds = 0
        self._times_ms = array("q", bytes(8 * POINTS))
        self._kept: dict[str, _Kept] = {}
        self.begin()

    # --- a round

    def begin(self) -> None:
        """Forget what a round before has taken, if that was not finished."""
        self._taken: dict[str, Figures] = {}
        self._weights: dict[str, int] = {}
        self._newcomers: list[tuple[int, str]] = []

    def take(self, part: Iterable[Figures]) -> None:
        """A part of the queues, each of which comes once in a round."""
        newcomers: list[tuple[int, str]] = []
        for figures in part:
            name = figures.name
            self._taken[name] = figures
            weight = self._weigh(figures)
            if name in self._kept and self._kept[name].created_at_ms == figures.created_at_ms:
                self._weights[name] = weight
            else:
                newcomers.append((weight, name))
        self._newcomers = nlargest(KEPT_QUEUES, (*self._newcomers, *newcomers))

    def _weigh(self, figures: Figures) -> int:
        before = self.latest.get(figures.name)
        is_same = before and before.created_at_ms == figures.created_at_ms
        now, then = figures.counters, before.counters if before and is_same else Counters()
        there: int = sum(_counts(figures.messages))
        return now.sent - then.sent + now.received - then.received + there

    def finish(self, now_ms: int) -> None:
        """All queues were seen; `now_ms` is by a clock that never goes back."""
        self.latest = self._taken
        self._choose()
        place = self._rounds % POINTS
        self._times_ms[place] = now_ms
        for name, kept in self._kept.items():
            figures = self.latest[name]
            age_ms = figures.oldest_message_age_ms
            numbers = (
                *_counts(figures.messages),
                figures.bytes,
                NO_AGE if age_ms is None else age_ms,
                *_counters(figures.counters),
            )
            for column, number in zip(kept.columns, numbers, strict=True):
                column[place] = number
        self._rounds += 1
        self.begin()

    def _choose(self) -> None:
        """Whom the ring has room for."""
        self._kept = {name: kept for name, kept in self._kept.items() if name in self._weights}
        for name, kept in self._kept.items():
            kept.weight = max(self._weights[name], kept.weight * FADING)
        lightest = sorted(self._kept, key=lambda name: self._kept[name].weight)
        for weight, name in self._newcomers:
            if len(self._kept) >= KEPT_QUEUES:
                if not lightest or self._kept[lightest[0]].weight >= weight:
                    break
                del self._kept[lightest.pop(0)]
            columns = [array("q", bytes(8 * POINTS)) for _ in COLUMNS]
            self._kept[name] = _Kept(self.latest[name].created_at_ms, self._rounds, weight, columns)

    # --- looking

    def of(self, name: str, created_at_ms: int, now_ms: int) -> QueueHistory:
        """All that is kept of a queue; nothing when it is not kept."""
        kept = self._kept.get(name)
        if kept is None or kept.created_at_ms != created_at_ms:
            return QueueHistory(name, (), dict.fromkeys(COLUMNS, ()))
        length = self._length(kept)
        columns = {name: self._last(column, length) for name, column in zip(COLUMNS, kept.columns, strict=True)}
        return QueueHistory(name, self._ages_ms(length, now_ms), columns)

    def recent(self, prefix: str, limit: int, now_ms: int) -> RecentHistory:
        """Of those that are kept, by name: at most `RECENT_POINTS` of each number, which end with the last of the ages.

        For each age, the most messages there were since the one before.
        """
        step = POINTS // RECENT_POINTS
        names = sorted(name for name in self._kept if name.startswith(prefix))[:limit]
        queues: dict[str, dict[str, tuple[int, ...]]] = {}
        for name in names:
            kept = self._kept[name]
            length = self._length(kept)
            columns = dict(zip(COLUMNS, (self._last(column, length) for column in kept.columns), strict=True))
            sums = tuple(map(sum, zip(*(columns[state] for state in STATES), strict=True)))
            short = {counter: _thinned(columns[counter], step) for counter in COUNTERS}
            ends = range(length, 0, -step)
            queues[name] = {"messages": tuple(max(sums[max(0, end - step) : end]) for end in ends)[::-1], **short}
        longest = max((self._length(self._kept[name]) for name in names), default=0)
        return RecentHistory(_thinned(self._ages_ms(longest, now_ms), step), queues)

    def _length(self, kept: _Kept) -> int:
        return min(self._rounds - kept.first, POINTS)

    def _ages_ms(self, length: int, now_ms: int) -> tuple[int, ...]:
        """How long ago the last rounds were."""
        return tuple(now_ms - time_ms for time_ms in self._last(self._times_ms, length))

    def _last(self, column: array[int], length: int) -> tuple[int, ...]:
        """The last numbers of a column, the latest at the end."""
        place = self._rounds % POINTS
        return tuple((column[place:] + column[:place])[POINTS - length :])


def _thinned(numbers: tuple[int, ...], step: int) -> tuple[int, ...]:
    """The last number, and one of so many before it."""
    return numbers[::-step][::-1]
