"""A store with queues on it, for short tests of one rule each."""

from __future__ import annotations

from typing import Any

from msgspec import structs

from tq import lifecycle, model
from tq.audit import audit
from tq.model import CreateQueue, Draft, Peek, Receive, Send, Settle
from tq.store import Store

NOW_MS = 1_700_000_000_000
LEASE_MS = 10_000
FIFO = model.QueueSettings(fifo=True)


class Bench:
    """A store, and the time; contents say which group a message is of: "g1" is of group g."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now_ms = NOW_MS

    def run(self, *commands: model.Command) -> Any:
        """The result of the last; timers that are over go off before."""
        results = self.store.commit([model.Tick(100), *commands], self.now_ms)
        assert self.store.read(audit) == []
        return results[-1]

    def later(self, by_ms: int) -> None:
        self.now_ms += by_ms
        self.run()

    def ask(self, query: model.Query) -> Any:
        return self.store.read(lambda tx: lifecycle.answer(tx, query, self.now_ms))

    def create(self, name: str = "f.fifo", **settings: Any) -> None:
        assert self.run(CreateQueue(name, structs.replace(FIFO, **settings))).is_new

    def send(self, *contents: str, queue: str = "f.fifo") -> model.Sent:
        drafts = [Draft(each.encode(), group=each[0], dedup_id=each) for each in contents]
        sent: model.Sent = self.run(Send(queue, tuple(drafts)))
        return sent

    def receive(self, limit: int = 10, queue: str = "f.fifo", **parameters: Any) -> dict[str, str]:
        """The receipts of what came, by the contents, in order."""
        received = self.run(Receive((queue,), limit, **{"visibility_ms": LEASE_MS, **parameters}))
        return {message.content.decode(): message.receipt or "" for message in received.messages}

    def settle(self, *actions: model.Action, is_any: bool = False) -> tuple[Any, ...]:
        result: tuple[Any, ...] = self.run(Settle("f.fifo", actions, is_any))
        return result

    def states(self, queue: str = "f.fifo") -> dict[str, str]:
        """Where each message is."""
        pages = [self.ask(Peek(queue, state, limit=100)) for state in model.STATES]
        return {message.content.decode(): message.state for page in pages for message in page.messages}

    def content_order(self, queue: str) -> list[str]:
        return [message.content.decode() for message in self.run(Receive((queue,), 100)).messages]
