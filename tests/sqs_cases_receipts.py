"""Cases: messages are deleted and their visibility is changed by their handles; and the batches of all that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.sqs_cases import (
    ABSENT,
    NO_QUEUE,
    NOT_IN_STANDARD,
    UUID,
    WRONG_FOR_KIND,
    Case,
    Has,
    Refused,
    Step,
    failed,
    invalid,
    invalid_value,
    missing,
    nothing_left,
    receive,
    row,
    send,
)
from tests.sqs_cases_messages import (
    BAD_CHARACTERS,
    BAD_CONTENTS,
    MIB,
    NO_DEDUPLICATION,
    SMALL,
    TIMESTAMP,
    comes,
    md5,
    md5_of,
    text_value,
    too_long,
)

HANDLE = {"ReceiptHandle": "$handle"}


def bad_handle(handle: str) -> Refused:
    return Refused("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not a valid receipt handle.')


EXPIRED = invalid_value("$handle", "ReceiptHandle", "The receipt handle has expired.")
GONE = invalid_value(
    "$handle", "ReceiptHandle", "Message does not exist or is not available for visibility timeout change."
)
DELETE = Step("DeleteMessage", HANDLE)
TAKEN = (send(), receive())
SEEN = (send(), receive(VisibilityTimeout=0))  # received, and visible again
OTHER_QUEUE = (
    Step("CreateQueue", {"QueueName": "$n-other$x"}, keeps={"other": "QueueUrl"}),
    send(QueueUrl="$other"),
    receive(QueueUrl="$other"),
)
BAD_HANDLES = ("garbage", "r", "r" + "A" * 26, "r" + "_" * 27, "a" * 2000, "\u00e9 <&>", "r" + "A" * 26 + "\n")

DELETED = [
    row("one", "DeleteMessage", HANDLE, {}, before=TAKEN, then=(nothing_left(),)),
    row("twice", "DeleteMessage", HANDLE, {}, before=(*TAKEN, DELETE)),
    row("of a queue that was purged", "DeleteMessage", HANDLE, {}, before=(*TAKEN, Step("PurgeQueue"))),
    row("one that is visible again", "DeleteMessage", HANDLE, {}, before=SEEN, then=(nothing_left(),), kinds="s"),
    row("by an expired handle", "DeleteMessage", HANDLE, EXPIRED, before=SEEN, then=(comes("one"),), kinds="f"),
    row(
        "by the handle of an earlier receive",
        "DeleteMessage",
        HANDLE,
        {},
        before=(*SEEN, comes("one")),
        then=(nothing_left(),),
        kinds="s",
    ),
    row(
        "by the handle of an earlier receive", "DeleteMessage", HANDLE, EXPIRED, before=(*SEEN, comes("one")), kinds="f"
    ),
    row("of another queue", "DeleteMessage", HANDLE, bad_handle("$handle"), before=OTHER_QUEUE),
    *(
        row(f"by {handle[-28:]!r}", "DeleteMessage", {"ReceiptHandle": handle}, bad_handle(handle))
        for handle in BAD_HANDLES
    ),
    row("no handle", "DeleteMessage", {}, missing("ReceiptHandle")),
    row("an empty handle", "DeleteMessage", {"ReceiptHandle": ""}, missing("ReceiptHandle")),
    row("no queue", "DeleteMessage", {"ReceiptHandle": "garbage"}, NO_QUEUE, attributes=None),
]

# --- visibility -------------------------------------------------------------


def until(seconds: Any, handle: str = "$handle") -> dict[str, Any]:
    return {"ReceiptHandle": handle, "VisibilityTimeout": seconds}


def bad_timeout(seconds: int) -> Refused:
    return invalid_value(seconds, "VisibilityTimeout", "Must be between 0 and 43200, if provided.")


CHANGE = "ChangeMessageVisibility"
CHANGED = [
    row("longer", CHANGE, until(600), {}, before=TAKEN, then=(nothing_left(), DELETE)),
    row("the longest", CHANGE, until(43_200), {}, before=TAKEN, then=(nothing_left(),)),
    row("over", CHANGE, until(0), {}, before=TAKEN, then=(comes("one"),)),
    *(row(f"{seconds} s", CHANGE, until(seconds), bad_timeout(seconds), before=TAKEN) for seconds in (-1, 43_201)),
    row("no timeout", CHANGE, HANDLE, missing("VisibilityTimeout"), before=TAKEN),
    row("no handle", CHANGE, {"VisibilityTimeout": 1}, missing("ReceiptHandle")),
    row("deleted", CHANGE, until(1), GONE, before=(*TAKEN, DELETE)),
    row("purged", CHANGE, until(1), GONE, before=(*TAKEN, Step("PurgeQueue"))),
    row("visible again", CHANGE, until(1), {}, before=SEEN, kinds="s", then=(comes("one"),)),
    row("visible again", CHANGE, until(1), EXPIRED, before=SEEN, kinds="f"),
    row("over when it is over", CHANGE, until(0), {}, before=SEEN, kinds="s", then=(comes("one"),)),
    row("of another queue", CHANGE, until(1), bad_handle("$handle"), before=OTHER_QUEUE),
    *(row(f"by {handle[-28:]!r}", CHANGE, until(1, handle), bad_handle(handle)) for handle in BAD_HANDLES),
    row("no queue", CHANGE, until(1, "garbage"), NO_QUEUE, attributes=None),
]

# --- batches -------------------------------------------------------------

BAD_ID = Refused(
    "InvalidBatchEntryId",
    "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at most 80 letters "
    "long.",
)


def entries_of(operation: str) -> Iterator[Case]:
    """What is the same for all batches. The handles are no handles, and yet each entry is for itself."""
    more = {"MessageBody": "a"} if operation == "SendMessageBatch" else {"ReceiptHandle": "garbage"}
    if operation == "ChangeMessageVisibilityBatch":
        more |= {"VisibilityTimeout": 1}

    def batch(name: str, ids: Any, answers: Any, **options: Any) -> Case:
        return row(name, operation, {"Entries": [{"Id": each, **more} for each in ids]}, answers, **options)

    none = Refused("EmptyBatchRequest", f"There should be at least one {operation}RequestEntry in the request.")
    many = Refused("TooManyEntriesInBatchRequest", "Maximum number of entries per request are 10. You have sent 11.")
    yield batch("no entries", (), none)
    yield row("no list of entries", operation, {}, none)
    yield batch("eleven entries", map(str, range(11)), many)
    ten = [str(number) for number in range(10)]
    told = [failed(each, bad_handle("garbage")) for each in ten]
    sent = [{"Id": each, "MessageId": UUID, "MD5OfMessageBody": md5("a")} for each in ten]
    yield batch("ten entries", ten, {"Successful": sent} if operation == "SendMessageBatch" else {"Failed": told})
    yield batch("an id twice", ("a", "b", "a"), Refused("BatchEntryIdsNotDistinct", "Id a repeated."))
    yield batch("ids of other case", ("a", "A"), Has({}))
    yield batch("the longest id", ("a-_" + "0" * 77,), Has({}))
    for each in ("", "a" * 81, "a b", "a.b", "\u00e9", "a\n"):
        yield batch(f"the id {each[:5]!r}", ("b", each), BAD_ID)
    yield batch("no id", ("a", ABSENT), missing(f"{operation}RequestEntry.2.Id"))
    yield batch("no queue", ("a",), NO_QUEUE, attributes=None)


def entry(entry_id: str, body: Any = "a", **more: Any) -> dict[str, Any]:
    return {"Id": entry_id, "MessageBody": body, **more}


def done(entry_id: str, body: str = "a", **more: Any) -> dict[str, Any]:
    return {"Id": entry_id, "MessageId": UUID, "MD5OfMessageBody": md5(body), **more}


def batch(name: str, entries: list[Any], answers: Any, **options: Any) -> Case:
    return row(name, "SendMessageBatch", {"Entries": entries}, answers, **options)


def refused_entry(name: str, given: dict[str, Any], refused: Refused, **options: Any) -> Case:
    """One of three is refused and the others are sent."""
    entries = [entry("a"), {"Id": "b", **given}, entry("c")]
    return batch(name, entries, {"Successful": [done("a"), done("c")], "Failed": [failed("b", refused)]}, **options)


def batch_too_long(size: int) -> Refused:
    message = f"Batch requests cannot be longer than {MIB} bytes. You have sent {size} bytes."
    return Refused("BatchRequestTooLong", message)


TRACED = {"AWSTraceHeader": text_value("Root=1-5759e988-bd862e3fe1be46a994272793")}
EMPTY_ATTRIBUTE = invalid("Message (user) attribute 'a' must contain a non-empty value of type 'String'.")
SENT = [
    batch(
        "in order",
        [entry("x", "one"), entry("y", "two")],
        {"Successful": [done("x", "one"), done("y", "two")]},
        then=(
            Step(
                "ReceiveMessage",
                {"MaxNumberOfMessages": 10},
                {"Messages": [Has({"Body": "one"}), Has({"Body": "two"})]},
            ),
        ),
    ),
    batch(
        "attributes",
        [entry("x", MessageAttributes=TIMESTAMP, MessageSystemAttributes=TRACED)],
        {
            "Successful": [
                done("x", MD5OfMessageAttributes=md5_of(TIMESTAMP), MD5OfMessageSystemAttributes=md5_of(TRACED))
            ]
        },
    ),
    batch("delays", [entry("x", DelaySeconds=900)], {"Successful": [done("x")]}, kinds="s", then=(nothing_left(),)),
    batch("no delays", [entry("x", DelaySeconds=0)], {"Successful": [done("x")]}, then=(comes("a"),)),
    batch(
        "a group and a deduplication id",
        [
            entry("x", MessageGroupId="g", MessageDeduplicationId="d"),
            entry("y", MessageGroupId="g", MessageDeduplicationId="d"),
        ],
        {"Successful": [done("x"), done("y")]},
        kinds="f",
        then=(comes("a", {"MaxNumberOfMessages": 10}),),
    ),
    batch("a group in a standard queue", [entry("x", MessageGroupId="g")], {"Successful": [done("x")]}, kinds="s"),
    row(
        "no body",
        "SendMessageBatch",
        {"Entries": [entry("x"), {"Id": "y"}]},
        missing("SendMessageBatchRequestEntry.2.MessageBody"),
    ),
    refused_entry("an empty body", {"MessageBody": ""}, missing("MessageBody")),
    refused_entry("a bad character", {"MessageBody": "\x01"}, BAD_CONTENTS),
    refused_entry(
        "an attribute with a bad character",
        entry("b", MessageAttributes={"a": text_value("\x01")}),
        invalid(BAD_CHARACTERS),
    ),
    refused_entry("an attribute without a value", entry("b", MessageAttributes={"a": text_value("")}), EMPTY_ATTRIBUTE),
    refused_entry("more than the queue takes", {"MessageBody": "b" * 1025}, too_long(1024), attributes=SMALL),
    refused_entry(
        "a delay that is too long",
        {"MessageBody": "b", "DelaySeconds": 901},
        invalid_value(901, "DelaySeconds", "DelaySeconds must be >= 0 and <= 900."),
    ),
    refused_entry(
        "a delay in a FIFO queue",
        {"MessageBody": "b", "DelaySeconds": 2},
        invalid_value(2, "DelaySeconds", WRONG_FOR_KIND),
        kinds="f",
    ),
    refused_entry(
        "a deduplication id in a standard queue",
        {"MessageBody": "b", "MessageDeduplicationId": "d"},
        invalid_value("d", "MessageDeduplicationId", NOT_IN_STANDARD),
        kinds="s",
    ),
    batch("nothing but what is refused", [entry("x", "\x01")], {"Failed": [failed("x", BAD_CONTENTS)]}),
    batch(
        "one without a group",
        [entry("x"), entry("y", MessageGroupId=ABSENT)],
        invalid(missing("MessageGroupId").message),
        kinds="f",
        then=(nothing_left(),),
    ),
    batch(
        "one without deduplication",
        [entry("x"), entry("y", MessageDeduplicationId=ABSENT)],
        NO_DEDUPLICATION,
        kinds="f",
        then=(nothing_left(),),
    ),
    batch(
        "deduplication by content",
        [entry("x", MessageDeduplicationId=ABSENT), entry("y", MessageDeduplicationId=ABSENT)],
        {"Successful": [done("x"), done("y")]},
        kinds="f",
        attributes={"ContentBasedDeduplication": "true"},
        then=(comes("a", {"MaxNumberOfMessages": 10}),),
    ),
    batch(
        "1 MiB", [entry("x", "b" * (MIB - 1)), entry("y")], Has({"Successful": [Has({"Id": "x"}), Has({"Id": "y"})]})
    ),
    batch("a byte more", [entry("x", "b" * MIB), entry("y")], batch_too_long(MIB + 1), then=(nothing_left(),)),
    batch("a byte more in one", [entry("x", "b" * (MIB + 1))], batch_too_long(MIB + 1)),
]

SETTLED = [
    row(
        "each for itself",
        "DeleteMessageBatch",
        {"Entries": [{"Id": "x", **HANDLE}, {"Id": "y", "ReceiptHandle": "garbage"}, {"Id": "z", **HANDLE}]},
        {"Successful": [{"Id": "x"}, {"Id": "z"}], "Failed": [failed("y", bad_handle("garbage"))]},
        before=TAKEN,
        then=(nothing_left(),),
    ),
    row(
        "an expired handle",
        "DeleteMessageBatch",
        {"Entries": [{"Id": "x", **HANDLE}]},
        {"Failed": [failed("x", EXPIRED)]},
        before=SEEN,
        kinds="f",
    ),
    row(
        "no handle",
        "DeleteMessageBatch",
        {"Entries": [{"Id": "x"}]},
        missing("DeleteMessageBatchRequestEntry.1.ReceiptHandle"),
    ),
    row(
        "each for itself",
        "ChangeMessageVisibilityBatch",
        {
            "Entries": [
                {"Id": "w", **until(43_201)},
                {"Id": "x", **until(43_200)},
                {"Id": "y", **until(1, "garbage")},
                {"Id": "z", **HANDLE},
            ]
        },
        {
            "Successful": [{"Id": "x"}],
            "Failed": [
                failed("w", bad_timeout(43_201)),
                failed("z", missing("VisibilityTimeout")),
                failed("y", bad_handle("garbage")),
            ],
        },
        before=TAKEN,
        then=(nothing_left(),),
    ),
    row(
        "over",
        "ChangeMessageVisibilityBatch",
        {"Entries": [{"Id": "x", **until(0)}]},
        {"Successful": [{"Id": "x"}]},
        before=TAKEN,
        then=(comes("one"),),
    ),
    row(
        "visible again",
        "ChangeMessageVisibilityBatch",
        {"Entries": [{"Id": "x", **until(1)}]},
        {"Successful": [{"Id": "x"}]},
        before=SEEN,
        kinds="s",
    ),
    row(
        "deleted",
        "ChangeMessageVisibilityBatch",
        {"Entries": [{"Id": "x", **until(1)}]},
        {"Failed": [failed("x", GONE)]},
        before=(*TAKEN, DELETE),
    ),
]

BATCHES = ("SendMessageBatch", "DeleteMessageBatch", "ChangeMessageVisibilityBatch")
CASES = [*DELETED, *CHANGED, *(case for name in BATCHES for case in entries_of(name)), *SENT, *SETTLED]
