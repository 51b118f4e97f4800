"""The Python client: `Client` blocks, `AsyncClient` is for asyncio, and both have the same methods.

They are known as `tq.Client` and so on, which imports this package when it is asked for.
"""

from __future__ import annotations

try:
    import httpx as _httpx  # noqa: F401
except ImportError as error:
    raise ImportError("The client needs httpx: pip install 'tq[client]'") from error

from tq.client.aio import AsyncClient
from tq.client.errors import NoAnswer, OutcomeUnknown, UnknownError, Unreachable
from tq.client.messages import Message, Move, Page, Queue, Sent, SentBatch, Status
from tq.client.sending import Envelope
from tq.client.sync import Client
from tq.client.tasks import AsyncMessages
from tq.client.threads import Messages

__all__ = [
    "AsyncClient",
    "AsyncMessages",
    "Client",
    "Envelope",
    "Message",
    "Messages",
    "Move",
    "NoAnswer",
    "OutcomeUnknown",
    "Page",
    "Queue",
    "Sent",
    "SentBatch",
    "Status",
    "UnknownError",
    "Unreachable",
]
