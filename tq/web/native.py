"""tq's own protocol: for each route, the request as a command or query, and its result as a response."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tq import model
from tq.errors import InvalidRequest, MessageNotFound, TqError
from tq.web import formats
from tq.web.exchange import NoParameters, Request, Response, json_response

Limit = Annotated[int, Meta(ge=1, le=model.MAX_PAGE)]


class NewQueue(model.QueueSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str


class ListParameters(Struct, frozen=True, forbid_unknown_fields=True):
    prefix: str = ""
    after: str = ""
    limit: Limit = 100


class DeleteParameters(Struct, frozen=True, forbid_unknown_fields=True):
    if_empty: bool = False


Wait = Annotated[
    float, Meta(ge=0, le=model.MAX_WAIT_S, description="Seconds to wait for a message when there is none.")
]
Visibility = Annotated[
    float,
    Meta(ge=0, le=model.MAX_VISIBILITY_S, description="Seconds that the lease lasts. Without it a receive removes."),
]
Delay = Annotated[float, Meta(ge=0, le=model.MAX_DELAY_S, description="Seconds before it can be received again.")]
Reason = Annotated[str, Meta(min_length=1, max_length=128, description="Why, kept with the message.")]
Receipt = Annotated[str, Meta(description="What the receive answered as `receipt`.")]
Parts = Meta(max_length=model.MAX_PARTS)


class ReceiveParameters(Struct, frozen=True, forbid_unknown_fields=True):
    max: Limit | UnsetType = UNSET
    visibility_timeout: Visibility | UnsetType = UNSET
    wait: Wait | UnsetType = UNSET


class PollBody(ReceiveParameters, frozen=True, forbid_unknown_fields=True, kw_only=True):
    queues: Annotated[
        list[str],
        Meta(min_length=1, max_length=model.MAX_POLLED, description="The first of these that has a message gives it."),
    ]


class PeekParameters(Struct, frozen=True, forbid_unknown_fields=True):
    state: Annotated[model.State, Meta(description="Which messages to show.")] = "ready"
    after: Annotated[str, Meta(description="The `next` of the page before.")] = ""
    limit: Limit = 10


class Change(Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of the first three."""

    visibility_timeout: Visibility | UnsetType = UNSET
    delay: Delay | UnsetType = UNSET
    dead_letter: Literal[True] | UnsetType = UNSET
    reason: Reason = "rejected"


class ReleaseItem(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    delay: Delay = 0


class ExtendItem(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    visibility_timeout: Visibility


class RejectItem(Struct, frozen=True, forbid_unknown_fields=True):
    receipt: Receipt
    reason: Reason = "rejected"


class Acks(Struct, frozen=True, forbid_unknown_fields=True):
    receipts: Annotated[list[Receipt], Parts] = []
    releases: Annotated[list[ReleaseItem], Parts] = []
    extends: Annotated[list[ExtendItem], Parts] = []
    rejects: Annotated[list[RejectItem], Parts] = []


class RedriveBody(Struct, frozen=True, forbid_unknown_fields=True):
    to: Annotated[str, Meta(description="Move all to this queue instead of where each came from.")] | None = None
    limit: Annotated[int, Meta(ge=1, description="Move at most so many.")] = model.MAX_SEQUENCE


class AckPart(Struct, frozen=True, forbid_unknown_fields=True):
    queue: str
    receipt: Receipt


class SendPart(formats.Envelope, frozen=True, forbid_unknown_fields=True, kw_only=True):
    queue: str


class TransactionBody(Struct, frozen=True, forbid_unknown_fields=True):
    ack: Annotated[list[AckPart], Parts] = []
    send: Annotated[list[SendPart], Parts] = []


# --- queues ---------------------------------------------------------------------------


def create_queue(request: Request) -> model.CreateQueue:
    request.query_as(NoParameters)
    body = request.json_as(NewQueue)
    settings = msgspec.convert(body, model.QueueSettings, from_attributes=True)
    return model.CreateQueue(body.name, settings)


def queue_created(_: Request, result: model.Created) -> Response:
    location = ("Location", "/queues/" + quote(result.info.name))
    return json_response(201 if result.is_new else 200, _queue(result.info), (location,))


def put_queue(request: Request) -> model.PutQueue:
    request.query_as(NoParameters)
    return model.PutQueue(request.params["queue"], request.json_as(model.QueueSettings))


def patch_queue(request: Request) -> model.PatchQueue:
    request.query_as(NoParameters)
    return model.PatchQueue(request.params["queue"], request.json_as(model.SettingsChange))


def list_queues(request: Request) -> model.ListQueues:
    wanted = request.query_as(ListParameters)
    return model.ListQueues(wanted.prefix, wanted.after, wanted.limit)


def queues_listed(_: Request, result: model.QueuePage) -> Response:
    return json_response(200, {"queues": [_queue(info) for info in result.queues], "next": result.next})


def get_queue(request: Request) -> model.GetQueue:
    request.query_as(NoParameters)
    return model.GetQueue(request.params["queue"])


def queue_shown(_: Request, result: model.QueueInfo) -> Response:
    return json_response(200, _queue(result))


def delete_queue(request: Request) -> model.DeleteQueue:
    return model.DeleteQueue(request.params["queue"], request.query_as(DeleteParameters).if_empty)


def purge_queue(request: Request) -> model.PurgeQueue:
    request.query_as(NoParameters)
    return model.PurgeQueue(request.params["queue"])


def queue_purged(_: Request, result: int) -> Response:
    return json_response(200, {"purged": result})


def _queue(info: model.QueueInfo) -> dict[str, Any]:
    age_ms = info.oldest_message_age_ms
    return {
        "name": info.name,
        **{name: _plain(getattr(info.settings, name)) for name in info.settings.__struct_fields__},
        "created_at": formats.timestamp(info.created_at_ms),
        "messages": info.messages,
        "bytes": info.bytes,
        "oldest_message_age_seconds": None if age_ms is None else age_ms / 1000,
        "totals": info.counters,
    }


def _plain(value: Any) -> Any:
    """Whole seconds without a fraction: 30, not 30.0."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


# --- messages ---------------------------------------------------------------------------


def send(request: Request) -> model.Send:
    return model.Send(request.params["queue"], formats.read_drafts(request))


def sent(request: Request, result: model.Sent) -> Response:
    if formats.is_batch(request):
        return json_response(201, _ids(result))
    if result.duplicates:
        return json_response(200, {"id": result.ids[0], "duplicate": True})
    return json_response(201, {"id": result.ids[0]})


def _ids(result: model.Sent) -> dict[str, Any]:
    """The ids, and the places of those that are of messages sent before."""
    return {"ids": result.ids, **({"duplicates": result.duplicates} if result.duplicates else {})}


def receive(request: Request) -> model.Receive:
    return _receive((request.params["queue"],), _receive_parameters(request))


def poll(request: Request) -> model.Receive:
    request.query_as(NoParameters)
    body = request.json_as(PollBody)
    return _receive(tuple(dict.fromkeys(body.queues)), body)


def _receive(queues: tuple[str, ...], wanted: ReceiveParameters) -> model.Receive:
    return model.Receive(
        queues,
        1 if wanted.max is UNSET else wanted.max,
        None if wanted.visibility_timeout is UNSET else _ms(wanted.visibility_timeout),
        0 if wanted.wait is UNSET else _ms(wanted.wait),
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def received(request: Request, result: model.Received) -> Response:
    if not result.messages:
        return Response(204)
    if _receive_parameters(request).max is UNSET:
        return formats.one_message(request, result.messages[0])
    return formats.many_messages(request, result.messages)


def polled(request: Request, result: model.Received) -> Response:
    if not result.messages:
        return Response(204)
    if request.json_as(PollBody).max is UNSET:
        return formats.one_message(request, result.messages[0], result.queue)
    return formats.many_messages(request, result.messages, queue=result.queue)


def _receive_parameters(request: Request) -> ReceiveParameters:
    """From the query string, and for a POST from the body too."""
    asked = request.query_as(ReceiveParameters)
    if request.method != "POST" or not request.body:
        return asked
    told = request.json_as(ReceiveParameters)
    for name in told.__struct_fields__:
        if UNSET not in (getattr(told, name), getattr(asked, name)):
            raise InvalidRequest(f"`{name}` is given in the query string and in the body.")
        if getattr(told, name) is UNSET:
            told = msgspec.structs.replace(told, **{name: getattr(asked, name)})
    return told


def get_message(request: Request) -> model.GetMessage:
    request.query_as(NoParameters)
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
    wanted = request.query_as(PeekParameters)
    return model.Peek(request.params["queue"], wanted.state, wanted.after, wanted.limit)


def peeked(request: Request, result: model.MessagePage) -> Response:
    return formats.many_messages(request, result.messages, {"next": result.next})


def remove_message(request: Request) -> model.Settle | model.Cancel:
    """Acknowledge by a receipt, or cancel by an id."""
    request.query_as(NoParameters)
    message_id = _message_id(request.params["id"])
    if message_id is not None:
        return model.Cancel(request.params["queue"], message_id)
    return model.Settle(request.params["queue"], (model.Ack(request.params["id"]),))


def message_removed(_: Request, result: Any) -> Response:
    if result is not None:
        _only(result)
    return Response(204)


def change_message(request: Request) -> model.Settle:
    """Extend, release or reject."""
    request.query_as(NoParameters)
    body = request.json_as(Change)
    receipt = request.params["id"]
    given = [name for name in ("visibility_timeout", "delay", "dead_letter") if getattr(body, name) is not UNSET]
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
    return json_response(200, {} if visible_at_ms is None else {"visible_at": formats.timestamp(visible_at_ms)})


def _only(results: tuple[int | TqError | None, ...]) -> int | None:
    """The result of the one action, or raise the error it was refused with."""
    (result,) = results
    if isinstance(result, TqError):
        raise result
    return result


def settle(request: Request) -> model.Settle:
    request.query_as(NoParameters)
    body = request.json_as(Acks)
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
    body = request.json_as(Acks)
    words = (
        [(receipt, "acked") for receipt in body.receipts]
        + [(item.receipt, "released") for item in body.releases]
        + [(item.receipt, "extended" if item.visibility_timeout else "released") for item in body.extends]
        + [(item.receipt, "rejected") for item in body.rejects]
    )
    shown = []
    for (receipt, word), result in zip(words, results, strict=True):
        row = {"receipt": receipt, "status": result.code if isinstance(result, TqError) else word}
        if isinstance(result, int):
            row["visible_at"] = formats.timestamp(result)
        shown.append(row)
    return json_response(200, {"results": shown})


def redrive(request: Request) -> model.Redrive:
    request.query_as(NoParameters)
    body = request.json_as(RedriveBody) if request.body else RedriveBody()
    return model.Redrive(request.params["queue"], body.to, body.limit)


def redriven(_: Request, result: model.Redriven) -> Response:
    return json_response(200, {"moved": result.moved})


def transact(request: Request) -> model.Transaction:
    request.query_as(NoParameters)
    body = request.json_as(TransactionBody)
    if not 1 <= len(body.ack) + len(body.send) <= model.MAX_PARTS:
        raise InvalidRequest(f"A transaction has 1 to {model.MAX_PARTS:,} parts - at `$`.")
    return model.Transaction(
        tuple((part.queue, part.receipt) for part in body.ack),
        tuple((part.queue, formats.json_draft(part, f"$.send[{index}]")) for index, part in enumerate(body.send)),
    )


def transacted(_: Request, result: model.Sent) -> Response:
    return json_response(200, _ids(result))


# --- the server ---------------------------------------------------------------------------


def get_status(request: Request) -> model.GetStatus:
    request.query_as(NoParameters)
    return model.GetStatus()


def status_shown(_: Request, status: model.Status) -> Response:
    return json_response(
        200,
        {
            "status": "ok",
            "version": status.version,
            "uptime_seconds": status.uptime_ms / 1000,
            "queues": status.totals.queues,
            "messages": status.totals.messages,
            "storage": status.storage,
        },
    )


def get_health(request: Request) -> model.GetHealth:
    request.query_as(NoParameters)
    return model.GetHealth()


def probe(request: Request) -> model.Probe:
    request.query_as(NoParameters)
    return model.Probe()


def is_well(_: Request, __: None) -> Response:
    return json_response(200, {"status": "ok"})


def nothing(_: Request, __: None) -> Response:
    return Response(204)
