"""Cases: tasks that move messages out of a dead-letter queue."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

from tests.sqs_cases import (
    ACCOUNT,
    ANYTHING,
    DEAD_ARN,
    DEAD_LETTERS,
    DEAD_QUEUE,
    MILLISECONDS,
    SOME,
    Case,
    Has,
    Refused,
    Step,
    invalid,
    invalid_value,
    missing,
    no_resource,
    nothing_left,
    receive,
    row,
    send,
)

START, LIST, CANCEL = "StartMessageMoveTask", "ListMessageMoveTasks", "CancelMessageMoveTask"
SOURCE = {"SourceArn": DEAD_ARN}
ABSENT_ARN = f"arn:aws:sqs:us-east-1:{ACCOUNT}:$n-absent$x"
OTHER_ARN = f"arn:aws:sqs:us-east-1:{ACCOUNT}:$n-other$x"
NO_ARNS = (
    "",
    "$name",
    "arn:aws:sqs",
    "arn:aws:sns:us-east-1:000000000000:$n-dead$x",
    "http://x/000000000000/$n-dead$x",
)
NO_ARN = invalid(
    "You must use this format to specify the SourceArn: arn:<partition>:<service>:<region>:<account-id>:<resource-id>"
)
OTHER_QUEUE = Step("CreateQueue", {"QueueName": "$n-other$x"}, keeps={"other": "QueueUrl"})
ONE_DEAD = (*DEAD_LETTERS, send(), receive(VisibilityTimeout=0), nothing_left())
FIVE_DEAD = (*DEAD_LETTERS, *(send(str(number), QueueUrl="$dead", MessageGroupId=str(number)) for number in range(5)))
STANDARD_FIVE = (*DEAD_LETTERS, *(send(str(number), QueueUrl="$dead") for number in range(5)))


def started(**given: Any) -> Step:
    return Step(START, {**SOURCE, **given}, {"TaskHandle": SOME}, {"task": "TaskHandle"})


def listed(*tasks: Any, most: int = 10) -> Step:
    """The tasks that there are now or soon, the last first."""
    return Step(LIST, {**SOURCE, "MaxResults": most}, {"Results": list(tasks)}, is_awaited=True)


def task(status: str, moved: Any, to_move: int, **more: Any) -> dict[str, Any]:
    return {
        "Status": status,
        "SourceArn": DEAD_ARN,
        "ApproximateNumberOfMessagesMoved": moved,
        "ApproximateNumberOfMessagesToMove": to_move,
        "StartedTimestamp": MILLISECONDS,
        **more,
    }


RUNNING = invalid(
    "There is already a task running. Only one active task is allowed for a source queue arn at a given time."
)
NOT_DEAD = invalid("Source queue must be configured as a Dead Letter Queue.")
SLOW = {"MaxNumberOfMessagesPerSecond": 1, "DestinationArn": OTHER_ARN}
MOVED_BACK = {"MaxNumberOfMessages": 10, "MessageSystemAttributeNames": ["ApproximateReceiveCount"]}

STARTED = [
    Case(
        f"{START}: back to where it came from",
        (
            *ONE_DEAD,
            started(),
            listed(task("COMPLETED", 1, 1)),
            nothing_left(QueueUrl="$dead"),
            Step(
                "ReceiveMessage",
                MOVED_BACK,
                {"Messages": [Has({"Body": "one", "Attributes": {"ApproximateReceiveCount": "1"}})]},
            ),
        ),
    ),
    Case(
        f"{START}: to a queue, at a rate",
        (
            *ONE_DEAD,
            OTHER_QUEUE,
            started(DestinationArn=OTHER_ARN, MaxNumberOfMessagesPerSecond=500),
            listed(task("COMPLETED", 1, 1, DestinationArn=OTHER_ARN, MaxNumberOfMessagesPerSecond=500)),
            nothing_left(),
            Step("ReceiveMessage", {"QueueUrl": "$other"}, {"Messages": [Has({"Body": "one"})]}),
        ),
    ),
    Case(
        f"{START}: what came from nowhere",
        (
            *DEAD_LETTERS,
            send(QueueUrl="$dead"),
            started(),
            listed(task("FAILED", 0, 1, FailureReason="CouldNotDetermineMessageSource")),
        ),
    ),
    Case(
        f"{START}: to a queue that goes meanwhile",
        (
            *FIVE_DEAD,
            OTHER_QUEUE,
            started(**SLOW),
            Step("DeleteQueue", {"QueueUrl": "$other"}),
            listed(Has({"Status": "FAILED", "FailureReason": "AWS.SimpleQueueService.NonExistentQueue"})),
        ),
        kinds="f",
    ),
    Case(f"{START}: out of an empty queue", (*DEAD_LETTERS, started(), listed(task("COMPLETED", 0, 0)))),
    Case(
        f"{START}: one after the other",
        (
            *ONE_DEAD,
            started(),
            listed(task("COMPLETED", 1, 1)),
            started(),
            listed(task("COMPLETED", 0, 0), task("COMPLETED", 1, 1)),
            listed(task("COMPLETED", 0, 0), most=1),
            Step(LIST, SOURCE, {"Results": [task("COMPLETED", 0, 0)]}),
        ),
    ),
    row("no source", START, {}, missing("SourceArn"), attributes=None),
    row("a source that is not there", START, {"SourceArn": ABSENT_ARN}, no_resource("SourceArn")),
    *(row(f"the source {arn[:20]!r}", START, {"SourceArn": arn}, NO_ARN) for arn in NO_ARNS[1:]),
    row("a source that is not for dead letters", START, {"SourceArn": "$arn"}, NOT_DEAD),
    row(
        "a target that is not there",
        START,
        {**SOURCE, "DestinationArn": ABSENT_ARN},
        no_resource("DestinationArn"),
        before=DEAD_LETTERS,
    ),
    row(
        "the source as target",
        START,
        {**SOURCE, "DestinationArn": DEAD_ARN},
        invalid("Source queue arn and destination queue arn cannot be the same."),
        before=DEAD_LETTERS,
    ),
    row(
        "the lowest rate",
        START,
        {**SOURCE, "MaxNumberOfMessagesPerSecond": 1},
        {"TaskHandle": SOME},
        before=DEAD_LETTERS,
    ),
    *(
        row(
            f"a rate of {rate}",
            START,
            {**SOURCE, "MaxNumberOfMessagesPerSecond": rate},
            invalid_value(rate, "MaxNumberOfMessagesPerSecond", "Must be between 1 and 500, if provided."),
            before=DEAD_LETTERS,
        )
        for rate in (0, 501)
    ),
    row("a second one", START, SOURCE, RUNNING, before=(*FIVE_DEAD, OTHER_QUEUE, started(**SLOW)), kinds="f"),
]


def handle(told: object) -> str:
    return b64encode(json.dumps(told).encode()).decode()


BAD_HANDLE = invalid("Value for parameter TaskHandle is invalid.")
NO_TASK = Refused("ResourceNotFoundException", "Task does not exist.")
TASK_ID = "c0ffee00-1234-4321-abcd-000000000000"
BAD_HANDLES = {
    "no base64": "!",
    "no JSON": b64encode(b"{").decode(),
    "not UTF-8": b64encode(b"\xff").decode(),
    "a list": handle([]),
    "no task": handle({"sourceArn": "$arn"}),
    "no source": handle({"taskId": TASK_ID}),
    "a task that is a number": handle({"taskId": 1, "sourceArn": "arn:aws:sqs:us-east-1:000000000000:a"}),
    "a source that is a number": handle({"taskId": TASK_ID, "sourceArn": 1}),
    "a source that is no ARN": handle({"taskId": TASK_ID, "sourceArn": "a"}),
}

ENDED = [
    Case(
        f"{CANCEL}: one that is running",
        (
            *STANDARD_FIVE,
            OTHER_QUEUE,
            started(**SLOW),
            listed(
                Has(
                    {
                        "Status": "RUNNING",
                        "TaskHandle": "$task",
                        "DestinationArn": OTHER_ARN,
                        "MaxNumberOfMessagesPerSecond": 1,
                    }
                )
            ),
            Step(CANCEL, {"TaskHandle": "$task"}, {"ApproximateNumberOfMessagesMoved": ANYTHING}),
            listed(task("CANCELLED", ANYTHING, 5, DestinationArn=OTHER_ARN, MaxNumberOfMessagesPerSecond=1)),
            Step(CANCEL, {"TaskHandle": "$task"}, NO_TASK),
            started(DestinationArn=OTHER_ARN),
            listed(Has({"Status": "COMPLETED"}), Has({"Status": "CANCELLED"})),
        ),
        kinds="s",
    ),
    Case(
        f"{CANCEL}: one that is over",
        (*ONE_DEAD, started(), listed(task("COMPLETED", 1, 1)), Step(CANCEL, {"TaskHandle": "$task"}, NO_TASK)),
    ),
    row("no handle", CANCEL, {}, missing("TaskHandle"), attributes=None),
    *(row(name, CANCEL, {"TaskHandle": text}, BAD_HANDLE) for name, text in BAD_HANDLES.items()),
    row(
        "of a queue that is not there",
        CANCEL,
        {"TaskHandle": handle({"taskId": TASK_ID, "sourceArn": "arn:aws:sqs:us-east-1:000000000000:absent"})},
        no_resource("SourceArn"),
    ),
]

LISTED = [
    row("none", LIST, SOURCE, {}, before=(DEAD_QUEUE,)),
    row("no source", LIST, {}, missing("SourceArn"), attributes=None),
    row("a source that is not there", LIST, {"SourceArn": ABSENT_ARN}, no_resource("SourceArn")),
    *(row(f"the source {arn[:20]!r}", LIST, {"SourceArn": arn}, NO_ARN) for arn in NO_ARNS[1:]),
    row("the least", LIST, {**SOURCE, "MaxResults": 1}, {}, before=(DEAD_QUEUE,)),
    row("the most", LIST, {**SOURCE, "MaxResults": 10}, {}, before=(DEAD_QUEUE,)),
    *(
        row(
            f"{most} wanted",
            LIST,
            {**SOURCE, "MaxResults": most},
            invalid_value(most, "MaxResults", "Must be between 1 and 10, if provided."),
            before=(DEAD_QUEUE,),
        )
        for most in (0, 11)
    ),
]

CASES = [*STARTED, *ENDED, *LISTED]
