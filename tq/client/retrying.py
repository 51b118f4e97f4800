"""When a call is tried once more: what became of each try, what that means, and how long to wait.

A try ends in one of these ways:

- It was not done for sure: no connection was made, or the answer says so with a `Retry-After` (503 `overloaded`, 429,
  507) or with 408. It is tried again, whatever the call is.
- Its outcome is unknown: the connection broke, nothing came in time, the storage failed, or a proxy answered for the
  server. It is tried again if the call can be repeated (`Call.repeat_s`).
- It has another answer, which is the call's.

Pauses are drawn from 0 to twice as long each time ("full jitter"), so that many clients do not come back together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from time import monotonic

import httpx

from tq.client.calls import Answer, Call
from tq.client.errors import OutcomeUnknown, Unreachable, problem
from tq.errors import RequestTimeout, StorageFailed, TqError

FIRST_PAUSE_S = 0.05  # a connection that was closed while it was idle is worth an immediate repetition
MAX_PAUSE_S = 2.0  # so that a server which is back is found soon
MAX_AFTER_S = 60.0  # likewise, whatever it has told somebody who goes on for ever

_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)
_WRONG = (httpx.LocalProtocolError, httpx.UnsupportedProtocol)  # asked for what cannot be sent


class Tries:
    """The tries of one call, for `retry_s` after the first that failed. `timeout_s` is how long one may take."""

    def __init__(self, call: Call, retry_s: float, timeout_s: float) -> None:
        self.pause_s = 0.0
        self.count = 0
        self.why = ""
        self._call = call
        self._retry_s = 0 if call.once else retry_s
        self._began_s = self._asked_s = monotonic()
        self._over_s: float | None = None
        self._repeated_until_s = self._began_s + call.repeat_s - timeout_s
        self._is_unknown = False

    def begin(self) -> None:
        self._asked_s = monotonic()

    def failed(self, error: httpx.TransportError) -> None:
        """No answer came. Returns when it is to be tried again after `pause_s`, else raises NoAnswer."""
        if isinstance(error, _WRONG):
            raise ValueError(str(error)) from error
        is_unknown = not isinstance(error, _NOT_SENT)
        self.why = str(error) or type(error).__name__
        if not self._may_repeat(is_unknown):
            raise self._no_answer(self.why) from error

    def answered(self, status: int, content: bytes, header: Callable[[str], str | None]) -> Answer | None:
        """The call's answer, or None when it is to be tried again after `pause_s`."""
        if status < 300:
            return Answer(status, content, self._asked_s, None, self._is_unknown)
        error = problem(status, content)
        self.why = error.detail
        is_unknown = isinstance(error, StorageFailed) or (status in (502, 503, 504) and error.code == "unknown")
        after_s = _seconds(header("retry-after"))
        was_unknown = self._is_unknown
        if (is_unknown or after_s is not None or isinstance(error, RequestTimeout)) and self._may_repeat(
            is_unknown, after_s or 0
        ):
            return None
        if self._is_unknown and not self._call.looks and (status in (401, 403, 408, 429) or status >= 500):
            unknown = self._no_answer(self.why)
            unknown.__cause__ = error
            error = unknown
        return Answer(status, content, self._asked_s, error, was_unknown)

    def _may_repeat(self, is_unknown: bool, after_s: float = 0) -> bool:
        self._is_unknown |= is_unknown
        now_s = monotonic()
        if self._over_s is None:
            self._over_s = now_s + self._retry_s
        spread_s = random.uniform(0, min(MAX_PAUSE_S, FIRST_PAUSE_S * 2 ** min(self.count, 10)))
        self.pause_s = min(after_s, MAX_AFTER_S) + spread_s
        self.count += 1
        next_s = now_s + (self.pause_s if self._retry_s == math.inf else after_s + spread_s)
        return next_s < self._over_s and not (self._is_unknown and next_s >= self._repeated_until_s)

    def _no_answer(self, why: str) -> TqError:
        if self._is_unknown and not self._call.looks:
            return OutcomeUnknown(f"{OutcomeUnknown.title[:-1]}: {why}")
        return Unreachable(f"{Unreachable.title[:-1]}: {why}")


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After; None where there is none in seconds."""
    return float(text) if text and text.isascii() and text.isdigit() else None
