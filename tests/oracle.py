"""What queues do, said a second time and naively: lists and dicts, every cost ignored.

It shares nothing with `lifecycle` but the nouns of `model`.
"""

from __future__ import annotations

import re
from collections import Counter as CounterDict
from typing import Any

from msgspec import UNSET, structs

from tests.naive import OracleMessage, OracleQueue
from tests.oracle_loading import Loading
from tests.oracle_places import ATTEMPT, DEDUP, DELAY, LEASE, RETENTION, TTL
from tq import errors, model
from tq.errors import TqError

CLOCK_GRAIN_MS = 1_000


class Oracle(Loading):
    """`ask` a command or a query, and get the result or the TqError it is refused with."""

    def __init__(
        self, max_queues: int, max_garbage: int, max_page_bytes: int, max_skipped: int, attempt_ms: int, kept_moves: int
    ) -> None:
        super().__init__(max_page_bytes, max_skipped, attempt_ms)
        self._garbage: dict[int, list[list[tuple[Any, ...]]]] = {}  # of each record in a place: what is due for it
        self._places = 0
        self._max_queues = max_queues
        self._max_garbage = max_garbage
        self._kept_moves = kept_moves

    def begin_group(self) -> None:
        self._arrivals = CounterDict()
        self._ended_bytes = 0
        self._were_full = {name for name, queue in self.queues.items() if self._has_no_room(queue)}

    def ask(self, request: model.Command | model.Query, now_ms: int) -> Any:
        self._now_ms = now_ms
        name = re.sub(r"(?!^)([A-Z])", r"_\1", type(request).__name__).lower()
        try:
            return getattr(self, "_" + name)(request)
        except TqError as refusal:
            return refusal

    # --- queues

    def _new_place(self) -> int:
        self._places += 1
        return self._places

    def _let_go(self, queue: OracleQueue) -> None:
        if len(self._garbage) >= self._max_garbage:
            raise errors.Overloaded
        self._watch(queue, 0)
        records: list[list[tuple[Any, ...]]] = []
        for state in ("in_flight", "delayed", "blocked"):
            records += [self._due_of(queue, m) for m in queue.of(state)]
        records += [[] for m in queue.messages if m.draft.group]
        for dedup_key in sorted(queue.dedups):
            key, until = queue.dedups[dedup_key]
            records.append([(until, DEDUP, queue.place, key)])
        for name in sorted(queue.attempts):
            records.append([(queue.attempts[name][0], ATTEMPT, queue.place, name)])
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
            self.queues[command.name].notes = dict(command.notes)
        if self.queues[command.name].settings != command.settings:
            raise errors.QueueExists
        return model.Created(self._get_queue(model.GetQueue(command.name)), is_new)

    def _bring_back(self, command: model.CreateQueue) -> None:
        self._check_name(command.name)
        if command.name not in self.queues:
            self._add(command.name, command.settings, needs_target=False)
            self.queues[command.name].notes = dict(command.notes)
        if self.queues[command.name].settings != command.settings:
            raise errors.QueueExists

    def _add(self, name: str, settings: model.QueueSettings, needs_target: bool = True) -> None:
        if len(self.queues) >= self._max_queues:
            raise errors.TooManyQueues
        self._check_letter(name, settings, needs_target)
        if settings.fifo != name.endswith(".fifo"):
            raise errors.InvalidRequest
        place = self._new_place()
        self.queues[name] = OracleQueue(name, settings, self._wall_ms, place, place)

    def _check_letter(self, name: str, settings: model.QueueSettings, needs_target: bool = True) -> None:
        if settings.dead_letter and settings.dead_letter.queue not in self.queues | {name: None}:
            self._check_name(settings.dead_letter.queue)
            if needs_target:
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

    def _patch_queue(self, command: model.PatchQueue) -> model.QueueInfo | None:
        queue = self._find(command.name)
        if [name for name, text in command.expected.items() if queue.notes.get(name) != text]:
            return None
        values = structs.asdict(queue.settings)
        values |= {name: value for name, value in structs.asdict(command.change).items() if value is not UNSET}
        self._set(command.name, model.QueueSettings(**values))
        notes = queue.notes | command.notes
        queue.notes = {name: text for name, text in notes.items() if text is not None}
        return self._get_queue(model.GetQueue(command.name))

    def _set(self, name: str, settings: model.QueueSettings) -> None:
        self._check_letter(name, settings)
        queue = self.queues[name]
        if settings.fifo != queue.settings.fifo:
            raise errors.InvalidRequest
        is_ready = queue.settings.paused and not settings.paused
        is_ready = is_ready or (settings.fifo and settings.delay < queue.settings.delay)
        is_other = settings.retention != queue.settings.retention
        queue.settings = settings
        if is_ready:
            self._arrivals[name] += len(queue.of("ready"))
        if is_other:
            self._watch(queue, self._now_ms if queue.retention_ms and queue.messages else 0)

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
        queue.messages, queue.heads, queue.dedups, queue.attempts = [], {}, {}, {}
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
            notes=queue.notes,
            held_back=sum(self._left_ms(queue, m) > 0 for m in ready + queue.of("blocked")),
        )

    def _list_queues(self, query: model.ListQueues) -> model.QueuePage:
        names = [n for n in sorted(self.queues) if n.startswith(query.prefix) and n > query.after]
        page = names[: query.limit]
        infos = [self._get_queue(model.GetQueue(name)) for name in page]
        return model.QueuePage(tuple(infos), page[-1] if page != names else None)

    def _get_totals(self, query: model.GetTotals) -> model.Totals:
        names = [name for name in sorted(self.queues) if name > query.after]
        page = names[: query.looked]
        counts = {state: sum(len(self.queues[name].of(state)) for name in page) for state in model.STATES}
        return model.Totals(len(page), model.Counts(**counts), page[-1] if page != names else "")

    def _get_figures(self, query: model.GetFigures) -> model.FiguresPage:
        names = [name for name in sorted(self.queues) if name > query.after]
        page = names[: query.looked]
        infos = [self._get_queue(model.GetQueue(name)) for name in page]
        figures = [
            model.Figures(i.name, i.created_at_ms, i.messages, i.bytes, i.oldest_message_age_ms, i.counters)
            for i in infos
        ]
        return model.FiguresPage(tuple(figures), page[-1] if page != names else "")

    def _get_clock(self, _: model.GetClock) -> model.Clock:
        return model.Clock(self._latest_ms, self._offset_ms, self._boot)

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

    # --- tasks that move

    def _start_move(self, command: model.StartMove) -> model.MoveTask:
        queue = self._find(command.queue)
        if command.to == queue.name:
            raise errors.InvalidRequest
        if command.to is not None:
            self._find(command.to)
        if [task for task in queue.moves if task.status == "running"]:
            raise errors.MoveRunning
        to_move = len(queue.of("ready")) + len(queue.of("blocked"))
        task = model.MoveTask(
            command.id, queue.name, command.to, command.per_second, self._wall_ms, to_move, before=queue.next_id
        )
        queue.moves = [*queue.moves, task][-self._kept_moves :]
        return task

    def _cancel_move(self, command: model.CancelMove) -> model.MoveTask:
        return self._change_move(command.queue, command.id, status="cancelled")

    def _change_move(self, name: str, task_id: str, **changes: Any) -> model.MoveTask:
        queue = self._find(name)
        for place, task in enumerate(queue.moves):
            if (task.id, task.status) == (task_id, "running"):
                queue.moves[place] = structs.replace(task, **changes)
                return queue.moves[place]
        raise errors.MoveNotFound

    def _move_some(self, command: model.MoveSome) -> model.MoveTask:
        task = self._change_move(command.queue, command.id)
        if task.to is not None and task.to not in self.queues:
            return self._change_move(task.queue, task.id, status="failed", failure="target_gone")
        part = self._redrive(model.Redrive(task.queue, task.to, command.limit, task.after, task.before))
        moved = task.moved + part.moved
        changes: dict[str, Any] = {"moved": moved, "after": part.after}
        if not part.after and moved > task.moved_before:
            changes["moved_before"] = moved
        elif not part.after:
            is_left = [m for m in self._find(task.queue).of("ready") if m.id < task.before]
            changes |= {"status": "failed", "failure": "no_source"} if is_left else {"status": "completed"}
        return self._change_move(task.queue, task.id, **changes)

    def _list_moves(self, query: model.ListMoves) -> tuple[model.MoveTask, ...]:
        if query.queue is not None:
            return tuple(reversed(self._find(query.queue).moves))
        found = [task for name in sorted(self.queues) for task in self.queues[name].moves]
        return tuple(task for task in found if task.status == "running")

    def _list_sources(self, query: model.ListSources) -> model.Sources:
        target = self._find(query.queue).name
        names = [name for name in sorted(self.queues) if name > query.after]
        page = names[: query.looked]
        letters = [(name, self.queues[name].settings.dead_letter) for name in page]
        found = [name for name, letter in letters if letter and letter.queue == target][: query.limit]
        is_over = page == names or len(found) == query.limit
        return model.Sources(tuple(found), "" if is_over else page[-1])

    # --- time

    def _set_clock(self, command: model.SetClock) -> None:
        self._latest_ms, self._offset_ms = self._now_ms, command.offset_ms
        self._boot = command.boot or self._boot

    def _tick(self, command: model.Tick) -> model.Ticked:
        over = sorted(due for due in self._due if due[0] <= self._now_ms)[: command.limit]
        aged = 0
        for due in over:
            if self._ended_bytes >= self._max_page_bytes:
                break
            dedup_key = self._due.pop(due, "")
            if due[1] == RETENTION:
                aged += sum(self._end_ages(q, command.limit - aged) for q in self._at(due[2]))
            else:
                self._end_timer(due, dedup_key)
        if self._now_ms - self._latest_ms >= CLOCK_GRAIN_MS:
            self._latest_ms = self._now_ms
        arrivals = self._arrivals + CounterDict({name: self._room(name) for name in self._were_full})
        return model.Ticked(min(self._due)[0] if self._due else None, dict(arrivals))

    def _room(self, name: str) -> int:
        """How many more can be received of a queue of which none could be leased before."""
        queue = self.queues.get(name)
        if queue is None or self._has_no_room(queue):
            return 0
        ready = len(queue.of("ready"))
        most = queue.settings.max_in_flight
        return ready if most is None else min(ready, most - len(queue.of("in_flight")))

    def _at(self, place: int) -> list[OracleQueue]:
        return [queue for queue in self.queues.values() if queue.place == place]

    def _end_ages(self, queue: OracleQueue, limit: int) -> int:
        """One by one the oldest of those that are first in their state and priority."""
        for aged in range(limit):
            if self._ended_bytes >= self._max_page_bytes:
                self._watch(queue, self._now_ms)
                return aged
            firsts: dict[tuple[str, int], OracleMessage] = {}
            for state in model.STATES:
                for message in queue.of(state):
                    firsts.setdefault((state, message.draft.priority), message)
            if not firsts:
                self._watch(queue, 0)
                return aged
            oldest = min(firsts.values(), key=lambda m: m.born_ms)
            if not self._is_aged(queue, oldest):
                self._watch(queue, oldest.born_ms + queue.retention_ms)
                return aged
            self._expire(queue, oldest)
        self._watch(queue, self._now_ms)
        return limit

    def _end_timer(self, due: tuple[int, int, int, Any], dedup_key: Any) -> None:
        time_ms, kind, place, key = due
        for queue in self._at(place):
            if kind == DEDUP and queue.dedups.get(dedup_key, (key, 0))[1] == time_ms:
                del queue.dedups[dedup_key]
            if kind == ATTEMPT and queue.attempts.get(key, (0, []))[0] == time_ms:
                del queue.attempts[key]
            for message in [m for m in queue.messages if m.key == key and kind in (LEASE, DELAY, TTL)]:
                is_now = message.due_ms == time_ms
                if kind == LEASE and message.state == "in_flight" and is_now:
                    queue.counters["timed_out"] += 1
                    self._back(queue, message)
                elif kind == DELAY and message.state == "delayed" and is_now:
                    self._to(queue, message, "ready")
                elif kind == TTL and message.state != "in_flight":
                    self._expire(queue, message)
