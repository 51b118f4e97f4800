"""What the commands that speak to a server have in common: how it is found, and how they fail.

The client, and with it httpx, is imported when such a command runs: a server does without.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tq.cli.completion import DEFAULT_URL, queue_names
from tq.cli.output import ending_in_a_sentence, fail
from tq.errors import (
    EXIT_DATA,
    EXIT_NO_QUEUE,
    EXIT_REFUSED,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    QueueNotFound,
    StartError,
    TqError,
)

if TYPE_CHECKING:
    from tq.client import AsyncClient, Client

MAX_SHOWN = 200  # characters of an argument that cannot be sent
RETRY_SECONDS = 3.0  # for a server that is being restarted; longer, and whoever typed a command wonders


class Seconds(click.FloatRange):
    """A range has no NaN, which is neither below nor above its bounds."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number: float = super().convert(value, param, ctx)
        if math.isnan(number):
            self.fail(f"{value} is no number of seconds.", param, ctx)
        return number


T = TypeVar("T", bound="Client | AsyncClient")


class Place:
    """The server, and how its clients are made."""

    def __init__(self, url: str, token: str | None) -> None:
        self.url = url if "://" in url else f"http://{url}"
        self.token = token

    def client(self, retry_seconds: float = RETRY_SECONDS) -> Client:
        from tq.client import Client

        return self.make(Client, retry_seconds)

    def make(self, kind: type[T], retry_seconds: float = RETRY_SECONDS) -> T:
        """A client of this kind. Raises StartError where the address is none."""
        try:
            return kind(self.url, token=self.token, retry_seconds=retry_seconds)
        except ValueError as error:
            raise StartError(f"{str(error).rstrip('.')}; say --url or TQ_URL.", EXIT_USAGE) from error


def on_server(command: Callable[..., None]) -> Callable[..., None]:
    """A command with the options that say where its server is, which it gets as `place`; it fails in a sentence."""

    @click.option(
        "--url", envvar="TQ_URL", show_envvar=True, default=DEFAULT_URL, show_default=True, help="Where the server is."
    )
    @click.option("--token", envvar="TQ_TOKEN", show_envvar=True, help="Shown to a server that asks for one.")
    @click.option("--json", "as_json", is_flag=True, help="Print JSON, as where stdout is no terminal.")
    @wraps(command)
    def run(url: str, token: str | None, **arguments: Any) -> None:
        place = Place(url, token)
        with talking(place):
            command(place=place, **arguments)

    return run


@contextmanager
def talking(place: Place) -> Iterator[None]:
    """End the process with a sentence when the server refuses something, or is not there."""
    with ending_in_a_sentence(place.url):
        if sys.stdout is None:
            raise StartError("The stdout is closed.", EXIT_DATA)
        try:
            yield
        except TqError as error:
            fail(*told(error, place))
        except UnicodeEncodeError as error:  # of an argument; contents may be any bytes
            fail(f"{error.object[:MAX_SHOWN]!r} is no UTF-8.", EXIT_USAGE)
        except ImportError as error:
            if not isinstance(error.__cause__, ModuleNotFoundError) or error.__cause__.name != "httpx":
                raise
            fail(f"{error}.", EXIT_USAGE)


def told(error: TqError, place: Place) -> tuple[str, int]:
    """The sentence and the exit code."""
    from tq.client import NoAnswer, Unreachable

    detail = error.detail.rstrip(".")
    if isinstance(error, NoAnswer):
        hint = "; see that tq serve runs there, or say --url or TQ_URL" if isinstance(error, Unreachable) else ""
        return f"{place.url}: {detail}{hint}.", EXIT_UNREACHABLE
    if isinstance(error, QueueNotFound):
        return f"{detail}; tq queues lists those there are, and tq create makes one.", EXIT_NO_QUEUE
    return f"{detail}.", EXIT_REFUSED


def passes(error: TqError) -> bool:
    """Whether it may be another answer some time later."""
    from tq.client import NoAnswer

    return isinstance(error, NoAnswer) or error.status in (429, 502, 503, 504)


def queue_argument(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("queue", shell_complete=queue_names)(command)
