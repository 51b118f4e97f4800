"""Every record against every other: what `lifecycle` keeps true, checked by reading everything.

It shares no code with `lifecycle`, only the layout. Its time grows with the data, so it is for tests and for looking at
a store that is in doubt, never for a request.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import merge
from itertools import groupby
from operator import itemgetter

from tq import codec, keys
from tq.codec import ChunkedBody, CorruptRecord, MessageRecord, QueueRecord
from tq.keys import DueKind
from tq.model import ENDS
from tq.store import Tx

_PLACES = {"in_flight": keys.IN_FLIGHT, "delayed": keys.DELAYED, "blocked": keys.BLOCKED}


def audit(tx: Tx) -> list[str]:
    """What is wrong, one sentence each; empty when all is well."""
    return list(_Audit(tx).findings())


class _Audit:
    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self._garbage = {keys.queue_id_of(key) for key, _ in tx.space(keys.GARBAGE).scan()}
        self._names = {key.decode(errors="replace") for key, _ in tx.space(keys.QUEUES).scan()}
        self._owners: dict[int, str] = {}
        self._chunks: set[bytes] = set()
        self._groups: dict[bytes, bytes] = {}
        self._due: set[bytes] = set()
        self._due_perhaps: set[bytes] = set()
        self._has_damage = tx.space(keys.QUARANTINE).count() > 0

    def findings(self) -> Iterator[str]:
        next_queue_id = int.from_bytes(self._tx.space(keys.META).get(keys.NEXT_QUEUE_ID) or b"\x01")
        for key, value in self._tx.space(keys.QUEUES).scan():
            name = key.decode(errors="replace")
            try:
                record = codec.unpack_queue(value)
            except CorruptRecord as error:
                yield f"queue {name}: {error}"
                continue
            if record.id in self._owners or record.id in self._garbage or record.id >= next_queue_id:
                yield f"queue {name}: its id {record.id} is not its own"
            self._owners[record.id] = name
            yield from self._queue(name, record)
        yield from self._ids()
        yield from self._dedup()
        yield from self._attempts()
        yield from self._notes()
        yield from self._moves()
        yield from self._loaded()
        yield from self._orphans()

    def _queue(self, name: str, record: QueueRecord) -> Iterator[str]:
        """Read message by message: only what groups need is kept of each."""
        counts = {"ready": self._tx.space(keys.ready_space(record.id)).count()}
        counts |= {state: getattr(record, state) for state in _PLACES}
        found = dict.fromkeys(counts, 0)
        total = size = 0
        numbers: set[int] = set()
        groups: dict[bytes, dict[bytes, str]] = {}
        double: list[str] = []
        wrong: list[str] = []
        states = [self._messages(record.id, state) for state in counts]
        for key, items in groupby(merge(*states, key=itemgetter(0)), itemgetter(0)):
            state = ""
            for _, value, its_state in items:
                if state:
                    double.append(f"queue {name}: message {keys.sequence_of(key)} is {state} and {its_state}")
                state = its_state
                found[state] += 1
                try:
                    message = codec.unpack_message(value)
                except CorruptRecord as error:
                    message = None
                    double.append(f"queue {name}: message {keys.sequence_of(key)}: {error}")
            total += 1
            if not _is_given_out(key, record, numbers):
                wrong.append(f"queue {name}: the key {key.hex()} is not one that was given out")
            if message is not None:
                size += codec.content_bytes(message)
                wrong += self._message(name, record.id, state, key, message)
                if message.group:
                    groups.setdefault(keys.group_prefix(record.id, message.group), {})[key] = state
        for state, number in found.items():
            if number != counts[state]:
                yield f"queue {name}: {number} messages are {state} and {counts[state]} are counted"
        yield from double
        yield from self._sums(name, record, total, size)
        yield from wrong
        yield from self._groups_of(name, record, groups)

    def _messages(self, queue_id: int, state: str) -> Iterator[tuple[bytes, bytes, str]]:
        if state == "ready":
            for key, value in self._tx.space(keys.ready_space(queue_id)).scan():
                yield key, value, state
            return
        prefix = keys.queue_prefix(queue_id)
        for key, value in self._tx.space(_PLACES[state]).scan(prefix, keys.after_prefix(prefix)):
            yield key[4:], value, state

    def _sums(self, name: str, record: QueueRecord, total: int, size: int) -> Iterator[str]:
        gone = sum(record.counters.get(end, 0) for end in ENDS)
        if record.next_sequence - 1 != total + gone:
            yield f"queue {name}: {record.next_sequence - 1} came, {total} are there and {gone} are gone"
        if size != record.bytes and not self._has_damage:
            yield f"queue {name}: {size} bytes are there and {record.bytes} are counted"
        if record.watch_ms:
            self._due.add(keys.due_key(record.watch_ms, DueKind.RETENTION, record.id, b""))
        elif record.settings.retention and total:
            yield f"queue {name}: nothing watches the ages of its messages"

    def _message(self, name: str, queue_id: int, state: str, key: bytes, message: MessageRecord) -> Iterator[str]:
        where = f"queue {name}: message {keys.sequence_of(key)}"
        if isinstance(message.body, ChunkedBody):
            wanted = [keys.chunk_key(queue_id, key, number) for number in range(message.body.chunks)]
            self._chunks.update(wanted)
            try:
                codec.join_body(message, [self._tx.space(keys.CHUNKS).get(chunk) or b"" for chunk in wanted])
            except CorruptRecord as error:
                yield f"{where}: {error}"
        if state in ("in_flight", "delayed"):
            kind = DueKind.LEASE if state == "in_flight" else DueKind.DELAY
            self._due.add(keys.due_key(message.due_at_ms, kind, queue_id, key))
        elif state == "ready" and message.due_at_ms:
            yield f"{where} is ready and due at {message.due_at_ms}"
        if message.expires_at_ms:
            due = keys.due_key(message.expires_at_ms, DueKind.TTL, queue_id, key)
            (self._due_perhaps if state == "in_flight" else self._due).add(due)
        if state == "blocked" and not message.group:
            yield f"{where} is blocked and has no group"

    def _groups_of(self, name: str, record: QueueRecord, members: dict[bytes, dict[bytes, str]]) -> Iterator[str]:
        for prefix, states in members.items():
            leaders = self._leaders(prefix, states) if record.settings.fifo else states
            for key, state in states.items():
                where = f"queue {name}: message {keys.sequence_of(key)}"
                if state == "blocked":
                    self._groups[prefix + key] = b""
                elif record.settings.fifo and key not in leaders:
                    yield f"{where} is {state} ahead of its turn"
                elif self._groups.setdefault(prefix, key) == key:
                    continue
                elif record.settings.fifo:
                    self._groups[keys.beside_prefix(prefix) + key] = b""
                else:
                    yield f"{where} is not the only one of its group that is not blocked"
            if prefix not in self._groups:
                yield f"queue {name}: nothing leads the group of message {keys.sequence_of(min(states))}"

    def _leaders(self, prefix: bytes, states: dict[bytes, str]) -> list[bytes]:
        """Those of a FIFO queue's group that need not be blocked: what is in flight, the head first; else its first."""
        head = self._tx.space(keys.GROUPS).get(prefix)
        in_flight = [key for key, state in states.items() if state == "in_flight"]
        if head in in_flight:
            self._groups[prefix] = head
        return in_flight or [min(states)]

    def _ids(self) -> Iterator[str]:
        names = {
            keys.queue_id_of(key): value.decode(errors="replace") for key, value in self._tx.space(keys.NAMES).scan()
        }
        if names != self._owners:
            yield f"names: {names} are not the queues {self._owners}"

    def _dedup(self) -> Iterator[str]:
        for key, value in self._tx.space(keys.DEDUP).scan():
            queue_id = keys.queue_id_of(key)
            message, forget_at_ms = codec.unpack_dedup(value)
            if queue_id in self._owners:
                self._due.add(keys.due_key(forget_at_ms, DueKind.DEDUP, queue_id, message))
            elif queue_id not in self._garbage:
                yield f"dedup: {key.hex()} belongs to no queue"

    def _attempts(self) -> Iterator[str]:
        for key, value in self._tx.space(keys.ATTEMPTS).scan():
            queue_id = keys.queue_id_of(key)
            until_ms, leases = codec.unpack_attempt(value)
            if queue_id in self._owners:
                self._due.add(keys.due_key(until_ms, DueKind.ATTEMPT, queue_id, key[4:]))
                if not leases:
                    yield f"attempts: {key.hex()} is of no message"

    def _notes(self) -> Iterator[str]:
        for key, value in self._tx.space(keys.NOTES).scan():
            try:
                codec.unpack_notes(value)
            except CorruptRecord as error:
                yield f"notes of {key.decode(errors='replace')}: {error}"
            if key.decode(errors="replace") not in self._names:
                yield f"notes: {key.decode(errors='replace')} is no queue"

    def _moves(self) -> Iterator[str]:
        for key, value in self._tx.space(keys.MOVES).scan():
            name = key[:-9].decode(errors="replace")
            try:
                task = codec.unpack_move(value)
            except CorruptRecord as error:
                yield f"a move out of {name}: {error}"
            else:
                if task.queue != name or key[-9:-8] != b"\0":
                    yield f"moves: {key.hex()} is not where the tasks of {task.queue} are"
            if name not in self._names:
                yield f"moves: {name} is no queue"

    def _loaded(self) -> Iterator[str]:
        for key, value in self._tx.space(keys.META).scan(keys.LOADED, keys.after_prefix(keys.LOADED)):
            if len(value) != 8 or not int.from_bytes(value):
                yield f"meta: {key.decode(errors='replace')} does not say how many lines were loaded"

    def _orphans(self) -> Iterator[str]:
        """Records that belong to nothing, and entries that are missing."""
        known = self._owners.keys() | self._garbage
        for_nothing: list[bytes] = []
        for key, _ in self._tx.space(keys.DUE).scan():
            if key in self._due:
                self._due.remove(key)
            elif key not in self._due_perhaps:
                for_nothing.append(key)
        for key in self._due:
            yield f"due: {keys.parse_due(key)} is missing"
        for key in for_nothing:
            try:
                _, kind, queue_id, _ = keys.parse_due(key)
            except (IndexError, ValueError):
                yield f"due: {key.hex()} is of no kind that is known"
                continue
            # An id that was used again has left its old entry behind, which does nothing when its time comes.
            if queue_id in self._owners and kind is not DueKind.DEDUP and not self._has_damage:
                yield f"due: {keys.parse_due(key)} is for nothing"
        for entry, head in self._tx.space(keys.GROUPS).scan():
            if keys.queue_id_of(entry) in self._owners and self._groups.pop(entry, None) != head:
                yield f"groups: {entry.hex()} and its messages do not agree"
        for entry in self._groups:
            yield f"groups: {entry.hex()} and its messages do not agree"
        quarantined = {key for key, _ in self._tx.space(keys.QUARANTINE).scan()}
        for key, _ in self._tx.space(keys.CHUNKS).scan():
            owner = keys.queue_id_of(key)
            if key not in self._chunks and key[:12] not in quarantined and owner not in self._garbage:
                yield f"chunks: {key.hex()} belongs to no message"
        for name in keys.BY_QUEUE:
            for key, _ in self._tx.space(name).scan():
                if keys.queue_id_of(key) not in known:
                    yield f"{name}: {key.hex()} belongs to no queue"
        for space in self._tx.spaces():
            kind_name, _, number = space.partition("/")
            if kind_name == "queue" and not (number.isdecimal() and int(number) in known):
                yield f"{space} belongs to no queue"


def _is_given_out(key: bytes, record: QueueRecord, numbers: set[int]) -> bool:
    """Whether a message of the queue may have the key, and none of those before it the number.

    Keys come in order, so that a number can only be there twice in different ranks. The last rank, which most messages
    have, need not be remembered.
    """
    number = keys.sequence_of(key)
    is_one = keys.is_message_key(key) and 1 <= number < record.next_sequence
    is_new = number not in numbers
    if key[:1] != bytes([keys.LOWEST_RANK]):
        numbers.add(number)
    return is_one and is_new
