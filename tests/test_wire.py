"""Bytes on the wire: what a client can do wrong, each with its answer, and what a server must survive.

One server serves the whole file. After the last test it must still answer, have logged no exception, stop with 0 and
leave sound data; an error in the teardown of this file says that it did not.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import Reply, Server, sound_server
from tests.wire import Wire, ask, chunked
from tq.model import Command
from tq.web import ROUTES

MAX_BODY = 256 * 1024
NUMBERS = itertools.count(1)
FUZZ = settings(max_examples=200, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])

STATUS = {
    400: "invalid_request invalid_queue_name invalid_host",
    404: "not_found queue_not_found message_not_found",
    405: "method_not_allowed",
    413: "message_too_large",
    431: "headers_too_large",
}
ERRORS = {code: status for status, codes in STATUS.items() for code in codes.split()}


def rows(table: dict[str, Any]) -> list[Any]:
    return [pytest.param(*(row if isinstance(row, tuple) else (row,)), id=name) for name, row in table.items()]


def holding(content: bytes) -> bytes:
    return b'{"content":%b}' % content


ONE = holding(b"1")

# --- the tables -------------------------------------------------------------------------

# What is not JSON, as content; `detail` says at which byte. And strings with half a surrogate pair.
BAD_CONTENT = rb"""NaN Infinity -Infinity [1,{"a":NaN}] 01 +1 -01 1. .5 1e 0x1 1_0 True nul nulll undefined 'a'
    [1,] [1}2 {"a":1,} {"a"} {1:2} {,} /*1*/1 "\x41" "\u12" """.split()
BAD_CONTENT += [b'"a\nb"', b'"a\tb"', b'"a\0b"', b"1 2", b"\xef\xbb\xbf1", b"\x0b1"]
SURROGATES = [rb'"\ud800"', rb'"a \ud800 and more"', rb'"\udc00 and more"', rb'"\ud800\ud800"', rb'{"\ud800 as key":1}']

# name: what a send is given as application/json, and what `detail` says of the place
BAD_BODIES = {
    "not JSON": (b"hello", "byte 0"),
    "empty": (b"", ""),
    "cut off": (b'{"content":', ""),
    "NUL": (b"\0", "byte 0"),
    "not UTF-8 in content": (holding(b'"ab\xff"'), "byte 14"),
    "not UTF-8 in a key of content": (holding(b'{"\xff":1}'), "byte 13"),
    "not UTF-8 in a name": (b'{"con\xfftent":1}', "byte 5"),
    "encoded surrogate": (holding(b'"\xed\xa0\x80"'), "byte 12"),
    "overlong UTF-8": (holding(b'"\xc0\xaf"'), "byte 12"),
    "UTF-16": ('{"content":1}'.encode("utf-16"), "byte 0"),
    "100,000 nested, open": (holding(b"[" * 100_000), "nested too deep"),
    "100,000 nested, closed": (holding(b"[" * 100_000 + b"]" * 100_000), "nested too deep"),
    "50,000 nested objects": (holding(b'{"":' * 50_000), "nested too deep"),
    "100,000 nested, no envelope": (b"[" * 100_000, "$[0]"),
    "BOM": (b"\xef\xbb\xbf" + ONE, "byte 0"),
    "trailing garbage": (ONE + b"x", "byte 1"),
    "two values": (ONE + ONE, "byte 1"),
    "unknown field": (b'{"content":1,"dealy":1}', "`dealy`"),
    "unknown field in an array": (b'[{"content":1},{"content":2,"dealy":1},{"content":3}]', "$[1]"),
    "missing content": (b"{}", "`content`"),
    "null": (b"null", "null"),
    "null in an array": (b'[{"content":1},null]', "$[1]"),
    "empty array": (b"[]", "has 0"),
    "too many": (b"[" + b",".join([ONE] * 10_001) + b"]", "has 10,001"),
    **{content.decode(): (holding(content), "byte 1") for content in BAD_CONTENT},
    **{content.decode(): (holding(content), "") for content in SURROGATES},
}
BAD_LINES = {
    "nothing": (b"", "has 0"),
    "blank lines": (b"\n \n\r\n", "has 0"),
    "bad third line, wrong shape": (ONE + b"\n" + ONE + b"\n" + b'{"x":1}\n', "$[2]"),
    "bad third line, not JSON": (ONE + b"\n" + ONE + b"\n" + b"hello\n", "$[2]"),
    "bad third line, NaN": (ONE + b"\n" + ONE + b"\n" + holding(b"NaN"), "$[2]"),
    "bad third line, cut off": (ONE + b"\n" + ONE + b"\n" + b'{"content":', "$[2]"),
    "not UTF-8": (ONE + b"\n" + holding(b'"\xff"') + b"\n", "$[1]"),
    "an array": (b"[" + ONE + b"]\n", "$[0]"),
}
FINE_CONTENT = {
    **{text.decode(): text for text in rb'1e999 1.10 -0 1E+2 "" {} [] null false "\/" "\u0000" "\ud83d\ude00"'.split()},
    "5,000 digits": b"9" * 5_000,
    "duplicate keys": b'{"a":1,"a":2}',
    "whitespace": b'[ 1 ,\r\n\t{ "a" :  null } ]',
    "900 deep": b"[" * 900 + b"]" * 900,
    "emoji": '"😀"'.encode(),
    "U+2028, DEL and U+FFFF": '"\u2028\u2029\x7f\uffff"'.encode(),
    "200 KB": b'"' + b"a" * 200_000 + b'"',
    "like the end of an answer": rb'"\",\"sent_at\":\"x\"}"',
}

# name: target, status, code of the refusal
TARGETS = {
    "absolute form": ("http://tq/status", 200, ""),
    "absolute form, https": ("https://tq:8000/status?", 200, ""),
    "trailing slash": ("/status/", 200, ""),
    "authority for a path": ("//evil/status", 404, "not_found"),
    "broken authority for a path": ("//[", 404, "not_found"),
    "empty segment": ("/queues//messages", 404, "not_found"),
    "braces": ("/queues/{}", 400, "invalid_queue_name"),
    "bytes": ("/queues/\xc3\xa9", 400, "invalid_request"),
    "bytes for an id": ("/queues/1/messages/%ff", 404, "message_not_found"),
    "no path": ("status", 400, "invalid_request"),
    "another scheme": ("ftp://tq/status", 400, "invalid_request"),
    "an authority": ("tq:80", 400, "invalid_request"),
}

VICTIM = b"DELETE /queues/victim HTTP/1.1\r\nHost: tq\r\n\r\n"
SEND = b"POST /queues/prey/messages HTTP/1.1\r\nHost: tq\r\n"
LOOK = b"GET /status HTTP/1.1\r\nHost: tq\r\n"
CHUNKED = SEND + b"Transfer-Encoding: chunked\r\n\r\n"
IN_A_CHUNK = b"d\r\n" + ONE + b"\r\n0\r\n\r\n"
START_LINES = b"""garbage|\0\0\0|\x16\x03\x01\x02\0\x01|PRI * HTTP/2.0|GET /status HTTP/2.0|GET /status|GET|/status
|GET /status HTTP/1.12|GET /status HTTP/0.9|GET /status http/1.1|GET\t/status\tHTTP/1.1
|GET /status HTTP/1.1 | GET /status HTTP/1.1|GET /sta tus HTTP/1.1|GET /status\0 HTTP/1.1|G\0T /status HTTP/1.1
|GET /status HTTP/1.1\rX: y|GE(T /status HTTP/1.1"""
HEADER_LINES = b"X: a\r\n b| X: a|X: a\0b|X: a\rY: b|foo|: foo|a b: foo|X : a|X\t: a|\xff: a|Content-Length:\r\n 13"
LENGTHS = b"-1|+13|0xd|1_3|1 3|abc||\xb9\xb3|13, 5|13;|13.0|%b|%b" % (b"9" * 30, b"9" * 5_000)
CODINGS = b"gzip|identity|chunked, chunked|gzip, chunked|xchunked|chunked;q=1|\x0bchunked|"
SIZES = [b"zz", b"-d", b"+d", b"0xd", b"d ", b" d", b"", b"f" * 60, b"5", b"e", b"d\r"]
# What is sent before a second request that deletes `victim`. It must be answered 400, and neither of the two be run.
MALFORMED = {
    "length and chunked": SEND + b"Content-Length: 13\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and length": SEND + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "two lengths, long first": SEND + b"Content-Length: 13\r\nContent-Length: 5\r\n\r\n" + ONE,
    "two lengths, short first": SEND + b"Content-Length: 0\r\nContent-Length: 13\r\n\r\n" + ONE,
    "two codings": SEND + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n" + IN_A_CHUNK,
    "length, space before the colon": SEND + b"Content-Length : 13\r\n\r\n" + ONE,
    "coding, tab before the colon": SEND + b"Transfer-Encoding\t: chunked\r\n\r\n" + IN_A_CHUNK,
    "chunk without an end": CHUNKED + b"d\r\n" + ONE + b"0\r\n\r\n",
    "no Host, bad length": b"POST /queues/prey/messages HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    **{f"start {v!r}": v + b"\r\nHost: tq\r\n\r\n" for v in START_LINES.replace(b"\n", b"").split(b"|")},
    **{f"header {v!r}": LOOK + v + b"\r\n\r\n" for v in HEADER_LINES.split(b"|")},
    **{f"length {v[:9]!r}, {len(v)}": SEND + b"Content-Length: " + v + b"\r\n\r\n" + ONE for v in LENGTHS.split(b"|")},
    **{f"coding {v!r}": SEND + b"Transfer-Encoding: " + v + b"\r\n\r\n" + IN_A_CHUNK for v in CODINGS.split(b"|")},
    **{f"chunk size {v[:9]!r}": CHUNKED + v + IN_A_CHUNK[1:] for v in SIZES},
}
# Odd, so that a server may answer, close, or read it as meant. `prey` gets one message or none.
DOUBTFUL = {
    "two equal lengths": SEND + b"Content-Length: 13\r\n" * 2 + b"\r\n" + ONE,
    "list of equal lengths": SEND + b"Content-Length: 13, 13\r\n\r\n" + ONE,
    "two spaces": SEND.replace(b" ", b"  ", 1) + b"Content-Length: 13\r\n\r\n" + ONE,
    "LF for CRLF": SEND.replace(b"\r\n", b"\n") + b"Content-Length: 13\n\n" + ONE,
    "LF for CRLF in chunks": CHUNKED + IN_A_CHUNK.replace(b"\r\n", b"\n"),
    "chunk extension": CHUNKED + b"d;a=b" + IN_A_CHUNK[1:],
    "trailer": CHUNKED + IN_A_CHUNK[:-2] + b"X: y\r\n\r\n",
    "long line of a chunk size": CHUNKED + b"0" * 200 + IN_A_CHUNK,
    "HTTP/1.0 and chunked": CHUNKED.replace(b"/1.1", b"/1.0") + IN_A_CHUNK,
    "HTTP/1.2": SEND.replace(b"/1.1", b"/1.2") + b"Content-Length: 13\r\n\r\n" + ONE,
}
LARGE_HEADERS = {
    "a header": LOOK + b"X: " + b"a" * 40_000 + b"\r\n\r\n",
    "many": LOOK + b"X: a\r\n" * 7_000 + b"\r\n",
    "the target": b"GET /status?" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: tq\r\n\r\n",
    "of a send": SEND + b"X: " + b"a" * 40_000 + b"\r\nContent-Length: 13\r\n\r\n" + ONE,
    "200 KB": LOOK + b"X: " + b"a" * 200_000 + b"\r\n\r\n",
}
WITHOUT_AN_END = LOOK + b"X: a\r\n" * 300_000


def exchange(server: Server, data: bytes, method: str = "GET") -> Reply:
    """The first answer to the bytes, on a connection of its own."""
    with Wire(server.port) as wire:
        wire.send(data)
        return wire.expect(method)


def assert_refused(reply: Reply | None, code: str, place: str = "") -> None:
    """A problem body of this code, its keys in this order and no others, that names the place."""
    assert reply is not None
    assert reply.status == ERRORS[code], reply
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in reply.headers
    shown = reply.json
    assert list(shown) == ["type", "title", "status", "code", "detail"]
    assert (shown["type"], shown["status"], shown["code"]) == ("about:blank", ERRORS[code], code)
    assert shown["title"].endswith(".")
    assert place in shown["detail"]


def sent_to(server: Server, queue: str) -> int:
    """How many messages the queue ever took. What was asked before is on disk when readyz answers."""
    assert server.request("GET", "/readyz").status == 200
    return server.request("GET", f"/queues/{queue}").json["totals"]["sent"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("wire") / "data"
    with sound_server(data_dir, "--max-body-bytes", str(MAX_BODY)) as running:
        for name in ("1", "fuzz"):  # "1" stands for every variable of a path
            running.request("POST", "/queues", {"name": name})
        running.request("POST", "/queues/1/messages", {"content": "the message 1"})
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    name = f"wire-{next(NUMBERS)}"
    assert server.request("POST", "/queues", {"name": name}).status == 201
    return name


# --- what is in a body ------------------------------------------------------------------


@pytest.mark.parametrize(("body", "place"), rows(BAD_BODIES))
def test_a_bad_body_is_refused_and_nothing_of_it_kept(server: Server, queue: str, body: bytes, place: str) -> None:
    assert_refused(exchange(server, ask("POST", f"/queues/{queue}/messages", body)), "invalid_request", place)
    assert sent_to(server, queue) == 0


@pytest.mark.parametrize(("body", "place"), rows(BAD_LINES))
def test_bad_lines_are_refused_and_nothing_of_them_kept(server: Server, queue: str, body: bytes, place: str) -> None:
    request = ask("POST", f"/queues/{queue}/messages", body, "Content-Type: application/x-ndjson")
    assert_refused(exchange(server, request), "invalid_request", place)
    assert sent_to(server, queue) == 0


@pytest.mark.parametrize("is_array", [False, True], ids=["alone", "in an array"])
@pytest.mark.parametrize("content", rows(FINE_CONTENT))
def test_content_comes_back_byte_for_byte(server: Server, queue: str, content: bytes, is_array: bool) -> None:
    path = f"/queues/{queue}/messages"
    envelope = b' { "content" : %b } ' % content
    sent = exchange(server, ask("POST", path, b"[%b,%b]" % (ONE, envelope) if is_array else envelope))
    assert (sent.status, sent.json) == (201, {"ids": [1, 2]} if is_array else {"id": 1})
    for _ in range(1 + is_array):
        got = exchange(server, ask("GET", path))
    assert got.headers["Content-Type"] == "application/json"
    assert got.body.startswith(b'{"id":%d,"content":%b,"sent_at":"' % (1 + is_array, content))


# --- names and targets ------------------------------------------------------------------


@pytest.mark.parametrize(("target", "status", "code"), rows(TARGETS))
def test_targets(server: Server, target: str, status: int, code: str) -> None:
    reply = exchange(server, ask("GET", target))
    if code:
        assert_refused(reply, code)
    assert reply.status == status


# --- methods ----------------------------------------------------------------------------

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND"]
NO_METHODS = ["FOO", "get", "G"]
ALLOWED: dict[str, set[str]] = {}
for _route in ROUTES:
    ALLOWED.setdefault(re.sub(r"{\w+}", "1", _route.path), {"OPTIONS"}).add(_route.method)
    if _route.method == "GET" and not issubclass(get_type_hints(_route.ask)["return"], Command):
        ALLOWED[re.sub(r"{\w+}", "1", _route.path)].add("HEAD")


@pytest.mark.parametrize("path", ALLOWED)
def test_methods(server: Server, path: str) -> None:
    with Wire(server.port) as wire:
        for method in [method for method in METHODS if method not in ALLOWED[path]]:
            wire.send(ask(method, path))
            reply = wire.expect(method)
            assert (reply.status, set(reply.headers["Allow"].split(", "))) == (405, ALLOWED[path]), method
            if method != "HEAD":
                assert_refused(reply, "method_not_allowed", ", ".join(sorted(ALLOWED[path])))
        wire.send(ask("OPTIONS", path))
        options = wire.expect()
        assert (options.status, set(options.headers["Allow"].split(", "))) == (204, ALLOWED[path])
        assert options.headers.keys().isdisjoint({"Content-Length", "Content-Type"})


@pytest.mark.parametrize("method", NO_METHODS)
def test_what_is_no_method(server: Server, method: str) -> None:
    assert_refused(exchange(server, ask(method, "/status")), "invalid_request", "method")


@pytest.mark.parametrize("path", [path for path, allowed in ALLOWED.items() if "HEAD" in allowed])
def test_head_is_get_without_a_body(server: Server, path: str) -> None:
    with Wire(server.port) as wire:
        wire.send(ask("HEAD", path), ask("GET", path), ask("GET", "/healthz"))
        head, got, last = (wire.expect(method) for method in ("HEAD", "GET", "GET"))
    assert (head.status, got.status, head.body, last.json) == (200, 200, b"", {"status": "ok"})
    assert int(head.headers["Content-Length"]) > 0
    assert head.headers.keys() == got.headers.keys()
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


# --- sizes ------------------------------------------------------------------------------


# What is too large, as is known from its length or when it has come.
OVER = {
    "length, body sent": ask("POST", "/queues/prey/messages", b"[" * (MAX_BODY + 1)),
    "length, body not sent": SEND + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
    "length of a petabyte": SEND + b"Content-Length: 1000000000000000\r\n\r\n",
    "chunked": CHUNKED + chunked(*[b"[" * 10_000] * 30),
    "one chunk": CHUNKED + chunked(b"[" * (MAX_BODY + 1)),
    "expecting": SEND + b"Content-Length: %d\r\nExpect: 100-continue\r\n\r\n" % (MAX_BODY + 1),
    "of a GET": LOOK + b"Content-Length: %d\r\n\r\n" % (MAX_BODY + 1),
}


@pytest.mark.parametrize("data", rows(OVER))
def test_a_body_over_the_limit(server: Server, data: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(data)
        reply = wire.expect()  # and no 100 before it
        assert_refused(reply, "message_too_large", f"{MAX_BODY:,} bytes")
        assert reply.headers["Connection"] == "close"
        assert wire.rest() == []


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_body_of_100_mb_gets_its_answer(server: Server, is_chunked: bool) -> None:
    piece = b"%x\r\n%b\r\n" % (1 << 20, bytes(1 << 20)) if is_chunked else bytes(1 << 20)
    with Wire(server.port) as wire:
        wire.send(CHUNKED if is_chunked else SEND + b"Content-Length: %d\r\n\r\n" % (100 << 20))
        wire.send(*[piece] * 100)
        assert_refused(wire.reply(), "message_too_large")


@pytest.mark.parametrize("data", rows(LARGE_HEADERS))
def test_headers_over_the_limit(server: Server, data: bytes) -> None:
    assert_refused(exchange(server, data), "headers_too_large")


# --- connections ------------------------------------------------------------------------


@pytest.mark.parametrize("hosts", ["", "Host: a\r\nHost: a\r\n", "Host: a\r\nHost: b\r\n"], ids=["no", "same", "two"])
def test_exactly_one_host(server: Server, hosts: str) -> None:
    request = f"GET /status HTTP/1.1\r\n{hosts}\r\n".encode()
    assert_refused(exchange(server, request), "invalid_host")
    if not hosts:
        assert exchange(server, request.replace(b"1.1", b"1.0")).status == 200


@pytest.mark.parametrize(
    "refused",
    rows({"431": LARGE_HEADERS["a header"], "413": OVER["length, body sent"], "400": b"GET / HTTP/1.1\r\n\r\n"}),
)
def test_nothing_is_run_behind_an_answer_that_says_close(server: Server, queue: str, refused: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(refused + ask("DELETE", f"/queues/{queue}"))
        reply = wire.expect()
        assert reply.headers["Connection"] == "close"
        assert wire.reply() is None
    assert sent_to(server, queue) == 0


@pytest.mark.parametrize("says", ["close", "Close", "TE, close", "close, TE"])
def test_nothing_is_run_behind_a_request_that_says_close(server: Server, queue: str, says: str) -> None:
    request = ask("POST", f"/queues/{queue}/messages", ONE, f"Connection: {says}")
    with Wire(server.port) as wire:
        wire.send(request + request + ask("GET", f"/queues/{queue}/messages"))
        reply = wire.expect()
        assert (reply.json, reply.headers.get("Connection")) == ({"id": 1}, "close")
        assert wire.reply() is None
    assert sent_to(server, queue) == 1
    assert server.request("GET", f"/queues/{queue}").json["messages"]["ready"] == 1


def test_http_1_0(server: Server, queue: str) -> None:
    path = f"/queues/{queue}/messages"
    with Wire(server.port) as wire:
        for number in (1, 2):
            wire.send(ask("POST", path, ONE, "Connection: keep-alive", version="HTTP/1.0"))
            reply = wire.expect()
            assert (reply.json, reply.headers["Connection"].lower()) == ({"id": number}, "keep-alive")
        wire.send(ask("POST", path, ONE, version="HTTP/1.0") * 2)
        assert wire.expect().json == {"id": 3}
        assert wire.reply() is None
    assert sent_to(server, queue) == 3


def test_pipelined_requests_are_answered_in_order(server: Server, queue: str) -> None:
    path = f"/queues/{queue}/messages"
    with Wire(server.port) as wire:
        sends = b"".join(
            ask("POST", path, holding(b"%d" % n)) + b"\r\n" + ask("GET", f"{path}/{n}") for n in range(1, 51)
        )
        wire.send(sends + ask("GET", path) * 51)
        for number in range(1, 51):
            assert wire.expect().json == {"id": number}
            assert wire.expect().json["content"] == number
        assert [wire.expect().json["id"] for _ in range(50)] == list(range(1, 51))
        assert wire.expect().status == 204


@pytest.mark.parametrize("is_chunked", [False, True], ids=["length", "chunked"])
def test_a_request_that_comes_byte_by_byte(server: Server, queue: str, is_chunked: bool) -> None:
    path = f"/queues/{queue}/messages"
    head = ask("POST", path, b"", "Transfer-Encoding: chunked")
    request = head + chunked(ONE[:3], ONE[3:]) if is_chunked else ask("POST", path, ONE)
    with Wire(server.port) as wire:
        wire.send(*(bytes([byte]) for byte in request * 2))
        assert [wire.expect().json, wire.expect().json] == [{"id": 1}, {"id": 2}]


def test_chunked_bodies(server: Server, queue: str) -> None:
    head = ask("POST", f"/queues/{queue}/messages", b"", "transfer-encoding: Chunked")
    large = holding(b'"' + b"a" * 100_000 + b'"')
    with Wire(server.port) as wire:
        for pieces in ([ONE], [bytes([byte]) for byte in ONE], [large], [large[:70_000], large[70_000:]]):
            wire.send(head, chunked(*pieces))
            assert wire.expect().status == 201
    assert sent_to(server, queue) == 4


@pytest.mark.parametrize("expectation", ["100-continue", "100-Continue"])
def test_a_client_that_expects_100(server: Server, queue: str, expectation: str) -> None:
    request = ask("POST", f"/queues/{queue}/messages", ONE, f"Expect: {expectation}")
    with Wire(server.port) as wire:
        wire.socket.settimeout(3)
        wire.send(request.removesuffix(ONE))
        assert wire.expect().status == 100
        wire.send(ONE)
        assert wire.expect().json == {"id": 1}


def test_http_1_0_knows_no_100(server: Server, queue: str) -> None:
    request = ask("POST", f"/queues/{queue}/messages", ONE, "Expect: 100-continue", version="HTTP/1.0")
    assert exchange(server, request).status == 201


def test_headers_without_an_end(server: Server) -> None:
    assert_refused(exchange(server, WITHOUT_AN_END), "headers_too_large")


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_what_is_done_is_answered_to_a_client_that_only_listens(server: Server, queue: str, method: str) -> None:
    """`printf ... | nc` ends its side at once: it is told what was done, above all of a message that is gone."""
    path = f"/queues/{queue}/messages"
    assert server.request("POST", path, {"content": 1}).status == 201
    with Wire(server.port) as wire:
        wire.send(ask(method, path, ONE if method == "POST" else b""))
        replies = wire.rest()
    assert [reply.status for reply in replies] in ([[201]] if method == "POST" else [[200], []])
    assert sent_to(server, queue) == 1 + (method == "POST") * len(replies)
    assert server.request("GET", f"/queues/{queue}").json["totals"]["received"] == (method == "GET") * len(replies)


@pytest.fixture
def scene(server: Server) -> None:
    for name in ("victim", "prey"):
        server.request("DELETE", f"/queues/{name}")
        assert server.request("POST", "/queues", {"name": name}).status == 201


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("data", rows(MALFORMED))
def test_malformed_requests_are_answered_400_and_not_run(server: Server, data: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(data + VICTIM)
        replies = list(iter(wire.reply, None))
    assert (sent_to(server, "prey"), sent_to(server, "victim")) == (0, 0)
    assert [reply.status for reply in replies] == [400]


@pytest.mark.usefixtures("scene")
@pytest.mark.parametrize("data", rows(DOUBTFUL))
def test_doubtful_requests_are_run_once_or_not_at_all(server: Server, data: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(data + ask("GET", "/nope", b"", "Connection: close"))
        replies = [reply.status for reply in iter(wire.reply, None)]
    assert replies in ([], [400], [201], [201, 404])
    assert sent_to(server, "prey") == replies.count(201)


# --- chance -----------------------------------------------------------------------------

TOKENS = [
    VICTIM,
    SEND,
    LOOK,
    CHUNKED,
    IN_A_CHUNK,
    ONE,
    b"\r\n",
    b"\r\n\r\n",
    b"Content-Length: 13\r\n\r\n",
    b"Host: tq\r\n",
    b" ",
]
MEDIA_TYPES = ["application/json", "application/x-ndjson", "application/msgpack", "text/plain", "a/b; c=\xe9", ""]
BODIES = st.binary() | st.lists(st.sampled_from([*b'{}[]":,\\0129-eE.nul tx', 0x80, 0xFF, 0x91, 0xA1])).map(bytes)
BODIES |= st.tuples(st.sampled_from([b'{"content":', b"\x81\xa7content"]), BODIES, st.sampled_from([b"", b"}"])).map(
    b"".join
)


@FUZZ
@given(body=BODIES, media_type=st.sampled_from(MEDIA_TYPES))
def test_any_bytes_as_a_body(server: Server, body: bytes, media_type: str) -> None:
    request = ask("POST", "/queues/fuzz/messages", body, f"Content-Type: {media_type}")
    reply = exchange(server, request)
    assert reply.status in (201, 400)
    if reply.status == 400:
        assert_refused(reply, "invalid_request")


@FUZZ
@given(data=st.binary() | st.lists(st.sampled_from(TOKENS) | st.binary(max_size=3)).map(b"".join))
def test_any_bytes_as_a_request(server: Server, data: bytes) -> None:
    with Wire(server.port) as wire:
        wire.send(data)
        wire.rest()
    assert exchange(server, ask("GET", "/healthz")).status == 200
