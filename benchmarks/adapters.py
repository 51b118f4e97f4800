"""How each system of the comparison is started and loaded: a row for each in `PEERS`.

All are started with a temporary directory on the same disk and a free port of the loopback, are ended by their own
process ids, and are configured so that a message that is confirmed is on disk. How, is said by `durability`.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from benchmarks.load import Failed, HttpRequest, Loader, OwnLoader, Sample, output, run_cycle, run_raw
from benchmarks.loader import Found, Work, percentile
from benchmarks.machine import sync_times_s
from benchmarks.server import Client, ForeignProcess, Process, ServerProcess, free_port
from benchmarks.systems import Setup, Tq, start_tq
from benchmarks.wires import (
    AMQP_HELLO,
    CONNECTION,
    NATS_HELLO,
    TOKEN,
    Step,
    WireName,
    amqp_good,
    amqp_long,
    amqp_method,
    amqp_publish,
    amqp_short,
    exchange,
    nats_publish,
    resp,
)

QUEUE = "peers"
LEASE_SECONDS = 36_000  # longer than any run
FILL_PER_SECOND = 100_000  # messages that a cell which only takes finds for each second
FILL_BATCH = 1_000
VERSION_SECONDS = 30
BENCH_EXTRA = "pip install '.[bench]'"


class Cell(Struct, frozen=True):
    """`messages` is how many one request sends. An open loop runs at half of what the closed one has shown."""

    operation: str
    connections: int
    content_bytes: int = 100
    batch: int = 1
    is_open: bool = False

    @property
    def messages_per_request(self) -> float:
        """A message that is sent, leased and acknowledged takes three requests."""
        return self.batch / len(self.operation.split(", "))


class Absent(Exception):
    """A system that is not installed. The message says how to install it."""


class Peer(Protocol):
    """A system that runs. `version` is empty where the header of the report has it."""

    version: str

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        """Run one cell; `rate` is that of an open loop. Raises Failed when what it would report is not true."""


class PeerRow(Struct, frozen=True):
    """`start` raises Absent, or Failed when the system does not start here."""

    name: str
    durability: str
    start: Callable[[Setup], AbstractContextManager[Peer]]


def program(name: str, how: str) -> str:
    """The path of a program, which may also stand beside this Python. Raises Absent."""
    places = [os.environ.get("PATH", ""), str(Path(sys.executable).parent)]
    found = shutil.which(name, path=os.pathsep.join(places))
    if not found:
        raise Absent(f"{name} is not installed; to install it: {how}")
    return found


def printed_version(command: list[str]) -> str:
    """The first word with a dot between digits that the command prints."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=VERSION_SECONDS, check=False)
    found = re.search(r"\d+\.\d[\d.]*", ran.stdout + ran.stderr)
    return found[0] if found else "unknown"


# --- HTTP ---------------------------------------------------------------------------


class HttpPeer:
    """Speaks as much of tq's API as a send and a receive need. `count` is of its messages, if it stores any."""

    version = ""

    def __init__(self, port: int, setup: Setup, fill: Callable[[int], None], count: Callable[[], int] | None) -> None:
        self._port = port
        self._setup = setup
        self._fill = fill
        self._count = count

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        setup = msgspec.structs.replace(self._setup, content_bytes=cell.content_bytes)
        request = setup.request("send" if cell.operation == "send" else "receive", self._port, QUEUE)
        if cell.operation == "receive":
            self._fill(int(FILL_PER_SECOND * duration_s))
        before = self._count() if self._count else 0
        sample = run_http(setup.loader, request, cell, duration_s, rate)
        if self._count:
            verify(abs(self._count() - before), sample, cell)
        return sample


class TqPeer:
    version = ""

    def __init__(self, tq: Tq) -> None:
        self._tq = tq

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        setup = msgspec.structs.replace(self._tq.setup, content_bytes=cell.content_bytes)
        queue = cell.operation.replace(", ", "-")
        self._tq.fill(queue, 0 if "send" in cell.operation else int(FILL_PER_SECOND * duration_s))
        counter = "sent" if cell.operation == "send" else "acked"
        with Client(self._tq.port) as client:
            before = client.json("GET", f"/queues/{queue}")["totals"][counter]
            requests = self._requests(setup, queue, cell)
            if len(requests) == 1:
                sample = run_http(setup.loader, requests[0], cell, duration_s, rate)
            else:
                sample = run_cycle(requests, cell.connections, duration_s)
            verify(client.json("GET", f"/queues/{queue}")["totals"][counter] - before, sample, cell)
        return sample

    def _requests(self, setup: Setup, queue: str, cell: Cell) -> list[HttpRequest]:
        url = f"http://127.0.0.1:{self._tq.port}/queues/{queue}/messages"
        if cell.batch > 1:
            return [HttpRequest("POST", url, f"{setup.envelope}\n" * cell.batch, "application/x-ndjson")]
        requests = {
            "send": HttpRequest("POST", url, setup.envelope),
            "receive": HttpRequest("GET", url),
            "lease": HttpRequest("GET", f"{url}?visibility_timeout={LEASE_SECONDS}"),
            "ack": HttpRequest("DELETE", f"{url}/{TOKEN.decode()}"),
        }
        return [requests[step] for step in cell.operation.split(", ")]


def run_http(loader: Loader, request: HttpRequest, cell: Cell, duration_s: float, rate: float | None) -> Sample:
    if rate:
        return run_cycle([request], cell.connections, duration_s, rate)
    return loader.run(request, cell.connections, duration_s)


def verify(messages: int, sample: Sample, cell: Cell) -> None:
    """Raises Failed unless every answer was a message; each connection may have lost its last answer at the end."""
    told = sample.requests * cell.messages_per_request
    if not 0 <= messages - told <= cell.connections * cell.batch:
        raise Failed(
            f"{told:.0f} messages were confirmed and {messages} are counted ({cell}): a figure would be wrong."
        )


@contextmanager
def start_tq_peer(setup: Setup) -> Iterator[Peer]:
    with start_tq(setup) as tq:
        yield TqPeer(tq)


@contextmanager
def start_do_nothing_peer(setup: Setup) -> Iterator[Peer]:
    with ServerProcess(setup.directory, "benchmarks.do_nothing", str(setup.content_bytes)) as server:
        yield HttpPeer(server.port, setup, lambda _: None, None)


@contextmanager
def start_fastapi(setup: Setup) -> Iterator[Peer]:
    for package in ("fastapi", "uvicorn", "httptools", "uvloop"):
        if not find_spec(package):
            raise Absent(f"{package} is not installed; to install it: {BENCH_EXTRA}")
    path = setup.directory / "queue.sqlite"
    with ServerProcess(setup.directory, "benchmarks.fastapi_sqlite", str(path)) as server:
        with sqlite3.connect(path) as database:

            def count() -> int:
                found: int = database.execute("SELECT count(*) FROM messages").fetchone()[0]
                return found

            def fill(level: int) -> None:
                content = json.loads(setup.envelope)["content"]
                row = (QUEUE, json.dumps(content), 0.0)
                missing = level - count()
                with database:
                    database.executemany(
                        "INSERT INTO messages (queue, content, sent_at) VALUES (?, ?, ?)", [row] * missing
                    )

            peer = HttpPeer(server.port, setup, fill, count)
            versions = (metadata.version("fastapi"), metadata.version("uvicorn"), sqlite3.sqlite_version)
            peer.version = "{} (uvicorn {}, SQLite {})".format(*versions)
            yield peer
        database.close()


# --- protocols of their own ----------------------------------------------------------------


class RawPeer:
    """Loaded by `benchmarks.loader`. A cell that takes more than there is ends early."""

    version = ""

    def __init__(self, port: int, wire: WireName, steps: dict[str, Step], hello: list[Step] | None = None) -> None:
        self.port = port
        self._wire = wire
        self._steps = steps
        self._hello = hello or []

    def exchange(self, *steps: Step) -> None:
        """Raises Failed for a reply that is not good."""
        numbered = [
            msgspec.structs.replace(step, request=step.request.replace(CONNECTION, b"set-up"))
            for step in (*self._hello, *steps)
        ]
        try:
            with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
                exchange(connection, self._wire, numbered)
        except (OSError, ValueError) as error:
            raise Failed(str(error)) from error

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        steps = [self._steps[step] for step in cell.operation.split(", ")]
        return run_raw(Work(self.port, self._wire, steps, cell.connections, duration_s, self._hello))


class Redis(RawPeer):
    """A list for RPUSH and LPOP, loaded by redis-benchmark where wrk loads the others; a stream for leases."""

    def __init__(self, port: int, setup: Setup) -> None:
        body = "x" * setup.content_bytes
        self._commands = {"send": ["RPUSH", "list", body], "receive": ["LPOP", "list"]}
        self._add = resp("XADD", "stream", "*", "content", body)
        take = ["XREADGROUP", "GROUP", "group", "consumer", "COUNT", "1", "STREAMS", "stream", ">"]
        steps = {
            "send": Step(resp(*self._commands["send"]), rb":\d"),
            "receive": Step(resp("LPOP", "list"), rb"\$\d", rb"\$-1"),
            "add": Step(self._add, rb"\$\d"),
            "lease": Step(resp(*take), rb"\*1.*?\$\d+\r\n(\d+-\d+)\r\n", rb"\*-1"),
            "ack": Step(_ack(), rb":1"),
        }
        super().__init__(port, "RESP", steps)
        self._is_raw = isinstance(setup.loader, OwnLoader)
        self.exchange(Step(resp("XGROUP", "CREATE", "stream", "group", "0", "MKSTREAM"), rb"\+OK"))

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        if cell.operation == "lease, ack":
            messages = int(FILL_PER_SECOND / 2 * duration_s) // FILL_BATCH + 1
            self.exchange(*[Step(self._add * FILL_BATCH, rb"\$\d", replies=FILL_BATCH)] * messages)
        if cell.operation == "send, lease, ack":
            cell = msgspec.structs.replace(cell, operation="add, lease, ack")
        if cell.operation not in self._commands or self._is_raw:
            return super().measure(cell, duration_s, rate)
        return self._benchmark(self._commands[cell.operation], cell, duration_s)

    def _benchmark(self, command: list[str], cell: Cell, duration_s: float) -> Sample:
        """It knows no duration: a short run says how many RPUSHes are one, and LPOP takes what is there."""
        if cell.operation == "send":
            trial = super().measure(cell, min(0.5, duration_s), None)
            requests = int(trial.requests_per_s * duration_s)
        else:
            requests = self._length()
        before = self._length()
        options = ["-p", str(self.port), "-c", str(cell.connections), "-n", str(requests), "-P", "1", "--csv"]
        text, cpu_s = output([program("redis-benchmark", "apt install redis"), *options, *command], 20 * duration_s)
        found = next(csv.DictReader(io.StringIO(text)))
        if abs(self._length() - before) != requests:
            raise Failed(f"redis-benchmark told of {requests} requests, and the list is of another length: {text}")
        rps, p50_ms, p99_ms = (float(found[name]) for name in ("rps", "p50_latency_ms", "p99_latency_ms"))
        seconds = requests / rps
        return Sample(requests, seconds, p50_ms, p99_ms, None, cpu_s / seconds)

    def _length(self) -> int:
        with socket.create_connection(("127.0.0.1", self.port), 60) as connection:
            connection.sendall(resp("LLEN", "list"))
            return int(connection.recv(100)[1:])


def _ack() -> bytes:
    """An id of a stream is as long as its digits, so the length is put in with it: RESP takes inline commands too."""
    return b"XACK stream group " + TOKEN + b"\r\n"


@contextmanager
def start_redis(setup: Setup) -> Iterator[Peer]:
    port = free_port()
    command = [program("redis-server", "apt install redis"), "--port", str(port), "--bind", "127.0.0.1"]
    command += ["--dir", str(setup.directory), "--appendonly", "yes", "--appendfsync", "always", "--save", ""]
    with ForeignProcess(setup.directory, port, command, {}):
        redis = Redis(port, setup)
        redis.version = printed_version([command[0], "--version"])
        yield redis


@contextmanager
def start_beanstalkd(setup: Setup) -> Iterator[Peer]:
    """A message is gone when it is deleted, so reserve and delete are a lease and its acknowledgement."""
    port = free_port()
    command = [program("beanstalkd", "apt install beanstalkd"), "-l", "127.0.0.1", "-p", str(port)]
    with ForeignProcess(setup.directory, port, [*command, "-b", str(setup.directory), "-f", "0"], {}):
        body = b"x" * setup.content_bytes
        steps = {
            "send": Step(b"put 0 0 %d %d\r\n%b\r\n" % (LEASE_SECONDS, len(body), body), rb"INSERTED"),
            "lease": Step(b"reserve-with-timeout 0\r\n", rb"RESERVED (\d+) ", rb"TIMED_OUT"),
            "ack": Step(b"delete " + TOKEN + b"\r\n", rb"DELETED"),
        }
        peer = RawPeer(port, "beanstalk", steps)
        peer.version = printed_version([command[0], "-v"])
        yield peer


@contextmanager
def start_nats(setup: Setup) -> Iterator[Peer]:
    """A stream that forgets what was acknowledged. An acknowledgement asks for a reply, as the others have one."""
    port = free_port()
    path = setup.directory / "nats.conf"
    path.write_text(
        f'listen: "127.0.0.1:{port}"\nping_interval: "1h"\n'
        f'jetstream {{ store_dir: "{setup.directory}", sync_interval: always }}\n'
    )
    command = [program("nats-server", BENCH_EXTRA), "-c", str(path)]
    with ForeignProcess(setup.directory, port, command, {}):
        fetch = nats_publish("$JS.API.CONSUMER.MSG.NEXT.S.C", b'{"batch":1,"no_wait":true}')
        steps = {
            "send": Step(nats_publish("messages", b"x" * setup.content_bytes), rb'MSG .*\{"stream"'),
            "lease": Step(fetch, rb"MSG messages \S+ (\$JS\.ACK\S+) ", rb"HMSG .*404"),
            "ack": Step(b"PUB %b inbox.%b 4\r\n+ACK\r\n" % (TOKEN, CONNECTION), rb"MSG "),
        }
        peer = RawPeer(port, "NATS", steps, NATS_HELLO)
        peer.version = printed_version([command[0], "--version"])
        stream = {"name": "S", "subjects": ["messages"], "storage": "file", "retention": "workqueue", "num_replicas": 1}
        wait_ns = LEASE_SECONDS * 10**9
        config = {"durable_name": "C", "ack_policy": "explicit", "ack_wait": wait_ns, "max_ack_pending": -1}
        consumer = {"stream_name": "S", "config": config}
        peer.exchange(
            Step(nats_publish("$JS.API.STREAM.CREATE.S", json.dumps(stream).encode()), rb'MSG (?!.*"error")'),
            Step(nats_publish("$JS.API.CONSUMER.CREATE.S.C", json.dumps(consumer).encode()), rb'MSG (?!.*"error")'),
        )
        yield peer


@contextmanager
def start_rabbitmq(setup: Setup) -> Iterator[Peer]:
    """A node and an epmd of its own. AMQP has no reply to an acknowledgement, so a `basic.qos` follows it."""
    how = "apt install rabbitmq-server"
    # What is in the path may be a script that becomes another user; the real one stands beside what it links to.
    script = Path(program("rabbitmq-server", how)).resolve().with_name("rabbitmq-server")
    port, epmd_port = free_port(), free_port()
    node = "tq-benchmarks@localhost"
    home = setup.directory
    (home / "plugins").write_text("[].\n")
    environment = {"HOME": str(home), "ERL_EPMD_PORT": str(epmd_port), "ERL_EPMD_ADDRESS": "127.0.0.1"}
    for name, value in {
        "NODENAME": node,
        "NODE_IP_ADDRESS": "127.0.0.1",
        "NODE_PORT": str(port),
        "DIST_PORT": str(free_port()),
        "MNESIA_BASE": str(home / "mnesia"),
        "LOG_BASE": str(home / "log"),
        "CONFIG_FILE": str(home / "none"),
        "CONF_ENV_FILE": str(home / "none"),
        "ENABLED_PLUGINS_FILE": str(home / "plugins"),
        "PID_FILE": str(home / "pid"),
    }.items():
        environment[f"RABBITMQ_{name}"] = value
    with ExitStack() as stack:
        epmd = [program("epmd", how), "-port", str(epmd_port), "-address", "127.0.0.1"]
        stack.enter_context(Process(home, epmd, environment, home, subprocess.DEVNULL))
        stack.enter_context(ForeignProcess(home, port, [str(script)], environment))
        get = amqp_method(1, 60, 70, b"\0\0" + amqp_short(QUEUE) + b"\0")
        ack = amqp_method(1, 60, 80, TOKEN + b"\0", size=9)
        steps = {
            "send": Step(amqp_publish(QUEUE, b"x" * setup.content_bytes), amqp_good(60, 80)),
            "lease": Step(get, amqp_good(60, 71, b"(.{8})"), amqp_good(60, 72)),
            "ack": Step(ack + amqp_method(1, 60, 10, bytes(7)), amqp_good(60, 11)),
        }
        peer = RawPeer(port, "AMQP", steps, AMQP_HELLO)
        started = re.search(r"RabbitMQ ([\d.]+) on Erlang ([\d.]+)", (home / "log" / f"{node}.log").read_text())
        peer.version = "{} (Erlang {})".format(*started.groups()) if started else "unknown"
        quorum = amqp_short("x-queue-type") + b"S" + amqp_long(b"quorum")
        declare = amqp_method(1, 50, 10, b"\0\0" + amqp_short(QUEUE) + b"\x02" + amqp_long(quorum))
        peer.exchange(Step(declare, amqp_good(50, 11)))
        yield peer


# --- what a disk and LMDB give ------------------------------------------------------------


class TwoSyncs:
    """A request is 4 KiB and an fdatasync, twice: what a commit of LMDB costs the disk."""

    version = ""

    def __init__(self, setup: Setup) -> None:
        self._directory = setup.directory

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        times = sync_times_s(self._directory, duration_s)
        rising = sorted(first + second for first, second in zip(times[::2], times[1::2], strict=False))
        p50_ms, p99_ms = percentile(rising, 50) * 1000, percentile(rising, 99) * 1000
        return Sample(len(rising), sum(rising), p50_ms, p99_ms)


class RawLmdb:
    version = ""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup

    def measure(self, cell: Cell, duration_s: float, rate: float | None) -> Sample:
        command = [sys.executable, "-m", "benchmarks.raw_lmdb", str(self._setup.directory / "lmdb")]
        text, _ = output([*command, str(cell.content_bytes), str(cell.batch), str(duration_s)], duration_s)
        found = msgspec.json.decode(text, type=Found)
        return Sample(found.requests, found.seconds, found.p50_ms, found.p99_ms)


@contextmanager
def start_two_syncs(setup: Setup) -> Iterator[Peer]:
    yield TwoSyncs(setup)


@contextmanager
def start_raw_lmdb(setup: Setup) -> Iterator[Peer]:
    yield RawLmdb(setup)


PEERS = (
    PeerRow("tq", "two syncs per batch of requests", start_tq_peer),
    PeerRow("do-nothing Tornado", "none: stores nothing", start_do_nothing_peer),
    PeerRow("FastAPI + SQLite", "one fdatasync per message (WAL, FULL)", start_fastapi),
    PeerRow("Redis", "one fdatasync per batch of requests (AOF always)", start_redis),
    PeerRow("beanstalkd", "one fsync per message (binlog, -f 0)", start_beanstalkd),
    PeerRow("RabbitMQ", "one fdatasync per batch (quorum queue), acks do not wait", start_rabbitmq),
    PeerRow("NATS JetStream", "one fsync per message (sync always)", start_nats),
    PeerRow("two fdatasyncs", "nothing else", start_two_syncs),
    PeerRow("raw py-lmdb", "two syncs per commit", start_raw_lmdb),
)
