"""Data directories of earlier versions, as this one reads them; `tests/make_format.py` says how they came to be."""

from __future__ import annotations

import base64
import json
import os
import struct
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engines import dump, one, open_engine, put
from tests.golden import NOW_MS, OLD_MESSAGES, OLD_QUEUES
from tests.harness import ROOT, Reply, Server, findings, open_store, wait_until
from tests.make_format import KEPT, describe, described_contents
from tq import codec, keys, model
from tq.codec import ChunkedBody, MessageRecord
from tq.keys import DueKind

FORMATS = ROOT / "tests" / "formats"
NAMES = sorted(path.name.removesuffix(".tar.xz") for path in FORMATS.glob("*.tar.xz"))


def unpack(name: str, path: Path) -> Path:
    path.mkdir()
    with tarfile.open(FORMATS / f"{name}.tar.xz") as archive:
        for member in KEPT:
            content = archive.extractfile(member)
            assert content is not None
            (path / member).write_bytes(content.read())
    (page_bytes,) = struct.unpack_from("<I", (path / "data.mdb").read_bytes(), 40)
    if sys.byteorder != "little" or page_bytes != os.sysconf("SC_PAGE_SIZE"):
        pytest.skip(f"LMDB's files have the byte order and page size of their machine: here {page_bytes} bytes")
    return path


def manifest(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FORMATS / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_all_is_there_as_it_was(name: str, tmp_path: Path) -> None:
    path = unpack(name, tmp_path / "data")
    assert findings(path) == []
    store = open_store(path)
    seen = describe(store)
    store.close()
    expected = manifest(name)
    del expected["drained"]
    assert seen == expected


@pytest.mark.parametrize("name", NAMES)
def test_all_of_it_comes_out_over_http(name: str, start: Callable[..., Server], tmp_path: Path) -> None:
    """All leases, delays and lifetimes are long over, and the move that was running is carried out."""
    unpack(name, tmp_path / "data")
    server = start()
    expected = manifest(name)
    names = list(expected["queues"])

    def is_moving() -> bool:
        moves = [server.request("GET", f"/queues/{each}/moves").json["moves"] for each in names]
        return any(move["status"] == "running" for each in moves for move in each)

    wait_until(lambda: not is_moving(), 30)
    assert server.request("PATCH", "/queues/limited", {"paused": False}).status == 200
    out: dict[str, list[str]] = {each: [] for each in names}
    for each in names * 3:  # what expires when another is received is a dead letter then
        while (reply := server.request("GET", f"/queues/{each}/messages?max=100")).status == 200:
            out[each] += [content.hex() for content in contents(reply)]
    drained = {each: sorted(map(shown, expected["drained"][each])) for each in names}
    for each, found in out.items():
        assert described_contents(found) == drained[each], each
    for each in names:
        assert set(server.request("GET", f"/queues/{each}").json["messages"].values()) == {0}


def shown(content: str) -> str:
    """Text that was sent as such stands for a JSON string."""
    return b'"text"'.hex() if content == b"text".hex() else content


def contents(reply: Reply) -> list[bytes]:
    """The bytes that were sent."""
    found: list[bytes] = []
    for message in reply.json["messages"]:
        if message.get("encoding") == "base64":
            found.append(base64.b64decode(message["content"]))
        elif message.get("content_type"):
            found.append(message["content"].encode())
        else:
            found.append(json.dumps(message["content"]).encode())
    return found


def test_records_of_older_versions_are_received_and_rewritten(tmp_path: Path) -> None:
    """Message records of versions 1 and 2 under a queue record of version 1."""
    store = open_engine("lmdb", tmp_path)
    old = [(record, golden) for record, golden in OLD_MESSAGES if isinstance(record.body, bytes)]
    ready = [
        put(keys.ready_space(1), keys.message_key(n), bytes.fromhex(golden)) for n, (_, golden) in enumerate(old, 1)
    ]
    queue = put(keys.QUEUES, b"q", bytes.fromhex(OLD_QUEUES[0][1]))
    store.commit([put(keys.NAMES, keys.queue_prefix(1), b"q"), queue, *ready], NOW_MS)
    leased = one(store, model.Receive(("q",), 100, visibility_ms=60_000)).messages
    assert [message.content for message in leased] == [record.body for record, _ in old]
    assert {golden[:2] for _, golden in old} == {"01", "02"}
    spaces = store.read(dump)
    assert {value[0] for _, value in spaces[keys.IN_FLIGHT]} == {codec.MESSAGE_VERSION}
    assert spaces[keys.QUEUES][0][1][0] == codec.QUEUE_VERSION
    store.close()


# --- completeness ---------------------------------------------------------------------------


def test_this_format_is_kept() -> None:
    """A new version of a record makes a new format: an older tq would take it for damaged."""
    versions = (codec.VERSION, codec.MESSAGE_VERSION, codec.QUEUE_VERSION)
    assert versions == (1, 3, 2)
    assert "tq-1" in NAMES


def test_the_latest_format_has_every_kind_of_record(tmp_path: Path) -> None:
    store = open_store(unpack(NAMES[-1], tmp_path / "data"))
    spaces = store.read(lambda tx: {name: dict(tx.space(name).scan()) for name in tx.spaces()})
    store.close()
    constants = {name: value for name, value in vars(keys).items() if name.isupper() and name[0] != "_"}
    assert {value for value in constants.values() if isinstance(value, str)} <= {n for n in spaces if spaces[n]}
    notes = {key.partition(b"/")[0] for key in spaces[keys.META]}
    assert {value.rstrip(b"/") for value in constants.values() if isinstance(value, bytes)} == notes
    assert {keys.parse_due(key)[1] for key in spaces[keys.DUE]} == set(DueKind)
    assert any(key[4:5] == b"\xff" for key in spaces[keys.GROUPS]), "none is in flight beside the head of its group"
    assert any(key[4:5] == b"\xff" for key in spaces[keys.DEDUP]), "no deduplication id is of a group"
    places = [n for n in spaces if n in (keys.IN_FLIGHT, keys.DELAYED, keys.BLOCKED) or n.startswith("queue/")]
    messages = [codec.unpack_message(value) for name in places for value in spaces[name].values()]
    for field in msgspec.structs.fields(MessageRecord):
        if not field.required:
            assert any(getattr(message, field.name) != field.default for message in messages), field.name
    bodies = [message.body for message in messages if isinstance(message.body, ChunkedBody)]
    assert {bool(body.headers_size) for body in bodies} == {True, False}
    queues = [codec.unpack_queue(value) for value in spaces[keys.QUEUES].values()]
    for field in msgspec.structs.fields(model.QueueSettings):
        assert any(getattr(queue.settings, field.name) != field.default for queue in queues), field.name
    counted = set().union(*(queue.counters for queue in queues))
    assert counted == set(model.Counters.__struct_fields__)
    tasks = [codec.unpack_move(value) for value in spaces[keys.MOVES].values()]
    assert {task.status for task in tasks} == {"running", "completed", "cancelled", "failed"}
