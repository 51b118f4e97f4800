"""What an operation knows of the request it is for: whose queues it is about, how they are called, and the switches.

Beside it is what operations share that list: the tokens of their pages.
"""

from __future__ import annotations

import binascii
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import Any

from tq import model
from tq.model import Command, Query
from tq.web.exchange import Request
from tq.web.router import MAX_REMEMBERED_LENGTH, REMEMBERED_PATHS
from tq.web.sqs.attributes import Scope
from tq.web.sqs.errors import invalid_parameter, invalid_value, missing, modeled

REGION = "us-east-1"  # of requests that are not signed

_SIGNED_FOR = re.compile(r"Credential=[^/,\s=]{1,128}/\d{8}/([a-z0-9-]{1,32})/sqs/aws4_request")

Output = dict[str, Any]
"""What an operation answers, by the names of the service model."""

Operation = Generator[Command | Query, Any, Output]
"""An operation under way: it yields what to ask of the broker, is sent the result, and returns its output."""


class Recent:
    """What was done to a queue in the last so many seconds; for rules of the service that are off at 0 seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._times: dict[str, float] = {}

    def has(self, queue: str) -> bool:
        return queue in self._times and time.monotonic() - self._times[queue] < self._seconds

    def forget(self, queue: str) -> None:
        self._times.pop(queue, None)

    def add(self, queue: str) -> None:
        if self._seconds:
            now_s = time.monotonic()
            self._times = {name: at_s for name, at_s in self._times.items() if now_s - at_s < self._seconds}
            self._times[queue] = now_s


class Call:
    """One request. `account` and `scheme` are the server's.

    `credential` gives what says who has signed it and for which region.
    """

    __slots__ = ("_credential", "_request", "_scheme", "_scope", "account", "deleted", "purged")

    def __init__(
        self,
        request: Request,
        credential: Callable[[], str],
        account: str,
        scheme: str,
        purged: Recent,
        deleted: Recent,
    ) -> None:
        self._request = request
        self._credential = credential
        self._scope: Scope | None = None
        self.account = account
        self._scheme = scheme
        self.purged = purged
        self.deleted = deleted

    @property
    def scope(self) -> Scope:
        """Whose queues it is about."""
        if self._scope is None:
            signed = _SIGNED_FOR.search(self._credential())
            self._scope = Scope(signed[1] if signed else REGION, self.account)
        return self._scope

    @property
    def trace(self) -> str | None:
        return self._request.headers.get("x-amzn-trace-id")

    def queue(self, queue_url: str | None) -> str:
        """The name of the queue that is meant: by the path of a URL, whatever its host, or by a bare name."""
        named = queue_url or self._request.params.get("queue")
        if not named:
            raise missing("QueueUrl")
        return _known_queue(named) if len(named) <= MAX_REMEMBERED_LENGTH else _queue_at(named)

    def url(self, queue: str) -> str:
        """The URL of a queue, at the host that the client has used."""
        headers = self._request.headers
        scheme = "https" if headers.get("x-forwarded-proto") == "https" else self._scheme
        return f"{scheme}://{headers.get('host', 'localhost')}/{self.account}/{queue}"


def _queue_at(url: str) -> str:
    """The name in a queue's URL, or itself. Raises SqsError."""
    before, _, name = url.partition("?")[0].removesuffix("/").rpartition("/")
    if not name or before.endswith(":/"):  # then it is the host
        raise modeled("InvalidAddress", f"The address {url} is not valid for this endpoint.")
    return name


_known_queue = lru_cache(maxsize=REMEMBERED_PATHS)(_queue_at)


def is_fifo(queue: str) -> bool:
    return queue.endswith(".fifo")


def paging(token: str | None, limit: int | None) -> tuple[str, int]:
    """The name that a page begins behind, and how many it may have. Raises SqsError."""
    if token and limit is None:
        raise missing("MaxResults")
    most = model.MAX_PAGE if limit is None else limit
    if not 1 <= most <= model.MAX_PAGE:
        raise invalid_value(limit, "MaxResults", f"Must be between 1 and {model.MAX_PAGE}, if provided.")
    return _from_token(token) if token else "", most


def to_token(name: str) -> str:
    """What to ask for the page behind a name with."""
    return b64encode(name.encode()).decode()


def _from_token(token: str) -> str:
    try:
        return b64decode(token, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as error:
        raise invalid_parameter("Invalid or expired next token.") from error
