"""What is measured: a row for each system in `SYSTEMS`, each a way to start it and to run one cell on it.

To add a system, write a class with `measure` and a function that starts it, and add its row. How it is loaded is its
own affair: those that speak HTTP use the loader they are given, others bring theirs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

from msgspec import Struct

from benchmarks.load import Failed, HttpRequest, Loader, Sample
from benchmarks.server import Client, ServerProcess

Operation = Literal["send", "receive"]
OPERATIONS: tuple[Operation, ...] = ("send", "receive")

LEAST_CONTENT_BYTES = 2  # the quotes of a JSON string
MOST_CONTENT_BYTES = 100_000  # far below what tq takes, and small enough for wrk's script
BATCH_MESSAGES = 10_000  # the most that tq takes in one request
BATCH_BYTES = 8 * 1024 * 1024  # half of the largest body that tq takes by default
PAGE_MESSAGES = 1_000  # the most that tq hands out in one answer
PRELOAD_PER_SECOND = 100_000  # messages that a receive finds for each second; should it run dry, the cell fails
KEEP_SECONDS = 0.005  # between two looks at a queue whose level is kept
JOIN_SECONDS = 120  # for the last batch of the thread that keeps a level


class Setup(Struct, frozen=True):
    """What every system is started with. `directory` is its own, on the disk that is measured."""

    directory: Path
    loader: Loader
    content_bytes: int

    def request(self, operation: Operation, port: int, queue: str) -> HttpRequest:
        """The one request that makes up a cell."""
        url = f"http://127.0.0.1:{port}/queues/{queue}/messages"
        return HttpRequest("POST", url, self.envelope) if operation == "send" else HttpRequest("GET", url)

    @property
    def envelope(self) -> str:
        """A message as tq's API takes it; its content is a JSON string of `content_bytes`, quotes included."""
        return '{"content": "%s"}' % ("x" * (self.content_bytes - LEAST_CONTENT_BYTES))


class System(Protocol):
    """A system that runs."""

    def measure(self, operation: Operation, connections: int, duration_s: float) -> Sample:
        """Run one cell. Raises Failed when what it would report is not true."""


class Row(Struct, frozen=True):
    name: str
    start: Callable[[Setup], AbstractContextManager[System]]


class DoNothing:
    """A Tornado `RequestHandler` that answers at once with a constant."""

    def __init__(self, port: int, setup: Setup) -> None:
        self._port = port
        self._setup = setup

    def measure(self, operation: Operation, connections: int, duration_s: float) -> Sample:
        request = self._setup.request(operation, self._port, "nothing")
        return self._setup.loader.run(request, connections, duration_s)


class Tq:
    """A tq server. A cell fails when the server's own count of messages is not the loader's count of answers."""

    def __init__(self, server: ServerProcess, setup: Setup) -> None:
        self.server = server
        self.port = server.port
        self.setup = setup

    def measure(self, operation: Operation, connections: int, duration_s: float) -> Sample:
        """Sends go to one queue; receives take from another that holds more than they can take."""
        level = int(PRELOAD_PER_SECOND * duration_s) if operation == "receive" else 0
        self.fill(operation, level)
        request = self.setup.request(operation, self.port, operation)
        with Client(self.port) as client:
            before = _total(client, operation, operation)
            sample = self.setup.loader.run(request, connections, duration_s)
            _compare(operation, _total(client, operation, operation) - before, sample, connections)
        return sample

    def fill(self, queue: str, level: int) -> None:
        """Make the queue and send until it holds `level` messages."""
        with Client(self.port) as client:
            client.json("POST", "/queues", b'{"name": "%b"}' % queue.encode())
            while (ready := _ready(client, queue)) < level:
                send_batch(client, queue, self.setup.envelope, level - ready)

    def measure_at(self, queue: str, level: int, operation: Operation, connections: int, duration_s: float) -> Sample:
        """Run one cell on a queue that is filled to `level` and is kept there."""
        request = self.setup.request(operation, self.port, queue)
        with Client(self.port) as client:
            before = _total(client, queue, operation)
            with _Keeper(self.port, queue, level, self.setup.envelope) as keeper:
                sample = self.setup.loader.run(request, connections, duration_s)
            done = _total(client, queue, operation) - before - keeper.moved[operation]
        _compare(operation, done, sample, connections)
        return sample


class _Keeper:
    """Keeps a queue at its level for the time of a `with`: sends again what a load takes, takes away what it sends.

    It works in batches, so that it costs the server little, and what it costs it costs at every level.
    """

    def __init__(self, port: int, queue: str, level: int, envelope: str) -> None:
        self._port = port
        self._queue = queue
        self._level = level
        self._envelope = envelope
        self._is_over = threading.Event()
        self._trouble: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="keeper", daemon=True)
        self.moved: dict[Operation, int] = {"send": 0, "receive": 0}

    def __enter__(self) -> _Keeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(JOIN_SECONDS)
        if self._trouble:
            raise Failed(f"The level of {self._queue} could not be kept: {self._trouble}") from self._trouble

    def _run(self) -> None:
        try:
            with Client(self._port) as client:
                while not self._is_over.wait(KEEP_SECONDS):
                    missing = self._level - _ready(client, self._queue)
                    if missing > 0:
                        self.moved["send"] += send_batch(client, self._queue, self._envelope, missing)
                    elif missing < 0:
                        self.moved["receive"] += _take(client, self._queue, -missing)
        except Exception as error:
            self._trouble = error


def send_batch(client: Client, queue: str, envelope: str, wanted: int) -> int:
    line = envelope.encode() + b"\n"
    size = min(wanted, BATCH_MESSAGES, BATCH_BYTES // len(line))
    client.json("POST", f"/queues/{queue}/messages", line * size, "application/x-ndjson")
    return size


def _take(client: Client, queue: str, wanted: int) -> int:
    path = f"/queues/{queue}/messages/receive?max={min(wanted, PAGE_MESSAGES)}"
    answer: Any = client.json("POST", path)
    return len(answer["messages"]) if answer else 0


def _ready(client: Client, queue: str) -> int:
    return int(client.json("GET", f"/queues/{queue}")["messages"]["ready"])


def _total(client: Client, queue: str, operation: Operation) -> int:
    """How many messages were ever sent to the queue, or received from it."""
    totals: dict[str, int] = client.json("GET", f"/queues/{queue}")["totals"]
    return totals["sent" if operation == "send" else "received"]


def _compare(operation: Operation, done: int, sample: Sample, connections: int) -> None:
    """Raises Failed unless every answer was a message; each connection may have lost its last answer at the end."""
    if not 0 <= done - sample.requests <= connections:
        raise Failed(
            f"{sample.requests} requests were answered and the queue counts {done} messages ({operation}): "
            f"some answers were no messages (a queue that ran empty?), so the figure would be wrong."
        )


@contextmanager
def start_do_nothing(setup: Setup) -> Iterator[System]:
    with ServerProcess(setup.directory, "benchmarks.do_nothing", str(setup.content_bytes)) as server:
        yield DoNothing(server.port, setup)


@contextmanager
def start_tq(setup: Setup) -> Iterator[Tq]:
    data_dir = setup.directory / "data"
    with ServerProcess(setup.directory, "tq", "serve", "--port", "0", "--data-dir", str(data_dir)) as server:
        yield Tq(server, setup)


BASE = Row("do-nothing Tornado", start_do_nothing)  # what the others are compared with
SYSTEMS = (BASE, Row("tq", start_tq))
