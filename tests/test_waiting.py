"""Waiting for a message, over HTTP: who is woken, in which order, and what becomes of those who go away."""

from __future__ import annotations

import asyncio
import socket
import statistics
import threading
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from tests.api import Api, assert_empty, assert_refused, create, lease, put, received, send, shown
from tests.harness import Server, wait_until
from tq import model
from tq.store.memory import MemoryStore
from tq.web.server import Application

gen_test = pytest.mark.gen_test


async def waiting(application: Application, number: int) -> None:
    """Wait until so many receives wait for a message."""
    for _ in range(2_000):
        if len(application.broker._waiters) == number:
            return
        await asyncio.sleep(0.001)
    raise AssertionError(f"{len(application.broker._waiters)} wait")


@gen_test
async def test_wait_ends_with_204(api: Api, app: Application) -> None:
    await create(api, "a")
    began = asyncio.get_running_loop().time()
    assert_empty(await api("GET", "/queues/a/messages?wait=0.1"))
    assert asyncio.get_running_loop().time() - began >= 0.1
    assert_empty(await api("GET", "/queues/a/messages?wait=0"))
    await waiting(app, 0)


@gen_test
@pytest.mark.parametrize("path", ["/queues/a/messages?wait=60", "/queues/a/messages/receive", "/receive"])
async def test_a_send_wakes_one_who_waits(api: Api, app: Application, path: str) -> None:
    await create(api, "a")
    body = {"wait": 60, "queues": ["a"]} if path == "/receive" else {"wait": 60}
    one = asyncio.ensure_future(api("GET", path) if "?" in path else api("POST", path, body))
    await waiting(app, 1)
    await send(api, "woken")
    assert shown(await one)["content"] == "woken"
    await waiting(app, 0)


@gen_test
async def test_who_waits_longest_is_first(api: Api, app: Application) -> None:
    await create(api, "a")
    those = []
    for number in range(3):
        those.append(asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60")))
        await waiting(app, number + 1)
    for number in range(3):
        await send(api, number)
        assert shown(await those[number])["content"] == number
        await waiting(app, 2 - number)


@gen_test
async def test_what_becomes_ready_by_itself_wakes(api: Api, app: Application, clock: list[int]) -> None:
    await create(api, "a")
    await put(api, "a", delay=10)
    one = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60"))
    await waiting(app, 1)
    clock[0] += 10_000
    assert shown(await api("GET", "/readyz")) == {"status": "ok"}  # the next group of commands sees the time
    assert shown(await one) == {**received(1, 1)}


@gen_test
@pytest.mark.parametrize("wait", [0, 60])
async def test_a_receive_looks_behind_many_that_expired_at_once(api: Api, clock: list[int], wait: int) -> None:
    await create(api, "a")
    batch = [{"content": number, "ttl": 1} for number in range(2_000)]  # more than the timers of two groups
    await api("POST", "/queues/a/messages", [*batch, {"content": "stays"}])
    clock[0] += 1_000
    assert shown(await api("GET", f"/queues/a/messages?wait={wait}"))["content"] == "stays"


@gen_test
async def test_a_release_and_an_ack_in_a_group_wake(api: Api, app: Application) -> None:
    await create(api, "a")
    await put(api, "a", 1, group="g")
    await put(api, "a", 2, group="g")
    receipt = (await lease(api))["receipt"]
    one = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60&visibility_timeout=30"))
    await waiting(app, 1)
    await api("PATCH", f"/queues/a/messages/{receipt}", {"delay": 0})
    again = shown(await one)
    assert (again["content"], again["receive_count"]) == (1, 2)
    one = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60"))
    await waiting(app, 1)
    await api("DELETE", f"/queues/a/messages/{again['receipt']}")
    assert shown(await one)["content"] == 2


@gen_test
@pytest.mark.parametrize("method", ["PATCH", "PUT"])
async def test_a_queue_that_goes_on_wakes(api: Api, app: Application, method: str) -> None:
    await create(api, "a", paused=True)
    await send(api, 1)
    one = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60"))
    await waiting(app, 1)
    await api(method, "/queues/a", {"paused": False})
    assert shown(await one) == received(1, 1)


async def leasing(api: Api, app: Application, number: int) -> list[asyncio.Future[Any]]:
    """So many who wait for a lease of a message of `a`, the first one first."""
    those = []
    for place in range(number):
        those.append(asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60&visibility_timeout=30")))
        await waiting(app, place + 1)
    return those


@gen_test
async def test_room_for_another_in_flight_wakes_one(api: Api, app: Application) -> None:
    await create(api, "a", max_in_flight=1)
    those = await leasing(api, app, 3)
    await send(api, 1, 2, 3)
    for left, one in enumerate(those):
        found = shown(await asyncio.wait_for(one, 10))
        assert found["content"] == left + 1
        await waiting(app, 2 - left)
        await api("DELETE", f"/queues/a/messages/{found['receipt']}")


@gen_test
async def test_room_for_several_wakes_as_many(api: Api, app: Application) -> None:
    await create(api, "a", max_in_flight=2)
    those = await leasing(api, app, 4)
    await send(api, 1, 2, 3, 4)
    receipts = [shown(await asyncio.wait_for(one, 10))["receipt"] for one in those[:2]]
    await waiting(app, 2)
    await api("POST", "/queues/a/acks", {"receipts": receipts})
    assert [shown(await asyncio.wait_for(one, 10))["content"] for one in those[2:]] == [3, 4]


@gen_test
@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
async def test_one_who_cannot_lease_leaves_the_message_to_one_who_does_not(
    api: Api, app: Application, names: list[str]
) -> None:
    await create(api, "a", max_in_flight=1)
    await create(api, "b")
    await send(api, 1)
    await lease(api)
    body = {"queues": names, "wait": 60, "visibility_timeout": 30}
    leasing = []
    for number in range(2):
        leasing.append(asyncio.ensure_future(api("POST", "/receive", body)))
        await waiting(app, number + 1)
    plain = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60"))
    await waiting(app, 3)
    await send(api, 2)
    assert shown(await asyncio.wait_for(plain, 10))["content"] == 2
    await waiting(app, 2)
    assert not any(one.done() for one in leasing)


@gen_test
async def test_one_who_waits_is_not_told_that_there_is_no_room(api: Api, app: Application) -> None:
    await create(api, "a", max_in_flight=1)
    await send(api, 1, 2)
    receipt = (await lease(api))["receipt"]
    assert_refused(await api("GET", "/queues/a/messages?visibility_timeout=30"), "too_many_in_flight")
    assert_empty(await api("GET", "/queues/a/messages?visibility_timeout=30&wait=0.05"))
    one = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60&visibility_timeout=30"))
    await waiting(app, 1)
    await api("PATCH", f"/queues/a/messages/{receipt}", {"visibility_timeout": 20})
    await waiting(app, 1)
    await api("DELETE", f"/queues/a/messages/{receipt}")
    assert shown(await asyncio.wait_for(one, 10))["content"] == 2


@gen_test
@pytest.mark.parametrize("how", ["ack", "more room", "no bound"])
async def test_room_wakes_one_who_waits_on_several_queues(api: Api, app: Application, how: str) -> None:
    await create(api, "a", max_in_flight=1)
    await create(api, "b")
    await send(api, 1, 2)
    receipt = (await lease(api))["receipt"]
    body = {"queues": ["b", "a"], "wait": 60, "visibility_timeout": 30}
    one = asyncio.ensure_future(api("POST", "/receive", body))
    await waiting(app, 1)
    if how == "ack":
        await api("DELETE", f"/queues/a/messages/{receipt}")
    else:
        await api("PATCH", "/queues/a", {"max_in_flight": 2 if how == "more room" else None})
    assert shown(await asyncio.wait_for(one, 10))["content"] == 2


@gen_test
@pytest.mark.parametrize("query", ["", "?visibility_timeout=30"])
async def test_what_was_taken_for_a_client_that_went_away_goes_back(
    api: Api, app: Application, memory: MemoryStore, base_url: str, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tq.writer.INLINE_BYTES", 0)  # so that the loop goes on while this commit waits
    await create(api, "a")
    await send(api, 1)
    begun, gone = threading.Event(), threading.Event()
    commit, cancelled = memory.commit, app.broker.cancelled

    def slow(commands: Any, now_ms: int) -> list[Any]:
        results = commit(commands, now_ms)
        if any(isinstance(command, model.Receive) for command in commands) and not begun.is_set():
            begun.set()
            gone.wait(10)
        return results

    def noticed(ticket: Any) -> None:
        cancelled(ticket)
        gone.set()

    memory.commit = slow  # type: ignore[method-assign]
    app.broker.cancelled = noticed  # type: ignore[method-assign]
    _, writer = await asyncio.open_connection("127.0.0.1", int(base_url.rpartition(":")[2]))
    writer.write(f"GET /queues/a/messages{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await asyncio.to_thread(begun.wait, 10)
    writer.close()
    await writer.wait_closed()
    assert shown(await api("GET", "/queues/a/messages?wait=3")) == received(1, 1)
    assert gone.is_set()


@gen_test
async def test_the_queue_of_one_who_waits_is_deleted(api: Api, app: Application) -> None:
    await create(api, "a")
    one = asyncio.ensure_future(api("GET", "/queues/a/messages?wait=60"))
    await waiting(app, 1)
    assert_empty(await api("DELETE", "/queues/a"))
    assert_refused(await one, "queue_not_found")


@gen_test
async def test_one_who_waits_on_two_queues_leaves_the_other_to_the_next(api: Api, app: Application) -> None:
    """A message of `b` wakes the oldest, who finds one in `a` first: then the next one must hear of that in `b`."""
    for name in ("a", "b"):
        await create(api, name)
    those = []
    for number, names in enumerate((["a", "b"], ["a"], ["b"])):
        those.append(asyncio.ensure_future(api("POST", "/receive", {"queues": names, "wait": 60})))
        await waiting(app, number + 1)
    sends = [{"queue": "b", "content": "in b"}, {"queue": "a", "content": "in a"}]
    shown(await api("POST", "/transactions", {"send": sends}))
    both, only_a, only_b = those
    assert shown(await both)["content"] == "in a"
    assert shown(await asyncio.wait_for(only_b, 10))["content"] == "in b"
    await send(api, "more")
    assert shown(await only_a)["content"] == "more"


def waiting_client(server: Server, path: str) -> socket.socket:
    """A connection that waits for a message."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=30)
    connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return connection


def test_a_client_that_went_away_consumes_nothing(server: Server) -> None:
    server.request("POST", "/queues", {"name": "a"})
    for number in range(1, 21):
        gone = waiting_client(server, "/queues/a/messages?wait=60")
        if number % 2:
            assert server.request("GET", "/readyz").status == 200  # it waits by now
        gone.close()
        assert server.request("POST", "/queues/a/messages", {"content": number}).status == 201
        got = server.request("GET", "/queues/a/messages?wait=10")
        assert (got.status, got.json["id"], got.json["receive_count"]) == (200, number, 1)
    assert server.request("GET", "/queues/a").json["totals"]["sent"] == 20


def test_one_who_waits_behind_a_client_that_went_away(server: Server) -> None:
    server.request("POST", "/queues", {"name": "a"})
    for number in range(20):
        gone = waiting_client(server, "/queues/a/messages?wait=60")
        server.request("GET", "/readyz")
        next_one = waiting_client(server, "/queues/a/messages?wait=60")
        server.request("GET", "/readyz")
        with next_one:
            sender = socket.create_connection(("127.0.0.1", server.port))
            body = b'{"content":%d}' % number
            head = b"POST /queues/a/messages HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body)
            sender.sendall(head + body)
            gone.close()
            assert b'"content":%d' % number in next_one.recv(4096)
            sender.close()


def test_a_stop_answers_those_who_wait(start: Callable[..., Server]) -> None:
    server = start()
    server.request("POST", "/queues", {"name": "a"})
    with waiting_client(server, "/queues/a/messages?wait=60") as connection:
        server.request("GET", "/readyz")
        assert server.stop() == 0
        assert connection.recv(4096).startswith(b"HTTP/1.1 204")


def test_a_lease_and_a_delay_outlive_a_crash(start: Callable[..., Server]) -> None:
    server = start()
    server.request("POST", "/queues", {"name": "a"})
    server.request("POST", "/queues/a/messages", [{"content": "leased"}, {"content": "delayed", "delay": 3600}])
    message = server.request("GET", "/queues/a/messages?visibility_timeout=600").json
    server.kill()
    server = start()
    assert server.request("GET", "/queues/a").json["messages"] == {
        "ready": 0,
        "in_flight": 1,
        "delayed": 1,
        "blocked": 0,
    }
    assert server.request("DELETE", f"/queues/a/messages/{message['receipt']}").status == 204


def comes_after(server: Server, query: str, method: str, path: str, body: Any = None) -> tuple[float, float]:
    """Seconds from a request, and from its answer, until the message that it hid was received."""
    asked_s = time.monotonic()
    assert server.request(method, path, body).status < 300
    answered_s = time.monotonic()
    while server.request("GET", f"/queues/a/messages{query}").status == 204:
        assert time.monotonic() < answered_s + 30
    came_s = time.monotonic()
    return came_s - asked_s, came_s - answered_s


@pytest.mark.parametrize("query", ["?wait=30", ""], ids=["waiting", "polling"])
def test_a_timer_is_never_early_and_hardly_late(server: Server, query: str) -> None:
    """Time is counted in whole milliseconds, so a part of one may be missing."""
    server.request("POST", "/queues", {"name": "a"})
    late_s: list[float] = []
    for wait_s in (0.05, 0.1, 0.15, 0.2, 0.25):
        after_send = comes_after(server, query, "POST", "/queues/a/messages", {"content": 1, "delay": wait_s})
        server.request("POST", "/queues/a/messages", {"content": 1})
        after_lease = comes_after(server, query, "GET", f"/queues/a/messages?visibility_timeout={wait_s}")
        for since_asked_s, since_answered_s in (after_send, after_lease):
            assert since_asked_s > wait_s - 0.001
            late_s.append(since_answered_s - wait_s)
    print(f"timers are late by {statistics.median(late_s) * 1000:.1f} ms, {max(late_s) * 1000:.1f} at most")
    assert max(late_s) < 0.5


def test_a_delay_that_ended_while_the_server_was_down_is_over_at_once(start: Callable[..., Server]) -> None:
    server = start()
    server.request("POST", "/queues", {"name": "a"})
    server.request("POST", "/queues/a/messages", [{"content": 1, "delay": 0.3}, {"content": 2, "delay": 3600}])
    over_s = time.monotonic() + 0.3
    assert server.request("GET", "/queues/a").json["messages"]["delayed"] == 2
    server.kill()
    wait_until(lambda: time.monotonic() > over_s)
    server = start()
    assert server.request("GET", "/queues/a/messages").json["content"] == 1
    assert server.request("GET", "/queues/a/messages").status == 204


def test_a_lease_ends_at_its_time_over_a_restart(start: Callable[..., Server]) -> None:
    server = start()
    server.request("POST", "/queues", {"name": "a"})
    server.request("POST", "/queues/a/messages", {"content": 1})
    leased = server.request("GET", "/queues/a/messages?visibility_timeout=3").json
    server.kill()
    server = start()
    (shown_now,) = server.request("GET", "/queues/a/peek?state=in_flight").json["messages"]
    assert shown_now["visible_at"] == leased["visible_at"]
    assert server.request("GET", "/queues/a/messages?wait=30").json["receive_count"] == 2
    late_s = time.time() - datetime.fromisoformat(leased["visible_at"]).timestamp()
    print(f"late by {late_s * 1000:.1f} ms")
    assert -0.01 < late_s < 1.5


def test_time_passes_by_itself(server: Server) -> None:
    server.request("POST", "/queues", {"name": "a"})
    server.request("POST", "/queues/a/messages", {"content": 1, "delay": 0.3})
    assert server.request("GET", "/queues/a/messages").status == 204
    leased = server.request("GET", "/queues/a/messages?wait=30&visibility_timeout=0.2")
    assert leased.json["receive_count"] == 1
    wait_until(lambda: server.request("GET", "/queues/a").json["messages"]["ready"] == 1)
    assert server.request("GET", "/queues/a/messages?wait=30").json["receive_count"] == 2
