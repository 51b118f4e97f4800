"""The Query protocol of SQS: parameters in a form or a query string, answers in XML, or in JSON for who asks for it.

How lists are flattened and named is said by the service model of older SDKs (botocore before 1.31.81, "query").
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from tq.web.sqs.call import Output
from tq.web.sqs.errors import SqsError, missing
from tq.web.sqs.shapes import Input

T = TypeVar("T", bound=Input)
Tree = dict[str, Any]
"""Parameters by the parts of their names: `Tag.1.Key=a` is {"Tag": {"1": {"Key": "a"}}}."""

NAMESPACE = "http://queue.amazonaws.com/doc/2012-11-05/"
MAX_DEPTH = 8
MAX_PARAMETERS = 10_000

_LISTS = {
    "AttributeNames": "AttributeName",
    "MessageSystemAttributeNames": "MessageSystemAttributeName",
    "MessageAttributeNames": "MessageAttributeName",
    "AWSAccountIds": "AWSAccountId",
    "Actions": "ActionName",
    "TagKeys": "TagKey",
}
_MAPS = {
    "Attributes": ("Attribute", "Name"),
    "MessageAttributes": ("MessageAttribute", "Name"),
    "MessageSystemAttributes": ("MessageSystemAttribute", "Name"),
    "Tags": ("Tag", "Key"),
    "tags": ("Tag", "Key"),
}
_VALUE_LISTS = {"StringListValues": "StringListValue", "BinaryListValues": "BinaryListValue"}


# --- in -------------------------------------------------------------


def parameters(query: str, body: bytes) -> dict[str, str]:
    """Those of the query string, and over them those of the form. Raises SqsError."""
    found: dict[str, str] = {}
    try:
        for text in (query, body.decode()):
            found.update(parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_PARAMETERS))
    except ValueError as error:
        raise malformed(f"The parameters cannot be read: {error}.") from error
    return found


def malformed(message: str) -> SqsError:
    return SqsError("MalformedInput", message)


def read(found: dict[str, str], operation: str, shape: type[T]) -> T:
    """The input of an operation. Raises SqsError."""
    tree: Tree = {}
    for name, value in found.items():
        parts = name.split(".", MAX_DEPTH)
        node = tree
        for part in parts[:-1]:
            child = node.setdefault(part, {})
            if not isinstance(child, dict):
                raise malformed(f"The parameter {name} contradicts another.")
            node = child
        if isinstance(node.get(parts[-1]), dict):
            raise malformed(f"The parameter {name} contradicts another.")
        node[parts[-1]] = value
    try:
        return msgspec.convert(_fields(tree, operation, shape), shape, strict=False)
    except msgspec.ValidationError as error:
        raise malformed(f"{error}.") from error


def _fields(tree: Tree, operation: str, shape: Any) -> dict[str, Any]:
    """The parts of a tree that a struct has, with lists and maps put together."""
    fields: dict[str, Any] = {}
    for field in _fields_of(shape):
        name = field.encode_name
        if name in _LISTS:
            found: Any = _items(tree.get(_LISTS[name]))
        elif name in _MAPS:
            found = _map(name, tree)
        elif name == "Entries":
            entry_shape = _entry_shape(field.type)
            found = [_fields(each, operation, entry_shape) for each in _maps(tree.get(f"{operation}RequestEntry"))]
        else:
            found = tree.get(name)
        if found is not None and found != []:
            fields[name] = found
    return fields


_fields_of = lru_cache(msgspec.structs.fields)  # a batch asks for those of one shape again and again


def _entry_shape(kind: Any) -> Any:
    """The struct in `list[Struct] | None`."""
    (wanted,) = [each for each in kind.__args__ if each is not type(None)]
    return wanted.__args__[0]


def _numbered(node: Any) -> list[tuple[str, Any]]:
    """Numbered values in their order, each behind what its name has for it; one alone need not have a number."""
    if not isinstance(node, dict):
        return [] if node is None else [("", node)]
    numbers = [part for part in node if part.isascii() and part.isdigit() and len(part) <= 9]
    return [(f".{number}", node[number]) for number in sorted(numbers, key=int)] if numbers else [("", node)]


def _items(node: Any) -> list[Any]:
    return [item for _, item in _numbered(node)]


def _maps(node: Any) -> list[Tree]:
    return [each if isinstance(each, dict) else {} for each in _items(node)]


def _map(name: str, tree: Tree) -> dict[str, Any] | None:
    """Raises SqsError."""
    parameter, key = _MAPS[name]
    found: dict[str, Any] = {}
    for number, pair in _numbered(tree.get(parameter)):
        for part in (key, "Value"):
            if not isinstance(pair, dict) or part not in pair:
                raise missing(f"{parameter}{number}.{part}")
        if not isinstance(pair[key], str):
            raise malformed(f"The parameter {parameter}{number}.{key} has parts.")
        found[pair[key]] = _value(pair["Value"])
    return found or None


def _value(node: Any) -> Any:
    """A text, or the value of a message attribute."""
    if not isinstance(node, dict):
        return node
    lists = {name: _items(node[element]) for name, element in _VALUE_LISTS.items() if element in node}
    return {name: each for name, each in node.items() if name not in _VALUE_LISTS} | lists


# --- out -------------------------------------------------------------

# Where an element of a list or map is not called as its member in the model. For maps: element, name, value.
_ELEMENTS = {
    "Messages": "Message",
    "QueueUrls": "QueueUrl",
    "queueUrls": "QueueUrl",
    "Results": "ListMessageMoveTasksResultEntry",
    "Failed": "BatchResultErrorEntry",
}
_PAIRS = {
    "Attributes": ("Attribute", "Name", "Value"),
    "MessageAttributes": ("MessageAttribute", "Name", "Value"),
    "Tags": ("Tag", "Key", "Value"),
}
_WITHOUT_RESULT = frozenset(
    (
        "AddPermission",
        "ChangeMessageVisibility",
        "DeleteMessage",
        "DeleteQueue",
        "PurgeQueue",
        "RemovePermission",
        "SetQueueAttributes",
        "TagQueue",
        "UntagQueue",
    )
)

_ESCAPED = re.compile('[&<>"\r]|[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]')
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "\r": "&#xD;"}


def _escape(text: str) -> str:
    """Text in XML 1.0. What that has no character for becomes U+FFFD; only other protocols can send such a thing."""
    return _ESCAPED.sub(lambda match: _ENTITIES.get(match[0], "\ufffd"), text)


def xml(operation: str, output: Output, request_id: str) -> bytes:
    result = ""
    if operation not in _WITHOUT_RESULT:
        inner = _members(operation, output)
        result = f"<{operation}Result>{inner}</{operation}Result>" if inner else f"<{operation}Result/>"
    return (
        f'<?xml version="1.0"?><{operation}Response xmlns="{NAMESPACE}">{result}'
        f"<ResponseMetadata><RequestId>{request_id}</RequestId></ResponseMetadata></{operation}Response>"
    ).encode()


def _members(operation: str, output: Output) -> str:
    return "".join([_member(operation, name, value) for name, value in output.items()])


def _member(operation: str, name: str, value: Any) -> str:
    if isinstance(value, dict) and name in _PAIRS:
        element, key, inner = _PAIRS[name]
        return "".join(
            [
                f"<{element}><{key}>{_escape(each)}</{key}>{_member(operation, inner, text)}</{element}>"
                for each, text in value.items()
            ]
        )
    if isinstance(value, dict):
        return f"<{name}>{_members(operation, value)}</{name}>"
    if isinstance(value, list):
        element = _ELEMENTS.get(name, f"{operation}ResultEntry")
        return "".join([_member(operation, element, each) for each in value])
    return f"<{name}>{_escape(_text(value))}</{name}>"


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    return str(msgspec.to_builtins(value)) if not isinstance(value, bool) else str(value).lower()


def xml_error(error: SqsError, request_id: str) -> bytes:
    kind = error.blame
    return (
        f'<?xml version="1.0"?><ErrorResponse xmlns="{NAMESPACE}"><Error><Type>{kind}</Type>'
        f"<Code>{error.code}</Code><Message>{_escape(error.message)}</Message><Detail/></Error>"
        f"<RequestId>{request_id}</RequestId></ErrorResponse>"
    ).encode()


def json(operation: str, output: Output, request_id: str) -> bytes:
    """For clients of the Query protocol that accept JSON: the same structure, with lists where XML repeats."""
    answer: dict[str, Any] = {}
    if operation not in _WITHOUT_RESULT:
        found = {name: value for name, value in output.items() if value not in ([], {})}
        answer[f"{operation}Result"] = _listed(found) or _NOTHING_FOUND.get(operation)
    answer["ResponseMetadata"] = {"RequestId": request_id}
    return msgspec.json.encode({f"{operation}Response": answer})


def _listed(value: Any) -> Any:
    if isinstance(value, list):
        return [_listed(each) for each in value]
    if not isinstance(value, dict):
        return value
    listed: dict[str, Any] = {}
    for name, inner in value.items():
        if name in _PAIRS:
            element = _PAIRS[name]
            listed[name] = [{element[1]: each, element[2]: _listed(pair)} for each, pair in inner.items()]
        else:
            listed[_JSON_NAMES.get(str(name), str(name))] = _listed(inner)
    return listed


_JSON_NAMES = {"Messages": "messages", "QueueUrls": "queueUrls"}
_NOTHING_FOUND = {"ReceiveMessage": {"messages": None}, "ListQueues": {"queueUrls": None}}


def json_error(error: SqsError, request_id: str) -> bytes:
    kind = error.blame
    told = {"Type": kind, "Code": error.code, "Message": error.message, "Detail": None}
    return msgspec.json.encode({"Error": told, "RequestId": request_id})
