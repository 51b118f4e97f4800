"""Cases: queues are made, found, listed, removed, emptied, tagged and shared."""

from __future__ import annotations

import json
from typing import Any

from tests.sqs_cases import (
    ABSENT,
    ACCOUNT,
    ANYTHING,
    NO_QUEUE,
    SOME,
    Case,
    Has,
    Refused,
    Step,
    attributes,
    invalid,
    invalid_value,
    missing,
    nothing_left,
    receive,
    row,
    send,
)

BAD_NAME = invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
BAD_FIFO_NAME = invalid(
    "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with .fifo "
    "suffix and be 1 to 80 in length"
)
NO_FIFO = {"Attributes": {"FifoQueue": ABSENT}}
FIFO = {"Attributes": {"FifoQueue": "true"}}


def name_row(name: str, queue: str, answers: Any, kind: str) -> Case:
    given = {"QueueName": queue, **(FIFO if kind == "f" else {})}
    return row(name, "CreateQueue", given, answers, kinds=kind, attributes=None)


def exists_with_other(name: str) -> Refused:
    message = f"A queue already exists with the same name and a different value for attribute {name}"
    return Refused("QueueNameExists", message)


CREATED = [
    row("made", "CreateQueue", {"QueueName": "$name"}, {"QueueUrl": "$url"}, attributes=None),
    row("no name", "CreateQueue", {}, missing("QueueName"), attributes=None),
    row("an empty name", "CreateQueue", {"QueueName": ""}, missing("QueueName"), attributes=None),
    name_row("80 characters", "$n" + "-" * 70, {"QueueUrl": SOME}, "s"),
    name_row("81 characters", "a" * 81, BAD_NAME, "s"),
    name_row("begins with a hyphen", "-_$n", {"QueueUrl": SOME}, "s"),
    name_row("a period", "a.b", BAD_NAME, "s"),
    name_row("a space", "a b", BAD_NAME, "s"),
    name_row("not ASCII", "caf\u00e9", BAD_NAME, "s"),
    name_row("a line end", "a\n", BAD_NAME, "s"),
    name_row("a suffix without FifoQueue", "a.fifo", BAD_NAME, "s"),
    name_row("80 characters with the suffix", "$n" + "-" * 65 + ".fifo", {"QueueUrl": SOME}, "f"),
    name_row("81 characters with the suffix", "a" * 76 + ".fifo", BAD_FIFO_NAME, "f"),
    name_row("FifoQueue without the suffix", "a", BAD_FIFO_NAME, "f"),
    name_row("nothing but the suffix", ".fifo", BAD_FIFO_NAME, "f"),
    name_row("the suffix in capitals", "a.FIFO", BAD_FIFO_NAME, "f"),
    name_row("two periods", "a.b.fifo", BAD_FIFO_NAME, "f"),
    row("the same again", "CreateQueue", {"QueueName": "$name"}, {"QueueUrl": "$url"}),
    row(
        "the same again with an attribute that it has",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {"DelaySeconds": "1", "VisibilityTimeout": "30"}},
        {"QueueUrl": "$url"},
        attributes={"DelaySeconds": "1"},
    ),
    row(
        "attributes that are not given are not compared",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {}},
        {"QueueUrl": "$url"},
        attributes={"DelaySeconds": "1"},
    ),
    row(
        "another value",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {"VisibilityTimeout": "30", "DelaySeconds": "2"}},
        exists_with_other("DelaySeconds"),
        attributes={"DelaySeconds": "1"},
    ),
    row(
        "another default value",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {"ReceiveMessageWaitTimeSeconds": "20"}},
        exists_with_other("ReceiveMessageWaitTimeSeconds"),
    ),
    row(
        "another value of what is only kept",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {"Policy": '{"Statement":[]}'}},
        exists_with_other("Policy"),
        attributes={"Policy": '{"Statement":[{}]}'},
    ),
    row(
        "another deduplication",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {"ContentBasedDeduplication": "true"}},
        exists_with_other("ContentBasedDeduplication"),
        kinds="f",
    ),
    row(
        "what goes with what it has",
        "CreateQueue",
        {"QueueName": "$name", "Attributes": {"FifoThroughputLimit": "perMessageGroupId"}},
        {"QueueUrl": "$url"},
        attributes={"DeduplicationScope": "messageGroup", "FifoThroughputLimit": "perMessageGroupId"},
        kinds="f",
    ),
    row(
        "deleted recently",
        "CreateQueue",
        {"QueueName": "$name"},
        Refused(
            "QueueDeletedRecently",
            "You must wait 60 seconds after deleting a queue before you can create another with the same name.",
        ),
        before=(Step("DeleteQueue"),),
        is_strict=True,
    ),
    row("deleted recently where that is allowed", "CreateQueue", {"QueueName": "$name"}, before=(Step("DeleteQueue"),)),
]

FOUND = [
    row("found", "GetQueueUrl", {"QueueName": "$name"}, {"QueueUrl": "$url"}),
    row(
        "the owner is named",
        "GetQueueUrl",
        {"QueueName": "$name", "QueueOwnerAWSAccountId": ACCOUNT},
        {"QueueUrl": "$url"},
    ),
    row("there is none", "GetQueueUrl", {"QueueName": "$n-absent$x"}, NO_QUEUE),
    row("other case", "GetQueueUrl", {"QueueName": "Q$name"}, NO_QUEUE),
    row("what is no name", "GetQueueUrl", {"QueueName": "a/b c"}, NO_QUEUE),
    row("no name", "GetQueueUrl", {}, missing("QueueName")),
]

_MORE = tuple(Step("CreateQueue", {"QueueName": f"$n-{number}$x"}) for number in range(1, 4))
_PREFIX = {"QueueNamePrefix": "$n-"}
_URLS = [f"$host/{ACCOUNT}/$n-{number}$x" for number in range(1, 4)]
BAD_MAX_RESULTS = "Must be between 1 and 1000, if provided."

LISTED = [
    row("by prefix, sorted", "ListQueues", _PREFIX, {"QueueUrls": _URLS}, before=_MORE),
    row("none", "ListQueues", _PREFIX, {}),
    row("all", "ListQueues", {}, Has({"QueueUrls": ANYTHING})),
    row("as many as there are", "ListQueues", {**_PREFIX, "MaxResults": 3}, {"QueueUrls": _URLS}, before=_MORE),
    row("the most", "ListQueues", {**_PREFIX, "MaxResults": 1000}, {"QueueUrls": _URLS}, before=_MORE),
    row("none wanted", "ListQueues", {"MaxResults": 0}, invalid_value(0, "MaxResults", BAD_MAX_RESULTS)),
    row("too many wanted", "ListQueues", {"MaxResults": 1001}, invalid_value(1001, "MaxResults", BAD_MAX_RESULTS)),
    row(
        "a token that is none",
        "ListQueues",
        {"MaxResults": 1, "NextToken": "!"},
        invalid("Invalid or expired next token."),
    ),
    row("a token without MaxResults", "ListQueues", {"NextToken": "YQ=="}, missing("MaxResults")),
    Case(
        "ListQueues: page by page",
        (
            *_MORE,
            Step(
                "ListQueues",
                {**_PREFIX, "MaxResults": 2},
                {"QueueUrls": _URLS[:2], "NextToken": SOME},
                {"token": "NextToken"},
            ),
            Step("ListQueues", {**_PREFIX, "MaxResults": 2, "NextToken": "$token"}, {"QueueUrls": _URLS[2:]}),
        ),
    ),
]

_COUNTS = ("ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible", "ApproximateNumberOfMessagesDelayed")


def counts(*numbers: int) -> Step:
    """How many messages are visible, in flight and delayed."""
    return attributes(**{name: str(number) for name, number in zip(_COUNTS, numbers, strict=True)})


REMOVED = [
    row("removed", "DeleteQueue", {}, {}, then=(Step("GetQueueUrl", {"QueueName": "$name"}, NO_QUEUE),)),
    row("with its messages", "DeleteQueue", {}, {}, before=(send(),)),
    row("twice", "DeleteQueue", {}, NO_QUEUE, before=(Step("DeleteQueue"),)),
    row(
        "made again it is empty",
        "CreateQueue",
        {"QueueName": "$name"},
        before=(send(), Step("DeleteQueue")),
        then=(nothing_left(),),
    ),
    row("an empty queue", "PurgeQueue", {}, {}),
    row("every message", "PurgeQueue", {}, {}, before=(send(), send("two")), then=(counts(0, 0, 0), nothing_left())),
    row("those in flight", "PurgeQueue", {}, {}, before=(send(), receive()), then=(counts(0, 0, 0), nothing_left())),
    row(
        "those delayed",
        "PurgeQueue",
        {},
        {},
        before=(send(DelaySeconds=900), counts(0, 0, 1)),
        then=(counts(0, 0, 0),),
        kinds="s",
    ),
    row("twice where that is allowed", "PurgeQueue", {}, {}, before=(Step("PurgeQueue"),)),
    row(
        "twice in a minute",
        "PurgeQueue",
        {},
        Refused("PurgeQueueInProgress", "Only one PurgeQueue operation on $name is allowed every 60 seconds."),
        before=(Step("PurgeQueue"),),
        is_strict=True,
    ),
]

# --- tags -------------------------------------------------------------


def tags(count: int, start: int = 0) -> dict[str, str]:
    return {f"key{number}": str(number) for number in range(start, start + count)}


def shown_tags(wanted: dict[str, str]) -> Step:
    return Step("ListQueueTags", {}, {"Tags": wanted} if wanted else {})


TOO_MANY_TAGS = invalid("Too many tags added for queue $name.")
BAD_TAG_KEY = invalid("Tag keys must be between 1 and 128 characters in length.")
BAD_TAG_VALUE = invalid("Tag values must be between 0 and 256 characters in length.")
_ODD = {"key with space": "", "K\u00fcche": "<&\"'>", "a=b/c": "x" * 256, "k" * 128: "v", "a.1.b": "\u20ac"}

TAGGED = [
    row("none", "ListQueueTags", {}, {}),
    row("one", "TagQueue", {"Tags": {"a": "1"}}, {}, then=(shown_tags({"a": "1"}),)),
    row("of all sorts", "TagQueue", {"Tags": _ODD}, {}, then=(shown_tags(_ODD),)),
    row(
        "one more, one changed",
        "TagQueue",
        {"Tags": {"a": "2", "A": "3"}},
        {},
        before=(Step("TagQueue", {"Tags": {"a": "1", "b": "1"}}),),
        then=(shown_tags({"a": "2", "b": "1", "A": "3"}),),
    ),
    row("50", "TagQueue", {"Tags": tags(50)}, {}, then=(shown_tags(tags(50)),)),
    row("51", "TagQueue", {"Tags": tags(51)}, TOO_MANY_TAGS),
    row(
        "51 together", "TagQueue", {"Tags": tags(1, 50)}, TOO_MANY_TAGS, before=(Step("TagQueue", {"Tags": tags(50)}),)
    ),
    row("50 that were there", "TagQueue", {"Tags": tags(50)}, {}, before=(Step("TagQueue", {"Tags": tags(50)}),)),
    row("an empty key", "TagQueue", {"Tags": {"": "1"}}, BAD_TAG_KEY),
    row("a long key", "TagQueue", {"Tags": {"k" * 129: "1"}}, BAD_TAG_KEY),
    row(
        "a key of AWS' own",
        "TagQueue",
        {"Tags": {"AWS:a": "1"}},
        invalid("aws: prefixed tag key names are not allowed for external use."),
    ),
    row("a long value", "TagQueue", {"Tags": {"a": "v" * 257}}, BAD_TAG_VALUE),
    row("no tags", "TagQueue", {}, missing("Tags")),
    row("empty tags", "TagQueue", {"Tags": {}}, missing("Tags")),
    row(
        "when it is made",
        "CreateQueue",
        {"QueueName": "$name", "tags": {"a": "1", "b": ""}},
        {"QueueUrl": "$url"},
        then=(shown_tags({"a": "1", "b": ""}),),
        attributes=None,
    ),
    row("51 when it is made", "CreateQueue", {"QueueName": "$name", "tags": tags(51)}, TOO_MANY_TAGS, attributes=None),
    row(
        "one of two goes",
        "UntagQueue",
        {"TagKeys": ["a", "absent"]},
        {},
        before=(Step("TagQueue", {"Tags": {"a": "1", "b": "2"}}),),
        then=(shown_tags({"b": "2"}),),
    ),
    row(
        "the last goes",
        "UntagQueue",
        {"TagKeys": ["a"]},
        {},
        before=(Step("TagQueue", {"Tags": {"a": "1"}}),),
        then=(shown_tags({}),),
    ),
    row("no keys", "UntagQueue", {}, missing("TagKeys")),
    row("an empty key", "UntagQueue", {"TagKeys": ["a", ""]}, BAD_TAG_KEY),
    row("a long key", "UntagQueue", {"TagKeys": ["k" * 129]}, BAD_TAG_KEY),
]

# --- permissions -------------------------------------------------------------

ONE, OTHER = "111122223333", "444455556666"
SHARED = ["ChangeMessageVisibility", "DeleteMessage", "GetQueueAttributes", "GetQueueUrl", "ListDeadLetterSourceQueues"]
SHARED += ["PurgeQueue", "ReceiveMessage", "SendMessage"]


def permission(
    label: str = "l", accounts: tuple[str, ...] = (ONE,), actions: tuple[str, ...] = ("SendMessage",)
) -> Any:
    return {"Label": label, "AWSAccountIds": list(accounts), "Actions": list(actions)}


def statement(label: str = "l", principal: Any = f"arn:aws:iam::{ONE}:root", action: Any = "SQS:SendMessage") -> Any:
    return {"Sid": label, "Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, "Resource": "$arn"}


def policy(*statements: Any) -> Step:
    """The policy that a queue must have now."""
    told = {"Version": "2008-10-17", "Id": "$arn/SQSDefaultPolicy", "Statement": list(statements)}
    return attributes(Policy=json.dumps(told, separators=(",", ":")))


NO_POLICY = Step("GetQueueAttributes", {"AttributeNames": ["Policy"]}, {})
ADDED = Step("AddPermission", permission())

PERMITTED = [
    row("one", "AddPermission", permission(), {}, then=(policy(statement()),)),
    row(
        "several accounts and actions",
        "AddPermission",
        permission("l-_1", (ONE, OTHER), ("SendMessage", "ReceiveMessage")),
        {},
        then=(
            policy(
                statement(
                    "l-_1",
                    [f"arn:aws:iam::{ONE}:root", f"arn:aws:iam::{OTHER}:root"],
                    ["SQS:SendMessage", "SQS:ReceiveMessage"],
                )
            ),
        ),
    ),
    row("any action", "AddPermission", permission(actions=("*",)), {}, then=(policy(statement(action="SQS:*")),)),
    *(row(action, "AddPermission", permission(actions=(action,)), {}) for action in SHARED),
    row("a second", "AddPermission", permission("m"), {}, before=(ADDED,), then=(policy(statement(), statement("m")),)),
    row("twice", "AddPermission", permission(), invalid_value("l", "Label", "Already exists."), before=(ADDED,)),
    row("seven actions", "AddPermission", permission(actions=tuple(SHARED[:7])), {}),
    row(
        "eight actions",
        "AddPermission",
        permission(actions=tuple(SHARED)),
        Refused("OverLimit", "8 Actions were found, maximum allowed is 7."),
    ),
    row(
        "an action of the owner",
        "AddPermission",
        permission(actions=("CreateQueue",)),
        invalid_value("SQS:CreateQueue", "ActionName", "Only the queue owner is allowed to invoke this action."),
    ),
    row(
        "an unknown action",
        "AddPermission",
        permission(actions=("Sing",)),
        invalid_value("SQS:Sing", "ActionName", "Please refer to the appropriate WSDL for a list of valid actions. "),
    ),
    row(
        "what is no account",
        "AddPermission",
        permission(accounts=("1234",)),
        invalid_value("[1234]", "PrincipalId", "Unable to verify."),
    ),
    row("no label", "AddPermission", {**permission(), "Label": ABSENT}, missing("Label")),
    row("no accounts", "AddPermission", {**permission(), "AWSAccountIds": ABSENT}, missing("AWSAccountIds")),
    row(
        "an empty account",
        "AddPermission",
        permission(accounts=("",)),
        invalid_value("[]", "PrincipalId", "Unable to verify."),
    ),
    row("no actions", "AddPermission", permission(actions=()), missing("Actions")),
    row("the last goes", "RemovePermission", {"Label": "l"}, {}, before=(ADDED,), then=(NO_POLICY,)),
    row(
        "one of two goes",
        "RemovePermission",
        {"Label": "l"},
        {},
        before=(ADDED, Step("AddPermission", permission("m"))),
        then=(policy(statement("m")),),
    ),
    row(
        "a label that is not there",
        "RemovePermission",
        {"Label": "m"},
        invalid_value("m", "Label", "can't find label."),
        before=(ADDED,),
    ),
    row("of no policy", "RemovePermission", {"Label": "l"}, invalid_value("l", "Label", "can't find label.")),
    row("no label", "RemovePermission", {}, missing("Label")),
]

CASES = [*CREATED, *FOUND, *LISTED, *REMOVED, *TAGGED, *PERMITTED]
