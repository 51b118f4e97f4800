"""The client's connections: used again where they can be, bounded, and told apart by what went wrong on them.

A server here is a thread that does to each connection what the test says.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest

from tq.client.transport import AsyncTransport, Transport

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SILENT_S = 0.2

Serve = Callable[[socket.socket], None]


class Server:
    """`serve` is run for each connection in turn, in a thread of its own; `seen` is what was read there."""

    def __init__(self, *serves: Serve) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self.connections = 0
        self._serves = serves
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                serve = self._serves[min(self.connections, len(self._serves) - 1)]
                self.connections += 1
                self._open.append(connection)
                threading.Thread(target=self._serve, args=(serve, connection), daemon=True).start()

    def _serve(self, serve: Serve, connection: socket.socket) -> None:
        with suppress(OSError):
            serve(connection)

    def close(self) -> None:
        for one in (self._listening, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._thread.join(10)


def request_of(connection: socket.socket) -> bytes:
    """One request with its body, or nothing at the end."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65_536)
        if not more:
            return b""
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0] or 0)
    while len(body) < length:
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def answering(*answers: bytes, then: str = "wait") -> Serve:
    """Each request in turn gets an answer, the last one ever again; afterwards the connection is closed, or not."""

    def serve(connection: socket.socket) -> None:
        rest = list(answers)
        while request_of(connection):
            connection.sendall(rest[0])
            if len(rest) > 1:
                rest.pop(0)
            elif then == "close":
                connection.close()

    return serve


class Face:
    """Either transport, called as if it blocked."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.loop = asyncio.new_event_loop()
        self.transport: Any = None
        self.servers: list[Server] = []

    def serve(self, *serves: Serve, idle_s: float = 60, most: int = 10) -> Server:
        server = Server(*serves)
        self.servers.append(server)
        self.transport = (Transport if self.kind == "blocking" else AsyncTransport)(most, idle_s, None)
        return server

    def ask(self, port: int, body: bytes = b"", seconds: float = 10, **extensions: Any) -> httpx.Response:
        request = asked(port, body, seconds, **extensions)
        if self.kind == "blocking":
            response: httpx.Response = self.transport.handle_request(request)
        else:
            response = self.loop.run_until_complete(self.transport.handle_async_request(request))
        return response

    def close(self) -> None:
        if self.kind == "blocking":
            self.transport.close()
        else:
            self.loop.run_until_complete(self.transport.aclose())
        self.loop.close()
        for server in self.servers:
            server.close()


def asked(port: int, body: bytes = b"", seconds: float = 10, **extensions: Any) -> httpx.Request:
    return httpx.Request(
        "POST",
        f"http://127.0.0.1:{port}/path?query=1",
        headers=[(b"Host", b"x"), (b"Content-Length", b"%d" % len(body))],
        stream=httpx.ByteStream(body),
        extensions={"timeout": dict.fromkeys(("connect", "write", "read"), seconds), **extensions},
    )


@pytest.fixture(params=["blocking", "asyncio"])
def face(request: pytest.FixtureRequest) -> Iterator[Face]:
    made = Face(request.param)
    yield made
    made.close()


# --- answers -------------------------------------------------------------

ANSWERS = {
    "with a length": (OK, b"ok"),
    "in chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1\r\nk\r\n0\r\n\r\n", b"ok"),
    "without a body": (b"HTTP/1.1 204 No Content\r\nServer: x\r\n\r\n", b""),
    "behind a 100": (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
    "of 1 MiB": (b"HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n" + bytes(1 << 20), bytes(1 << 20)),
}


@pytest.mark.parametrize(("answer", "content"), ANSWERS.values(), ids=ANSWERS)
def test_an_answer_is_read_and_the_connection_used_again(face: Face, answer: bytes, content: bytes) -> None:
    server = face.serve(answering(answer))
    for _ in range(3):
        response = face.ask(server.port, b"body")
        assert (response.status_code, response.content) == (200 if content else 204, content)
    assert server.connections == 1


def test_what_was_asked_arrives(face: Face) -> None:
    seen: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        while asked := request_of(connection):
            seen.append(asked)
            connection.sendall(OK)

    server = face.serve(serve)
    body = bytes(range(256)) * 40_000  # ten megabytes, more than sockets hold
    face.ask(server.port, body)
    assert seen == [b"POST /path?query=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 10240000\r\n\r\n" + body]


def test_a_connection_that_the_server_has_closed_meanwhile_is_not_used(face: Face) -> None:
    gone = threading.Event()

    def close(connection: socket.socket) -> None:
        request_of(connection)
        connection.sendall(OK)
        connection.shutdown(socket.SHUT_RDWR)
        gone.set()

    server = face.serve(close, answering(OK))
    face.ask(server.port)
    assert gone.wait(10)
    assert face.ask(server.port).content == b"ok"
    assert server.connections == 2


def test_a_connection_that_was_idle_for_long_is_not_used(face: Face) -> None:
    server = face.serve(answering(OK), idle_s=0)
    for number in (1, 2):
        face.ask(server.port)
        assert server.connections == number


# --- what goes wrong -------------------------------------------------------------

GONE = httpx.NetworkError | httpx.RemoteProtocolError  # by a reset, or not: that is up to the system
WRONG = {
    "closed at once": (lambda connection: connection.close(), GONE),
    "closed before the answer": (lambda connection: (request_of(connection), connection.close()), GONE),
    "closed in the head": (answering(OK[:20], then="close"), httpx.RemoteProtocolError),
    "closed in the body": (answering(OK[:-1], then="close"), httpx.RemoteProtocolError),
    "not HTTP": (answering(b"SSH-2.0-OpenSSH\r\n\r\n"), httpx.RemoteProtocolError),
    "silence": (answering(b""), httpx.ReadTimeout),
    "nobody reads": (lambda connection: None, httpx.WriteTimeout),
}


@pytest.mark.parametrize(("serve", "error"), WRONG.values(), ids=WRONG)
def test_what_goes_wrong_is_told_and_the_connection_closed(face: Face, serve: Serve, error: Any) -> None:
    server = face.serve(serve, answering(OK))
    is_silence = error in (httpx.ReadTimeout, httpx.WriteTimeout)
    with pytest.raises(httpx.TransportError) as caught:
        face.ask(server.port, bytes(1 << 24 if is_silence else 1_000), seconds=SILENT_S if is_silence else 10)
    assert isinstance(caught.value, error)
    assert face.ask(server.port).content == b"ok"
    assert server.connections == 2


def test_where_nobody_listens_no_connection_is_made(face: Face) -> None:
    server = face.serve(answering(OK))
    server.close()
    with pytest.raises(httpx.ConnectError):
        face.ask(server.port)


def test_a_connection_that_is_made_is_told(face: Face) -> None:
    """By httpcore, to whom wants to know."""
    told: list[int] = []

    def trace(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            told.append(info["return_value"].get_extra_info("socket").fileno())

    async def async_trace(event: str, info: dict[str, Any]) -> None:
        trace(event, info)

    server = face.serve(answering(OK))
    for _ in range(2):
        face.ask(server.port, trace=trace if face.kind == "blocking" else async_trace)
    assert len(told) == 1


# --- many at a time -------------------------------------------------------------


def echo(connection: socket.socket) -> None:
    while asked := request_of(connection):
        body = asked.partition(b"\r\n\r\n")[2]
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_threads_share_no_more_connections_than_allowed() -> None:
    face = Face("blocking")
    server = face.serve(echo, most=3)
    wrong: list[Any] = []

    def work(name: int) -> None:
        for number in range(100):
            body = b"%d %d" % (name, number)
            if (content := face.ask(server.port, body).content) != body:
                wrong.append((body, content))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert server.connections == 3
    face.close()


def test_tasks_share_no_more_connections_than_allowed() -> None:
    face = Face("asyncio")
    server = face.serve(echo, most=3)

    async def work(name: int) -> list[Any]:
        bodies = [b"%d %d" % (name, number) for number in range(100)]
        answers = [(await face.transport.handle_async_request(asked(server.port, body))).content for body in bodies]
        return [pair for pair in zip(bodies, answers, strict=True) if pair[0] != pair[1]]

    async def all_of_them() -> list[list[Any]]:
        return await asyncio.gather(*[work(name) for name in range(8)])

    assert face.loop.run_until_complete(all_of_them()) == [[]] * 8
    assert server.connections == 3
    face.close()


def test_a_task_that_is_cancelled_leaves_its_answer_to_nobody() -> None:
    face = Face("asyncio")
    arrived, go_on = threading.Event(), threading.Event()

    def late(connection: socket.socket) -> None:
        request_of(connection)
        arrived.set()
        go_on.wait(10)
        connection.sendall(OK.replace(b"ok", b"no"))

    server = face.serve(late, echo)

    async def cancel() -> bytes:
        task = asyncio.ensure_future(face.transport.handle_async_request(asked(server.port, b"one")))
        await asyncio.to_thread(arrived.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()
        response: httpx.Response = await face.transport.handle_async_request(asked(server.port, b"two"))
        return response.content

    assert face.loop.run_until_complete(cancel()) == b"two"
    assert server.connections == 2
    face.close()


def test_what_is_closed_asks_no_more(face: Face) -> None:
    server = face.serve(answering(OK))
    face.ask(server.port)
    face.close()
    face.loop = asyncio.new_event_loop()
    with pytest.raises(RuntimeError, match="The client is closed"):
        face.ask(server.port)
