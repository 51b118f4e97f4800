"""What queues do, said a second time and naively: lists and dicts, every cost ignored.

It shares nothing with `lifecycle` but the nouns of `model`.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections import Counter as CounterDict
from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, structs

from tests.naive import Key, OracleMessage, OracleQueue, receipt_of
from tq import errors, model
from tq.errors import TqError

LEASE, DELAY, TTL, DEDUP = 1, 2, 3, 4  # what ends, in this order at one time
CLOCK_GRAIN_MS = 1_000


class Oracle:
    """`ask` a command or a query, and get the result or the TqError it is refused with."""

    def __init__(self, max_queues: int, max_garbage: int, max_page_bytes: int, max_skipped: int) -> None:
        self.queues: dict[str, OracleQueue] = {}
        self._garbage: dict[int, list[list[tuple[Any, ...]]]] = {}  # of each record in a place: what is due for it
        self._places = 0
        self._max_queues = max_queues
        self._max_garbage = max_garbage
        self._max_page_bytes = max_page_bytes
        self._max_skipped = max_skipped
        self._due: dict[tuple[int, int, int, Key], str] = {}
        self._arrivals: CounterDict[str] = CounterDict()
        self._latest_ms = self._offset_ms = self._now_ms = 0

    def begin_group(self) -> None:
        self._arrivals = CounterDict()

    def ask(self, request: model.Command | model.Query, now_ms: int) -> Any:
        self._now_ms = now_ms
        name = re.sub(r"(?!^)([A-Z])", r"_\1", type(request).__name__).lower()
        try:
            return getattr(self, "_" + name)(request)
        except TqError as refusal:
            return refusal

    @property
    def _wall_ms(self) -> int:
        return self._now_ms - self._offset_ms

    def _find(self, name: str) -> OracleQueue:
        self._check_name(name)
        if name not in self.queues:
            raise errors.QueueNotFound
        return self.queues[name]

    def _check_name(self, name: str) -> None:
        is_word = name.isascii() and name.replace(".", "").replace("_", "").replace("-", "").isalnum()
        if not is_word or len(name) > 80 or not name[0].isalnum():
            raise errors.InvalidQueueName

    # --- queues

    def _new_place(self) -> int:
        self._places += 1
        return self._places

    def _let_go(self, queue: OracleQueue) -> None:
        if len(self._garbage) >= self._max_garbage:
            raise errors.Overloaded
        records: list[list[tuple[Any, ...]]] = []
        for state in ("in_flight", "delayed", "blocked"):
            records += [self._due_of(queue, m) for m in queue.of(state)]
        records += [[] for m in queue.messages if m.draft.group]
        for name in sorted(queue.dedups):
            key, until = queue.dedups[name]
            records.append([(until, DEDUP, queue.place, key)])
        records += [[] for m in queue.messages for _ in range(m.pieces)]
        records += [self._due_of(queue, m) for m in queue.of("ready")]
        self._garbage[queue.place] = records

    def _due_of(self, queue: OracleQueue, message: OracleMessage) -> list[tuple[Any, ...]]:
        found = [(message.expires_ms, TTL, queue.place, message.key)]
        if message.state in ("in_flight", "delayed"):
            found.append((message.due_ms, LEASE if message.state == "in_flight" else DELAY, queue.place, message.key))
        return found

    def _create_queue(self, command: model.CreateQueue) -> model.Created:
        self._check_name(command.name)
        is_new = command.name not in self.queues
        if is_new:
            self._add(command.name, command.settings)
        if self.queues[command.name].settings != command.settings:
            raise errors.QueueExists
        return model.Created(self._get_queue(model.GetQueue(command.name)), is_new)

    def _add(self, name: str, settings: model.QueueSettings) -> None:
        if len(self.queues) >= self._max_queues:
            raise errors.TooManyQueues
        self._check_letter(name, settings)
        place = self._new_place()
        self.queues[name] = OracleQueue(name, settings, self._wall_ms, place, place)

    def _check_letter(self, name: str, settings: model.QueueSettings) -> None:
        if settings.dead_letter and settings.dead_letter.queue not in self.queues | {name: None}:
            self._check_name(settings.dead_letter.queue)
            raise errors.InvalidRequest
        letter = settings.dead_letter
        while letter:
            if letter.queue == name:
                raise errors.InvalidRequest
            target = self.queues.get(letter.queue)
            letter = target.settings.dead_letter if target else None

    def _put_queue(self, command: model.PutQueue) -> model.Created:
        self._check_name(command.name)
        is_new = command.name not in self.queues
        if is_new:
            self._add(command.name, command.settings)
        else:
            self._set(command.name, command.settings)
        return model.Created(self._get_queue(model.GetQueue(command.name)), is_new)

    def _patch_queue(self, command: model.PatchQueue) -> model.QueueInfo:
        values = structs.asdict(self._find(command.name).settings)
        values |= {name: value for name, value in structs.asdict(command.change).items() if value is not UNSET}
        self._set(command.name, model.QueueSettings(**values))
        return self._get_queue(model.GetQueue(command.name))

    def _set(self, name: str, settings: model.QueueSettings) -> None:
        self._check_letter(name, settings)
        queue = self.queues[name]
        if queue.settings.paused and not settings.paused:
            self._arrivals[name] += len(queue.of("ready"))
        queue.settings = settings

    def _delete_queue(self, command: model.DeleteQueue) -> None:
        queue = self._find(command.name)
        if command.if_empty and queue.messages:
            raise errors.QueueNotEmpty
        self._let_go(queue)
        del self.queues[command.name]

    def _purge_queue(self, command: model.PurgeQueue) -> int:
        queue = self._find(command.name)
        self._let_go(queue)
        queue.place = self._new_place()
        purged = len(queue.messages)
        queue.counters["purged"] += purged
        queue.messages, queue.heads, queue.dedups = [], {}, {}
        return purged

    def _sweep(self, command: model.Sweep) -> bool:
        if self._garbage:
            oldest = min(self._garbage)
            records = self._garbage[oldest]
            for record in records[: command.limit]:
                for due in record:
                    self._due.pop(due, None)
            if command.limit > len(records):
                del self._garbage[oldest]
            else:
                del records[: command.limit]
        return bool(self._garbage)

    def _probe(self, _: model.Probe) -> None:
        return None

    # --- looking

    def _get_queue(self, query: model.GetQueue) -> model.QueueInfo:
        queue = self._find(query.name)
        ready = queue.of("ready")
        first = {m.draft.priority: m.sent_at_ms for m in reversed(ready)}
        return model.QueueInfo(
            name=query.name,
            settings=queue.settings,
            created_at_ms=queue.created_at_ms,
            messages=model.Counts(**{state: len(queue.of(state)) for state in model.STATES}),
            bytes=queue.bytes,
            oldest_message_age_ms=max(0, self._wall_ms - min(first.values())) if first else None,
            counters=model.Counters(**queue.counters),
        )

    def _list_queues(self, query: model.ListQueues) -> model.QueuePage:
        names = [n for n in sorted(self.queues) if n.startswith(query.prefix) and n > query.after]
        page = names[: query.limit]
        infos = [self._get_queue(model.GetQueue(name)) for name in page]
        return model.QueuePage(tuple(infos), page[-1] if page != names else None)

    def _get_totals(self, _: model.GetTotals) -> model.Totals:
        counts = {state: sum(len(q.of(state)) for q in self.queues.values()) for state in model.STATES}
        return model.Totals(len(self.queues), model.Counts(**counts))

    def _get_clock(self, _: model.GetClock) -> model.Clock:
        return model.Clock(self._latest_ms, self._offset_ms)

    def _show(self, m: OracleMessage, state: Any = None, receipt: str | None = None) -> model.Message:
        return model.Message(
            id=m.id,
            content=m.draft.content,
            media_type=m.draft.media_type,
            sent_at_ms=m.sent_at_ms,
            receive_count=m.receives,
            priority=m.draft.priority,
            group=m.draft.group,
            headers=m.draft.headers,
            dead_letter=m.origin,
            attempt=m.attempt,
            receipt=receipt,
            visible_at_ms=m.due_ms - self._offset_ms if m.due_ms else None,
            expires_at_ms=m.expires_ms - self._offset_ms if m.expires_ms else None,
            state=state,
        )

    def _get_message(self, query: model.GetMessage) -> model.Message:
        message = self._find(query.queue).find(query.id)
        if message is None:
            raise errors.MessageNotFound
        return self._show(message, message.state)

    def _peek(self, query: model.Peek) -> model.MessagePage:
        after = (int(query.after[:2], 16), int(query.after[2:], 16)) if query.after else (-1, 0)
        left = [m for m in self._find(query.queue).of(query.state) if m.key > after]
        page: list[OracleMessage] = []
        while len(page) < min(query.limit, len(left)) and not self._is_full(page):
            page.append(left[len(page)])
        last = f"{page[-1].key[0]:02x}{page[-1].key[1]:014x}" if page != left else None
        return model.MessagePage(tuple(self._show(m, m.state) for m in page), last)

    def _is_full(self, page: list[OracleMessage]) -> bool:
        return sum(len(m.draft.content) for m in page) >= self._max_page_bytes

    # --- places

    def _to(self, queue: OracleQueue, message: OracleMessage, state: str, due_ms: int = 0) -> None:
        """Let a message that is nowhere be in a state."""
        message.state, message.due_ms = state, due_ms
        if state == "ready":
            self._arrivals[queue.name] += 1
        elif state != "blocked":
            self._due[due_ms, LEASE if state == "in_flight" else DELAY, queue.place, message.key] = ""

    def _out(self, queue: OracleQueue, message: OracleMessage) -> None:
        """Let it be nowhere."""
        for kind in (LEASE, DELAY):
            self._due.pop((message.due_ms, kind, queue.place, message.key), None)
        message.state = ""

    def _enter(self, queue: OracleQueue, message: OracleMessage, due_ms: int) -> None:
        if due_ms > self._now_ms:
            self._to(queue, message, "delayed", due_ms)
        else:
            self._to(queue, message, "ready")

    def _end(self, queue: OracleQueue, message: OracleMessage, how: str) -> None:
        queue.counters[how] += 1
        self._out(queue, message)
        queue.messages = [m for m in queue.messages if m is not message]
        self._due.pop((message.expires_ms, TTL, queue.place, message.key), None)
        group = message.draft.group
        if group and queue.heads[group] is message:
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
        group = message.draft.group
        if group and group in queue.heads:
            self._to(queue, message, "blocked", due_ms)
        else:
            if group:
                queue.heads[group] = message
            self._enter(queue, message, due_ms)

    def _new_id(self, queue: OracleQueue) -> int:
        queue.next_id += 1
        return queue.next_id - 1

    def _move(self, queue: OracleQueue, message: OracleMessage, to: str, reason: str | None) -> bool:
        target = self.queues.get(to)
        if target is None or target is queue:
            return False
        self._end(queue, message, "dead_lettered" if reason else "redriven")
        ttl_ms = int((target.settings.ttl or 0) * 1000)
        origin = model.DeadLetterOrigin(queue.name, reason, message.receives) if reason else None
        moved = OracleMessage(self._new_id(target), message.draft, message.sent_at_ms, origin=origin)
        moved.expires_ms = self._now_ms + ttl_ms if ttl_ms else 0
        self._come(target, moved, 0)
        target.counters["sent"] += 1
        return True

    def _back(self, queue: OracleQueue, message: OracleMessage, delay_ms: int = 0) -> None:
        """Its lease ended without an ack."""
        self._out(queue, message)
        letter = queue.settings.dead_letter
        is_last = letter is not None and message.receives >= letter.max_receives
        if letter and is_last and self._move(queue, message, letter.queue, "max_receives"):
            return
        if self._is_over(message):
            self._expire(queue, message)
        else:
            self._enter(queue, message, self._now_ms + delay_ms if delay_ms else 0)

    def _is_over(self, message: OracleMessage) -> bool:
        return bool(message.expires_ms) and message.expires_ms <= self._now_ms

    def _expire(self, queue: OracleQueue, message: OracleMessage) -> None:
        self._out(queue, message)
        letter = queue.settings.dead_letter
        if not (letter and letter.on_expiry and self._move(queue, message, letter.queue, "expired")):
            self._end(queue, message, "expired")

    # --- sending and receiving

    def _send(self, command: model.Send) -> model.Sent:
        return self._deliver(self._find(command.queue), *self._plan(command.queue, command.drafts, []))

    def _plan(self, name: str, drafts: Sequence[model.Draft], freed: list[OracleMessage]) -> Any:
        """The drafts, for each the id of an earlier one like it, and the messages to drop. It changes nothing."""
        queue = self._find(name)
        settings = queue.settings
        if any(len(draft.content) > settings.max_message_bytes for draft in drafts):
            raise errors.MessageTooLarge
        ids = {name: key[1] for name, (key, until) in queue.dedups.items() if until > self._now_ms}
        known: list[int | None] = []
        for draft in drafts:
            known.append(ids.get(draft.dedup_id or ""))
            if draft.dedup_id and known[-1] is None:
                ids[draft.dedup_id] = queue.next_id + known.count(None) - 1
        new = [draft for draft, earlier in zip(drafts, known, strict=True) if earlier is None]
        messages = len(new) - len(freed)
        size = sum(len(d.content) for d in new) - sum(len(m.draft.content) for m in freed)
        drops: list[OracleMessage] = []
        candidates = sorted(queue.of("ready"), key=lambda m: m.id)
        while True:
            held = len(queue.messages) - len(drops)
            held_bytes = queue.bytes - sum(len(m.draft.content) for m in drops)
            too_many = messages > 0 and settings.max_messages and held + messages > settings.max_messages
            too_large = size > 0 and settings.max_bytes and held_bytes + size > settings.max_bytes
            if not too_many and not too_large:
                return drafts, known, drops
            if settings.overflow == "reject" or len(drops) == len(candidates):
                raise errors.QueueFull
            drops.append(candidates[len(drops)])

    def _deliver(
        self, queue: OracleQueue, drafts: Sequence[model.Draft], known: list[int | None], drops: list[OracleMessage]
    ) -> model.Sent:
        for message in drops:
            self._end(queue, message, "dropped")
        ids = [self._new(queue, d) if k is None else k for d, k in zip(drafts, known, strict=True)]
        duplicates = tuple(place for place, k in enumerate(known) if k is not None)
        queue.counters["sent"] += len(ids) - len(duplicates)
        queue.counters["duplicates"] += len(duplicates)
        return model.Sent(tuple(ids), duplicates)

    def _new(self, queue: OracleQueue, draft: model.Draft) -> int:
        settings = queue.settings
        delay_ms = int(settings.delay * 1000) if draft.delay_ms is None else draft.delay_ms
        ttl_ms = int((settings.ttl or 0) * 1000) if draft.ttl_ms is None else draft.ttl_ms
        message = OracleMessage(self._new_id(queue), draft, self._wall_ms)
        message.expires_ms = self._now_ms + ttl_ms if ttl_ms else 0
        self._come(queue, message, self._now_ms + delay_ms if delay_ms else 0)
        until = self._now_ms + int(settings.dedup_window * 1000)
        if draft.dedup_id and until > self._now_ms:
            queue.dedups[draft.dedup_id] = (message.key, until)
            self._due[until, DEDUP, queue.place, message.key] = draft.dedup_id
        return message.id

    def _receive(self, command: model.Receive) -> model.Received:
        is_cut_short = False
        for queue in [self._find(name) for name in command.queues]:
            if not queue.settings.paused:
                messages, is_cut_short_here = self._take(queue, command)
                if messages:
                    return model.Received(messages, queue.name, (), is_cut_short_here)
                is_cut_short = is_cut_short or is_cut_short_here
        return model.Received((), "", (), is_cut_short)

    def _take(self, queue: OracleQueue, command: model.Receive) -> tuple[tuple[model.Message, ...], bool]:
        page: list[OracleMessage] = []
        over: list[OracleMessage] = []
        for message in queue.of("ready"):
            if len(page) < command.limit and not self._is_full(page) and len(over) < self._max_skipped:
                (over if self._is_over(message) else page).append(message)
        shown: list[model.Message] = []
        for message in page:
            message.receives += 1
            queue.counters["received"] += 1
            if command.visibility_ms is None:
                shown.append(self._show(message))
                self._end(queue, message, "acked")
            else:
                message.attempt += 1
                default_ms = int(queue.settings.visibility_timeout * 1000)
                for_ms = default_ms if command.visibility_ms < 0 else command.visibility_ms
                self._to(queue, message, "in_flight", self._now_ms + for_ms)
                shown.append(self._show(message, receipt=receipt_of(queue, message)))
        for message in over:
            self._expire(queue, message)
        return tuple(shown), len(over) == self._max_skipped

    def _unreceive(self, command: model.Unreceive) -> None:
        queue = self._find(command.queue)
        for shown in command.messages:
            if shown.receipt is None:
                self._resurrect(queue, shown)
                continue
            message = self._leased(queue, shown.receipt)
            if isinstance(message, OracleMessage):
                self._out(queue, message)
                queue.counters["received"] -= 1
                message.receives -= 1
                if self._is_over(message):
                    self._expire(queue, message)
                else:
                    self._to(queue, message, "ready")

    def _resurrect(self, queue: OracleQueue, shown: model.Message) -> None:
        draft = model.Draft(
            shown.content, shown.media_type, priority=shown.priority, group=shown.group, headers=shown.headers
        )
        message = OracleMessage(shown.id, draft, shown.sent_at_ms)
        message.expires_ms = shown.expires_at_ms + self._offset_ms if shown.expires_at_ms else 0
        message.receives, message.attempt = shown.receive_count - 1, shown.attempt
        message.origin = shown.dead_letter
        queue.counters["received"] -= 1
        queue.counters["acked"] -= 1
        head = queue.heads.get(shown.group or "")
        if head and head.state != "in_flight":
            due_ms = head.due_ms
            self._out(queue, head)
            self._to(queue, head, "blocked", due_ms)
            del queue.heads[shown.group or ""]
        self._come(queue, message, 0)

    # --- settling

    def _leased(self, queue: OracleQueue, receipt: str) -> OracleMessage | TqError:
        try:
            packed = b64decode(receipt[1:] + "==", b"-_", validate=True)
        except ValueError:
            return errors.MessageNotFound()
        if len(packed) != 16 or receipt[0] != "r":
            return errors.MessageNotFound()
        if int.from_bytes(packed[:4], "big") != queue.place:
            return errors.StaleReceipt()
        message = queue.find(int.from_bytes(packed[5:12], "big"))
        if message is None:
            return errors.MessageNotFound()
        if message.state != "in_flight" or message.attempt != int.from_bytes(packed[12:], "big"):
            return errors.StaleReceipt()
        return message

    def _settle(self, command: model.Settle) -> tuple[Any, ...]:
        queue = self._find(command.queue)
        return tuple(self._settle_one(queue, action) for action in command.actions)

    def _settle_one(self, queue: OracleQueue, action: model.Action) -> Any:
        message = self._leased(queue, action.receipt)
        if isinstance(message, TqError):
            return message
        if isinstance(action, model.Ack):
            self._end(queue, message, "acked")
        elif isinstance(action, model.Extend):
            self._out(queue, message)
            self._to(queue, message, "in_flight", self._now_ms + action.visibility_ms)
            return self._wall_ms + action.visibility_ms
        elif isinstance(action, model.Release):
            queue.counters["released"] += 1
            self._back(queue, message, action.delay_ms)
            return self._wall_ms + action.delay_ms
        else:
            self._out(queue, message)
            letter = queue.settings.dead_letter
            if not letter or not self._move(queue, message, letter.queue, action.reason):
                self._end(queue, message, "dropped")
        return None

    def _cancel(self, command: model.Cancel) -> None:
        queue = self._find(command.queue)
        message = queue.find(command.id)
        if message is None:
            raise errors.MessageNotFound
        if message.state == "in_flight":
            raise errors.InFlight
        self._end(queue, message, "cancelled")

    def _transaction(self, command: model.Transaction) -> model.Sent:
        taken: list[tuple[OracleQueue, OracleMessage]] = []
        for name, receipt in command.acks:
            message = self._leased(self._find(name), receipt)
            if isinstance(message, TqError) or message in [m for _, m in taken]:
                raise errors.StaleReceipt
            taken.append((self._find(name), message))
        names = list(dict.fromkeys(name for name, _ in command.sends))
        plans = {}
        for name in names:
            drafts = [draft for to, draft in command.sends if to == name]
            plans[name] = self._plan(name, drafts, [m for queue, m in taken if queue.name == name])
        for queue, message in taken:
            self._end(queue, message, "acked")
        sent = {name: self._deliver(self.queues[name], *plan) for name, plan in plans.items()}
        ids: list[int] = []
        duplicates: list[int] = []
        for place, (name, _) in enumerate(command.sends):
            there = sum(to == name for to, _ in command.sends[:place])
            ids.append(sent[name].ids[there])
            if there in sent[name].duplicates:
                duplicates.append(place)
        return model.Sent(tuple(ids), tuple(duplicates))

    def _redrive(self, command: model.Redrive) -> model.Redriven:
        queue = self._find(command.queue)
        if command.to is not None:
            self._find(command.to)
        before = command.before or queue.next_id
        after = (command.after[0], int.from_bytes(command.after[1:], "big")) if command.after else (-1, 0)
        left = [m for m in queue.of("ready") if m.key > after]
        found: list[OracleMessage] = []
        seen = 0
        while seen < len(left) and len(found) < command.limit and not self._is_full(found):
            found += [left[seen]] if left[seen].id < before else []
            seen += 1
        last = left[seen - 1].key if 0 < seen < len(left) else None
        moved = 0
        for message in found:
            target = command.to or (message.origin.source if message.origin else None)
            moved += bool(target) and self._move(queue, message, target or "", None)
        return model.Redriven(moved, bytes([last[0]]) + last[1].to_bytes(7, "big") if last else b"", before)

    # --- time

    def _set_clock(self, command: model.SetClock) -> None:
        self._latest_ms, self._offset_ms = self._now_ms, command.offset_ms

    def _tick(self, command: model.Tick) -> model.Ticked:
        over = sorted(due for due in self._due if due[0] <= self._now_ms)[: command.limit]
        for due in over:
            self._end_timer(due, self._due.pop(due, ""))
        if self._now_ms - self._latest_ms >= CLOCK_GRAIN_MS:
            self._latest_ms = self._now_ms
        return model.Ticked(min(self._due)[0] if self._due else None, dict(self._arrivals))

    def _end_timer(self, due: tuple[int, int, int, Key], dedup_id: str) -> None:
        time_ms, kind, place, key = due
        for queue in [q for q in self.queues.values() if q.place == place]:
            if kind == DEDUP and queue.dedups.get(dedup_id, (key, 0))[1] == time_ms:
                del queue.dedups[dedup_id]
            for message in [m for m in queue.messages if m.key == key]:
                is_now = message.due_ms == time_ms
                if kind == LEASE and message.state == "in_flight" and is_now:
                    queue.counters["timed_out"] += 1
                    self._back(queue, message)
                elif kind == DELAY and message.state == "delayed" and is_now:
                    self._to(queue, message, "ready")
                elif kind == TTL and message.state != "in_flight":
                    self._expire(queue, message)
