"""Clients that are slow on purpose, by the thousand, and one beside them that is not."""

from __future__ import annotations

import resource
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress

import pytest

from tests.harness import Server, cpu_seconds, memory_bytes, p99_s, settle
from tests.wire import ask

CLIENTS = 2_000
SECONDS = 5.0
MIB = 1 << 20
PATH = "/queues/q/messages"
ONE = b'{"content":1}'
READER_BUFFER = 4_096

# What each says at first, and then again and again; the memory that all of them may take, which is 64 KiB for each and
# what `max_transit_bytes` says, or much less.
KINDS = {
    "header": (b"GET /status HTTP/1.1\r\nHost: tq\r\nX: ", b"a", 64 * MIB),
    "body": (ask("POST", PATH, b"x" * (15 * MIB))[: 128 * 1024], b"x" * 1_000, (128 + 256 + 64) * MIB),
    "reader": (ask("GET", "/queues/large/peek?limit=1"), b"", (128 + 256 + 64) * MIB),
}


@pytest.fixture
def files() -> Iterator[None]:
    """Room for them in this process and those that it starts."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CLIENTS + 1_000
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"a process may have {hard:,} files open here, and this needs {wanted:,}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.slow
@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("kind", KINDS)
def test_slow_clients_hold_up_nobody_and_take_bounded_memory(start: Callable[..., Server], kind: str) -> None:
    opening, more, most_bytes = KINDS[kind]
    server = start()
    for name in ("q", "large"):
        server.request("POST", "/queues", {"name": name})
    server.request("POST", "/queues/large/messages", {"content": "x" * 900_000})
    before_s = p99_s(server, SECONDS / 2, "POST", PATH, ONE)
    memory, cpu_s = memory_bytes(server), cpu_seconds(server)
    is_over = threading.Event()
    with ExitStack() as stack:
        clients = [stack.enter_context(socket.socket()) for _ in range(CLIENTS)]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, READER_BUFFER)
            client.connect(("127.0.0.1", server.port))
            client.setblocking(False)
            with suppress(BlockingIOError):
                client.send(opening)
        settle(server)  # what they have asked for at first is done
        trickling = threading.Thread(target=trickle, args=(clients, more, is_over))
        trickling.start()
        try:
            meanwhile_s = p99_s(server, SECONDS, "POST", PATH, ONE)
            grown = memory_bytes(server) - memory
        finally:
            is_over.set()
            trickling.join()
    print(f"{CLIENTS:,} clients with a slow {kind}: the server has grown by {grown / MIB:.0f} MiB")
    print(f"it took {cpu_seconds(server) - cpu_s:.1f} s of the processor; the p99 of sends")
    print(f"of one who is not slow was {before_s * 1000:.1f} ms before and {meanwhile_s * 1000:.1f} meanwhile")
    assert grown < most_bytes
    assert meanwhile_s < 10 * before_s + 0.1
    assert server.request("GET", "/readyz").status == 200


def trickle(clients: list[socket.socket], more: bytes, is_over: threading.Event) -> None:
    """A little from each, or for each, a second."""
    while not is_over.wait(1):
        for client in clients:
            with suppress(OSError):  # given up, or it takes no more
                client.send(more) if more else client.recv(16)
