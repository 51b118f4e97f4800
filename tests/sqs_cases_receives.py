"""Cases: messages are received, with what was asked for of their attributes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.sqs_cases import (
    ACCOUNT,
    DEAD_LETTERS,
    MILLISECONDS,
    NO_QUEUE,
    SEQUENCE,
    SOME,
    WRONG_FOR_KIND,
    Case,
    Has,
    Refused,
    Step,
    invalid_value,
    nothing_left,
    row,
    send,
)
from tests.sqs_cases_messages import PUNCTUATION, binary_value, comes, md5_of, received, text_value

ALWAYS = {
    "SenderId": ACCOUNT,
    "SentTimestamp": MILLISECONDS,
    "ApproximateReceiveCount": "1",
    "ApproximateFirstReceiveTimestamp": MILLISECONDS,
}
IN_FIFO = {"MessageGroupId": "g", "MessageDeduplicationId": SOME, "SequenceNumber": SEQUENCE}
_NAMED = {"foo.bar": text_value("1"), "foo.baz": text_value("2"), "food": text_value("3"), "bin": binary_value(b"4")}
_SEND_NAMED = send("a", MessageAttributes=_NAMED)


def picked(names: list[str], *wanted: str) -> Case:
    """The attributes that a receive with these names shows."""
    shown = {name: _NAMED[name] for name in wanted}
    more = {"MessageAttributes": shown, "MD5OfMessageAttributes": md5_of(shown)} if shown else {}
    answers = {"Messages": [received("a", **more)]}
    return row(
        f"attributes {names}", "ReceiveMessage", {"MessageAttributeNames": names}, answers, before=(_SEND_NAMED,)
    )


def shows(name: str, given: Any, attributes: Any, kinds: str = "sf") -> Case:
    more = {"Attributes": attributes} if attributes else {}
    return row(name, "ReceiveMessage", given, {"Messages": [received("one", **more)]}, before=(send(),), kinds=kinds)


def bad_number(parameter: str, low: int, high: int) -> Iterator[Case]:
    for value in (low - 1, high + 1):
        reason = f"Must be between {low} and {high}, if provided."
        if parameter == "WaitTimeSeconds":
            reason = f"Must be >= {low} and <= {high}, if provided."
        yield row(f"{parameter} {value}", "ReceiveMessage", {parameter: value}, invalid_value(value, parameter, reason))


ATTEMPT = "ReceiveRequestAttemptId"
RECEIVED = [
    row("nothing there", "ReceiveMessage", {}, {}),
    row("one", "ReceiveMessage", {}, {"Messages": [received("one")]}, before=(send(),)),
    row("no queue", "ReceiveMessage", {}, NO_QUEUE, attributes=None),
    shows("all attributes", {"MessageSystemAttributeNames": ["All"]}, ALWAYS, "s"),
    shows("all attributes", {"MessageSystemAttributeNames": ["All"]}, {**ALWAYS, **IN_FIFO}, "f"),
    shows("all attributes in the old way", {"AttributeNames": ["All"]}, ALWAYS, "s"),
    shows("all attributes in the old way", {"AttributeNames": ["All"]}, {**ALWAYS, **IN_FIFO}, "f"),
    *(
        shows(f"attribute {name}", {"MessageSystemAttributeNames": [name]}, {name: value})
        for name, value in ALWAYS.items()
    ),
    *(
        shows(f"attribute {name} in the old way", {"AttributeNames": [name]}, {name: value})
        for name, value in ALWAYS.items()
    ),
    *(
        shows(f"attribute {name}", {"MessageSystemAttributeNames": [name]}, {name: value}, "f")
        for name, value in IN_FIFO.items()
    ),
    *(shows(f"attribute {name}", {"MessageSystemAttributeNames": [name]}, {}, "s") for name in IN_FIFO),
    *(
        shows(f"attribute {name}", {"MessageSystemAttributeNames": [name]}, {})
        for name in ("AWSTraceHeader", "DeadLetterQueueSourceArn")
    ),
    shows(
        "attributes in both ways, of which the newer counts",
        {"AttributeNames": ["SenderId"], "MessageSystemAttributeNames": ["ApproximateReceiveCount"]},
        {"ApproximateReceiveCount": "1"},
    ),
    *(
        row(
            f"unknown in {member}",
            "ReceiveMessage",
            {member: ["SenderId", "Colour"]},
            Refused("InvalidAttributeName", "Unknown Attribute Colour."),
        )
        for member in ("AttributeNames", "MessageSystemAttributeNames")
    ),
    picked(["All"], *_NAMED),
    picked([".*"], *_NAMED),
    picked(["*"], *_NAMED),
    picked(["foo.*"], "foo.bar", "foo.baz", "food"),
    picked(["fo.*", "absent.*"], "foo.bar", "foo.baz", "food"),
    picked(["foo.ba.*"], "foo.bar", "foo.baz"),
    picked(["foo*"]),
    picked(["foo.bar"], "foo.bar"),
    picked(["food", "bin", "absent"], "food", "bin"),
    picked(["foo.b.*", "food"], "foo.bar", "foo.baz", "food"),
    picked(["foo"]),
    picked(["absent", "FOOD"]),
    row(
        "no attributes unless they are asked for",
        "ReceiveMessage",
        {},
        {"Messages": [received("a")]},
        before=(_SEND_NAMED,),
    ),
    row(
        "ten",
        "ReceiveMessage",
        {"MaxNumberOfMessages": 10},
        {"Messages": [received(str(number)) for number in range(10)]},
        before=tuple(send(str(number)) for number in range(11)),
    ),
    row(
        "one of two",
        "ReceiveMessage",
        {"MaxNumberOfMessages": 1},
        {"Messages": [received("a")]},
        before=(send("a"), send("b")),
    ),
    *bad_number("MaxNumberOfMessages", 1, 10),
    *bad_number("VisibilityTimeout", 0, 43_200),
    *bad_number("WaitTimeSeconds", 0, 20),
    row(
        "the longest timeout", "ReceiveMessage", {"VisibilityTimeout": 43_200}, before=(send(),), then=(nothing_left(),)
    ),
    row("no timeout", "ReceiveMessage", {"VisibilityTimeout": 0}, before=(send(),), then=(comes("one"),)),
    row(
        "the longest wait", "ReceiveMessage", {"WaitTimeSeconds": 20}, {"Messages": [received("one")]}, before=(send(),)
    ),
    row("no wait", "ReceiveMessage", {"WaitTimeSeconds": 0}, {}),
    row(
        "an attempt id",
        "ReceiveMessage",
        {ATTEMPT: "a"},
        invalid_value("a", ATTEMPT, WRONG_FOR_KIND),
        kinds="s",
    ),
    row(
        "an attempt id",
        "ReceiveMessage",
        {ATTEMPT: PUNCTUATION + "a" * 96},
        {"Messages": [received("one")]},
        before=(send(),),
        kinds="f",
    ),
    *(
        row(
            f"an attempt id {value[:5]!r}",
            "ReceiveMessage",
            {ATTEMPT: value},
            invalid_value(
                value,
                ATTEMPT,
                f"{ATTEMPT} can only include alphanumeric and punctuation characters. 1 to 128 in length.",
            ),
            kinds="f",
        )
        for value in ("a" * 129, "a b", "\u00e9")
    ),
    Case(
        "ReceiveMessage: a dead letter keeps its id, its attributes and its count",
        (
            *DEAD_LETTERS,
            Step("SendMessage", {"MessageBody": "a", "MessageAttributes": _NAMED}, keeps={"id": "MessageId"}),
            Step("ReceiveMessage", {"VisibilityTimeout": 0}, {"Messages": [received("a")]}),
            nothing_left(),
            Step(
                "ReceiveMessage",
                {"QueueUrl": "$dead", "MessageSystemAttributeNames": ["All"], "MessageAttributeNames": ["All"]},
                {
                    "Messages": [
                        received(
                            "a",
                            MessageId="$id",
                            MessageAttributes=_NAMED,
                            MD5OfMessageAttributes=md5_of(_NAMED),
                            Attributes=Has({"DeadLetterQueueSourceArn": "$arn", "ApproximateReceiveCount": "2"}),
                        )
                    ]
                },
            ),
        ),
    ),
]

CASES = RECEIVED
