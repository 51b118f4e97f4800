"""Where the messages of the oracle are, and how they get from one place to another."""

from __future__ import annotations

from collections import Counter as CounterDict
from typing import Any

from msgspec import structs

from tests.naive import OracleMessage, OracleQueue, uuid_of
from tq import model

LEASE, DELAY, TTL, DEDUP, ATTEMPT, RETENTION = 1, 2, 3, 4, 5, 6  # what ends, in this order at one time


class Places:
    def __init__(self) -> None:
        self.queues: dict[str, OracleQueue] = {}
        self._due: dict[tuple[int, int, int, Any], Any] = {}
        self._arrivals: CounterDict[str] = CounterDict()
        self._ended_bytes = 0  # of a group
        self._were_full: set[str] = set()  # of a group: where as many were in flight as may be
        self._latest_ms = self._offset_ms = self._now_ms = 0
        self._boot: model.Boot | None = None

    @property
    def _wall_ms(self) -> int:
        return self._now_ms - self._offset_ms

    def _to(self, queue: OracleQueue, message: OracleMessage, state: str, due_ms: int = 0) -> None:
        """Let a message that is nowhere be in a state."""
        message.state, message.due_ms = state, due_ms
        if state == "ready":
            self._arrivals[queue.name] += 1
        elif state != "blocked":
            if self._has_no_room(queue):
                self._were_full.add(queue.name)
            self._due[due_ms, LEASE if state == "in_flight" else DELAY, queue.place, message.key] = ""

    def _out(self, queue: OracleQueue, message: OracleMessage, state: str = "") -> None:
        """Let it be nowhere."""
        for kind in (LEASE, DELAY):
            self._due.pop((message.due_ms, kind, queue.place, message.key), None)
        message.state = state

    def _enter(self, queue: OracleQueue, message: OracleMessage, due_ms: int) -> None:
        """Ready or delayed; in a FIFO queue only when it is its turn."""
        if queue.settings.fifo and message.draft.group:
            message.due_ms = due_ms
            self._order(queue, message.draft.group)
        elif due_ms > self._now_ms:
            self._to(queue, message, "delayed", due_ms)
        else:
            self._to(queue, message, "ready")

    def _order(self, queue: OracleQueue, group: str) -> None:
        """In a FIFO queue nothing of a group may leave while some of it is leased, and else only the first."""
        members = queue.of_group(group)
        is_locked = any(m.is_leased for m in members)
        for place, message in enumerate(members):
            if message.is_leased:
                continue
            if is_locked or place > 0:
                due_ms = message.due_ms
                self._out(queue, message)
                self._to(queue, message, "blocked", due_ms)
            elif message.state not in ("ready", "delayed"):
                is_later = message.due_ms > self._now_ms
                self._to(queue, message, "delayed" if is_later else "ready", message.due_ms if is_later else 0)

    def _end(self, queue: OracleQueue, message: OracleMessage, how: str) -> None:
        queue.counters[how] += 1
        self._ended_bytes += len(message.draft.content)
        self._out(queue, message)
        queue.messages = [m for m in queue.messages if m is not message]
        self._due.pop((message.expires_ms, TTL, queue.place, message.key), None)
        group = message.draft.group
        if group and queue.settings.fifo:
            self._order(queue, group)
        elif group and queue.heads[group] is message:
            del queue.heads[group]
            behind = [m for m in queue.of("blocked") if m.draft.group == group]
            if behind:
                queue.heads[group] = behind[0]
                self._enter(queue, behind[0], behind[0].due_ms)

    def _come(self, queue: OracleQueue, message: OracleMessage, due_ms: int) -> None:
        """A new message, or one that is back from the dead."""
        queue.messages.append(message)
        if message.expires_ms:
            self._due[message.expires_ms, TTL, queue.place, message.key] = ""
        if queue.retention_ms:
            watches = self._watches(queue)
            if not watches or watches[0][0] > message.born_ms + queue.retention_ms:
                self._watch(queue, message.born_ms + queue.retention_ms)
        group = message.draft.group
        if group and not queue.settings.fifo and group in queue.heads:
            self._to(queue, message, "blocked", due_ms)
        else:
            if group and not queue.settings.fifo:
                queue.heads[group] = message
            self._enter(queue, message, due_ms)

    def _has_no_room(self, queue: OracleQueue) -> bool:
        most = queue.settings.max_in_flight
        return most is not None and len(queue.of("in_flight")) >= most

    def _watches(self, queue: OracleQueue) -> list[tuple[int, int, int, Any]]:
        return [due for due in self._due if due[1:3] == (RETENTION, queue.place)]

    def _watch(self, queue: OracleQueue, at_ms: int) -> None:
        """Look at the ages of its messages then, and only then."""
        for due in self._watches(queue):
            del self._due[due]
        if at_ms:
            self._due[at_ms, RETENTION, queue.place, (0, 0)] = ""

    def _new_id(self, queue: OracleQueue) -> int:
        queue.next_id += 1
        return queue.next_id - 1

    def _move(self, queue: OracleQueue, message: OracleMessage, to: str, reason: str | None) -> bool:
        target = self.queues.get(to)
        if target is None or target is queue:
            return False
        letter = queue.settings.dead_letter
        uuid = message.uuid or uuid_of(queue, message.id)
        self._end(queue, message, "dead_lettered" if reason else "redriven")
        ttl_ms = int((target.settings.ttl or 0) * 1000)
        priority = 0 if target.settings.fifo else message.draft.priority
        draft = structs.replace(message.draft, priority=priority)
        moved = OracleMessage(self._new_id(target), draft, message.sent_at_ms if reason else self._wall_ms)
        moved.born_ms = self._now_ms
        if reason:
            moved.origin = model.DeadLetterOrigin(queue.name, reason, message.receives)
            moved.uuid = uuid
            if letter and letter.on_receive:
                moved.receives, moved.first_ms = message.receives, message.first_ms
                moved.before = message.receives
                if reason != "expired" and not target.settings.fifo:
                    moved.born_ms = message.born_ms
        moved.expires_ms = moved.born_ms + ttl_ms if ttl_ms else 0
        self._come(target, moved, 0)
        target.counters["sent"] += 1
        return True

    def _back(self, queue: OracleQueue, message: OracleMessage, delay_ms: int = 0) -> None:
        """Its lease ended without an ack."""
        self._out(queue, message)
        letter = queue.settings.dead_letter
        is_last = (
            letter is not None and not letter.on_receive and message.receives - message.before >= letter.max_receives
        )
        if letter and is_last and self._move(queue, message, letter.queue, "max_receives"):
            return
        if self._is_over(queue, message):
            self._expire(queue, message)
        else:
            self._enter(queue, message, self._now_ms + delay_ms if delay_ms else 0)

    def _is_over(self, queue: OracleQueue, message: OracleMessage) -> bool:
        is_over = bool(message.expires_ms) and message.expires_ms <= self._now_ms
        return is_over or self._is_aged(queue, message)

    def _is_aged(self, queue: OracleQueue, message: OracleMessage) -> bool:
        return bool(queue.retention_ms) and self._now_ms >= message.born_ms + queue.retention_ms

    def _expire(self, queue: OracleQueue, message: OracleMessage) -> None:
        self._out(queue, message)
        letter = queue.settings.dead_letter
        if not (letter and letter.on_expiry and self._move(queue, message, letter.queue, "expired")):
            self._end(queue, message, "expired")

    def _left_ms(self, queue: OracleQueue, message: OracleMessage) -> int:
        """How long it is too young still for a FIFO queue's delay, as the queue has it now."""
        if not queue.settings.fifo or message.receives or not queue.delay_ms:
            return 0
        return max(0, message.born_ms + queue.delay_ms - self._now_ms)
