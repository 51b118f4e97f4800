"""Messages on the wire, without a server: what is read and kept, what is written, and which format is chosen."""

from __future__ import annotations

import base64
import datetime
import json
import math
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tq.errors import InvalidRequest, MessageNotFound, Overloaded, UnsupportedMediaType
from tq.model import Draft, Message
from tq.web import formats
from tq.web.exchange import Request, Response, problem

JSON = "application/json"
NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
OCTETS = "application/octet-stream"

SENT_MS = 1_750_000_000_123
SENT_AT = "2025-06-15T15:06:40.123Z"
ROUND_TRIP = settings(max_examples=100, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


def request(body: bytes = b"", *, query: str = "", method: str = "POST", **headers: str) -> Request:
    named = {name.replace("_", "-").lower(): value for name, value in headers.items()}
    return Request(method, "/queues/a/messages", query, named, {"queue": "a"}, body)


def read(body: bytes, media_type: str = JSON) -> tuple[Draft, ...]:
    return formats.read_drafts(request(body, Content_Type=media_type))


def is_list(body: bytes, media_type: str = JSON) -> bool:
    asked = request(body, Content_Type=media_type)
    formats.read_drafts(asked)
    return asked.is_list


def contents(drafts: tuple[Draft, ...]) -> list[bytes]:
    assert all(draft.media_type is None for draft in drafts)
    return [draft.content for draft in drafts]


def packed(content: Any) -> bytes:
    """An envelope in msgpack; bytes that begin with `!` are taken for msgpack as they are."""
    if isinstance(content, bytes) and content.startswith(b"!"):
        return b"\x81\xa7content" + content[1:]
    return msgpack.packb({"content": content})


def message(content: bytes, media_type: str | None = None, state: Any = None, number: int = 7) -> Message:
    return Message(number, content, media_type, SENT_MS, 2, state=state)


def shown(answer: Response, content_type: str = JSON) -> Any:
    assert (answer.status, answer.content_type) == (200, content_type)
    return msgpack.unpackb(answer.body) if content_type == MSGPACK else json.loads(answer.body)


# --- JSON and NDJSON in -----------------------------------------------------------------


@pytest.mark.parametrize("body", [b'{"content":1}', b' \r\n\t{ "content" : 1 }\n', b'{"c\\u006fntent":1}'])
def test_an_envelope_is_one_message(body: bytes) -> None:
    assert contents(read(body)) == [b"1"]
    assert not is_list(body)


@pytest.mark.parametrize("body", [b'[{"content":1},{"content":[2]}]', b' \r\n\t[ {"content":1} , {"content": [2] } ] '])
def test_an_array_is_a_batch(body: bytes) -> None:
    assert contents(read(body)) == [b"1", b"[2]"]
    assert is_list(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"content":1}\n{"content":[2]}',
        b'{"content":1}\n{"content":[2]}\n',
        b'\n {"content":1} \r\n\r\n{"content":[2]}\r\n',
    ],
)
def test_lines_are_a_batch(body: bytes) -> None:
    assert contents(read(body, NDJSON)) == [b"1", b"[2]"]
    assert is_list(body, NDJSON)
    assert is_list(b'{"content":1}', f"{NDJSON}; charset=utf-8")


@pytest.mark.parametrize(
    "body",
    [
        b'{"content":1}{"content":2}',
        b'{"content":\n1}\n',
        b'{"content":1},\n{"content":2}',
        b'{"content":1}{"content":2}\n{"content":\n3}',
        b'{"content":1}{"content":2}\n{"content":{}\n}',
        b'{"content":[{}\n,{}]}{"content":2}',
        b'{"content":[{}\n{}]}',
    ],
)
def test_a_line_holds_one_envelope_and_an_envelope_one_line(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        read(body, NDJSON)


@pytest.mark.parametrize(
    "media_type", ["", JSON, "application/x-www-form-urlencoded", "Application/JSON;charset=UTF-8"]
)
def test_what_is_read_as_json(media_type: str) -> None:
    assert contents(read(b'{"content":1}', media_type)) == [b"1"]
    assert contents(formats.read_drafts(request(b'{"content":1}'))) == [b"1"]


def test_the_size_of_a_batch() -> None:
    one = b'{"content":1}'
    assert len(read(b"[" + b",".join([one] * 10_000) + b"]")) == 10_000
    for body, media_type in [
        (b"[" + b",".join([one] * 10_001) + b"]", JSON),
        (b"\n".join([one] * 10_001), NDJSON),
        (msgpack.packb([{"content": 1}] * 10_001), MSGPACK),
    ]:
        with pytest.raises(InvalidRequest, match="has 10,001"):
            read(body, media_type)
    for body, media_type in [(b"[]", JSON), (b"", NDJSON), (msgpack.packb([]), MSGPACK)]:
        with pytest.raises(InvalidRequest, match="has 0"):
            read(body, media_type)


# --- msgpack in -------------------------------------------------------------------------

PACKED_AS_JSON = [
    (None, b"null"),
    (True, b"true"),
    (1.5, b"1.5"),
    (-0.0, b"-0.0"),
    (1e300, b"1e+300"),
    (2**64 - 1, b"18446744073709551615"),
    (-(2**63), b"-9223372036854775808"),
    ("é\u2028\0", '"é\u2028\\u0000"'.encode()),
    ({"b": [1, {}], "a": ""}, b'{"b":[1,{}],"a":""}'),
    (b"!" + b"\x91" * 300 + b"\x01", b"[" * 300 + b"1" + b"]" * 300),
]
NOT_JSON = {
    "NaN": math.nan,
    "Infinity": math.inf,
    "-Infinity": [-math.inf],
    "32-bit NaN": b"!\xca\x7f\xc0\0\0",
    "integer key": {"a": {1: 2}},
    "null key": {None: 1},
    "binary key": {b"a": 1},
    "array key": b"!\x81\x91\x01\x01",
    "map key": b"!\x81\x81\x01\x01\x01",
    "binary inside": [b"a"],
    "binary value": {"a": b"b"},
    "timestamp": msgpack.Timestamp(5, 5),
    "timestamp inside": [msgpack.Timestamp(2**34, 5)],
    "timestamp in the year 10^11": b"!\xc7\x0c\xff" + b"\0" * 4 + b"\x7f" + b"\xff" * 7,
    "timestamp of 1 byte": b"!\xd4\xff\0",
    "extension": msgpack.ExtType(5, b"x"),
    "text that is not UTF-8": b"!\xa1\xff",
    "text with a surrogate": b"!\xa3\xed\xa0\x80",
    "key that is not UTF-8": b"!\x81\xa1\xff\x01",
    "a byte that msgpack has no use for": b"!\xc1",
    "100,000 nested": b"!" + b"\x91" * 100_000 + b"\x01",
    "cut off": b"!\xa3ab",
    "array that claims 4 G": b"!\xdd\xff\xff\xff\xff",
    "map that claims 4 G": b"!\xdf\xff\xff\xff\xff",
    "binary that claims 4 GB": b"!\xc6\xff\xff\xff\xff",
    "trailing byte": b"!\x01\x01",
}
NOT_ENVELOPES = {
    "nothing": (b"", ""),
    "integer": (b"\x01", "int"),
    "nil": (b"\xc0", ""),
    "no content": (b"\x80", "content"),
    "unknown field": (msgpack.packb({"content": 1, "dealy": 1}), "dealy"),
    "unknown field in an array": (msgpack.packb([{"content": 1}, {"content": 1, "dealy": 1}]), "$[1]"),
    "binary name": (msgpack.packb({b"content": 1}), ""),
    "array that claims 4 G": (b"\xdd\xff\xff\xff\xff", ""),
    "JSON": (b'{"content":1}', ""),
}


@pytest.mark.parametrize(("content", "kept"), PACKED_AS_JSON, ids=[kept[:20].decode() for _, kept in PACKED_AS_JSON])
def test_msgpack_is_kept_as_json(content: Any, kept: bytes) -> None:
    assert contents(read(packed(content), MSGPACK)) == [kept]


def test_msgpack_binary_is_kept_as_bytes() -> None:
    assert read(packed(b"\0\xff"), MSGPACK) == (Draft(b"\0\xff", OCTETS),)
    assert read(packed(b""), MSGPACK) == (Draft(b"", OCTETS),)


@pytest.mark.parametrize("content", NOT_JSON.values(), ids=NOT_JSON)
def test_msgpack_that_json_cannot_say(content: Any) -> None:
    with pytest.raises(InvalidRequest):
        read(packed(content), MSGPACK)
    with pytest.raises(InvalidRequest):
        read(b"\x92" + packed(1) + packed(content), MSGPACK)


@pytest.mark.parametrize(("body", "place"), NOT_ENVELOPES.values(), ids=NOT_ENVELOPES)
def test_msgpack_that_is_no_envelope(body: bytes, place: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        read(body, MSGPACK)
    assert place in refusal.value.detail


@pytest.mark.parametrize("count", [1, 2, 15, 16, 70_000 // 7])
def test_msgpack_batches(count: int) -> None:
    body = msgpack.packb([{"content": n} for n in range(count)])
    assert contents(read(body, MSGPACK)) == [b"%d" % n for n in range(count)]
    assert is_list(body, MSGPACK)
    assert is_list(b"\xdd" + count.to_bytes(4) + packed(count) * count, MSGPACK)
    assert not is_list(packed(count), MSGPACK)


# --- bytes in ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type", ["text/plain", "Image/PNG; a=b", "text/json", "application/jsonl", "x", "a/b+json"]
)
def test_any_other_type_is_kept_with_the_bytes(media_type: str) -> None:
    for body in (b"", b"\0\xff", b'{"content":1}', b"[1]"):
        assert read(body, media_type) == (Draft(body, media_type),)
        assert not is_list(body, media_type)


@pytest.mark.parametrize(
    "media_type", ["a/" + "b" * 254, "text/plain\tx", "text/\xe9", "text/plain\x7f", "a/b\r\nX: y"]
)
def test_a_type_that_is_not_kept(media_type: str) -> None:
    with pytest.raises(InvalidRequest, match="255 printable ASCII"):
        read(b"", media_type)
    assert read(b"", "a/" + "b" * 253)[0].media_type == "a/" + "b" * 253


# --- out --------------------------------------------------------------------------------

CHOICES = [
    # Accept, then what a JSON message and what one sent as image/png is written as
    (None, JSON, "image/png"),
    ("*/*", JSON, "image/png"),
    ("application/json, text/plain, */*", JSON, JSON),  # axios
    ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", JSON, "image/png"),
    ("text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2", JSON, "image/png"),  # Java
    ("application/json", JSON, JSON),
    ("APPLICATION/JSON", JSON, JSON),
    ("application/json; charset=utf-8", JSON, JSON),
    ("application/*", JSON, JSON),
    ("application/msgpack", MSGPACK, MSGPACK),
    ("application/x-ndjson", NDJSON, NDJSON),
    ("application/msgpack, application/json", JSON, JSON),
    ("application/msgpack, */*", MSGPACK, MSGPACK),
    ("application/msgpack, */*;q=0.1", MSGPACK, MSGPACK),
    ("application/json;q=0.5, application/msgpack;q=0.6", MSGPACK, MSGPACK),
    ("application/json ; q=0.5 , application/msgpack ; Q=0.4", JSON, JSON),
    ("application/json;q=0, */*", NDJSON, "image/png"),
    ("application/*;q=0, */*", JSON, "image/png"),
    ("*/*, application/x-ndjson;q=0, application/json;q=0", MSGPACK, "image/png"),
    ("image/*", JSON, "image/png"),
    ("image/png", JSON, "image/png"),
    ("image/png, application/json", JSON, "image/png"),
    ("image/jpeg, application/msgpack;q=0.1", MSGPACK, MSGPACK),
    ("*/*;q=0", JSON, JSON),
    ("text/html", JSON, JSON),
    ("application/json;q=0", JSON, JSON),
    ("application/msgpack;q=x", JSON, JSON),
    ("application/msgpack;q=nan", JSON, JSON),
    ("application/msgpack;q=", JSON, JSON),
    ("application/msgpack;q=-1", JSON, JSON),
    ("", JSON, JSON),
    (",,;;q=,/", JSON, JSON),
    ("\xff\xfe;q=1", JSON, JSON),
    ("," * 10_000, JSON, JSON),
]


@pytest.mark.parametrize(("accept", "plain", "picture"), CHOICES, ids=[repr(accept)[:60] for accept, _, _ in CHOICES])
def test_accept_chooses(accept: str | None, plain: str, picture: str) -> None:
    asked = request() if accept is None else request(Accept=accept)
    assert formats.one_message(asked, message(b"1")).content_type == plain
    assert formats.one_message(asked, message(b"1", "image/png")).content_type == picture
    assert formats.many_messages(asked, (message(b"1"), message(b"1", "image/png"))).content_type == plain


def test_one_message_as_json() -> None:
    answer = formats.one_message(request(), message(b'{ "b" : 1.10 }'))
    assert answer.body == b'{"id":7,"content":{ "b" : 1.10 },"sent_at":"%b","receive_count":2}' % SENT_AT.encode()
    assert (answer.status, answer.content_type, answer.headers) == (200, JSON, ())
    assert shown(formats.one_message(request(), message(b"1", state="ready"))) == {
        "id": 7,
        "content": 1,
        "sent_at": SENT_AT,
        "receive_count": 2,
        "state": "ready",
    }


def test_one_message_as_a_line() -> None:
    answer = formats.one_message(request(Accept=NDJSON), message(b"1"))
    assert (answer.content_type, answer.body) == (NDJSON, formats.json_message(message(b"1")) + b"\n")


def test_one_message_as_the_bytes_it_was_sent_as() -> None:
    answer = formats.one_message(request(), message(b"\0\xff", "image/png; a=b", "ready"))
    assert (answer.status, answer.body, answer.content_type) == (200, b"\0\xff", "image/png; a=b")
    assert answer.headers == (
        ("Tq-Id", "7"),
        ("Tq-Sent-At", SENT_AT),
        ("Tq-Receive-Count", "2"),
        ("Tq-State", "ready"),
        ("Content-Security-Policy", "default-src 'none'; sandbox; frame-ancestors 'none'"),
        ("Content-Disposition", "attachment"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
    )
    assert len(formats.one_message(request(), message(b"", "image/png")).headers) == 6


def test_bytes_in_json() -> None:
    text = shown(formats.one_message(request(Accept=JSON), message('é"\n\0'.encode(), "text/plain; charset=utf-8")))
    assert (text["content"], text["content_type"]) == ('é"\n\0', "text/plain; charset=utf-8")
    assert "encoding" not in text
    binary = shown(formats.one_message(request(Accept=JSON), message(b"\xff\0", OCTETS)))
    assert list(binary) == ["id", "content", "encoding", "content_type", "sent_at", "receive_count"]
    assert (binary["encoding"], binary["content_type"]) == ("base64", OCTETS)
    assert base64.b64decode(binary["content"], validate=True) == b"\xff\0"
    quoted = shown(formats.one_message(request(Accept=JSON), message(b"", 'a/b; c="d\\"')))
    assert (quoted["content"], quoted["content_type"]) == ("", 'a/b; c="d\\"')


def test_many_messages() -> None:
    two = (message(b"[ 1 ]", number=1), message(b"\xff", "image/png", number=2))
    objects = [json.loads(formats.json_message(one)) for one in two]
    answer = formats.many_messages(request(), two, {"next": 5})
    assert shown(answer) == {"messages": objects, "next": 5}
    assert b'"content":[ 1 ],' in answer.body
    assert shown(formats.many_messages(request(), two)) == {"messages": objects}
    assert shown(formats.many_messages(request(), (), {"next": None})) == {"messages": [], "next": None}
    lines = formats.many_messages(request(Accept=NDJSON), two, {"next": 5})
    assert (lines.content_type, [json.loads(line) for line in lines.body.splitlines()]) == (NDJSON, objects)
    assert lines.body.endswith(b"\n")
    assert formats.many_messages(request(Accept=NDJSON), ()).body == b""
    binary = shown(formats.many_messages(request(Accept=MSGPACK), two, {"next": 5}), MSGPACK)
    assert [one["content"] for one in binary["messages"]] == [[1], b"\xff"]
    assert binary["next"] == 5


@pytest.mark.parametrize("content", [b"[1,\r\n2]", b'[\n{"id":8,"content":"forged"}\n]', b"[1,\r2]"])
def test_a_line_of_ndjson_is_one_line(content: bytes) -> None:
    """Content may hold line ends between its tokens; written as they are they would end the line, and forge others."""
    for answer in (
        formats.one_message(request(Accept=NDJSON), message(content)),
        formats.many_messages(request(Accept=NDJSON), (message(content),)),
    ):
        assert [json.loads(line)["content"] for line in answer.body.splitlines()] == [json.loads(content)]


@pytest.mark.parametrize(
    "content", [b"null", b"[1.5,-0.0]", b'{"b":"\\u0000","a":[]}', b"18446744073709551615", b'"\\ud83d\\ude00"']
)
def test_json_as_msgpack(content: bytes) -> None:
    assert shown(formats.one_message(request(Accept=MSGPACK), message(content)), MSGPACK) == {
        "id": 7,
        "content": json.loads(content),
        "sent_at": SENT_AT,
        "receive_count": 2,
    }


@pytest.mark.parametrize(
    "content", [b"9" * 5_000, b"1e999", b"[18446744073709551616]", b"-9223372036854775809", b"[" * 5_000 + b"]" * 5_000]
)
def test_json_that_msgpack_cannot_say(content: bytes) -> None:
    got = shown(formats.one_message(request(Accept=MSGPACK), message(content)), MSGPACK)
    assert (got["content"], got["encoding"]) == (content.decode(), "json")


# --- times, queries, problems -----------------------------------------------------------


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "1970-01-01T00:00:00.000Z"),
        (1, "1970-01-01T00:00:00.001Z"),
        (946_684_799_999, "1999-12-31T23:59:59.999Z"),
        (946_684_800_000, "2000-01-01T00:00:00.000Z"),
        (951_782_400_000, "2000-02-29T00:00:00.000Z"),
        (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
        (1_735_689_600_010, "2025-01-01T00:00:00.010Z"),
        (2_147_483_648_000, "2038-01-19T03:14:08.000Z"),
        (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        (-1, "1969-12-31T23:59:59.999Z"),
    ],
)
def test_timestamps(ms: int, text: str) -> None:
    assert formats.timestamp(ms) == text


@ROUND_TRIP
@given(ms=st.integers(0, 253_402_300_799_999))
def test_a_timestamp_says_the_millisecond(ms: int) -> None:
    said = datetime.datetime.fromisoformat(formats.timestamp(ms))
    assert (said - datetime.datetime.fromtimestamp(0, datetime.UTC)) // datetime.timedelta(milliseconds=1) == ms


def test_queries() -> None:
    fields = dict[str, str]
    assert request().query_as(fields) == {}
    assert request(query="a=1&b=%C3%A9+c&d&e=f=g").query_as(fields) == {"a": "1", "b": "é c", "d": "", "e": "f=g"}
    for query in ("a=1&a=1", "a=%ff", "%ff=1", "a&a"):
        with pytest.raises(InvalidRequest):
            request(query=query).query_as(fields)


def test_only_json_is_decoded_as_json() -> None:
    assert request(b'{"a":1}').json_as(dict[str, int]) == {"a": 1}
    for media_type in ("text/plain", NDJSON, MSGPACK, "application/json5"):
        with pytest.raises(UnsupportedMediaType, match=media_type):
            request(b"{}", Content_Type=media_type).json_as(dict[str, int])


def test_problems() -> None:
    answer = problem(MessageNotFound('no "7"'), (("Allow", "GET"),))
    assert (answer.status, answer.content_type, answer.headers) == (
        404,
        "application/problem+json",
        (("Allow", "GET"),),
    )
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": "There is no message with this id in the queue.",
        "status": 404,
        "code": "message_not_found",
        "detail": 'no "7"',
    }
    assert problem(Overloaded()).headers == (("Retry-After", "1"),)


# --- any message ------------------------------------------------------------------------

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10)
LAYOUTS = st.fixed_dictionaries({"ensure_ascii": st.booleans(), "indent": st.sampled_from([None, 0, 3, "\t"])})


@ROUND_TRIP
@given(value=VALUES, layout=LAYOUTS, before=st.text(" \t\r\n", max_size=3), after=st.text(" \t\r\n", max_size=3))
def test_any_json_comes_back_byte_for_byte(value: Any, layout: dict[str, Any], before: str, after: str) -> None:
    text = json.dumps(value, **layout).encode()
    envelope = b'{"content":%b%b%b}' % (before.encode(), text, after.encode())
    assert contents(read(envelope)) == [text]
    assert contents(read(b"[%b,%b]" % (envelope, envelope))) == [text, text]
    whole = formats.json_message(message(text))
    assert whole == b'{"id":7,"content":%b,"sent_at":"%b","receive_count":2}' % (text, SENT_AT.encode())
    assert json.loads(whole)["content"] == value


@ROUND_TRIP
@given(value=VALUES)
def test_any_json_as_msgpack_says_the_same(value: Any) -> None:
    got = shown(formats.one_message(request(Accept=MSGPACK), message(json.dumps(value).encode())), MSGPACK)
    content = json.loads(got["content"]) if "encoding" in got else got["content"]
    assert (content, type(content)) == (value, type(value))


PACKABLE = SCALARS.filter(lambda value: not isinstance(value, int) or -(2**63) <= value < 2**64)


@ROUND_TRIP
@given(value=PACKABLE | st.lists(PACKABLE) | st.dictionaries(st.text(), PACKABLE))
def test_any_msgpack_comes_back(value: Any) -> None:
    (draft,) = read(packed(value), MSGPACK)
    assert shown(formats.one_message(request(Accept=MSGPACK), message(draft.content)), MSGPACK)["content"] == value


@ROUND_TRIP
@given(body=st.binary(), media_type=st.sampled_from(["text/plain", OCTETS, "a/b; c=d"]))
def test_any_bytes_come_back(body: bytes, media_type: str) -> None:
    (draft,) = read(body, media_type)
    kept = message(draft.content, draft.media_type)
    assert formats.one_message(request(), kept).body == body
    assert shown(formats.one_message(request(Accept=MSGPACK), kept), MSGPACK)["content"] == body
    got = shown(formats.one_message(request(Accept=JSON), kept))
    assert (base64.b64decode(got["content"]) if "encoding" in got else got["content"].encode()) == body


@ROUND_TRIP
@given(body=st.binary(), media_type=st.sampled_from([JSON, NDJSON, MSGPACK, "text/plain"]))
def test_any_bytes_are_read_or_refused(body: bytes, media_type: str) -> None:
    try:
        drafts = read(body, media_type)
    except InvalidRequest:
        return
    assert len(drafts) == 1 or formats.is_batch(request(body, Content_Type=media_type))


@ROUND_TRIP
@given(accept=st.text(st.sampled_from("*/;,=q.01nejson appliactionmsgpkx-\xff"), max_size=60))
def test_any_accept_gets_an_answer(accept: str) -> None:
    answer = formats.one_message(request(Accept=accept), message(b"1", "image/png"))
    assert answer.content_type in (JSON, NDJSON, MSGPACK, "image/png")


@pytest.mark.parametrize(
    ("media_type", "body", "message"),
    [
        ("application/x-ndjson", b'{"content":1}\r\n' * 10_001 + b"!", "1 to 10,000 messages"),
        ("application/x-ndjson", b"\n" * 100_001 + b'{"content":1}', "at most 100,000 lines"),
        ("application/msgpack", b"\xdc\x27\x11" + b"!" * 9, "1 to 10,000 messages"),
        ("application/json", b"[" + b'{"content":1},' * 10_000 + b'{"content":1}]', "1 to 10,000 messages"),
    ],
)
def test_a_batch_that_is_too_large_is_not_looked_at_any_further(media_type: str, body: bytes, message: str) -> None:
    request = Request("POST", "/queues/a/messages", "", {"content-type": media_type}, {"queue": "a"}, body)
    with pytest.raises(InvalidRequest, match=message):
        formats.read_drafts(request)
