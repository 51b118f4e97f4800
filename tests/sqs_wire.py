"""SQS as it is on the wire, by hand and in both of its protocols, so that tests see codes, headers and texts.

The input of an operation is given as the service model says, and its output comes back so, whatever the protocol. Every
answer is checked to be well-formed and of the shape of the model. Nothing here is shared with the server.
"""

from __future__ import annotations

import http.client
import json
import re
import xml.etree.ElementTree as ElementTree
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

from msgspec import Struct

from tests.harness import Reply
from tests.sqs_model import SHAPES, assert_of_shape, input_shape, kind, members, output_shape

JSON_TYPE = "application/x-amz-json-1.0"
FORM_TYPE = "application/x-www-form-urlencoded"
NAMESPACE = "http://queue.amazonaws.com/doc/2012-11-05/"
REQUEST_SECONDS = 30  # a server that hangs for so long is a failure

# How the Query protocol calls the elements of lists, and of maps with their names and values, by the shape.
_ELEMENTS = {
    "AWSAccountIdList": "AWSAccountId",
    "ActionNameList": "ActionName",
    "AttributeNameList": "AttributeName",
    "MessageSystemAttributeList": "MessageSystemAttributeName",
    "MessageAttributeNameList": "MessageAttributeName",
    "TagKeyList": "TagKey",
    "QueueUrlList": "QueueUrl",
    "MessageList": "Message",
    "StringList": "StringListValue",
    "BinaryList": "BinaryListValue",
}
_PAIRS = {
    "QueueAttributeMap": ("Attribute", "Name", "Value"),
    "MessageSystemAttributeMap": ("Attribute", "Name", "Value"),
    "MessageBodyAttributeMap": ("MessageAttribute", "Name", "Value"),
    "MessageBodySystemAttributeMap": ("MessageSystemAttribute", "Name", "Value"),
    "TagMap": ("Tag", "Key", "Value"),
}


class Told(Struct, frozen=True):
    """An answer: `output`, or what was wrong. `code` is of the Query protocol, `kind` of the JSON protocol."""

    status: int
    headers: dict[str, str]
    body: bytes
    output: dict[str, Any] | None = None
    code: str = ""
    kind: str = ""
    message: str | None = None
    blame: str = ""


class Wire(ABC):
    """A client of one protocol, on a connection that it keeps."""

    name: str

    def __init__(self, port: int) -> None:
        self.port = port
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REQUEST_SECONDS)

    def close(self) -> None:
        self._connection.close()

    @abstractmethod
    def ask(self, operation: str, given: dict[str, Any], path: str = "/", **headers: str) -> Told:
        """Make a request and read the answer, which must be a right one of the protocol and no server's fault."""

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Reply:
        """Any request. No answer may be a 5xx."""
        try:
            self._connection.request(method, path, body, headers or {})
            response = self._connection.getresponse()
            reply = Reply(response.status, dict(response.headers.items()), response.read())
        except BaseException:
            self._connection.close()
            raise
        assert reply.status < 500, reply
        return reply


def _named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


def _assert_request_id(text: str | None) -> None:
    assert text
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", text), text


# --- JSON 1.0 -------------------------------------------------------------


class Json(Wire):
    """AWS JSON 1.0, as SDKs have spoken it since 2023."""

    name = "json"

    def ask(self, operation: str, given: dict[str, Any], path: str = "/", **headers: str) -> Told:
        return self.ask_raw(operation, json.dumps(given).encode(), path, **headers)

    def ask_raw(self, operation: str, body: bytes, path: str = "/", **headers: str) -> Told:
        told = {"Content-Type": JSON_TYPE, "X-Amz-Target": f"AmazonSQS.{operation}", "x-amzn-query-mode": "true"}
        reply = self.request("POST", path, body, {**told, **_named(headers)})
        return read_json(operation, reply)


def read_json(operation: str, reply: Reply) -> Told:
    assert reply.headers["Content-Type"] == JSON_TYPE, reply
    _assert_request_id(reply.headers.get("x-amzn-RequestId"))
    document = json.loads(reply.body)
    if reply.status == 200:
        assert "x-amzn-query-error" not in reply.headers
        shape = output_shape(operation)
        assert shape or document == {}
        if shape:
            assert_of_shape(shape, document, "$")
        return Told(200, reply.headers, reply.body, document)
    assert 400 <= reply.status < 500, reply
    assert document.keys() - {"message"} == {"__type"}, reply
    code, _, blame = reply.headers["x-amzn-query-error"].partition(";")
    message = document.get("message")
    return Told(reply.status, reply.headers, reply.body, None, code, document["__type"], message, blame)


# --- Query and XML -------------------------------------------------------------


class Query(Wire):
    """The Query protocol, as SDKs spoke it before."""

    name = "query"

    def ask(self, operation: str, given: dict[str, Any], path: str = "/", **headers: str) -> Told:
        parameters = [("Action", operation), ("Version", "2012-11-05"), *flatten(input_shape(operation), given)]
        return self.ask_raw(operation, urlencode(parameters).encode(), path, **headers)

    def ask_raw(self, operation: str, body: bytes, path: str = "/", **headers: str) -> Told:
        reply = self.request("POST", path, body, {"Content-Type": FORM_TYPE, **_named(headers)})
        return read_xml(operation, reply)


def flatten(shape: str, value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """The parameters for a value, of which a structure's members stand behind the prefix."""
    what = kind(shape)
    if what == "structure":
        for name, each in value.items():
            member = members(shape)[name]
            is_flat = kind(member) in ("list", "map")  # called by their elements, not by the member
            if each is not None:
                yield from flatten(member, each, prefix if is_flat else prefix + name)
            continue
    elif what == "list":
        inner = SHAPES[shape]["member"]["shape"]
        element = prefix + _ELEMENTS.get(shape, shape.removesuffix("List"))
        for number, each in enumerate(value, 1):
            dot = "." if kind(inner) == "structure" else ""
            yield from flatten(inner, each, f"{element}.{number}{dot}")
    elif what == "map":
        element, key, inner_name = _PAIRS[shape]
        inner = SHAPES[shape]["value"]["shape"]
        for number, (name, each) in enumerate(value.items(), 1):
            yield f"{prefix}{element}.{number}.{key}", name
            dot = "." if kind(inner) == "structure" else ""
            yield from flatten(inner, each, f"{prefix}{element}.{number}.{inner_name}{dot}")
    else:
        yield prefix, str(value)


def read_xml(operation: str, reply: Reply) -> Told:
    assert reply.headers["Content-Type"] == "text/xml", reply
    assert b"<!DOCTYPE" not in reply.body
    root = ElementTree.fromstring(reply.body)
    assert root.tag.startswith(f"{{{NAMESPACE}}}"), reply
    for each in root.iter():
        each.tag = each.tag.removeprefix(f"{{{NAMESPACE}}}")
    if reply.status == 200:
        return Told(200, reply.headers, reply.body, _result(operation, root))
    assert 400 <= reply.status < 500, reply
    assert root.tag == "ErrorResponse", reply
    assert [each.tag for each in root] == ["Error", "RequestId"], reply
    _assert_request_id(root.findtext("RequestId"))
    error = root[0]
    assert [each.tag for each in error] == ["Type", "Code", "Message", "Detail"], reply
    blame, code, message, _ = (each.text or "" for each in error)
    return Told(reply.status, reply.headers, reply.body, None, code, "", message, blame)


def _result(operation: str, root: ElementTree.Element) -> dict[str, Any]:
    shape = output_shape(operation)
    assert root.tag == f"{operation}Response"
    expected = [f"{operation}Result"] if shape else []
    assert [each.tag for each in root] == [*expected, "ResponseMetadata"]
    _assert_request_id(root[-1].findtext("RequestId"))
    if shape is None:
        return {}
    output: dict[str, Any] = _structure(shape, root[0])
    assert_of_shape(shape, output, "$")
    return output


def _structure(shape: str, node: ElementTree.Element) -> dict[str, Any]:
    read: dict[str, Any] = {}
    known = 0
    for name, member in members(shape).items():
        element = name
        if kind(member) == "list":
            element = _ELEMENTS.get(member, member.removesuffix("List"))
        elif kind(member) == "map":
            element = _PAIRS[member][0]
        found = node.findall(element)
        known += len(found)
        if kind(member) == "list" and found:
            read[name] = [_value(SHAPES[member]["member"]["shape"], each) for each in found]
        elif kind(member) == "map" and found:
            read[name] = dict(_pair(member, each) for each in found)
        elif found:
            assert len(found) == 1, element
            read[name] = _value(member, found[0])
    assert known == len(node), ElementTree.tostring(node)
    return read


def _pair(shape: str, node: ElementTree.Element) -> tuple[str, Any]:
    _, key, value = _PAIRS[shape]
    assert [each.tag for each in node] == [key, value], ElementTree.tostring(node)
    return node[0].text or "", _value(SHAPES[shape]["value"]["shape"], node[1])


def _value(shape: str, node: ElementTree.Element) -> Any:
    what = kind(shape)
    if what == "structure":
        return _structure(shape, node)
    assert not len(node), ElementTree.tostring(node)
    text = node.text or ""
    if what in ("integer", "long"):
        return int(text)
    if what == "boolean":
        assert text in ("true", "false")
        return text == "true"
    return text
