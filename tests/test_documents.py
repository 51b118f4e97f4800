"""Real documents come back byte for byte and in order, however they were sent, across kills of the server.

They are JSON files that packages and the system ship. A bare machine has few, so the rest is derived from other text
that came with Python: values of those files, the HTML entities, package metadata, and source code as JSON strings.
"""

from __future__ import annotations

import html.entities
import importlib.metadata
import json
import os
import sys
import sysconfig
from collections.abc import Callable, Iterator
from hashlib import blake2b
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec

from tests.harness import Reply, Server

ROOTS = (sys.prefix, sys.base_prefix, "/usr/share", "/usr/lib")
MAX_FILES_OF_ROOT = 150
MAX_FILES_OF_DIRECTORY = 10
MIN_DERIVED = 100  # also where there are files enough, so that the rest is not first tried on a bare machine
MIN_DOCUMENTS = 300
MAX_BYTES = 1_048_576  # of one content, unless a queue is set up for more
PARCEL = 5  # messages in one batch
WAYS = ("one", "array", "raw", "one", "lines")


class Sent(msgspec.Struct, frozen=True):
    """A document on its way. `is_raw`: sent as bytes with a type of their own rather than as JSON."""

    content: bytes
    is_raw: bool


class Handed(msgspec.Struct):
    content: msgspec.Raw
    content_type: str | None = None
    encoding: str | None = None


class Page(msgspec.Struct):
    messages: list[Handed]


# --- documents -------------------------------------------------------------


def files() -> list[bytes]:
    """JSON files of this machine, the same at every run: some of each place, so that not all are of one kind."""
    found: dict[bytes, None] = {}
    for root in ROOTS:
        contents = filter(None, map(read_document, paths(root)))
        new = (content for content in contents if content not in found)
        found |= dict.fromkeys(islice(new, MAX_FILES_OF_ROOT))
    return list(found)


def paths(root: str) -> Iterator[Path]:
    """The first JSON files of each directory. The names are sorted on the way, so that the walk can end early."""
    for at, directories, names in os.walk(root):
        directories.sort()
        mine = sorted(name for name in names if name.endswith(".json"))
        yield from (Path(at, name) for name in mine[:MAX_FILES_OF_DIRECTORY])


def read_document(path: Path) -> bytes | None:
    """The document without the whitespace around it; None when it is not JSON, not UTF-8 or too large."""
    try:
        content = path.read_bytes().strip(b" \t\r\n")
        value = json.loads(content.decode(), parse_constant=refuse)
        json.dumps(value, ensure_ascii=False).encode()  # fails where a lone surrogate is escaped
    except (OSError, ValueError, RecursionError):
        return None
    return content if len(content) < MAX_BYTES else None


def refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def derived(documents: list[bytes]) -> Iterator[bytes]:
    """Documents made of other structured data and text, each encoded in one of four ways."""
    known = set(documents)
    styles: tuple[dict[str, Any], ...] = ({}, {"ensure_ascii": False}, {"indent": 2}, {"separators": (",", ":")})
    for number, value in enumerate(values(documents)):
        document = json.dumps(value, **styles[number % len(styles)]).encode()
        if document not in known and len(document) < MAX_BYTES:
            known.add(document)
            yield document


def values(documents: list[bytes]) -> Iterator[Any]:
    entities = sorted(html.entities.html5.items())
    for _, group in groupby(entities, key=lambda entity: entity[0][:1]):
        yield dict(group)
    for distribution in sorted(importlib.metadata.distributions(), key=lambda found: str(found.name)):
        yield distribution.metadata.json
    stdlib = Path(sysconfig.get_path("stdlib"))
    for path in sorted([*stdlib.glob("*.py"), *stdlib.glob("email/*.py"), *stdlib.glob("encodings/*.py")]):
        yield path.read_text(encoding="utf-8")
    for document in documents:
        value = json.loads(document)
        yield from value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def collect(found: list[bytes]) -> list[bytes]:
    """The files and derived documents in turn, so that every way of sending meets both."""
    count = max(MIN_DERIVED, MIN_DOCUMENTS - len(found))
    more = list(islice(derived(found), count))
    print(f"{len(found)} documents are files and {len(more)} are derived, {sum(map(len, found + more)):,} bytes")
    return sorted(found + more, key=lambda document: blake2b(document).digest())


# --- there and back -------------------------------------------------------------


def send(server: Server, documents: list[bytes]) -> list[Sent]:
    """Send parcel by parcel, each in the next of the ways; what was sent, in order."""
    sent: list[Sent] = []
    for number, start in enumerate(range(0, len(documents), PARCEL)):
        parcel = documents[start : start + PARCEL]
        way = WAYS[number % len(WAYS)]
        if way == "lines":  # the only way that needs a document to be on one line
            parcel = [json.dumps(json.loads(document), ensure_ascii=False).encode() for document in parcel]
        ids = [number for reply in post(server, way, parcel) for number in ids_of(reply)]
        assert ids == list(range(ids[0], ids[0] + len(parcel)))
        sent += [Sent(document, way == "raw") for document in parcel]
    return sent


def post(server: Server, way: str, parcel: list[bytes]) -> Iterator[Reply]:
    envelopes = [b'{"content": %b}' % document for document in parcel]
    bodies, media_type = {
        "one": (envelopes, "application/json"),
        "array": ([b"[%b]" % b",".join(envelopes)], "application/json"),
        "lines": ([b"\n".join(envelopes)], "application/x-ndjson"),
        "raw": (parcel, "application/octet-stream"),
    }[way]
    for body in bodies:
        yield server.request("POST", "/queues/documents/messages", body, {"Content-Type": media_type})


def ids_of(reply: Reply) -> list[int]:
    assert reply.status == 201, reply
    return reply.json["ids"] if "ids" in reply.json else [reply.json["id"]]


def receive(server: Server, count: int) -> list[Sent]:
    """Receive so many, singly and by the page in turn."""
    received: list[Sent] = []
    while len(received) < count:
        limit = min(7, count - len(received))
        reply = server.request("GET", f"/queues/documents/messages?max={limit}")
        assert reply.status == 200, reply
        received += map(unwrap, msgspec.json.decode(reply.body, type=Page).messages)
        if len(received) < count:
            received.append(receive_one(server))
    return received


def receive_one(server: Server) -> Sent:
    reply = server.request("GET", "/queues/documents/messages")
    assert reply.status == 200, reply
    if reply.headers["Content-Type"] == "application/octet-stream":
        return Sent(reply.body, is_raw=True)
    return unwrap(msgspec.json.decode(reply.body, type=Handed))


def unwrap(handed: Handed) -> Sent:
    """The content as the bytes between the envelope's own; bytes of another type are in a JSON string there."""
    if handed.content_type is None:
        return Sent(bytes(handed.content), is_raw=False)
    assert handed.encoding is None, "the documents are all UTF-8"
    return Sent(msgspec.json.decode(handed.content, type=str).encode(), is_raw=True)


def test_real_documents_come_back_byte_for_byte(start: Callable[..., Server]) -> None:
    documents = collect(files())
    assert len(documents) >= MIN_DOCUMENTS
    half = len(documents) // 2
    server = start()
    assert server.request("POST", "/queues", {"name": "documents"}).status == 201
    sent = send(server, documents[:half])
    server.kill()
    server = start()
    sent += send(server, documents[half:])
    received = receive(server, half // 2)
    server.kill()
    server = start()
    received += receive(server, len(sent) - len(received))
    assert server.request("GET", "/queues/documents/messages").status == 204
    assert len(received) == len(sent)
    for number, (was, came) in enumerate(zip(sent, received, strict=True)):
        assert came == was, f"document {number}"


def test_a_machine_without_any_json_file_has_documents_enough() -> None:
    documents = collect([])
    assert len(documents) >= MIN_DOCUMENTS
    assert any(not document.isascii() for document in documents)
    assert max(map(len, documents)) > 100_000
