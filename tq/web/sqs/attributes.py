"""The attributes of a queue: SQS' names and texts on one side, tq's settings and the queue's notes on the other.

A setting is what tq acts on. A note is a text that is only kept and shown: policies, keys of an encryption that tq does
not do, tags, and when the attributes were last changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from math import ceil
from typing import Any

import msgspec
from msgspec import Struct

from tq import model
from tq.web.sqs.errors import SqsError, invalid_parameter, invalid_value, modeled

MAX_MESSAGE_BYTES = 1_048_576
MAX_IN_FLIGHT = 120_000
RETENTION_S = 345_600  # 4 days
MAX_RETENTION_S = 1_209_600  # 14 days
MAX_RECEIVES = 1_000
MAX_TAGS = 50
MAX_TEXT_LENGTH = 20_480  # characters of a policy or any other attribute

LAST_MODIFIED = "LastModifiedTimestamp"
SCOPE = "DeduplicationScope"  # as a note: what is shown of a queue where it was changed, which changes nothing else
TAG = "tag:"  # begins the note of a tag


class Scope(Struct, frozen=True):
    """Where a request is about: what makes a queue's name its ARN and back."""

    region: str
    account: str

    def arn(self, queue: str) -> str:
        return f"arn:aws:sqs:{self.region}:{self.account}:{queue}"


def queue_of(arn: str) -> str | None:
    """The name in an ARN, whatever its region and account; None when it is no ARN of a queue."""
    parts = arn.split(":")
    return parts[5] if len(parts) == 6 and parts[:1] == ["arn"] and parts[2] == "sqs" and parts[5] else None


class Parsed(Struct, frozen=True):
    """Attributes as tq keeps them: settings by name, and notes, of which None is one that goes."""

    settings: dict[str, Any]
    notes: dict[str, str | None]


def parse(given: dict[str, str], is_fifo: bool) -> Parsed:
    """Raises SqsError."""
    settings: dict[str, Any] = {}
    notes: dict[str, str | None] = {}
    for name, text in given.items():
        if len(text) > MAX_TEXT_LENGTH:
            raise _invalid(name)
        if name in FIFO_ONLY and not is_fifo:
            raise _not_for_standard(name)
        if name in _NUMBERS:
            setting, low, high = _NUMBERS[name]
            settings[setting] = _number(name, text, low, high)
            if setting == "retention":
                settings["ttl"] = None  # which would end what is to be kept
        elif name in _CHOICES:
            setting, choices = _CHOICES[name]
            if text not in choices:
                raise _invalid(name)
            settings[setting] = choices[text]
        elif name == "RedrivePolicy":
            settings["dead_letter"] = _redrive_policy(text, is_fifo) if text else None
        elif name in _NOTES:
            if not (_NOTES[name](text) or (not text and name in _REMOVABLE)):
                raise _bad_allow_policy(text) if name == "RedriveAllowPolicy" else _invalid(name)
            notes[name] = text or None
        else:
            raise unknown(name)
    return Parsed(settings, notes | _encryption(given))


def _encryption(given: dict[str, str]) -> dict[str, str | None]:
    """What one kind of encryption changes of the other: a queue has one of them. Raises SqsError."""
    has_key, is_managed = given.get("KmsMasterKeyId"), given.get("SqsManagedSseEnabled")
    if has_key and is_managed == "true":
        raise modeled(
            "InvalidAttributeName",
            "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE or SQS "
            "SSE.",
        )
    if is_managed == "true":
        return {"KmsMasterKeyId": None, "KmsDataKeyReusePeriodSeconds": None}
    if has_key is not None and is_managed is None:
        return {"SqsManagedSseEnabled": "false" if has_key else None}
    return {}


def check_together(given: dict[str, str], has: dict[str, str]) -> None:
    """Whether attributes go with each other, and with those that a queue has. Raises SqsError."""
    after = has | given
    if after.get("FifoThroughputLimit") == "perMessageGroupId" and after.get("DeduplicationScope") != "messageGroup":
        raise modeled(
            "InvalidAttributeValue",
            "Invalid value for the parameter FifoThroughputLimit. Reason: The perMessageGroupId value is allowed only "
            "when the value for DeduplicationScope is messageGroup.",
        )


def unknown(name: str) -> SqsError:
    return modeled("InvalidAttributeName", f"Unknown Attribute {name}.")


def _invalid(name: str) -> SqsError:
    return modeled("InvalidAttributeValue", f"Invalid value for the parameter {name}.")


def _bad_allow_policy(text: str) -> SqsError:
    reason = "Amazon SQS can't create the redrive allow policy, as it's in an unsupported format."
    return invalid_value(text, "RedriveAllowPolicy", reason)


def _not_for_standard(name: str) -> SqsError:
    if name in ("DeduplicationScope", "FifoThroughputLimit"):
        message = f"You can specify the {name} only when FifoQueue is set to true."
        return modeled("InvalidAttributeName", message)
    return unknown(name)


def _is_number(text: str, low: int, high: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9 and low <= int(text) <= high


def _number(name: str, text: str, low: int, high: int) -> int:
    if not _is_number(text, low, high):
        raise _invalid(name)
    return int(text)


def _redrive_policy(text: str, is_fifo: bool) -> model.DeadLetter:
    """Raises SqsError. Whether the queue exists is found out when it is set."""

    def invalid(reason: str) -> SqsError:
        return invalid_value(text, "RedrivePolicy", reason)

    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        policy = None
    if not isinstance(policy, dict):
        raise invalid("Redrive policy is not a valid JSON map.")
    for name in ("deadLetterTargetArn", "maxReceiveCount"):
        if policy.get(name) is None:
            raise invalid(f"Redrive policy does not contain mandatory attribute: {name}.")
    for name in policy:
        if name not in ("deadLetterTargetArn", "maxReceiveCount"):
            raise invalid("Only following attributes are supported: [deadLetterTargetArn, maxReceiveCount].")
    target = queue_of(policy["deadLetterTargetArn"]) if isinstance(policy["deadLetterTargetArn"], str) else None
    if target is None:
        raise invalid("Invalid value for deadLetterTargetArn.")
    count = str(policy["maxReceiveCount"])
    if not _is_number(count, 1, MAX_RECEIVES):
        raise invalid(f"Invalid value for maxReceiveCount: {count}, valid values are from 1 to 1000 both inclusive.")
    if target.endswith(".fifo") != is_fifo:
        raise invalid("Dead-letter queue must be same type of queue as the source.")
    return model.DeadLetter(target, int(count), on_receive=True)


def _is_policy(text: str) -> bool:
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        return False
    statements = policy.get("Statement") if isinstance(policy, dict) else None
    if isinstance(statements, dict):
        return True
    return isinstance(statements, list) and all(isinstance(each, dict) for each in statements)


def _is_allow_policy(text: str) -> bool:
    try:
        policy = json.loads(text)
    except (ValueError, RecursionError):
        return False
    if not isinstance(policy, dict) or policy.keys() - {"redrivePermission", "sourceQueueArns"}:
        return False
    arns = policy.get("sourceQueueArns")
    if policy.get("redrivePermission") == "byQueue":
        return isinstance(arns, list) and 1 <= len(arns) <= 10 and all(isinstance(arn, str) for arn in arns)
    return policy.get("redrivePermission") in ("allowAll", "denyAll") and arns is None


def allows(target: model.QueueInfo, source: str) -> bool:
    """Whether a queue takes the dead letters of another."""
    policy = json.loads(target.notes.get("RedriveAllowPolicy", "{}"))
    permission = policy.get("redrivePermission", "allowAll")
    return permission == "allowAll" or source in map(queue_of, policy.get("sourceQueueArns", ()))


# By SQS' name: the setting, and what it may be.
_NUMBERS = {
    "DelaySeconds": ("delay", 0, 900),
    "MaximumMessageSize": ("max_message_bytes", 1_024, MAX_MESSAGE_BYTES),
    "MessageRetentionPeriod": ("retention", 60, MAX_RETENTION_S),
    "ReceiveMessageWaitTimeSeconds": ("receive_wait", 0, 20),
    "VisibilityTimeout": ("visibility_timeout", 0, 43_200),
}
_BOOLEANS = {"true": True, "false": False}
_CHOICES: dict[str, tuple[str, dict[str, Any]]] = {
    "FifoQueue": ("fifo", {"true": True}),
    "ContentBasedDeduplication": ("content_dedup", _BOOLEANS),
    "DeduplicationScope": ("dedup_scope", {"queue": "queue", "messageGroup": "group"}),
}
FIFO_ONLY = ("FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit")
_NOTES: dict[str, Callable[[str], bool]] = {
    "Policy": _is_policy,
    "RedriveAllowPolicy": _is_allow_policy,
    "KmsMasterKeyId": bool,
    "KmsDataKeyReusePeriodSeconds": lambda text: _is_number(text, 60, 86_400),
    "SqsManagedSseEnabled": lambda text: text in _BOOLEANS,
    "FifoThroughputLimit": lambda text: text in ("perQueue", "perMessageGroupId"),
}
_REMOVABLE = ("Policy", "RedriveAllowPolicy", "KmsMasterKeyId")  # by an empty text

ALL = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
    "CreatedTimestamp",
    "DelaySeconds",
    LAST_MODIFIED,
    "MaximumMessageSize",
    "MessageRetentionPeriod",
    "QueueArn",
    "ReceiveMessageWaitTimeSeconds",
    "SqsManagedSseEnabled",
    "VisibilityTimeout",
)
SOMETIMES = (
    "RedrivePolicy",
    "RedriveAllowPolicy",
    "Policy",
    "KmsMasterKeyId",
    "KmsDataKeyReusePeriodSeconds",
)


def new_settings(parsed: Parsed) -> model.QueueSettings:
    """The settings of a queue that CreateQueue makes: the defaults of SQS under what was given."""
    defaults = {"retention": RETENTION_S, "max_in_flight": MAX_IN_FLIGHT, "max_message_bytes": MAX_MESSAGE_BYTES}
    return model.QueueSettings(**(defaults | parsed.settings))


def render(scope: Scope, info: model.QueueInfo) -> dict[str, str]:
    """Every attribute that a queue has."""
    settings, notes, counts = info.settings, info.notes, info.messages
    created_s = info.created_at_ms // 1000
    attributes = {
        "ApproximateNumberOfMessages": str(counts.ready + counts.blocked - info.held_back),
        "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
        "ApproximateNumberOfMessagesDelayed": str(counts.delayed + info.held_back),
        "CreatedTimestamp": str(created_s),
        "DelaySeconds": str(int(settings.delay)),
        LAST_MODIFIED: notes.get(LAST_MODIFIED, str(created_s)),
        "MaximumMessageSize": str(settings.max_message_bytes),
        "MessageRetentionPeriod": str(ceil(settings.retention or MAX_RETENTION_S)),
        "QueueArn": scope.arn(info.name),
        "ReceiveMessageWaitTimeSeconds": str(int(settings.receive_wait)),
        "SqsManagedSseEnabled": "true",
        "VisibilityTimeout": str(int(settings.visibility_timeout)),
    }
    if settings.fifo:
        attributes |= {
            "FifoQueue": "true",
            "ContentBasedDeduplication": "true" if settings.content_dedup else "false",
            "DeduplicationScope": "messageGroup" if settings.dedup_scope == "group" else "queue",
            "FifoThroughputLimit": "perQueue",
        }
    letter = settings.dead_letter
    if letter:
        policy = {"deadLetterTargetArn": scope.arn(letter.queue), "maxReceiveCount": letter.max_receives}
        attributes["RedrivePolicy"] = msgspec.json.encode(policy).decode()
    if "KmsMasterKeyId" in notes:
        attributes["KmsDataKeyReusePeriodSeconds"] = "300"
    return attributes | {name: text for name, text in notes.items() if name in _NOTES or name == SCOPE}


def differing(scope: Scope, info: model.QueueInfo, given: dict[str, str], parsed: Parsed) -> str | None:
    """The first of the attributes given that a queue has otherwise."""
    has = render(scope, info)
    settings = msgspec.structs.replace(info.settings, **parsed.settings)
    notes = {name: text for name, text in info.notes.items() if name != SCOPE}  # else it would hide what is wanted
    wanted = render(scope, msgspec.structs.replace(info, settings=settings, notes=notes))
    for name in given:
        want = parsed.notes[name] if name in parsed.notes else wanted.get(name)
        if has.get(name) != want:
            return name
    return None


# --- tags -------------------------------------------------------------


def tags_of(info: model.QueueInfo) -> dict[str, str]:
    return {name.removeprefix(TAG): text for name, text in info.notes.items() if name.startswith(TAG)}


def check_tag_keys(keys: Iterable[str]) -> None:
    """Raises SqsError."""
    if not all(1 <= len(key) <= 128 for key in keys):
        raise bad_tag_key()


def bad_tag_key() -> SqsError:
    return invalid_parameter("Tag keys must be between 1 and 128 characters in length.")


def check_tags(queue: str, tags: dict[str, str]) -> None:
    """Whether a queue can have these. Raises SqsError."""
    if len(tags) > MAX_TAGS:
        raise invalid_parameter(f"Too many tags added for queue {queue}.")
    check_tag_keys(tags)
    if any(key.lower().startswith("aws:") for key in tags):
        raise invalid_parameter("aws: prefixed tag key names are not allowed for external use.")
    if any(len(value) > 256 for value in tags.values()):
        raise invalid_parameter("Tag values must be between 0 and 256 characters in length.")


def tag_notes(tags: dict[str, str]) -> dict[str, str]:
    return {TAG + key: value for key, value in tags.items()}
