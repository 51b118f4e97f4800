"""Requests that are made to cost much: what each takes grows as its size does and no faster.

A map of msgpack, a number of SQS and a list of signed headers were quadratic once. It is this process's own time that
is measured, and the bounds are some ten times what it takes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from urllib.parse import urlencode

import msgpack
import pytest

from tests.fuzz.world import World
from tests.wire import ask, chunked
from tq import tokens
from tq.web.exchange import Request
from tq.web.sqs.errors import SqsError
from tq.web.sqs.signature import verify

ONE = b'{"content":1}'
LIMIT_S = 1.0
SEND = "/queues/q/messages"
MSGPACK = "Content-Type: application/msgpack"
FORM = "Content-Type: application/x-www-form-urlencoded"
_WORD = (1 << 64) - 1
_P1, _P2, _P5 = 11_400_714_785_074_694_791, 14_029_467_366_897_019_727, 2_870_177_450_012_600_261


def colliding_pairs(number: int) -> Iterator[tuple[int, int]]:
    """Pairs of integers that Python's hash of tuples (xxHash without a secret) does not tell from each other."""

    def turned(value: int, bits: int) -> int:
        return (value << bits | value >> (64 - bits)) & _WORD

    aim = turned(0x123456789ABCDEF0 * pow(_P1, -1, 1 << 64) & _WORD, 64 - 31)
    first = 0
    while number:
        first += 1
        lane = turned((_P5 + first * _P2) & _WORD, 31) * _P1 & _WORD
        second = (aim - lane) * pow(_P2, -1, 1 << 64) & _WORD
        second -= (second >> 63) << 64
        if abs(second) < (1 << 61) - 1 and second != -1:  # else its hash is another number
            number -= 1
            yield first, second


def _map_of_pairs() -> bytes:
    keys = [msgpack.packb(list(pair)) + b"\xc0" for pair in colliding_pairs(30_000)]
    return msgpack.packb({"content": 1})[:-1] + b"\xdf" + len(keys).to_bytes(4) + b"".join(keys)


def _attribute(value: str) -> bytes:
    form = {"Action": "SendMessage", "QueueUrl": "q", "MessageBody": "a", "MessageAttribute.1.Name": "n"}
    form |= {"MessageAttribute.1.Value.DataType": "Number", "MessageAttribute.1.Value.StringValue": value}
    return ask("POST", "/", urlencode(form).encode(), FORM)


# name: the request
COSTLY: dict[str, Callable[[], bytes]] = {
    "a map with keys of one hash": lambda: ask("POST", SEND, _map_of_pairs(), MSGPACK),
    "a number that is none": lambda: _attribute("1" * 250_000 + "x"),
    "a number of points": lambda: _attribute("." * 250_000),
    "nested JSON": lambda: ask("POST", SEND, b'{"content":' + b"[" * 1_000_000),
    "nested msgpack": lambda: ask("POST", SEND, msgpack.packb({"content": 1})[:-1] + b"\x91" * 1_000_000, MSGPACK),
    "an array that says it is large": lambda: ask("POST", SEND, b"\xdd\xff\xff\xff\xff" + b"\x80" * 9, MSGPACK),
    "blank lines": lambda: ask("POST", SEND, b"\n" * 1_000_000, "Content-Type: application/x-ndjson"),
    "percents in the target": lambda: ask("GET", "/queues/" + "%" * 30_000),
    "a target of slashes": lambda: ask("GET", "/" * 30_000),
    "query parameters": lambda: ask("GET", "/queues?" + "&".join(f"a{n}=" for n in range(4_000))),
    "a number in the query": lambda: ask("GET", "/queues?limit=" + "9" * 30_000),
    "digits that are not ASCII": lambda: ask("GET", "/queues?limit=" + "%D9%A3" * 5_000),
    "an Accept of ranges": lambda: ask("GET", f"{SEND}?max=1", b"", "Accept: " + "a/b;q=0.1," * 3_000),
    "parameters of SQS": lambda: ask("POST", "/", b"&".join(b"Tag.%d.Key=a" % n for n in range(60_000)), FORM),
    "deep parameters of SQS": lambda: ask("POST", "/", b"Action=TagQueue&" + b"a." * 500_000 + b"=1", FORM),
    "an entry for each of 9,000": lambda: ask(
        "POST",
        "/",
        b"Action=SendMessageBatch&QueueUrl=q&"
        + b"&".join(b"SendMessageBatchRequestEntry.%d.Id=a" % n for n in range(9_000)),
        FORM,
    ),
    "a body of single bytes": lambda: ask("POST", SEND, b"", "Transfer-Encoding: chunked") + chunked(*[b"["] * 100_000),
    "two hundred equal headers": lambda: ask("GET", "/queues", b"", *["X: " + "a" * 100] * 190),
    "a thousand requests at once": lambda: ask("GET", "/healthz") * 1_000,
}


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    made = World()
    yield made
    made.close()


@pytest.mark.parametrize("name", COSTLY)
def test_what_is_made_to_cost_much(world: World, name: str) -> None:
    request = COSTLY[name]()
    began_s = time.process_time()
    answer = world.say(*[request[at : at + 65_536] for at in range(0, len(request), 65_536)])
    took_s = time.process_time() - began_s
    assert answer.startswith((b"HTTP/1.1 2", b"HTTP/1.1 4")), answer[:200]
    assert took_s < LIMIT_S, f"{len(request)} bytes took {took_s:.2f} s"


def test_a_signature_of_many_headers_costs_no_more_than_they_have_bytes() -> None:
    """Naming one long header a thousand times had it read a thousand times, without a right signature."""
    now = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    names = "host;" + ";".join(["x"] * 7_000)
    headers = {
        "host": "tq",
        "x": "a " * 8_000,
        "x-amz-date": now,
        "authorization": f"AWS4-HMAC-SHA256 Credential=admin/{now[:8]}/us-east-1/sqs/aws4_request, "
        f"SignedHeaders={names}, Signature=00",
    }
    known = tokens.Tokens([tokens.Token("admin", "", "secret", ("*:*",))])
    began_s = time.process_time()
    with pytest.raises(SqsError, match="twice"):
        verify(Request("POST", "/", "", headers, {}, b""), known)
    assert time.process_time() - began_s < LIMIT_S / 10
