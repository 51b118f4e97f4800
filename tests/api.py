"""What the tests of the HTTP API in process share: shapes of answers and what makes and checks them."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tornado.httpclient import HTTPResponse

Api = Callable[..., Awaitable[HTTPResponse]]

NOW_MS = 1_750_000_000_123
NOW = "2025-06-15T15:06:40.123Z"

NONE = {"ready": 0, "in_flight": 0, "delayed": 0, "blocked": 0}
COUNTERS = """sent duplicates received acked released timed_out expired dead_lettered redriven purged dropped
    cancelled quarantined"""
TOTALS = dict.fromkeys(COUNTERS.split(), 0)
QUEUE = {
    "name": "a",
    "visibility_timeout": 30,
    "delay": 0,
    "ttl": None,
    "retention": None,
    "max_messages": None,
    "max_bytes": None,
    "overflow": "reject",
    "max_message_bytes": 1_048_576,
    "dead_letter": None,
    "dedup_window": 300,
    "dedup_scope": "queue",
    "content_dedup": False,
    "fifo": False,
    "max_in_flight": None,
    "receive_wait": 0,
    "paused": False,
    "created_at": NOW,
    "messages": NONE,
    "bytes": 0,
    "oldest_message_age_seconds": None,
    "totals": TOTALS,
}

STATUS = {
    400: "invalid_request invalid_queue_name",
    404: "not_found queue_not_found message_not_found",
    409: "queue_exists queue_not_empty in_flight stale_receipt",
    413: "message_too_large",
    415: "unsupported_media_type",
    429: "too_many_queues queue_full too_many_in_flight",
    500: "internal_error",
    503: "overloaded storage_failed storage_damaged",
    507: "storage_full",
}
ERRORS = {code: status for status, codes in STATUS.items() for code in codes.split()}
RETRY_AFTER = {
    "queue_full": "1",
    "too_many_in_flight": "1",
    "overloaded": "1",
    "storage_failed": "5",
    "storage_damaged": "5",
    "storage_full": "10",
}


def lines(table: str) -> list[Any]:
    """A row for each line; the last word is what is expected."""
    return [pytest.param(*line.split(), id=line.strip()) for line in table.splitlines()]


def rows(table: dict[str, tuple[Any, ...]]) -> list[Any]:
    return [pytest.param(*row, id=name) for name, row in table.items()]


def shown(reply: HTTPResponse, status: int = 200) -> Any:
    """The JSON of an answer that must have this status."""
    assert (reply.code, reply.headers["Content-Type"]) == (status, "application/json"), reply.body
    return json.loads(reply.body)


def assert_empty(reply: HTTPResponse) -> None:
    assert (reply.code, reply.body) == (204, b"")
    assert "Content-Length" not in reply.headers


def assert_refused(reply: HTTPResponse, code: str, place: str = "") -> None:
    assert (reply.code, reply.headers["Content-Type"]) == (ERRORS[code], "application/problem+json"), reply.body
    problem = json.loads(reply.body)
    assert list(problem) == ["type", "title", "status", "code", "detail"]
    assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", ERRORS[code], code)
    assert problem["title"].endswith(".")
    assert place in problem["detail"]
    assert reply.headers.get("Retry-After") == RETRY_AFTER.get(code)


async def create(api: Api, name: str, **settings: Any) -> None:
    assert (await api("POST", "/queues", {"name": name, **settings})).code == 201


async def send(api: Api, *contents: Any, queue: str = "a") -> list[int]:
    reply = await api("POST", f"/queues/{queue}/messages", [{"content": content} for content in contents])
    ids: list[int] = shown(reply, 201)["ids"]
    return ids


def ready(number: int, content: Any, sent_at: str = NOW) -> dict[str, Any]:
    return {"id": number, "content": content, "sent_at": sent_at, "receive_count": 0, "state": "ready"}


def received(number: int, content: Any) -> dict[str, Any]:
    return {"id": number, "content": content, "sent_at": NOW, "receive_count": 1}


async def put(api: Api, queue: str, content: Any = 1, status: int = 201, **options: Any) -> Any:
    """Send one message with options; the answer."""
    return shown(await api("POST", f"/queues/{queue}/messages", {"content": content, **options}), status)


async def lease(api: Api, queue: str = "a", seconds: float = 30) -> Any:
    """Lease the next message; None when there is none."""
    reply = await api("GET", f"/queues/{queue}/messages?visibility_timeout={seconds}")
    return None if reply.code == 204 else shown(reply)


async def take(api: Api, queue: str = "a") -> Any:
    """The content of the next message, which is removed; None when there is none."""
    reply = await api("GET", f"/queues/{queue}/messages")
    return None if reply.code == 204 else shown(reply)["content"]


async def counts(api: Api, queue: str = "a") -> tuple[int, ...]:
    """Ready, in flight, delayed and blocked."""
    return tuple(shown(await api("GET", f"/queues/{queue}"))["messages"].values())


async def totals(api: Api, queue: str = "a") -> dict[str, int]:
    """The totals that are not zero."""
    return {name: value for name, value in shown(await api("GET", f"/queues/{queue}"))["totals"].items() if value}
