"""Looks at all queues, a part in each turn of the event loop: with ten thousand of them nobody is held up for long.

What changes between two parts is seen before or after. `look_in_parts` is how; `Sampler` does so every few seconds, and
gives what it finds to a `History`. A look that fails ends that round, and the next one comes all the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from tq import model
from tq.errors import TqError
from tq.history import SAMPLE_S, History

LOOKED_QUEUES = 250  # in one turn of the loop, for one who waits for it: a millisecond of work
SAMPLED_QUEUES = 50  # likewise, for the history, which nobody waits for: less than that, and …
SAMPLE_PAUSE_S = 0.01  # … with others in between: ten thousand queues take two of the five seconds

Ask = Callable[[model.Query], Any]
"""Answers a query at once, with its result or its TqError."""


class Look:
    """One query that takes several turns of the loop. `cancel` it when nobody wants the answer any more."""

    is_over = False
    has_waited = False

    def cancel(self) -> None:
        self.is_over = True


def look_in_parts(
    ask: Ask,
    first: model.Query,
    follow: Callable[[Any], model.Query | None],
    done: Callable[[TqError | None], None],
    pause_s: float = 0,
) -> Look:
    """Ask for the first part, and then for what `follow` says after each; `done` is called at the end or on an error.

    The first part is looked at before this returns.
    """
    look = Look()
    loop = asyncio.get_running_loop()

    def look_at(query: model.Query) -> None:
        if look.is_over:
            return
        part = ask(query)
        following = None if isinstance(part, TqError) else follow(part)
        if following is not None:
            loop.call_later(pause_s, look_at, following)
        else:
            look.is_over = True
            done(part if isinstance(part, TqError) else None)

    look_at(first)
    return look


class Sampler:
    """Keeps a history filled, from its start until it is stopped."""

    def __init__(self, ask: Ask, history: History, now_ms: Callable[[], int]) -> None:
        self._ask = ask
        self._history = history
        self._now_ms = now_ms
        self._look = Look()
        self._look.is_over = True
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_soon(self._begin)

    def stop(self) -> None:
        self._timer.cancel()
        self._look.cancel()

    def _begin(self) -> None:
        self._timer = self._loop.call_later(SAMPLE_S, self._begin)  # first: whatever happens now, there is a next one
        if self._look.is_over:  # else the loop has so much to do that it may take as long as it wants
            self._history.begin()
            first = model.GetFigures("", SAMPLED_QUEUES)
            self._look = look_in_parts(self._ask, first, self._take, self._finish, SAMPLE_PAUSE_S)

    def _take(self, part: model.FiguresPage) -> model.Query | None:
        self._history.take(part.figures)
        return model.GetFigures(part.after, SAMPLED_QUEUES) if part.after else None

    def _finish(self, failure: TqError | None) -> None:
        if failure is None:
            self._history.finish(self._now_ms())
