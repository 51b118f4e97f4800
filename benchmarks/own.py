"""`python -m benchmarks.own`: the way of a request through tq in one process, without sockets and without a disk.

Connections are given bytes as from a socket, and what they write is counted. The store is LMDB on a file system in
memory. What is left is the server's own work, which is also quiet enough to compare two versions by.
"""

from __future__ import annotations

import asyncio
import gc
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click
import uvloop

from benchmarks.load import HttpRequest
from benchmarks.sqs import sdk_requests
from tq.broker import Broker
from tq.cli.serving import GARBAGE_OBJECTS, open_store
from tq.settings import Settings
from tq.web.server import Application, Server

MEMORY = Path("/dev/shm")
QUEUE = "http://localhost/queues/q/messages"
ENVELOPE = '{"content": "%s"}' % ("x" * 98)
FILL = 10_000  # messages in one request
OPERATIONS = ("send", "receive", "lease", "batch", "SQS send", "SQS send 10")
RECEIVES_PER_S = 200_000  # more than are done, so that the queue does not run empty


class Transport:
    """What a connection needs of a socket."""

    def __init__(self) -> None:
        self.written = 0
        self.last = b""

    def get_extra_info(self, name: str) -> Any:
        return ("127.0.0.1", 1) if name == "peername" else None

    def write(self, data: bytes) -> None:
        self.written += 1
        self.last = data

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int, low: int) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


class Line:
    """One connection of the server's."""

    def __init__(self, server: Server) -> None:
        self._connection = server.accept()
        self.transport = Transport()
        self._connection.connection_made(self.transport)

    def send(self, request: bytes) -> None:
        self._connection.data_received(request)

    async def answer(self, written: int) -> bytes:
        """The answer, when there are more than so many."""
        while self.transport.written == written:
            await asyncio.sleep(0)
        if not self.transport.last.startswith(b"HTTP/1.1 20"):
            raise click.ClickException(self.transport.last.decode())
        return self.transport.last

    async def ask(self, request: bytes) -> bytes:
        written = self.transport.written
        self.send(request)
        return await self.answer(written)


async def with_lines(connections: int, use: Callable[[list[Line]], Awaitable[None]]) -> None:
    with tempfile.TemporaryDirectory(prefix="tq-own-", dir=MEMORY) as directory:
        settings = Settings(data_dir=directory)
        broker = Broker(open_store(settings), settings)
        server = Server(Application(broker, settings), settings)
        try:
            await use([Line(server) for _ in range(connections)])
        finally:
            await broker.close()


async def measure(operation: str, seconds: float, lines: list[Line]) -> None:
    await lines[0].ask(HttpRequest("POST", "http://localhost/queues", '{"name":"q"}').as_bytes())
    if operation in ("receive", "lease"):
        batch = HttpRequest("POST", QUEUE, f"{ENVELOPE}\n" * FILL, "application/x-ndjson").as_bytes()
        for _ in range(int(RECEIVES_PER_S * seconds) // FILL):
            await lines[0].ask(batch)
    over_sqs = sdk_requests("localhost", "q", 100)
    request = {
        "SQS send": over_sqs["send"],
        "SQS send 10": over_sqs["send 10"],
        "send": HttpRequest("POST", QUEUE, ENVELOPE),
        "receive": HttpRequest("GET", QUEUE),
        "lease": HttpRequest("GET", f"{QUEUE}?visibility_timeout=3600"),
        "batch": HttpRequest("POST", QUEUE, f"{ENVELOPE}\n" * 100, "application/x-ndjson"),
    }[operation].as_bytes()
    click.echo("ready")
    requests = 0
    begun, cpu = time.perf_counter(), time.process_time()
    while time.perf_counter() - begun < seconds:
        written = lines[-1].transport.written
        for line in lines:
            line.send(request)
        answer = await lines[-1].answer(written)
        if answer.startswith(b"HTTP/1.1 204"):
            raise click.ClickException("The queue ran empty.")
        requests += len(lines)
    click.echo(f"{(time.process_time() - cpu) / requests * 1e6:.2f} microseconds of processor time for a {operation}")


@click.command()
@click.argument("operation", type=click.Choice(OPERATIONS), default="send")
@click.option("--connections", default=64, show_default=True)
@click.option("--seconds", default=3.0, show_default=True)
def main(operation: str, connections: int, seconds: float) -> None:
    """Print what one request costs the server itself."""
    if not MEMORY.is_dir():
        raise click.ClickException(f"{MEMORY} is not there.")
    gc.set_threshold(GARBAGE_OBJECTS)  # as in a server
    uvloop.run(with_lines(connections, lambda lines: measure(operation, seconds, lines)))


if __name__ == "__main__":
    main()
