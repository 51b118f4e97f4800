"""Cases: messages are sent, with their bodies, groups, attributes and limits."""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from typing import Any

from tests.sqs_cases import (
    ABSENT,
    ANYTHING,
    MD5,
    NO_QUEUE,
    NOT_IN_STANDARD,
    SOME,
    UUID,
    WRONG_FOR_KIND,
    Case,
    Has,
    Refused,
    Step,
    invalid,
    invalid_value,
    missing,
    nothing_left,
    receive,
    row,
)

MIB = 1_048_576
PUNCTUATION = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"


def md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()


def text_value(value: str, kind: str = "String") -> dict[str, str]:
    return {"StringValue": value, "DataType": kind}


def binary_value(value: bytes, kind: str = "Binary") -> dict[str, str]:
    return {"BinaryValue": b64encode(value).decode(), "DataType": kind}


def md5_of(attributes: Mapping[str, Mapping[str, str]]) -> str:
    """As the developer guide says; 235c5c510d26fb653d073faed50ae77c for `TIMESTAMP`."""
    digest = hashlib.md5()
    for name, value in sorted(attributes.items()):
        is_text = "StringValue" in value
        data = value["StringValue"].encode() if is_text else b64decode(value["BinaryValue"])
        for part in (name.encode(), value["DataType"].encode()):
            digest.update(len(part).to_bytes(4, "big") + part)
        digest.update((b"\1" if is_text else b"\2") + len(data).to_bytes(4, "big") + data)
    return digest.hexdigest()


TIMESTAMP = {"timestamp": text_value("1493147359900", "Number")}
assert md5_of(TIMESTAMP) == "235c5c510d26fb653d073faed50ae77c"


def sent(body: str, **more: Any) -> dict[str, Any]:
    """What SendMessage answers."""
    return {"MessageId": UUID, "MD5OfMessageBody": md5(body), **more}


def received(body: str, **more: Any) -> dict[str, Any]:
    """One message as it must come out."""
    return {"MessageId": UUID, "ReceiptHandle": SOME, "MD5OfBody": md5(body), "Body": body, **more}


def comes(body: str, given: Mapping[str, Any] | None = None, **more: Any) -> Step:
    return Step("ReceiveMessage", given or {}, {"Messages": [received(body, **more)]})


# --- bodies -------------------------------------------------------------

BODIES = {
    "one character": "a",
    "white space": " ",
    "all white space that there is": "\t\n\r \r\n",
    "markup": '<a href="\'">&amp;</a>]]>',
    "the first and last characters of each range": " \ud7ff\ue000\ufffd\U00010000\U0010ffff",
    "JSON": '{"a": [1.10, "b"]}',
    "a JSON string": '"a"',
    "parameters": "a=b&c=d+e%20f",
    "text beyond ASCII": "H\u00e4ftling \u6f22\u5b57 \U0001f642",
}
BAD_CHARACTERS = (
    "Invalid characters found. Valid unicode characters are #x9 | #xA | #xD | #x20 to #xD7FF | #xE000 to #xFFFD | "
    "#x10000 to #x10FFFF"
)
BAD_CONTENTS = Refused("InvalidMessageContents", BAD_CHARACTERS)


def too_long(limit: int) -> Refused:
    return invalid(f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes.")


def with_attribute(size: int) -> dict[str, Any]:
    """A message of so many bytes with its attribute of 20."""
    return {"MessageBody": "b" * (size - 20), "MessageAttributes": {"a123": text_value("0123456789")}}


SMALL = {"MaximumMessageSize": "1024"}
SENT = [
    *(
        row(name, "SendMessage", {"MessageBody": body}, sent(body), then=(comes(body),))
        for name, body in BODIES.items()
    ),
    *(
        row(f"character {character!r}", "SendMessage", {"MessageBody": f"a{character}b"}, BAD_CONTENTS)
        for character in "\x00\x01\x08\x0b\x0c\x0e\x1f\ufffe\uffff"
    ),
    row("no body", "SendMessage", {}, missing("MessageBody")),
    row("an empty body", "SendMessage", {"MessageBody": ""}, missing("MessageBody")),
    row("no queue", "SendMessage", {"MessageBody": "a"}, NO_QUEUE, attributes=None),
    row("1 MiB", "SendMessage", {"MessageBody": "b" * MIB}, sent("b" * MIB)),
    row("1 MiB and a byte", "SendMessage", {"MessageBody": "b" * (MIB + 1)}, too_long(MIB)),
    row("1 MiB with attributes", "SendMessage", with_attribute(MIB), Has({"MD5OfMessageAttributes": MD5})),
    row("1 MiB and a byte with attributes", "SendMessage", with_attribute(MIB + 1), too_long(MIB)),
    row("the queue's size", "SendMessage", {"MessageBody": "b" * 1024}, sent("b" * 1024), attributes=SMALL),
    row("a byte more", "SendMessage", {"MessageBody": "b" * 1025}, too_long(1024), attributes=SMALL),
    row(
        "the queue's size in bytes",
        "SendMessage",
        {"MessageBody": "\u00e9" * 512},
        sent("\u00e9" * 512),
        attributes=SMALL,
    ),
    row("a byte more in bytes", "SendMessage", {"MessageBody": "\u00e9" * 512 + "e"}, too_long(1024), attributes=SMALL),
    row(
        "the queue's size with attributes",
        "SendMessage",
        with_attribute(1024),
        Has({"MessageId": UUID}),
        attributes=SMALL,
    ),
    row("a byte more with attributes", "SendMessage", with_attribute(1025), too_long(1024), attributes=SMALL),
    row("no delay", "SendMessage", {"MessageBody": "a", "DelaySeconds": 0}, sent("a"), then=(comes("a"),)),
    row(
        "the longest delay",
        "SendMessage",
        {"MessageBody": "a", "DelaySeconds": 900},
        sent("a"),
        kinds="s",
        then=(nothing_left(),),
    ),
    *(
        row(
            f"a delay of {delay}",
            "SendMessage",
            {"MessageBody": "a", "DelaySeconds": delay},
            invalid_value(delay, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900."),
        )
        for delay in (-1, 901)
    ),
    row(
        "a delay in a FIFO queue",
        "SendMessage",
        {"MessageBody": "a", "DelaySeconds": 2},
        invalid_value(2, "DelaySeconds", WRONG_FOR_KIND),
        kinds="f",
    ),
]

# --- groups and deduplication -------------------------------------------------------------


def id_cases(parameter: str, kinds: str) -> Iterator[Case]:
    reason = f"{parameter} can only include alphanumeric and punctuation characters. 1 to 128 in length."
    for name, value in {"punctuation": PUNCTUATION, "one character": "a", "128 characters": "a" * 128}.items():
        yield row(
            f"{parameter} of {name}", "SendMessage", {"MessageBody": "a", parameter: value}, ANYTHING, kinds=kinds
        )
    for value in ("", "a" * 129, "a b", "\n", "\u00e9", "\U0001f642"):
        given = {"MessageBody": "a", parameter: value}
        refused = invalid_value(value, parameter, reason)
        yield row(f"{parameter} {value[:5]!r}", "SendMessage", given, refused, kinds=kinds)


NO_DEDUPLICATION = invalid(
    "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided explicitly"
)
_FIRST = Step(
    "SendMessage",
    {"MessageBody": "one", "MessageDeduplicationId": "d"},
    keeps={"first": "MessageId", "s": "SequenceNumber"},
)
_CONTENT = {"ContentBasedDeduplication": "true"}
_UNNAMED = {"MessageBody": "one", "MessageDeduplicationId": ABSENT}

ORDERED = [
    *id_cases("MessageGroupId", "sf"),
    *id_cases("MessageDeduplicationId", "f"),
    row(
        "no group", "SendMessage", {"MessageBody": "a", "MessageGroupId": ABSENT}, missing("MessageGroupId"), kinds="f"
    ),
    row(
        "no deduplication",
        "SendMessage",
        {"MessageBody": "a", "MessageDeduplicationId": ABSENT},
        NO_DEDUPLICATION,
        kinds="f",
    ),
    row(
        "a deduplication id",
        "SendMessage",
        {"MessageBody": "a", "MessageDeduplicationId": "d"},
        invalid_value("d", "MessageDeduplicationId", NOT_IN_STANDARD),
        kinds="s",
    ),
    row(
        "a group",
        "SendMessage",
        {"MessageBody": "a", "MessageGroupId": "g"},
        sent("a"),
        then=(comes("a", {"MessageSystemAttributeNames": ["MessageGroupId"]}, Attributes={"MessageGroupId": "g"}),),
    ),
    row(
        "a duplicate",
        "SendMessage",
        {"MessageBody": "other", "MessageDeduplicationId": "d"},
        {"MessageId": "$first", "MD5OfMessageBody": md5("other"), "SequenceNumber": "$s"},
        before=(_FIRST,),
        then=(comes("one", {"MaxNumberOfMessages": 10}),),
        kinds="f",
    ),
    row(
        "a duplicate of another group",
        "SendMessage",
        {"MessageBody": "one", "MessageDeduplicationId": "d", "MessageGroupId": "h"},
        Has({"MessageId": "$first"}),
        before=(_FIRST,),
        kinds="f",
    ),
    row(
        "the same id in another group where that is the scope",
        "SendMessage",
        {"MessageBody": "two", "MessageDeduplicationId": "d", "MessageGroupId": "h"},
        before=(_FIRST,),
        then=(Step("ReceiveMessage", {"MaxNumberOfMessages": 10}, {"Messages": [ANYTHING, ANYTHING]}),),
        attributes={"DeduplicationScope": "messageGroup"},
        kinds="f",
    ),
    row(
        "a duplicate of one that is gone",
        "SendMessage",
        {"MessageBody": "one", "MessageDeduplicationId": "d"},
        Has({"MessageId": "$first"}),
        before=(_FIRST, receive(), Step("DeleteMessage", {"ReceiptHandle": "$handle"})),
        then=(nothing_left(),),
        kinds="f",
    ),
    row(
        "no duplicate after a purge",
        "SendMessage",
        {"MessageBody": "two", "MessageDeduplicationId": "d"},
        before=(_FIRST, Step("PurgeQueue")),
        then=(comes("two"),),
        kinds="f",
    ),
    row(
        "a duplicate by its body, whatever its attributes",
        "SendMessage",
        {**_UNNAMED, "MessageAttributes": TIMESTAMP},
        Has({"MessageId": "$first"}),
        before=(Step("SendMessage", _UNNAMED, keeps={"first": "MessageId"}),),
        attributes=_CONTENT,
        kinds="f",
    ),
    row(
        "a duplicate by its body, told by its id",
        "SendMessage",
        {"MessageBody": "two", "MessageDeduplicationId": hashlib.sha256(b"one").hexdigest()},
        Has({"MessageId": "$first"}),
        before=(Step("SendMessage", _UNNAMED, keeps={"first": "MessageId"}),),
        attributes=_CONTENT,
        kinds="f",
    ),
    row(
        "the same body with an id of its own",
        "SendMessage",
        {"MessageBody": "one", "MessageDeduplicationId": "d"},
        before=(Step("SendMessage", _UNNAMED),),
        then=(Step("ReceiveMessage", {"MaxNumberOfMessages": 10}, {"Messages": [ANYTHING, ANYTHING]}),),
        attributes=_CONTENT,
        kinds="f",
    ),
]

# --- attributes -------------------------------------------------------------


def attributes_sent(name: str, attributes: dict[str, dict[str, str]]) -> Case:
    """Attributes that must come back as they were sent."""
    then = comes(
        "a", {"MessageAttributeNames": ["All"]}, MessageAttributes=attributes, MD5OfMessageAttributes=md5_of(attributes)
    )
    answers = sent("a", MD5OfMessageAttributes=md5_of(attributes))
    return row(name, "SendMessage", {"MessageBody": "a", "MessageAttributes": attributes}, answers, then=(then,))


def attribute_refused(name: str, attribute: Any, refused: Refused, called: str = "a") -> Case:
    return row(name, "SendMessage", {"MessageBody": "a", "MessageAttributes": {called: attribute}}, refused)


def empty(kind: str) -> Refused:
    return invalid(f"Message (user) attribute 'a' must contain a non-empty value of type '{kind}'.")


NO_TYPE = invalid("The message attribute 'a' must contain non-empty message attribute type.")
BAD_TYPE = invalid(
    "The message attribute 'a' has an invalid message attribute type, the set of supported type prefixes is Binary, "
    "Number, and String."
)
NO_LISTS = Refused("UnsupportedOperation", "Message attribute list values in SendMessage operation are not supported.")
NO_NUMBER = invalid("Can't cast the value of message (user) attribute 'a' to a number.")
TEN = {f"a{number}": text_value(str(number)) for number in range(10)}


BAD_NAME = invalid(
    "Message (user) attributes name can only contain upper and lower score characters, digits, periods, hyphens and "
    "underscores. "
)
RESERVED_NAME = invalid(
    "You can't use message attribute names beginning with 'AWS.' or 'Amazon.'. These strings are reserved for "
    "internal use. Additionally, they cannot start or end with '.'."
)


ATTRIBUTES = [
    attributes_sent("a timestamp", TIMESTAMP),
    attributes_sent("a text", {"a": text_value("<v&\"'> \r\n\u6f22\U0001f642")}),
    attributes_sent("a type of its own", {"a": text_value("v", "String.uuid"), "b": text_value("1", "Number.int")}),
    attributes_sent("binary", {"a": binary_value(bytes(range(256))), "b": binary_value(b"\0", "Binary.png")}),
    attributes_sent(
        "all kinds, out of order", {"b": text_value("v"), "a": binary_value(b"v"), "C": text_value("-1.5e9", "Number")}
    ),
    attributes_sent("ten", TEN),
    attributes_sent("a long name", {"a" * 256: text_value("v")}),
    attributes_sent("a European name", {"\u00fcbung": text_value("v")}),
    attributes_sent("an odd name", {"A-z_0.9": text_value("v"), "awsome": text_value("v"), "-": text_value("v")}),
    *(
        attributes_sent(f"the number {text}", {"a": text_value(text, "Number")})
        for text in ("0", "-1", "+1.50", ".5", "1e-3")
    ),
    row(
        "eleven",
        "SendMessage",
        {"MessageBody": "a", "MessageAttributes": {**TEN, "b": text_value("v")}},
        invalid("Number of message attributes [11] exceeds the allowed maximum [10]."),
    ),
    attribute_refused("an empty text", text_value(""), empty("String")),
    attribute_refused("an empty number", text_value("", "Number"), empty("Number")),
    attribute_refused("no value", {"DataType": "String"}, empty("String")),
    attribute_refused("no binary value", {"DataType": "Binary"}, empty("Binary")),
    attribute_refused("an empty binary value", binary_value(b""), empty("Binary")),
    attribute_refused("a text where a binary value is due", text_value("v", "Binary"), empty("Binary")),
    attribute_refused("a binary value where a text is due", binary_value(b"v", "String"), empty("String")),
    attribute_refused("a bad character", text_value("\x01"), invalid(BAD_CHARACTERS)),
    attribute_refused("no type", {"StringValue": "v"}, NO_TYPE),
    attribute_refused("an empty type", text_value("v", ""), NO_TYPE),
    attribute_refused("another type", text_value("v", "Text"), BAD_TYPE),
    attribute_refused("a type in other case", text_value("v", "string"), BAD_TYPE),
    attribute_refused("a type without its suffix", text_value("v", "String."), BAD_TYPE),
    attribute_refused("a type with another character", text_value("v", "String.\u00e4"), BAD_TYPE),
    attribute_refused("digits of another script", text_value("\u0661", "Number"), NO_NUMBER),
    attribute_refused("no number", text_value("one", "Number"), NO_NUMBER),
    attribute_refused("no number of its type", text_value("1,5", "Number.float"), NO_NUMBER),
    row(
        "a list of texts",
        "SendMessage",
        {"MessageBody": "a", "MessageAttributes": {"a": {"DataType": "String", "StringListValues": ["v"]}}},
        NO_LISTS,
    ),
    row(
        "a list of binary values",
        "SendMessage",
        {"MessageBody": "a", "MessageAttributes": {"a": {"DataType": "Binary", "BinaryListValues": ["dg=="]}}},
        NO_LISTS,
    ),
    *(attribute_refused(f"the name {name!r}", text_value("v"), BAD_NAME, name) for name in ("a b", "\u03b1", "")),
    *(
        attribute_refused(f"the name {name!r}", text_value("v"), RESERVED_NAME, name)
        for name in ("AWS.a", "aws.a", "Amazon.a", "AMAZON.b", ".a", "a.", "a..b")
    ),
    attribute_refused(
        "a type that is too long",
        text_value("v", "String." + "x" * 250),
        invalid("Message (user) attribute types must be shorter than 256 Bytes"),
    ),
    attribute_refused(
        "a name that is too long",
        text_value("v"),
        invalid("Message (user) attribute names must be shorter than 256 Bytes"),
        "a" * 257,
    ),
]

TRACE = "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1"
_TRACED = {"AWSTraceHeader": text_value(TRACE)}


def traced(name: str, attributes: Any, refused: Refused) -> Case:
    return row(name, "SendMessage", {"MessageBody": "a", "MessageSystemAttributes": attributes}, refused)


SYSTEM = [
    row(
        "a trace header",
        "SendMessage",
        {"MessageBody": "a", "MessageSystemAttributes": _TRACED},
        sent("a", MD5OfMessageSystemAttributes=md5_of(_TRACED)),
        then=(comes("a", {"MessageSystemAttributeNames": ["AWSTraceHeader"]}, Attributes={"AWSTraceHeader": TRACE}),),
    ),
    row(
        "a trace header does not count",
        "SendMessage",
        {"MessageBody": "a" * 1024, "MessageSystemAttributes": _TRACED},
        ANYTHING,
        attributes=SMALL,
    ),
    traced("another", {"SenderId": text_value("a")}, invalid("Message system attribute name 'SenderId' is invalid.")),
    traced(
        "a trace header that is a number",
        {"AWSTraceHeader": text_value("1", "Number")},
        invalid("The message system attribute 'AWSTraceHeader' has an invalid message attribute type."),
    ),
    *(
        traced(
            f"a trace header {name}",
            {"AWSTraceHeader": value},
            invalid("The message system attribute 'AWSTraceHeader' has an invalid message attribute type."),
        )
        for name, value in {
            "without a type": {"StringValue": TRACE},
            "that is binary": binary_value(b"v"),
            "that is empty": text_value(""),
            "that is a list": {"DataType": "String", "StringListValues": ["v"]},
            "that is a list of binary values": {"DataType": "Binary", "BinaryListValues": ["dg=="]},
        }.items()
    ),
]

CASES = [*SENT, *ORDERED, *ATTRIBUTES, *SYSTEM]
