"""A TCP proxy on the loopback that does to connections what networks do: late, in pieces, cut, and silent."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Literal

from msgspec import Struct

WHOLE = 1 << 20  # bytes that are read at a time where they are not to be split


class Plan(Struct, frozen=True):
    """What becomes of one connection.

    So many bytes of the request or of the answer get through, then comes the `ending`: "fin" ends both connections
    in order, "reset" does not, after "hole" they stay open and nothing gets through any more, and "half" ends the
    client's side alone. Without a number everything gets through.
    """

    request_bytes: int | None = None
    answer_bytes: int | None = None
    ending: Literal["fin", "reset", "hole", "half"] = "reset"
    piece_bytes: int = WHOLE
    delay_s: float = 0  # before each piece, in which more may come and be merged with it


class Proxy:
    """Serves from a thread of its own until the end of a `with`. `plan` is asked for each connection."""

    def __init__(self, port: int, plan: Callable[[], Plan] | Plan = Plan()) -> None:  # noqa: B008
        self.plan = plan
        self.holes = 0  # connections that are silent
        self._server_port = port
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1_000)
        self.port: int = self._listening.getsockname()[1]
        self._server = self._call(asyncio.start_server(self._connected, sock=self._listening, limit=WHOLE))

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self._call(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _call(self, wanted: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(wanted, self._loop).result(30)

    async def _close(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.sleep(0)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        plan = self.plan() if callable(self.plan) else self.plan
        self._writers.append(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port, limit=WHOLE)
        except OSError:
            writer.transport.abort()
            return
        self._writers.append(server_writer)
        ended = asyncio.Event()
        ways = [
            asyncio.ensure_future(_carry(reader, server_writer, plan.request_bytes, plan, ended)),
            asyncio.ensure_future(_carry(server_reader, writer, plan.answer_bytes, plan, ended)),
        ]
        both = asyncio.ensure_future(self._watch(ways, ended, plan, writer, server_writer))
        for task in (*ways, both):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _watch(
        self, ways: list[asyncio.Task[None]], ended: asyncio.Event, plan: Plan, *writers: asyncio.StreamWriter
    ) -> None:
        """Wait for the ending, or until both ways have come to theirs, and bring it about."""
        waiting = asyncio.ensure_future(ended.wait())
        done = asyncio.gather(*ways, return_exceptions=True)
        try:
            await asyncio.wait([waiting, done], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if ended.is_set() and plan.ending == "half":
            writers[1].write_eof()  # the server is told that the client has no more to say
            await ways[1]
        for way in ways:
            way.cancel()
        if ended.is_set() and plan.ending == "hole":
            self.holes += 1
            return
        for writer in writers:
            if ended.is_set() and plan.ending == "reset":
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
            else:
                writer.close()


async def _carry(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, most: int | None, plan: Plan, ended: asyncio.Event
) -> None:
    """Hand on what comes, in pieces, until it has its end or so much of it got through."""
    with suppress(OSError):
        while True:
            if most == 0:
                await reader.read(1)  # there is something, which does not get through
                ended.set()
                return
            if plan.delay_s:
                await asyncio.sleep(plan.delay_s)
            data = await reader.read(plan.piece_bytes if most is None else min(most, plan.piece_bytes))
            if not data:
                break
            writer.write(data)
            await writer.drain()
            if most is not None:
                most -= len(data)
                if not most:
                    ended.set()
                    return
        if writer.can_write_eof():
            writer.write_eof()
