"""A server of tq in this process, over the memory store, on a thread of its own. Its clock can be put forward."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import Any

from tests.harness import HOSTS
from tests.wire import ask
from tq import lifecycle
from tq.audit import audit
from tq.broker import Broker
from tq.clock import TimerClock
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web.server import Application
from tq.web.server import Server as HttpServer

START_SECONDS = 30


class LocalServer:
    """Listens on `port` from its making until `close`, which checks the store."""

    def __init__(self, **settings: Any) -> None:
        self._settings = Settings(data_dir="memory:", allowed_host=f"{HOSTS},sqs.example.com", **settings)
        self._ahead_ms = 0
        self._store = MemoryStore(lifecycle.apply)
        self._loop = asyncio.new_event_loop()
        self._is_over = asyncio.Event()
        self._has_started = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(self._serve(),), daemon=True)
        self._thread.start()
        assert self._has_started.wait(START_SECONDS)

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000 + self._ahead_ms

    def jump(self, seconds: float) -> None:
        """Put the clock forward, and have done what is due then."""
        self._ahead_ms += round(seconds * 1000)
        with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as connection:
            connection.sendall(ask("GET", "/readyz", b"", "Connection: close"))
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200")

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._is_over.set)
        self._thread.join(START_SECONDS)
        self._loop.close()
        findings = self._store.read(audit)
        assert findings == [], findings

    async def _serve(self) -> None:
        listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = listening.getsockname()[1]
        broker = Broker(self._store, self._settings, TimerClock(0, 0, self.now_ms, self.now_ms))
        http = HttpServer(Application(broker, self._settings), self._settings)
        await http.listen_on([listening])
        self._has_started.set()
        await self._is_over.wait()
        await http.close()
        await broker.close()
