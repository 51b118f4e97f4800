"""The operations on queues: made, found, listed, configured, tagged, shared by policy, emptied and removed."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Generator
from typing import Any

from tq import model
from tq.errors import InvalidQueueName, InvalidRequest, QueueExists, QueueNotFound, TqError
from tq.web.sqs import shapes
from tq.web.sqs.attributes import (
    ALL,
    FIFO_ONLY,
    LAST_MODIFIED,
    MAX_TEXT_LENGTH,
    SCOPE,
    SOMETIMES,
    TAG,
    Parsed,
    allows,
    bad_tag_key,
    check_tag_keys,
    check_tags,
    check_together,
    differing,
    new_settings,
    parse,
    render,
    tag_notes,
    tags_of,
    unknown,
)
from tq.web.sqs.call import Call, Operation, Output, is_fifo, paging, to_token
from tq.web.sqs.errors import invalid_parameter, invalid_value, missing, modeled, without_place

MAX_ACTIONS = 7

_NAME = re.compile("[A-Za-z0-9_-]{1,80}")
_FIFO_NAME = re.compile(r"[A-Za-z0-9_-]{1,75}\.fifo")
_ACCOUNT = re.compile("[0-9]{12}")

# What a permission may be given for (AddPermission, "Actions").
_SHARED = (
    "*",
    "ChangeMessageVisibility",
    "DeleteMessage",
    "GetQueueAttributes",
    "GetQueueUrl",
    "ListDeadLetterSourceQueues",
    "PurgeQueue",
    "ReceiveMessage",
    "SendMessage",
)
_NOT_SHARED = (
    "AddPermission",
    "CancelMessageMoveTask",
    "CreateQueue",
    "DeleteQueue",
    "ListMessageMoveTasks",
    "ListQueueTags",
    "ListQueues",
    "RemovePermission",
    "SetQueueAttributes",
    "StartMessageMoveTask",
    "TagQueue",
    "UntagQueue",
)


# --- made and found -------------------------------------------------------------


def create_queue(call: Call, wanted: shapes.CreateQueue) -> Operation:
    name = wanted.queue_name
    if not name:
        raise missing("QueueName")
    given = wanted.attributes or {}
    as_fifo = given.get("FifoQueue") == "true"
    _check_name(name, as_fifo)
    parsed = parse(given, as_fifo)
    tags = wanted.tags or {}
    check_tags(name, tags)
    notes = {key: text for key, text in parsed.notes.items() if text is not None} | tag_notes(tags)
    while True:
        try:
            info: model.QueueInfo = yield model.GetQueue(name)
        except (QueueNotFound, InvalidQueueName):
            pass
        else:
            other = differing(call.scope, info, given, parsed)
            if other:
                message = f"A queue already exists with the same name and a different value for attribute {other}"
                raise modeled("QueueNameExists", message)
            return {"QueueUrl": call.url(name)}
        if call.deleted.has(name):
            message = (
                "You must wait 60 seconds after deleting a queue before you can create another with the same name."
            )
            raise modeled("QueueDeletedRecently", message)
        check_together(given, {})
        yield from _check_target(name, given, parsed)
        try:
            created: model.Created = yield model.CreateQueue(name, new_settings(parsed), notes)
        except QueueExists:
            continue  # somebody was faster
        except InvalidRequest as error:
            raise invalid_value(given.get("RedrivePolicy"), "RedrivePolicy", without_place(error)) from error
        if created.is_new:
            return {"QueueUrl": call.url(name)}


def _check_target(name: str, given: dict[str, str], parsed: Parsed) -> Generator[model.Query, Any, None]:
    """The queue for dead letters exists and takes those of this queue. Raises SqsError."""
    letter = parsed.settings.get("dead_letter")
    if letter is None:
        return
    try:
        target: model.QueueInfo = yield model.GetQueue(letter.queue)
    except (QueueNotFound, InvalidQueueName) as error:
        raise invalid_value(given["RedrivePolicy"], "RedrivePolicy", "Dead letter target does not exist.") from error
    if not allows(target, name):
        reason = "The dead-letter queue does not allow this queue as its source."
        raise invalid_value(given["RedrivePolicy"], "RedrivePolicy", reason)


def _check_name(name: str, as_fifo: bool) -> None:
    """Raises SqsError."""
    if as_fifo and not _FIFO_NAME.fullmatch(name):
        raise invalid_parameter(
            "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with "
            ".fifo suffix and be 1 to 80 in length"
        )
    if not as_fifo and not _NAME.fullmatch(name):
        raise invalid_parameter("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")


def get_queue_url(call: Call, wanted: shapes.GetQueueUrl) -> Operation:
    if not wanted.queue_name:
        raise missing("QueueName")
    yield model.GetQueue(wanted.queue_name)
    return {"QueueUrl": call.url(wanted.queue_name)}


def list_queues(call: Call, wanted: shapes.ListQueues) -> Operation:
    after, most = paging(wanted.next_token, wanted.max_results)
    page: model.QueuePage = yield model.ListQueues(wanted.queue_name_prefix or "", after, most)
    answer: Output = {"QueueUrls": [call.url(info.name) for info in page.queues]}
    return answer | ({"NextToken": to_token(page.next)} if page.next and wanted.max_results else {})


def delete_queue(call: Call, wanted: shapes.DeleteQueue) -> Operation:
    queue = call.queue(wanted.queue_url)
    yield model.DeleteQueue(queue)
    call.deleted.add(queue)
    call.purged.forget(queue)
    return {}


def purge_queue(call: Call, wanted: shapes.PurgeQueue) -> Operation:
    queue = call.queue(wanted.queue_url)
    yield model.GetQueue(queue)  # who has no right to it need not know when it was purged
    if call.purged.has(queue):
        message = f"Only one PurgeQueue operation on {queue} is allowed every 60 seconds."
        raise modeled("PurgeQueueInProgress", message)
    call.purged.add(queue)  # ahead of it, so that of two at once one is refused
    try:
        yield model.PurgeQueue(queue)
    except TqError:
        call.purged.forget(queue)
        raise
    return {}


def list_dead_letter_source_queues(call: Call, wanted: shapes.ListDeadLetterSourceQueues) -> Operation:
    queue = call.queue(wanted.queue_url)
    after, most = paging(wanted.next_token, wanted.max_results)
    sources: model.Sources = yield model.ListSources(queue, after, most + 1)
    names = sources.names
    answer: Output = {"queueUrls": [call.url(name) for name in names[:most]]}
    has_next = wanted.max_results is not None and len(names) > most
    return answer | ({"NextToken": to_token(names[most - 1])} if has_next else {})


def look_for(call: Call, queue_url: str | None) -> Operation:
    """Whether a queue is there. Raises QueueNotFound."""
    yield model.GetQueue(call.queue(queue_url))
    return {}


# --- configured -------------------------------------------------------------


def get_queue_attributes(call: Call, wanted: shapes.GetQueueAttributes) -> Operation:
    queue = call.queue(wanted.queue_url)
    names = wanted.attribute_names or []
    known = ("All", *ALL, *SOMETIMES, *(FIFO_ONLY if is_fifo(queue) else ()))
    for name in names:
        if name not in known:
            raise unknown(name)
    info: model.QueueInfo = yield model.GetQueue(queue)
    attributes = render(call.scope, info)
    if "All" not in names:
        attributes = {name: text for name, text in attributes.items() if name in names}
    return {"Attributes": attributes}


def set_queue_attributes(call: Call, wanted: shapes.SetQueueAttributes) -> Operation:
    queue = call.queue(wanted.queue_url)
    if wanted.attributes is None:
        raise missing("Attributes")
    info: model.QueueInfo = yield model.GetQueue(queue)
    given = dict(wanted.attributes)
    if info.settings.fifo and given.pop("FifoQueue", "true") != "true":
        message = "Invalid value for the parameter FifoQueue. Reason: Modifying queue type is not supported."
        raise modeled("InvalidAttributeValue", message)
    parsed = parse(given, info.settings.fifo)
    check_together(given, render(call.scope, info))
    yield from _check_target(queue, given, parsed)
    notes = parsed.notes | _modified()
    if parsed.settings.pop("dedup_scope", None):
        notes[SCOPE] = given[SCOPE]  # the service shows another scope, but goes on with that of the queue's creation
    try:
        yield model.PatchQueue(queue, model.SettingsChange(**parsed.settings), notes)
    except InvalidRequest as error:
        raise invalid_value(given.get("RedrivePolicy"), "RedrivePolicy", without_place(error)) from error
    return {}


def _modified() -> dict[str, str | None]:
    return {LAST_MODIFIED: str(int(time.time()))}


# --- tagged -------------------------------------------------------------


def tag_queue(call: Call, wanted: shapes.TagQueue) -> Operation:
    queue = call.queue(wanted.queue_url)
    if not wanted.tags:
        raise missing("Tags")
    info: model.QueueInfo = yield model.GetQueue(queue)
    check_tags(queue, tags_of(info) | wanted.tags)
    yield model.PatchQueue(queue, notes={**tag_notes(wanted.tags)})
    return {}


def untag_queue(call: Call, wanted: shapes.UntagQueue) -> Operation:
    queue = call.queue(wanted.queue_url)
    if wanted.tag_keys is None:
        raise missing("TagKeys")
    if not wanted.tag_keys:
        raise bad_tag_key()
    check_tag_keys(wanted.tag_keys)
    yield model.PatchQueue(queue, notes={TAG + key: None for key in wanted.tag_keys})
    return {}


def list_queue_tags(call: Call, wanted: shapes.ListQueueTags) -> Operation:
    info: model.QueueInfo = yield model.GetQueue(call.queue(wanted.queue_url))
    return {"Tags": tags_of(info)}


# --- shared by policy -------------------------------------------------------------

# The policy is kept and shown. tq does not act on it: who may do what is said by tokens.


def add_permission(call: Call, wanted: shapes.AddPermission) -> Operation:
    queue = call.queue(wanted.queue_url)
    label = wanted.label
    if not label:
        raise missing("Label")
    if wanted.aws_account_ids is None:
        raise missing("AWSAccountIds")
    if not wanted.actions:
        raise missing("Actions")
    if not _NAME.fullmatch(label):
        raise invalid_value(label, "Label", "Can only include alphanumeric characters, hyphens, or underscores.")
    if len(wanted.actions) > MAX_ACTIONS:
        message = f"{len(wanted.actions)} Actions were found, maximum allowed is {MAX_ACTIONS}."
        raise modeled("OverLimit", message)
    for action in wanted.actions:
        if action not in _SHARED:
            reason = "Please refer to the appropriate WSDL for a list of valid actions. "
            if action in _NOT_SHARED:
                reason = "Only the queue owner is allowed to invoke this action."
            raise invalid_value(f"SQS:{action}", "ActionName", reason)
    if not wanted.aws_account_ids or not all(map(_ACCOUNT.fullmatch, wanted.aws_account_ids)):
        accounts = ", ".join(wanted.aws_account_ids)
        raise invalid_value(f"[{accounts}]", "PrincipalId", "Unable to verify.")
    principals = [f"arn:aws:iam::{account}:root" for account in wanted.aws_account_ids]
    statement = {
        "Sid": label,
        "Effect": "Allow",
        "Principal": {"AWS": _one_or_many(principals)},
        "Action": _one_or_many([f"SQS:{action}" for action in wanted.actions]),
        "Resource": call.scope.arn(queue),
    }

    def add(policy: dict[str, Any]) -> None:
        if any(each.get("Sid") == label for each in policy["Statement"]):
            raise invalid_value(label, "Label", "Already exists.")
        policy["Statement"].append(statement)

    yield from _change_policy(call, queue, add)
    return {}


def remove_permission(call: Call, wanted: shapes.RemovePermission) -> Operation:
    queue = call.queue(wanted.queue_url)
    label = wanted.label
    if not label:
        raise missing("Label")

    def remove(policy: dict[str, Any]) -> None:
        left = [each for each in policy["Statement"] if each.get("Sid") != label]
        if len(left) == len(policy["Statement"]):
            raise invalid_value(label, "Label", "can't find label.")
        policy["Statement"] = left

    yield from _change_policy(call, queue, remove)
    return {}


def _one_or_many(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def _change_policy(call: Call, queue: str, change: Any) -> Generator[Any, Any, None]:
    """Change the queue's policy, over again when somebody else has changed it meanwhile. Raises SqsError."""
    while True:
        info: model.QueueInfo = yield model.GetQueue(queue)
        before = info.notes.get("Policy")
        policy = json.loads(before) if before else {}
        policy = {"Version": "2008-10-17", "Id": f"{call.scope.arn(queue)}/SQSDefaultPolicy", "Statement": []} | policy
        if isinstance(policy["Statement"], dict):
            policy["Statement"] = [policy["Statement"]]
        change(policy)
        after = json.dumps(policy, separators=(",", ":")) if policy["Statement"] else None
        if after and len(after) > MAX_TEXT_LENGTH:
            raise modeled("OverLimit", f"The policy of a queue has at most {MAX_TEXT_LENGTH} characters.")
        notes = {"Policy": after} | _modified()
        if (yield model.PatchQueue(queue, notes=notes, expected={"Policy": before})) is not None:
            return
