"""How the oracle sends, receives and settles."""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import structs

from tests.naive import OracleMessage, OracleQueue, dedup_id_of, dedup_key_of, receipt_of, size_of, uuid_of
from tests.oracle_places import ATTEMPT, DEDUP, Places
from tq import errors, model
from tq.errors import TqError

HALF_A_DAY_S = 43_200
_NO_MARKS = str.maketrans("", "", "._-")


class Traffic(Places):
    def __init__(self, max_page_bytes: int, max_skipped: int, attempt_ms: int) -> None:
        super().__init__()
        self._max_page_bytes = max_page_bytes
        self._max_skipped = max_skipped
        self._attempt_ms = attempt_ms

    def _find(self, name: str) -> OracleQueue:
        self._check_name(name)
        if name not in self.queues:
            raise errors.QueueNotFound if name[0].isalnum() else errors.InvalidQueueName
        return self.queues[name]

    def _check_name(self, name: str) -> None:
        rest = name.translate(_NO_MARKS)
        if not name or len(name) > 80 or name[0] == "." or not name.isascii() or (rest and not rest.isalnum()):
            raise errors.InvalidQueueName

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
            dedup_id=m.draft.dedup_id,
            attributes=m.draft.attributes,
            notes=m.draft.notes,
            first_received_at_ms=m.first_ms or None,
            uuid=m.uuid,
            ahead_ms=m.born_ms - m.sent_at_ms,
            receives_before=m.before,
        )

    def _is_full(self, page: list[OracleMessage]) -> bool:
        return sum(size_of(m.draft) for m in page) >= self._max_page_bytes

    def _is_too_much(self, over: list[OracleMessage]) -> bool:
        return sum(len(m.draft.content) for m in over) >= self._max_page_bytes

    # --- sending

    def _send(self, command: model.Send) -> model.Sent:
        queue = self._find(command.queue)
        if command.is_each:
            sent = self._send_each(queue, command.drafts)
        else:
            sent = self._deliver(queue, *self._plan(command.queue, command.drafts, []))
        if command.with_uuids:
            sent = structs.replace(sent, uuid_prefix=uuid_of(queue, 0)[:9])
        return sent

    def _send_each(self, queue: OracleQueue, drafts: Sequence[model.Draft]) -> model.Sent:
        ids: list[int] = []
        duplicates: list[int] = []
        refused: list[tuple[int, TqError]] = []
        for place, draft in enumerate(drafts):
            try:
                sent = self._deliver(queue, *self._plan(queue.name, (draft,), []))
            except TqError as refusal:
                sent = model.Sent((0,))
                refused.append((place, refusal))
            ids.append(sent.ids[0])
            duplicates += [place] if sent.duplicates else []
        return model.Sent(tuple(ids), tuple(duplicates), refused=tuple(refused))

    def _check_draft(self, queue: OracleQueue, draft: model.Draft) -> None:
        if size_of(draft) > queue.settings.max_message_bytes:
            raise errors.MessageTooLarge
        if queue.settings.fifo:
            if draft.group is None:
                raise errors.GroupMissing
            if dedup_id_of(queue, draft) is None:
                raise errors.DedupIdMissing
            if draft.delay_ms or draft.priority:
                raise errors.NotInFifo

    def _plan(self, name: str, drafts: Sequence[model.Draft], freed: list[OracleMessage]) -> Any:
        """The drafts, for each the id of an earlier one like it, and the messages to drop. It changes nothing."""
        queue = self._find(name)
        settings = queue.settings
        for draft in drafts:
            self._check_draft(queue, draft)
        ids = {name: key[1] for name, (key, until) in queue.dedups.items() if until > self._now_ms}
        known: list[int | None] = []
        for draft in drafts:
            dedup_id = dedup_id_of(queue, draft)
            dedup_key = dedup_key_of(queue, draft, dedup_id or "")
            known.append(ids.get(dedup_key))
            if dedup_id and known[-1] is None and settings.dedup_window:
                ids[dedup_key] = queue.next_id + known.count(None) - 1
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
        own_ms = 0 if settings.fifo else queue.delay_ms
        delay_ms = own_ms if draft.delay_ms is None else draft.delay_ms
        ttl_ms = int((settings.ttl or 0) * 1000) if draft.ttl_ms is None else draft.ttl_ms
        dedup_id = dedup_id_of(queue, draft)
        message = OracleMessage(self._new_id(queue), structs.replace(draft, dedup_id=dedup_id), self._wall_ms)
        message.born_ms = self._now_ms
        message.expires_ms = self._now_ms + ttl_ms if ttl_ms else 0
        self._come(queue, message, self._now_ms + delay_ms if delay_ms else 0)
        until = self._now_ms + int(settings.dedup_window * 1000)
        if dedup_id and until > self._now_ms:
            dedup_key = dedup_key_of(queue, draft, dedup_id)
            queue.dedups[dedup_key] = (message.key, until)
            self._due[until, DEDUP, queue.place, message.key] = dedup_key
        return message.id

    # --- receiving

    def _receive(self, command: model.Receive) -> model.Received:
        is_cut_short = is_full = False
        wait_ms = 0
        ready_ms: list[int] = []
        for queue in [self._find(name) for name in command.queues]:
            wait_ms = wait_ms or int(queue.settings.receive_wait * 1000)
            if queue.settings.paused:
                continue
            received = self._take_again(queue, command)
            if received.messages:
                return received
            is_cut_short = is_cut_short or received.is_cut_short
            is_full = is_full or received.is_full
            ready_ms += [received.ready_at_ms] if received.ready_at_ms else []
        return model.Received((), "", (), is_cut_short, wait_ms, min(ready_ms, default=None), is_full)

    def _take_again(self, queue: OracleQueue, command: model.Receive) -> model.Received:
        """The same messages, where this attempt was made before and all of them are leased by it still."""
        name = command.attempt_id
        if name is None or command.visibility_ms is None:
            return self._take(queue, command)
        until_ms, leases = queue.attempts.get(name, (0, []))
        held = [m for m in queue.of("in_flight") if (m.id, m.attempt) in leases]
        if until_ms > self._now_ms and len(held) == len(leases):
            held.sort(key=lambda m: [message_id for message_id, _ in leases].index(m.id))
            for message in held:
                self._out(queue, message)
                self._lease(queue, message, command.visibility_ms)
            shown = [self._show_leased(queue, message, command) for message in held]
            return model.Received(tuple(shown), queue.name)
        received = self._take(queue, command)
        self._due.pop((until_ms, ATTEMPT, queue.place, name), None)
        queue.attempts.pop(name, None)
        if received.messages:
            until_ms = self._now_ms + self._attempt_ms
            queue.attempts[name] = (until_ms, [(m.id, m.attempt) for m in received.messages])
            self._due[until_ms, ATTEMPT, queue.place, name] = ""
        return received

    def _lease(self, queue: OracleQueue, message: OracleMessage, visibility_ms: int) -> None:
        default_ms = int(queue.settings.visibility_timeout * 1000)
        for_ms = default_ms if visibility_ms < 0 else visibility_ms
        self._to(queue, message, "in_flight", self._now_ms + for_ms)

    def _show_leased(self, queue: OracleQueue, message: OracleMessage, command: model.Receive) -> model.Message:
        receipt = receipt_of(queue, message) if command.visibility_ms is not None else None
        shown = self._show(message, receipt=receipt)
        uuid = shown.uuid or uuid_of(queue, message.id)
        return structs.replace(shown, uuid=uuid) if command.with_uuids else shown

    def _limit(self, queue: OracleQueue, command: model.Receive) -> int:
        most = queue.settings.max_in_flight
        if most is None or command.visibility_ms is None:
            return command.limit
        left = most - len(queue.of("in_flight"))
        waits = command.wait_ms > 0 or (command.wait_ms == -1 and queue.settings.receive_wait > 0)
        if left <= 0 and len(command.queues) == 1 and not waits:
            raise errors.TooManyInFlight
        return min(command.limit, left)

    def _front(self, queue: OracleQueue, young_ms: list[int]) -> Iterator[OracleMessage]:
        """What comes next, as long as whoever asks takes it; until when it is too young goes to `young_ms`."""
        if not queue.settings.fifo:
            yield from queue.of("ready")
            return
        while queue.of("ready"):
            first = queue.of("ready")[0]
            for message in [first, *[m for m in queue.of_group(first.draft.group) if m.state == "blocked"]]:
                if message.state == "blocked" and message.due_ms > self._now_ms:
                    break
                left_ms = self._left_ms(queue, message)
                if left_ms:
                    young_ms.append(self._now_ms + left_ms)
                    break
                yield message
            if first.state == "ready":
                return

    def _take(self, queue: OracleQueue, command: model.Receive) -> model.Received:
        limit = self._limit(queue, command)
        if limit <= 0:
            return model.Received(is_full=True)
        letter = queue.settings.dead_letter
        has_most = letter is not None and letter.on_receive and letter.queue in self.queues
        page: list[OracleMessage] = []
        over: list[OracleMessage] = []
        young_ms: list[int] = []
        is_cut_short = False
        for message in self._front(queue, young_ms):
            is_last = letter is not None and has_most and message.receives - message.before >= letter.max_receives
            (over if is_last or self._is_over(queue, message) else page).append(message)
            self._out(queue, message, "taken")
            is_cut_short = len(over) == self._max_skipped or self._is_too_much(over)
            if len(page) == limit or self._is_full(page) or is_cut_short:
                break
        shown = [self._taken(queue, message, command) for message in page]
        for message in [m for m in page if m.state == "taken"]:
            self._end(queue, message, "acked")
        for message in over:
            if self._is_over(queue, message):
                self._expire(queue, message)
            elif letter:
                self._move(queue, message, letter.queue, "max_receives")
        is_cut_short = is_cut_short or (queue.settings.fifo and bool(over))
        return model.Received(tuple(shown), queue.name, (), is_cut_short, ready_at_ms=min(young_ms, default=None))

    def _taken(self, queue: OracleQueue, message: OracleMessage, command: model.Receive) -> model.Message:
        """One of a receive's messages, which is leased now or about to be removed."""
        message.receives += 1
        message.due_ms = 0
        queue.counters["received"] += 1
        if command.visibility_ms is not None:
            message.attempt += 1
            message.first_ms = message.first_ms or self._wall_ms
            message.last_ms = self._now_ms
            self._lease(queue, message, command.visibility_ms)
        return self._show_leased(queue, message, command)

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
                message.first_ms = message.first_ms if message.receives else 0
                if self._is_over(queue, message):
                    self._expire(queue, message)
                else:
                    self._enter(queue, message, 0)

    def _told(self, message_id: int, shown: model.Message) -> OracleMessage:
        """A message of which everything is known that is shown of one, but not where it is."""
        draft = model.Draft(
            shown.content,
            shown.media_type,
            priority=shown.priority,
            group=shown.group,
            dedup_id=shown.dedup_id,
            headers=shown.headers,
            attributes=shown.attributes,
            notes=shown.notes,
        )
        message = OracleMessage(message_id, draft, shown.sent_at_ms)
        message.born_ms = shown.sent_at_ms + shown.ahead_ms
        message.expires_ms = shown.expires_at_ms + self._offset_ms if shown.expires_at_ms else 0
        message.receives, message.before = shown.receive_count, shown.receives_before
        message.first_ms = shown.first_received_at_ms or 0
        message.uuid, message.origin = shown.uuid, shown.dead_letter
        return message

    def _resurrect(self, queue: OracleQueue, shown: model.Message) -> None:
        message = self._told(shown.id, shown)
        message.receives, message.attempt = shown.receive_count - 1, shown.attempt
        if shown.uuid == uuid_of(queue, shown.id):
            message.uuid = None
        queue.counters["received"] -= 1
        queue.counters["acked"] -= 1
        head = queue.heads.get(shown.group or "")
        if head and head.state != "in_flight" and head.id > shown.id:
            due_ms = head.due_ms
            self._out(queue, head)
            self._to(queue, head, "blocked", due_ms)
            del queue.heads[shown.group or ""]
        self._come(queue, message, 0)

    # --- settling

    def _parsed(self, receipt: str) -> tuple[int, int, int] | None:
        """Place, id and attempt."""
        try:
            packed = b64decode(receipt[1:] + "==", b"-_", validate=True)
        except ValueError:
            return None
        if len(packed) != 16 or receipt[0] != "r":
            return None
        place, number, attempt = packed[:4], packed[5:12], packed[12:]
        return int.from_bytes(place, "big"), int.from_bytes(number, "big"), int.from_bytes(attempt, "big")

    def _leased(self, queue: OracleQueue, receipt: str) -> OracleMessage | TqError:
        parsed = self._parsed(receipt)
        if parsed is None:
            return errors.MessageNotFound()
        place, number, attempt = parsed
        if place != queue.place:
            return errors.StaleReceipt()
        message = queue.find(number)
        if message is None:
            return errors.MessageNotFound()
        if message.state != "in_flight" or message.attempt != attempt:
            return errors.StaleReceipt()
        return message

    def _of_any_receipt(self, queue: OracleQueue, action: model.Action) -> OracleMessage | TqError | None:
        """None where there is nothing left to remove."""
        parsed = self._parsed(action.receipt)
        if parsed is None:
            return errors.NotAReceipt()
        place, number, attempt = parsed
        if place != queue.place and place in [other.place for other in self.queues.values()]:
            return errors.NotAReceipt()
        message = queue.find(number) if place == queue.place else None
        is_ack = isinstance(action, model.Ack)
        if message is None:
            return None if is_ack else errors.MessageNotFound()
        is_latest = message.state == "in_flight" and message.attempt == attempt
        if (queue.settings.fifo and not is_latest) or (not is_ack and message.state != "in_flight"):
            return errors.StaleReceipt()
        if not isinstance(action, model.Extend) or not message.last_ms:
            return message
        held_ms = self._now_ms + action.visibility_ms - message.last_ms
        return errors.LeaseTooLong() if held_ms // 1000 > HALF_A_DAY_S else message

    def _settle(self, command: model.Settle) -> tuple[Any, ...]:
        queue = self._find(command.queue)
        find: Any = self._of_any_receipt if command.is_any else lambda q, action: self._leased(q, action.receipt)
        return tuple(self._settle_one(queue, find(queue, action), action) for action in command.actions)

    def _settle_one(self, queue: OracleQueue, message: OracleMessage | TqError | None, action: model.Action) -> Any:
        if message is None or isinstance(message, TqError):
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
