"""tq's own protocol: for each route, the request as a command or query, and its result as a response."""

from __future__ import annotations

import re
import uuid
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import UNSET

from tq import model
from tq.errors import InvalidQueueName, InvalidRequest, MessageNotFound, TqError
from tq.history import NO_AGE
from tq.web import formats, shapes, tracing
from tq.web.exchange import Request, Response, json_response

_QUEUE_NAME = re.compile(model.QUEUE_NAME)


# --- queues ---------------------------------------------------------------------------


def create_queue(request: Request) -> model.CreateQueue:
    """Create a queue."""
    body: shapes.NewQueue = request.told
    settings = msgspec.convert(body, model.QueueSettings, from_attributes=True)
    return model.CreateQueue(_new_name(body.name), settings)


def _new_name(name: str) -> str:
    """Raises InvalidQueueName for one that only SQS can make."""
    if not _QUEUE_NAME.fullmatch(name):
        raise InvalidQueueName
    return name


def queue_created(_: Request, result: model.Created) -> Response:
    location = ("Location", "/queues/" + quote(result.info.name))
    return json_response(201 if result.is_new else 200, _queue(result.info), (location,))


def put_queue(request: Request) -> model.PutQueue:
    """Create a queue or replace its settings."""
    return model.PutQueue(_new_name(request.params["queue"]), request.told)


def patch_queue(request: Request) -> model.PatchQueue:
    """Change some of a queue's settings."""
    return model.PatchQueue(request.params["queue"], request.told)


def list_queues(request: Request) -> model.ListQueues:
    """List queues, by name."""
    wanted: shapes.ListParameters = request.asked
    return model.ListQueues(wanted.prefix, wanted.after, wanted.limit)


def queues_listed(_: Request, result: model.QueuePage) -> Response:
    return json_response(200, shapes.QueuePage([_queue(info) for info in result.queues], result.next))


def get_queue(request: Request) -> model.GetQueue:
    """Look at a queue."""
    return model.GetQueue(request.params["queue"])


def queue_shown(_: Request, result: model.QueueInfo) -> Response:
    return json_response(200, _queue(result))


def get_history(request: Request) -> model.GetHistory:
    """Look at the last hour of a queue's numbers."""
    return model.GetHistory(request.params["queue"])


def history_shown(_: Request, history: model.QueueHistory) -> Response:
    columns: dict[str, Any] = dict(history.columns)
    ages_ms = columns.pop("oldest_message_age_ms")
    columns["oldest_message_age_seconds"] = [None if age_ms == NO_AGE else age_ms / 1000 for age_ms in ages_ms]
    shown = shapes.History(history.name, _seconds(history.ages_ms), shapes.Figures(**columns))
    return json_response(200, shown)


def list_history(request: Request) -> model.ListHistory:
    """Look at the last hour of the most active queues, in short."""
    return model.ListHistory(request.asked.prefix, request.asked.limit)


def histories_listed(_: Request, recent: model.RecentHistory) -> Response:
    queues = {name: shapes.RecentFigures(**columns) for name, columns in recent.queues.items()}  # type: ignore[arg-type]
    return json_response(200, shapes.RecentHistory(_seconds(recent.ages_ms), queues))


def _seconds(times_ms: tuple[int, ...]) -> list[float]:
    return [time_ms / 1000 for time_ms in times_ms]


def delete_queue(request: Request) -> model.DeleteQueue:
    """Delete a queue with its messages."""
    return model.DeleteQueue(request.params["queue"], request.asked.if_empty)


def purge_queue(request: Request) -> model.PurgeQueue:
    """Drop every message that is in a queue."""
    if request.path.endswith("/"):  # as where a script has no receipt in the variable that it puts there
        raise MessageNotFound("Behind the slash stands no message. Without the slash all messages are purged.")
    return model.PurgeQueue(request.params["queue"])


def queue_purged(_: Request, result: int) -> Response:
    return json_response(200, shapes.Purged(result))


def _queue(info: model.QueueInfo) -> msgspec.Struct:
    age_ms = info.oldest_message_age_ms
    return shapes.Queue(
        name=info.name,
        **{name: _plain(getattr(info.settings, name)) for name in info.settings.__struct_fields__},
        created_at=formats.timestamp(info.created_at_ms),
        messages=info.messages,
        bytes=info.bytes,
        oldest_message_age_seconds=None if age_ms is None else age_ms / 1000,
        totals=info.counters,
    )


def _plain(value: Any) -> Any:
    """Whole seconds without a fraction: 30, not 30.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- messages ---------------------------------------------------------------------------


def send(request: Request) -> model.Send:
    """Send one message or an atomic batch."""
    return model.Send(request.params["queue"], formats.read_drafts(request))


def sent(request: Request, result: model.Sent) -> Response:
    if request.is_list:
        return json_response(201, _ids(result))
    if result.duplicates:
        return json_response(200, shapes.Sent(result.ids[0], duplicate=True))
    return json_response(201, shapes.Sent(result.ids[0]))


def _ids(result: model.Sent) -> shapes.SentBatch:
    return shapes.SentBatch(result.ids, result.duplicates or UNSET)


def receive(request: Request) -> model.Receive:
    """Take the next messages: at most once without a lease, at least once with one."""
    return _receive((request.params["queue"],), request.asked)


def receive_by_post(request: Request) -> model.Receive:
    """Take the next messages, with a verb that no proxy or browser repeats or fetches ahead."""
    asked: shapes.ReceiveParameters = request.asked
    told: shapes.ReceiveParameters = request.told
    for name in told.__struct_fields__:
        if UNSET not in (getattr(told, name), getattr(asked, name)):
            raise InvalidRequest(f"`{name}` is given in the query string and in the body.")
        if getattr(told, name) is UNSET:
            told = msgspec.structs.replace(told, **{name: getattr(asked, name)})
    request.asked = told
    return receive(request)


def poll(request: Request) -> model.Receive:
    """Take the next messages of the first of several queues that has any."""
    body: shapes.PollBody = request.told
    return _receive(tuple(dict.fromkeys(body.queues)), body)


def _receive(queues: tuple[str, ...], wanted: shapes.ReceiveParameters) -> model.Receive:
    return model.Receive(
        queues,
        1 if wanted.max is UNSET else wanted.max,
        None if wanted.visibility_timeout is UNSET else _ms(wanted.visibility_timeout),
        0 if wanted.wait is UNSET else _ms(wanted.wait),
        _attempt_id(wanted),
    )


def _attempt_id(wanted: shapes.ReceiveParameters) -> str | None:
    """Raises InvalidRequest."""
    if wanted.attempt_id is UNSET:
        return None
    if wanted.visibility_timeout is UNSET:
        raise InvalidRequest("An `attempt_id` is for a receive with a `visibility_timeout`.")
    if len(wanted.attempt_id.encode()) > model.MAX_GROUP_BYTES:
        raise InvalidRequest(f"More than {model.MAX_GROUP_BYTES} bytes - at `$.attempt_id`.")
    return wanted.attempt_id


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def received(request: Request, result: model.Received) -> Response:
    if not result.messages:
        return Response(204)
    if request.asked.max is UNSET:
        return formats.one_message(request, result.messages[0])
    return formats.many_messages(request, result.messages)


def polled(request: Request, result: model.Received) -> Response:
    if not result.messages:
        return Response(204)
    if request.told.max is UNSET:
        return formats.one_message(request, result.messages[0], result.queue)
    return formats.many_messages(request, result.messages, queue=result.queue)


def get_message(request: Request) -> model.GetMessage:
    """Look at one message by its id."""
    message_id = _message_id(request.params["id"])
    if message_id is None:
        raise MessageNotFound(f"{request.params['id'][:100]!r} is not the id of a message.")
    return model.GetMessage(request.params["queue"], message_id)


def message_shown(request: Request, result: model.Message) -> Response:
    return formats.one_message(request, result)


def _message_id(text: str) -> int | None:
    """A receipt begins with a letter, so what is all digits is an id."""
    if text.isascii() and text.isdigit() and len(text) <= 17 and int(text) <= model.MAX_SEQUENCE:
        return int(text)
    return None


def peek(request: Request) -> model.Peek:
    """Look at the messages of one state, in the order of delivery."""
    wanted: shapes.PeekParameters = request.asked
    return model.Peek(request.params["queue"], wanted.state, wanted.after, wanted.limit)


def peeked(request: Request, result: model.MessagePage) -> Response:
    return formats.many_messages(request, result.messages, {"next": result.next})


def remove_message(request: Request) -> model.Settle | model.Cancel:
    """Acknowledge a message by its receipt, or cancel one by its id."""
    message_id = _message_id(request.params["id"])
    if message_id is not None:
        return model.Cancel(request.params["queue"], message_id)
    return model.Settle(request.params["queue"], (model.Ack(request.params["id"]),))


def message_removed(_: Request, result: Any) -> Response:
    if result is not None:
        _only(result)
    return Response(204)


def change_message(request: Request) -> model.Settle:
    """Extend, release or reject a leased message by its receipt."""
    body: shapes.Change = request.told
    receipt = request.params["id"]
    given = [name for name in shapes.CHANGES if getattr(body, name) is not UNSET]
    if len(given) != 1:
        raise InvalidRequest("Give exactly one of `visibility_timeout`, `delay` and `dead_letter` - at `$`.")
    action: model.Action
    if body.delay is not UNSET:
        action = model.Release(receipt, _ms(body.delay))
    elif body.visibility_timeout is not UNSET:
        action = _extend(receipt, body.visibility_timeout)
    else:
        action = model.Reject(receipt, body.reason)
    return model.Settle(request.params["queue"], (action,))


def _extend(receipt: str, seconds: float) -> model.Action:
    return model.Extend(receipt, _ms(seconds)) if seconds else model.Release(receipt)


def message_changed(_: Request, result: tuple[int | TqError | None, ...]) -> Response:
    visible_at_ms = _only(result)
    return json_response(200, shapes.Changed(UNSET if visible_at_ms is None else formats.timestamp(visible_at_ms)))


def _only(results: tuple[int | TqError | None, ...]) -> int | None:
    """The result of the one action, or raise the error it was refused with."""
    (result,) = results
    if isinstance(result, TqError):
        raise result
    return result


def settle(request: Request) -> model.Settle:
    """Acknowledge, release, extend or reject many messages in one commit, each for itself."""
    body: shapes.Acks = request.told
    actions: tuple[model.Action, ...] = (
        *(model.Ack(receipt) for receipt in body.receipts),
        *(model.Release(item.receipt, _ms(item.delay)) for item in body.releases),
        *(_extend(item.receipt, item.visibility_timeout) for item in body.extends),
        *(model.Reject(item.receipt, item.reason) for item in body.rejects),
    )
    if not 1 <= len(actions) <= model.MAX_PARTS:
        raise InvalidRequest(f"1 to {model.MAX_PARTS:,} receipts at once; these are {len(actions):,} - at `$`.")
    return model.Settle(request.params["queue"], actions)


def settled(request: Request, results: tuple[int | TqError | None, ...]) -> Response:
    body: shapes.Acks = request.told
    words = (
        [(receipt, "acked") for receipt in body.receipts]
        + [(item.receipt, "released") for item in body.releases]
        + [(item.receipt, "extended" if item.visibility_timeout else "released") for item in body.extends]
        + [(item.receipt, "rejected") for item in body.rejects]
    )
    rows = [
        shapes.Settled(
            receipt,
            result.code if isinstance(result, TqError) else word,
            formats.timestamp(result) if isinstance(result, int) else UNSET,
        )
        for (receipt, word), result in zip(words, results, strict=True)
    ]
    return json_response(200, shapes.Results(rows))


def redrive(request: Request) -> model.Redrive:
    """Move ready messages out of a dead-letter queue."""
    body: shapes.RedriveBody = request.told
    return model.Redrive(request.params["queue"], body.to, body.limit)


def redriven(_: Request, result: model.Redriven) -> Response:
    return json_response(200, shapes.Moved(result.moved))


def start_move(request: Request) -> model.StartMove:
    """Begin to move ready messages out of a dead-letter queue, so many a second."""
    body: shapes.NewMove = request.told
    return model.StartMove(request.params["queue"], str(uuid.uuid4()), body.to, body.per_second)


def move_shown(_: Request, task: model.MoveTask) -> Response:
    return json_response(200, _move(task))


def list_moves(request: Request) -> model.ListMoves:
    """List the latest moves out of a queue, the last first."""
    return model.ListMoves(request.params["queue"])


def moves_listed(_: Request, tasks: tuple[model.MoveTask, ...]) -> Response:
    return json_response(200, shapes.Moves([_move(task) for task in tasks]))


def cancel_move(request: Request) -> model.CancelMove:
    """End a move that is running."""
    return model.CancelMove(request.params["queue"], request.params["move"])


def _move(task: model.MoveTask) -> shapes.Move:
    return shapes.Move(
        task.id,
        task.status,
        task.to,
        task.per_second,
        formats.timestamp(task.started_at_ms),
        task.moved,
        task.to_move,
        task.failure or UNSET,
    )


def transact(request: Request) -> model.Transaction:
    """Acknowledge and send over any number of queues, all or nothing."""
    body: shapes.TransactionBody = request.told
    if not 1 <= len(body.ack) + len(body.send) <= model.MAX_PARTS:
        raise InvalidRequest(f"A transaction has 1 to {model.MAX_PARTS:,} parts - at `$`.")
    drafts = tracing.traced(
        request.headers, (formats.json_draft(part, "$.send", index) for index, part in enumerate(body.send))
    )
    return model.Transaction(
        tuple((part.queue, part.receipt) for part in body.ack),
        tuple((part.queue, draft) for part, draft in zip(body.send, drafts, strict=True)),
    )


def transacted(_: Request, result: model.Sent) -> Response:
    return json_response(200, _ids(result))


# --- the server ---------------------------------------------------------------------------


def get_status(_: Request) -> model.GetStatus:
    """Look at the server: version, totals, storage."""
    return model.GetStatus()


def status_shown(_: Request, status: model.Status) -> Response:
    totals = status.totals
    uptime_s = status.uptime_ms / 1000
    shown = shapes.Status("ok", status.version, uptime_s, totals.queues, totals.messages, status.storage)
    return json_response(200, shown)


def get_health(_: Request) -> model.GetHealth:
    """Whether the server can write, as far as it knows."""
    return model.GetHealth()


def probe(_: Request) -> model.Probe:
    """Write and sync a record: whether the server can write indeed."""
    return model.Probe()


def is_well(_: Request, __: None) -> Response:
    return json_response(200, shapes.Well())


def nothing(_: Request, __: None) -> Response:
    return Response(204)
