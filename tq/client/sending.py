"""What is sent: envelopes to bytes, many of them to batches, and the ids that let a send be repeated."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

JSON, NDJSON, MSGPACK, OCTETS = (
    "application/json",
    "application/x-ndjson",
    "application/msgpack",
    "application/octet-stream",
)
BATCH_MESSAGES = 1_000  # one commit, which others wait for; more hardly makes it quicker
BATCH_BYTES = 1 << 20  # far below what a server takes at once, and what can be sent again soon
_OPTIONS = ("delay", "ttl", "priority", "group", "dedup_id")

_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A message to be sent, with what may be said of it. What is None has the queue's default."""

    content: Any
    delay: float | None = None
    ttl: float | None = None
    priority: int = 0
    group: str | None = None
    dedup_id: str | None = None
    headers: dict[str, str] | None = None

    def options(self) -> dict[str, Any]:
        """What is said of it beside content and headers."""
        said = {name: getattr(self, name) for name in _OPTIONS}
        return {name: value for name, value in said.items() if value is not None and (value or name != "priority")}


def in_envelope(item: Any) -> Envelope:
    return item if isinstance(item, Envelope) else Envelope(content=item)


def to_json(envelope: Envelope, **more: Any) -> bytes:
    """Raises TypeError or ValueError for content that is no JSON."""
    content = _encode(envelope.content)
    said = {**more, **envelope.options()}
    if envelope.headers:
        said["headers"] = envelope.headers
    if not said:
        return f'{{"content":{content}}}'.encode()
    return f'{{"content":{content},{_encode(said)[1:]}'.encode()


def to_msgpack(envelope: Envelope) -> bytes:
    said = {"content": envelope.content, **envelope.options()}
    if envelope.headers:
        said["headers"] = envelope.headers
    return msgspec.msgpack.encode(said)


def one(envelope: Envelope, content_type: str | None) -> tuple[bytes, str, str]:
    """Body, media type and query string of a send."""
    content = envelope.content
    if not isinstance(content, bytes | bytearray | memoryview):
        if content_type is not None:
            raise TypeError("A `content_type` is for content that is bytes.")
        return to_json(envelope), JSON, ""
    if not envelope.headers:
        options = urlencode(envelope.options())
        return bytes(content), content_type or OCTETS, f"?{options}" if options else ""
    if content_type not in (None, OCTETS):
        raise ValueError("Bytes with headers are kept as application/octet-stream, and have no other type.")
    return to_msgpack(envelope), MSGPACK, ""


def _is_binary(envelope: Envelope) -> bool:
    return isinstance(envelope.content, bytes | bytearray | memoryview)


@dataclass(frozen=True, slots=True)
class Batch:
    """Some messages in one body."""

    body: bytes
    media_type: str
    count: int


class Batcher:
    """Puts messages together, as many as go into a batch; bytes go in msgpack, all else in lines of JSON."""

    def __init__(self, most: int = BATCH_MESSAGES, most_bytes: int = BATCH_BYTES) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._parts: list[bytes] = []
        self._size = 0
        self._is_binary = False

    def add(self, item: Any) -> Batch | None:
        """The batch before it, where it does not go into that."""
        envelope = in_envelope(item)
        is_binary = _is_binary(envelope)
        part = to_msgpack(envelope) if is_binary else to_json(envelope)
        is_full = len(self._parts) == self._most or self._size + len(part) > self._most_bytes
        before = self.take() if is_full or is_binary is not self._is_binary else None
        self._parts.append(part)
        self._size += len(part)
        self._is_binary = is_binary
        return before

    def take(self) -> Batch | None:
        """What there is."""
        if not self._parts:
            return None
        parts, self._parts, self._size = self._parts, [], 0
        return _joined(parts, self._is_binary)


def _joined(parts: list[bytes], is_binary: bool) -> Batch:
    if is_binary:
        return Batch(b"".join([b"\xdd", len(parts).to_bytes(4), *parts]), MSGPACK, len(parts))
    return Batch(b"\n".join(parts), NDJSON, len(parts))


def one_batch(items: Iterable[Any]) -> Batch:
    """All in one."""
    envelopes = [in_envelope(item) for item in items]
    is_binary = any(map(_is_binary, envelopes))
    return _joined([to_msgpack(each) if is_binary else to_json(each) for each in envelopes], is_binary)


def batches(items: Iterable[Any]) -> Iterator[Batch]:
    batcher = Batcher()
    for item in items:
        if batch := batcher.add(item):
            yield batch
    if batch := batcher.take():
        yield batch


def new_key() -> str:
    """Of chance alone, so that a forked process does not make the same ones."""
    return secrets.token_urlsafe(15)
