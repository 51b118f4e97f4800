"""Requests as data, and methods as programs of them: nothing here does any I/O.

A method of a client is written once, as a generator: it yields `Call`s, is sent an `Answer` for each, and returns its
result. `Client` runs it, and `AsyncClient` awaits it; `method` gives it the type that it has there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from types import MethodType
from typing import Any, Concatenate, Generic, Literal, ParamSpec, TypeVar, overload
from urllib.parse import quote

from tq.errors import InvalidQueueName, TqError

T = TypeVar("T")
P = ParamSpec("P")

NEVER = 0.0  # not repeated
FREELY = math.inf  # repeated as long as the client wants


@dataclass(frozen=True, slots=True)
class About:
    """What a call does, for those who trace it: `count` is of messages where it may be many."""

    operation: Literal["send", "receive"]
    queue: str
    count: int | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One request, and for how long after its first try it may be repeated when an answer was lost.

    What was not done for sure is always repeated, but with `once`. `looks`: it has no effect. `wait_s` is how long the
    server may wait with its answer.
    """

    method: str
    target: str
    body: bytes | None = None
    media_type: str = "application/json"
    headers: tuple[tuple[bytes, bytes], ...] = ()
    repeat_s: float = NEVER
    looks: bool = False
    once: bool = False
    wait_s: float = 0
    about: About | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """`asked_s` is when the try began that was answered (monotonic).

    `is_repeated`: an earlier try, whose answer was lost, may have had the effect already.
    """

    status: int
    content: bytes
    asked_s: float
    error: TqError | None = None
    is_repeated: bool = False


Steps = Generator[Call, Answer, T]


def ask(call: Call) -> Steps[Answer]:
    """The answer to one call. Raises the error that it tells."""
    answer = yield call
    if answer.error:
        raise answer.error
    return answer


def look(target: str) -> Steps[bytes]:
    """What a GET shows."""
    return (yield from ask(Call("GET", target, repeat_s=FREELY, looks=True))).content


def queue_path(queue: str, *parts: object) -> str:
    """Raises InvalidQueueName for a name that would make another path of it."""
    if not queue.strip("."):
        raise InvalidQueueName
    return "/".join(["/queues", quote(queue, safe=""), *[quote(str(part), safe="") for part in parts]])


class Runs:
    """A client whose methods return their results."""

    def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError


class Awaits:
    """A client whose methods are awaited."""

    async def _run(self, steps: Steps[T]) -> T:
        raise NotImplementedError


class method(Generic[P, T]):
    """Makes a method of a generator of calls: called, it runs on the client that it belongs to."""

    def __init__(self, steps: Callable[Concatenate[Any, P], Steps[T]]) -> None:
        self.steps = steps
        self.__doc__ = steps.__doc__
        self.__name__ = steps.__name__
        self.__wrapped__ = steps

    @overload
    def __get__(self, client: None, owner: type) -> method[P, T]: ...

    @overload
    def __get__(self, client: Runs, owner: type) -> Callable[P, T]: ...

    @overload
    def __get__(self, client: Awaits, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...

    def __get__(self, client: Runs | Awaits | None, owner: type) -> Any:
        return self if client is None else MethodType(self, client)

    def __call__(self, client: Any, *args: P.args, **kwargs: P.kwargs) -> Any:
        return client._run(self.steps(client, *args, **kwargs))
