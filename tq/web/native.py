"""tq's own protocol: for each route, the request as a command or query, and its result as a response."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from tq import model
from tq.errors import InvalidRequest, MessageNotFound
from tq.web import formats
from tq.web.exchange import Request, Response, json_response

Limit = Annotated[int, Meta(ge=1, le=model.MAX_PAGE)]


class NewQueue(model.QueueSettings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: str


class ListParameters(Struct, frozen=True, forbid_unknown_fields=True):
    prefix: str = ""
    after: str = ""
    limit: Limit = 100


class DeleteParameters(Struct, frozen=True, forbid_unknown_fields=True):
    if_empty: bool = False


class ReceiveParameters(Struct, frozen=True, forbid_unknown_fields=True):
    max: Limit | UnsetType = UNSET


class PeekParameters(Struct, frozen=True, forbid_unknown_fields=True):
    state: Literal["ready"] = "ready"
    after: Annotated[int, Meta(ge=0, lt=1 << 56)] = 0
    limit: Limit = 10


class NoParameters(Struct, frozen=True, forbid_unknown_fields=True):
    pass


# --- queues ---------------------------------------------------------------------------


def create_queue(request: Request) -> model.CreateQueue:
    request.query_as(NoParameters)
    body = request.json_as(NewQueue)
    settings = msgspec.convert(body, model.QueueSettings, from_attributes=True)
    return model.CreateQueue(body.name, settings)


def queue_created(_: Request, result: model.Created) -> Response:
    location = ("Location", "/queues/" + quote(result.info.name))
    return json_response(201 if result.is_new else 200, _queue(result.info), (location,))


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
        **{name: getattr(info.settings, name) for name in info.settings.__struct_fields__},
        "created_at": formats.timestamp(info.created_at_ms),
        "messages": info.messages,
        "oldest_message_age_seconds": None if age_ms is None else age_ms / 1000,
        "totals": info.counters,
    }


# --- messages ---------------------------------------------------------------------------


def send(request: Request) -> model.Send:
    request.query_as(NoParameters)
    return model.Send(request.params["queue"], formats.read_drafts(request))


def sent(request: Request, ids: list[int]) -> Response:
    if formats.is_batch(request):
        return json_response(201, {"ids": ids})
    return json_response(201, {"id": ids[0]})


def receive(request: Request) -> model.Receive:
    wanted = _receive_parameters(request).max
    return model.Receive(request.params["queue"], 1 if wanted is UNSET else wanted)


def received(request: Request, result: model.Received) -> Response:
    if not result.messages:
        return Response(204)
    if _receive_parameters(request).max is UNSET:
        return formats.one_message(request, result.messages[0])
    return formats.many_messages(request, result.messages)


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
    text = request.params["id"]
    if not (text.isascii() and text.isdigit() and len(text) <= 17 and int(text) < 1 << 56):
        raise MessageNotFound(f"{text!r} is not the id of a message.")
    return model.GetMessage(request.params["queue"], int(text))


def message_shown(request: Request, result: model.Message) -> Response:
    return formats.one_message(request, result)


def peek(request: Request) -> model.Peek:
    wanted = request.query_as(PeekParameters)
    return model.Peek(request.params["queue"], wanted.after, wanted.limit)


def peeked(request: Request, result: model.MessagePage) -> Response:
    return formats.many_messages(request, result.messages, {"next": result.next})


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
