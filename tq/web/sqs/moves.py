"""The operations on tasks that move messages out of a dead-letter queue."""

from __future__ import annotations

import binascii
import json
import uuid
from base64 import b64decode, b64encode
from collections.abc import Generator
from typing import Any

from tq import model
from tq.errors import InvalidQueueName, MoveNotFound, MoveRunning, QueueNotFound
from tq.web.sqs import shapes
from tq.web.sqs.attributes import queue_of
from tq.web.sqs.call import Call, Operation, Output
from tq.web.sqs.errors import SqsError, invalid_parameter, invalid_value, missing, modeled, no_such_resource

MAX_PER_SECOND = 500
MAX_RESULTS = 10

_FAILURES = {
    "target_gone": "AWS.SimpleQueueService.NonExistentQueue",
    "no_source": "CouldNotDetermineMessageSource",
}


def start_message_move_task(call: Call, wanted: shapes.StartMessageMoveTask) -> Operation:
    source = yield from _existing(wanted.source_arn, "SourceArn")
    per_second = wanted.max_number_of_messages_per_second
    if per_second is not None and not 1 <= per_second <= MAX_PER_SECOND:
        reason = f"Must be between 1 and {MAX_PER_SECOND}, if provided."
        raise invalid_value(per_second, "MaxNumberOfMessagesPerSecond", reason)
    target = None
    if wanted.destination_arn:
        target = yield from _existing(wanted.destination_arn, "DestinationArn")
        if target == source:
            raise invalid_parameter("Source queue arn and destination queue arn cannot be the same.")
    sources: model.Sources = yield model.ListSources(source, limit=1)
    if not sources.names:
        raise invalid_parameter("Source queue must be configured as a Dead Letter Queue.")
    try:
        task: model.MoveTask = yield model.StartMove(source, str(uuid.uuid4()), target, per_second)
    except MoveRunning as error:
        raise invalid_parameter(
            "There is already a task running. Only one active task is allowed for a source queue arn at a given time."
        ) from error
    return {"TaskHandle": _handle(call, task)}


def cancel_message_move_task(call: Call, wanted: shapes.CancelMessageMoveTask) -> Operation:
    if not wanted.task_handle:
        raise missing("TaskHandle")
    try:
        told = json.loads(b64decode(wanted.task_handle, validate=True))
        task_id, arn = told["taskId"], told["sourceArn"]
        queue = queue_of(arn)
    except (binascii.Error, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _invalid_handle() from error
    if queue is None or not isinstance(task_id, str):
        raise _invalid_handle()
    try:
        task: model.MoveTask = yield model.CancelMove(queue, task_id)
    except QueueNotFound as error:
        raise no_such_resource("SourceArn") from error
    except MoveNotFound as error:
        raise modeled("ResourceNotFoundException", "Task does not exist.") from error
    return {"ApproximateNumberOfMessagesMoved": task.moved}


def list_message_move_tasks(call: Call, wanted: shapes.ListMessageMoveTasks) -> Operation:
    source = yield from _existing(wanted.source_arn, "SourceArn")
    limit = 1 if wanted.max_results is None else wanted.max_results
    if not 1 <= limit <= MAX_RESULTS:
        raise invalid_value(limit, "MaxResults", f"Must be between 1 and {MAX_RESULTS}, if provided.")
    tasks: tuple[model.MoveTask, ...] = yield model.ListMoves(source)
    return {"Results": [_shown(call, task) for task in tasks[:limit]]}


def _invalid_handle() -> SqsError:
    return invalid_parameter("Value for parameter TaskHandle is invalid.")


def _existing(arn: str | None, parameter: str) -> Generator[model.Query, Any, str]:
    """The queue that an ARN names. Raises SqsError."""
    if not arn:
        raise missing(parameter)
    queue = queue_of(arn)
    if queue is None:
        raise invalid_parameter(
            f"You must use this format to specify the {parameter}: "
            "arn:<partition>:<service>:<region>:<account-id>:<resource-id>"
        )
    try:
        yield model.GetQueue(queue)
    except (QueueNotFound, InvalidQueueName) as error:
        raise no_such_resource(parameter) from error
    return queue


def _handle(call: Call, task: model.MoveTask) -> str:
    return b64encode(json.dumps({"taskId": task.id, "sourceArn": call.scope.arn(task.queue)}).encode()).decode()


def _shown(call: Call, task: model.MoveTask) -> Output:
    shown: Output = {
        "Status": task.status.upper(),
        "SourceArn": call.scope.arn(task.queue),
        "ApproximateNumberOfMessagesMoved": task.moved,
        "ApproximateNumberOfMessagesToMove": task.to_move,
        "StartedTimestamp": task.started_at_ms,
    }
    if task.status == "running":
        shown["TaskHandle"] = _handle(call, task)
    if task.to:
        shown["DestinationArn"] = call.scope.arn(task.to)
    if task.per_second:
        shown["MaxNumberOfMessagesPerSecond"] = task.per_second
    if task.failure:
        shown["FailureReason"] = _FAILURES[task.failure]
    return shown
