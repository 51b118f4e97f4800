"""What is fuzzed. A target takes any bytes, and raises when something happens that must not."""

from __future__ import annotations

import json
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgpack
import msgspec

from tests.fuzz.world import World
from tests.golden import NOW_MS
from tests.sqs_model import OPERATIONS
from tests.wire import ask
from tq import codec, keys, lifecycle, model, tokens
from tq.codec import ChunkedBody, CorruptRecord, MessageRecord
from tq.errors import Forbidden, StartError
from tq.store import Tx
from tq.store.memory import MemoryStore
from tq.web.exchange import Request
from tq.web.sqs.errors import SqsError
from tq.web.sqs.signature import verify

MAX_KEY_BYTES = 511  # of LMDB
MAX_INPUT_BYTES = 4_096
MAX_SECONDS = 1.0  # of this process's own time, for an input of so many bytes

Target = Callable[[bytes], None]

WORLD = World()
_TYPES = ["application/json", "application/x-ndjson", "application/msgpack", "application/octet-stream"]
_ACCEPTED = ["*/*", "application/msgpack", "application/x-ndjson"]


def _status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:100]
    return int(answer[9:12])


def _body(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def connection(data: bytes) -> None:
    """The first byte says in pieces of which size the others come."""
    if data:
        size = data[0] or len(data)
        WORLD.say(*[data[at : at + size] for at in range(1, len(data), size)])


def sqs(data: bytes) -> None:
    """The first byte says the operation of the JSON protocol; one more, that it is the Query protocol."""
    if not data:
        return
    number = data[0] % (len(OPERATIONS) + 1)
    headers = ["Content-Type: application/x-www-form-urlencoded"]
    if number < len(OPERATIONS):
        headers = [f"X-Amz-Target: AmazonSQS.{OPERATIONS[number]}"]
    answer = WORLD.say(ask("POST", "/", data[1:], *headers))
    if answer:  # else it is a receive that waits
        assert 200 <= _status(answer) < 500, answer


def send(data: bytes) -> None:
    """The first byte says the type of the body, and as what the message is taken again."""
    if not data:
        return
    sent = WORLD.say(ask("POST", "/queues/q/messages", data[1:], f"Content-Type: {_TYPES[data[0] % 4]}"))
    assert _status(sent) in (200, 201, 400, 413, 429), sent
    if _status(sent) == 201:
        accepted = _ACCEPTED[data[0] // 4 % 3]
        got = WORLD.say(ask("GET", "/queues/q/messages?max=1000", b"", f"Accept: {accepted}"))
        assert _status(got) in (200, 204), got
        if _status(got) == 200 and accepted != "application/msgpack":
            for line in _body(got).splitlines() if accepted != "*/*" else [_body(got)]:
                msgspec.json.decode(line, type=msgspec.Raw)
                json.loads(line, parse_int=str)
        elif _status(got) == 200:
            msgspec.msgpack.decode(_body(got))


def records(data: bytes) -> None:
    """Bytes that lie where a record should; and with a checksum that fits, as if that had been damaged too."""
    for value in (data, data + zlib.crc32(data).to_bytes(4)):
        for unpack in (codec.unpack_message, codec.unpack_queue, codec.unpack_notes, codec.unpack_move):
            try:
                unpack(value)
            except CorruptRecord:
                continue
    head = MessageRecord(0, ChunkedBody(len(data), zlib.crc32(data), min(len(data), 64)))
    try:
        codec.join_body(head, [data])
    except CorruptRecord:
        return


def receipts(data: bytes) -> None:
    """Text that is shown as a receipt, over the API too; and the small keys and values that have no checksum."""
    text = data.decode("latin-1")
    parsed = keys.parse_receipt(text)
    if parsed is not None:
        assert keys.receipt(*parsed) == text
    shown = "".join(char for char in text if char.isascii() and char.isalnum())[:200] or "r"
    for method in ("DELETE", "GET", "PATCH"):
        assert _status(WORLD.say(ask(method, f"/queues/q/messages/{shown}", b'{"delay":1}'))) < 500
    body = json.dumps({"receipts": [text], "extends": [{"receipt": text, "visibility_timeout": 1}]}).encode()
    assert _status(WORLD.say(ask("POST", "/queues/q/acks", body))) == 200


def due_entry(data: bytes) -> None:
    """A key in `due`, whose value is what it ends with. Time goes on behind it: the lease of another message ends."""

    def apply(tx: Tx, commands: Sequence[model.Command], now_ms: int) -> list[Any]:
        if data and now_ms > NOW_MS:
            tx.space(keys.DUE).put(data[:MAX_KEY_BYTES], data[13:])
        return lifecycle.apply(tx, commands, now_ms)

    store = MemoryStore(apply)
    store.commit([model.CreateQueue("q", model.QueueSettings()), model.Send("q", (model.Draft(b"1"),))], NOW_MS)
    store.commit([model.Receive(("q",), visibility_ms=1_000)], NOW_MS)
    ticked = store.commit([model.Tick(1_000)], NOW_MS + 1_000)
    assert not [result for result in ticked if isinstance(result, Exception)], ticked
    messages = store.read(lambda tx: lifecycle.answer(tx, model.GetQueue("q"), NOW_MS)).messages
    assert messages.ready == 1 or keys.parse_due(data)[1] is keys.DueKind.TTL, messages


def token_file(data: bytes) -> None:
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        try:
            known = tokens.load(Path(file.name))
        except StartError:
            return
    for token in known.named.values():
        for request in (model.GetQueue("orders"), model.GetStatus()):
            try:
                token.check(request)
            except Forbidden:
                continue


_known = tokens.Tokens([tokens.Token("admin", "", "secret", ("*:*",))])


def signature(data: bytes) -> None:
    """Lines: Authorization, X-Amz-Date, the query string, SignedHeaders by another name, and the body."""
    authorization, date, query, more, body = (data.decode("latin-1").split("\n", 4) + [""] * 4)[:5]
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())  # so that a corpus that lies for a day is good for something
    headers = {"host": "tq", "x-amz-date": date.replace("NOW", now), "x-more": more}
    if authorization:
        headers["authorization"] = authorization.replace("TODAY", now[:8])
    query = query.replace("NOW", now).replace("TODAY", now[:8])
    try:
        verify(Request("POST", "/", query, headers, {}, body.encode()), _known)
    except SqsError:
        return
    raise AssertionError("a forged signature was taken")


def msgpack_content(data: bytes) -> None:
    """What is taken as msgpack is what `msgpack` itself reads, and comes back."""
    envelope = msgpack.packb({"content": 1})[:-1] + data
    sent = WORLD.say(ask("POST", "/queues/q/messages", envelope, "Content-Type: application/msgpack"))
    assert _status(sent) in (201, 400, 413, 429), sent
    if _status(sent) != 201:
        return
    got = WORLD.say(ask("GET", "/queues/q/messages", b"", "Accept: application/msgpack"))
    expected = msgpack.unpackb(envelope, strict_map_key=False)["content"]
    while _status(got) == 200:
        message = msgspec.msgpack.decode(_body(got))
        if message["id"] == json.loads(_body(sent))["id"]:
            found = message["content"]
            found = json.loads(found) if message.get("encoding") == "json" else found
            assert found == expected, (found, expected)
        got = WORLD.say(ask("GET", "/queues/q/messages", b"", "Accept: application/msgpack"))


TARGETS: dict[str, Target] = {
    each.__name__: each
    for each in (connection, sqs, send, msgpack_content, records, receipts, due_entry, token_file, signature)
}


def run(target: Target, data: bytes) -> None:
    """Give the bytes to a target, and see to it that they do not cost much."""
    data = data[:MAX_INPUT_BYTES]
    began_s = time.process_time()
    target(data)
    took_s = time.process_time() - began_s
    assert took_s < MAX_SECONDS, f"{len(data)} bytes took {took_s:.1f} s"
