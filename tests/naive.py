"""The queues and messages of the oracle: everything in lists and dicts, with the order of things said once."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter as CounterDict
from dataclasses import dataclass, field
from typing import Any

from tq import model

RECORD_BYTES = 1_984  # a larger message record is kept apart from its content
PIECE_BYTES = 4_080

Key = tuple[int, int]  # rank and number: the order of delivery


@dataclass
class OracleMessage:
    id: int
    draft: model.Draft
    sent_at_ms: int
    due_ms: int = 0
    expires_ms: int = 0
    receives: int = 0
    attempt: int = 0
    origin: model.DeadLetterOrigin | None = None
    state: Any = ""

    @property
    def key(self) -> Key:
        return (9 - self.draft.priority, self.id)

    @property
    def pieces(self) -> int:
        """Only for contents far from what fits in a record, and short headers."""
        size = len(self.draft.content)
        if size < RECORD_BYTES // 2:
            return 0
        headers = self.draft.headers or {}
        size += sum(2 + len(name) + len(value) for name, value in headers.items()) + (1 if headers else 0)
        return -(-size // PIECE_BYTES)


@dataclass
class OracleQueue:
    name: str
    settings: model.QueueSettings
    created_at_ms: int
    place: int
    birth: int
    next_id: int = 1
    messages: list[OracleMessage] = field(default_factory=list)
    heads: dict[str, OracleMessage] = field(default_factory=dict)
    dedups: dict[str, tuple[Key, int]] = field(default_factory=dict)
    counters: CounterDict[str] = field(default_factory=CounterDict)

    def of(self, state: str) -> list[OracleMessage]:
        """In the order of delivery."""
        return sorted((m for m in self.messages if m.state == state), key=lambda m: m.key)

    def find(self, message_id: int) -> OracleMessage | None:
        return next((m for m in self.messages if m.id == message_id), None)

    @property
    def bytes(self) -> int:
        return sum(len(m.draft.content) for m in self.messages)


def receipt_of(queue: OracleQueue, message: OracleMessage) -> str:
    rank, number = message.key
    parts = (queue.place, 4), (rank, 1), (number, 7), (message.attempt, 4)
    packed = b"".join(value.to_bytes(size, "big") for value, size in parts)
    return "r" + b64encode(packed, b"-_").decode().rstrip("=")
