"""The errors of Amazon SQS, with the codes and texts of the service.

Each has two codes: that of the Query protocol, which SDKs show as `Error.Code` in both protocols, and the name of its
shape in the service model, from which the JSON protocol makes the class of the exception.
"""

from __future__ import annotations

from tq import errors
from tq.errors import TqError


class SqsError(Exception):
    """What a client is told. `code` is of the Query protocol, `kind` of the JSON protocol."""

    def __init__(self, code: str, message: str, kind: str = "", status: int = 400, is_sender: bool = True) -> None:
        super().__init__(message)
        self.code = code
        self.kind = kind or code
        self.status = status
        self.message = message
        self.is_sender = is_sender

    @property
    def blame(self) -> str:
        return "Sender" if self.is_sender else "Receiver"


_PREFIX = "AWS.SimpleQueueService."
MODELED = "com.amazonaws.sqs#"
UNMODELED = "com.amazon.coral.service#"

# Of the shapes in the service model: those whose code in the Query protocol is not their name.
_CODES = {
    "QueueDoesNotExist": _PREFIX + "NonExistentQueue",
    "QueueNameExists": "QueueAlreadyExists",
    "QueueDeletedRecently": _PREFIX + "QueueDeletedRecently",
    "PurgeQueueInProgress": _PREFIX + "PurgeQueueInProgress",
    "BatchRequestTooLong": _PREFIX + "BatchRequestTooLong",
    "TooManyEntriesInBatchRequest": _PREFIX + "TooManyEntriesInBatchRequest",
    "EmptyBatchRequest": _PREFIX + "EmptyBatchRequest",
    "InvalidBatchEntryId": _PREFIX + "InvalidBatchEntryId",
    "BatchEntryIdsNotDistinct": _PREFIX + "BatchEntryIdsNotDistinct",
    "UnsupportedOperation": _PREFIX + "UnsupportedOperation",
}
_OWN_NAMES = (
    "InvalidAddress",
    "InvalidAttributeName",
    "InvalidAttributeValue",
    "InvalidMessageContents",
    "OverLimit",
    "ReceiptHandleIsInvalid",
    "ResourceNotFoundException",
)
_STATUSES = {"PurgeQueueInProgress": 403, "OverLimit": 403, "ResourceNotFoundException": 404, "InvalidAddress": 404}
MODELED_KINDS = frozenset((*_CODES, *_OWN_NAMES))


WRONG_VALUES = frozenset(
    (
        "BatchEntryIdsNotDistinct",
        "BatchRequestTooLong",
        "EmptyBatchRequest",
        "InvalidAttributeName",
        "InvalidAttributeValue",
        "InvalidBatchEntryId",
        "InvalidMessageContents",
        "InvalidParameterValueException",
        "TooManyEntriesInBatchRequest",
        "UnsupportedOperation",
    )
)
"""What an operation may find wrong without having looked for its queue."""


def modeled(kind: str, message: str) -> SqsError:
    """An error that the service model names."""
    return SqsError(_CODES.get(kind, kind), message, kind, _STATUSES.get(kind, 400))


def invalid_parameter(message: str) -> SqsError:
    return SqsError("InvalidParameterValue", message, "InvalidParameterValueException")


def invalid_value(value: object, parameter: str, reason: str) -> SqsError:
    return invalid_parameter(f"Value {value} for parameter {parameter} is invalid. Reason: {reason}")


def missing(parameter: str) -> SqsError:
    message = f"The request must contain the parameter {parameter}."
    return SqsError("MissingParameter", message, "MissingRequiredParameterException")


def no_such_queue() -> SqsError:
    return modeled("QueueDoesNotExist", "The specified queue does not exist.")


def no_such_resource(parameter: str) -> SqsError:
    return modeled(
        "ResourceNotFoundException", f"The resource that you specified for the {parameter} parameter doesn't exist."
    )


def invalid_receipt(handle: str) -> SqsError:
    return modeled("ReceiptHandleIsInvalid", f'The input receipt handle "{handle}" is not a valid receipt handle.')


def expired_receipt(handle: str) -> SqsError:
    return invalid_value(handle, "ReceiptHandle", "The receipt handle has expired.")


def no_such_message(handle: str) -> SqsError:
    reason = "Message does not exist or is not available for visibility timeout change."
    return invalid_value(handle, "ReceiptHandle", reason)


def too_long(limit: int) -> SqsError:
    return invalid_parameter(f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes.")


def from_tq(error: TqError) -> SqsError:
    """What one of tq's own errors is called in SQS, where the operation has no better word for it."""
    if isinstance(error, errors.QueueNotFound | errors.InvalidQueueName):
        return no_such_queue()
    if isinstance(error, errors.MessageTooLarge):
        return too_long(error.limit)
    if isinstance(error, errors.TooManyInFlight | errors.TooManyQueues | errors.QueueFull):
        return modeled("OverLimit", error.detail)
    if isinstance(error, errors.GroupMissing):
        return missing("MessageGroupId")
    if isinstance(error, errors.DedupIdMissing):
        return invalid_parameter(
            "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided "
            "explicitly"
        )
    if isinstance(error, errors.Forbidden | errors.HostNotAllowed | errors.CrossSiteRequest):
        return SqsError("AccessDenied", error.detail, "AccessDeniedException", 403)
    if isinstance(error, errors.InvalidRequest):
        return invalid_parameter(without_place(error))
    if isinstance(error, errors.Overloaded | errors.StorageFull | errors.StorageFailed):
        return SqsError("ServiceUnavailable", error.detail, status=503, is_sender=False)
    return SqsError("InternalFailure", error.detail, status=500, is_sender=False)


def without_place(error: TqError) -> str:
    """What was wrong, but not where it would stand in a request of tq's own protocol."""
    text, place, _ = error.detail.partition(" - at `$")
    return f"{text}." if place else text


def failure(entry_id: str | None, error: SqsError) -> dict[str, object]:
    """A BatchResultErrorEntry."""
    return {"Id": entry_id, "SenderFault": error.is_sender, "Code": error.code, "Message": error.message}
