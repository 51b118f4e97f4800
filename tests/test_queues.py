"""Queues and what goes between them, over HTTP: settings, limits, dead letters, redrive, transactions, polling several.

In process and on a clock that the tests set.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.api import (
    Api,
    assert_empty,
    assert_refused,
    counts,
    create,
    lease,
    put,
    received,
    rows,
    send,
    shown,
    take,
    totals,
)

pytestmark = pytest.mark.gen_test

BAD_POLLS = {
    "nothing": ({}, "`queues`"),
    "none": ({"queues": []}, "$.queues"),
    "101": ({"queues": [f"q{n}" for n in range(101)]}, "$.queues"),
    "wait": ({"queues": ["a"], "wait": 61}, "$.wait"),
    "unknown": ({"queues": ["a"], "limit": 1}, "`limit`"),
}
BAD_TRANSACTIONS = {
    "nothing": ({}, "1 to 1,000"),
    "too many": ({"ack": [{"queue": "a", "receipt": "r"}] * 1_001}, "$.ack"),
    "no queue": ({"send": [{"content": 1}]}, "$.send[0]"),
    "delay": ({"send": [{"queue": "a", "content": 1}, {"queue": "a", "content": 1, "delay": -1}]}, "$.send[1].delay"),
    "group": ({"send": [{"queue": "a", "content": 1, "group": "x" * 129}]}, "$.send[0].group"),
    "unknown": ({"acks": []}, "`acks`"),
}
BAD_SETTINGS = {
    "visibility_timeout": ({"visibility_timeout": 43_201}, "$.visibility_timeout"),
    "delay": ({"delay": -1}, "$.delay"),
    "ttl": ({"ttl": 0}, "$.ttl"),
    "retention": ({"retention": 31_536_001}, "$.retention"),
    "max_messages": ({"max_messages": 0}, "$.max_messages"),
    "max_bytes": ({"max_bytes": 0}, "$.max_bytes"),
    "overflow": ({"overflow": "block"}, "$.overflow"),
    "dedup_window": ({"dedup_window": 604_801}, "$.dedup_window"),
    "paused": ({"paused": 1}, "$.paused"),
    "dead_letter": ({"dead_letter": "b"}, "$.dead_letter"),
    "max_receives": ({"dead_letter": {"queue": "b", "max_receives": 0}}, "$.dead_letter.max_receives"),
    "itself": ({"dead_letter": {"queue": "a", "max_receives": 1}}, "come back"),
    "missing": ({"dead_letter": {"queue": "absent", "max_receives": 1}}, "'absent'"),
    "unknown": ({"visibility": 1}, "`visibility`"),
}


# --- queues that are full or paused, and settings ------------------------------------------


async def test_a_full_queue(api: Api) -> None:
    await create(api, "a", max_messages=2)
    await send(api, 1)
    batch = [{"content": 2}, {"content": 3}]
    assert_refused(await api("POST", "/queues/a/messages", batch), "queue_full", "1 messages")
    await send(api, 2)
    assert_refused(await api("POST", "/queues/a/messages", {"content": 3}), "queue_full", "'a'")
    await lease(api)
    assert_refused(await api("POST", "/queues/a/messages", {"content": 3}), "queue_full")
    assert await take(api) == 2
    assert await send(api, 3) == [3]
    await create(api, "b", max_bytes=10)
    await send(api, "12345678", queue="b")
    assert_refused(await api("POST", "/queues/b/messages", {"content": 1}), "queue_full", "10 bytes")


async def test_a_full_queue_that_drops_its_oldest(api: Api) -> None:
    await create(api, "a", max_messages=2, overflow="drop_oldest")
    await put(api, "a", 1, priority=9)
    await send(api, 2)
    await send(api, 3, 4)
    assert [await take(api) for _ in range(3)] == [3, 4, None]
    assert (await totals(api))["dropped"] == 2
    await send(api, 5, 6)
    for _ in range(2):
        await lease(api)
    assert_refused(await api("POST", "/queues/a/messages", {"content": 7}), "queue_full")  # those in flight are kept


async def test_pause_and_resume(api: Api) -> None:
    await create(api, "a", paused=True)
    await send(api, 1)
    assert await take(api) is None
    assert shown(await api("PATCH", "/queues/a", {"paused": False}))["paused"] is False
    assert await take(api) == 1


async def test_put_and_patch(api: Api) -> None:
    reply = await api("PUT", "/queues/a", {"ttl": 60, "delay": 1.5})
    made = shown(reply, 201)
    assert reply.headers["Location"] == "/queues/a"
    assert (made["ttl"], made["delay"], made["visibility_timeout"]) == (60, 1.5, 30)
    await put(api, "a", delay=0)
    patched = shown(await api("PATCH", "/queues/a", {"delay": 0, "max_messages": 5}))
    assert (patched["ttl"], patched["delay"], patched["max_messages"]) == (60, 0, 5)
    assert shown(await api("PATCH", "/queues/a", {"ttl": None}))["ttl"] is None
    assert shown(await api("PATCH", "/queues/a", {}))["max_messages"] == 5
    replaced = shown(await api("PUT", "/queues/a", {}))
    assert (replaced["max_messages"], replaced["messages"]["ready"]) == (None, 1)
    assert_refused(await api("PATCH", "/queues/absent", {}), "queue_not_found")
    assert_refused(await api("PUT", "/queues/.a", {}), "invalid_queue_name")


@pytest.mark.parametrize(("settings_", "place"), rows(BAD_SETTINGS))
async def test_settings_refused(api: Api, settings_: Any, place: str) -> None:
    assert_refused(await api("POST", "/queues", {"name": "a", **settings_}), "invalid_request", place)
    assert_refused(await api("PUT", "/queues/a", settings_), "invalid_request", place)
    assert_refused(await api("GET", "/queues/a"), "queue_not_found")
    await create(api, "a")
    before = shown(await api("GET", "/queues/a"))
    assert_refused(await api("PUT", "/queues/a", settings_), "invalid_request", place)
    assert_refused(await api("PATCH", "/queues/a", settings_), "invalid_request", place)
    assert shown(await api("GET", "/queues/a")) == before


async def test_dead_letters_never_go_round(api: Api) -> None:
    await create(api, "c")
    await create(api, "b", dead_letter={"queue": "c", "max_receives": 1})
    await create(api, "a", dead_letter={"queue": "b", "max_receives": 1})
    letter = {"dead_letter": {"queue": "a", "max_receives": 1}}
    for method in ("PUT", "PATCH"):
        assert_refused(await api(method, "/queues/c", letter), "invalid_request", "$.dead_letter.queue")


# --- dead letters -------------------------------------------------------------------------


async def test_a_message_that_nobody_acknowledges(api: Api, clock: list[int]) -> None:
    await create(api, "dead")
    settings = {"dead_letter": {"queue": "dead", "max_receives": 2}}
    await create(api, "a", **settings)
    shape = {**settings["dead_letter"], "on_expiry": False, "on_receive": False}
    assert shown(await api("GET", "/queues/a"))["dead_letter"] == shape
    await put(api, "a", "poison", priority=4, headers={"k": "v"})
    await lease(api)
    clock[0] += 30_000
    receipt = (await lease(api))["receipt"]
    assert shown(await api("PATCH", f"/queues/a/messages/{receipt}", {"delay": 0}))
    assert await lease(api) is None
    dead = await lease(api, "dead")
    assert (dead["content"], dead["priority"], dead["headers"]) == ("poison", 4, {"k": "v"})
    assert dead["dead_letter"] == {"source": "a", "reason": "max_receives", "receive_count": 2}
    assert (await totals(api))["dead_lettered"] == 1


async def test_reject(api: Api) -> None:
    await create(api, "dead")
    await create(api, "a", dead_letter={"queue": "dead", "max_receives": 5})
    await send(api, 1, 2)
    for body in ({"dead_letter": True, "reason": "no such sku"}, {"dead_letter": True}):
        receipt = (await lease(api))["receipt"]
        assert shown(await api("PATCH", f"/queues/a/messages/{receipt}", body)) == {}
        assert_refused(await api("DELETE", f"/queues/a/messages/{receipt}"), "message_not_found")
    page = shown(await api("GET", "/queues/dead/peek"))["messages"]
    assert [message["dead_letter"]["reason"] for message in page] == ["no such sku", "rejected"]
    assert [message["dead_letter"]["receive_count"] for message in page] == [1, 1]


async def test_expired_to_the_dead_letters(api: Api, clock: list[int]) -> None:
    await create(api, "dead")
    await create(api, "a", ttl=1, dead_letter={"queue": "dead", "max_receives": 5, "on_expiry": True})
    await send(api, 1)
    clock[0] += 1_000
    assert await take(api) is None
    dead = await lease(api, "dead")
    assert dead["dead_letter"] == {"source": "a", "reason": "expired", "receive_count": 0}
    assert "expires_at" not in dead


async def bury(api: Api, queue: str, *contents: Any) -> None:
    """Send messages and reject them."""
    await send(api, *contents, queue=queue)
    got = shown(await api("GET", f"/queues/{queue}/messages?max=1000&visibility_timeout=30"))["messages"]
    await api("POST", f"/queues/{queue}/acks", {"rejects": [{"receipt": message["receipt"]} for message in got]})


async def test_redrive(api: Api) -> None:
    await create(api, "dead")
    for name in ("a", "b", "gone"):
        await create(api, name, dead_letter={"queue": "dead", "max_receives": 1})
        await bury(api, name, f"{name}1", f"{name}2")
    await send(api, "never elsewhere", queue="dead")
    assert_empty(await api("DELETE", "/queues/gone"))
    assert shown(await api("POST", "/queues/dead/redrive", {"limit": 1})) == {"moved": 1}
    assert shown(await api("POST", "/queues/dead/redrive")) == {"moved": 3}
    assert [await take(api, "a") for _ in range(3)] == ["a1", "a2", None]
    first = await lease(api, "b")
    assert (first["content"], first["receive_count"], "dead_letter" in first) == ("b1", 1, False)
    assert shown(await api("POST", "/queues/dead/redrive", {})) == {"moved": 0}
    assert shown(await api("POST", "/queues/dead/redrive", {"to": "a"})) == {"moved": 3}
    assert [await take(api, "a") for _ in range(4)] == ["gone1", "gone2", "never elsewhere", None]
    assert (await totals(api, "dead"))["redriven"] == 7
    assert_refused(await api("POST", "/queues/dead/redrive", {"to": "absent"}), "queue_not_found", "'absent'")
    assert_refused(await api("POST", "/queues/dead/redrive", {"limit": 0}), "invalid_request", "$.limit")
    assert_refused(await api("POST", "/queues/dead/redrive?limit=1"), "invalid_request", "`limit`")


async def test_redrive_of_more_than_one_commit(api: Api) -> None:
    await create(api, "dead")
    await create(api, "a", dead_letter={"queue": "dead", "max_receives": 1})
    for _ in range(2):
        await bury(api, "a", *range(600))
    assert shown(await api("POST", "/queues/dead/redrive", {"limit": 700})) == {"moved": 700}
    assert shown(await api("POST", "/queues/dead/redrive")) == {"moved": 500}
    assert await counts(api) == (1_200, 0, 0, 0)


# --- transactions -------------------------------------------------------------------------


async def test_transaction(api: Api) -> None:
    for name in ("a", "b", "c"):
        await create(api, name)
    await send(api, 1)
    receipt = (await lease(api))["receipt"]
    sends = [
        {"queue": "b", "content": {"n": 1.10}, "priority": 3},
        {"queue": "c", "content": "c", "dedup_id": "x"},
        {"queue": "b", "content": 2, "headers": {"k": "v"}},
        {"queue": "c", "content": "again", "dedup_id": "x"},
    ]
    body = {"ack": [{"queue": "a", "receipt": receipt}], "send": sends}
    assert shown(await api("POST", "/transactions", body)) == {"ids": [1, 1, 2, 1], "duplicates": [3]}
    assert await counts(api) == (0, 0, 0, 0)
    assert [await take(api, "b") for _ in range(3)] == [{"n": 1.10}, 2, None]
    assert_refused(await api("POST", "/transactions", body), "stale_receipt", "$.ack[0]")
    assert await counts(api, "b") == (0, 0, 0, 0)


async def test_a_transaction_that_fails_does_nothing(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    await create(api, "b", max_message_bytes=10, max_messages=1)
    await send(api, 1, 2)
    good, stale = (await lease(api))["receipt"], (await lease(api, seconds=1))["receipt"]
    clock[0] += 1_000
    ack, fine = {"queue": "a", "receipt": good}, {"queue": "b", "content": 1}
    for body, code in (
        ({"ack": [ack, {"queue": "a", "receipt": stale}], "send": [fine]}, "stale_receipt"),
        ({"ack": [ack, ack], "send": [fine]}, "stale_receipt"),
        ({"ack": [ack, {"queue": "a", "receipt": "x"}], "send": [fine]}, "stale_receipt"),
        ({"ack": [ack], "send": [fine, {"queue": "b", "content": "x" * 11}]}, "message_too_large"),
        ({"ack": [ack], "send": [fine, fine]}, "queue_full"),
        ({"ack": [ack], "send": [fine, {"queue": "absent", "content": 1}]}, "queue_not_found"),
        ({"ack": [ack, {"queue": "absent", "receipt": good}], "send": [fine]}, "queue_not_found"),
    ):
        assert_refused(await api("POST", "/transactions", body), code)
        assert (await counts(api), await counts(api, "b")) == ((1, 1, 0, 0), (0, 0, 0, 0))
    assert shown(await api("POST", "/transactions", {"ack": [ack], "send": [fine]})) == {"ids": [1]}


@pytest.mark.parametrize(("body", "place"), rows(BAD_TRANSACTIONS))
async def test_transaction_refuses(api: Api, body: Any, place: str) -> None:
    assert_refused(await api("POST", "/transactions", body), "invalid_request", place)


# --- several queues ------------------------------------------------------------------------


async def test_poll_several_queues(api: Api) -> None:
    for name in ("urgent", "normal"):
        await create(api, name)
    await send(api, 1, 2, queue="normal")
    await send(api, 3, queue="urgent")
    body = {"queues": ["urgent", "normal", "urgent"]}
    assert shown(await api("POST", "/receive", body)) == {**received(1, 3), "queue": "urgent"}
    got = shown(await api("POST", "/receive", {**body, "max": 5, "visibility_timeout": 10}))["messages"]
    assert [(message["queue"], message["content"]) for message in got] == [("normal", 1), ("normal", 2)]
    assert_empty(await api("DELETE", f"/queues/normal/messages/{got[0]['receipt']}"))
    assert_empty(await api("POST", "/receive", body))
    await send(api, 4, queue="normal")
    line = await api("POST", "/receive", body, Accept="application/x-ndjson")
    assert json.loads(line.body) == {**received(3, 4), "queue": "normal"}
    assert_refused(await api("POST", "/receive", {"queues": ["normal", "absent"]}), "queue_not_found", "'absent'")


@pytest.mark.parametrize(("body", "place"), rows(BAD_POLLS))
async def test_poll_refuses(api: Api, body: Any, place: str) -> None:
    await create(api, "a")
    assert_refused(await api("POST", "/receive", body), "invalid_request", place)
