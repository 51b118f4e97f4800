"""What the search begins with: the inputs of the project's own tests, and what was found before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from urllib.parse import urlencode

import msgpack

from tests import sqs_cases_messages, sqs_cases_moves, sqs_cases_queues, sqs_cases_receipts, test_wire
from tests.fuzz.targets import MAX_INPUT_BYTES, TARGETS
from tests.golden import GOLDEN, NOW_MS, OLD_MESSAGES, OLD_QUEUES
from tests.sqs_model import OPERATIONS, input_shape
from tests.sqs_wire import flatten
from tests.wire import ask, chunked
from tq import keys

ONE = b'{"content":1}'


def _connection() -> Iterator[bytes]:
    upgrade = ask("POST", "/queues/q/messages", ONE, "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
    fine = [
        ask("GET", "/queues?prefix=q&limit=10"),
        ask("GET", "/queues/q/messages?max=10&visibility_timeout=30&attempt_id=a"),
        ask("HEAD", "http://tq/queues/q"),
        ask("OPTIONS", "/queues/%71/messages"),
        ask("POST", "/queues/q/messages", b"", "Transfer-Encoding: chunked") + chunked(ONE[:4], ONE[4:]),
        ask(
            "POST", "/queues/q/messages", b"x", "Content-Type: image/png", "Idempotency-Key: k", "Expect: 100-continue"
        ),
        ask("PATCH", "/queues/q", b'{"ttl":10,"dead_letter":{"queue":"dead","max_receives":2}}'),
        ask("POST", "/receive", b'{"queues":["q","dead"],"visibility_timeout":1}'),
        ask("POST", "/transactions", b'{"sends":[{"queue":"q","content":1}]}'),
        ask("POST", "/queues/dead/moves", b'{"to":"q"}') + ask("DELETE", "/queues/q/messages"),
        upgrade + ask("GET", "/status", b"", "Connection: close"),
    ]
    for request in [*fine, *test_wire.MALFORMED.values(), *test_wire.DOUBTFUL.values()]:
        yield b"\0" + request + fine[0]
        yield b"\7" + request


def _sqs() -> Iterator[bytes]:
    modules = (sqs_cases_messages, sqs_cases_moves, sqs_cases_queues, sqs_cases_receipts)
    steps = {repr(step): step for module in modules for case in module.CASES[::4] for step in case.steps}
    for step in steps.values():
        given = json.loads(json.dumps(step.given, default=str).replace("$n", "q").replace("$x", ""))
        yield bytes([OPERATIONS.index(step.operation)]) + json.dumps(given).encode()
        try:
            form = [("Action", step.operation), *flatten(input_shape(step.operation), given)]
        except (KeyError, AttributeError, TypeError):
            continue  # what is wrong in it cannot be said in a form
        yield bytes([len(OPERATIONS)]) + urlencode(form).encode()


def _send() -> Iterator[bytes]:
    tables = [body for body, _ in test_wire.BAD_BODIES.values()]
    tables += [test_wire.holding(content) for content in test_wire.FINE_CONTENT.values()]
    for number, body in enumerate(tables):
        yield bytes([4 * (number % 3)]) + body
    for body, _ in test_wire.BAD_LINES.values():
        yield b"\1" + body
    full = {"content": [1.5, None, {"a": b"b".decode()}], "delay": 1, "priority": 9, "headers": {"h": "ä"}}
    full |= {"ttl": 9, "group": "g", "dedup_id": "d"}
    yield b"\0" + json.dumps(full).encode()
    yield b"\5" + json.dumps(full).encode() + b"\n" + ONE
    for body in (full, [full, {"content": b"bytes"}], {"content": "text"}):
        yield b"\2" + msgpack.packb(body)
    yield b"\3any bytes"


def _msgpack_content() -> Iterator[bytes]:
    values = [None, True, -1, 1 << 63, 1.5, float("nan"), "ä", b"b", [], {}, {"a": [1, {"b": 2}]}]
    values += [{1: 2}, {None: 1}, {(1, 2): 3}, msgpack.ExtType(4, b"x"), msgpack.Timestamp(1, 1)]
    yield from [msgpack.packb(value) for value in values]


def _records() -> Iterator[bytes]:
    for _, text in [*GOLDEN, *OLD_MESSAGES, *OLD_QUEUES]:
        value = bytes.fromhex(text)
        yield value
        yield value[:-4]  # the target puts a checksum behind it


def _receipts() -> Iterator[bytes]:
    yield from (
        b"rAAAAAAQAAAAAAAAAFAAAAAQ",
        b"rAAAAAAkAAAAAAAAEAAAAAQ",
        b"1",
        b"18446744073709551616",
        b"",
        b"\xb9",
    )


def _due_entry() -> Iterator[bytes]:
    for kind in keys.DueKind:
        yield keys.due_key(NOW_MS + 1, kind, 1, b"abcdefgh")
        yield keys.due_key(NOW_MS + 1, kind, 2, b"")


def _token_file() -> Iterator[bytes]:
    token = {"name": "a", "sha256": "00" * 32, "sqs_secret": "s", "allow": ["*:*", "look:orders", "send:[!o*?]"]}
    yield json.dumps([token]).encode()
    yield json.dumps([token, {**token, "name": "b", "allow": []}]).encode()
    yield b"[]"


def _signature() -> Iterator[bytes]:
    scope = "Credential=admin/TODAY/us-east-1/sqs/aws4_request"
    yield f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host;x-amz-date, Signature=00\nNOW\na=b&c=%20\nx\n{{}}".encode()
    query = {"X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-Credential": scope[11:], "X-Amz-Date": "NOW"}
    query |= {"X-Amz-Expires": "60", "X-Amz-SignedHeaders": "host", "X-Amz-Signature": "00"}
    yield f"\n\n{urlencode(query)}\n\n".encode()


_SEEDS = (_connection, _sqs, _send, _msgpack_content, _records, _receipts, _due_entry, _token_file, _signature)

# What was found: each was an error, a hang or a wrong answer once.
FOUND: dict[str, list[bytes]] = {
    # What was refused behind a request that would like another protocol was a traceback in the log, and a 500.
    "connection": [b"\0" + ask("POST", "/", ONE, "Connection: Upgrade", "Upgrade: h2c") + b"GET / HTTP/1.1\r\n\r\n"],
    # Keys have no checksum: one that was damaged stopped all timers.
    "due_entry": [b"\0" * 5, bytes(8) + b"\x63\0\0\0\1"],
    # Records whose checksum fits, but not their shape, were errors of Python.
    "records": [b"\x01\x81\xa1k\xa2\xc3\xa4", b"\x01\x98\xff\xff", b"\x01\xa1\xff"],
}

CORPUS: dict[str, list[bytes]] = {
    name: [*[data[:MAX_INPUT_BYTES] for data in seeds()], *FOUND.get(name, [])]
    for name, seeds in zip(TARGETS, _SEEDS, strict=True)
}
