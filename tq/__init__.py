"""tq: a durable message queue that speaks HTTP.

What the client has is found here too, but imported when it is asked for only: the server does without it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tq import errors as errors
    from tq.client import AsyncClient as AsyncClient
    from tq.client import AsyncMessages as AsyncMessages
    from tq.client import Client as Client
    from tq.client import Envelope as Envelope
    from tq.client import Message as Message
    from tq.client import Messages as Messages
    from tq.client import NoAnswer as NoAnswer
    from tq.client import OutcomeUnknown as OutcomeUnknown
    from tq.client import Sent as Sent
    from tq.client import SentBatch as SentBatch
    from tq.client import UnknownError as UnknownError
    from tq.client import Unreachable as Unreachable
    from tq.errors import TqError as TqError

__version__ = "0.1.0"

_OF_CLIENT = (
    "AsyncClient",
    "AsyncMessages",
    "Client",
    "Envelope",
    "Message",
    "Messages",
    "NoAnswer",
    "OutcomeUnknown",
    "Sent",
    "SentBatch",
    "Unreachable",
    "UnknownError",
)


def __getattr__(name: str) -> Any:
    if name in _OF_CLIENT:
        return getattr(import_module("tq.client"), name)
    if name == "TqError":
        return import_module("tq.errors").TqError
    if name == "errors":
        return import_module("tq.errors")
    raise AttributeError(f"module 'tq' has no attribute {name!r}")
