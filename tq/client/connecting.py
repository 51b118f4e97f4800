"""Where a client's requests go, and how they look to httpx.

Requests go to httpx's transport and not through its client, which would look at cookies, redirects, authentication and
the environment for each. A request is made with all of its headers, for the same reason.
"""

from __future__ import annotations

import os
import ssl
from functools import lru_cache
from typing import Any

import httpx

from tq.client.calls import Call

DEFAULT_URL = "http://localhost:8000"
IDLE_S = 60.0  # a connection is dropped before the server does so, or a proxy of usual settings

_url = lru_cache(maxsize=1_000)(httpx.URL)


class Place:
    """A server's address, and what each request to it has."""

    def __init__(self, url: str | None, token: str | None, timeout: float, connections: int, retry_s: float) -> None:
        self.url = (url or os.environ.get("TQ_URL") or DEFAULT_URL).rstrip("/")
        parsed = httpx.URL(self.url)
        if parsed.scheme not in ("http", "https") or not parsed.host or parsed.query or parsed.userinfo:
            raise ValueError(f"{self.url!r} is no address of a server, such as {DEFAULT_URL}.")
        token = token or os.environ.get("TQ_TOKEN")
        self._headers = [(b"Host", parsed.netloc), (b"Accept", b"application/json")]
        if token:
            self._headers.append((b"Authorization", f"Bearer {token}".encode()))
        self.timeout_s, self.retry_s = timeout, retry_s
        self._is_secure = parsed.scheme == "https"
        self.host, self.port = parsed.host, parsed.port or (443 if self._is_secure else 80)
        self._connections = connections

    def transport_options(self, verify: ssl.SSLContext | bool) -> dict[str, Any]:
        limits = httpx.Limits(
            max_connections=self._connections, max_keepalive_connections=self._connections, keepalive_expiry=IDLE_S
        )
        # Without TLS nothing is verified, and the certificates of the system need not be read.
        return {"limits": limits, "verify": verify if self._is_secure else False}

    def request(self, call: Call) -> httpx.Request:
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
            extensions={"timeout": timeouts},
        )
