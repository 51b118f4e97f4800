"""Cases: how a request says which queue it means, and what is told of a queue that is not there."""

from __future__ import annotations

from typing import Any

from tests.sqs_cases import ABSENT, ACCOUNT, NO_QUEUE, Case, Refused, Step, missing, redrive, row
from tests.sqs_cases_queues import permission

_HANDLE = {"ReceiptHandle": "garbage"}
# An input of each operation on a queue, beside the queue.
OF_QUEUE: dict[str, dict[str, Any]] = {
    "AddPermission": permission(),
    "ChangeMessageVisibility": {**_HANDLE, "VisibilityTimeout": 1},
    "ChangeMessageVisibilityBatch": {"Entries": [{"Id": "a", **_HANDLE, "VisibilityTimeout": 1}]},
    "DeleteMessage": _HANDLE,
    "DeleteMessageBatch": {"Entries": [{"Id": "a", **_HANDLE}]},
    "DeleteQueue": {},
    "GetQueueAttributes": {"AttributeNames": ["All"]},
    "ListDeadLetterSourceQueues": {},
    "ListQueueTags": {},
    "PurgeQueue": {},
    "ReceiveMessage": {},
    "RemovePermission": {"Label": "l"},
    "SendMessage": {"MessageBody": "a"},
    "SendMessageBatch": {"Entries": [{"Id": "a", "MessageBody": "a"}]},
    "SetQueueAttributes": {"Attributes": {"DelaySeconds": "1"}},
    "TagQueue": {"Tags": {"a": "1"}},
    "UntagQueue": {"TagKeys": ["a"]},
}
FOUND = {
    "its URL": "$url",
    "its bare name": "$name",
    "a URL of another host": f"https://sqs.eu-west-1.amazonaws.com/{ACCOUNT}/$name",
    "a URL of another account": "$host/999999999999/$name",
    "a URL of an old host": f"https://queue.amazonaws.com/{ACCOUNT}/$name",
    "a path": f"/{ACCOUNT}/$name",
    "a URL that ends with a slash": "$url/",
}
NOT_FOUND = {
    "another name": f"$host/{ACCOUNT}/$n-absent$x",
    "a name in other case": f"$host/{ACCOUNT}/Q$name",
    "a name with a space": "a b",
    "a long name": "a" * 10_000,
    "characters": "\u00e9\u6f22\U0001f642",
    "bytes that are escaped": "%00%2f..",
}
NO_ADDRESS = {
    "a slash": "/",
    "a host": "http://localhost",
    "a host alone": "http://localhost/",
}
# Inputs that are wrong beside the queue that is not there; that is what is told.
WRONG: dict[str, dict[str, Any]] = {
    "AddPermission": permission(actions=("Sing",)),
    "ChangeMessageVisibility": {**_HANDLE, "VisibilityTimeout": 99_999},
    "DeleteMessageBatch": {"Entries": [{"Id": "a", **_HANDLE}] * 2},
    "GetQueueAttributes": {"AttributeNames": ["Colour"]},
    "ListDeadLetterSourceQueues": {"MaxResults": 0},
    "ReceiveMessage": {"MaxNumberOfMessages": 11},
    "SendMessage": {"MessageBody": "\x01"},
    "SendMessageBatch": {"Entries": [{"Id": "a b", "MessageBody": "a"}]},
    "SetQueueAttributes": {"Attributes": {"DelaySeconds": "x"}},
    "TagQueue": {"Tags": {"": "1"}},
    "UntagQueue": {"TagKeys": [""]},
}


def attributes_at(name: str, queue_url: Any, answers: Any) -> Case:
    given = {"QueueUrl": queue_url, "AttributeNames": ["QueueArn"]}
    return row(f"by {name}", "GetQueueAttributes", given, answers)


CASES = [
    *(row("where there is no queue", name, given, NO_QUEUE, attributes=None) for name, given in OF_QUEUE.items()),
    *(
        row("without a QueueUrl", name, {"QueueUrl": ABSENT, **given}, missing("QueueUrl"))
        for name, given in OF_QUEUE.items()
    ),
    *(
        row("with an empty QueueUrl", name, {"QueueUrl": "", **given}, missing("QueueUrl"))
        for name, given in OF_QUEUE.items()
    ),
    *(attributes_at(name, url, {"Attributes": {"QueueArn": "$arn"}}) for name, url in FOUND.items()),
    *(attributes_at(name, url, NO_QUEUE) for name, url in NOT_FOUND.items()),
    *(
        attributes_at(name, url, Refused("InvalidAddress", f"The address {url} is not valid for this endpoint."))
        for name, url in NO_ADDRESS.items()
    ),
    *(row("wrong where there is no queue", name, given, NO_QUEUE, attributes=None) for name, given in WRONG.items()),
    row("an empty batch where there is no queue", "SendMessageBatch", {"Entries": []}, NO_QUEUE, attributes=None),
    row(
        "a target in another region and account",
        "SetQueueAttributes",
        {"Attributes": {"RedrivePolicy": redrive(1).replace("us-east-1", "eu-west-1").replace(ACCOUNT, "9" * 12)}},
        {},
        before=(Step("CreateQueue", {"QueueName": "$n-dead$x"}),),
    ),
]
