"""The route table: every path that tq answers, with the function that reads the request and the one that writes the
response."""

from __future__ import annotations

from tq.web import native
from tq.web.exchange import Route

ROUTES = (
    Route("POST", "/queues", native.create_queue, native.queue_created),
    Route("GET", "/queues", native.list_queues, native.queues_listed),
    Route("GET", "/queues/{queue}", native.get_queue, native.queue_shown),
    Route("PUT", "/queues/{queue}", native.put_queue, native.queue_created),
    Route("PATCH", "/queues/{queue}", native.patch_queue, native.queue_shown),
    Route("DELETE", "/queues/{queue}", native.delete_queue, native.nothing),
    Route("POST", "/queues/{queue}/messages", native.send, native.sent),
    Route("GET", "/queues/{queue}/messages", native.receive, native.received),
    Route("POST", "/queues/{queue}/messages/receive", native.receive, native.received),
    Route("DELETE", "/queues/{queue}/messages", native.purge_queue, native.queue_purged),
    Route("GET", "/queues/{queue}/messages/{id}", native.get_message, native.message_shown),
    Route("DELETE", "/queues/{queue}/messages/{id}", native.remove_message, native.message_removed),
    Route("PATCH", "/queues/{queue}/messages/{id}", native.change_message, native.message_changed),
    Route("POST", "/queues/{queue}/acks", native.settle, native.settled),
    Route("POST", "/queues/{queue}/redrive", native.redrive, native.redriven),
    Route("POST", "/receive", native.poll, native.polled),
    Route("POST", "/transactions", native.transact, native.transacted),
    Route("GET", "/queues/{queue}/peek", native.peek, native.peeked),
    Route("GET", "/status", native.get_status, native.status_shown),
    Route("GET", "/healthz", native.get_health, native.is_well),
    Route("GET", "/readyz", native.probe, native.is_well),
)
