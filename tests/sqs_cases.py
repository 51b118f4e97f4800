"""What a case of the conformance suite is: a row of steps, each an operation, its input, and what must come of it.

A case runs in both protocols and, unless it says otherwise, on a standard and on a FIFO queue. Before its steps a queue
is made for it. Texts may hold `$name`, `$url` and `$arn` of that queue, `$n` and `$x` (its name without and its ending,
"" or ".fifo"), `$host`, and whatever a step before has kept.

In a FIFO queue a send that names no group gets one, and a deduplication id that nobody else has, and its answer must
have a sequence number; a queue that is made is a FIFO queue. `ABSENT` keeps that away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from msgspec import Struct, structs

ABSENT = object()
ACCOUNT = "000000000000"

_SQS = "com.amazonaws.sqs#"
_CORAL = "com.amazon.coral.service#"
_LEGACY = "AWS.SimpleQueueService."
# The name of the shape, or of what the model has no shape for: code, status, and the namespace of `__type`.
ERRORS: dict[str, tuple[str, int, str]] = {
    "QueueDoesNotExist": (_LEGACY + "NonExistentQueue", 400, _SQS),
    "QueueNameExists": ("QueueAlreadyExists", 400, _SQS),
    "QueueDeletedRecently": (_LEGACY + "QueueDeletedRecently", 400, _SQS),
    "PurgeQueueInProgress": (_LEGACY + "PurgeQueueInProgress", 403, _SQS),
    "BatchRequestTooLong": (_LEGACY + "BatchRequestTooLong", 400, _SQS),
    "TooManyEntriesInBatchRequest": (_LEGACY + "TooManyEntriesInBatchRequest", 400, _SQS),
    "EmptyBatchRequest": (_LEGACY + "EmptyBatchRequest", 400, _SQS),
    "InvalidBatchEntryId": (_LEGACY + "InvalidBatchEntryId", 400, _SQS),
    "BatchEntryIdsNotDistinct": (_LEGACY + "BatchEntryIdsNotDistinct", 400, _SQS),
    "UnsupportedOperation": (_LEGACY + "UnsupportedOperation", 400, _SQS),
    "InvalidAttributeName": ("InvalidAttributeName", 400, _SQS),
    "InvalidAttributeValue": ("InvalidAttributeValue", 400, _SQS),
    "InvalidMessageContents": ("InvalidMessageContents", 400, _SQS),
    "ReceiptHandleIsInvalid": ("ReceiptHandleIsInvalid", 400, _SQS),
    "OverLimit": ("OverLimit", 403, _SQS),
    "InvalidAddress": ("InvalidAddress", 404, _SQS),
    "ResourceNotFoundException": ("ResourceNotFoundException", 404, _SQS),
    "InvalidParameterValueException": ("InvalidParameterValue", 400, _CORAL),
    "MissingRequiredParameterException": ("MissingParameter", 400, _CORAL),
}


class Like:
    """Equals any text that matches a regular expression as a whole, or a number that does."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def __eq__(self, other: object) -> bool:
        return type(other) in (str, int) and re.fullmatch(self.pattern, str(other)) is not None

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"Like({self.pattern!r})"


class _Anything:
    """Equals whatever is there."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class Has:
    """Equals any dict that has these items; more may be beside them."""

    def __init__(self, items: dict[str, Any]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, dict) and all(
            name in other and want == other[name] for name, want in self.items.items()
        )

    def __hash__(self) -> int:
        return hash(tuple(self.items))

    def __repr__(self) -> str:
        return f"Has({self.items!r})"


ANYTHING = _Anything()
SUCCESS = Has({})
UUID = Like("[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
MD5 = Like("[0-9a-f]{32}")
SOME = Like("(?s).+")
SECONDS = Like(r"\d{10}")
MILLISECONDS = Like(r"\d{13}")
SEQUENCE = Like(r"\d{20}")


class Refused(Struct, frozen=True):
    """The shape of an error and its text. None is no text at all."""

    kind: str
    message: str | None


class Step(Struct, frozen=True):
    """`keeps`: names for parts of the output, by their paths. With `is_awaited` it is asked until that comes of it."""

    operation: str
    given: Mapping[str, Any] = {}
    answers: Any = SUCCESS
    keeps: Mapping[str, str] = {}
    is_awaited: bool = False


class Case(Struct, frozen=True):
    """`kinds`: "s" and "f" for standard and FIFO. `attributes` are of the queue; None makes no queue.

    With `is_strict` the server has the rules of 60 seconds.
    """

    name: str
    steps: tuple[Step, ...]
    kinds: str = "sf"
    attributes: Mapping[str, str] | None = {}
    is_strict: bool = False


def row(
    name: str,
    operation: str,
    given: Mapping[str, Any],
    answers: Any = SUCCESS,
    *,
    before: tuple[Step, ...] = (),
    then: tuple[Step, ...] = (),
    **options: Any,
) -> Case:
    """A case that is about one step."""
    return Case(f"{operation}: {name}", (*before, Step(operation, given, answers), *then), **options)


# --- what is refused -------------------------------------------------------------

NO_QUEUE = Refused("QueueDoesNotExist", "The specified queue does not exist.")
WRONG_FOR_KIND = "The request include parameter that is not valid for this queue type."
NOT_IN_STANDARD = "The request includes a parameter that is not valid for this queue type."


def invalid(message: str) -> Refused:
    return Refused("InvalidParameterValueException", message)


def invalid_value(value: object, parameter: str, reason: str) -> Refused:
    return invalid(f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> Refused:
    return Refused("MissingRequiredParameterException", f"The request must contain the parameter {parameter}.")


def no_resource(parameter: str) -> Refused:
    message = f"The resource that you specified for the {parameter} parameter doesn't exist."
    return Refused("ResourceNotFoundException", message)


def invalid_attribute(name: str) -> Refused:
    return Refused("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def unknown_attribute(name: str) -> Refused:
    return Refused("InvalidAttributeName", f"Unknown Attribute {name}.")


def failed(entry_id: str, refused: Refused) -> dict[str, Any]:
    """A BatchResultErrorEntry."""
    told: dict[str, Any] = {"Id": entry_id, "SenderFault": True, "Code": ERRORS[refused.kind][0]}
    return told if refused.message is None else {**told, "Message": refused.message}


# --- steps that come again -------------------------------------------------------------


def send(body: str = "one", **given: Any) -> Step:
    return Step("SendMessage", {"MessageBody": body, **given})


def receive(**given: Any) -> Step:
    """Receive one message, and keep its handle and id."""
    answers = {"Messages": [ANYTHING]}
    return Step("ReceiveMessage", given, answers, {"handle": "Messages.0.ReceiptHandle", "id": "Messages.0.MessageId"})


def nothing_left(**given: Any) -> Step:
    return Step("ReceiveMessage", given, {})


def attributes(**wanted: Any) -> Step:
    """See some attributes of the queue."""
    return Step("GetQueueAttributes", {"AttributeNames": list(wanted)}, {"Attributes": wanted})


def redrive(receives: object = 1, target: str = "$n-dead$x") -> str:
    """A RedrivePolicy."""
    arn = f"arn:aws:sqs:us-east-1:{ACCOUNT}:{target}"
    return json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": receives}, separators=(",", ":"))


DEAD_ARN = f"arn:aws:sqs:us-east-1:{ACCOUNT}:$n-dead$x"
DEAD_QUEUE = Step("CreateQueue", {"QueueName": "$n-dead$x"}, keeps={"dead": "QueueUrl"})
DEAD_LETTERS = (DEAD_QUEUE, Step("SetQueueAttributes", {"Attributes": {"RedrivePolicy": redrive()}}))


# --- names -------------------------------------------------------------


def filled(value: Any, names: Mapping[str, str]) -> Any:
    """A value in which each `$name` is what it stands for."""
    if isinstance(value, str):
        return re.sub(r"\$([a-z]+)", lambda match: names[match[1]], value)
    if isinstance(value, Mapping):
        return {filled(key, names): filled(each, names) for key, each in value.items() if each is not ABSENT}
    if isinstance(value, list | tuple):
        return [filled(each, names) for each in value]
    if isinstance(value, Has):
        return Has(filled(value.items, names))
    if isinstance(value, Refused):
        return structs.replace(value, message=filled(value.message, names))
    return value


def found(output: Any, path: str) -> str:
    """What stands at a path, such as `Messages.0.Body`."""
    for part in path.split("."):
        output = output[int(part)] if isinstance(output, list) else output[part]
    assert isinstance(output, str)
    return output
