"""Connections: turns, time, and whatever else is between a socket and a delegate."""

from __future__ import annotations

import asyncio
import itertools
import resource
import select
import socket
import ssl
import time
import tracemalloc
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import tornado.test
from hypothesis import given, settings
from hypothesis import strategies as st
from tornado.web import Application, RequestHandler, stream_request_body

from tests.harness import Server, wait_until
from tests.wire import Wire, ask, chunked
from tq import lifecycle
from tq.broker import Broker
from tq.errors import TqError
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web.connection import Connection
from tq.web.exchange import problem
from tq.web.parser import Head, KnownHeads, RequestParser
from tq.web.server import Application as TqApplication
from tq.web.server import Server as HttpServer
from tq.web.stream import Stream
from tq.web.traffic import Limits, Traffic

ONE = b'{"content":1}'
SEND = ask("POST", "/queues/q/messages", ONE)
RECEIVE = ask("GET", "/queues/q/messages")
CLOSE = "Connection: close"
CERTIFICATES = Path(tornado.test.__file__).parent  # Tornado ships a self-signed one for its own tests


def served(play: Callable[[int, MemoryStore], Awaitable[None]], tls: ssl.SSLContext | None = None) -> None:
    """Run a scene against a server in this process, over a store in memory with the queue `q`."""

    async def run() -> None:
        store = MemoryStore(lifecycle.apply)
        broker = Broker(store, Settings())
        http = HttpServer(TqApplication(broker, Settings()), Settings(), tls)
        listening = socket.create_server(("127.0.0.1", 0))
        await http.listen_on([listening])
        port = listening.getsockname()[1]
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=_trusting() if tls else None)
        writer.write(ask("POST", "/queues", b'{"name":"q"}'))
        assert (await reader.readline()).startswith(b"HTTP/1.1 201")
        writer.close()
        await play(port, store)
        await http.close()
        await broker.close()

    asyncio.run(asyncio.wait_for(run(), 30))


def _trusting() -> ssl.SSLContext:
    return ssl._create_unverified_context()


# --- pipelining -------------------------------------------------------------


def test_a_row_of_sends_shares_a_commit() -> None:
    async def play(port: int, store: MemoryStore) -> None:
        commits: list[int] = []
        commit = store.commit

        def counted(commands: Any, now_ms: int) -> list[Any]:
            commits.append(len(commands) - 2)
            return commit(commands, now_ms)

        store.commit = counted  # type: ignore[method-assign]
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(SEND * 50)
        for number in range(1, 51):
            assert (await reader.readuntil(b'{"id":%d}' % number)).startswith(b"HTTP/1.1 201")
        assert sum(commits) == 50
        assert max(commits) >= 25  # one segment of TCP may come before the others
        writer.close()

    served(play)


def test_what_may_not_overlap_waits_for_its_turn(server: Server) -> None:
    """A look behind a send sees it; a send behind a receive that waits comes after it."""
    server.request("POST", "/queues", {"name": "q"})
    began = time.monotonic()
    with Wire(server.port) as wire:
        wire.send(SEND + ask("GET", "/queues/q/messages/1") + RECEIVE)
        assert [wire.expect().status for _ in range(3)] == [201, 200, 200]
        wire.send(ask("GET", "/queues/q/messages?wait=0.2") + SEND + RECEIVE)
        assert [wire.expect().status for _ in range(3)] == [204, 201, 200]
    assert time.monotonic() - began >= 0.2


def test_a_thousand_requests_at_once(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    with Wire(server.port) as wire:
        wire.send((SEND + ask("GET", "/status") + RECEIVE) * 1_000)
        for number in range(1, 1_001):
            assert wire.expect().json == {"id": number}
            assert wire.expect().status == 200
            assert wire.expect().json["id"] == number


def test_a_client_that_does_not_read_holds_up_only_itself(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    for _ in range(200):
        server.request("POST", "/queues/q/messages", {"content": "x" * 500_000})
    before = memory_bytes(server)
    with Wire(server.port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
        wire.send(RECEIVE * 200)
        wait_until(lambda: server.request("GET", "/queues/q").json["totals"]["received"] > 1)
        assert server.request("GET", "/queues/q").json["totals"]["received"] < 200
        assert memory_bytes(server) - before < 64 << 20
        for number in range(1, 201):
            assert wire.expect().json["id"] == number


def memory_bytes(server: Server) -> int:
    """Resident memory of the server process."""
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


# --- time and number -------------------------------------------------------------


@pytest.fixture
def impatient(start: Callable[..., Server]) -> Server:
    server = start("--header-seconds", "0.2", "--body-seconds", "0.3", "--idle-seconds", "1")
    server.request("POST", "/queues", {"name": "q"})
    return server


@pytest.mark.parametrize("data", [SEND[:20], SEND[: -len(ONE)], SEND[:-1]], ids=["head", "no body", "body"])
def test_a_request_that_does_not_come_to_its_end(impatient: Server, data: bytes) -> None:
    with Wire(impatient.port) as wire:
        wire.send(data)
        reply = wire.expect()
        assert (reply.status, reply.json["code"], reply.headers["Connection"]) == (408, "request_timeout", "close")
        assert wire.reply() is None


def test_what_the_server_has_not_read_is_not_late(impatient: Server) -> None:
    """While a long poll runs, what is behind it on the connection waits."""
    large = ask("POST", "/queues/q/messages", b'{"content":"%b"}' % (b"x" * 20_000))
    with Wire(impatient.port) as wire:
        wire.send(ask("GET", "/queues/q/messages?wait=2") + large + large)
        assert [wire.expect().status for _ in range(3)] == [204, 201, 201]


def test_a_silent_connection_is_closed(impatient: Server) -> None:
    with Wire(impatient.port) as silent, Wire(impatient.port) as used:
        used.send(SEND)
        assert used.expect().status == 201
        assert silent.reply() is None
        assert used.reply() is None


def test_one_who_waits_is_not_silent(impatient: Server) -> None:
    with Wire(impatient.port) as wire:
        wire.send(ask("GET", "/queues/q/messages?wait=2.5"))
        assert wire.expect().status == 204


def test_a_client_that_never_takes_its_answer_is_given_up(impatient: Server) -> None:
    for _ in range(200):
        impatient.request("POST", "/queues/q/messages", {"content": "x" * 100_000})
    with Wire(impatient.port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        wire.send(RECEIVE * 200)
        poll = select.poll()
        poll.register(wire.socket, select.POLLRDHUP)
        assert poll.poll(60_000)  # reset by the server


def test_a_connection_too_many(start: Callable[..., Server]) -> None:
    server = start("--max-connections", "3")
    with Wire(server.port) as first, Wire(server.port), Wire(server.port):
        first.send(ask("GET", "/healthz"))
        assert first.expect().status == 200
        with Wire(server.port) as refused:
            reply = refused.expect()
            assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "overloaded", "1")
            assert refused.reply() is None
        first.send(ask("GET", "/healthz"))
        assert first.expect().status == 200
    wait_until(lambda: server.request("GET", "/healthz").status == 200)


@pytest.mark.parametrize("ending", ["close", "half"])
def test_a_client_that_takes_no_last_answer_is_given_up(start: Callable[..., Server], ending: str) -> None:
    """One whose connection is closing already, but whose answer has not left."""
    server = start("--body-seconds", "0.3")
    server.request("POST", "/queues", {"name": "q"})
    server.request("POST", "/queues/q/messages", [{"content": "x" * 900_000} for _ in range(12)])
    with Wire(server.port) as wire:
        wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        wire.send(ask("GET", "/queues/q/peek?limit=10", b"", *([CLOSE] if ending == "close" else [])))
        if ending == "half":
            wire.socket.shutdown(socket.SHUT_WR)
        assert wire.socket.recv(1) == b"H"
        before = len(connections_of(server))
        wait_until(lambda: len(connections_of(server)) < before)


def connections_of(server: Server) -> list[Path]:
    """The sockets that the server holds."""
    found: list[Path] = []
    for each in Path(f"/proc/{server.process.pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # it was closed meanwhile
            found += [each] if "socket" in str(each.readlink()) else []
    return found


def test_a_continue_that_the_server_owes_is_not_waited_for(impatient: Server) -> None:
    with Wire(impatient.port) as wire:
        wire.send(ask("GET", "/queues/q/messages?wait=1.5"))
        wire.send(ask("POST", "/queues/q/messages", ONE, "Expect: 100-continue")[: -len(ONE)])
        assert wire.expect().status == 204
        assert wire.expect().status == 100
        wire.send(ONE)
        assert wire.expect().status == 201


def test_a_row_of_queries_lets_others_have_their_turn(start: Callable[..., Server]) -> None:
    server = start()
    for number in range(200):
        server.request("POST", "/queues", {"name": f"q{number}"})
    with Wire(server.port) as row, Wire(server.port) as other:
        began_s = time.monotonic()
        row.send(ask("GET", "/status") * 300)
        time.sleep(0.01)
        other.send(ask("GET", "/healthz"))
        assert other.expect().status == 200
        waited_s = time.monotonic() - began_s
        assert [row.expect().status for _ in range(300)] == [200] * 300
        assert waited_s < (time.monotonic() - began_s) / 3


def test_a_connection_too_many_that_sends_in_parts(start: Callable[..., Server]) -> None:
    """As HTTP clients do: it must find the answer, not a reset."""
    server = start("--max-connections", "1")
    with Wire(server.port) as first:
        first.send(ask("GET", "/healthz"))
        assert first.expect().status == 200
        for _ in range(20):
            with Wire(server.port) as refused:
                wait_until(lambda wire=refused: bool(select.select([wire.socket], [], [], 0)[0]))
                refused.socket.sendall(SEND[:-5])
                refused.socket.sendall(SEND[-5:])
                assert refused.expect().status == 503


def test_few_descriptors(start: Callable[..., Server]) -> None:
    """Connections leave some for the storage, so that it goes on; and what is over is refused."""
    server = start(wrapper=("prlimit", "--nofile=96:96"))
    wires = [Wire(server.port) for _ in range(96)]
    assert [wire.expect().status for wire in wires[32:]] == [503] * 64
    wires[0].send(ask("POST", "/queues", b'{"name":"q"}') + SEND)
    assert [wires[0].expect().status for _ in range(2)] == [201, 201]
    for wire in wires:
        wire.socket.close()
    wait_until(lambda: server.request("GET", "/readyz").status == 200)


# --- other protocols -------------------------------------------------------------

UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA")


def test_a_client_that_would_rather_speak_http_2_is_answered_in_http_1_1(server: Server) -> None:
    """Java's own client asks so in each first request."""
    server.request("POST", "/queues", {"name": "q"})
    path = "/queues/q/messages"
    in_chunks = ask("POST", path, b"", "Transfer-Encoding: chunked", *UPGRADE) + chunked(ONE[:5], ONE[5:])
    with Wire(server.port) as wire:
        wire.send(ask("POST", path, ONE, *UPGRADE) + in_chunks + ask("GET", path, b"", *UPGRADE) + RECEIVE)
        assert [wire.expect().status for _ in range(4)] == [201, 201, 200, 200]
    with Wire(server.port) as wire:
        for byte in ask("POST", path, ONE, *UPGRADE) + RECEIVE:
            wire.send(bytes([byte]))
        assert [wire.expect().status for _ in range(2)] == [201, 200]


def test_tls() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(CERTIFICATES / "test.crt", CERTIFICATES / "test.key")

    async def play(port: int, store: MemoryStore) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=_trusting())
        writer.write(SEND * 3 + ask("GET", "/queues/q/messages?max=3", b"", "Connection: close"))
        answer = await reader.read()
        assert [answer.count(b'"id":%d' % number) for number in (1, 2, 3)] == [2, 2, 2]
        writer.close()

    served(play, context)


# --- Tornado's own handlers -------------------------------------------------------------


class Echo(RequestHandler):
    def get(self) -> None:
        self.write({"name": self.get_query_argument("name"), "ip": self.request.remote_ip})

    def post(self) -> None:
        self.set_status(201)
        self.write(self.request.headers["X-Word"] + self.request.body.decode())


class Slow(RequestHandler):
    closed: asyncio.Event

    async def get(self) -> None:
        for number in range(3):
            self.write(f"part {number};")
            await self.flush()
        await asyncio.sleep(0)

    async def post(self) -> None:
        self.write("x")
        await self.flush()
        await asyncio.sleep(3_600)

    def on_connection_close(self) -> None:
        self.closed.set()


class Large(RequestHandler):
    async def get(self) -> None:
        for _ in range(100):
            self.write(b"x" * 100_000)
            await self.flush()


class Broken(RequestHandler):
    def get(self) -> None:
        raise ZeroDivisionError


@stream_request_body
class Streamed(RequestHandler):
    def prepare(self) -> None:
        self.size = 0

    async def data_received(self, chunk: bytes) -> None:
        await asyncio.sleep(0)
        self.size += len(chunk)

    def put(self) -> None:
        self.write(str(self.size))


@pytest.fixture
def handlers() -> Callable[[Callable[[int], Awaitable[None]]], None]:
    def play(scene: Callable[[int], Awaitable[None]]) -> None:
        async def run() -> None:
            Slow.closed = asyncio.Event()
            routes = [("/echo", Echo), ("/slow", Slow), ("/large", Large), ("/broken", Broken), ("/streamed", Streamed)]
            delegate = Application(routes, log_function=lambda _: None)
            traffic: Traffic[Connection] = Traffic(LIMITS)
            server = await asyncio.get_running_loop().create_server(
                lambda: Connection(delegate, traffic, refusal, KnownHeads()), "127.0.0.1", 0
            )
            await scene(server.sockets[0].getsockname()[1])
            server.close()
            for connection in list(traffic.members):
                connection.close()
            await asyncio.sleep(0)

        asyncio.run(asyncio.wait_for(run(), 30))

    return play


LIMITS = Limits(
    max_connections=9,
    max_connections_per_address=9,
    max_transit_bytes=1 << 24,
    max_header_bytes=32_768,
    max_body_bytes=1 << 20,
    header_seconds=9,
    body_seconds=9,
    idle_seconds=9,
)


def refusal(_: Stream, error: TqError) -> tuple[bytes, bytes]:
    response = problem(error)
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n" % (response.status, len(response.body)), response.body


async def told(port: int, data: bytes, until: bytes = b"") -> bytes:
    """What is answered, up to a word or to the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    answer = await (reader.readuntil(until) if until else reader.read())
    writer.close()
    return answer


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ask("GET", "/echo?name=a%20b", b"", CLOSE), b'{"name": "a b", "ip": "127.0.0.1"}'),
        (ask("POST", "/echo", b"body", "X-Word: some ", CLOSE), b"HTTP/1.1 201 Created"),
        (ask("POST", "/echo", b"body", "X-Word: some ", CLOSE), b"\r\n\r\nsomebody"),
        (ask("GET", "/slow", b"", CLOSE), b"7\r\npart 0;\r\n7\r\npart 1;\r\n7\r\npart 2;\r\n0\r\n\r\n"),
        (ask("GET", "/slow", version="HTTP/1.0"), b"\r\n\r\npart 0;part 1;part 2;"),
        (ask("HEAD", "/echo?name=a", b"", CLOSE), b"HTTP/1.1 405"),
        (ask("GET", "/broken", b"", CLOSE), b"HTTP/1.1 500"),
        (ask("GET", "/nowhere", b"", CLOSE), b"HTTP/1.1 404"),
        (ask("PUT", "/streamed", b"x" * 300_000, CLOSE), b"\r\n\r\n300000"),
        (ask("GET", "/echo?name=a") * 3 + ask("GET", "/echo?name=z", b"", CLOSE), b'"z"'),
        (b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 400"),
        (ask("POST", "/echo", b"x" * (1 << 20) + b"x"), b"HTTP/1.1 413"),
    ],
)
def test_a_handler_of_tornado_s_runs_unchanged(handlers: Any, data: bytes, expected: bytes) -> None:
    async def scene(port: int) -> None:
        assert expected in await told(port, data)

    handlers(scene)


def test_an_answer_that_is_streamed_waits_for_a_slow_reader(handlers: Any) -> None:
    async def scene(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1_000)
        writer.write(ask("GET", "/large", b"", CLOSE))
        await asyncio.sleep(0.05)
        await reader.readuntil(b"\r\n\r\n")
        assert (await reader.read()).count(b"x") == 10_000_000
        writer.close()

    handlers(scene)


def test_a_handler_is_told_that_its_client_is_gone(handlers: Any) -> None:
    async def scene(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask("POST", "/slow"))
        await reader.readuntil(b"x")
        writer.transport.abort()
        await Slow.closed.wait()

    handlers(scene)


# --- the parser -------------------------------------------------------------

STREAM = (
    SEND
    + ask("POST", "/queues/q/messages", b"", "Transfer-Encoding: chunked")
    + chunked(ONE[:5], ONE[5:])
    + RECEIVE
    + ask("POST", "/x", ONE, *UPGRADE)
    + ask("GET", "/last", b"", "Accept: a", "Accept: b", CLOSE)
)


def parsed(pieces: list[bytes], known: KnownHeads) -> list[tuple[Any, ...]]:
    found: deque[tuple[Head, bytes]] = deque()
    parser = RequestParser(found, known, 32_768, 1 << 20)
    for piece in pieces:
        if not parser.is_over:
            parser.feed(piece)
    return [(h.method, h.target, h.headers, body, h.keep_alive, h.refusal) for h, body in found]


@settings(max_examples=200, deadline=None, database=None)
@given(cuts=st.sets(st.integers(1, len(STREAM) - 1), max_size=40))
def test_it_does_not_matter_where_the_bytes_are_cut(cuts: set[int]) -> None:
    edges = [0, *sorted(cuts), len(STREAM)]
    pieces = [STREAM[begin:end] for begin, end in itertools.pairwise(edges)]
    requests = parsed(pieces, KnownHeads())
    assert requests == parsed([STREAM], KnownHeads())
    assert [(method, body) for method, _, _, body, _, _ in requests] == [
        ("POST", ONE),
        ("POST", ONE),
        ("GET", b""),
        ("POST", ONE),
        ("GET", b""),
    ]
    assert requests[-1][2]["accept"] == "a, b"
    assert [keeps for *_, keeps, _ in requests] == [True] * 4 + [False]


def read_in(pieces: list[bytes], max_header_bytes: int) -> list[tuple[Head, bytes]]:
    found: deque[tuple[Head, bytes]] = deque()
    parser = RequestParser(found, KnownHeads(), max_header_bytes, 1 << 20)
    for piece in pieces:
        if not parser.is_over:
            parser.feed(piece)
    return list(found)


@pytest.mark.parametrize("head_bytes", [1_000, 4_000])
def test_a_head_is_as_large_as_it_is_wherever_it_begins(head_bytes: int) -> None:
    """Also behind a body, in the same piece."""
    before = ask("POST", "/queues/q/messages", b"x" * 16_000)
    head = ask("GET", "/", b"", "X: " + "x" * (head_bytes - 60))
    data = before + head
    for cut in (20, 200):
        at = len(before) + cut
        pieces = [data[:at], *(data[start : start + 200] for start in range(at, len(data), 200))]
        refusals = [each.refusal for each, _ in read_in(pieces, 2_000)]
        assert refusals[0] is None
        assert [type(refusal).__name__ for refusal in refusals[1:]] == [
            "NoneType" if head_bytes == 1_000 else "HeadersTooLarge"
        ]


@pytest.mark.parametrize("where", [b"1\r\nx\r\n0\r\nX: ", b"1;x="])
def test_a_body_s_framing_has_a_limit(where: bytes) -> None:
    """A trailer or a chunk's extension without an end."""
    head = ask("POST", "/", b"", "Transfer-Encoding: chunked")
    read = read_in([head, where, *[b"a" * 1_000] * 100], 4_000)
    assert [type(each.refusal).__name__ for each, _ in read] == ["HeadersTooLarge"]


def test_a_body_in_many_chunks_takes_no_more_than_its_size() -> None:
    head = ask("POST", "/", b"", "Transfer-Encoding: chunked")
    tracemalloc.start()
    ((_, body),) = read_in([head, *[b"2\r\nxx\r\n" * 1_000] * 250, b"0\r\n\r\n"], 4_000)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(body) == 500_000
    assert peak < 8_000_000


def test_what_follows_a_connect_is_not_run() -> None:
    request = ask("CONNECT", "/", ask("GET", "/healthz"))
    assert [(head.method, head.keep_alive) for head, _ in read_in([request], 4_000)] == [("CONNECT", False)]


def test_trailers_are_no_headers() -> None:
    request = ask("POST", "/", b"", "Transfer-Encoding: chunked") + b"1\r\nx\r\n0\r\nX-Real-Ip: 6.6.6.6\r\n\r\n"
    ((head, body),) = read_in([request], 2_000)
    assert body == b"x"
    assert not {name.lower() for name, _ in head.pairs} & {b"x-real-ip"}
    many = ask("POST", "/", b"", "Transfer-Encoding: chunked") + b"0\r\n" + b"a: b\r\n" * 250 + b"\r\n"
    assert [type(each.refusal).__name__ for each, _ in read_in([many], 32_000)] == ["HeadersTooLarge"]
