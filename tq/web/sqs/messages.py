"""The operations on messages: SendMessage, ReceiveMessage, DeleteMessage, ChangeMessageVisibility, their batches."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Sequence
from typing import Any

from tq import model
from tq.errors import (
    DedupIdMissing,
    LeaseTooLong,
    MessageNotFound,
    NotAReceipt,
    NotInFifo,
    StaleReceipt,
    TooManyInFlight,
    TqError,
)
from tq.web.sqs import contents, shapes
from tq.web.sqs.attributes import MAX_MESSAGE_BYTES, unknown
from tq.web.sqs.call import Call, Operation, Output, is_fifo
from tq.web.sqs.contents import GROUP, TRACE_HEADER, Wanted
from tq.web.sqs.errors import (
    SqsError,
    expired_receipt,
    failure,
    from_tq,
    invalid_parameter,
    invalid_receipt,
    invalid_value,
    missing,
    modeled,
    no_such_message,
    too_long,
)

MAX_ENTRIES = 10
MAX_WAIT_S = 20

_MEMBERS = {"message_body": "MessageBody", "receipt_handle": "ReceiptHandle"}
_ENTRY_ID = re.compile(r"[A-Za-z0-9_-]{1,80}")


# --- sending -------------------------------------------------------------


def send_message(call: Call, wanted: shapes.SendMessage) -> Operation:
    queue = call.queue(wanted.queue_url)
    in_fifo = is_fifo(queue)
    draft = contents.to_draft(wanted, in_fifo, call.trace)
    if in_fifo and draft.group is None:
        raise missing("MessageGroupId")
    if draft.size > MAX_MESSAGE_BYTES:
        raise too_long(MAX_MESSAGE_BYTES)
    try:
        sent: model.Sent = yield model.Send(queue, (draft,), with_uuids=True)
    except TqError as refusal:
        raise _refusal(wanted, refusal) from refusal
    message_id = contents.message_id(sent.uuid_prefix + sent.ids[0].to_bytes(7))
    return _sent({"MessageId": message_id}, wanted, draft, sent.ids[0])


def send_message_batch(call: Call, wanted: shapes.SendMessageBatch) -> Operation:
    queue = call.queue(wanted.queue_url)
    entries = _entries(wanted.entries, "SendMessageBatchRequestEntry", "message_body")
    in_fifo = is_fifo(queue)
    if in_fifo:
        yield from _check_fifo_batch(queue, entries)
    trace = call.trace
    size = 0
    drafts: list[model.Draft] = []
    sending: list[shapes.SendMessageBatchEntry] = []
    failed: list[Output] = []
    for entry in entries:
        try:
            draft = contents.to_draft(entry, in_fifo, trace)
        except SqsError as error:
            failed.append(failure(entry.id, error))
        else:
            drafts.append(draft)
            sending.append(entry)
            size += draft.size
    if size > MAX_MESSAGE_BYTES:
        message = f"Batch requests cannot be longer than {MAX_MESSAGE_BYTES} bytes. You have sent {size} bytes."
        raise modeled("BatchRequestTooLong", message)
    sent: model.Sent = yield model.Send(queue, tuple(drafts), is_each=True, with_uuids=True)
    failed += [failure(sending[index].id, _refusal(sending[index], error)) for index, error in sent.refused]
    message_ids = contents.message_ids(sent.uuid_prefix, sent.ids)
    successful = [
        _sent({"Id": entry.id, "MessageId": message_id}, entry, draft, sequence)
        for entry, draft, sequence, message_id in zip(sending, drafts, sent.ids, message_ids, strict=True)
        if sequence
    ]
    return {"Successful": successful, "Failed": failed}


def _check_fifo_batch(queue: str, entries: list[shapes.SendMessageBatchEntry]) -> Generator[model.Query, Any, None]:
    """What the service refuses a whole batch for. Raises SqsError."""
    if not all(entry.message_deduplication_id for entry in entries):
        info: model.QueueInfo = yield model.GetQueue(queue)
        if not info.settings.content_dedup:
            raise from_tq(DedupIdMissing())
    if not all(entry.message_group_id for entry in entries):
        raise invalid_parameter(missing("MessageGroupId").message)


def _refusal(message: shapes.Message, refusal: TqError) -> SqsError:
    if isinstance(refusal, NotInFifo):
        reason = "The request include parameter that is not valid for this queue type."
        return invalid_value(message.delay_seconds, "DelaySeconds", reason)
    return from_tq(refusal)


def _sent(answer: Output, message: shapes.Message, draft: model.Draft, sequence: int) -> Output:
    """The answer, with what is told of a message that was sent."""
    answer["MD5OfMessageBody"] = contents.md5(draft.content)
    if message.message_attributes:
        answer["MD5OfMessageAttributes"] = contents.md5_of(draft.headers, draft.attributes)
    if message.message_system_attributes:
        trace = (draft.notes or {})[TRACE_HEADER]
        answer["MD5OfMessageSystemAttributes"] = contents.md5_of({TRACE_HEADER: trace}, None)
    if draft.group is not None:
        answer["SequenceNumber"] = contents.sequence_number(sequence)
    return answer


# --- receiving -------------------------------------------------------------


def receive_message(call: Call, wanted: shapes.ReceiveMessage) -> Operation:
    queue = call.queue(wanted.queue_url)
    limit = _checked(wanted.max_number_of_messages, "MaxNumberOfMessages", 1, 10)
    visibility_s = _checked(wanted.visibility_timeout, "VisibilityTimeout", 0, model.MAX_VISIBILITY_S)
    wait_s = wanted.wait_time_seconds
    if wait_s is not None and not 0 <= wait_s <= MAX_WAIT_S:
        raise invalid_value(wait_s, "WaitTimeSeconds", f"Must be >= 0 and <= {MAX_WAIT_S}, if provided.")
    attempt_id = wanted.receive_request_attempt_id
    if attempt_id is not None:
        contents.check_id(attempt_id, "ReceiveRequestAttemptId")
        if not is_fifo(queue):
            reason = "The request include parameter that is not valid for this queue type."
            raise invalid_value(attempt_id, "ReceiveRequestAttemptId", reason)
    attributes = _wanted_attributes(wanted)
    try:
        received: model.Received = yield model.Receive(
            (queue,),
            1 if limit is None else limit,
            -1 if visibility_s is None else visibility_s * 1000,
            -1 if wait_s is None else wait_s * 1000,
            attempt_id,
            with_uuids=True,
        )
    except TooManyInFlight:
        if not is_fifo(queue):
            raise
        return {}
    return {"Messages": [_shown(call, each, attributes) for each in received.messages]} if received.messages else {}


def _checked(value: int | None, parameter: str, low: int, high: int) -> int | None:
    if value is not None and not low <= value <= high:
        raise invalid_value(value, parameter, f"Must be between {low} and {high}, if provided.")
    return value


def _wanted_attributes(wanted: shapes.ReceiveMessage) -> Wanted:
    if not (wanted.attribute_names or wanted.message_system_attribute_names or wanted.message_attribute_names):
        return _NOTHING_WANTED
    system = set(wanted.message_system_attribute_names or wanted.attribute_names or ())
    for name in system - _SYSTEM.keys() - {"All"}:
        raise unknown(name)
    return Wanted(system, wanted.message_attribute_names or [])


def _shown(call: Call, message: model.Message, wanted: Wanted) -> Output:
    body = contents.body_of(message)
    assert message.uuid
    shown: Output = {
        "MessageId": contents.message_id(message.uuid),
        "ReceiptHandle": message.receipt,
        "MD5OfBody": contents.md5(body.encode()),
        "Body": body,
    }
    if wanted.system:
        is_all = "All" in wanted.system
        names = _SYSTEM if is_all else wanted.system & _SYSTEM.keys()
        system = {name: text for name in names if (text := _SYSTEM[name](call, message))}
        if system:
            shown["Attributes"] = system
    if wanted.is_any and (message.headers or message.attributes):
        attributes, digest = contents.shown_attributes(message, wanted)
        if attributes:
            shown["MD5OfMessageAttributes"] = digest
            shown["MessageAttributes"] = attributes
    return shown


def _group(message: model.Message) -> str | None:
    return message.group or (message.notes or {}).get(GROUP)


_NOTHING_WANTED = Wanted(set(), [])
_SYSTEM: dict[str, Callable[[Call, model.Message], str | None]] = {
    "SenderId": lambda call, message: call.account,
    "SentTimestamp": lambda call, message: str(message.sent_at_ms),
    "ApproximateReceiveCount": lambda call, message: str(message.receive_count),
    "ApproximateFirstReceiveTimestamp": lambda call, message: str(message.first_received_at_ms),
    "SequenceNumber": lambda call, message: contents.sequence_number(message.id) if message.group else None,
    "MessageDeduplicationId": lambda call, message: message.dedup_id,
    "MessageGroupId": lambda call, message: _group(message),
    "AWSTraceHeader": lambda call, message: (message.notes or {}).get(TRACE_HEADER),
    "DeadLetterQueueSourceArn": lambda call, message: (
        call.scope.arn(message.dead_letter.source) if message.dead_letter else None
    ),
}


# --- settling -------------------------------------------------------------


def delete_message(call: Call, wanted: shapes.DeleteMessage) -> Operation:
    queue = call.queue(wanted.queue_url)
    action = model.Ack(_handle(wanted.receipt_handle))
    (result,) = yield model.Settle(queue, (action,), is_any=True)
    error = _not_deleted(queue, action, result)
    if error:
        raise error
    return {}


def delete_message_batch(call: Call, wanted: shapes.DeleteMessageBatch) -> Operation:
    queue = call.queue(wanted.queue_url)
    entries = _entries(wanted.entries, "DeleteMessageBatchRequestEntry", "receipt_handle")

    def ack(entry: shapes.DeleteMessageBatchEntry) -> model.Action:
        return model.Ack(_handle(entry.receipt_handle))

    return (yield from _settle_each(queue, entries, ack, _not_deleted))


def change_message_visibility(call: Call, wanted: shapes.ChangeMessageVisibility) -> Operation:
    queue = call.queue(wanted.queue_url)
    action = _visibility(wanted.receipt_handle, wanted.visibility_timeout)
    (result,) = yield model.Settle(queue, (action,), is_any=True)
    error = _not_changed(queue, action, result)
    if error:
        raise error
    return {}


def change_message_visibility_batch(call: Call, wanted: shapes.ChangeMessageVisibilityBatch) -> Operation:
    queue = call.queue(wanted.queue_url)
    entries = _entries(wanted.entries, "ChangeMessageVisibilityBatchRequestEntry", "receipt_handle")

    def change(entry: shapes.ChangeMessageVisibilityBatchEntry) -> model.Action:
        return _visibility(entry.receipt_handle, entry.visibility_timeout)

    return (yield from _settle_each(queue, entries, change, _not_changed))


def _settle_each(
    queue: str,
    entries: Sequence[Any],
    action_of: Callable[[Any], model.Action],
    refused: Callable[[str, Any, Any], SqsError | None],
) -> Operation:
    """Settle the entries of a batch in one commit, each for itself."""
    actions: list[model.Action] = []
    settling: list[str] = []
    failed: list[dict[str, object]] = []
    for entry in entries:
        try:
            actions.append(action_of(entry))
            settling.append(entry.id)
        except SqsError as error:
            failed.append(failure(entry.id, error))
    successful: list[dict[str, object]] = []
    results = yield model.Settle(queue, tuple(actions), is_any=True)
    for entry_id, action, result in zip(settling, actions, results, strict=True):
        refusal = refused(queue, action, result)
        if refusal:
            failed.append(failure(entry_id, refusal))
        else:
            successful.append({"Id": entry_id})
    return {"Successful": successful, "Failed": failed}


def _handle(handle: str | None) -> str:
    if not handle:
        raise missing("ReceiptHandle")
    return handle


def _visibility(handle: str | None, timeout_s: int | None) -> model.Extend | model.Release:
    receipt = _handle(handle)
    if timeout_s is None:
        raise missing("VisibilityTimeout")
    _checked(timeout_s, "VisibilityTimeout", 0, model.MAX_VISIBILITY_S)
    return model.Extend(receipt, timeout_s * 1000) if timeout_s else model.Release(receipt)


def _not_deleted(queue: str, action: model.Ack, result: Any) -> SqsError | None:
    if isinstance(result, NotAReceipt):
        return invalid_receipt(action.receipt)
    if isinstance(result, StaleReceipt):
        return expired_receipt(action.receipt)
    return from_tq(result) if isinstance(result, TqError) else None


def _not_changed(queue: str, action: model.Extend | model.Release, result: Any) -> SqsError | None:
    handle = action.receipt
    if isinstance(result, LeaseTooLong) and isinstance(action, model.Extend):
        reason = f"Total VisibilityTimeout for the message is beyond the limit [{model.MAX_VISIBILITY_S} seconds]"
        return invalid_value(action.visibility_ms // 1000, "VisibilityTimeout", reason)
    if isinstance(result, NotAReceipt):
        return invalid_receipt(handle)
    if isinstance(result, StaleReceipt):
        return expired_receipt(handle) if is_fifo(queue) else None  # it is visible again, and stays so
    if isinstance(result, MessageNotFound):
        return no_such_message(handle)
    return from_tq(result) if isinstance(result, TqError) else None


# --- batches -------------------------------------------------------------


def _entries(entries: list[Any] | None, kind: str, required: str) -> list[Any]:
    """The entries of a batch, each with an id and what else is required. Raises SqsError when the batch is none."""
    if not entries:
        raise modeled("EmptyBatchRequest", f"There should be at least one {kind} in the request.")
    if len(entries) > MAX_ENTRIES:
        message = f"Maximum number of entries per request are {MAX_ENTRIES}. You have sent {len(entries)}."
        raise modeled("TooManyEntriesInBatchRequest", message)
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        if entry.id is None:
            raise missing(f"{kind}.{number}.Id")
        if getattr(entry, required) is None:
            raise missing(f"{kind}.{number}.{_MEMBERS[required]}")
        if not _ENTRY_ID.fullmatch(entry.id):
            raise modeled(
                "InvalidBatchEntryId",
                "A batch entry id can only contain alphanumeric characters, hyphens and underscores. "
                "It can be at most 80 letters long.",
            )
        if entry.id in seen:
            raise modeled("BatchEntryIdsNotDistinct", f"Id {entry.id} repeated.")
        seen.add(entry.id)
    return entries
