"""One queue in both of tq's APIs: what is sent over one is received, seen and settled over the other."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from tests.sqs_queue import Make, Native
from tests.sqs_server import LocalServer
from tests.sqs_wire import Json, Query, Wire

JSON_TYPE = {"Content-Type": "application/json"}


@pytest.fixture(params=[Json, Query], ids=["json", "query"])
def protocol(request: pytest.FixtureRequest) -> type[Wire]:
    found: type[Wire] = request.param
    return found


# --- bodies -------------------------------------------------------------


@pytest.mark.parametrize(
    "body", ["a", '"quoted" \\ \r\n', '{"a": 1.10}', "5", "null", "\u6f22\U0001f642", "\ud7ff\ufffd"]
)
def test_a_body_is_a_json_string(queue: Make, protocol: type[Wire], body: str) -> None:
    q = queue(wire=protocol)
    q.send(body)
    assert Native(q).ask("GET", "/peek").json["messages"][0]["content"] == body
    message = Native(q).receive()
    assert message["content"] == body
    assert "content_type" not in message
    assert "encoding" not in message


@pytest.mark.parametrize(
    ("written", "body"),
    [
        ('"a"', "a"),
        ('"\\u00e9\\ud83d\\ude42\\n\\""', '\u00e9\U0001f642\n"'),
        ('""', ""),
        ('{"b": 1.10,  "a": [1e5, "\\u00e9"]}', '{"b": 1.10,  "a": [1e5, "\\u00e9"]}'),
        ("5", "5"),
        ("null", "null"),
        ("[]", "[]"),
        ("123456789012345678901234567890.50", "123456789012345678901234567890.50"),
    ],
)
def test_json_is_its_text(queue: Make, protocol: type[Wire], written: str, body: str) -> None:
    q = queue(wire=protocol)
    Native(q).send_raw(f'{{"content": {written}}}'.encode())
    message = q.take()
    assert message["Body"] == body


@pytest.mark.parametrize(
    ("content", "media_type", "body"),
    [
        (b"plain", "text/plain", "plain"),
        (b"\xc3\xa9", "application/octet-stream", "\u00e9"),
        (b"\xff\x00\x01", "image/png", b64encode(b"\xff\x00\x01").decode()),
        (b'"a"', "text/plain", '"a"'),
        (b"<a/>", "application/xml", "<a/>"),
    ],
)
def test_bytes_are_text_or_base64(
    queue: Make, protocol: type[Wire], content: bytes, media_type: str, body: str
) -> None:
    q = queue(wire=protocol)
    Native(q).send_raw(content, media_type)
    assert q.bodies() == [body]


def test_what_only_json_can_say(queue: Make) -> None:
    """The native API takes any character that JSON has; XML has not all of them."""
    by_json, by_query = queue(), queue(wire=Query)
    for q in (by_json, by_query):
        Native(q).send("a\x00\x0b\ufffe")
    assert by_json.bodies() == ["a\x00\x0b\ufffe"]
    assert by_query.ask("ReceiveMessage").output["Messages"][0]["Body"] == "a\ufffd\ufffd\ufffd"  # type: ignore[index]


# --- attributes -------------------------------------------------------------

ATTRIBUTES = {
    "text": {"StringValue": "x", "DataType": "String"},
    "number": {"StringValue": "1.50", "DataType": "Number"},
    "bytes": {"BinaryValue": "AP8=", "DataType": "Binary"},
    "own": {"StringValue": "y", "DataType": "String.own"},
}


def test_attributes_are_headers_and_attributes(queue: Make, protocol: type[Wire]) -> None:
    q = queue(wire=protocol)
    q.send("a", MessageAttributes=ATTRIBUTES)
    message = Native(q).receive()
    assert message["headers"] == {"text": "x"}
    assert message["attributes"] == {
        "number": {"type": "Number", "value": "1.50"},
        "bytes": {"type": "Binary", "value": "AP8="},
        "own": {"type": "String.own", "value": "y"},
    }


def test_headers_are_attributes(queue: Make, protocol: type[Wire]) -> None:
    q = queue(wire=protocol)
    Native(q).send("a", headers={"traceparent": "00-1-2-3", "x": "\u00e9"})
    assert q.take()["MessageAttributes"] == {
        "traceparent": {"StringValue": "00-1-2-3", "DataType": "String"},
        "x": {"StringValue": "\u00e9", "DataType": "String"},
    }


def test_headers_that_sqs_would_not_take(queue: Make, protocol: type[Wire]) -> None:
    """Many, with odd names and empty values: they are shown as they are."""
    q = queue(wire=protocol)
    headers = {f"h {number}": "" for number in range(50)}
    Native(q).send("a", headers=headers)
    assert q.take()["MessageAttributes"] == {name: {"StringValue": "", "DataType": "String"} for name in headers}


def test_groups_and_deduplication_ids(queue: Make) -> None:
    q = queue(fifo=True)
    (message_id,) = q.send("a", group="g", MessageDeduplicationId="d")
    Native(q).send("again", group="g", dedup_id="d")
    Native(q).send("b", group="g", dedup_id="e")
    assert q.send("c", MessageDeduplicationId="e") != [message_id]
    first, second = q.receive()
    assert [first["MessageId"], first["Body"], second["Body"]] == [message_id, "a", "b"]
    assert second["Attributes"]["MessageGroupId"] == "g"
    assert second["Attributes"]["MessageDeduplicationId"] == "e"
    assert q.delete(first).status == 200
    assert q.delete(second).status == 200
    assert Native(q).receive() is None


def test_a_group_of_a_standard_queue(queue: Make) -> None:
    """The native API orders by it; SQS only keeps one."""
    q = queue()
    q.send("a", MessageGroupId="g")
    assert "group" not in Native(q).receive()
    Native(q).send("b", group="h")
    Native(q).send("c", group="h")
    (message,) = q.receive()
    assert (message["Body"], message["Attributes"]["MessageGroupId"]) == ("b", "h")


# --- receipts -------------------------------------------------------------


@pytest.mark.parametrize("fifo", [False, True])
def test_a_receipt_of_sqs_is_one_of_tq(queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    q.send("a", "b")
    message = q.take()
    path = f"/messages/{message['ReceiptHandle']}"
    assert Native(q).ask("PATCH", path, {"visibility_timeout": 600}).status == 200
    assert Native(q).ask("DELETE", path).status == 204
    assert Native(q).ask("DELETE", path).status == 404
    assert q.delete(message).status == 200
    assert q.bodies() == ["b"]


@pytest.mark.parametrize("fifo", [False, True])
def test_a_receipt_of_tq_is_one_of_sqs(queue: Make, fifo: bool) -> None:
    q = queue(fifo=fifo)
    q.send("a")
    handle = {"ReceiptHandle": Native(q).receive()["receipt"]}
    assert q.ok("ChangeMessageVisibility", **handle, VisibilityTimeout=0) == {}
    handle = {"ReceiptHandle": Native(q).receive()["receipt"]}
    assert q.ok("DeleteMessage", **handle) == {}
    assert q.counts() == (0, 0, 0)


def test_stale_receipts(local: LocalServer, queue: Make) -> None:
    """What one API refuses the other takes: each has its own rule."""
    q = queue()
    q.send("a")
    message = q.take()
    local.jump(31)
    q.take()
    assert Native(q).ask("DELETE", f"/messages/{message['ReceiptHandle']}").status == 409
    assert q.delete(message).status == 200


def test_what_tq_took_is_gone(queue: Make) -> None:
    q = queue()
    q.send("a", "b")
    assert Native(q).ask("GET", "/messages").json["content"] == "a"
    assert q.bodies() == ["b"]
    assert Native(q).ask("DELETE", "/messages").json == {"purged": 1}
    assert q.counts() == (0, 0, 0)


# --- identity -------------------------------------------------------------


def test_a_message_is_itself_for_ever(local: LocalServer, queue: Make) -> None:
    q, dead = queue(), queue()
    q.dead_letters_to(dead, 2)
    Native(q).send("a")
    first = q.take()
    local.jump(31)
    assert Native(q).receive()["receive_count"] == 2
    local.jump(31)
    assert q.receive() == []
    letter = dead.take()
    assert letter["MessageId"] == first["MessageId"]
    assert letter["Attributes"]["DeadLetterQueueSourceArn"] == q.arn
    assert Native(dead).ask("GET", "/peek?state=in_flight").json["messages"][0]["dead_letter"] == {
        "source": q.name,
        "reason": "max_receives",
        "receive_count": 2,
    }


def test_what_tq_rejects_is_a_dead_letter(queue: Make) -> None:
    q, dead = queue(), queue()
    q.dead_letters_to(dead, 5)
    (message_id,) = q.send("a")
    receipt = Native(q).receive()["receipt"]
    assert Native(q).ask("PATCH", f"/messages/{receipt}", {"dead_letter": True, "reason": "bad"}).status == 200
    letter = dead.take()
    assert (letter["MessageId"], letter["Body"]) == (message_id, "a")
    assert letter["Attributes"]["DeadLetterQueueSourceArn"] == q.arn


def test_ids_of_queues_that_have_one_name_differ(queue: Make) -> None:
    q = queue()
    ids = q.send("a")
    q.ok("PurgeQueue")
    ids += q.send("a")
    q.ok("DeleteQueue")
    q.ok("CreateQueue", QueueName=q.name)
    ids += q.send("a")
    assert len(set(ids)) == 3


# --- queues -------------------------------------------------------------


def test_a_queue_of_tq_is_one_of_sqs(queue: Make) -> None:
    q = queue()
    name = f"native.{q.name}"
    settings = {"name": name, "visibility_timeout": 1.5, "delay": 0.5, "max_message_bytes": 5_000_000}
    assert q.client.request("POST", "/queues", json.dumps(settings).encode(), JSON_TYPE).status == 201
    url = q.client.ask("GetQueueUrl", {"QueueName": name}).output["QueueUrl"]  # type: ignore[index]
    shown = q.ok("GetQueueAttributes", QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert len(shown) == 12
    assert shown["VisibilityTimeout"] == "1"
    assert shown["MaximumMessageSize"] == "5000000"
    assert q.ok("SendMessage", QueueUrl=url, MessageBody="a", DelaySeconds=0)
    assert q.ok("ReceiveMessage", QueueUrl=url)["Messages"][0]["Body"] == "a"
    assert q.ok("ListQueues", QueueNamePrefix=name) == {"QueueUrls": [url]}


def test_a_queue_of_sqs_is_one_of_tq(queue: Make) -> None:
    q = queue(fifo=True, DelaySeconds=5, VisibilityTimeout=60, ReceiveMessageWaitTimeSeconds=2, MaximumMessageSize=2048)
    shown = Native(q).ask("GET", "").json
    assert (shown["fifo"], shown["delay"], shown["visibility_timeout"]) == (True, 5, 60)
    assert (shown["retention"], shown["max_message_bytes"], shown["max_in_flight"]) == (345_600, 2048, 120_000)
    assert Native(q).ask("PATCH", "", {"delay": 0}).status == 200
    assert q.attributes()["DelaySeconds"] == "0"


def test_a_queue_that_is_full_or_paused(queue: Make) -> None:
    q = queue()
    assert Native(q).ask("PATCH", "", {"max_messages": 1, "paused": True}).status == 200
    q.send("a")
    assert q.ask("SendMessage", MessageBody="b").code == "OverLimit"
    entries = [{"Id": "x", "MessageBody": "b"}]
    (failed,) = q.ok("SendMessageBatch", Entries=entries)["Failed"]
    assert (failed["Id"], failed["Code"]) == ("x", "OverLimit")
    assert q.receive() == []
    assert Native(q).ask("PATCH", "", {"paused": False}).status == 200
    assert q.bodies() == ["a"]


def test_priorities(queue: Make) -> None:
    q = queue()
    q.send("low")
    Native(q).send("high", priority=9)
    assert q.bodies() == ["high", "low"]


@pytest.mark.parametrize("name", ["-a", "_a"])
def test_a_name_that_only_sqs_can_make(queue: Make, name: str) -> None:
    q = queue()
    named = f"{name}{q.name}"
    q.client.ask("CreateQueue", {"QueueName": named})
    q.ok("SendMessage", QueueUrl=named, MessageBody="a")
    reply = q.client.request("GET", f"/queues/{named}/messages")
    assert (reply.status, reply.json["content"]) == (200, "a")


def test_attributes_count_for_the_size_of_an_answer(queue: Make, protocol: type[Wire]) -> None:
    """Also where there is next to no body: an answer must fit in memory."""
    q = queue(wire=protocol)
    native = Native(q)
    for _ in range(8):
        q.send("b", MessageAttributes={"a": {"DataType": "Binary", "BinaryValue": b64encode(b"x" * 900_000).decode()}})
    shown = native.ask("GET", "/peek?limit=100").json
    assert len(shown["messages"]) == 5
    assert shown["next"]
    assert len(native.ask("GET", "/messages?max=100").json["messages"]) == 5
    assert len(native.ask("GET", "/messages?max=100").json["messages"]) == 3


def test_a_retention_over_sqs_replaces_a_ttl(queue: Make) -> None:
    q = queue()
    assert Native(q).ask("PATCH", "", {"ttl": 60, "retention": None}).status == 200
    assert q.attributes()["MessageRetentionPeriod"] == "1209600"
    q.set(MessageRetentionPeriod=120)
    shown = Native(q).ask("GET", "").json
    assert (shown["ttl"], shown["retention"]) == (None, 120)


def test_a_part_of_a_second_is_shown_as_a_whole_one(queue: Make) -> None:
    q = queue()
    assert Native(q).ask("PATCH", "", {"retention": 0.5}).status == 200
    assert q.attributes()["MessageRetentionPeriod"] == "1"
