"""The route table: every path of tq's own API, what it takes and gives, the function that reads the request and the one
that writes the response. `web.sqs` has its own few rows: one path for all of its operations, and one for each queue."""

from __future__ import annotations

from typing import Any

from tq import model
from tq.errors import (
    DedupIdMissing,
    GroupMissing,
    InFlight,
    InvalidQueueName,
    MessageNotFound,
    MoveNotFound,
    MoveRunning,
    NotInFifo,
    QueueDamaged,
    QueueExists,
    QueueFull,
    QueueNotEmpty,
    QueueNotFound,
    StaleReceipt,
    TooManyInFlight,
    TooManyQueues,
)
from tq.web import formats, metrics, native, openapi, shapes, tracing
from tq.web.exchange import JSON, Answer, Route


def _json(shape: Any) -> Answer:
    return Answer({JSON: shape})


_NOTHING = Answer()
_QUEUE = _json(shapes.Queue)
_CREATED = Answer({JSON: shapes.Queue}, {"Location": str})
_RECEIVED = {200: formats.MESSAGES, 204: _NOTHING}
_NOT_FOR_FIFO = (GroupMissing, DedupIdMissing, NotInFifo)

_NO_QUEUE = (InvalidQueueName, QueueNotFound, QueueDamaged)

ROUTES = openapi.published(
    Route(
        "POST",
        "/queues",
        native.create_queue,
        native.queue_created,
        body=shapes.NewQueue,
        answers={200: _CREATED, 201: _CREATED},
        errors=(InvalidQueueName, QueueDamaged, QueueExists, TooManyQueues),
    ),
    Route(
        "GET",
        "/queues",
        native.list_queues,
        native.queues_listed,
        query=shapes.ListParameters,
        answers={200: _json(shapes.QueuePage)},
    ),
    Route("GET", "/queues/{queue}", native.get_queue, native.queue_shown, answers={200: _QUEUE}, errors=_NO_QUEUE),
    Route(
        "PUT",
        "/queues/{queue}",
        native.put_queue,
        native.queue_created,
        body=model.QueueSettings,
        answers={200: _CREATED, 201: _CREATED},
        errors=(InvalidQueueName, QueueDamaged, TooManyQueues),
    ),
    Route(
        "PATCH",
        "/queues/{queue}",
        native.patch_queue,
        native.queue_shown,
        body=model.SettingsChange,
        answers={200: _QUEUE},
        errors=_NO_QUEUE,
    ),
    Route(
        "DELETE",
        "/queues/{queue}",
        native.delete_queue,
        native.nothing,
        query=shapes.DeleteParameters,
        answers={204: _NOTHING},
        errors=(*_NO_QUEUE, QueueNotEmpty),
    ),
    Route(
        "POST",
        "/queues/{queue}/messages",
        native.send,
        native.sent,
        query=shapes.Options,
        headers={"Idempotency-Key": shapes.IdempotencyKey, **tracing.HEADERS},
        bodies=formats.BODIES,
        answers={200: _json(shapes.Sent), 201: _json(shapes.Sent | shapes.SentBatch)},
        errors=(*_NO_QUEUE, QueueFull, *_NOT_FOR_FIFO),
    ),
    Route(
        "GET",
        "/queues/{queue}/messages",
        native.receive,
        native.received,
        query=shapes.ReceiveParameters,
        answers=_RECEIVED,
        errors=(*_NO_QUEUE, TooManyInFlight),
    ),
    Route(
        "POST",
        "/queues/{queue}/messages/receive",
        native.receive_by_post,
        native.received,
        query=shapes.ReceiveParameters,
        body=shapes.ReceiveParameters,
        is_body_optional=True,
        answers=_RECEIVED,
        errors=(*_NO_QUEUE, TooManyInFlight),
    ),
    Route(
        "DELETE",
        "/queues/{queue}/messages",
        native.purge_queue,
        native.queue_purged,
        answers={200: _json(shapes.Purged)},
        errors=(*_NO_QUEUE, MessageNotFound),
    ),
    Route(
        "GET",
        "/queues/{queue}/messages/{id}",
        native.get_message,
        native.message_shown,
        answers={200: formats.ONE_MESSAGE},
        errors=(*_NO_QUEUE, MessageNotFound),
    ),
    Route(
        "DELETE",
        "/queues/{queue}/messages/{id}",
        native.remove_message,
        native.message_removed,
        answers={204: _NOTHING},
        errors=(*_NO_QUEUE, MessageNotFound, InFlight, StaleReceipt),
    ),
    Route(
        "PATCH",
        "/queues/{queue}/messages/{id}",
        native.change_message,
        native.message_changed,
        body=shapes.OneChange,
        answers={200: _json(shapes.Changed)},
        errors=(*_NO_QUEUE, MessageNotFound, StaleReceipt),
    ),
    Route(
        "POST",
        "/queues/{queue}/acks",
        native.settle,
        native.settled,
        body=shapes.Acks,
        answers={200: _json(shapes.Results)},
        errors=_NO_QUEUE,
    ),
    Route(
        "POST",
        "/queues/{queue}/redrive",
        native.redrive,
        native.redriven,
        body=shapes.RedriveBody,
        is_body_optional=True,
        answers={200: _json(shapes.Moved)},
        errors=_NO_QUEUE,
    ),
    Route(
        "POST",
        "/queues/{queue}/moves",
        native.start_move,
        native.move_shown,
        body=shapes.NewMove,
        is_body_optional=True,
        answers={200: _json(shapes.Move)},
        errors=(*_NO_QUEUE, MoveRunning),
    ),
    Route(
        "GET",
        "/queues/{queue}/moves",
        native.list_moves,
        native.moves_listed,
        answers={200: _json(shapes.Moves)},
        errors=_NO_QUEUE,
    ),
    Route(
        "DELETE",
        "/queues/{queue}/moves/{move}",
        native.cancel_move,
        native.move_shown,
        answers={200: _json(shapes.Move)},
        errors=(*_NO_QUEUE, MoveNotFound),
    ),
    Route(
        "POST",
        "/receive",
        native.poll,
        native.polled,
        body=shapes.PollBody,
        answers=_RECEIVED,
        errors=(*_NO_QUEUE, TooManyInFlight),
    ),
    Route(
        "POST",
        "/transactions",
        native.transact,
        native.transacted,
        headers=tracing.HEADERS,
        body=shapes.TransactionBody,
        answers={200: _json(shapes.SentBatch)},
        errors=(*_NO_QUEUE, QueueFull, StaleReceipt, *_NOT_FOR_FIFO),
    ),
    Route(
        "GET",
        "/queues/{queue}/peek",
        native.peek,
        native.peeked,
        query=shapes.PeekParameters,
        answers={200: formats.MESSAGE_PAGE},
        errors=_NO_QUEUE,
    ),
    Route(
        "GET",
        "/queues/{queue}/history",
        native.get_history,
        native.history_shown,
        answers={200: _json(shapes.History)},
        errors=_NO_QUEUE,
    ),
    Route(
        "GET",
        "/history",
        native.list_history,
        native.histories_listed,
        query=shapes.HistoryParameters,
        answers={200: _json(shapes.RecentHistory)},
    ),
    Route("GET", "/status", native.get_status, native.status_shown, answers={200: _json(shapes.Status)}),
    Route(
        "GET",
        "/metrics",
        metrics.get_metrics,
        metrics.metrics_shown,
        answers={200: Answer({metrics.TEXT: str, metrics.OPENMETRICS: str})},
        is_rendered_in_parts=True,
    ),
    Route("GET", "/healthz", native.get_health, native.is_well, answers={200: _json(shapes.Well)}, is_open=True),
    Route("GET", "/readyz", native.probe, native.is_well, answers={200: _json(shapes.Well)}, is_open=True),
)
