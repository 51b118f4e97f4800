"""What an attacker would try by hand against a real server, each with what comes of it: see SECURITY.md."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import pytest

from tests.harness import Server, findings
from tests.wire import Wire, ask
from tq.lifecycle.queues import MAX_GARBAGE
from tq.web.exchange import NO_PAGE
from tq.web.parser import Head, KnownHeads, RequestParser

ONE = b'{"content":1}'
EVIL = ["\r\nX-Evil: 1", "\n\n<html>", "\x1b[2J\x1b]0;evil\x07", "\x00", "\x9b31m", "é", "\u2028", "\ud800"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("attacks") / "data"
    with Server(data_dir) as running:
        assert running.request("PUT", "/queues/q", {}).status == 201
        yield running
        assert running.stop() == 0
        assert running.complaints() == ""
    assert findings(data_dir) == []


def lines_of(reply: Any) -> str:
    return "".join(f"{name}: {value}\n" for name, value in reply.headers.items())


# --- what comes back, and what is logged -------------------------------------------------------------


@pytest.mark.parametrize("evil", EVIL, ids=repr)
def test_no_name_splits_an_answer_or_a_line_of_the_log(server: Server, evil: str) -> None:
    """The teardown sees that nothing at all was logged."""
    coded = quote(evil.encode("utf-8", "surrogatepass"))
    for path in (f"/queues/{coded}", f"/queues/q/messages/{coded}", f"/{coded}", f"/queues?prefix={coded}"):
        reply = server.request("GET", path)
        assert reply.status in (200, 400, 404)
        assert "evil" not in lines_of(reply).lower()
    reply = server.request("POST", "/queues", {"name": f"a{evil}"})
    assert (reply.status, "X-Evil" in reply.headers, "Location" in reply.headers) == (400, False, False)


@pytest.mark.parametrize("evil", EVIL[:-1], ids=repr)
def test_what_is_sent_with_a_message_comes_back_in_no_header_as_it_is(server: Server, evil: str) -> None:
    named = {"content": "x", "headers": {evil: evil}, "group": f"g{evil}", "dedup_id": f"d{evil}"}
    assert server.request("POST", "/queues/q/messages", named).status == 201
    got = server.request("GET", "/queues/q/messages")
    assert (got.json["headers"], got.json["group"]) == ({evil: evil}, f"g{evil}")
    coded = quote(f"g{evil}")
    path = f"/queues/q/messages?group={coded}&dedup_id={coded}"
    assert server.request("POST", path, b"<script>", {"Content-Type": "text/html"}).status == 201
    got = server.request("GET", "/queues/q/messages")
    assert got.body == b"<script>"
    assert "X-Evil" not in got.headers
    assert set(NO_PAGE) <= set(got.headers.items())
    assert got.headers["X-Content-Type-Options"] == "nosniff"
    assert got.headers["Tq-Group"].isascii()
    assert got.headers["Tq-Group"].isprintable()


@pytest.mark.parametrize("byte", [*range(0x21), *range(0x7F, 0x100)], ids=hex)
def test_a_target_has_no_bytes_that_a_terminal_would_obey(byte: int) -> None:
    """So none gets into the log, which shows targets as they are."""
    parsed: deque[tuple[Head, bytes]] = deque()
    RequestParser(parsed, KnownHeads(), 32_768, 1_024).feed(b"GET /a%bb HTTP/1.1\r\nHost: tq\r\n\r\n" % bytes([byte]))
    assert [bool(head.refusal) for head, _ in parsed] == [True]


def test_a_content_type_cannot_carry_more_than_it_says(server: Server) -> None:
    for evil in ("text/plain\x0bx", "text/\xe9", "a" * 300):
        with Wire(server.port) as wire:
            wire.send(ask("POST", "/queues/q/messages", b"x", f"Content-Type: {evil}"))
            assert wire.expect().status == 400


def test_nothing_is_kept_by_caches_or_taken_from_files(server: Server) -> None:
    for path in ("/queues/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/%2e%2e/data.mdb", "/queues/q/../../data.mdb"):
        reply = server.request("GET", path)
        assert reply.status in (400, 404)
        assert reply.headers["Cache-Control"] == "no-store"


# --- headers that would change what is asked -------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    [
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "X-Original-URL: /queues/q",
    ],
)
def test_a_method_or_a_path_is_not_overridden(server: Server, header: str) -> None:
    with Wire(server.port) as wire:
        wire.send(ask("GET", "/queues/q", b"", header))
        assert wire.expect().json["name"] == "q"
    assert server.request("GET", "/queues/q").status == 200


def test_a_range_a_head_and_a_packed_body_do_nothing_else(server: Server) -> None:
    with Wire(server.port) as wire:
        wire.send(ask("GET", "/queues/q", b"", "Range: bytes=0-0,0-0,0-0"))
        assert wire.expect().status == 200
        wire.send(ask("POST", "/queues/q/messages", b"\x1f\x8b" * 9, "Content-Encoding: gzip"))
        assert wire.expect().status == 415
    assert server.request("POST", "/queues/q/messages", {"content": 7}).status == 201
    for _ in range(3):
        assert server.request("HEAD", "/queues/q/messages").status == 405  # it would take a message
    assert server.request("GET", "/queues/q/messages").json["content"] == 7


# --- numbers -------------------------------------------------------------

NUMBERS = ["9007199254740993", "9223372036854775808", "18446744073709551616", "-1", "-9223372036854775809", "1e400"]
NUMBERS += ["NaN", "Infinity", "1" * 4_000, "0.5", "٣", "１", "1_0", "+1", " 1", "0x1", "", "true", "null"]
PLACES = [
    "/queues?limit={}",
    "/queues/q/messages?max={}",
    "/queues/q/messages?visibility_timeout={}&max=1",
    "/queues/q/peek?limit={}",
]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:20])
def test_numbers_that_are_too_large_or_none(server: Server, number: str) -> None:
    for place in PLACES:
        assert server.request("GET", place.format(quote(number))).status in (200, 204, 400)
    for body in ('{{"content":1,"delay":{}}}', '{{"content":1,"priority":{}}}', '{{"content":1,"ttl":{}}}'):
        status = server.request("POST", "/queues/q/messages", body.format(number).encode()).status
        assert status in (201, 400)
    for field in ("max_messages", "max_bytes", "visibility_timeout", "dedup_window", "max_in_flight", "retention"):
        reply = server.request("PUT", "/queues/numbers", f'{{"{field}":{number}}}'.encode())
        assert reply.status in (200, 201, 400), (field, reply)
    assert server.request("GET", "/queues/q/messages/" + quote(number, safe="")).status in (404, 200)


# --- much for little -------------------------------------------------------------


@pytest.mark.slow
def test_queues_made_and_deleted_end_at_a_bound_and_leave_no_garbage(server: Server) -> None:
    """More than may wait to be swept; who comes too fast is told so."""
    with Wire(server.port) as wire:
        for _ in range(MAX_GARBAGE + 200):
            wire.send(ask("PUT", "/queues/loop", b"{}"), ask("POST", "/queues/loop/messages", ONE))
            wire.send(ask("DELETE", "/queues/loop"))
            assert {wire.expect().status for _ in range(3)} <= {201, 200, 204, 503}
    assert server.request("GET", "/healthz").status == 200


def test_hundreds_of_long_polls_leave_others_alone(server: Server) -> None:
    server.request("PUT", "/queues/idle", {})
    wires = [Wire(server.port) for _ in range(400)]
    for wire in wires:
        wire.send(ask("POST", "/receive", json.dumps({"queues": ["idle"] * 100, "wait": 60}).encode()))
    began = time.monotonic()
    assert server.request("POST", "/queues/q/messages", {"content": 1}).status == 201
    assert server.request("GET", "/queues/q/messages").status == 200
    assert time.monotonic() - began < 5
    for wire in wires:
        wire.__exit__()


@pytest.mark.parametrize(
    "storm",
    [
        lambda n: ("PATCH", "/queues/q", {"ttl": n + 1}),
        lambda n: ("POST", "/queues/q/messages", {"content": 1, "dedup_id": f"{n}" + "d" * 120, "ttl": 0.001}),
        lambda n: ("POST", "/queues/q/messages", {"content": 1, "group": f"{n}" + "g" * 120}),
        lambda n: ("DELETE", "/queues/q/messages", None),
        lambda n: ("POST", "/queues/q/messages/receive", {"attempt_id": f"a{n}", "visibility_timeout": 0}),
        lambda n: ("POST", "/queues/q/moves", {"to": "idle"}),
    ],
    ids=["patches", "dedup ids", "groups", "purges", "attempts", "moves"],
)
def test_a_storm_does_not_hold_up_a_good_client(
    server: Server, storm: Callable[[int], tuple[str, str, dict[str, Any] | None]]
) -> None:
    server.request("PUT", "/queues/idle", {})
    server.request("PUT", "/queues/good", {})
    requests = [storm(number) for number in range(150)]
    raw = [ask(method, path, json.dumps(body).encode() if body else b"") for method, path, body in requests]

    def blow() -> set[int]:
        with Wire(server.port) as wire:
            wire.send(*raw)
            return {wire.expect().status for _ in raw}

    with ThreadPoolExecutor(2) as pool:
        blown = [pool.submit(blow), pool.submit(blow)]
        slowest = 0.0
        for _ in range(10):
            began = time.monotonic()
            assert server.request("POST", "/queues/good/messages", {"content": 1}).status == 201
            slowest = max(slowest, time.monotonic() - began)
        statuses = set().union(*(each.result() for each in blown))
    assert statuses <= {200, 201, 204, 400, 409, 429, 503}, statuses
    assert slowest < 5
    server.request("DELETE", "/queues/q/messages")
