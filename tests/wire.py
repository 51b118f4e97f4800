"""A client that speaks bytes, and requests for it to say."""

from __future__ import annotations

import socket
from contextlib import suppress

from tests.harness import Reply


class Wire:
    """A connection that says the bytes it is given and reads the answers one by one."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._left = b""

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, *parts: bytes) -> None:
        with suppress(ConnectionError):  # the server may answer and close before it has read all
            for part in parts:
                self.socket.sendall(part)

    def reply(self, method: str = "GET") -> Reply | None:
        """The next answer; None when the server closed without one. None may be a 500."""
        while b"\r\n\r\n" not in self._left:
            if not self._more():
                assert not self._left, f"an answer was cut short: {self._left!r}"
                return None
        head, _, self._left = self._left.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ")[1])
        headers = {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}
        assert status < 500 or status == 503, (head, self._left)
        has_body = method != "HEAD" and status not in (100, 204)
        length = int(headers.get("Content-Length", "-1")) if has_body else 0
        while length < 0 or len(self._left) < length:
            if not self._more():
                assert length < 0, f"a body was cut short: {self._left!r}"
                length = len(self._left)
        body, self._left = self._left[:length], self._left[length:]
        return Reply(status, headers, body)

    def expect(self, method: str = "GET") -> Reply:
        """The next answer; there must be one."""
        reply = self.reply(method)
        assert reply is not None, "the server closed without an answer"
        return reply

    def rest(self) -> list[Reply]:
        """Say that there is no more and read until the server closes."""
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)
        return list(iter(self.reply, None))

    def _more(self) -> bool:
        try:
            data = self.socket.recv(65_536)
        except ConnectionError:
            return False
        self._left += data
        return bool(data)


def ask(method: str, target: str, body: bytes = b"", *headers: str, version: str = "HTTP/1.1") -> bytes:
    """A well-formed request."""
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{method} {target} {version}", "Host: localhost", *headers, *length, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%X\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
