"""Bodies and attributes of messages: what is allowed, their MD5s, and how they become a draft and come back.

A String attribute is one of tq's headers. Others keep their type beside them. What the service itself adds to a
message, such as a trace header, is kept in its notes.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import msgspec

from tq import model
from tq.model import TEXT, Attribute, Draft
from tq.web.sqs.errors import SqsError, invalid_parameter, invalid_value, missing, modeled
from tq.web.sqs.shapes import AttributeValue, Message

MAX_ATTRIBUTES = 10
MAX_NAME_LENGTH = MAX_TYPE_LENGTH = 256
MAX_DELAY_S = 900
MAX_TRACE_LENGTH = 1_024  # characters; X-Ray's own are far shorter, and it counts against no limit

TRACE_HEADER = "AWSTraceHeader"
GROUP = "MessageGroupId"  # of a message in a standard queue, which it keeps but which orders nothing there

_INVALID = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # what is no character of XML 1.0
_VALID_ASCII = bytes([0x09, 0x0A, 0x0D, *range(0x20, 0x80)])
_NAME = re.compile("[A-Za-z0-9_.\u00c0-\u017f-]+")  # the service takes European letters too
_TYPE = re.compile(r"(String|Number|Binary)(\.[A-Za-z0-9_\-.]+)?")
_ID = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)

_INVALID_CHARACTERS = (
    "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | "
    "#x10000 to #x10FFFF"
)


def to_draft(message: Message, is_fifo: bool, trace: str | None) -> Draft:
    """What is to be sent. `trace` is the request's X-Amzn-Trace-Id. Raises SqsError."""
    body = message.message_body
    if not body:
        raise missing("MessageBody")
    content = body.encode()
    if (not content.isascii() or content.translate(None, _VALID_ASCII)) and _INVALID.search(body):  # most is ASCII
        raise modeled("InvalidMessageContents", _INVALID_CHARACTERS)
    delay_s = message.delay_seconds
    if delay_s is not None and not 0 <= delay_s <= MAX_DELAY_S:
        raise invalid_value(delay_s, "DelaySeconds", f"DelaySeconds must be >= 0 and <= {MAX_DELAY_S}.")
    headers, attributes = _split(message.message_attributes) if message.message_attributes else (None, None)
    group, dedup_id = message.message_group_id, message.message_deduplication_id
    if group is not None:
        check_id(group, "MessageGroupId")
    if dedup_id is not None:
        check_id(dedup_id, "MessageDeduplicationId")
        if not is_fifo:
            reason = "The request includes a parameter that is not valid for this queue type."
            raise invalid_value(dedup_id, "MessageDeduplicationId", reason)
    notes = _notes(message, trace) if trace or message.message_system_attributes else None
    if group is not None and not is_fifo:
        notes = {**(notes or {}), GROUP: group}
        group = None
    delay_ms = None if delay_s is None else delay_s * 1000
    return Draft(content, TEXT, delay_ms, None, 0, group, dedup_id, headers or None, attributes or None, notes or None)


def check_id(value: str, parameter: str) -> None:
    """Raises SqsError for what is no id of a group, a deduplication or a receive attempt."""
    if not _ID.fullmatch(value):
        reason = f"{parameter} can only include alphanumeric and punctuation characters. 1 to 128 in length."
        raise invalid_value(value, parameter, reason)


def _notes(message: Message, trace: str | None) -> dict[str, str]:
    notes = {TRACE_HEADER: trace} if trace and _is_trace(trace) else {}
    for name, value in (message.message_system_attributes or {}).items():
        if name != TRACE_HEADER:
            raise invalid_parameter(f"Message system attribute name '{name}' is invalid.")
        if value.data_type != "String" or not value.string_value:
            raise invalid_parameter(f"The message system attribute '{name}' has an invalid message attribute type.")
        if not _is_trace(value.string_value):
            raise invalid_parameter(f"The message system attribute '{name}' is too long or has invalid characters.")
        notes[name] = value.string_value
    return notes


def _is_trace(text: str) -> bool:
    return len(text) <= MAX_TRACE_LENGTH and not _INVALID.search(text)


def _split(given: dict[str, AttributeValue]) -> tuple[dict[str, str], dict[str, Attribute]]:
    """Checked attributes: those of the type String, and all others. Raises SqsError."""
    if len(given) > MAX_ATTRIBUTES:
        raise invalid_parameter(
            f"Number of message attributes [{len(given)}] exceeds the allowed maximum [{MAX_ATTRIBUTES}]."
        )
    headers: dict[str, str] = {}
    attributes: dict[str, Attribute] = {}
    for name, value in given.items():
        _check_name(name)
        attribute = _checked(name, value)
        if attribute.type == "String" and isinstance(attribute.value, str):
            headers[name] = attribute.value
        else:
            attributes[name] = attribute
    return headers, attributes


def _check_name(name: str) -> None:
    if len(name) > MAX_NAME_LENGTH:
        raise invalid_parameter(f"Message (user) attribute names must be shorter than {MAX_NAME_LENGTH} Bytes")
    if not _NAME.fullmatch(name):
        raise invalid_parameter(
            "Message (user) attributes name can only contain upper and lower score characters, digits, periods, "
            "hyphens and underscores. "
        )
    if name.lower().startswith(("aws.", "amazon.", ".")) or name.endswith(".") or ".." in name:
        raise invalid_parameter(
            "You can't use message attribute names beginning with 'AWS.' or 'Amazon.'. These strings are reserved for "
            "internal use. Additionally, they cannot start or end with '.'."
        )


def _checked(name: str, value: AttributeValue) -> Attribute:
    """Raises SqsError."""
    kind = value.data_type
    if not kind:
        raise invalid_parameter(f"The message attribute '{name}' must contain non-empty message attribute type.")
    if len(kind) > MAX_TYPE_LENGTH:
        raise invalid_parameter(f"Message (user) attribute types must be shorter than {MAX_TYPE_LENGTH} Bytes")
    match = _TYPE.fullmatch(kind)
    if not match:
        raise invalid_parameter(
            f"The message attribute '{name}' has an invalid message attribute type, the set of supported type prefixes "
            "is Binary, Number, and String."
        )
    base = match[1]
    if value.string_list_values or value.binary_list_values:
        raise modeled(
            "UnsupportedOperation", "Message attribute list values in SendMessage operation are not supported."
        )
    if base == "Binary":
        if not value.binary_value:
            raise _empty(name, "Binary")
        return Attribute(kind, value.binary_value)
    text = value.string_value
    if not text:
        raise _empty(name, base)
    if _INVALID.search(text):
        raise invalid_parameter(_INVALID_CHARACTERS)
    if base == "Number" and not _NUMBER.fullmatch(text):
        raise invalid_parameter(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return Attribute(kind, text)


def _empty(name: str, base: str) -> SqsError:
    return invalid_parameter(f"Message (user) attribute '{name}' must contain a non-empty value of type '{base}'.")


# --- MD5 -------------------------------------------------------------


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5_of(headers: dict[str, str] | None, attributes: dict[str, Attribute] | None) -> str:
    """The MD5 of message attributes, as the developer guide of SQS says ("Calculating the MD5 message digest").

    Sorted by name: length and name, length and type, one byte for text (1) or binary (2), length and value.
    """
    pairs = {name: Attribute("String", value) for name, value in (headers or {}).items()} | (attributes or {})
    digested = bytearray()
    for name in sorted(pairs):
        kind, value = pairs[name].type, pairs[name].value
        is_binary = isinstance(value, bytes)
        data = value if isinstance(value, bytes) else value.encode()
        for part in (name.encode(), kind.encode()):
            digested += len(part).to_bytes(4) + part
        digested += (b"\2" if is_binary else b"\1") + len(data).to_bytes(4) + data
    return md5(bytes(digested))


# --- out -------------------------------------------------------------


_read_string = msgspec.json.Decoder(str).decode


def body_of(message: model.Message) -> str:
    """A message's content as SQS shows it: a JSON string is text, other JSON is its text, and binary is base64."""
    content = message.content
    if message.media_type is None and content.startswith(b'"'):
        return _read_string(content)
    try:
        return content.decode()
    except UnicodeDecodeError:
        return b64encode(content).decode()


def message_id(uuid: bytes) -> str:
    text = uuid.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def message_ids(uuid_prefix: bytes, sequences: Sequence[int]) -> list[str]:
    """The `message_id` of each of these messages of one queue: in half the time, because they begin alike."""
    head = message_id(uuid_prefix + bytes(7))[:21]
    tails = [f"{sequence:014x}" for sequence in sequences]
    return [f"{head}{tail[:2]}-{tail[2:]}" for tail in tails]


def sequence_number(sequence: int) -> str:
    return f"{sequence:020d}"


class Wanted:
    """Which attributes a receive asked for."""

    def __init__(self, system: set[str], names: list[str]) -> None:
        self.system = system
        self._is_all = not {"All", ".*", "*"}.isdisjoint(names)
        self._names = set(names)
        self._prefixes = tuple(name.removesuffix(".*") for name in names if name.endswith(".*"))
        self.is_any = bool(names)

    def takes(self, name: str) -> bool:
        return self._is_all or name in self._names or bool(self._prefixes and name.startswith(self._prefixes))


def shown_attributes(message: model.Message, wanted: Wanted) -> tuple[dict[str, Any], str]:
    """The message attributes that were asked for, as MessageAttributeValues, and the MD5 of them."""
    headers = {name: value for name, value in (message.headers or {}).items() if wanted.takes(name)}
    attributes = {name: value for name, value in (message.attributes or {}).items() if wanted.takes(name)}
    shown: dict[str, Any] = {name: {"StringValue": value, "DataType": "String"} for name, value in headers.items()}
    for name, attribute in attributes.items():
        field = "BinaryValue" if isinstance(attribute.value, bytes) else "StringValue"
        shown[name] = {field: attribute.value, "DataType": attribute.type}
    return shown, md5_of(headers, attributes) if shown else ""
