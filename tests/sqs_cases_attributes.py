"""Cases: the attributes of queues, given when a queue is made and later, and shown."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from tests.sqs_cases import (
    ACCOUNT,
    DEAD_ARN,
    DEAD_LETTERS,
    DEAD_QUEUE,
    NO_QUEUE,
    SECONDS,
    SOME,
    Case,
    Refused,
    Step,
    attributes,
    invalid_attribute,
    invalid_value,
    missing,
    redrive,
    row,
    unknown_attribute,
)

# Name, lowest, highest, default.
NUMBERS = (
    ("DelaySeconds", 0, 900, 0),
    ("MaximumMessageSize", 1_024, 1_048_576, 1_048_576),
    ("MessageRetentionPeriod", 60, 1_209_600, 345_600),
    ("ReceiveMessageWaitTimeSeconds", 0, 20, 0),
    ("VisibilityTimeout", 0, 43_200, 30),
)
READ_ONLY = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesDelayed",
    "ApproximateNumberOfMessagesNotVisible",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
    "QueueArn",
)
NO_NUMBERS = ("", "abc", "1.5", "1e2", " 60", "60 ", "0x3c", "\u0663\u0660\u0660", "9" * 30)


def created(name: str, given: Any, answers: Any, then: tuple[Step, ...] = (), **options: Any) -> Case:
    wanted = {"QueueName": "$name", "Attributes": given}
    return row(f"with {name}", "CreateQueue", wanted, answers, then=then, **{"attributes": None, **options})


def changed(name: str, given: Any, answers: Any, then: tuple[Step, ...] = (), **options: Any) -> Case:
    return row(name, "SetQueueAttributes", {"Attributes": given}, answers, then=then, **options)


def both(name: str, given: Any, answers: Any = None, **options: Any) -> Iterator[Case]:
    """The same when a queue is made and when it is changed. Without an answer the attributes must be kept."""
    then = () if answers else (attributes(**given),)
    yield created(name, given, answers or {"QueueUrl": "$url"}, then, **options)
    yield changed(name, given, answers or {}, then, **options)


def numbers() -> Iterator[Case]:
    for name, low, high, _ in NUMBERS:
        for value in (low, high):
            yield from both(f"{name} {value}", {name: str(value)})
        for text in (str(low - 1), str(high + 1), *NO_NUMBERS):
            yield from both(f"{name} {text[:10]!r}", {name: text}, invalid_attribute(name))


DEFAULTS = {name: str(default) for name, _, _, default in NUMBERS}
FRESH = {
    **DEFAULTS,
    "ApproximateNumberOfMessages": "0",
    "ApproximateNumberOfMessagesDelayed": "0",
    "ApproximateNumberOfMessagesNotVisible": "0",
    "CreatedTimestamp": SECONDS,
    "LastModifiedTimestamp": SECONDS,
    "QueueArn": "$arn",
    "SqsManagedSseEnabled": "true",
}
FRESH_FIFO = {
    **FRESH,
    "FifoQueue": "true",
    "ContentBasedDeduplication": "false",
    "DeduplicationScope": "queue",
    "FifoThroughputLimit": "perQueue",
}
FIFO_NAMES = ["FifoQueue", "ContentBasedDeduplication", "DeduplicationScope", "FifoThroughputLimit"]
NOT_THERE = ["Policy", "RedrivePolicy", "RedriveAllowPolicy", "KmsMasterKeyId", "KmsDataKeyReusePeriodSeconds"]

SHOWN = [
    row("all", "GetQueueAttributes", {"AttributeNames": ["All"]}, {"Attributes": FRESH}, kinds="s"),
    row("all", "GetQueueAttributes", {"AttributeNames": ["All"]}, {"Attributes": FRESH_FIFO}, kinds="f"),
    row("all and one", "GetQueueAttributes", {"AttributeNames": ["QueueArn", "All"]}, {"Attributes": FRESH}, kinds="s"),
    *(
        row(name, "GetQueueAttributes", {"AttributeNames": [name]}, {"Attributes": {name: FRESH[name]}})
        for name in FRESH
    ),
    row("one twice", "GetQueueAttributes", {"AttributeNames": ["QueueArn"] * 2}, {"Attributes": {"QueueArn": "$arn"}}),
    row("no names", "GetQueueAttributes", {}, {}),
    row("empty names", "GetQueueAttributes", {"AttributeNames": []}, {}),
    row("what it does not have", "GetQueueAttributes", {"AttributeNames": NOT_THERE}, {}),
    *(
        row(
            f"{name} of a standard queue",
            "GetQueueAttributes",
            {"AttributeNames": [name]},
            unknown_attribute(name),
            kinds="s",
        )
        for name in FIFO_NAMES
    ),
    row("unknown", "GetQueueAttributes", {"AttributeNames": ["QueueArn", "Size"]}, unknown_attribute("Size")),
    row("in other case", "GetQueueAttributes", {"AttributeNames": ["queuearn"]}, unknown_attribute("queuearn")),
    row("no queue", "GetQueueAttributes", {}, NO_QUEUE, attributes=None),
    row("no queue", "SetQueueAttributes", {"Attributes": {"DelaySeconds": "1"}}, NO_QUEUE, attributes=None),
    row("no attributes", "SetQueueAttributes", {}, missing("Attributes")),
    changed(
        "of several none where one is wrong",
        {"DelaySeconds": "1", "VisibilityTimeout": "-1"},
        invalid_attribute("VisibilityTimeout"),
        (attributes(DelaySeconds="0"),),
    ),
]

# --- FIFO -------------------------------------------------------------


def only_in_fifo(name: str) -> Refused:
    return Refused("InvalidAttributeName", f"You can specify the {name} only when FifoQueue is set to true.")


TYPE_FIXED = Refused(
    "InvalidAttributeValue",
    "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported.",
)
HIGH = {"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"}

FIFO = [
    *both("ContentBasedDeduplication", {"ContentBasedDeduplication": "true"}, kinds="f"),
    *both("no ContentBasedDeduplication", {"ContentBasedDeduplication": "false"}, kinds="f"),
    *both("a scope", {"DeduplicationScope": "messageGroup"}, kinds="f"),
    *both("the queue as scope", {"DeduplicationScope": "queue"}, kinds="f"),
    *both("high throughput", HIGH, kinds="f"),
    *both("low throughput", {"FifoThroughputLimit": "perQueue"}, kinds="f"),
    *both(
        "a limit by group whose scope is the queue",
        {"FifoThroughputLimit": "perMessageGroupId"},
        Refused(
            "InvalidAttributeValue",
            "Invalid value for the parameter FifoThroughputLimit. Reason: The perMessageGroupId value is allowed only "
            "when the value for DeduplicationScope is messageGroup.",
        ),
        kinds="f",
    ),
    *both(
        "no boolean", {"ContentBasedDeduplication": "yes"}, invalid_attribute("ContentBasedDeduplication"), kinds="f"
    ),
    *both("no scope", {"DeduplicationScope": "group"}, invalid_attribute("DeduplicationScope"), kinds="f"),
    *both("no limit", {"FifoThroughputLimit": "none"}, invalid_attribute("FifoThroughputLimit"), kinds="f"),
    changed("what it is", {"FifoQueue": "true"}, {}, kinds="f"),
    changed("what it cannot become", {"FifoQueue": "false"}, TYPE_FIXED, kinds="f"),
    changed("what it cannot become", {"FifoQueue": "true"}, unknown_attribute("FifoQueue"), kinds="s"),
    created("FifoQueue false", {"FifoQueue": "false"}, unknown_attribute("FifoQueue"), kinds="s"),
    *both(
        "ContentBasedDeduplication",
        {"ContentBasedDeduplication": "true"},
        unknown_attribute("ContentBasedDeduplication"),
        kinds="s",
    ),
    *both("DeduplicationScope", {"DeduplicationScope": "queue"}, only_in_fifo("DeduplicationScope"), kinds="s"),
    *both("FifoThroughputLimit", {"FifoThroughputLimit": "perQueue"}, only_in_fifo("FifoThroughputLimit"), kinds="s"),
]

# --- names, policies, encryption -------------------------------------------------------------

POLICY = json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": "*", "Action": "*"}]})
ONE_SSE = Refused(
    "InvalidAttributeName",
    "You can use one type of server-side encryption (SSE) at one time. You can either enable KMS SSE or SQS SSE.",
)
KMS = {"KmsMasterKeyId": "alias/aws/sqs", "KmsDataKeyReusePeriodSeconds": "300"}

KEPT = [
    *both("unknown", {"Size": "1"}, unknown_attribute("Size")),
    *both("All", {"All": "1"}, unknown_attribute("All")),
    *(case for name in READ_ONLY for case in both(name, {name: "1"}, unknown_attribute(name))),
    *both("a policy", {"Policy": POLICY}),
    *both("a policy that is no JSON", {"Policy": "{"}, invalid_attribute("Policy")),
    *both("a policy that is no map", {"Policy": "[]"}, invalid_attribute("Policy")),
    row(
        "no policy any more",
        "SetQueueAttributes",
        {"Attributes": {"Policy": ""}},
        {},
        attributes={"Policy": POLICY},
        then=(Step("GetQueueAttributes", {"AttributeNames": ["Policy"]}, {}),),
    ),
    *both("KMS", {**KMS, "SqsManagedSseEnabled": "false"}),
    changed("KMS instead of SSE", KMS, {}, (attributes(**KMS, SqsManagedSseEnabled="false"),)),
    changed(
        "KMS with the usual period",
        {"KmsMasterKeyId": "k"},
        {},
        (attributes(KmsMasterKeyId="k", KmsDataKeyReusePeriodSeconds="300"),),
    ),
    *both("KMS and SSE", {**KMS, "SqsManagedSseEnabled": "true"}, ONE_SSE),
    row(
        "SSE instead of KMS",
        "SetQueueAttributes",
        {"Attributes": {"KmsMasterKeyId": "", "SqsManagedSseEnabled": "true"}},
        {},
        attributes=KMS,
        then=(attributes(SqsManagedSseEnabled="true"),),
    ),
    *both("no SSE", {"SqsManagedSseEnabled": "false"}),
    *both("no boolean for SSE", {"SqsManagedSseEnabled": "on"}, invalid_attribute("SqsManagedSseEnabled")),
    *(
        case
        for period in ("60", "86400")
        for case in both(f"a period of {period}", {"KmsMasterKeyId": "k", "KmsDataKeyReusePeriodSeconds": period})
    ),
    *(
        case
        for period in ("59", "86401", "", "a", "9" * 30)
        for case in both(
            f"a period of {period!r}",
            {"KmsMasterKeyId": "k", "KmsDataKeyReusePeriodSeconds": period},
            invalid_attribute("KmsDataKeyReusePeriodSeconds"),
        )
    ),
]

# --- dead letters -------------------------------------------------------------


def redrives(name: str, policy: str, reason: str, **options: Any) -> Iterator[Case]:
    """A policy that is refused, when the queue is made and later. There is a queue for dead letters."""
    refused = invalid_value(policy, "RedrivePolicy", reason)
    wanted = {"RedrivePolicy": policy}
    yield created(name, wanted, refused, before=(DEAD_QUEUE,), **options)
    yield changed(name, wanted, refused, before=(DEAD_QUEUE,), **options)


NO_MAP = "Redrive policy is not a valid JSON map."
NO_NAMES = "Only following attributes are supported: [deadLetterTargetArn, maxReceiveCount]."
OTHER_ARN = f"arn:aws:sqs:us-east-1:{ACCOUNT}:$n-other$x"


def out_of_range(count: object) -> str:
    return f"Invalid value for maxReceiveCount: {count}, valid values are from 1 to 1000 both inclusive."


def without(name: str) -> str:
    return f"Redrive policy does not contain mandatory attribute: {name}."


def redrive_row(name: str, given: object, shown: object) -> Case:
    wanted, then = {"RedrivePolicy": redrive(given)}, (attributes(RedrivePolicy=redrive(shown)),)
    return created(name, wanted, {"QueueUrl": "$url"}, then, before=(DEAD_QUEUE,))


DEAD = [
    redrive_row("the least receives", 1, 1),
    redrive_row("the most receives", 1000, 1000),
    redrive_row("receives as a text", "5", 5),
    changed(
        "a target", {"RedrivePolicy": redrive(3)}, {}, (attributes(RedrivePolicy=redrive(3)),), before=(DEAD_QUEUE,)
    ),
    row(
        "no target any more",
        "SetQueueAttributes",
        {"Attributes": {"RedrivePolicy": ""}},
        {},
        before=DEAD_LETTERS,
        then=(Step("GetQueueAttributes", {"AttributeNames": ["RedrivePolicy"]}, {}),),
    ),
    *redrives("too few receives", redrive(0), out_of_range(0)),
    *redrives("too many receives", redrive(1001), out_of_range(1001)),
    *redrives("receives that are no number", redrive("many"), out_of_range("many")),
    *redrives("no count", json.dumps({"deadLetterTargetArn": DEAD_ARN}), without("maxReceiveCount")),
    *redrives("no target", json.dumps({"maxReceiveCount": 1}), without("deadLetterTargetArn")),
    *redrives("an empty map", "{}", without("deadLetterTargetArn")),
    *redrives("no JSON", "{", NO_MAP),
    *redrives("no map", "[]", NO_MAP),
    *redrives("a text", '"a"', NO_MAP),
    *redrives(
        "more than that",
        json.dumps({"deadLetterTargetArn": DEAD_ARN, "maxReceiveCount": 1, "a": 1}),
        NO_NAMES,
    ),
    *redrives("a target that is not there", redrive(1, "$n-absent$x"), "Dead letter target does not exist."),
    *redrives("no ARN", redrive(1).replace("arn:aws", "urn"), "Invalid value for deadLetterTargetArn."),
    *redrives(
        "a standard queue as target",
        redrive(1, "$n-standard"),
        "Dead-letter queue must be same type of queue as the source.",
        kinds="f",
    ),
    *redrives(
        "a FIFO queue as target",
        redrive(1, "$n.fifo"),
        "Dead-letter queue must be same type of queue as the source.",
        kinds="s",
    ),
]


def allow(permission: object, *arns: str) -> str:
    policy = {"redrivePermission": permission, **({"sourceQueueArns": list(arns)} if arns else {})}
    return json.dumps(policy, separators=(",", ":"))


def may_redrive(name: str, policy: str, answers: Any) -> Case:
    """Whether the queue may have dead letters in another that has this RedriveAllowPolicy."""
    dead = Step("CreateQueue", {"QueueName": "$n-dead$x", "Attributes": {"RedriveAllowPolicy": policy}})
    return changed(name, {"RedrivePolicy": redrive()}, answers, before=(dead,))


NOT_ALLOWED = invalid_value(
    redrive(), "RedrivePolicy", "The dead-letter queue does not allow this queue as its source."
)
_MANY = tuple(f"{OTHER_ARN}{number}" for number in range(11))

ALLOWED = [
    *both("all sources", {"RedriveAllowPolicy": allow("allowAll")}),
    *both("no sources", {"RedriveAllowPolicy": allow("denyAll")}),
    *both("ten sources", {"RedriveAllowPolicy": allow("byQueue", *_MANY[:10])}),
    *(
        case
        for policy in (
            allow("some"),
            allow("byQueue"),
            allow("byQueue", *_MANY),
            allow("allowAll", OTHER_ARN),
            "{}",
            "{",
        )
        for case in both(
            f"sources {policy[:40]}",
            {"RedriveAllowPolicy": policy},
            invalid_value(
                policy,
                "RedriveAllowPolicy",
                "Amazon SQS can't create the redrive allow policy, as it's in an unsupported format.",
            ),
        )
    ),
    may_redrive("a target for all", allow("allowAll"), {}),
    may_redrive("a target for it", allow("byQueue", OTHER_ARN, "$arn"), {}),
    may_redrive("a target for others", allow("byQueue", OTHER_ARN), NOT_ALLOWED),
    may_redrive("a target for none", allow("denyAll"), NOT_ALLOWED),
]

_SOURCES = tuple(
    Step("CreateQueue", {"QueueName": f"$n-{number}$x", "Attributes": {"RedrivePolicy": redrive(1, "$name")}})
    for number in range(1, 4)
)
_URLS = [f"$host/{ACCOUNT}/$n-{number}$x" for number in range(1, 4)]
BAD_MAX_RESULTS = "Must be between 1 and 1000, if provided."

SOURCES = [
    row("all", "ListDeadLetterSourceQueues", {}, {"queueUrls": _URLS}, before=_SOURCES),
    row("none", "ListDeadLetterSourceQueues", {}, {}),
    row("the most", "ListDeadLetterSourceQueues", {"MaxResults": 1000}, {"queueUrls": _URLS}, before=_SOURCES),
    row(
        "none wanted", "ListDeadLetterSourceQueues", {"MaxResults": 0}, invalid_value(0, "MaxResults", BAD_MAX_RESULTS)
    ),
    row(
        "too many wanted",
        "ListDeadLetterSourceQueues",
        {"MaxResults": 1001},
        invalid_value(1001, "MaxResults", BAD_MAX_RESULTS),
    ),
    Case(
        "ListDeadLetterSourceQueues: page by page",
        (
            *_SOURCES,
            Step(
                "ListDeadLetterSourceQueues",
                {"MaxResults": 2},
                {"queueUrls": _URLS[:2], "NextToken": SOME},
                {"token": "NextToken"},
            ),
            Step("ListDeadLetterSourceQueues", {"MaxResults": 2, "NextToken": "$token"}, {"queueUrls": _URLS[2:]}),
        ),
    ),
]

CASES = [*SHOWN, *numbers(), *FIFO, *KEPT, *DEAD, *ALLOWED, *SOURCES]
