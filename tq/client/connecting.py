"""Where a client's requests go, and how they look to httpx.

Requests go to a transport and not through a client of httpx, which would look at cookies, redirects, authentication and
the environment for each. A request is made with all of its headers, for the same reason.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from functools import lru_cache
from typing import Any

import httpx

from tq.client.calls import Call

DEFAULT_URL = "http://localhost:8000"
IDLE_S = 60.0  # a connection is dropped before the server does so, or a proxy of usual settings

_url = lru_cache(maxsize=1_000)(httpx.URL)


class Place:
    """A server's address, and what each request to it has."""

    def __init__(self, url: str | None, token: str | None, timeout: float, verify: ssl.SSLContext | bool) -> None:
        self.url = (url or os.environ.get("TQ_URL") or DEFAULT_URL).rstrip("/")
        parsed = httpx.URL(self.url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.userinfo:
            raise ValueError(f"{self.url!r} is no address of a server, such as {DEFAULT_URL}.")
        token = token or os.environ.get("TQ_TOKEN")
        if token and not (token.isascii() and token.isprintable()):
            raise ValueError("A token is printable ASCII.")  # and is not shown
        self._headers = [(b"Host", parsed.netloc), (b"Accept", b"application/json")]
        if token:
            self._headers.append((b"Authorization", f"Bearer {token}".encode()))
        self.timeout_s = timeout
        is_secure = parsed.scheme == "https"
        self.host, self.port = parsed.host, parsed.port or (443 if is_secure else 80)
        self.tls = httpx.create_ssl_context(verify) if is_secure else None

    def request(self, call: Call, **extensions: Any) -> httpx.Request:
        headers = [*self._headers, *call.headers]
        if call.body is not None:
            headers += [(b"Content-Type", call.media_type.encode()), (b"Content-Length", b"%d" % len(call.body))]
        timeouts = {
            "connect": self.timeout_s,
            "write": self.timeout_s,
            "read": self.timeout_s + call.wait_s,
            "pool": None,
        }
        return httpx.Request(
            call.method,
            _url(self.url + call.target),
            headers=headers,
            stream=httpx.ByteStream(call.body or b""),
            extensions={"timeout": timeouts, **extensions},
        )


class Line:
    """The connection of a long poll, which can be told from elsewhere that nothing more is wanted.

    Its sending side is ended then. A server that waits puts an end to the wait, and leases nothing; one that has
    leased has answered before, and the answer still comes. Closing the connection would lose that.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a signal handler may come in between
        self._socket: socket.socket | None = None
        self._is_over = False

    def trace(self, event: str, info: dict[str, Any]) -> None:
        """For httpcore, which tells of each connection that it makes."""
        if event == "connection.connect_tcp.complete":
            # Another descriptor of it, because TLS takes the one that is there.
            made = info["return_value"].get_extra_info("socket")
            self._keep(socket.socket(fileno=os.dup(made.fileno())))

    async def async_trace(self, event: str, info: dict[str, Any]) -> None:
        self.trace(event, info)

    def _keep(self, made: socket.socket | None) -> None:
        with self._lock:
            if self._socket:
                self._socket.close()
            self._socket = made
            if self._is_over:
                self._end()

    def _end(self) -> None:
        if self._socket:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)

    def hang_up(self) -> None:
        with self._lock:
            self._is_over = True
            self._end()

    def drop(self) -> None:
        """The connection is closed, or is to be: this descriptor must not hold it open."""
        self._keep(None)
