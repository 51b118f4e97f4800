"""`consume()`: what is leased ahead, extended, acknowledged and given back, whatever happens to the loop."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.both import BREAK, Awaited, Blocking
from tests.harness import Server, sound_server
from tq.client import Envelope, OutcomeUnknown
from tq.client.leases import Leases
from tq.errors import InvalidRequest, QueueNotFound

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("client") / "data") as running:
        yield running


@pytest.fixture(params=[Blocking, Awaited])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[Any]:
    made = request.param(server.url)
    yield made
    made.close()


@pytest.fixture
def other(server: Server) -> Iterator[Any]:
    """Another client, of who looks on or comes in between."""
    with Blocking(server.url).client as made:
        yield made


@pytest.fixture
def queue(other: Any) -> str:
    name = f"q{next(NUMBERS)}"
    other.create_queue(name)
    return name


def state(other: Any, queue: str) -> tuple[int, int, int]:
    """Ready, in flight, acknowledged."""
    shown = other.queue(queue)
    return shown.messages.ready, shown.messages.in_flight, shown.totals.acked


class Enough(Exception):
    pass


def test_each_message_is_acknowledged_when_the_next_is_asked_for(client: Any, other: Any, queue: str) -> None:
    other.send_batch(queue, range(25))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        if len(seen) == 25:
            yield lambda: state(other, queue) == (0, 1, 24)
            messages.stop()

    client.handle(queue, body)
    assert seen == list(range(25))
    assert state(other, queue) == (0, 0, 25)


def test_an_exception_gives_back_what_was_in_hand_and_what_was_leased_ahead(
    client: Any, other: Any, queue: str
) -> None:
    other.send_batch(queue, range(25))

    def body(message: Any, messages: Any) -> Any:
        if message.content == 3:
            yield lambda: state(other, queue)[2] == 3
            assert state(other, queue)[1] > 1
            raise Enough

    with pytest.raises(Enough):
        client.handle(queue, body)
    assert state(other, queue) == (22, 0, 3)
    assert [message.content for message in other.receive(queue, max=30)] == list(range(3, 25))


@pytest.mark.parametrize("how", ["ack", "break", "reject", "release", "transaction"])
def test_a_break_gives_back_what_was_not_settled(client: Any, other: Any, queue: str, how: str) -> None:
    other.send_batch(queue, range(5))

    def body(message: Any, messages: Any) -> Any:
        if how == "transaction":
            yield "transaction", {"ack": [message]}
        elif how != "break":
            yield how, message
        return BREAK

    client.handle(queue, body)
    acked = how in ("ack", "transaction")
    assert state(other, queue) == (4 + (how in ("break", "release")), 0, acked)


def test_leases_last_as_long_as_the_work(client: Any, other: Any, queue: str) -> None:
    """Of what is in hand and of what waits, for longer than they last."""
    other.send_batch(queue, range(3))
    over_s = time.monotonic() + 1.7
    seen: list[int] = []

    def is_over() -> bool:
        assert state(other, queue)[0] == 0
        return time.monotonic() > over_s

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.receive_count)
        yield lambda: state(other, queue)[1] + len(seen) == 4
        yield is_over
        assert not messages.is_lost(message)
        if len(seen) == 3:
            messages.stop()

    client.handle(queue, body, visibility_timeout=1)
    assert seen == [1, 1, 1]
    assert state(other, queue) == (0, 0, 3)


def test_a_lease_that_is_lost_is_told_and_does_not_end_the_loop(
    client: Any, other: Any, queue: str, caplog: pytest.LogCaptureFixture
) -> None:
    other.send_batch(queue, range(4))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        if message.content == 1 and message.receive_count == 1:
            assert not messages.is_lost(message)
            other.release(message)
            yield lambda: messages.is_lost(message)
        if len(seen) == 5:
            messages.stop()

    client.handle(queue, body, visibility_timeout=2, prefetch=2)
    assert sorted(seen) == [0, 1, 1, 2, 3]
    assert "lost the lease of message 2 of" in caplog.text
    assert state(other, queue) == (0, 0, 4)


def test_what_waits_and_is_lost_is_not_handed_out(client: Any, other: Any, queue: str) -> None:
    other.send_batch(queue, range(3))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        if message.content == 0:
            yield lambda: state(other, queue)[1] == 3
            other.purge(queue)
            other.send(queue, 3)
            yield lambda: messages.is_lost(message)
        if message.content == 3:
            messages.stop()

    client.handle(queue, body, visibility_timeout=2)
    assert seen == [0, 3]


def test_a_queue_that_is_deleted_ends_the_loop(client: Any, other: Any, queue: str) -> None:
    other.send(queue, 1)

    def body(message: Any, messages: Any) -> Any:
        other.delete_queue(queue)
        return
        yield

    with pytest.raises(QueueNotFound):
        client.handle(queue, body)


def test_several_loops_share_the_messages(client: Any, other: Any, queue: str) -> None:
    other.send_batch(queue, range(500))
    seen: list[int] = []
    at_once: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        at_once.append(message.id)
        if len(seen) == 8:
            yield lambda: len(at_once) == 8
        elif len(seen) < 8:
            yield lambda: len(seen) >= 8
        if len(seen) == 500:
            messages.stop()

    client.handle_at_once(queue, body, 8, prefetch=50)
    assert sorted(seen) == list(range(500))
    assert state(other, queue) == (0, 0, 500)


def test_groups_stay_in_order_whatever_the_number_of_loops(client: Any, other: Any) -> None:
    """Of a FIFO queue several messages of a group are leased ahead."""
    name = f"q{next(NUMBERS)}.fifo"
    other.create_queue(name, fifo=True)
    items = [Envelope(content=number, group=f"g{number % 3}") for number in range(60)]
    other.send_batch(name, items)
    seen: dict[str, list[int]] = {"g0": [], "g1": [], "g2": []}
    busy: set[str] = set()
    released: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        assert message.group not in busy
        busy.add(message.group)
        yield lambda: True
        busy.discard(message.group)
        if message.content % 7 == 0 and message.content not in released:
            released.append(message.content)
            yield "release", message
            return
        seen[message.group].append(message.content)
        if sum(map(len, seen.values())) == 60:
            messages.stop()

    client.handle_at_once(name, body, 5, prefetch=20)
    assert seen == {f"g{group}": list(range(group, 60, 3)) for group in range(3)}
    assert len(released) == 9


def test_without_prefetch_nothing_is_leased_ahead(client: Any, other: Any, queue: str) -> None:
    other.send_batch(queue, range(5))
    seen: list[int] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append(message.content)
        yield lambda: state(other, queue) == (4 - message.content, 1, message.content)
        if message.content == 4:
            messages.stop()

    client.handle(queue, body, prefetch=0)
    assert seen == list(range(5))


def test_several_queues_are_consumed_at_once(client: Any, other: Any, queue: str) -> None:
    second = f"{queue}-second"
    other.create_queue(second)
    other.send_batch(queue, range(20))
    other.send_batch(second, range(20))
    seen: list[tuple[str, int]] = []

    def body(message: Any, messages: Any) -> Any:
        seen.append((message.queue, message.content))
        if len(seen) == 40:
            messages.stop()
        return
        yield

    client.handle([queue, second], body)
    assert sorted(seen) == sorted((name, number) for name in (queue, second) for number in range(20))
    assert state(other, queue) == state(other, second) == (0, 0, 20)


def test_a_queue_that_is_deleted_keeps_nobody_from_telling_of_messages_of_others(other: Any) -> None:
    """The server is asked about the deleted one first."""
    gone, there = f"gone{next(NUMBERS)}", f"there{next(NUMBERS)}"
    for name in (gone, there):
        other.create_queue(name)
        other.send(name, 1)
    leases = Leases([gone, there], visibility_timeout=30, prefetch=10, wait=0, retry_s=30)
    leases.add([other.receive(name) for name in (gone, there)])
    for _ in range(2):
        leases.handled(leases.take())
    other.delete_queue(gone)
    other._run(leases.round())
    assert leases.due_s() > 0  # there is nothing more to tell
    assert state(other, there) == (0, 0, 1)
    with pytest.raises(QueueNotFound):
        leases.take()
    with pytest.raises(OutcomeUnknown, match=r"may be received again: 1$"):
        leases.settle_up()


@pytest.mark.parametrize("options", [{"visibility_timeout": 0}, {"prefetch": -1}, {"prefetch": 1_001}])
def test_options_that_make_no_sense_are_refused(client: Any, queue: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"prefetch|leases"):
        client.handle(queue, lambda message, messages: iter(()), **options)


def test_what_the_server_refuses_is_raised(client: Any, queue: str) -> None:
    with pytest.raises(InvalidRequest, match="wait"):
        client.handle(queue, lambda message, messages: iter(()), wait=61)
