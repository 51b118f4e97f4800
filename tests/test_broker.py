"""The broker on a real event loop, over either engine."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.engines import Do, open_engine
from tq import keys
from tq.broker import Broker
from tq.lifecycle.receiving import MAX_SKIPPED
from tq.model import CreateQueue, Draft, GetQueue, Receive, Send
from tq.settings import Settings
from tq.store import Tx


@pytest.mark.parametrize("kind", ["lmdb", "memory"])
def test_a_receive_goes_on_behind_any_number_of_damaged_messages(kind: str, tmp_path: Path) -> None:
    """Else a consumer that stops at the first empty answer would stop in front of messages that are well."""
    count = 2 * MAX_SKIPPED + 50

    def damage(tx: Tx) -> None:
        ready = tx.space(keys.ready_space(1))
        for key, value in list(ready.scan())[:count]:
            ready.put(key, value[:-1] + bytes([value[-1] ^ 1]))

    async def run() -> tuple[Any, Any]:
        broker = Broker(open_engine(kind, tmp_path), Settings())
        await broker.call(CreateQueue("q"))
        await broker.call(Send("q", (Draft(b"1"),) * (count + 1)))
        await broker.call(Do(damage))
        found = await broker.call(Receive(("q",))), await broker.call(GetQueue("q"))
        assert (await broker.call(Receive(("q",)))).messages == ()
        await broker.close()
        return found

    received, info = asyncio.run(run())
    assert [message.id for message in received.messages] == [count + 1]
    assert info.counters.quarantined == count
