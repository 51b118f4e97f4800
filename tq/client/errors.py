"""What a client raises beside the errors of `tq.errors`, and how the problem that a server tells becomes one of them.

TqError
├── (each error of `tq.errors`, by the `code` of the problem)
├── NoAnswer
│   ├── Unreachable       nothing was done
│   └── OutcomeUnknown    it was done, or not
└── UnknownError          a problem of a code that this version does not know, or no problem of tq's at all
"""

from __future__ import annotations

from functools import lru_cache
from typing import TypeVar

import msgspec

from tq.errors import TqError, all_errors

MAX_SHOWN = 200  # characters of an answer that is not understood
MAX_TOLD = 4_000  # of what is said of an error: more than tq ever says

T = TypeVar("T")


class NoAnswer(TqError):
    """The server gave no answer, also when it was asked again as long as that was allowed."""

    code, status, title = "no_answer", 0, "The server gave no answer."


class Unreachable(NoAnswer):
    """Nothing was done: no connection was made, or the call only looks."""

    code, title = "unreachable", "The server cannot be reached."


class OutcomeUnknown(NoAnswer):
    """The request may have had its effect, or may still have it, and could not be repeated.

    Its answer was lost, or it was that of a proxy or of a server whose storage had failed.
    """

    code, title = "outcome_unknown", "Whether the request took effect is unknown."


class UnknownError(TqError):
    """`code` and `status` are what the server said."""

    code, status, title = "unknown", 0, "The answer is none that this client knows."


class _Problem(msgspec.Struct):
    code: str
    title: str = ""
    detail: str = ""


def problem(status: int, content: bytes) -> TqError:
    """The error that an answer tells (RFC 9457)."""
    try:
        told = read(content, _Problem)
    except UnknownError:
        return _unknown("unknown", status)(f"The answer is {status}, and not tq's: {_shown(content)}")
    known = _known().get(told.code)
    return (known or _unknown(told.code[:MAX_SHOWN], status))((told.detail or told.title)[:MAX_TOLD])


def read(content: bytes, kind: type[T]) -> T:
    """What an answer says. Raises UnknownError where it is not tq's, as that of a proxy's login page."""
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UnknownError(f"The answer is not tq's ({error}): {_shown(content)}") from error


def _shown(content: bytes) -> str:
    return content[:MAX_SHOWN].decode(errors="replace")


def by_code(code: str) -> TqError:
    """The error that one part of an answer is, which has a code only."""
    return _known().get(code, _unknown(code, 0))()


@lru_cache(maxsize=1)
def _known() -> dict[str, type[TqError]]:
    return {error.code: error for error in all_errors()}


@lru_cache(maxsize=100)
def _unknown(code: str, status: int) -> type[UnknownError]:
    return type("UnknownError", (UnknownError,), {"code": code, "status": status})
