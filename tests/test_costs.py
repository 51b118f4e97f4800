"""What things cost that should cost little: bytes written for a large message, and ten thousand clients that wait."""

from __future__ import annotations

import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.harness import Server, cpu_seconds, memory_bytes, settle, wait_until

MIB = 1024 * 1024
REPEATS = 5

WAITERS = 10_000
QUEUES = 100
ROUNDS = WAITERS // QUEUES
SPARE_FILES = 200  # that client and server have open besides
IDLE_SECONDS = 3.0


# --- bytes written -------------------------------------------------------------


def written_bytes(server: Server) -> int:
    """What the server has handed to `write` and its like so far, to files and to sockets."""
    path = Path(f"/proc/{server.process.pid}/io")
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        pytest.skip(f"the kernel does not tell what a process writes: {error}")
    return next(int(line.split()[1]) for line in lines if line.startswith("wchar:"))


def life_bytes(server: Server, content: bytes) -> tuple[int, int, int]:
    """What the send, the lease and the ack of one message write, beside the answer of the lease."""
    messages = "/queues/q/messages"
    marks = [written_bytes(server)]
    assert server.request("POST", messages, content, {"Content-Type": "image/png"}).status == 201
    marks.append(written_bytes(server))
    leased = server.request("GET", f"{messages}?visibility_timeout=60")
    assert leased.body == content
    marks.append(written_bytes(server))
    assert server.request("DELETE", f"{messages}/{leased.headers['Tq-Receipt']}").status == 204
    marks.append(written_bytes(server))
    send, lease, ack = (after - before for before, after in pairwise(marks))
    return send, lease - len(leased.body), ack


def test_a_lease_and_an_ack_write_nothing_of_the_body(server: Server) -> None:
    """The least of some repeats counts, because the time is stored now and then."""
    server.request("POST", "/queues", {"name": "q"})
    small, large = (
        [min(steps) for steps in zip(*(life_bytes(server, b"x" * size) for _ in range(REPEATS)), strict=True)]
        for size in (1, MIB)
    )
    print(f"bytes written by send, lease and ack: {small} for 1 byte of content, {large} for {MIB:,}")
    assert large[0] > MIB  # what is counted is what is written
    assert small[1] > 0
    assert large[1] <= small[1] + 16_384
    assert large[2] <= small[2] + 65_536  # beside what a small one costs: the index of its pages, and a list of them


# --- many who wait -------------------------------------------------------------


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets this process and those it starts open a file for each waiter. Skips where that is not allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WAITERS + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard:,} files open here, and this needs {wanted:,}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Crowd:
    """Connections that wait, the oldest of each queue first."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._poll = select.poll()
        self._by_file: dict[int, tuple[int, int]] = {}
        self.sockets: dict[tuple[int, int], socket.socket] = {}
        self.answers: dict[tuple[int, int], bytes] = {}

    def wait(self, queue: int, place: int) -> None:
        one = socket.create_connection(("127.0.0.1", self._server.port), timeout=30)
        self.sockets[queue, place] = one
        self._by_file[one.fileno()] = queue, place
        self._poll.register(one, select.POLLIN)
        one.sendall(b"GET /queues/q%d/messages?wait=60 HTTP/1.1\r\nHost: x\r\n\r\n" % queue)

    def listen(self) -> None:
        """Read what has come."""
        for file, _ in self._poll.poll(0):
            who = self._by_file[file]
            assert who not in self.answers
            self.answers[who] = self.sockets[who].recv(4096)

    def close(self) -> None:
        for one in self.sockets.values():
            one.close()


@pytest.mark.slow
@pytest.mark.usefixtures("many_files")
def test_ten_thousand_wait(start: Callable[..., Server]) -> None:
    server = start()
    for queue in range(QUEUES):
        assert server.request("POST", "/queues", {"name": f"q{queue}"}).status == 201
    settle(server)
    before_bytes = memory_bytes(server)
    crowd = Crowd(server)
    try:
        began = time.monotonic()
        for place in range(ROUNDS):
            for queue in range(QUEUES):
                crowd.wait(queue, place)
            settle(server)
        print(f"{WAITERS:,} came in {time.monotonic() - began:.1f} s")
        print(f"{(memory_bytes(server) - before_bytes) / WAITERS:,.0f} bytes of memory each")
        assert_idle(server)
        woken = range(0, QUEUES, 2)
        latencies_ms = sorted(deliver(server, crowd, queue) for queue in woken)
        settle(server)
        crowd.listen()
        assert crowd.answers.keys() == {(queue, place) for queue in woken for place in range(3)}
        print(f"woken within {latencies_ms[len(latencies_ms) // 2]:.1f} ms, the slowest within {latencies_ms[-1]:.1f}")
        assert latencies_ms[-1] < 5_000
    finally:
        crowd.close()


def assert_idle(server: Server) -> None:
    before = cpu_seconds(server)
    time.sleep(IDLE_SECONDS)
    used = (cpu_seconds(server) - before) / IDLE_SECONDS
    print(f"{used:.1%} of a core while nothing happens")
    assert used < 0.2


def deliver(server: Server, crowd: Crowd, queue: int) -> float:
    """Send three messages, which the three oldest must get in their order; how long that took, in milliseconds."""
    began = time.monotonic()
    contents = [{"content": f"{queue}-{place}"} for place in range(3)]
    assert server.request("POST", f"/queues/q{queue}/messages", contents).status == 201

    def is_there() -> bool:
        crowd.listen()
        return all((queue, place) in crowd.answers for place in range(3))

    wait_until(is_there, 30)
    took_ms = (time.monotonic() - began) * 1000
    for place in range(3):
        answer = crowd.answers[queue, place]
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b'"content":"%d-%d"' % (queue, place) in answer
    return took_ms
