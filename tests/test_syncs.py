"""What the server asks of the kernel, seen with strace: no answer leaves before its effect is on disk.

A commit of LMDB is a write of pages, an `fdatasync`, and a write of the meta page through a descriptor opened with
O_DSYNC, in this order. `strace -D` runs the tracer as a grandchild, so the server is a child of the test as without it:
signals reach it under its own id, and the tracer ends with it.
"""

from __future__ import annotations

import asyncio
import http.client
import re
import shutil
import subprocess
import sys
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from tests.harness import START_SECONDS, Server, memory_bytes, wait_until

CALLS = "openat,pwrite64,writev,pwritev,fdatasync,fsync,msync,recvfrom,recvmsg,read,sendto,sendmsg,write"
SEQUENTIAL = 50
CONNECTIONS = 64
PER_CONNECTION = 8
SLOW_SYNC_US = 50_000  # a disk of this speed, so that the result does not hang on how fast this one is
STALLING_SYNC_US = 300_000
STALLS = 12  # for each thread that commits; then the disk is quick again
LOOKS = 40  # at a server whose disk stalls
SENDERS = 100
MAX_WAITING = 30  # commands

SEND = b'POST /queues/q/messages HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\n\r\n{"content":"x"}'

_LINE = re.compile(r"(\d+) +(\w+)\((.*)")
_RESUMED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)")
_UNFINISHED = " <unfinished ...>"


class Call(msgspec.Struct):
    """A system call: the numbers of the lines on which it began and ended tell what was first."""

    thread: int
    name: str
    text: str
    began: int
    ended: int

    @property
    def descriptor(self) -> str:
        return re.split(r"[,)]", self.text, maxsplit=1)[0]

    @property
    def result(self) -> str:
        """Without what may follow: the name of an error, or a remark of strace's."""
        return self.text.rpartition(" = ")[2].partition(" ")[0]


class Exchange(msgspec.Struct):
    """A request that was read and its answer that was written, both on one connection."""

    request: Call
    answer: Call


class Commit(msgspec.Struct):
    sync: Call
    meta: Call


# --- reading the log -------------------------------------------------------------


def read_calls(log: str) -> list[Call]:
    """The calls that ended, in the order in which they began."""
    calls: list[Call] = []
    open_calls: dict[tuple[str, str], Call] = {}
    for number, line in enumerate(log.splitlines()):
        if resumed := _RESUMED.fullmatch(line):
            call = open_calls.pop((resumed[1], resumed[2]))
            call.text += resumed[3]
            call.ended = number
        elif begun := _LINE.fullmatch(line):
            call = Call(int(begun[1]), begun[2], begun[3].removesuffix(_UNFINISHED), number, number)
            calls.append(call)
            if line.endswith(_UNFINISHED):
                call.ended = -1
                open_calls[begun[1], begun[2]] = call
    return [call for call in calls if call.ended >= 0]


def read_commits(calls: list[Call]) -> list[Commit]:
    """Each write of the meta page with the sync of the data before it, by the same thread."""
    synced = {c.result for c in calls if c.name == "openat" and "data.mdb" in c.text and "O_DSYNC" in c.text}
    last_sync: dict[int, Call] = {}
    commits: list[Commit] = []
    for call in calls:
        if call.name == "fdatasync" and call.result == "0":
            last_sync[call.thread] = call
        elif call.name == "pwrite64" and call.descriptor in synced:
            commits.append(Commit(last_sync.pop(call.thread), call))  # a meta page without a sync is a KeyError
    return commits


def read_exchanges(calls: list[Call]) -> list[Exchange]:
    """Requests for messages and their answers. A connection has one request at a time."""
    waiting: dict[str, Call] = {}
    exchanges: list[Exchange] = []
    for call in calls:
        if re.search(r'"(POST|GET) /queues/q/messages', call.text) and call.name.startswith(("recv", "read")):
            assert call.descriptor not in waiting
            waiting[call.descriptor] = call
        elif re.search(r'"HTTP/1\.1 20[01] ', call.text) and call.descriptor in waiting:
            exchanges.append(Exchange(waiting.pop(call.descriptor), call))
    assert not waiting
    return exchanges


def too_early(exchanges: list[Exchange], commits: list[Commit]) -> list[Exchange]:
    """The exchanges without a commit that was synced after the request was read and before the answer was written."""
    began = [commit.sync.began for commit in commits]
    ended = [commit.meta.ended for commit in commits]
    return [
        exchange
        for exchange in exchanges
        if bisect_right(began, exchange.request.ended) >= bisect_left(ended, exchange.answer.began)
    ]


# --- servers that are watched -------------------------------------------------------------


@pytest.fixture(scope="module")
def strace(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """strace's command up to the name of its log. Skips where there is no strace or it may not trace."""
    path = shutil.which("strace")
    if not path:
        pytest.skip("strace is not installed")
    command = (path, "-D", "-f", "-s", "64", "-e", f"trace={CALLS}", "-e", "signal=none", "-o")
    log = tmp_path_factory.mktemp("strace") / "log"
    program = "import os; os.fdatasync(os.open('.', os.O_RDONLY))"
    tried = subprocess.run(
        [*command, str(log), sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    # The tracer holds the pipe of stderr until it has ended, so its log is complete.
    if not log.exists() or "fdatasync(" not in log.read_text():
        pytest.skip(f"strace cannot trace here: {tried.stderr.strip()}")
    return command


Watch = Callable[..., list[Call]]


@pytest.fixture
def watch(start: Callable[..., Server], strace: tuple[str, ...], tmp_path: Path) -> Watch:
    """Runs something against a server with a queue named q; what the server called meanwhile and until it ended."""
    log = tmp_path / "log"

    def run(use: Callable[[Server], None], *flags: str) -> list[Call]:
        server = start(wrapper=(*strace, str(log), *flags))
        tracer = re.search(r"TracerPid:\t(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
        assert tracer
        assert server.request("POST", "/queues", {"name": "q"}).status == 201
        use(server)
        assert server.stop() == 0
        wait_until(lambda: not is_running(tracer[1]), START_SECONDS)
        assert re.search(rf"^{server.process.pid} +\+\+\+ exited with 0 \+\+\+$", log.read_text(), re.MULTILINE)
        return read_calls(log.read_text())

    return run


def is_running(pid: str) -> bool:
    """Whether a process that is no child of this one goes on; an ended one may wait for its parent to look."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def one_after_the_other(server: Server) -> None:
    """Sends, then receives, on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=START_SECONDS)
    requests = [("POST", b'{"content":"x"}', 201), ("GET", None, 200)]
    for method, body, status in (request for request in requests for _ in range(SEQUENTIAL)):
        connection.request(method, "/queues/q/messages", body)
        response = connection.getresponse()
        response.read()
        assert response.status == status
    connection.close()


def many_at_once(server: Server) -> None:
    asyncio.run(load(server.port))


async def load(port: int) -> None:
    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(PER_CONNECTION):
            writer.write(SEND)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 201 ")
            found = re.search(rb"Content-Length: (\d+)", head)
            assert found
            await reader.readexactly(int(found[1]))
        writer.close()
        await writer.wait_closed()

    await asyncio.wait_for(asyncio.gather(*(client() for _ in range(CONNECTIONS))), 2 * START_SECONDS)


# --- tests -------------------------------------------------------------


def test_every_answer_waits_for_a_sync_of_its_own(watch: Watch) -> None:
    calls = watch(one_after_the_other)
    exchanges, commits = read_exchanges(calls), read_commits(calls)
    assert len(exchanges) == 2 * SEQUENTIAL
    assert too_early(exchanges, commits) == []
    first, last = exchanges[0].request.ended, exchanges[-1].answer.began
    syncs = sum(first < call.began and call.ended < last for call in calls if call.name == "fdatasync")
    print(f"{len(exchanges)} requests one after the other, {syncs} syncs")
    assert syncs >= len(exchanges)


def test_requests_at_the_same_time_share_a_sync(watch: Watch) -> None:
    calls = watch(many_at_once, "-e", f"inject=fdatasync:delay_enter={SLOW_SYNC_US}")
    exchanges, commits = read_exchanges(calls), read_commits(calls)
    assert len(exchanges) == CONNECTIONS * PER_CONNECTION
    assert too_early(exchanges, commits) == []
    first, last = exchanges[0].request.ended, exchanges[-1].answer.began
    syncs = sum(first < call.began and call.ended < last for call in calls if call.name == "fdatasync")
    print(f"{len(exchanges)} requests on {CONNECTIONS} connections, {syncs} syncs: {len(exchanges) / syncs:.1f} each")
    assert len(exchanges) / CONNECTIONS <= syncs <= len(exchanges) / 4


def test_a_disk_that_stalls_holds_up_nobody_who_needs_no_disk(
    start: Callable[..., Server], strace: tuple[str, ...], tmp_path: Path
) -> None:
    """From the first commit on. What waits is bounded; when the disk is quick again all of it is done, and is there."""
    stall = f"inject=fdatasync:delay_enter={STALLING_SYNC_US}:when=1..{STALLS}"
    wrapper = (*strace, str(tmp_path / "log"), "-e", stall)
    server = start("--max-waiting-commands", str(MAX_WAITING), wrapper=wrapper)
    assert server.request("POST", "/queues", {"name": "q"}).status == 201
    assert server.request("POST", "/queues/q/messages", {"content": "first"}).status == 201
    before = memory_bytes(server)
    is_over = threading.Event()
    took_s: list[float] = []
    with ThreadPoolExecutor(1) as aside:
        sending = aside.submit(lambda: asyncio.run(send_on(server.port, is_over)))
        try:
            while len(took_s) < LOOKS:
                for path in ("/healthz", "/status", "/queues/q/peek", "/queues"):
                    began_s = time.perf_counter()
                    assert server.request("GET", path).status == 200
                    took_s.append(time.perf_counter() - began_s)
                time.sleep(STALLING_SYNC_US / 1_000_000 / 5)  # so that the looks spread over several commits
            grown = memory_bytes(server) - before
        finally:
            is_over.set()
        stored, refused, slowest_s = sending.result(120)
    took_s.sort()
    p50_s, p90_s, most_s = took_s[LOOKS // 2], took_s[LOOKS * 9 // 10], took_s[-1]
    print(f"while commits stall, looks took {p50_s * 1000:.1f} ms, p90 {p90_s * 1000:.1f}, most {most_s * 1000:.1f}")
    print(f"{len(stored)} sends of {SENDERS} clients were stored in {slowest_s:.1f} s at the most, {refused} refused")
    print(f"the server has grown by {grown >> 10} KiB")
    assert p90_s < 0.05  # some may have met another process that wanted the processor
    assert most_s < STALLING_SYNC_US / 1_000_000 / 2  # but none has waited for the disk
    assert refused > SENDERS - 2 * MAX_WAITING
    assert slowest_s < 4 * STALLING_SYNC_US / 1_000_000  # the group on its way and the one behind it, and as much again
    assert grown < 16 << 20
    wait_until(lambda: quick_commit(server), 30)
    received = server.request("GET", "/queues/q/messages?max=1000").json["messages"]
    assert [message["id"] for message in received[1:]] == sorted(stored)


def quick_commit(server: Server) -> bool:
    began_s = time.monotonic()
    assert server.request("GET", "/readyz").status == 200
    return time.monotonic() - began_s < STALLING_SYNC_US / 1_000_000 / 2


async def send_on(port: int, is_over: threading.Event) -> tuple[list[int], int, float]:
    """Many clients, each with one send after the other: the ids of what was stored, how many were told to come later,
    and the longest time to an answer."""
    stored: list[int] = []
    refused, slowest_s = 0, 0.0

    async def client() -> None:
        nonlocal refused, slowest_s
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while not is_over.is_set():
            began_s = time.monotonic()
            writer.write(SEND)
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"Content-Length: (\d+)", head)
            assert found
            body = await reader.readexactly(int(found[1]))
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            if head.startswith(b"HTTP/1.1 201 "):
                stored.append(msgspec.json.decode(body)["id"])
            else:
                assert head.startswith(b"HTTP/1.1 503 "), head
                assert b"\r\nRetry-After: 1\r\n" in head
                assert msgspec.json.decode(body)["code"] == "overloaded"
                refused += 1
                await asyncio.sleep(0.1)
        writer.close()
        await writer.wait_closed()

    await asyncio.gather(*(client() for _ in range(SENDERS)))
    return stored, refused, slowest_s


def test_a_log_in_which_an_answer_is_early_is_found_out() -> None:
    lines = [
        '1 openat(AT_FDCWD, "/d/data.mdb", O_WRONLY|O_DSYNC) = 9',
        '1 recvfrom(11, "POST /queues/q/messages HTTP/1.1"..., 65536, 0, NULL, NULL) = 120',
        "2 fdatasync(8 <unfinished ...>",
        "1 recvfrom(4,  <unfinished ...>",
        "2 <... fdatasync resumed>) = 0",
        '2 pwrite64(9, "", 120, 32) = 120',
        '1 <... recvfrom resumed>"", 4096, 0, NULL, NULL) = 1',
        '1 sendto(11, "HTTP/1.1 201 Created"..., 196, 0, NULL, 0) = 196',
        "1 +++ exited with 0 +++",
    ]

    def judge(*order: int) -> int:
        calls = read_calls("\n".join(lines[number] for number in order))
        return len(too_early(read_exchanges(calls), read_commits(calls)))

    assert judge(0, 1, 2, 3, 4, 5, 6, 7, 8) == 0
    assert judge(0, 1, 2, 4, 7, 5) == 1  # before the meta page
    assert judge(0, 1, 7, 2, 4, 5) == 1  # before the sync
    assert judge(0, 2, 1, 4, 5, 7) == 1  # the sync is of what was there before the request
    assert judge(0, 1, 7) == 1  # no sync at all
