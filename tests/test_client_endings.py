"""How consuming ends, and what it survives: stops, signals, cancellation, forgetting, cuts, crashes of the server."""

from __future__ import annotations

import asyncio
import gc
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests import guarded
from tests.both import Awaited, Blocking
from tests.guarded import Guarded
from tests.harness import ROOT, Server, settle, sound_server, wait_until
from tests.proxy import Plan, Proxy
from tests.scraped import Scraped
from tq.client import AsyncClient, Client, OutcomeUnknown, tasks, threads
from tq.client.calls import Call
from tq.client.leases import Leases
from tq.client.retrying import Tries
from tq.errors import Unauthenticated

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("endings") / "data") as running:
        yield running


@pytest.fixture(params=[Blocking, Awaited])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(kind: Any, server: Server) -> Iterator[Any]:
    made = kind(server.url)
    yield made
    made.close()


@pytest.fixture
def other(server: Server) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


@pytest.fixture
def queue(other: Client) -> str:
    name = f"q{next(NUMBERS)}"
    other.create_queue(name)
    return name


def state(other: Client, queue: str) -> tuple[int, int, int]:
    """Ready, in flight, acknowledged."""
    shown = other.queue(queue)
    return shown.messages.ready, shown.messages.in_flight, shown.totals.acked


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


# --- stops -------------------------------------------------------------------------


@pytest.mark.parametrize("delay_ms", [0, 2, 20])
def test_leaving_ends_a_long_poll_at_once_and_nothing_stays_leased(
    client: Any, server: Server, other: Client, queue: str, delay_ms: int
) -> None:
    """Also when a message comes at that very moment."""
    began_s = time.monotonic()
    for sent in [0, 1] * 5:

        def end(messages: Any, sent: int = sent) -> None:
            other.send_many(queue, range(sent))
            messages.stop() if isinstance(client, Blocking) else client.loop.call_soon_threadsafe(messages.stop)

        handled = _count_until_stopped(client, queue, delay_ms / 1000, end)
        settle(server)  # it may be just putting back what it could not hand over
        ready, in_flight, _ = state(other, queue)
        assert (ready + handled, in_flight) == (sent, 0)
        other.purge(queue)
    assert time.monotonic() - began_s < 15  # and not the 60 s of a poll


def _count_until_stopped(client: Any, queue: str, delay_s: float, end: Callable[[Any], None]) -> int:
    handled = 0
    if isinstance(client, Blocking):
        with client.consume(queue, wait=60) as messages:
            timer = threading.Timer(delay_s, end, [messages])
            timer.start()
            for _ in messages:
                handled += 1
            timer.join()
        return handled

    async def consume() -> int:
        count = 0
        async with client.client.consume(queue, wait=60) as messages:
            timer = threading.Timer(delay_s, end, [messages])
            timer.start()
            async for _ in messages:
                count += 1
            timer.join()
        return count

    return client.loop.run_until_complete(consume())


def test_a_long_poll_ends_at_once_also_after_the_server_has_refused_one(
    kind: Any, start: Callable[..., Server]
) -> None:
    """The connection on which it was refused is as good as before, but whoever ends a poll must know its socket."""
    server = start("--max-waiters", "1")
    client, other = kind(server.url), Client(server.url)
    other.create_queue("q")
    other.create_queue("busy")
    began_s = 0.0

    def let_it_in() -> None:
        wait_until(lambda: Scraped(server).has("tq_http_requests_total", code="overloaded"))
        other.send("busy", 0)
        other.send("q", 1)

    def body(message: Any, messages: Any) -> Any:
        nonlocal began_s
        yield lambda: Scraped(server)("tq_receives_waiting") == 1
        began_s = time.monotonic()
        messages.stop()

    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(other.receive, "busy", wait=20)
        wait_until(lambda: Scraped(server)("tq_receives_waiting") == 1)
        let_in = pool.submit(let_it_in)
        client.handle("q", body, wait=60)
        assert time.monotonic() - began_s < 5  # and not the 10 s for which one that hangs is waited for
        let_in.result()
        assert waiting.result()
    assert state(other, "q") == (0, 0, 1)
    client.close()
    other.close()


SCRIPT = """
import signal, sys, tq
client = tq.Client(sys.argv[1])
messages = client.consume(sys.argv[2], wait=60)
how = sys.argv[3]
if how == "stop":
    signal.signal(signal.SIGTERM, lambda *_: messages.stop())
if how in ("exit", "uncaught"):
    for message in messages:
        if how == "exit":
            sys.exit(3)
        raise ValueError
with messages:
    for message in messages:
        print(message.content, flush=True)
        if how == "busy":
            while True:
                pass
"""


@pytest.fixture
def run() -> Iterator[Callable[[Server, str, str], subprocess.Popen[bytes]]]:
    """Starts programs that consume; none outlives the test."""
    running: list[subprocess.Popen[bytes]] = []

    def start_program(server: Server, queue: str, how: str) -> subprocess.Popen[bytes]:
        running.append(_program(server, queue, how))
        return running[-1]

    yield start_program
    for process in running:
        process.kill()
        process.communicate()


def _program(server: Server, queue: str, how: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, server.url, queue, how],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize(
    ("how", "sent", "exit_code", "left"),
    [
        ("stop", signal.SIGTERM, 0, (0, 0, 2)),
        ("idle", signal.SIGINT, -signal.SIGINT, (0, 0, 2)),
        ("busy", signal.SIGINT, -signal.SIGINT, (2, 0, 0)),
    ],
)
def test_a_signal_ends_it_and_gives_all_back(
    server: Server,
    other: Client,
    queue: str,
    run: Any,
    how: str,
    sent: int,
    exit_code: int,
    left: tuple[int, int, int],
) -> None:
    """Also while it waits for a message. What is in hand is given back when it is interrupted."""
    other.send_batch(queue, ["first", "second"])
    process = run(server, queue, how)
    assert process.stdout
    assert process.stdout.readline() == b"first\n"
    if how != "busy":
        assert process.stdout.readline() == b"second\n"
        wait_until(lambda: state(other, queue) == (0, 0, 2))
    process.send_signal(sent)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == exit_code, errors
    assert state(other, queue) == left


@pytest.mark.parametrize(("how", "exit_code"), [("exit", 3), ("uncaught", 1)])
def test_the_end_of_the_program_gives_all_back(
    server: Server, other: Client, queue: str, run: Any, how: str, exit_code: int
) -> None:
    other.send_batch(queue, range(5))
    process = run(server, queue, how)
    process.communicate(timeout=20)
    assert process.returncode == exit_code
    assert state(other, queue) == (5, 0, 0)


def test_a_consumer_that_is_killed_loses_nothing(server: Server, other: Client, queue: str, run: Any) -> None:
    """Its leases end by themselves."""
    other.send_batch(queue, range(3))
    process = run(server, queue, "busy")
    assert process.stdout
    assert process.stdout.readline() == b"0\n"
    process.kill()
    process.communicate()
    assert state(other, queue)[2] == 0
    assert sum(state(other, queue)) == 3


def test_a_loop_that_is_forgotten_gives_all_back(other: Client, queue: str) -> None:
    other.send_batch(queue, range(5))
    for message in other.consume(queue):
        assert message.content == 0
        break
    gc.collect()
    wait_until(lambda: state(other, queue) == (5, 0, 0))


def test_a_loop_of_asyncio_that_is_forgotten_gives_all_back(server: Server, other: Client, queue: str) -> None:
    other.send_batch(queue, range(5))

    async def consume() -> None:
        async with AsyncClient(server.url) as client:
            async for message in client.consume(queue):
                assert message.content == 0
                break
            gc.collect()
            while state(other, queue) != (5, 0, 0):
                await asyncio.sleep(0.01)

    asyncio.run(asyncio.wait_for(consume(), 20))


def test_cancellation_gives_all_back(server: Server, other: Client, queue: str) -> None:
    """While a message is handled, while one is waited for, and while it is being left."""
    other.send_batch(queue, range(5))

    async def consume(client: AsyncClient, seen: asyncio.Event, is_busy: bool) -> None:
        async with client.consume(queue) as messages:
            async for _ in messages:
                seen.set()
                if is_busy:
                    await asyncio.sleep(600)

    async def cancel() -> None:
        async with AsyncClient(server.url) as client:
            for is_busy, left in [(True, (5, 0, 0)), (False, (0, 0, 5))]:
                seen = asyncio.Event()
                task = asyncio.create_task(consume(client, seen, is_busy))
                await seen.wait()
                while not is_busy and state(other, queue)[2] < 5:
                    await asyncio.sleep(0.01)
                task.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await task
                assert state(other, queue) == left

    asyncio.run(asyncio.wait_for(cancel(), 20))


# --- what it survives -------------------------------------------------------------------------


def test_it_goes_on_when_the_server_was_killed_and_is_back(
    kind: Any, start: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    server = start("--port", str(port))
    client, other = kind(server.url), Client(server.url)
    other.create_queue("q")
    other.send_batch("q", range(30))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        nonlocal server
        seen.append(message.content)
        if len(seen) == 5:
            server.kill()
            server = start("--port", str(port))
        if len(set(seen)) == 30:
            messages.stop()
        yield lambda: True

    client.handle("q", body)
    assert sorted(set(seen)) == list(range(30))
    assert len(seen) <= 31  # what was in hand may come again, nothing else
    assert state(other, "q") == (0, 0, 30)
    client.close()
    other.close()


def test_it_goes_on_when_connections_are_cut(kind: Any, server: Server, other: Client, queue: str) -> None:
    """Any request or answer of its, anywhere: each message is handled once all the same."""
    cuts = itertools.cycle([Plan(answer_bytes=0), Plan(), Plan(request_bytes=100), Plan(answer_bytes=150), Plan()])
    other.send_batch(queue, range(120))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        if len(seen) == 120:
            messages.stop()
        yield lambda: True

    with Proxy(server.port, lambda: next(cuts)) as proxy:
        client = kind(f"http://127.0.0.1:{proxy.port}")
        client.client._place._headers.append((b"Connection", b"close"))
        client.handle(queue, body)
        client.close()
    assert seen == list(range(120))
    assert state(other, queue) == (0, 0, 120)


def test_what_cannot_be_told_at_the_end_is_raised(kind: Any, start: Callable[..., Server]) -> None:
    server = start()
    client = kind(server.url, retry_seconds=0.5)
    client.create_queue("q")
    client.send("q", 1)

    def body(message: Any, messages: Any) -> Any:
        server.kill()
        messages.stop()
        yield lambda: True

    with pytest.raises(OutcomeUnknown, match="may be received again: 1"):
        client.handle("q", body)
    client.close()


def test_a_token_that_is_revoked_ends_the_loop(kind: Any, start: Callable[..., Server], tmp_path: Path) -> None:
    guard = Guarded(start, tmp_path)
    client = kind(guard.server.url, token=guard.shop)
    client.send("orders", 1)

    def body(message: Any, messages: Any) -> Any:
        guarded.tq(guard.file, "revoke", "shop")
        guard.server.process.send_signal(signal.SIGHUP)
        yield lambda: guard.ask("GET", "/queues/orders", guard.shop).status_code == 401

    with pytest.raises(Unauthenticated):
        client.handle("orders", body)
    client.close()


def test_more_leases_than_are_allowed_are_waited_for(kind: Any, other: Client, server: Server, queue: str) -> None:
    other.update_queue(queue, max_in_flight=2)
    other.send_batch(queue, range(6))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        if len(seen) == 6:
            messages.stop()
        yield lambda: True

    client = kind(server.url)
    client.handle(queue, body)
    client.close()
    assert seen == list(range(6))


# --- pauses -----------------------------------------------------------------


def long_pause() -> Tries:
    tries = Tries(Call("POST", "/"), 100, 10)
    tries.pause_s = 60  # as a server may want it
    return tries


def test_a_thread_that_pauses_is_not_waited_for_longer_than_is_tried() -> None:
    leases = Leases("q", 30, 10, 20, 0.2)
    consuming = threads.Threads(Client(), leases)
    timer = threading.Timer(0.1, leases.give_all_back)
    timer.start()
    began_s = time.monotonic()
    with pytest.raises(threads.Stopped):
        consuming._pause_round(long_pause())
    assert time.monotonic() - began_s < 10
    timer.join()


def test_a_task_that_pauses_is_not_waited_for_longer_than_is_tried() -> None:
    async def pause() -> None:
        leases = Leases("q", 30, 10, 20, 0.2)
        client = AsyncClient()
        asyncio.get_running_loop().call_later(0.1, leases.give_all_back)
        with pytest.raises(tasks.Stopped):
            await tasks.Tasks(client, leases)._pause_round(long_pause())

    asyncio.run(asyncio.wait_for(pause(), 10))
