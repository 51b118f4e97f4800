"""Bytes to requests: what HTTP/1.1 says of framing (RFC 9112), and how large a request may be.

llhttp parses, through httptools, and refuses what is ambiguous: lengths that contradict each other or the coding, bare
line ends, folded headers, NUL. What it leaves open is refused here: a missing or second Host, a coding in HTTP/1.0 or
one that is not `chunked`, other versions, and whatever is too large. A refusal is in the place of the request that it
is for, as its `refusal`, and ends the reading.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import lru_cache
from typing import Any, Literal

import httptools

from tq.errors import (
    HeadersTooLarge,
    HostMissing,
    InternalError,
    InvalidRequest,
    MessageTooLarge,
    TqError,
    UnsupportedMediaType,
)

MAX_HEADERS = 200  # browsers send about 20, proxies add a few
MAX_KNOWN_HEADS = 1_000
MAX_KNOWN_BYTES = 600  # heads that are larger are signed, or of browsers
MAX_KNOWN_NAMES = 1_000  # of headers …
MAX_KNOWN_NAME = 50  # … and bytes of one
_REPEATED = {"GET", "POST"}  # in the paths of other methods stands a message
# A head with one of these says more than how long the body is, or does not come again.
_NOT_LEARNED = {"transfer-encoding", "expect", "upgrade", "connection", "x-amz-date", "idempotency-key", "traceparent"}

log = logging.getLogger("tq.web")


_known_names: dict[bytes, str] = {}


def _lower(name: bytes) -> str:
    """The name of a header in lower case; those that come again are remembered."""
    lower = name.decode("latin-1").lower()
    if len(name) <= MAX_KNOWN_NAME and len(_known_names) < MAX_KNOWN_NAMES:
        _known_names[name] = lower
    return lower


def _joined(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    """Headers of which some are repeated: their values in one (RFC 9110, 5.3)."""
    headers: dict[str, str] = {}
    for name, value in pairs:
        key, text = _lower(name), value.decode("latin-1").rstrip(" \t")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    return headers


@lru_cache
def _method(name: bytes) -> str:
    return name.decode()


def _is_1_0(version: str) -> bool:
    """Raises InvalidRequest for what is not HTTP/1.1 either."""
    if version not in ("1.0", "1.1"):
        raise InvalidRequest(f"HTTP/{version} is not spoken here; HTTP/1.1 is.")
    return version == "1.0"


class Head:
    """Everything of a request but its body. Names of headers are in lower case, repeated ones joined; `pairs` are all.

    It is not changed once it was parsed: requests with the same bytes share one that `is_known`, and with it `call`,
    which is whatever the application makes of a head.
    """

    __slots__ = ("call", "headers", "is_1_0", "is_known", "keep_alive", "method", "pairs", "refusal", "target")

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.is_1_0 = False
        self.pairs: list[tuple[bytes, bytes]] = []
        self.headers: dict[str, str] = {}
        self.keep_alive = True
        self.refusal: TqError | None = None
        self.call: Any = None
        self.is_known = False

    @property
    def path(self) -> str:
        """What may be logged of the target: in a query string there may be a signature."""
        return self.target.partition("?")[0]


class KnownHeads:
    """Heads that were parsed before, by their bytes: most clients send the same few again and again."""

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[Head, int]] = {}

    def forget(self) -> None:
        """Know none: what they ask for may be answered in another way now."""
        self._heads.clear()

    def learn(self, data: bytes, head: Head, body: bytes) -> None:
        """Keep the head of a request that was all of the data, unless it says more than how long the body is."""
        size = len(data) - len(body)
        if head.method not in _REPEATED or size > MAX_KNOWN_BYTES:
            return
        if not head.keep_alive or head.refusal or not head.headers.keys().isdisjoint(_NOT_LEARNED):
            return
        if len(self._heads) >= MAX_KNOWN_HEADS:
            self._heads.clear()
        head.is_known = True
        self._heads[data[:size]] = head, len(body)

    def find(self, data: bytes) -> tuple[Head, bytes] | None:
        """The request, when the data is a known head, its whole body, and nothing else."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._heads.get(data[:end]) if end <= MAX_KNOWN_BYTES else None
        if known is None or len(data) - end != known[1]:
            return None
        return known[0], data[end:]


class RequestParser:
    """Reads one connection. Requests, head and body, go to `parsed` when they are there to their end."""

    def __init__(
        self, parsed: deque[tuple[Head, bytes]], known: KnownHeads, max_header_bytes: int, max_body_bytes: int
    ) -> None:
        self._parsed = parsed
        self._known = known
        self._max_header_bytes = max_header_bytes
        self._max_body_bytes = max_body_bytes
        self._llhttp: Any = None  # made when there is something to parse: many connections send only known heads
        self._head: Head | None = None
        self._pairs: list[tuple[bytes, bytes]] | None = None  # the head's, until all of them are there
        self._resumed: Head | None = None
        self._url = b""
        self._body: bytes | bytearray = b""
        self._fed_bytes = 0
        self._first_bytes = 0  # fed when the head began, some of which may be of the body before it
        self._trailers = 0
        self._framing_bytes = 0  # of a body, since there was some of it
        self.part: Literal["", "header", "body"] = ""  # what is being read
        self.size = 0  # bytes of the head, behind those that it began with, or of the body so far
        self.owes_continue = False  # the client waits for a word before it sends the body
        self.is_over = False  # nothing more is read: a request said so, or was refused

    def feed(self, data: bytes | memoryview) -> None:
        if self._head is None and isinstance(data, bytes):
            known = self._known.find(data)
            if known:
                self._parsed.append(known)
                return
            before = len(self._parsed)
            self._parse(data)
            if self._head is None and len(self._parsed) == before + 1:
                self._known.learn(data, *self._parsed[-1])
        else:
            self._parse(data)

    def _parse(self, data: bytes | memoryview) -> None:
        is_in_head = self.part == "header"
        size = self.size if self.part == "body" else -1
        self._fed_bytes = len(data)
        if self._llhttp is None:
            self._llhttp = httptools.HttpRequestParser(self)
        rest: bytes | memoryview | None = None
        try:
            self._llhttp.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            rest = data[upgrade.args[0] :]
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, TqError):
                self.refuse(cause)
            elif isinstance(error, httptools.HttpParserCallbackError):
                log.error("a request could not be read", exc_info=error)
                self.refuse(InternalError())
            elif not self.is_over:  # else it complains of what stands behind the last request
                self.refuse(InvalidRequest(f"This is not HTTP/1.1: {error}."))
        else:
            if self.part == "header" and is_in_head:  # a header that has no end is not seen by the callbacks
                self.size += len(data)
                if self.size > self._max_header_bytes:
                    self.refuse(self._headers_too_large())
            elif self.part == "body":  # so has a trailer, and a chunk's extension
                self._framing_bytes = self._framing_bytes + len(data) if self.size == size else 0
                if self._framing_bytes > self._max_header_bytes:
                    self.refuse(self._headers_too_large())
        if rest is not None:  # not above, where the upgrade would be taken for the cause of the next error
            self._go_on(rest)

    def refuse(self, error: TqError) -> None:
        """Put a refusal in the place of what is being read, and read no more."""
        head = self._head or Head()
        head.refusal = error
        head.keep_alive = False
        self._parsed.append((head, b""))
        self.close()

    def close(self) -> None:
        self.is_over = True
        self.owes_continue = False
        self._head = self._pairs = self._resumed = self._llhttp = None  # llhttp's object refers back to this one
        self.part = ""
        self._body = b""

    # --- httptools' callbacks -------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._resumed:
            return
        self._head = Head()
        self._pairs = self._head.pairs
        self.part = "header"
        self._url = b""
        self._first_bytes = self._fed_bytes
        self._trailers = 0
        self.size = 0

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._pairs is not None:
            self._pairs.append((name, value))
        elif self.part == "body" and not self._resumed:
            self._trailers += 1  # RFC 9110, 6.5.1: not to be taken for headers
            self._check_number(self._trailers)

    def on_headers_complete(self) -> None:
        if self._resumed:
            self._head, self._resumed = self._resumed, None
            return
        head, llhttp = self._head, self._llhttp
        assert head
        pairs, self._pairs = head.pairs, None
        self._check_number(len(pairs))
        known = _known_names.get
        headers = head.headers = {
            known(name) or _lower(name): value.decode("latin-1").rstrip(" \t")  # RFC 9110, 5.5; llhttp does not
            for name, value in pairs
        }
        if len(headers) < len(pairs):
            headers = head.headers = _joined(pairs)
        if self._first_bytes + self.size + self._fed_bytes > self._max_header_bytes:
            size = len(self._url) + sum(len(name) + len(value) + 4 for name, value in pairs)
            if size > self._max_header_bytes:
                raise self._headers_too_large()
        head.method = _method(llhttp.get_method())
        head.target = self._url.decode("latin-1")
        head.keep_alive = llhttp.should_keep_alive()
        if not head.keep_alive or "connection" in headers:  # else it is HTTP/1.1, whose default is to keep
            head.is_1_0 = _is_1_0(llhttp.get_http_version())
        if "host" not in headers:
            if not head.is_1_0:
                raise HostMissing
        elif len(headers) < len(pairs) and sum(_lower(name) == "host" for name, _ in pairs) > 1:
            raise HostMissing
        self.part = "body"
        self.size = self._framing_bytes = 0
        if "content-length" in headers or "transfer-encoding" in headers:
            self._begin_body(head)

    def _begin_body(self, head: Head) -> None:
        headers = head.headers
        coding = headers.get("transfer-encoding")
        if coding is not None and (coding.lower() != "chunked" or head.is_1_0):
            raise InvalidRequest("No Transfer-Encoding is taken but chunked, in HTTP/1.1.")
        if coding is None and int(headers["content-length"]) > self._max_body_bytes:
            raise self._body_too_large()
        if "content-encoding" in headers and headers["content-encoding"].lower() != "identity":
            raise UnsupportedMediaType("Content-Encoding is not taken; send the body as it is.")
        if "expect" in headers:  # HTTP/1.0 knows no 100 (RFC 9110, 10.1.1)
            self.owes_continue = headers["expect"].lower() == "100-continue" and not head.is_1_0

    def on_body(self, piece: bytes) -> None:
        self.owes_continue = False
        self.size += len(piece)
        if self.size > self._max_body_bytes:
            raise self._body_too_large()
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytearray):
            self._body += piece
        else:
            self._body = bytearray(self._body) + piece

    def on_message_complete(self) -> None:
        if self._llhttp.should_upgrade() or self._head is None:
            return  # see _go_on
        self._complete(self._head)

    def _complete(self, head: Head) -> None:
        self._parsed.append((head, bytes(self._body)))
        self._body = b""
        self._head = None
        self.part = ""
        self.owes_continue = False
        if not head.keep_alive:
            self.is_over = True

    def _go_on(self, rest: bytes | memoryview) -> None:
        """The client would like to speak another protocol, as Java's does by default: it is answered in HTTP/1.1.

        llhttp takes what follows the headers for the other protocol's. So the body is read by a new parser, which is
        told of it by a head of our own.
        """
        head = self._head
        assert head
        framing = [
            f"{name}: {head.headers[name]}\r\n"
            for name in ("content-length", "transfer-encoding")
            if name in head.headers
        ]
        if not framing or head.method == "CONNECT":
            head.keep_alive &= not framing  # what follows a CONNECT may be its body, or of the tunnel that it wanted
            self._complete(head)
        else:
            self._resumed = head
            self._llhttp = httptools.HttpRequestParser(self)
            self._llhttp.feed_data(f"POST / HTTP/1.1\r\n{''.join(framing)}\r\n".encode("latin-1"))
        if rest and not self.is_over:
            self.feed(rest)

    def _check_number(self, headers: int) -> None:
        if headers > MAX_HEADERS:
            raise HeadersTooLarge(f"More than {MAX_HEADERS} headers.")

    def _headers_too_large(self) -> HeadersTooLarge:
        return HeadersTooLarge(f"The request line and headers have more than {self._max_header_bytes:,} bytes.")

    def _body_too_large(self) -> MessageTooLarge:
        return MessageTooLarge(f"The body has more than {self._max_body_bytes:,} bytes.")
