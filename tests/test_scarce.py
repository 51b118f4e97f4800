"""Scarce resources: descriptors, memory for what is on its way, connections of one address, room for those who wait."""

from __future__ import annotations

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from tests.api import Api, create, put, received, shown
from tests.harness import Reply, Server, cpu_seconds, memory_bytes, settle, wait_until
from tests.wire import Wire, ask
from tq import codec, model
from tq.broker import Broker
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web.server import Application
from tq.web.sqs import TARGET

MIB = 1 << 20
TRANSIT = 16 * MIB  # what the servers here may hold of what is on its way
SLACK = 32 * MIB  # that a server takes besides: one answer and its copies, a group of commands, what malloc keeps
PATH = "/queues/q/messages"
ONE = b'{"content":1}'


def body_of(size: int) -> bytes:
    return b'{"content":"%b"}' % (b"x" * size)


def assert_overloaded(reply: Reply) -> None:
    assert (reply.status, reply.json["code"], reply.headers["Retry-After"]) == (503, "overloaded", "1")


@pytest.fixture
def small(start: Callable[..., Server]) -> Server:
    """A server that holds little, and has a queue."""
    server = start("--max-transit-bytes", str(TRANSIT))
    server.request("POST", "/queues", {"name": "q"})
    return server


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


# --- descriptors -------------------------------------------------------------


@pytest.mark.parametrize("files", [64, 40])
def test_200_clients_and_few_descriptors(start: Callable[..., Server], stack: ExitStack, files: int) -> None:
    """Some are refused with a sentence; where there is no descriptor even for that, they are closed or wait."""
    server = start(wrapper=("prlimit", f"--nofile={files}:{files}"))
    first = stack.enter_context(Wire(server.port))
    first.send(ask("POST", "/queues", b'{"name":"q"}'))
    assert first.expect().status == 201
    others = [stack.enter_context(Wire(server.port)) for _ in range(200)]
    wait_until(lambda: has_answer(others[0]))
    busy_s, began_s = cpu_seconds(server), time.monotonic()
    for number in range(1, 51):  # the storage commits meanwhile
        first.send(ask("POST", PATH, ONE))
        assert first.expect().json == {"id": number}
    wait_until(lambda: time.monotonic() - began_s > 1)
    busy_s = cpu_seconds(server) - busy_s
    print(f"{busy_s:.2f} s of the processor in {time.monotonic() - began_s:.2f} s")
    assert busy_s < 0.5
    for wire in (first, *others):
        wire.socket.close()
    wait_until(lambda: can_serve(server))
    assert server.request("GET", PATH).json["id"] == 1


def can_serve(server: Server) -> bool:
    with suppress(OSError):
        return server.request("GET", "/readyz").status == 200
    return False


# --- memory -------------------------------------------------------------


def test_bodies_that_do_not_come_to_their_end_take_bounded_memory(small: Server, stack: ExitStack) -> None:
    before = memory_bytes(small)
    refused: list[Wire] = []
    for _ in range(120):
        wire = stack.enter_context(Wire(small.port))
        wire.send(ask("POST", PATH, body_of(8 * MIB))[: 512 * 1024])
        refused.append(wire)
    assert small.request("POST", PATH, {"content": "x" * MIB * 4}, {}).status == 413  # of the queue, which has read it
    for number in range(1, 6):  # who is quick gets through
        assert small.request("POST", PATH, {"content": "x" * 900_000}).json == {"id": number}
    grown = memory_bytes(small) - before
    print(f"120 clients that sent 60 MiB in part: the server has grown by {grown / MIB:.0f} MiB")
    assert grown < TRANSIT + SLACK
    answered = [wire for wire in refused if has_answer(wire)]
    assert len(answered) >= 120 - 2 * TRANSIT // (512 * 1024)
    for wire in answered:
        assert_overloaded(wire.expect())
    assert small.request("GET", "/queues/q").json["totals"]["sent"] == 5


def has_answer(wire: Wire) -> bool:
    """Something to read, or the end."""
    return bool(select.select([wire.socket], [], [], 0)[0])


def test_one_who_is_alone_is_never_too_much(start: Callable[..., Server]) -> None:
    server = start("--max-transit-bytes", str(MIB))
    server.request("POST", "/queues", {"name": "q", "max_message_bytes": 16 * MIB})
    with Wire(server.port) as wire:
        wire.send(ask("POST", PATH, body_of(8 * MIB)))
        assert wire.expect().status == 201
        wire.send(ask("GET", PATH))
        assert len(wire.expect().body) > 8 * MIB


def test_answers_that_nobody_takes_take_bounded_memory(small: Server, stack: ExitStack) -> None:
    small.request("POST", PATH, [{"content": "x" * 900_000} for _ in range(5)])
    before = memory_bytes(small)
    wires = [stack.enter_context(slow_reader(small, "/queues/q/peek?limit=5")) for _ in range(40)]
    for wire in wires:
        wait_until(lambda wire=wire: has_answer(wire))
    with Wire(small.port) as quick:
        for _ in range(5):
            quick.send(ask("GET", "/queues/q/peek?limit=5"))
            assert len(quick.expect().json["messages"]) == 5
    grown = memory_bytes(small) - before
    print(f"40 clients that do not take 4.5 MB each: the server has grown by {grown / MIB:.0f} MiB")
    assert grown < TRANSIT + SLACK
    assert sum(map(is_reset, wires)) >= 30


def slow_reader(server: Server, path: str) -> Wire:
    wire = Wire(server.port)
    wire.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    wire.send(ask("GET", path))
    return wire


def is_reset(wire: Wire) -> bool:
    poll = select.poll()
    poll.register(wire.socket, 0)  # which still tells of errors
    return bool(poll.poll(0))


def test_bodies_behind_long_polls_take_bounded_memory(small: Server, stack: ExitStack) -> None:
    """Those who give way have received nothing, and what they held is free at once."""
    before = memory_bytes(small)
    request = ask("GET", f"{PATH}?wait=60") + ask("POST", "/queues/none/messages", body_of(MIB))
    wires = [stack.enter_context(Wire(small.port)) for _ in range(80)]
    for wire in wires:
        wire.send(request)
    settle(small)
    grown = memory_bytes(small) - before
    gone = sum(map(is_reset, wires))
    print(f"80 clients with a MiB each behind a long poll: {gone} were cut off, grown by {grown / MIB:.0f} MiB")
    assert grown < TRANSIT + SLACK
    for wire in wires:
        wire.socket.close()
    settle(small)
    small.request("POST", PATH, {"content": 1})
    assert small.request("GET", f"{PATH}?wait=5").json["receive_count"] == 1


@pytest.mark.gen_test
async def test_receives_of_one_turn_share_what_a_group_may_hand_out(
    api: Api, app: Application, memory: MemoryStore
) -> None:
    await create(api, "a")
    for _ in range(12):
        command = model.Send("a", tuple(model.Draft(b'"%b"' % (b"x" * MIB)) for _ in range(4)))
        await app.broker.call(model.PatchQueue("a", model.SettingsChange(max_message_bytes=2 * MIB)))
        await app.broker.call(command)
    sizes: list[int] = []
    commit = memory.commit

    def watched(commands: Any, now_ms: int) -> list[Any]:
        results = commit(commands, now_ms)
        handed = [m.size for result in results if isinstance(result, model.Received) for m in result.messages]
        sizes.append(sum(handed))
        return results

    memory.commit = watched  # type: ignore[method-assign]
    all_received = await asyncio.gather(*(app.broker.call(model.Receive(("a",), 10)) for _ in range(12)))
    assert [m.id for one in all_received for m in one.messages] == list(range(1, 49))
    assert max(sizes) <= (model.MAX_GROUP_PAGES + 1) * model.MAX_PAGE_BYTES
    assert sum(size > 0 for size in sizes) == 2


@pytest.mark.gen_test
@pytest.mark.parametrize("query", ["", "?visibility_timeout=30"])
async def test_what_cannot_be_put_into_an_answer_goes_back(
    api: Api, app: Application, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await create(api, "a")
    await put(api, "a", 1)
    with monkeypatch.context() as broken:
        broken.setattr("tq.web.formats.json_message", raise_memory_error)
        assert (await api("GET", f"/queues/a/messages{query}")).code == 500
    assert shown(await api("GET", "/queues/a/messages?wait=3")) == received(1, 1)


@pytest.mark.gen_test
async def test_a_command_without_memory_fails_alone_and_leaves_nothing(
    api: Api, app: Application, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third message of a batch has no room any more. Others in the same group are not touched."""
    await create(api, "a")
    pack, packed = codec.pack_new, []

    def pack_some(sent_at_ms: int, ahead_ms: int, body: bytes, *more: Any) -> bytes:
        if b"large" in body:
            packed.append(body)
            if len(packed) % 3 == 0:
                raise MemoryError
        return pack(sent_at_ms, ahead_ms, body, *more)

    with monkeypatch.context() as broken:
        broken.setattr("tq.codec.pack_new", pack_some)
        batch = [{"content": "large"}] * 5
        replies = await asyncio.gather(
            *(api("POST", "/queues/a/messages", body) for body in ({"content": 1}, batch, {"content": 2}))
        )
    assert [reply.code for reply in replies] == [201, 500, 201]
    assert [shown(await api("GET", "/queues/a/messages"))["content"] for _ in range(2)] == [1, 2]
    assert (await api("GET", "/queues/a/messages")).code == 204


def raise_memory_error(*_: Any) -> bytes:
    raise MemoryError


# --- numbers -------------------------------------------------------------


def test_one_address_cannot_take_all_connections(start: Callable[..., Server], stack: ExitStack) -> None:
    server = start("--max-connections-per-address", "3")
    wires = [stack.enter_context(Wire(server.port)) for _ in range(3)]
    wires[0].send(ask("GET", "/healthz"))
    assert wires[0].expect().status == 200
    with Wire(server.port) as refused:
        reply = refused.expect()
        assert_overloaded(reply)
        assert "from this address" in reply.json["detail"]
        assert refused.reply() is None
    with socket.create_connection(("127.0.0.1", server.port), 10, ("127.0.0.2", 0)) as elsewhere:
        elsewhere.sendall(ask("GET", "/healthz"))
        assert elsewhere.recv(1_000).startswith(b"HTTP/1.1 200")
    wires[2].socket.close()
    wait_until(lambda: server.request("GET", "/healthz").status == 200)


@pytest.mark.parametrize(
    ("files", "bounds"), [(104, (40, 30, 30)), (40, (1, 1, 1)), (1 << 20, (20_000, 15_000, 15_000))]
)
def test_few_files_bound_more_than_connections(files: int, bounds: tuple[int, int, int]) -> None:
    """Else one address could have all of them, and those who wait for a message too."""
    found = Settings().within_files(files)
    assert (found.max_connections, found.max_connections_per_address, found.max_waiters) == bounds


def test_one_address_cannot_take_all_connections_where_they_are_few(
    start: Callable[..., Server], stack: ExitStack
) -> None:
    server = start(wrapper=("prlimit", "--nofile=72:72"))
    for _ in range(6):
        stack.enter_context(Wire(server.port))
    with Wire(server.port) as refused:
        assert "from this address" in refused.expect().json["detail"]


def test_one_too_many_who_waits(start: Callable[..., Server], stack: ExitStack) -> None:
    server = start("--max-waiters", "2")
    server.request("POST", "/queues", {"name": "q"})
    wait = ask("GET", f"{PATH}?wait=60")
    wires = [stack.enter_context(Wire(server.port)) for _ in range(3)]
    for wire in wires[:2]:
        wire.send(wait)
        server.request("GET", "/readyz")
    wires[2].send(wait)
    assert_overloaded(wires[2].expect())
    sqs = b'{"QueueUrl": "http://x/000000000000/q", "WaitTimeSeconds": 20}'
    types = {"X-Amz-Target": f"{TARGET}ReceiveMessage", "Content-Type": "application/x-amz-json-1.0"}
    assert server.request("POST", "/", sqs, types).status == 503
    assert server.request("GET", PATH).status == 204  # this one does not wait
    wires[0].socket.close()  # one that leaves makes room
    wait_until(lambda: server.request("GET", f"{PATH}?wait=0.01").status == 204)
    server.request("POST", PATH, {"content": 1})
    assert wires[1].expect().json["id"] == 1  # so does one that gets something
    wires[2].send(ask("GET", f"{PATH}?wait=0.01") * 3)
    assert [wires[2].expect().status for _ in range(3)] == [204] * 3


def test_one_woken_in_vain_is_counted_once(stack: ExitStack, app: Application, io_loop: Any) -> None:
    """Whoever waits, is woken, waits again, and goes away, is one."""

    async def play() -> None:
        broker: Broker = app.broker
        await broker.call(model.CreateQueue("a"))
        tickets = [broker.submit(model.Receive(("a",), wait_ms=60_000), lambda _: None) for _ in range(3)]
        await broker.call(model.Probe())
        assert broker._waiting == 3
        broker._wake("a")
        await broker.call(model.Probe())
        assert broker._waiting == 3
        broker._wake("a")
        for ticket in tickets:
            assert ticket
            ticket.cancel()
        await broker.call(model.Probe())
        assert broker._waiting == 0

    io_loop.run_sync(play)
