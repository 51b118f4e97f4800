"""A server without sockets: the real application over a store in memory, and connections that bytes are given to."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import Any

from tests.golden import NOW_MS
from tests.wire import ask
from tq import lifecycle
from tq.audit import audit
from tq.broker import Broker
from tq.clock import TimerClock
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web.server import Application, Server

MAX_TURNS = 300  # of the loop, that an answer may take
EXCHANGES = 2_000  # before the store is checked and made anew, so that it stays small
QUEUES = (b'{"name":"q"}', b'{"name":"dead"}', b'{"name":"f.fifo","fifo":true}')


class FailureLogged(Exception):
    """The server met what it did not expect."""


class _Strict(logging.Handler):
    """Nothing that a client says may be worth an error, or even a warning, in the log."""

    def emit(self, record: logging.LogRecord) -> None:
        records.append(record)


records: list[logging.LogRecord] = []
_log = logging.getLogger("tq")
_log.addHandler(_Strict(logging.WARNING))
_log.propagate = False


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self, protocol: asyncio.Protocol, ends: socket.socket) -> None:
        super().__init__({"socket": ends, "peername": ("127.0.0.1", 1)})
        self._protocol = protocol
        self._is_closing = False
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        assert not self._is_closing, "written behind the end"
        self.written.append(bytes(data))

    def is_closing(self) -> bool:
        return self._is_closing

    def close(self) -> None:
        if not self._is_closing:
            self._is_closing = True
            self._protocol.connection_lost(None)

    abort = close

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None: ...


class World:
    """`say` gives a new connection pieces of bytes and tells what it answered."""

    def __init__(self) -> None:
        self._left = 0  # exchanges until it ends; none before it began

    def _now_ms(self) -> int:
        """The clock goes on with each exchange, so that leases and delays end."""
        return NOW_MS + 50 * (EXCHANGES - self._left)

    def say(self, *pieces: bytes) -> bytes:
        """Raises FailureLogged."""
        if not self._left:
            self._begin()
        self._left -= 1
        try:
            answer = self._loop.run_until_complete(self._say(pieces))
        finally:
            if not self._left:
                self._end()
        if records:
            record = records.pop()
            records.clear()
            raise FailureLogged(record.getMessage()) from (record.exc_info[1] if record.exc_info else None)
        return answer

    def _begin(self) -> None:
        self._left = EXCHANGES
        self._loop = asyncio.new_event_loop()
        self._ends = socket.socketpair()
        settings = Settings(data_dir="memory:")
        self._store = MemoryStore(lifecycle.apply)

        async def make() -> None:
            self._broker = Broker(self._store, settings, TimerClock(0, 0, self._now_ms, self._now_ms))
            self._server = Server(Application(self._broker, settings), settings)

        self._loop.run_until_complete(make())
        self._loop.run_until_complete(self._say([ask("POST", "/queues", body) for body in QUEUES]))

    async def _say(self, pieces: Any) -> bytes:
        connection = self._server.accept()
        transport = Transport(connection, self._ends[0])
        connection.connection_made(transport)
        for piece in pieces:
            if not transport.is_closing():
                connection.data_received(piece)
        turns = 0
        while connection.is_busy and (turns < MAX_TURNS or self._broker._writer._is_committing):
            turns += 1
            await asyncio.sleep(0)
        if not transport.is_closing():
            connection.eof_received()
        await asyncio.sleep(0)
        transport.close()
        return b"".join(transport.written)

    def close(self) -> None:
        """Check the store; the next exchange begins anew."""
        if self._left:
            self._left = 0
            self._end()

    def _end(self) -> None:
        self._loop.run_until_complete(self._broker.close())
        self._loop.close()
        for end in self._ends:
            end.close()
        found = self._store.read(audit)
        assert not found, found
