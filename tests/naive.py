"""The queues and messages of the oracle: everything in lists and dicts, with the order of things said once."""

from __future__ import annotations

from base64 import b64encode
from collections import Counter as CounterDict
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from tq import model

RECORD_BYTES = 1_984  # a larger message record is kept apart from its content
PIECE_BYTES = 4_080

Key = tuple[int, int]  # rank and number: the order of delivery
DedupKey = tuple[int, str, str]  # length of the group, group and id; no group where the queue has one book for all


@dataclass
class OracleMessage:
    """`state` is "taken" while a receive decides what becomes of it, and "" while it is nowhere."""

    id: int
    draft: model.Draft
    sent_at_ms: int
    born_ms: int = 0  # by the clock that timers run on
    due_ms: int = 0
    expires_ms: int = 0
    receives: int = 0
    attempt: int = 0
    first_ms: int = 0
    before: int = 0  # of its receives: where it is a dead letter of
    last_ms: int = 0  # when it was leased last, by the clock that timers run on
    uuid: bytes | None = None
    origin: model.DeadLetterOrigin | None = None
    state: Any = ""

    @property
    def key(self) -> Key:
        return (9 - self.draft.priority, self.id)

    @property
    def is_leased(self) -> bool:
        return self.state in ("in_flight", "taken")

    @property
    def pieces(self) -> int:
        """Only for contents far from what fits in a record, and little beside them."""
        size = len(self.draft.content)
        if size < RECORD_BYTES // 2:
            return 0
        headers = self.draft.headers or {}
        size += sum(2 + len(name) + len(value) for name, value in headers.items())
        size += 1 if headers or self.draft.attributes or self.draft.notes else 0
        return -(-size // PIECE_BYTES)


@dataclass
class OracleQueue:
    """`heads` is of the groups of a queue that is no FIFO queue."""

    name: str
    settings: model.QueueSettings
    created_at_ms: int
    place: int
    birth: int
    next_id: int = 1
    messages: list[OracleMessage] = field(default_factory=list)
    heads: dict[str, OracleMessage] = field(default_factory=dict)
    dedups: dict[DedupKey, tuple[Key, int]] = field(default_factory=dict)
    attempts: dict[str, tuple[int, list[tuple[int, int]]]] = field(default_factory=dict)  # until when, ids and attempts
    notes: dict[str, str] = field(default_factory=dict)
    moves: list[model.MoveTask] = field(default_factory=list)
    counters: CounterDict[str] = field(default_factory=CounterDict)

    def of(self, state: str) -> list[OracleMessage]:
        """In the order of delivery."""
        return sorted((m for m in self.messages if m.state == state), key=lambda m: m.key)

    def of_group(self, group: str | None) -> list[OracleMessage]:
        """In the order of delivery; nothing is of no group."""
        return sorted((m for m in self.messages if group and m.draft.group == group), key=lambda m: m.key)

    def find(self, message_id: int) -> OracleMessage | None:
        return next((m for m in self.messages if m.id == message_id), None)

    @property
    def bytes(self) -> int:
        return sum(len(m.draft.content) for m in self.messages)

    @property
    def delay_ms(self) -> int:
        return int(self.settings.delay * 1000)

    @property
    def retention_ms(self) -> int:
        return int((self.settings.retention or 0) * 1000)


def receipt_of(queue: OracleQueue, message: OracleMessage) -> str:
    rank, number = message.key
    parts = (queue.place, 4), (rank, 1), (number, 7), (message.attempt, 4)
    packed = b"".join(value.to_bytes(size, "big") for value, size in parts)
    return "r" + b64encode(packed, b"-_").decode().rstrip("=")


def uuid_of(queue: OracleQueue, message_id: int) -> bytes:
    """Bit by bit, as RFC 9562 draws version 8."""
    bits = f"{queue.place:032b}" + f"{queue.created_at_ms:064b}"[-34:] + f"{message_id:056b}"
    whole = bits[:48] + "1000" + bits[48:60] + "10" + bits[60:]
    return int(whole, 2).to_bytes(16, "big")


def size_of(draft: model.Draft) -> int:
    """What counts against the largest message of a queue."""
    size = len(draft.content)
    for name, text in (draft.headers or {}).items():
        size += len(name + "String" + text)
    for name, attribute in (draft.attributes or {}).items():
        size += len(name + attribute.type) + len(attribute.value)
    return size


def dedup_id_of(queue: OracleQueue, draft: model.Draft) -> str | None:
    by_content = sha256(draft.content).hexdigest() if queue.settings.content_dedup else None
    return draft.dedup_id or by_content


def dedup_key_of(queue: OracleQueue, draft: model.Draft, dedup_id: str) -> DedupKey:
    group = draft.group if queue.settings.dedup_scope == "group" else None
    return (len(group or ""), group or "", dedup_id)
