"""What the two protocols of SQS have each for itself: addresses, methods, headers, and the JSON of the older one."""

from __future__ import annotations

import gc
import json
import re
from itertools import count
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.harness import Reply
from tests.sqs_cases import ACCOUNT, UUID
from tests.sqs_server import LocalServer
from tests.sqs_wire import FORM_TYPE, NAMESPACE, Json, Query, Wire, read_xml
from tq.metrics import Metrics
from tq.settings import Settings
from tq.web import sqs
from tq.web.exchange import Request, Response

ACCEPT_JSON = {"Accept": "application/json"}
SIGNED = (
    "AWS4-HMAC-SHA256 Credential=AKID/20261128/eu-west-3/sqs/aws4_request, SignedHeaders=host;x-amz-date, Signature=0"
)

_numbers = count(1)


class Place:
    """A queue of its own for a test, and raw requests at its URL."""

    def __init__(self, port: int) -> None:
        self.query, self.json = Query(port), Json(port)
        self.host = f"http://127.0.0.1:{port}"
        self.name, self.other = f"p{next(_numbers)}", f"p{next(_numbers)}"
        for name in (self.name, self.other):
            self.query.ask("CreateQueue", {"QueueName": name})
        self.path = f"/{ACCOUNT}/{self.name}"
        self.url = self.host + self.path
        self.other_url = f"{self.host}/{ACCOUNT}/{self.other}"

    def get(self, parameters: dict[str, str], headers: dict[str, str] | None = None, path: str | None = None) -> Reply:
        target = (self.path if path is None else path) + "?" + urlencode(parameters)
        return self.query.request("GET", target, headers=headers)

    def post(self, parameters: dict[str, str], headers: dict[str, str] | None = None, path: str | None = None) -> Reply:
        headers = {"Content-Type": FORM_TYPE, **(headers or {})}
        target = self.path if path is None else path
        return self.query.request("POST", target, urlencode(parameters).encode(), headers)


@pytest.fixture
def place(local: LocalServer) -> Any:
    place = Place(local.port)
    yield place
    place.query.close()
    place.json.close()


def refused(reply: Reply) -> tuple[int, str, str | None]:
    told = read_xml("", reply)
    return told.status, told.code, told.message


# --- Query at the URL of a queue -------------------------------------------------------------


@pytest.mark.parametrize("method", ["get", "post"])
def test_a_queue_is_named_by_the_path(place: Place, method: str) -> None:
    ask = getattr(place, method)
    sent = read_xml("SendMessage", ask({"Action": "SendMessage", "MessageBody": "a", "Version": "2012-11-05"}))
    assert sent.output is not None
    shown = read_xml("ReceiveMessage", ask({"Action": "ReceiveMessage"}))
    assert shown.output
    assert shown.output["Messages"][0]["MessageId"] == sent.output["MessageId"]
    found = read_xml("GetQueueAttributes", ask({"Action": "GetQueueAttributes", "AttributeName.1": "QueueArn"}))
    assert found.output == {"Attributes": {"QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{place.name}"}}
    assert read_xml("DeleteQueue", ask({"Action": "DeleteQueue"})).output == {}
    assert refused(ask({"Action": "ReceiveMessage"})) == (
        400,
        "AWS.SimpleQueueService.NonExistentQueue",
        "The specified queue does not exist for this wsdl version.",
    )


def test_a_parameter_beats_the_path(place: Place) -> None:
    asked = {"Action": "GetQueueAttributes", "AttributeName.1": "QueueArn", "QueueUrl": place.other_url}
    told = read_xml("GetQueueAttributes", place.get(asked))
    assert told.output
    assert told.output["Attributes"]["QueueArn"].endswith(f":{place.other}")
    told = place.json.ask(
        "GetQueueAttributes", {"QueueUrl": place.other_url, "AttributeNames": ["QueueArn"]}, place.path
    )
    assert told.output
    assert told.output["Attributes"]["QueueArn"].endswith(f":{place.other}")


def test_json_at_the_url_of_a_queue(place: Place) -> None:
    assert place.json.ask("SendMessage", {"QueueUrl": place.url, "MessageBody": "a"}, place.path).status == 200
    assert place.json.ask("SendMessage", {"MessageBody": "a"}, place.path).status == 200
    assert place.json.ask("ListQueues", {}, place.path).status == 200


def test_the_form_beats_the_query_string(place: Place) -> None:
    body = urlencode({"MessageBody": "form"}).encode()
    target = f"{place.path}?Action=SendMessage&MessageBody=query"
    place.query.request("POST", target, body, {"Content-Type": FORM_TYPE})
    assert b"<Body>form</Body>" in place.get({"Action": "ReceiveMessage"}).body


@pytest.mark.parametrize("action", ["CreateQueue", "ListQueues"])
def test_what_no_queue_can_be_asked(place: Place, action: str) -> None:
    message = f"The action {action} is not valid for this endpoint."
    asked = {"Action": action, "QueueName": "a"}
    assert refused(place.get(asked)) == (400, "InvalidAction", message)
    assert refused(place.post(asked)) == (400, "InvalidAction", message)
    reply = place.get(asked, ACCEPT_JSON)
    assert (reply.status, reply.headers["Content-Type"]) == (400, "application/json")
    error = {"Type": "Sender", "Code": "InvalidAction", "Message": message, "Detail": None}
    assert reply.json == {"Error": error, "RequestId": UUID}


@pytest.mark.parametrize("action", ["FooBar", "sendmessage", "SendMessage ", "\u00e9", "<&>"])
def test_an_unknown_action(place: Place, action: str) -> None:
    told = (400, "InvalidAction", f"The action {action} is not valid for this endpoint.")
    assert refused(place.get({"Action": action})) == told
    assert refused(place.post({"Action": action}, path="/")) == told


@pytest.mark.parametrize("headers", [{}, ACCEPT_JSON])
@pytest.mark.parametrize("parameters", [{}, {"Action": ""}, {"MessageBody": "a"}])
def test_no_action(place: Place, headers: dict[str, str], parameters: dict[str, str]) -> None:
    for path in ("/", place.path):
        asked = [place.post] if path == "/" and "Action" not in parameters else [place.get, place.post]
        for reply in (ask(parameters, headers, path) for ask in asked):  # a GET of nothing is the dashboard's
            assert (reply.status, reply.headers["Content-Type"]) == (404, "text/xml")
            assert reply.body == b"<UnknownOperationException/>\n"


def test_what_is_refused_leaves_nothing_behind(place: Place) -> None:
    """An exception that is made once and raised again keeps the frames of every time."""

    def tracebacks() -> int:
        gc.collect()
        return sum(isinstance(each, TracebackType) for each in gc.get_objects())

    before = tracebacks()
    for _ in range(50):
        assert place.query.request("GET", "/?Action=", None, {}).status == 404
    assert tracebacks() < before + 50


@pytest.mark.parametrize("kind", [Json, Query])
def test_a_bug_is_told_in_the_shape_of_the_protocol(
    kind: type[Wire], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setitem(sqs._OPERATIONS, "ListQueues", (sqs.shapes.ListQueues, broken))
    headers = {"X-Amz-Target": "AmazonSQS.ListQueues"} if kind is Json else {}
    request = Request("POST", "/", "Action=ListQueues", headers, {}, b"{}" if kind is Json else b"")
    steps = sqs.Endpoint(Settings(), Metrics()).ask(request)
    with pytest.raises(StopIteration) as stop:
        next(steps)
    response: Response = stop.value.value
    assert response.status == 500
    assert b"InternalFailure" in response.body
    assert "ZeroDivisionError" in caplog.text


def test_a_parameter_that_is_missing(place: Place) -> None:
    told = (400, "MissingParameter", "The request must contain the parameter MessageBody.")
    assert refused(place.get({"Action": "SendMessage"})) == told
    told = (400, "MissingParameter", "The request must contain the parameter QueueUrl.")
    assert refused(place.get({"Action": "SendMessage", "MessageBody": "a"}, path="/")) == told


@pytest.mark.parametrize(
    ("parameters", "shown"),
    [
        ({"AttributeName": "DelaySeconds"}, ["DelaySeconds"]),
        ({"AttributeName.7": "DelaySeconds"}, ["DelaySeconds"]),
        ({"AttributeName.10": "DelaySeconds", "AttributeName.9": "QueueArn"}, ["DelaySeconds", "QueueArn"]),
        ({"AttributeName.1": "DelaySeconds", "AttributeName.x": "QueueArn"}, ["DelaySeconds"]),
    ],
)
def test_the_numbers_of_lists(place: Place, parameters: dict[str, str], shown: list[str]) -> None:
    told = read_xml("GetQueueAttributes", place.get({"Action": "GetQueueAttributes", **parameters}))
    assert told.output
    assert sorted(told.output["Attributes"]) == shown


def test_one_attribute_needs_no_number(place: Place) -> None:
    asked = {"Action": "SetQueueAttributes", "Attribute.Name": "VisibilityTimeout", "Attribute.Value": "35"}
    assert place.get(asked).status == 200
    told = read_xml("GetQueueAttributes", place.get({"Action": "GetQueueAttributes", "AttributeName.1": "All"}))
    assert told.output
    assert told.output["Attributes"]["VisibilityTimeout"] == "35"


@pytest.mark.parametrize(
    ("action", "parameters", "missing"),
    [
        ("SendMessage", {"MessageBody": "a", "MessageAttribute.1.Value.DataType": "String"}, "MessageAttribute.1.Name"),
        ("SendMessage", {"MessageBody": "a", "MessageAttribute.1.Name": "a"}, "MessageAttribute.1.Value"),
        ("SetQueueAttributes", {"Attribute.2.Name": "DelaySeconds", "Attribute.2.Value": "1"}, ""),
        ("SetQueueAttributes", {"Attribute.1.Value": "1"}, "Attribute.1.Name"),
        ("SetQueueAttributes", {"Attribute.Name": "DelaySeconds"}, "Attribute.Value"),
        ("TagQueue", {"Tag.7.Key": "a", "Tag.2.Key": "b", "Tag.2.Value": "1"}, "Tag.7.Value"),
        ("TagQueue", {"Tag.1": "a"}, "Tag.1.Key"),
    ],
)
def test_pairs_have_two_parts(place: Place, action: str, parameters: dict[str, str], missing: str) -> None:
    told = read_xml(action, place.post({"Action": action, **parameters}))
    assert told.message == (f"The request must contain the parameter {missing}." if missing else None)
    assert told.code == ("MissingParameter" if missing else "")


def test_the_name_of_a_pair_has_no_parts(place: Place) -> None:
    parameters = {"Action": "TagQueue", "Tag.1.Key.1": "a", "Tag.1.Value": "1"}
    assert refused(place.post(parameters)) == (400, "MalformedInput", "The parameter Tag.1.Key has parts.")


def test_entries_are_in_the_order_of_their_numbers(place: Place) -> None:
    entry = "SendMessageBatchRequestEntry"
    asked = {f"{entry}.{number}.{name}": f"n{number}" for number in (10, 2, 1) for name in ("Id", "MessageBody")}
    told = read_xml("SendMessageBatch", place.post({"Action": "SendMessageBatch", **asked}))
    assert told.output
    assert [each["Id"] for each in told.output["Successful"]] == ["n1", "n2", "n10"]


# --- Query, answered in JSON -------------------------------------------------------------


def test_json_for_who_asks_the_older_protocol_for_it(place: Place) -> None:
    metadata = {"RequestId": UUID}

    def ask(**parameters: str) -> Any:
        reply = place.get(parameters, ACCEPT_JSON)
        assert (reply.status, reply.headers["Content-Type"]) == (200, "application/json")
        assert reply.headers["x-amzn-RequestId"] == UUID
        return reply.json

    sent = ask(Action="SendMessage", MessageBody="a")["SendMessageResponse"]
    assert sent["ResponseMetadata"] == metadata
    assert sent["SendMessageResult"]["MD5OfMessageBody"] == "0cc175b9c0f1b6a831c399e269772661"
    received = ask(Action="ReceiveMessage", **{"AttributeName.1": "ApproximateReceiveCount"})
    (message,) = received["ReceiveMessageResponse"]["ReceiveMessageResult"]["messages"]
    assert message["Body"] == "a"
    assert message["MessageId"] == sent["SendMessageResult"]["MessageId"]
    assert message["Attributes"] == [{"Name": "ApproximateReceiveCount", "Value": "1"}]
    empty = {"ReceiveMessageResult": {"messages": None}, "ResponseMetadata": metadata}
    assert ask(Action="ReceiveMessage") == {"ReceiveMessageResponse": empty}
    deleted = ask(Action="DeleteMessage", ReceiptHandle=message["ReceiptHandle"])
    assert deleted == {"DeleteMessageResponse": {"ResponseMetadata": metadata}}
    shown = ask(Action="GetQueueAttributes", **{"AttributeName.1": "DelaySeconds"})
    attributes = shown["GetQueueAttributesResponse"]["GetQueueAttributesResult"]["Attributes"]
    assert attributes == [{"Name": "DelaySeconds", "Value": "0"}]


def test_json_at_the_root_for_who_asks_the_older_protocol_for_it(place: Place) -> None:
    asked = {"Action": "ListQueues", "QueueNamePrefix": place.name}
    result = place.post(asked, {"Accept": "application/json; charset=utf-8"}, "/").json["ListQueuesResponse"]
    assert result["ListQueuesResult"] == {"queueUrls": [place.url]}
    result = place.post({**asked, "QueueNamePrefix": "none"}, ACCEPT_JSON, "/").json["ListQueuesResponse"]
    assert result["ListQueuesResult"] == {"queueUrls": None}
    found = place.post({"Action": "GetQueueUrl", "QueueName": "absent"}, ACCEPT_JSON, "/")
    assert found.status == 400
    assert found.json["Error"] == {
        "Type": "Sender",
        "Code": "AWS.SimpleQueueService.NonExistentQueue",
        "Message": "The specified queue does not exist for this wsdl version.",
        "Detail": None,
    }


@pytest.mark.parametrize("accept", ["*/*", "text/xml", "application/xml", ""])
def test_xml_for_everybody_else(place: Place, accept: str) -> None:
    reply = place.get({"Action": "ReceiveMessage"}, {"Accept": accept})
    assert reply.headers["Content-Type"] == "text/xml"
    body = reply.body.decode()
    assert body.startswith('<?xml version="1.0"?>')
    assert f'<ReceiveMessageResponse xmlns="{NAMESPACE}"><ReceiveMessageResult/><ResponseMetadata>' in body


def test_what_xml_would_change_is_escaped(place: Place) -> None:
    place.post({"Action": "SendMessage", "MessageBody": "\r\n\t<\u00e9>&\"']]>"})
    body = place.get({"Action": "ReceiveMessage"}).body.decode()
    found = re.search("(?s)<Body>(.*)</Body>", body)
    assert found
    assert found[1].startswith("&#xD;")
    assert not set("<>") & set(found[1])


# --- JSON 1.0 -------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "given", "message"),
    [
        ("UntagQueue", {"TagKeys": []}, "Tag keys must be between 1 and 128 characters in length."),
        (
            "AddPermission",
            {"Label": "l", "AWSAccountIds": [], "Actions": ["SendMessage"]},
            "Value [] for parameter PrincipalId is invalid. Reason: Unable to verify.",
        ),
    ],
)
def test_empty_lists_which_only_json_has(place: Place, operation: str, given: dict[str, Any], message: str) -> None:
    told = place.json.ask(operation, {"QueueUrl": place.url, **given})
    assert (told.code, told.message) == ("InvalidParameterValue", message)


def test_errors_say_nothing_of_the_other_protocol(place: Place) -> None:
    """Where in a request of tq's own API something would stand."""
    policy = json.dumps({"deadLetterTargetArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{place.name}", "maxReceiveCount": 1})
    told = place.json.ask("SetQueueAttributes", {"QueueUrl": place.url, "Attributes": {"RedrivePolicy": policy}})
    assert told.code == "InvalidParameterValue"
    assert told.message
    assert told.message.endswith(f"Reason: The dead letters of '{place.name}' would come back to it.")


@pytest.mark.parametrize("target", ["AmazonSQS.Nope", "AmazonSQS.", "SendMessage", "DynamoDB_20120810.ListTables", ""])
def test_an_unknown_target(place: Place, target: str) -> None:
    told = place.json.ask("", {}, X_Amz_Target=target)
    assert (told.status, told.kind) == (400, "com.amazon.coral.service#UnknownOperationException")


def test_no_body_is_no_input(place: Place) -> None:
    told = place.json.ask_raw("ListQueues", b"")
    assert told.output
    assert place.url in told.output["QueueUrls"]


def test_what_is_not_known_is_passed_by(place: Place) -> None:
    told = place.json.ask("SendMessage", {"QueueUrl": place.url, "MessageBody": "a", "New": {"a": [1]}})
    assert told.status == 200
    assert place.get({"Action": "SendMessage", "MessageBody": "a", "New.1.a": "b"}).status == 200


def test_null_is_as_good_as_absent(place: Place) -> None:
    given = {"QueueUrl": place.url, "MaxNumberOfMessages": None, "MessageAttributeNames": None}
    assert place.json.ask("ReceiveMessage", given).output == {}


# --- both -------------------------------------------------------------


def test_the_url_has_the_host_and_scheme_that_were_asked(wire: Wire) -> None:
    name = f"p{next(_numbers)}"
    told = wire.ask("CreateQueue", {"QueueName": name}, Host="sqs.example.com:8080")
    assert told.output == {"QueueUrl": f"http://sqs.example.com:8080/{ACCOUNT}/{name}"}
    told = wire.ask("GetQueueUrl", {"QueueName": name}, Host="sqs.example.com", X_Forwarded_Proto="https")
    assert told.output == {"QueueUrl": f"https://sqs.example.com/{ACCOUNT}/{name}"}


def test_the_region_is_that_of_the_signature(wire: Wire) -> None:
    name = f"p{next(_numbers)}"
    wire.ask("CreateQueue", {"QueueName": name})
    given = {"QueueUrl": name, "AttributeNames": ["QueueArn"]}
    told = wire.ask("GetQueueAttributes", given, Authorization=SIGNED)
    assert told.output == {"Attributes": {"QueueArn": f"arn:aws:sqs:eu-west-3:{ACCOUNT}:{name}"}}
    told = wire.ask("GetQueueAttributes", given, Authorization="Bearer a")
    assert told.output == {"Attributes": {"QueueArn": f"arn:aws:sqs:us-east-1:{ACCOUNT}:{name}"}}


def test_a_presigned_url(place: Place) -> None:
    signature = {"X-Amz-Credential": "AKID/20261128/ap-south-1/sqs/aws4_request", "X-Amz-Signature": "0"}
    asked = {"Action": "GetQueueAttributes", "AttributeName.1": "QueueArn", **signature}
    assert b":ap-south-1:" in place.get(asked).body


def test_a_trace_header_of_the_request(wire: Wire) -> None:
    name, trace = f"p{next(_numbers)}", "Root=1-5759e988-bd862e3fe1be46a994272793"
    wire.ask("CreateQueue", {"QueueName": name})
    wire.ask("SendMessage", {"QueueUrl": name, "MessageBody": "a"}, X_Amzn_Trace_Id=trace)
    own = {"AWSTraceHeader": {"StringValue": "Root=own", "DataType": "String"}}
    given = {"QueueUrl": name, "MessageBody": "b", "MessageSystemAttributes": own}
    wire.ask("SendMessage", given, X_Amzn_Trace_Id=trace)
    asked = {"QueueUrl": name, "MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["AWSTraceHeader"]}
    told = wire.ask("ReceiveMessage", asked)
    assert told.output
    assert [each["Attributes"]["AWSTraceHeader"] for each in told.output["Messages"]] == [trace, "Root=own"]


def test_each_answer_has_an_id_of_its_own(wire: Wire) -> None:
    ids = {wire.ask("ListQueues", {"MaxResults": 1}).headers["x-amzn-RequestId"] for _ in range(10)}
    ids |= {wire.ask("GetQueueUrl", {"QueueName": "absent"}).headers["x-amzn-RequestId"] for _ in range(10)}
    assert len(ids) == 20


def test_the_account_can_be_chosen() -> None:
    server = LocalServer(sqs_account="123456789012")
    client = Json(server.port)
    try:
        told = client.ask("CreateQueue", {"QueueName": "a"})
        assert told.output == {"QueueUrl": f"http://127.0.0.1:{server.port}/123456789012/a"}
        told = client.ask("GetQueueAttributes", {"QueueUrl": "a", "AttributeNames": ["QueueArn"]})
        assert json.loads(told.body)["Attributes"]["QueueArn"] == "arn:aws:sqs:us-east-1:123456789012:a"
    finally:
        client.close()
        server.close()
