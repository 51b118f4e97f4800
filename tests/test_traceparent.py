"""`traceparent` in, `traceparent` out with the message; what is not one is ignored and does no harm."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import msgpack
import pytest

from tests.api import Api, create, lease, shown
from tests.harness import Server
from tests.sqs_queue import Make, Native
from tests.sqs_wire import Wire
from tests.wire import ask
from tq.model import MAX_HEADERS_BYTES
from tq.web.parser import Head, KnownHeads, RequestParser
from tq.web.tracing import trace_of

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{ID}-{SPAN}-01"
OWN = f"00-{ID[::-1]}-{SPAN[::-1]}-00"
STATE = "congo=t61rcWkgMzE,rojo=00f067aa0ba902b7"
TRACE = {"traceparent": PARENT, "tracestate": STATE}
MESSAGES = "/queues/a/messages"

LATER = [f"cc-{ID}-{SPAN}-01", f"01-{ID}-{SPAN}-ff-what-will-be", f"fe-{ID}-{SPAN}-00-"]
NONE = [
    "",
    "x",
    PARENT[:-1],
    PARENT + "0",
    PARENT + "-",
    PARENT + "-more",
    PARENT.upper(),
    f"ff-{ID}-{SPAN}-01",
    f"0-{ID}-{SPAN}-01",
    f"00-{'0' * 32}-{SPAN}-01",
    f"00-{ID}-{'0' * 16}-01",
    f"00-{ID}-{SPAN}-0g",
    f"00-{ID}{SPAN}-01",
    f"01-{ID}-{SPAN}-01.more",
    f"01-{ID}-{SPAN}-01-é",
    f"01-{ID}-{SPAN}-01-{'x' * 500}",
    f"{PARENT}, {PARENT}",  # sent twice
]
STATES = {
    STATE: STATE,
    "a=1 , b=2": "a=1 , b=2",
    "a=1,,\t,b=2": "a=1,,\t,b=2",
    "0tenant@system=1,a_-*/9=~ !": "0tenant@system=1,a_-*/9=~ !",
    "": None,
    ",": None,
    "no value": None,
    "a=": None,
    "A=1": None,
    "a=b=c": None,
    "a=é": None,
    "a=1,=2": None,
    "k" * 257 + "=1": None,
    "k=" + "v" * 257: None,
    ",".join(f"k{number}=1" for number in range(32)): ",".join(f"k{number}=1" for number in range(32)),
    ",".join(f"k{number}=1" for number in range(33)): None,
}


@pytest.mark.parametrize("parent", [PARENT, *LATER])
def test_what_a_traceparent_is(parent: str) -> None:
    assert trace_of({"traceparent": parent}) == {"traceparent": parent}


@pytest.mark.parametrize("parent", NONE)
def test_what_is_none(parent: str) -> None:
    assert trace_of({"traceparent": parent, "tracestate": STATE}) == {}


@pytest.mark.parametrize(("state", "kept"), STATES.items())
def test_a_tracestate_is_kept_when_it_is_one(state: str, kept: str | None) -> None:
    assert trace_of({"traceparent": PARENT, "tracestate": state}).get("tracestate") == kept
    assert trace_of({"tracestate": state}) == {}


def test_of_a_tracestate_that_is_too_long_whole_members_are_left_out() -> None:
    """The longest first, then those at the end (3.3.1.5)."""
    short = [f"k{number}={'v' * 60}" for number in range(10)]
    state = ",".join([*short[:3], f"long={'v' * 124}", *short[3:]])
    assert trace_of({"traceparent": PARENT, "tracestate": state})["tracestate"] == ",".join(short[:8])
    only_long = ",".join(f"k{number}={'v' * 200}" for number in range(3))
    assert trace_of({"traceparent": PARENT, "tracestate": only_long}) == {"traceparent": PARENT}


# --- what a send makes of it ----------------------------------------------------------------


async def sent_and_taken(api: Api, body: Any, **headers: str) -> list[Any]:
    """What is received after a send with these headers: the headers of each message."""
    reply = await api("POST", MESSAGES, body, **headers)
    assert reply.code == 201, reply.body
    taken = shown(await api("GET", f"{MESSAGES}?max=1000"))["messages"]
    return [message.get("headers") for message in taken]


SHAPES: dict[str, tuple[Any, str, int]] = {
    "an envelope": ({"content": 1}, "application/json", 1),
    "an array": ([{"content": 1}, {"content": 2}], "application/json", 2),
    "lines": (b'{"content":1}\n{"content":2}', "application/x-ndjson", 2),
    "msgpack": (msgpack.packb({"content": 1}), "application/msgpack", 1),
    "bytes": (b"\0", "image/png", 1),
}


@pytest.mark.gen_test
@pytest.mark.parametrize(("body", "media_type", "count"), SHAPES.values(), ids=SHAPES)
async def test_it_goes_with_each_message(api: Api, body: Any, media_type: str, count: int) -> None:
    await create(api, "a")
    assert await sent_and_taken(api, body, Content_Type=media_type, **TRACE) == [TRACE] * count
    only_parent = await sent_and_taken(api, body, Content_Type=media_type, traceparent=PARENT)
    assert only_parent == [{"traceparent": PARENT}] * count
    for without in ({}, {"tracestate": STATE}, {"traceparent": PARENT[1:], "tracestate": STATE}):
        assert await sent_and_taken(api, body, Content_Type=media_type, **without) == [None] * count


@pytest.mark.gen_test
async def test_a_message_keeps_its_own(api: Api) -> None:
    """Its own `traceparent` is not given another's state. Of what is not about traces nothing is lost."""
    await create(api, "a")
    batch = [
        {"content": 1, "headers": {"traceparent": OWN}},
        {"content": 2, "headers": {"traceparent": "mine", "tracestate": "too"}},
        {"content": 3, "headers": {"tracestate": "a=own", "from": "shop"}},
        {"content": 4},
    ]
    assert await sent_and_taken(api, batch, **TRACE) == [
        {"traceparent": OWN},
        {"traceparent": "mine", "tracestate": "too"},
        {"traceparent": PARENT, "tracestate": "a=own", "from": "shop"},
        TRACE,
    ]


@pytest.mark.gen_test
async def test_the_limit_of_headers_holds_and_refuses_nothing_for_a_trace(api: Api) -> None:
    await create(api, "a")
    trace_size = sum(len(name) + len(value) for name, value in TRACE.items())
    fits = {"x": "é" + "x" * (MAX_HEADERS_BYTES - trace_size - 3)}
    full = {"x": fits["x"] + "x"}
    for own, kept in ((fits, {**TRACE, **fits}), (full, full)):
        assert await sent_and_taken(api, {"content": 1, "headers": own}, **TRACE) == [kept]


@pytest.mark.gen_test
async def test_a_transaction_sends_with_it(api: Api) -> None:
    await create(api, "a")
    sends = [{"queue": "a", "content": 1}, {"queue": "a", "content": 2, "headers": {"traceparent": OWN}}]
    assert (await api("POST", "/transactions", {"send": sends}, **TRACE)).code == 200
    assert (await lease(api))["headers"] == TRACE
    assert (await lease(api))["headers"] == {"traceparent": OWN}


@pytest.mark.gen_test
async def test_a_repeated_send_keeps_the_first_one_s(api: Api) -> None:
    """A retry is another span of the same trace; content alone says what is a duplicate."""
    await create(api, "a", content_dedup=True)
    assert (await api("POST", MESSAGES, {"content": 1}, **TRACE)).code == 201
    assert (await api("POST", MESSAGES, {"content": 1}, traceparent=OWN)).code == 200
    assert (await lease(api))["headers"] == TRACE


# --- how it comes back ----------------------------------------------------------------


@pytest.mark.gen_test
async def test_bytes_come_back_with_it_as_headers_of_the_answer(api: Api) -> None:
    await create(api, "a")
    await api("POST", MESSAGES, b"x", Content_Type="text/plain", **TRACE)
    for path in (f"{MESSAGES}/1", f"{MESSAGES}?visibility_timeout=0", MESSAGES):
        reply = await api("GET", path)
        assert (reply.body, reply.headers["traceparent"], reply.headers["tracestate"]) == (b"x", PARENT, STATE)
        assert json.loads(reply.headers["Tq-Headers"]) == TRACE
    await api("POST", MESSAGES, b"x", Content_Type="text/plain")
    reply = await api("GET", MESSAGES)
    assert reply.headers.keys().isdisjoint({"Traceparent", "Tracestate"})


@pytest.mark.gen_test
@pytest.mark.parametrize("evil", [f"{PARENT}\r\nX-Evil: 1", f"\n{PARENT}", f"{PARENT} ", "é", "", "x" * 30_000])
async def test_what_a_message_only_calls_so_is_no_header_of_the_answer(api: Api, evil: str) -> None:
    await create(api, "a")
    body = msgpack.packb({"content": b"x", "headers": {"traceparent": evil, "tracestate": evil}})
    assert (await api("POST", MESSAGES, body, Content_Type="application/msgpack")).code == 201
    reply = await api("GET", f"{MESSAGES}/1")
    assert (reply.code, reply.body) == (200, b"x")
    assert reply.headers.keys().isdisjoint({"Traceparent", "Tracestate", "X-Evil"})


# --- the server -------------------------------------------------------------------------


def test_it_outlives_a_kill_and_becomes_a_dead_letter(start: Callable[..., Server]) -> None:
    first = start()
    first.request("POST", "/queues", {"name": "dead"})
    first.request("POST", "/queues", {"name": "a", "dead_letter": {"queue": "dead", "max_receives": 1}})
    assert first.request("POST", MESSAGES, {"content": 1}, TRACE).status == 201
    receipt = first.request("GET", f"{MESSAGES}?visibility_timeout=60").json["receipt"]
    assert first.request("PATCH", f"{MESSAGES}/{receipt}", {"dead_letter": True}).status == 200
    first.kill()
    assert start().request("GET", "/queues/dead/messages").json["headers"] == TRACE


def test_a_head_with_one_is_not_remembered() -> None:
    """It does not come again, and would push out those that do."""
    parsed: deque[tuple[Head, bytes]] = deque()
    parser = RequestParser(parsed, KnownHeads(), 32_768, 1_024)
    for more in ("X-Other: 1", f"TraceParent: {PARENT}"):
        for _ in range(2):
            parser.feed(ask("POST", MESSAGES, b"{}", more))
    assert [head.is_known for head, _ in parsed] == [True, True, False, False]


# --- SQS -------------------------------------------------------------


def test_over_sqs_a_header_of_the_request_is_none_of_the_message(queue: Make, wire: Wire) -> None:
    """An attribute that was not sent would break the digest that SDKs check. One that was sent is a header."""
    q = queue(wire=type(wire))
    given = {"QueueUrl": q.url, "MessageBody": "x"}
    assert q.client.ask("SendMessage", given, **TRACE).status == 200
    assert "MessageAttributes" not in q.take(MessageAttributeNames=["All"])
    attributes = {"traceparent": {"DataType": "String", "StringValue": PARENT}}
    q.send("y", MessageAttributes=attributes)
    assert Native(q).receive()["headers"] == {"traceparent": PARENT}
