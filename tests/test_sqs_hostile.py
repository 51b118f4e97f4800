"""Input that no SDK sends: an error of the service in the right shape comes of it, and the server goes on.

That no answer is a 5xx, that each comes in time, and that its shape is right is seen to by the clients (`sqs_wire`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from copy import deepcopy
from itertools import count
from typing import Any
from urllib.parse import quote, quote_from_bytes, urlencode

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.sqs_model import OPERATIONS, QUEUE_ATTRIBUTES, SHAPES, input_shape, kind, members
from tests.sqs_server import LocalServer
from tests.sqs_wire import FORM_TYPE, Json, Query, Told, Wire, flatten

SERIALIZATION = "com.amazon.coral.service#SerializationException"
DEEP = 100_000

_numbers = count(1)


@pytest.fixture(autouse=True)
def _is_healthy(local: LocalServer) -> Iterator[None]:
    yield
    client = Json(local.port)
    name = f"healthy{next(_numbers)}"
    assert client.ask("CreateQueue", {"QueueName": name}).status == 200
    assert client.ask("SendMessage", {"QueueUrl": name, "MessageBody": "a"}).status == 200
    told = client.ask("ReceiveMessage", {"QueueUrl": name})
    assert told.output
    assert told.output["Messages"][0]["Body"] == "a"
    assert client.request("GET", "/healthz").status == 200
    client.close()


@pytest.fixture
def name(local: LocalServer) -> str:
    """A queue of its own."""
    client = Json(local.port)
    queue = f"hostile{next(_numbers)}"
    assert client.ask("CreateQueue", {"QueueName": queue}).status == 200
    client.close()
    return queue


def assert_refused(told: Told) -> None:
    assert told.output is None, told
    assert told.blame == "Sender"


# --- wrong types -------------------------------------------------------------

DEEP_LIST = json.loads("[" * 500 + "]" * 500)
WRONG = [0, -1, 10**400, 1.5, "text", "", True, [], [None], {}, {"a": None}, DEEP_LIST]
_TYPES = {"string": str, "integer": int, "list": list, "map": dict, "structure": dict}


def sample(shape: str) -> Any:
    """An input with every member that there is."""
    what = kind(shape)
    if what == "structure":
        return {name: sample(member) for name, member in members(shape).items()}
    if what == "list":
        return [sample(SHAPES[shape]["member"]["shape"])]
    if what == "map":
        return {"a": sample(SHAPES[shape]["value"]["shape"])}
    return {"string": "a", "integer": 1, "blob": "YQ=="}[what]


def places(shape: str, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], str]]:
    """Where in a sample what shape is expected."""
    yield path, shape
    if kind(shape) == "structure":
        for name, member in members(shape).items():
            yield from places(member, (*path, name))
    elif kind(shape) == "list":
        yield from places(SHAPES[shape]["member"]["shape"], (*path, 0))
    elif kind(shape) == "map":
        yield from places(SHAPES[shape]["value"]["shape"], (*path, "a"))


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = deepcopy(document)
    node = changed
    for part in path[:-1]:
        node = node[part]
    node[path[-1]] = value
    return changed


@pytest.mark.parametrize("operation", OPERATIONS)
def test_a_wrong_type_anywhere(local: LocalServer, operation: str) -> None:
    client = Json(local.port)
    shape = input_shape(operation)
    document = {**sample(shape), **({"WaitTimeSeconds": 0} if operation == "ReceiveMessage" else {})}
    for path, expected in places(shape):
        client.ask(operation, put(document, path, None))
        for value in WRONG:
            told = client.ask(operation, put(document, path, value))
            fits = isinstance(value, _TYPES.get(kind(expected), str)) and value is not True
            if not fits:
                assert (told.status, told.kind, told.message is None) == (400, SERIALIZATION, False), (path, value)
    client.close()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1" * 5_000, "0.1", "1e400", "9223372036854775808", "-0"])
def test_numbers_that_are_none(local: LocalServer, name: str, number: str) -> None:
    client = Json(local.port)
    for member in ("MaxNumberOfMessages", "VisibilityTimeout", "WaitTimeSeconds"):
        told = client.ask_raw("ReceiveMessage", f'{{"QueueUrl": "{name}", "{member}": {number}}}'.encode())
        assert told.status == 400 or number == "-0", told
    client.close()
    query = Query(local.port)
    for member in ("MaxNumberOfMessages", "VisibilityTimeout", "WaitTimeSeconds"):
        told = query.ask("ReceiveMessage", {"QueueUrl": name, member: number})
        assert told.status == 400 or number == "-0", told
    query.close()


# --- what is no JSON -------------------------------------------------------------

NO_JSON = {
    "nothing but a space": b" ",
    "text": b"text",
    "a form": b"Action=ListQueues",
    "XML": b"<ListQueues/>",
    "cut short": b'{"QueueNamePrefix": "a"',
    "two documents": b"{}{}",
    "NaN": b'{"MaxResults": NaN}',
    "Infinity": b'{"MaxResults": Infinity}',
    "single quotes": b"{'MaxResults': 1}",
    "not UTF-8": b'{"QueueNamePrefix": "\xff"}',
    "UTF-16": '{"QueueNamePrefix": "a"}'.encode("utf-16"),
    "a surrogate in UTF-8": b'{"QueueNamePrefix": "\xed\xa0\x80"}',
    "a lone surrogate": b'{"QueueNamePrefix": "\\ud800"}',
    "surrogates the wrong way round": b'{"QueueNamePrefix": "\\udc00\\ud800"}',
    "a control character": b'{"QueueNamePrefix": "\x01"}',
    "lists in lists": b"[" * DEEP,
    "maps in maps": b'{"a":' * DEEP,
    "lists in what is not known": b'{"a":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "null": b"null",
    "a list": b"[]",
    "a number": b"1",
    "a zero byte": b"\0",
}


@pytest.mark.parametrize("body", NO_JSON.values(), ids=NO_JSON)
def test_what_is_no_json(local: LocalServer, body: bytes) -> None:
    client = Json(local.port)
    for operation in ("ListQueues", "SendMessage", "CreateQueue"):
        told = client.ask_raw(operation, body)
        assert (told.status, told.kind) == (400, SERIALIZATION), operation
    client.close()


def test_a_member_twice(local: LocalServer, name: str) -> None:
    """The last counts, as everywhere."""
    client = Json(local.port)
    body = f'{{"QueueUrl": "absent", "QueueUrl": "{name}", "MessageBody": "a", "MessageBody": "b"}}'
    assert client.ask_raw("SendMessage", body.encode()).status == 200
    attributes = '{"DelaySeconds": "x", "DelaySeconds": "0"}'
    body = f'{{"QueueUrl": "{name}", "Attributes": {attributes}}}'
    assert client.ask_raw("SetQueueAttributes", body.encode()).status == 200
    client.close()


@pytest.mark.parametrize("text", ["!", "A", "AAA", "====", "\u00e9", "AA==\n", "A A="])
def test_what_is_no_base64(wire: Wire, name: str, text: str) -> None:
    attributes = {"a": {"DataType": "Binary", "BinaryValue": text}}
    told = wire.ask("SendMessage", {"QueueUrl": name, "MessageBody": "a", "MessageAttributes": attributes})
    assert_refused(told)


# --- much of everything -------------------------------------------------------------

MANY = 10_000
_STRING = {"DataType": "String", "StringValue": "v"}
# An operation, and an input of it with far too much of something.
TOO_MUCH: dict[str, tuple[str, dict[str, Any]]] = {
    "message attributes": (
        "SendMessage",
        {"MessageBody": "a", "MessageAttributes": {f"a{number}": _STRING for number in range(MANY // 4)}},
    ),
    "queue attributes": ("SetQueueAttributes", {"Attributes": {f"a{number}": "1" for number in range(MANY // 3)}}),
    "tags": ("TagQueue", {"Tags": {f"a{number}": "1" for number in range(MANY // 3)}}),
    "names": ("GetQueueAttributes", {"AttributeNames": ["x"] * (MANY - 10)}),
    "entries": ("SendMessageBatch", {"Entries": [{"Id": str(n), "MessageBody": "a"} for n in range(MANY // 3)]}),
    "accounts": ("AddPermission", {"Label": "l", "AWSAccountIds": ["1" * 12] * (MANY // 2), "Actions": ["*"]}),
    "actions": ("AddPermission", {"Label": "l", "AWSAccountIds": ["1" * 12], "Actions": ["*"] * (MANY // 2)}),
    "characters in a name": ("SendMessage", {"MessageBody": "a", "MessageAttributes": {"a" * 1_000_000: _STRING}}),
    "characters in a type": (
        "SendMessage",
        {"MessageBody": "a", "MessageAttributes": {"a": {"DataType": "String." + "x" * 1_000_000, "StringValue": "v"}}},
    ),
    "characters in a number": (
        "SendMessage",
        {"MessageBody": "a", "MessageAttributes": {"a": {"DataType": "Number", "StringValue": "1" * 2_000_000}}},
    ),
    "characters in an id": ("SendMessage", {"MessageBody": "a", "MessageGroupId": "a" * 1_000_000}),
    "characters in a handle": ("DeleteMessage", {"ReceiptHandle": "a" * 1_000_000}),
    "characters in a label": ("AddPermission", {"Label": "l" * 1_000_000, "AWSAccountIds": ["1"], "Actions": ["*"]}),
    "characters in a policy": ("SetQueueAttributes", {"Attributes": {"Policy": "[" * DEEP}}),
    "characters in a redrive policy": ("SetQueueAttributes", {"Attributes": {"RedrivePolicy": '{"a":' * DEEP}}),
    "characters in an allow policy": ("SetQueueAttributes", {"Attributes": {"RedriveAllowPolicy": "[" * DEEP}}),
    "digits": ("SetQueueAttributes", {"Attributes": {"DelaySeconds": "1" * 1_000_000}}),
    "digits in a redrive policy": (
        "SetQueueAttributes",
        {"Attributes": {"RedrivePolicy": f'{{"deadLetterTargetArn":"a","maxReceiveCount":{"1" * 100_000}}}'}},
    ),
    "body": ("SendMessage", {"MessageBody": "b" * 3_000_000}),
}


@pytest.mark.parametrize(("operation", "given"), TOO_MUCH.values(), ids=TOO_MUCH)
def test_too_much(wire: Wire, name: str, operation: str, given: dict[str, Any]) -> None:
    assert_refused(wire.ask(operation, {"QueueUrl": name, **given}))


@pytest.mark.parametrize("handle", ["A" * 1_000_000, "W" * 400_000, "//" * 100_000])
def test_handles_and_tokens_that_are_none(wire: Wire, name: str, handle: str) -> None:
    assert_refused(wire.ask("CancelMessageMoveTask", {"TaskHandle": handle}))
    wire.ask("ListQueues", {"NextToken": handle, "MaxResults": 1})
    wire.ask("ListDeadLetterSourceQueues", {"QueueUrl": name, "NextToken": handle, "MaxResults": 1})


# --- what is no form -------------------------------------------------------------

FORMS = {
    "too many parameters": "&".join(f"a{number}=1" for number in range(MANY + 1)),
    "many parameters with dots": "&".join(f"Attribute.{number}.Name=a" for number in range(MANY - 10)),
    "dots": "Attribute" + ".1" * DEEP + "=a",
    "dots alone": "." * DEEP + "=a",
    "many of many dots": "&".join("a" + ".b" * 50 + f".{number}=1" for number in range(MANY // 2)),
    "a list that is a text too": "AttributeName=a&AttributeName.1=b&AttributeName.1.2=c",
    "a text that is a list too": "AttributeName.1.2=c&AttributeName.1=b&AttributeName=a",
    "a map without values": "Attribute.1.Name=a",
    "a map without names": "Attribute.1.Value=a",
    "a map of maps": "Attribute.1.Name=a&Attribute.1.Value.1.Name=b",
    "a name that is a map": "Attribute.1.Name.1=a&Attribute.1.Value=b",
    "entries that are texts": "SendMessageBatchRequestEntry.1=a&DeleteMessageBatchRequestEntry.1=a",
    "an entry's map that is a text": "SendMessageBatchRequestEntry.1.MessageAttribute.1=a",
    "a body that is a map": "MessageBody.1=a&ReceiptHandle.1=a&QueueName.1=a",
    "a URL that is a map": "QueueUrl.1=a",
    "huge numbers": "AttributeName.99999999999999999999999=a&AttributeName.2147483648=b",
    "negative numbers": "AttributeName.-1=a&AttributeName.0=b",
    "numbers of other scripts": "AttributeName.%D9%A1=a",
    "not UTF-8": "AttributeName.1=%ff",
    "a surrogate": "AttributeName.1=%ED%A0%80",
    "a name that is not UTF-8": "%ff=1",
    "broken escapes": "AttributeName.1=%zz%&%=%&=&&&;",
    "no equals signs": "AttributeName&Attribute&&&",
    "zero bytes": "AttributeName.1=%00&%00=%00",
    "brackets": "AttributeName[0]=a&Attribute[Name]=b",
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_is_no_form(local: LocalServer, name: str, form: str) -> None:
    client = Query(local.port)
    for operation in OPERATIONS:
        body = f"Action={operation}&QueueUrl={name}&QueueName=x&{form}"
        told = client.ask_raw(operation, body.encode())
        assert told.status in (200, 400, 404)
        client.ask("CreateQueue", {"QueueName": name})  # one of them deletes it
    client.close()


def test_bytes_that_are_no_form(local: LocalServer) -> None:
    client = Query(local.port)
    for body in (b"\xff", b"\0", b"Action=ListQueues&a=\xff", "Action=ListQueues".encode("utf-16"), b"{}", b"[" * DEEP):
        reply = client.request("POST", "/", body, {"Content-Type": FORM_TYPE})
        assert 400 <= reply.status < 500, body
        assert reply.headers["Content-Type"] == "text/xml"
    client.close()


BOMB = b"""<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "bbbbbbbbbb"><!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;">
    <!ENTITY d "&c;&c;&c;&c;&c;&c;&c;&c;&c;"><!ENTITY e SYSTEM "file:///etc/passwd">]><a>&d;&e;</a>"""


def test_xml_is_never_read(local: LocalServer, name: str) -> None:
    client = Query(local.port)
    target = f"/?Action=SendMessage&QueueUrl={name}"
    reply = client.request("POST", target, BOMB, {"Content-Type": "text/xml"})
    assert (reply.status, b"MissingParameter" in reply.body) == (400, True)
    body = urlencode({"Action": "SendMessage", "QueueUrl": name, "MessageBody": BOMB.decode()}).encode()
    assert client.ask_raw("SendMessage", body).status == 200
    told = client.ask("ReceiveMessage", {"QueueUrl": name})
    assert told.output
    assert told.output["Messages"][0]["Body"] == BOMB.decode()
    client.close()


# --- headers -------------------------------------------------------------

HEADERS: dict[str, dict[str, str]] = {
    "a host that is markup": {"Host": "<a&\"'>"},
    "a host that is long": {"Host": "a" * 10_000},
    "an empty host": {"Host": ""},
    "a signature that is long": {"Authorization": "AWS4-HMAC-SHA256 Credential=" + "a/" * 5_000},
    "a region that is long": {"Authorization": f"Credential=a/20260101/{'a' * 10_000}/sqs/aws4_request"},
    "a region that is markup": {"Authorization": "Credential=a/20260101/<a>/sqs/aws4_request"},
    "a trace that is markup": {"X-Amzn-Trace-Id": "<a&\"'>"},
    "a trace that is long": {"X-Amzn-Trace-Id": "Root=" + "a" * 20_000},
    "a trace beyond ASCII": {"X-Amzn-Trace-Id": "Root=\u00e9\u0080\u00ff"},
    "a media type that is none": {"Content-Type": "<>"},
    "an accept that is none": {"Accept": ";;;,,,/"},
}


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
def test_odd_headers(local: LocalServer, name: str, headers: dict[str, str]) -> None:
    as_json, as_query = Json(local.port), Query(local.port)
    as_json.ask("GetQueueUrl", {"QueueName": name}, **headers)
    as_query.ask("GetQueueUrl", {"QueueName": name}, **headers)
    asked = {"QueueUrl": name, "AttributeNames": ["QueueArn"]}
    as_json.ask("GetQueueAttributes", asked, **headers)
    as_query.ask("GetQueueAttributes", asked, **headers)
    sent = as_json.ask("SendMessage", {"QueueUrl": name, "MessageBody": "a"}, **headers)
    if "Host" in headers:
        assert (sent.status, sent.code) == (403, "AccessDenied")
        as_json.ask("SendMessage", {"QueueUrl": name, "MessageBody": "a"})
    asked = {"QueueUrl": name, "MessageSystemAttributeNames": ["All"], "VisibilityTimeout": 0}
    by_json, by_query = as_json.ask("ReceiveMessage", asked), as_query.ask("ReceiveMessage", asked)
    assert by_json.output
    assert by_query.output
    assert [each.output["Messages"][0]["Body"] for each in (by_json, by_query) if each.output] == ["a", "a"]
    as_json.close()
    as_query.close()


@pytest.mark.parametrize(
    "path", ["//", "/a/b/c", "/000000000000/%ff", "/%00/%00", "/000000000000/" + quote("\u00e9<>&")]
)
def test_odd_paths(local: LocalServer, path: str) -> None:
    for client in (Json(local.port), Query(local.port)):
        body = b"Action=ReceiveMessage" if isinstance(client, Query) else b"{}"
        target = {} if isinstance(client, Query) else {"X-Amz-Target": "AmazonSQS.ReceiveMessage"}
        assert 400 <= client.request("POST", path, body, target).status < 500
        client.close()


# --- anything -------------------------------------------------------------

_NAMES = sorted({name for operation in OPERATIONS for name in members(input_shape(operation))} | set(QUEUE_ATTRIBUTES))
_TEXTS = st.text(max_size=20) | st.sampled_from(
    ["anything", "anything.fifo", "All", "true", "5", "", "g", "a" * 129, "\x00"]
)
_SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | _TEXTS
_DOCUMENTS = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES) | _TEXTS, inner, max_size=6),
    max_leaves=20,
)
_LIMITED = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def near(shape: str) -> st.SearchStrategy[Any]:
    """Inputs of the right shape, but for a part here and there."""
    what = kind(shape)
    right: st.SearchStrategy[Any] = _TEXTS
    if what == "structure":
        parts = {name: near(member) for name, member in members(shape).items()}
        right = st.fixed_dictionaries({}, optional=parts)
    elif what == "list":
        right = st.lists(near(SHAPES[shape]["member"]["shape"]), max_size=3)
    elif what == "map":
        keys = st.sampled_from(QUEUE_ATTRIBUTES) | _TEXTS
        right = st.dictionaries(keys, near(SHAPES[shape]["value"]["shape"]), max_size=3)
    elif what == "integer":
        right = st.integers(-1, 50_000)
    return st.one_of(right, right, right, right, right, right, _SCALARS)


def prepared(operation: str, document: Any) -> Any:
    """Most are about a queue that is there, and none waits long."""
    if isinstance(document, dict):
        document.setdefault("QueueUrl", "anything")
        if operation == "ReceiveMessage" and document.get("WaitTimeSeconds") != "":
            document["WaitTimeSeconds"] = 0
    return document


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_document(local: LocalServer, operation: str) -> None:
    client = Json(local.port)

    @_LIMITED
    @given(document=near(input_shape(operation)) | _DOCUMENTS)
    def ask(document: Any) -> None:
        client.ask("CreateQueue", {"QueueName": "anything"})
        told = client.ask(operation, prepared(operation, document))
        assert told.status in (200, 400, 403, 404)

    ask()
    client.close()


_PARTS = st.lists(
    st.sampled_from(["Attribute", "MessageAttribute", "Entry", "Tag", "1", "2", "x", "Name", "Value", "Key", ""])
    | _TEXTS,
    min_size=1,
    max_size=4,
).map(".".join)
_FORMS = st.lists(st.tuples(_PARTS | st.sampled_from(_NAMES), st.binary(max_size=8) | _TEXTS), max_size=8)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_form(local: LocalServer, operation: str) -> None:
    client = Query(local.port)
    shape = input_shape(operation)

    @_LIMITED
    @given(document=near(shape), pairs=_FORMS)
    def ask(document: Any, pairs: list[tuple[str, bytes | str]]) -> None:
        client.ask("CreateQueue", {"QueueName": "anything"})
        near_by: list[tuple[str, str]] = []
        if isinstance(document, dict):
            document = {name: each for name, each in document.items() if name in members(shape)}
            near_by = [pair for pair in _flat(shape, document) if pair[0] != "WaitTimeSeconds"]
        form = [("Action", operation), ("QueueUrl", "anything"), *near_by, *pairs, ("WaitTimeSeconds", "0")]
        body = "&".join(f"{quote(name)}={_quoted(value)}" for name, value in form)
        told = client.ask_raw(operation, body.encode())
        assert told.status in (200, 400, 403, 404)

    ask()
    client.close()


def _flat(shape: str, document: dict[str, Any]) -> list[tuple[str, str]]:
    try:
        return list(flatten(shape, document))
    except (AttributeError, TypeError, KeyError):  # a part of the wrong type, which has no place in a form
        return []


def _quoted(value: bytes | str) -> str:
    return quote_from_bytes(value) if isinstance(value, bytes) else quote(value)


# --- what attacks have found -------------------------------------------------------------


def test_a_long_credential_is_read_in_no_time(local: LocalServer, name: str) -> None:
    """It was read in a time that grew with its square."""
    form = f"Action=GetQueueAttributes&QueueUrl={name}&AttributeName.1=All&X-Amz-Credential=" + "Credential%3D" * 50_000
    began_s = time.monotonic()
    wire = Query(local.port)
    wire.ask_raw("GetQueueAttributes", form.encode())
    wire.close()
    assert time.monotonic() - began_s < 5  # it took minutes


@pytest.mark.parametrize("statement", ["5", '"abc"', "null", "[1]", "[null]"])
def test_a_policy_that_no_permission_can_be_added_to(wire: Wire, name: str, statement: str) -> None:
    policy = f'{{"Statement":{statement}}}'
    refused = wire.ask("SetQueueAttributes", {"QueueUrl": name, "Attributes": {"Policy": policy}})
    assert (refused.code, refused.message) == ("InvalidAttributeValue", "Invalid value for the parameter Policy.")


@pytest.mark.parametrize("size", [4 << 20, (4 << 20) + 1])
def test_a_request_has_an_end(local: LocalServer, name: str, size: int) -> None:
    wire = Json(local.port)
    start = f'{{"QueueUrl":"{name}","TagKeys":["a"]'.encode()
    told = wire.ask_raw("UntagQueue", start + b" " * (size - len(start) - 1) + b"}")
    wire.close()
    assert (told.status, told.code) == ((200, "") if size <= 4 << 20 else (413, "RequestEntityTooLarge"))


def test_a_policy_that_grows_has_an_end(wire: Wire, name: str) -> None:
    accounts = [f"{number:012}" for number in range(100)]
    codes = []
    for number in range(10):
        given = {"QueueUrl": name, "Label": f"l{number}", "AWSAccountIds": accounts, "Actions": ["SendMessage"]}
        codes.append(wire.ask("AddPermission", given).code)
    assert codes[:4] == [""] * 4
    assert codes[-1] == "OverLimit"
    told = wire.ask("GetQueueAttributes", {"QueueUrl": name, "AttributeNames": ["Policy"]})
    assert told.output
    assert len(told.output["Attributes"]["Policy"]) <= 20_480


@pytest.mark.parametrize("length", [20_480, 20_481])
def test_the_longest_policy(wire: Wire, name: str, length: int) -> None:
    policy = '{"Statement":[],"Id":"%s"}'
    text = policy % ("x" * (length - len(policy) + 2))
    told = wire.ask("SetQueueAttributes", {"QueueUrl": name, "Attributes": {"Policy": text}})
    assert told.code == ("" if length <= 20_480 else "InvalidAttributeValue")


@pytest.mark.parametrize("length", [1_024, 1_025])
def test_the_longest_trace_header(wire: Wire, name: str, length: int) -> None:
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "x" * length}}
    told = wire.ask("SendMessage", {"QueueUrl": name, "MessageBody": "b", "MessageSystemAttributes": trace})
    assert told.code == ("" if length <= 1_024 else "InvalidParameterValue")


@pytest.mark.parametrize("attribute", ["Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId"])
def test_attributes_have_an_end(wire: Wire, name: str, attribute: str) -> None:
    text = '{"x":"' + "x" * 30_000 + '"}'
    assert wire.ask("SetQueueAttributes", {"QueueUrl": name, "Attributes": {attribute: text}}).status == 400


def test_a_trace_header_has_an_end(wire: Wire, name: str) -> None:
    trace = {"AWSTraceHeader": {"DataType": "String", "StringValue": "x" * 2_000}}
    given = {"QueueUrl": name, "MessageBody": "b", "MessageSystemAttributes": trace}
    assert wire.ask("SendMessage", given).status == 400
    told = wire.ask("SendMessage", {"QueueUrl": name, "MessageBody": "b"}, **{"X-Amzn-Trace-Id": "x" * 2_000})
    assert told.status == 200
    wanted = {"QueueUrl": name, "AttributeNames": ["AWSTraceHeader"]}
    assert "Attributes" not in wire.ask("ReceiveMessage", wanted).output["Messages"][0]
