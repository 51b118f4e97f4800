"""A server on the loopback that answers as it was told to, whatever it is asked: what a real one does too rarely."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress

PROBLEM = b'{"type":"about:blank","title":"T","status":%d,"code":"%b","detail":"D"}'


def answer(status: int, body: bytes = b"", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(head).encode() + body


def problem(status: int, code: str, *headers: str) -> bytes:
    return answer(status, PROBLEM % (status, code.encode()), "Content-Type: application/problem+json", *headers)


class Scripted:
    """Gives one answer after the other, and the last one for ever. An empty one closes the connection."""

    def __init__(self, *answers: bytes) -> None:
        self.asked: list[bytes] = []
        self.asked_s: list[float] = []
        self._answers = list(answers)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                with connection, suppress(OSError):
                    connection.settimeout(10)
                    while self._answer(connection):
                        pass

    def _answer(self, connection: socket.socket) -> bool:
        """Read a request and answer it. False at the end of the connection."""
        got = b""
        while b"\r\n\r\n" not in got or len(got.partition(b"\r\n\r\n")[2]) < _length(got):
            more = connection.recv(65_536)
            if not more:
                return False
            got += more
        self.asked.append(got)
        self.asked_s.append(time.monotonic())
        said = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        connection.sendall(said)
        return bool(said)


def _length(got: bytes) -> int:
    for line in got.partition(b"\r\n\r\n")[0].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0
