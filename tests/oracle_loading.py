"""Loading as the oracle has it: what a dump says of a message is so, but for where it is."""

from __future__ import annotations

from tests.naive import OracleQueue
from tests.oracle_places import DEDUP
from tests.oracle_traffic import Traffic
from tq import errors, model
from tq.errors import TqError


class Loading(Traffic):
    def __init__(self, max_page_bytes: int, max_skipped: int, attempt_ms: int) -> None:
        super().__init__(max_page_bytes, max_skipped, attempt_ms)
        self.loaded: dict[str, int] = {}

    def _bring_back(self, command: model.CreateQueue) -> None:
        raise NotImplementedError

    def _load(self, command: model.Load) -> model.Refused | None:
        if self._get_loaded(model.GetLoaded(command.dump)) != command.after:
            raise errors.InvalidRequest
        for index, part in enumerate(command.parts):
            try:
                if isinstance(part, model.CreateQueue):
                    self._bring_back(part)
                elif self._find(part.queue).settings.fifo and isinstance(part, model.LoadedMessage):
                    self._check_for_fifo(part.message)
            except TqError as refusal:
                return model.Refused(index, refusal)
        for part in command.parts:
            if isinstance(part, model.LoadedMessage):
                self._load_message(self._find(part.queue), part)
            elif isinstance(part, model.LoadedId):
                queue = self._find(part.queue)
                queue.counters["sent"] += 1
                queue.counters["acked"] += 1
                self._know(queue, (9, self._new_id(queue)), part.group, part.dedup_id, part.until_ms)
        self.loaded[command.dump] = command.upto
        return None

    def _get_loaded(self, query: model.GetLoaded) -> int:
        return self.loaded.get(query.dump, 0)

    def _check_for_fifo(self, message: model.Message) -> None:
        if not message.group:
            raise errors.GroupMissing
        if message.priority:
            raise errors.NotInFifo

    def _load_message(self, queue: OracleQueue, part: model.LoadedMessage) -> None:
        told = part.message
        message = self._told(self._new_id(queue), told)
        message.born_ms += self._offset_ms
        self._come(queue, message, told.visible_at_ms + self._offset_ms if told.visible_at_ms else 0)
        queue.counters["sent"] += 1
        if told.dedup_id:
            group = told.group if part.is_of_group else None
            self._know(queue, message.key, group, told.dedup_id, part.dedup_until_ms)

    def _know(self, queue: OracleQueue, key: tuple[int, int], group: str | None, dedup_id: str, until_ms: int) -> None:
        dedup_key = (len(group or ""), group or "", dedup_id)
        until_ms += self._offset_ms
        if until_ms > self._now_ms and queue.dedups.get(dedup_key, ((), 0))[1] <= self._now_ms:
            queue.dedups[dedup_key] = (key, until_ms)
            self._due[until_ms, DEDUP, queue.place, key] = dedup_key
