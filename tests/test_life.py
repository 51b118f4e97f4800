"""The life of a message over HTTP: leases, delays, lifetimes, priorities, groups and duplicates.

In process and on a clock that the tests set.
"""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from tests.api import (
    NOW,
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

SOON = "2025-06-15T15:06:50.123Z"  # ten seconds after NOW
HALF_A_MINUTE = "2025-06-15T15:07:10.123Z"
FORGED = "r" + "A" * 22  # looks like a receipt, and is of no queue

# What `PATCH /queues/a/messages/{receipt}` refuses, and what `detail` names.
BAD_CHANGES = {
    "nothing": ({}, "exactly one"),
    "two": ({"delay": 1, "visibility_timeout": 1}, "exactly one"),
    "only a reason": ({"reason": "x"}, "exactly one"),
    "too long": ({"visibility_timeout": 43_201}, "$.visibility_timeout"),
    "negative": ({"visibility_timeout": -1}, "$.visibility_timeout"),
    "text": ({"delay": "1"}, "$.delay"),
    "over a year": ({"delay": 31_536_001}, "$.delay"),
    "dead_letter false": ({"dead_letter": False}, "$.dead_letter"),
    "no reason": ({"dead_letter": True, "reason": ""}, "$.reason"),
    "long reason": ({"dead_letter": True, "reason": "x" * 129}, "$.reason"),
    "unknown": ({"visible": 1}, "`visible`"),
}
BAD_ACKS = {
    "nothing": ({}, "1 to 1,000"),
    "empty": ({"receipts": []}, "1 to 1,000"),
    "too many": ({"receipts": ["r"] * 1_001}, "$.receipts"),
    "too many in all": ({"receipts": ["r"] * 600, "rejects": [{"receipt": "r"}] * 600}, "1,200"),
    "text": ({"receipts": "r"}, "$.receipts"),
    "no receipt": ({"releases": [{"delay": 1}]}, "$.releases[0]"),
    "no time": ({"extends": [{"receipt": "r"}]}, "$.extends[0]"),
    "unknown": ({"acks": []}, "`acks`"),
}
BAD_SENDS = {
    "delay": ({"delay": -1}, "$.delay"),
    "delay over a year": ({"delay": 31_536_001}, "$.delay"),
    "ttl 0": ({"ttl": 0}, "$.ttl"),
    "priority 10": ({"priority": 10}, "$.priority"),
    "priority -1": ({"priority": -1}, "$.priority"),
    "priority 1.5": ({"priority": 1.5}, "$.priority"),
    "group empty": ({"group": ""}, "$.group"),
    "group long": ({"group": "é" * 65}, "$.group"),
    "group a number": ({"group": 1}, "$.group"),
    "dedup_id long": ({"dedup_id": "x" * 129}, "$.dedup_id"),
    "headers nested": ({"headers": {"a": {}}}, "$.headers"),
    "headers large": ({"headers": {"a": "x" * 65_536}}, "$.headers"),
    "unknown": ({"delay_seconds": 1}, "`delay_seconds`"),
}


# --- leases -----------------------------------------------------------------------------


async def test_lease_and_acknowledge(api: Api) -> None:
    await create(api, "a")
    await send(api, "one")
    message = await lease(api)
    receipt = message.pop("receipt")
    assert message == {**received(1, "one"), "visible_at": HALF_A_MINUTE}
    assert await counts(api) == (0, 1, 0, 0)
    assert await lease(api) is None
    shown_again = shown(await api("GET", "/queues/a/messages/1"))
    assert shown_again == {**message, "state": "in_flight"}  # without the receipt, which is the consumer's own
    assert_empty(await api("DELETE", f"/queues/a/messages/{receipt}"))
    assert await counts(api) == (0, 0, 0, 0)
    assert_refused(await api("DELETE", f"/queues/a/messages/{receipt}"), "message_not_found", "1")
    assert await totals(api) == {"sent": 1, "received": 1, "acked": 1}


async def test_a_lease_that_ends(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    await send(api, 1)
    first = await lease(api, seconds=10)
    clock[0] += 9_999
    assert await lease(api) is None
    clock[0] += 1
    second = await lease(api)
    assert (second["id"], second["receive_count"]) == (1, 2)
    assert second["receipt"] != first["receipt"]
    for method, body in (("DELETE", None), ("PATCH", {"visibility_timeout": 5}), ("PATCH", {"dead_letter": True})):
        refused = await api(method, f"/queues/a/messages/{first['receipt']}", body)
        assert_refused(refused, "stale_receipt", "message 1")
    assert_empty(await api("DELETE", f"/queues/a/messages/{second['receipt']}"))
    assert await totals(api) == {"sent": 1, "received": 2, "timed_out": 1, "acked": 1}


async def test_a_receipt_is_of_its_queue_and_of_its_time(api: Api) -> None:
    await create(api, "a")
    await create(api, "b")
    await send(api, 1)
    receipt = (await lease(api))["receipt"]
    assert_refused(await api("DELETE", f"/queues/b/messages/{receipt}"), "stale_receipt")
    assert_refused(await api("DELETE", f"/queues/a/messages/{FORGED}"), "stale_receipt")
    for nonsense in ("r", receipt[:-1], receipt + "A", receipt.lower(), "%C3%A9", "-1", "r%00"):
        for method, body in (("DELETE", None), ("PATCH", {"delay": 0})):
            assert_refused(await api(method, f"/queues/a/messages/{nonsense}", body), "message_not_found")
    assert shown(await api("DELETE", "/queues/a/messages")) == {"purged": 1}
    assert_refused(await api("DELETE", f"/queues/a/messages/{receipt}"), "stale_receipt")


async def test_lease_many_by_each_verb(api: Api) -> None:
    await create(api, "a")
    await send(api, 1, 2, 3)
    got = shown(await api("GET", "/queues/a/messages?max=2&visibility_timeout=10"))["messages"]
    assert [(message["id"], message["visible_at"]) for message in got] == [(1, SOON), (2, SOON)]
    told = await api("POST", "/queues/a/messages/receive?max=5", {"visibility_timeout": 10})
    assert [message["id"] for message in shown(told)["messages"]] == [3]
    twice = await api("POST", "/queues/a/messages/receive?visibility_timeout=1", {"visibility_timeout": 1})
    assert_refused(twice, "invalid_request", "`visibility_timeout`")


async def test_extend(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    await send(api, 1)
    path = f"/queues/a/messages/{(await lease(api, seconds=1))['receipt']}"
    assert shown(await api("PATCH", path, {"visibility_timeout": 10})) == {"visible_at": SOON}
    clock[0] += 9_999
    assert await lease(api) is None
    assert_empty(await api("DELETE", path))


@pytest.mark.parametrize("body", [{"visibility_timeout": 0}, {"delay": 0}])
async def test_release(api: Api, body: Any) -> None:
    await create(api, "a")
    await send(api, 1)
    path = f"/queues/a/messages/{(await lease(api))['receipt']}"
    assert shown(await api("PATCH", path, body)) == {"visible_at": NOW}
    assert_refused(await api("PATCH", path, body), "stale_receipt")
    assert (await lease(api))["receive_count"] == 2
    assert (await totals(api))["released"] == 1


async def test_release_for_later(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    await send(api, 1)
    path = f"/queues/a/messages/{(await lease(api))['receipt']}"
    assert shown(await api("PATCH", path, {"delay": 10})) == {"visible_at": SOON}
    assert await counts(api) == (0, 0, 1, 0)
    assert shown(await api("GET", "/queues/a/messages/1"))["visible_at"] == SOON
    clock[0] += 10_000
    assert await take(api) == 1


@pytest.mark.parametrize(("body", "place"), rows(BAD_CHANGES))
async def test_change_refuses(api: Api, body: Any, place: str) -> None:
    await create(api, "a")
    await send(api, 1)
    path = f"/queues/a/messages/{(await lease(api))['receipt']}"
    assert_refused(await api("PATCH", path, body), "invalid_request", place)
    assert_empty(await api("DELETE", path))


async def test_many_receipts_at_once(api: Api) -> None:
    await create(api, "a")
    await send(api, *range(6))
    got = shown(await api("GET", "/queues/a/messages?max=6&visibility_timeout=30"))["messages"]
    acked, released, later, extended, at_once, rejected = (message["receipt"] for message in got)
    body = {
        "receipts": [acked, acked, "nonsense"],
        "releases": [{"receipt": released}, {"receipt": later, "delay": 10}],
        "extends": [
            {"receipt": extended, "visibility_timeout": 10},
            {"receipt": at_once, "visibility_timeout": 0},
            {"receipt": FORGED, "visibility_timeout": 1},
        ],
        "rejects": [{"receipt": rejected, "reason": "broken"}],
    }
    assert shown(await api("POST", "/queues/a/acks", body))["results"] == [
        {"receipt": acked, "status": "acked"},
        {"receipt": acked, "status": "message_not_found"},
        {"receipt": "nonsense", "status": "message_not_found"},
        {"receipt": released, "status": "released", "visible_at": NOW},
        {"receipt": later, "status": "released", "visible_at": SOON},
        {"receipt": extended, "status": "extended", "visible_at": SOON},
        {"receipt": at_once, "status": "released", "visible_at": NOW},
        {"receipt": FORGED, "status": "stale_receipt"},
        {"receipt": rejected, "status": "rejected"},
    ]
    assert await counts(api) == (2, 1, 1, 0)
    assert await totals(api) == {"sent": 6, "received": 6, "acked": 1, "released": 3, "dropped": 1}
    assert_refused(await api("POST", "/queues/absent/acks", {"receipts": [acked]}), "queue_not_found")


@pytest.mark.parametrize(("body", "place"), rows(BAD_ACKS))
async def test_many_receipts_refuses(api: Api, body: Any, place: str) -> None:
    await create(api, "a")
    assert_refused(await api("POST", "/queues/a/acks", body), "invalid_request", place)


async def test_cancel(api: Api) -> None:
    await create(api, "a")
    await put(api, "a")
    await put(api, "a", priority=3)
    await put(api, "a", delay=10)
    await put(api, "a", group="g")
    await put(api, "a", group="g")
    assert await counts(api) == (3, 0, 1, 1)
    receipt = (await lease(api))["receipt"]  # of message 2
    assert_refused(await api("DELETE", "/queues/a/messages/2"), "in_flight", "2")
    for number in (1, 3, 4, 5):
        assert_empty(await api("DELETE", f"/queues/a/messages/{number}"))
        assert_refused(await api("DELETE", f"/queues/a/messages/{number}"), "message_not_found")
    assert_empty(await api("DELETE", f"/queues/a/messages/{receipt}"))
    assert await totals(api) == {"sent": 5, "received": 1, "acked": 1, "cancelled": 4}


# --- delays, lifetimes, priorities, groups ------------------------------------------------


async def test_delay(api: Api, clock: list[int]) -> None:
    await create(api, "a", delay=10)
    await put(api, "a", "as the queue says")
    await put(api, "a", "at once", delay=0)
    await put(api, "a", "later", delay=10.5)
    assert await counts(api) == (1, 0, 2, 0)
    page = shown(await api("GET", "/queues/a/peek?state=delayed"))["messages"]
    assert [(message["id"], message["visible_at"], message["state"]) for message in page] == [
        (1, SOON, "delayed"),
        (3, "2025-06-15T15:06:50.623Z", "delayed"),
    ]
    assert [await take(api), await take(api)] == ["at once", None]
    clock[0] += 10_000
    assert [await take(api), await take(api)] == ["as the queue says", None]
    clock[0] += 500
    assert await take(api) == "later"


async def test_ttl(api: Api, clock: list[int]) -> None:
    await create(api, "a", ttl=10)
    await put(api, "a", 1)
    await put(api, "a", 2, ttl=20)
    assert shown(await api("GET", "/queues/a/messages/1"))["expires_at"] == SOON
    clock[0] += 10_000
    assert (await lease(api))["content"] == 2
    clock[0] += 30_000  # the lease and the lifetime are over
    assert await take(api) is None
    assert await counts(api) == (0, 0, 0, 0)
    assert await totals(api) == {"sent": 2, "received": 1, "timed_out": 1, "expired": 2}


async def test_priority(api: Api) -> None:
    await create(api, "a")
    for content, priority in (("low", 0), ("high", 9), ("middle", 5), ("high again", 9)):
        await put(api, "a", content, priority=priority)
    page = shown(await api("GET", "/queues/a/peek"))["messages"]
    assert [(message["content"], message.get("priority", 0)) for message in page] == [
        ("high", 9),
        ("high again", 9),
        ("middle", 5),
        ("low", 0),
    ]
    assert [await take(api) for _ in range(5)] == ["high", "high again", "middle", "low", None]


async def test_groups(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    for content, group in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("a3", "a")):
        await put(api, "a", content, group=group)
    assert await counts(api) == (2, 0, 0, 2)
    first, other = await lease(api), await lease(api)
    assert [(message["content"], message["group"]) for message in (first, other)] == [("a1", "a"), ("b1", "b")]
    assert await lease(api) is None
    clock[0] += 30_000  # it comes back, and is still the first of its group
    again = await lease(api)
    assert again["content"] == "a1"
    assert_empty(await api("DELETE", f"/queues/a/messages/{again['receipt']}"))
    assert [await take(api) for _ in range(4)] == ["b1", "a2", "a3", None] or await counts(api) == (0, 0, 0, 0)


async def test_headers_come_back(api: Api) -> None:
    await create(api, "a")
    headers = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "é": "ü\r\n"}
    await put(api, "a", headers=headers, priority=2, group="g")
    message = shown(await api("GET", "/queues/a/messages/1"))
    assert (message["headers"], message["priority"], message["group"]) == (headers, 2, "g")
    packed = await api("GET", "/queues/a/messages?visibility_timeout=1", Accept="application/msgpack")
    assert msgpack.unpackb(packed.body)["headers"] == headers


async def test_options_of_a_raw_body_and_its_metadata_in_headers(api: Api) -> None:
    await create(api, "a")
    options = "priority=7&group=%C3%A9&ttl=10&dedup_id=x"
    path = f"/queues/a/messages?{options}"
    assert shown(await api("POST", path, b"\0", Content_Type="image/png"), 201) == {"id": 1}
    assert shown(await api("POST", path, b"\0", Content_Type="image/png")) == {"id": 1, "duplicate": True}
    reply = await api("GET", "/queues/a/messages?visibility_timeout=10")
    assert (reply.body, reply.headers["Content-Type"]) == (b"\0", "image/png")
    told = {name: value for name, value in reply.headers.items() if name.startswith("Tq-")}
    receipt = told.pop("Tq-Receipt")
    assert told == {
        "Tq-Id": "1",
        "Tq-Sent-At": NOW,
        "Tq-Receive-Count": "1",
        "Tq-Visible-At": SOON,
        "Tq-Expires-At": SOON,
        "Tq-Priority": "7",
        "Tq-Group": "%C3%A9",
        "Tq-Dedup-Id": "x",
    }
    assert_empty(await api("DELETE", f"/queues/a/messages/{receipt}"))
    for bad, place in (("priority=10", "$.priority"), ("delay=nan", "$.delay"), ("group=", "$.group")):
        refused = await api("POST", f"/queues/a/messages?{bad}", b"\0", Content_Type="image/png")
        assert_refused(refused, "invalid_request", place)


@pytest.mark.parametrize(("options", "place"), rows(BAD_SENDS))
async def test_send_refuses(api: Api, options: Any, place: str) -> None:
    await create(api, "a")
    bad = {"content": 1, **options}
    assert_refused(await api("POST", "/queues/a/messages", bad), "invalid_request", place)
    packed = await api("POST", "/queues/a/messages", msgpack.packb(bad), Content_Type="application/msgpack")
    assert_refused(packed, "invalid_request")
    batch = await api("POST", "/queues/a/messages", [{"content": 1}, bad])
    assert_refused(batch, "invalid_request", place.replace("$", "$[1]"))
    assert await counts(api) == (0, 0, 0, 0)


# --- duplicates -------------------------------------------------------------------------


async def test_dedup(api: Api, clock: list[int]) -> None:
    await create(api, "a", dedup_window=10)
    assert await put(api, "a", 1, dedup_id="x") == {"id": 1}
    assert await put(api, "a", 2, 200, dedup_id="x") == {"id": 1, "duplicate": True}
    assert await put(api, "a", 3, dedup_id="y") == {"id": 2}
    assert await take(api) == 1  # it is remembered all the same
    batch = [{"content": 1, "dedup_id": "z"}, {"content": 2, "dedup_id": "x"}, {"content": 3, "dedup_id": "z"}]
    reply = await api("POST", "/queues/a/messages", batch)
    assert shown(reply, 201) == {"ids": [3, 1, 3], "duplicates": [1, 2]}
    clock[0] += 10_000
    assert await put(api, "a", 4, dedup_id="x") == {"id": 4}
    assert await totals(api) == {"sent": 4, "received": 1, "acked": 1, "duplicates": 3}


async def test_idempotency_key(api: Api) -> None:
    await create(api, "a")
    path, key = "/queues/a/messages", "8e03978e-40d5-43dd-bc93-6894a57f9324"
    assert shown(await api("POST", path, {"content": 1}, Idempotency_Key=key), 201) == {"id": 1}
    assert shown(await api("POST", path, {"content": 1}, Idempotency_Key=key)) == {"id": 1, "duplicate": True}
    own = {"content": 1, "dedup_id": "own"}
    assert shown(await api("POST", path, own, Idempotency_Key=key), 201) == {"id": 2}
    batch = [{"content": 1}, {"content": 2}]
    assert shown(await api("POST", path, batch, Idempotency_Key="b"), 201) == {"ids": [3, 4]}
    assert shown(await api("POST", path, batch, Idempotency_Key="b"), 201) == {"ids": [3, 4], "duplicates": [0, 1]}
    refused = await api("POST", path, {"content": 1}, Idempotency_Key="x" * 121)
    assert_refused(refused, "invalid_request", "Idempotency-Key")
