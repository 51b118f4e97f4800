"""tq's own routes in process, over the memory store and a clock that the tests set: each answer in full."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import msgpack
import pytest

from tests.api import (
    NONE,
    NOW,
    QUEUE,
    TOTALS,
    Api,
    assert_empty,
    assert_refused,
    create,
    lines,
    ready,
    received,
    rows,
    send,
    shown,
)
from tests.harness import HOSTS
from tq import __version__, model
from tq.errors import StorageFull
from tq.settings import Settings
from tq.store.memory import MemoryStore

pytestmark = pytest.mark.gen_test

BAD_NAMES = """%00 a%00b ..%2f a%2fb .. %2e .hidden -a _a %ff a%0d%0aSet-Cookie:x %C3%A9 a%D9%A1 a%0a a%20b a%25b
    a%zz a:b {queue}"""
# Method, path, code. "1" is a queue that holds nothing.
NOT_FOUND = """GET /nope not_found
    GET /queues/1/nope not_found
    GET /queues/1/messages/1/2 not_found
    GET /status/x not_found
    GET /queues//messages not_found
    GET /Status not_found
    GET /queues%2f1 not_found
    GET /queues/absent queue_not_found
    DELETE /queues/absent queue_not_found
    POST /queues/absent/messages queue_not_found
    GET /queues/absent/messages queue_not_found
    POST /queues/absent/messages/receive?max=2 queue_not_found
    DELETE /queues/absent/messages queue_not_found
    GET /queues/absent/messages/1 queue_not_found
    GET /queues/absent/peek queue_not_found
    DELETE /queues/absent/messages/1 queue_not_found
    DELETE /queues/absent/messages/r1 queue_not_found
    DELETE /queues/1/messages/1 message_not_found
    DELETE /queues/1/messages/72057594037927936 message_not_found
    DELETE /queues/1/messages/rAAAA message_not_found
    POST /queues/absent/redrive queue_not_found
    GET /queues/1/messages/1 message_not_found
    GET /queues/1/messages/0 message_not_found
    GET /queues/1/messages/-1 message_not_found
    GET /queues/1/messages/72057594037927936 message_not_found
    GET /queues/1/messages/one message_not_found
    GET /queues/1/messages/%D9%A1 message_not_found
    GET /queues/1/messages/%ff message_not_found"""
# Method, path, what `detail` names.
BAD_QUERIES = """GET /queues/1/messages?mx=1 `mx`
    GET /queues/1/messages?max=1&max=2 twice
    GET /queues/1/messages?max=0 $.max
    GET /queues/1/messages?max=1001 $.max
    GET /queues/1/messages?max=abc $.max
    GET /queues/1/messages?max=1.5 $.max
    GET /queues/1/messages?max= $.max
    GET /queues/1/messages?max=null $.max
    GET /queues/1/messages?max=99999999999999999999999999999 $.max
    GET /queues/1/messages?max=%ff UTF-8
    POST /queues/1/messages/receive?mx=1 `mx`
    POST /queues/1/messages?delay_seconds=1 `delay_seconds`
    POST /queues?x=1 `x`
    GET /queues?max=1 `max`
    GET /queues?limit=0 $.limit
    GET /queues?prefix=%ff UTF-8
    GET /queues/1?x=1 `x`
    DELETE /queues/1?if_empty=maybe $.if_empty
    DELETE /queues/1?force=true `force`
    DELETE /queues/1/messages?limit=1 `limit`
    GET /queues/1/messages/1?x=1 `x`
    GET /queues/1/peek?max=1 `max`
    GET /queues/1/peek?limit=1001 $.limit
    GET /queues/1/peek?after=-1 $.after
    GET /queues/1/peek?after=00ff $.after
    GET /queues/1/messages?wait=60.001 $.wait
    GET /queues/1/messages?wait=-1 $.wait
    GET /queues/1/messages?wait=nan $.wait
    GET /queues/1/messages?visibility_timeout=43201 $.visibility_timeout
    GET /queues/1/messages?visibility_timeout=-1 $.visibility_timeout
    DELETE /queues/1/messages/1?x=1 `x`
    GET /queues/1/peek?state=lost $.state
    GET /status?x=1 `x`
    GET /healthz?x=1 `x`
    GET /readyz?x=1 `x`"""
BAD_QUEUES = {
    "null": ("null", "null"),
    "an array": ("[]", "array"),
    "nothing": ("", ""),
    "no name": ("{}", "`name`"),
    "name 5": ('{"name":5}', "$.name"),
    "name null": ('{"name":null}', "$.name"),
    "unknown setting": ('{"name":"b","max_message_byte":5}', "`max_message_byte`"),
    "too small": ('{"name":"b","max_message_bytes":0}', "$.max_message_bytes"),
    "too large": ('{"name":"b","max_message_bytes":134217729}', "$.max_message_bytes"),
    "text": ('{"name":"b","max_message_bytes":"5"}', "$.max_message_bytes"),
    "setting null": ('{"name":"b","max_message_bytes":null}', "$.max_message_bytes"),
    "lone surrogate": ('{"name":"\\ud800"}', ""),
}
BAD_PARAMETERS = {
    "both": ("?max=1", '{"max":1}', ""),
    "an array": ("", "[1]", "array"),
    "unknown": ("", '{"mx":1}', "`mx`"),
    "too many": ("", '{"max":1001}', "$.max"),
    "true": ("", '{"max":true}', "$.max"),
    "text": ("", '{"max":"5"}', "$.max"),
    "text null": ("", '{"max":"null"}', "$.max"),
    "not JSON": ("", "max=1", "byte 0"),
}


@pytest.fixture
def settings() -> Settings:
    return Settings(data_dir="memory:", allowed_host=HOSTS, max_waiting_commands=2)


# --- queues -----------------------------------------------------------------------------


async def test_create(api: Api) -> None:
    reply = await api("POST", "/queues", {"name": "a"})
    assert reply.headers["Location"] == "/queues/a"
    assert shown(reply, 201) == QUEUE
    assert list(json.loads(reply.body)) == list(QUEUE)
    assert shown(await api("GET", reply.headers["Location"])) == QUEUE
    assert shown(await api("POST", "/queues", {"name": "a", "max_message_bytes": 1_048_576})) == QUEUE  # the default


async def test_create_again(api: Api, clock: list[int]) -> None:
    await create(api, "a", max_message_bytes=100)
    await send(api, 1)
    clock[0] += 1_000
    again = shown(await api("POST", "/queues", {"name": "a", "max_message_bytes": 100}))
    assert (again["created_at"], again["messages"]["ready"]) == (NOW, 1)
    assert_refused(await api("POST", "/queues", {"name": "a"}), "queue_exists", "'a'")
    assert_refused(await api("POST", "/queues", {"name": "a", "max_message_bytes": 101}), "queue_exists")
    assert shown(await api("GET", "/queues/a"))["max_message_bytes"] == 100


@pytest.mark.parametrize(("body", "place"), rows(BAD_QUEUES))
async def test_create_refuses(api: Api, body: str, place: str) -> None:
    assert_refused(await api("POST", "/queues", body), "invalid_request", place)
    assert shown(await api("GET", "/queues"))["queues"] == []


@pytest.mark.parametrize("name", ["", "a" * 81, ".a", "-a", "a/b", "a b", "a\n", "a\0", "é", "a\r\nb: c", "../a", "١"])
async def test_create_refuses_the_name(api: Api, name: str) -> None:
    assert_refused(await api("POST", "/queues", {"name": name}), "invalid_queue_name")


async def test_the_longest_name(api: Api) -> None:
    name = "Az09._-" + "x" * 73
    assert (await api("POST", "/queues", {"name": name})).headers["Location"] == f"/queues/{name}"
    assert shown(await api("GET", f"/queues/%41{name[1:]}"))["name"] == name


async def test_no_more_queues_than_may_be(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "MAX_QUEUES", 2)
    await create(api, "a")
    await create(api, "b")
    assert_refused(await api("POST", "/queues", {"name": "c"}), "too_many_queues")
    assert shown(await api("POST", "/queues", {"name": "a"})) == QUEUE


async def test_list_pages(api: Api) -> None:
    assert shown(await api("GET", "/queues")) == {"queues": [], "next": None}
    names = sorted([f"q{n}" for n in range(23)] + ["Q", "r"])
    for name in reversed(names):
        await create(api, name)
    path, pages = "/queues?limit=10", []
    for _ in range(3):
        page = shown(await api("GET", path))
        pages.append([queue["name"] for queue in page["queues"]])
        path = f"/queues?limit=10&after={page['next']}"
    assert pages == [names[:10], names[10:20], names[20:]]
    assert page["next"] is None
    assert shown(await api("GET", "/queues?limit=25"))["next"] is None
    assert shown(await api("GET", "/queues?limit=24"))["next"] == names[23]


async def test_list_by_prefix(api: Api) -> None:
    for name in ("a", "ab", "abc", "abd", "ac", "b"):
        await create(api, name)

    async def names(query: str) -> list[str]:
        return [queue["name"] for queue in shown(await api("GET", f"/queues?{query}"))["queues"]]

    assert await names("prefix=ab") == ["ab", "abc", "abd"]
    assert await names("prefix=ab&after=abc") == ["abd"]
    assert await names("prefix=ab&after=a") == ["ab", "abc", "abd"]
    assert await names("prefix=ab&after=b") == []
    assert await names("after=abb") == ["abc", "abd", "ac", "b"]
    assert await names("prefix=%C3%A9") == []
    assert await names("prefix=" + "a" * 600) == []
    assert shown(await api("GET", "/queues?prefix=ab&limit=2"))["next"] == "abc"


async def test_look_at_a_queue(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    await send(api, 1, 2, 3, 4)
    await api("GET", "/queues/a/messages")
    clock[0] += 1_500
    assert shown(await api("GET", "/queues/a")) == {
        **QUEUE,
        "messages": {**NONE, "ready": 3},
        "oldest_message_age_seconds": 1.5,
        "bytes": 3,
        "totals": {**TOTALS, "sent": 4, "received": 1, "acked": 1},
    }


async def test_delete(api: Api) -> None:
    await create(api, "a")
    await send(api, 1)
    assert_empty(await api("DELETE", "/queues/a"))
    for method, path in [("DELETE", "/queues/a"), ("GET", "/queues/a"), ("GET", "/queues/a/messages")]:
        assert_refused(await api(method, path), "queue_not_found", "'a'")
    assert shown(await api("POST", "/queues", {"name": "a"}), 201) == QUEUE
    assert_empty(await api("GET", "/queues/a/messages"))
    assert await send(api, "new") == [1]


async def test_delete_if_empty(api: Api) -> None:
    await create(api, "a")
    await send(api, 1)
    assert_refused(await api("DELETE", "/queues/a?if_empty=true"), "queue_not_empty", "1 message")
    assert shown(await api("GET", "/queues/a/messages")) == received(1, 1)
    assert_empty(await api("DELETE", "/queues/a?if_empty=true"))
    await create(api, "a")
    await send(api, 1)
    assert_empty(await api("DELETE", "/queues/a?if_empty=false"))


async def test_purge(api: Api) -> None:
    await create(api, "a")
    assert shown(await api("DELETE", "/queues/a/messages")) == {"purged": 0}
    assert await send(api, 1, 2, "x" * 10_000) == [1, 2, 3]
    assert shown(await api("DELETE", "/queues/a/messages")) == {"purged": 3}
    assert_empty(await api("GET", "/queues/a/messages"))
    assert await send(api, 4) == [4]
    assert shown(await api("GET", "/queues/a")) == {
        **QUEUE,
        "messages": {**NONE, "ready": 1},
        "oldest_message_age_seconds": 0,
        "bytes": 1,
        "totals": {**TOTALS, "sent": 4, "purged": 3},
    }


# --- messages ---------------------------------------------------------------------------


async def test_batches_in_and_out(api: Api) -> None:
    await create(api, "a")
    path = "/queues/a/messages"
    assert shown(await api("POST", path, {"content": "one"}), 201) == {"id": 1}
    assert shown(await api("POST", path, [{"content": 2}]), 201) == {"ids": [2]}
    assert shown(await api("POST", path, [{"content": 3}, {"content": 4}]), 201) == {"ids": [3, 4]}
    ndjson = await api("POST", path, '{"content":5}\r\n\n{"content":6}', Content_Type="application/x-ndjson")
    assert shown(ndjson, 201) == {"ids": [5, 6]}
    packed = await api("POST", path, msgpack.packb([{"content": 7}]), Content_Type="application/msgpack")
    assert shown(packed, 201) == {"ids": [7]}
    raw = await api("POST", path, "eight", Content_Type="text/plain")
    assert shown(raw, 201) == {"id": 8}
    assert shown(await api("GET", path)) == received(1, "one")
    assert shown(await api("GET", f"{path}?max=1")) == {"messages": [received(2, 2)]}
    got = shown(await api("GET", f"{path}?max=1000"))
    eight = {**received(8, "eight"), "content_type": "text/plain"}
    assert got == {"messages": [*[received(n, n) for n in (3, 4, 5, 6, 7)], eight]}
    assert_empty(await api("GET", path))
    assert_empty(await api("GET", f"{path}?max=10"))


@pytest.mark.parametrize(("query", "body"), [("", None), ("", {}), ("?max=2", None), ("", {"max": 2}), ("?max=2", {})])
async def test_receive_by_post(api: Api, query: str, body: Any) -> None:
    await create(api, "a")
    await send(api, 1, 2, 3)
    got = shown(await api("POST", f"/queues/a/messages/receive{query}", body))
    has_max = bool(query or body)
    assert got == ({"messages": [received(1, 1), received(2, 2)]} if has_max else received(1, 1))
    assert shown(await api("GET", "/queues/a"))["messages"]["ready"] == (1 if has_max else 2)


@pytest.mark.parametrize(("query", "body", "place"), rows(BAD_PARAMETERS))
async def test_receive_by_post_refuses(api: Api, query: str, body: str, place: str) -> None:
    await create(api, "a")
    await send(api, 1)
    assert_refused(await api("POST", f"/queues/a/messages/receive{query}", body), "invalid_request", place)
    assert shown(await api("GET", "/queues/a/messages"))["id"] == 1


async def test_look_at_a_message_changes_nothing(api: Api, clock: list[int]) -> None:
    await create(api, "a")
    await send(api, {"b": 1}, 2)
    before = shown(await api("GET", "/queues/a"))
    for _ in range(2):
        reply = await api("GET", "/queues/a/messages/1")
        assert reply.body == (
            b'{"id":1,"content":{"b": 1},"sent_at":"%b","receive_count":0,"state":"ready"}' % NOW.encode()
        )
    assert shown(await api("GET", "/queues/a")) == before
    assert shown(await api("GET", "/queues/a/messages")) == received(1, {"b": 1})
    assert_refused(await api("GET", "/queues/a/messages/1"), "message_not_found", "1")
    assert shown(await api("GET", "/queues/a/messages/2")) == ready(2, 2)


async def test_peek_pages(api: Api) -> None:
    await create(api, "a")
    assert shown(await api("GET", "/queues/a/peek")) == {"messages": [], "next": None}
    await send(api, *range(1, 26))
    first = shown(await api("GET", "/queues/a/peek?limit=2"))
    assert first["messages"] == [ready(1, 1), ready(2, 2)]
    path, pages, after = "/queues/a/peek", [], ""
    for _ in range(3):
        page = shown(await api("GET", f"{path}?after={after}"))
        pages.append([message["id"] for message in page["messages"]])
        after = page["next"]
    assert pages == [list(range(1, 11)), list(range(11, 21)), list(range(21, 26))]
    assert after is None
    assert shown(await api("GET", f"{path}?after={first['next']}&limit=1"))["messages"] == [ready(3, 3)]
    assert shown(await api("GET", f"{path}?limit=25&state=ready"))["next"] is None
    last = shown(await api("GET", f"{path}?limit=24"))["next"]
    assert shown(await api("GET", f"{path}?after={last}")) == {"messages": [ready(25, 25)], "next": None}
    for state in ("in_flight", "delayed", "blocked"):
        assert shown(await api("GET", f"{path}?state={state}")) == {"messages": [], "next": None}
    assert shown(await api("GET", "/queues/a"))["messages"]["ready"] == 25


@pytest.mark.parametrize(
    "headers",
    [{}, {"Content_Type": "application/x-www-form-urlencoded"}, {"Content_Type": "APPLICATION/JSON ; charset=utf-8"}],
)
async def test_what_counts_as_json(api: Api, headers: dict[str, str]) -> None:
    await create(api, "a")
    assert shown(await api("POST", "/queues/a/messages", {"content": 1}, **headers), 201) == {"id": 1}


@pytest.mark.parametrize("media_type", ["text/plain", "application/msgpack", "application/x-ndjson", "nonsense"])
@pytest.mark.parametrize("path", ["/queues", "/queues/1/messages/receive"])
async def test_where_only_json_will_do(api: Api, path: str, media_type: str) -> None:
    assert_refused(await api("POST", path, "{}", Content_Type=media_type), "unsupported_media_type", media_type)
    zipped = await api("POST", path, "{}", Content_Encoding="gzip")
    assert_refused(zipped, "unsupported_media_type", "Content-Encoding")


async def test_a_message_over_the_limit_of_its_queue(api: Api) -> None:
    await create(api, "a", max_message_bytes=10)
    fits, large = {"content": 1234567890}, {"content": 12345678901}
    for body, place in ((large, "Message 0 has 11"), ([fits, large], "Message 1 has 11")):
        assert_refused(await api("POST", "/queues/a/messages", body), "message_too_large", place)
    raw = await api("POST", "/queues/a/messages", b"x" * 11, Content_Type="text/plain")
    assert_refused(raw, "message_too_large", "10")
    assert shown(await api("POST", "/queues/a/messages", fits), 201) == {"id": 1}


# --- every route ------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*BAD_NAMES.split(), "a" * 81])
async def test_a_bad_queue_name_in_a_path(api: Api, name: str) -> None:
    for request in ("GET", "DELETE", "GET /messages", "DELETE /messages", "GET /messages/1", "GET /peek"):
        method, _, below = request.partition(" ")
        assert_refused(await api(method, f"/queues/{name}{below}"), "invalid_queue_name")
    for below in ("/messages", "/messages/receive"):
        body = {"content": 1} if below == "/messages" else None
        assert_refused(await api("POST", f"/queues/{name}{below}", body), "invalid_queue_name")


@pytest.mark.parametrize(("method", "path", "code"), lines(NOT_FOUND))
async def test_not_found(api: Api, method: str, path: str, code: str) -> None:
    await create(api, "1")
    body = {"content": 1} if (method, path) == ("POST", "/queues/absent/messages") else None
    assert_refused(await api(method, path, body), code)


@pytest.mark.parametrize(("method", "path", "place"), lines(BAD_QUERIES))
async def test_bad_queries(api: Api, method: str, path: str, place: str) -> None:
    await create(api, "1")
    await send(api, 1, queue="1")
    body = {"name": "x", "content": 1} if method == "POST" and "receive" not in path else None
    assert_refused(await api(method, path, body), "invalid_request", place)
    assert shown(await api("GET", "/queues/1"))["messages"]["ready"] == 1


@pytest.mark.parametrize("path", ["/queues", "/queues/a", "/queues/a/messages/1", "/queues/a/peek", "/healthz"])
async def test_a_trailing_slash_is_ignored(api: Api, path: str) -> None:
    await create(api, "a")
    await send(api, 1)
    assert shown(await api("GET", f"{path}/")) == shown(await api("GET", path))
    assert_empty(await api("OPTIONS", f"{path}/"))


async def test_a_message_that_is_missing_purges_nothing(api: Api) -> None:
    """`DELETE …/messages/$receipt` of a script that has no receipt."""
    await create(api, "a")
    await send(api, 1)
    assert_refused(await api("DELETE", "/queues/a/messages/"), "message_not_found", "slash")
    assert shown(await api("DELETE", "/queues/a/messages")) == {"purged": 1}


async def test_head_of_the_get_that_consumes_consumes_nothing(api: Api) -> None:
    await create(api, "a")
    await send(api, 1)
    reply = await api("HEAD", "/queues/a/messages")
    assert (reply.code, reply.headers["Allow"]) == (405, "DELETE, GET, OPTIONS, POST")
    assert shown(await api("GET", "/queues/a/messages")) == received(1, 1)


async def test_status(api: Api) -> None:
    await create(api, "a")
    await create(api, "b")
    await send(api, 1, 2)
    await send(api, 3, queue="b")
    status = shown(await api("GET", "/status"))
    assert status.pop("uptime_seconds") >= 0
    assert status["storage"].pop("used_bytes") > 0
    assert status == {
        "status": "ok",
        "version": __version__,
        "queues": 2,
        "messages": {**NONE, "ready": 3},
        "storage": {
            "engine": "memory",
            "path": "memory:",
            "file_bytes": 0,
            "available_bytes": None,
            "reserve_bytes": 0,
        },
    }


# --- when the server or the storage cannot ----------------------------------------------


async def test_health(api: Api, memory: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/healthz", "/readyz"):
        assert shown(await api("GET", path)) == {"status": "ok"}

    def fail(*_: Any) -> Any:
        raise OSError("the disk is on fire")

    memory.commit = fail  # type: ignore[method-assign]
    assert shown(await api("GET", "/healthz")) == {"status": "ok"}
    for path in ("/readyz", "/healthz", "/readyz"):
        assert_refused(await api("GET", path), "storage_failed")
    assert "the disk is on fire" in caplog.text


async def test_an_error_of_ours_is_not_told(api: Api, memory: MemoryStore, caplog: pytest.LogCaptureFixture) -> None:
    await api("GET", "/readyz")  # what the broker does at its start is done
    memory.commit = lambda commands, _: [ValueError("secret")] * len(commands)  # type: ignore[method-assign]
    reply = await api("POST", "/queues", {"name": "a"})
    assert_refused(reply, "internal_error")
    assert b"secret" not in reply.body
    assert [record.levelno for record in caplog.records if "secret" in str(record.exc_info)] == [logging.ERROR]


async def test_a_full_store_takes_no_message_and_gives_them_out(api: Api, memory: MemoryStore) -> None:
    await create(api, "a")
    await send(api, 1)
    commit = memory.commit

    def full(commands: Any, now_ms: int) -> list[Any]:
        return [StorageFull() if command.grows else commit([command], now_ms)[0] for command in commands]

    memory.commit = full  # type: ignore[method-assign]
    assert_refused(await api("POST", "/queues/a/messages", {"content": 2}), "storage_full")
    assert shown(await api("GET", "/queues/a/messages")) == received(1, 1)
    assert shown(await api("DELETE", "/queues/a/messages")) == {"purged": 0}


async def test_too_much_waits(api: Api, memory: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tq.writer.INLINE_BYTES", 0)  # so that the loop goes on while a commit waits
    await create(api, "a")
    begun, go_on = threading.Event(), threading.Event()
    commit = memory.commit

    def slow(commands: Any, now_ms: int) -> list[Any]:
        begun.set()
        go_on.wait(10)
        return commit(commands, now_ms)

    memory.commit = slow  # type: ignore[method-assign]
    message = {"content": 1}
    first = asyncio.ensure_future(api("POST", "/queues/a/messages", message))
    await asyncio.to_thread(begun.wait, 10)
    others = [asyncio.ensure_future(api("POST", "/queues/a/messages", message)) for _ in range(3)]
    refused = next(iter((await asyncio.wait(others, return_when=asyncio.FIRST_COMPLETED))[0]))
    assert_refused(refused.result(), "overloaded")
    assert shown(await api("GET", "/healthz")) == {"status": "ok"}
    go_on.set()
    replies = [await one for one in [first, *others]]
    assert sorted(reply.code for reply in replies) == [201, 201, 201, 503]
