"""What the clients repeat, and what not: nothing is lost, done twice, or said to be other than it is."""

from __future__ import annotations

import itertools
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from msgspec.structs import replace

import tq
from tests.both import Awaited, Blocking
from tests.harness import Server, settle, sound_server
from tests.proxy import Plan, Proxy
from tests.scripted import Scripted, answer, problem
from tq.client import Envelope, OutcomeUnknown, Unreachable
from tq.errors import (
    InternalError,
    InvalidQueueName,
    MessageNotFound,
    Overloaded,
    QueueNotFound,
    StaleReceipt,
    StorageFailed,
)

NUMBERS = itertools.count(1)
# By default one cut of each kind: the others end connections in other ways.
CUT_REQUEST = [Plan(request_bytes=60), Plan(request_bytes=0, ending="fin")]
CUT_ANSWER = [Plan(answer_bytes=0), Plan(answer_bytes=100, ending="fin")]
CUTS: list[Any] = [CUT_REQUEST[0], CUT_ANSWER[0]]
CUTS += [pytest.param(plan, marks=pytest.mark.slow) for plan in (CUT_REQUEST[1], CUT_ANSWER[1])]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("retrying") / "data") as running:
        yield running


class Cuts:
    """What becomes of the connections to come, one after the other; then nothing."""

    def __init__(self) -> None:
        self.plans: list[Plan] = []
        self.made = 0

    def __call__(self) -> Plan:
        self.made += 1
        return self.plans.pop(0) if self.plans else Plan()


@pytest.fixture
def cuts(server: Server) -> Iterator[Cuts]:
    plans = Cuts()
    with Proxy(server.port, plans) as proxy:
        plans.port = proxy.port  # type: ignore[attr-defined]
        yield plans


@pytest.fixture(params=[Blocking, Awaited])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def client(kind: Any, cuts: Any) -> Iterator[Any]:
    """Its connections go through the proxy, and each request has a new one, so that plans are for requests."""
    made = kind(f"http://127.0.0.1:{cuts.port}")
    made.client._place._headers.append((b"Connection", b"close"))
    yield made
    made.close()


@pytest.fixture
def other(server: Server) -> Iterator[Any]:
    """A client whose requests are not cut."""
    with Blocking(server.url).client as made:
        yield made


@pytest.fixture
def queue(other: Any) -> str:
    name = f"q{next(NUMBERS)}"
    other.create_queue(name)
    return name


def known(client: Any, queue: str) -> None:
    """Have the client know the queue's settings, so that its next request is the one that a test is about."""
    client.send(queue, "first", dedup_id="first")


def stored(server: Server, other: Any, queue: str) -> list[Any]:
    settle(server)
    return [message.content for message in other.peek(queue, limit=100).messages]


# --- sends -------------------------------------------------------------------------


@pytest.mark.parametrize("plan", CUTS, ids=repr)
def test_a_send_that_is_cut_is_repeated_and_stored_once(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    known(client, queue)
    cuts.plans = [plan, plan]
    sent = client.send(queue, "one")
    assert cuts.plans == []
    assert sent == tq.Sent(2)
    cuts.plans = [plan]
    batch = client.send_batch(queue, ["two", Envelope(content="three", dedup_id="3")])
    assert (batch.ids, batch.duplicates) == ([3, 4], [])
    cuts.plans = [plan]
    assert client.send(queue, b"\xff", dedup_id="bytes") == tq.Sent(5)
    assert client.send(queue, b"\xff", dedup_id="bytes") == tq.Sent(5, duplicate=True)
    assert stored(server, other, queue) == ["first", "one", "two", "three", b"\xff"]


def test_sends_of_many_survive_cuts(client: Any, cuts: Any, server: Server, other: Any, queue: str) -> None:
    known(client, queue)
    cuts.plans = [Plan(answer_bytes=0), Plan(), Plan(request_bytes=1_000), Plan(), Plan(answer_bytes=50), Plan()]
    assert client.send_many(queue, range(3_500)) == 3_500
    assert cuts.plans == []
    assert other.queue(queue).totals.sent == 3_501


@pytest.mark.parametrize("window", [0, 2])
def test_a_send_is_not_repeated_where_its_id_may_be_forgotten(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, window: float
) -> None:
    """A second try might be read after the window is over."""
    other.update_queue(queue, dedup_window=window)
    known(client, queue)
    cuts.plans = [Plan(answer_bytes=0)]
    with pytest.raises(OutcomeUnknown):
        client.send(queue, "one")
    assert stored(server, other, queue) == ["first", "one"]
    made = cuts.made
    cuts.plans = [Plan(request_bytes=0)]
    with pytest.raises(OutcomeUnknown):
        client.send_batch(queue, ["two"])
    assert cuts.made == made + 1
    assert stored(server, other, queue) == ["first", "one"]


def test_where_the_content_is_its_own_id_no_other_is_made(
    client: Any, cuts: Any, server: Server, other: Any, queue: str
) -> None:
    other.update_queue(queue, content_dedup=True)
    cuts.plans = [Plan(), Plan(answer_bytes=0)]
    assert client.send(queue, "same") == tq.Sent(1)
    assert client.send(queue, "same") == tq.Sent(1, duplicate=True)
    assert client.send_batch(queue, ["new", "same"]).duplicates == [1]
    assert stored(server, other, queue) == ["same", "new"]


def test_a_client_that_does_not_retry_tries_once_and_makes_no_ids(kind: Any, cuts: Any, other: Any, queue: str) -> None:
    once = kind(f"http://127.0.0.1:{cuts.port}", retry_seconds=0)
    once.send(queue, "one")
    assert other.peek(queue).messages[0].dedup_id is None
    once.close()
    cuts.plans, cuts.made = [Plan(request_bytes=0), Plan(answer_bytes=0)], 0
    once = kind(f"http://127.0.0.1:{cuts.port}", retry_seconds=0)
    with pytest.raises(OutcomeUnknown):
        once.send(queue, "two")
    with pytest.raises(Unreachable):
        once.queue(queue)
    assert cuts.made == 2
    once.close()


# --- receives -------------------------------------------------------------------------


@pytest.mark.parametrize("plan", CUTS, ids=repr)
def test_a_lease_whose_answer_is_cut_is_asked_for_again(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    """The same messages come, counted once, and none is left leased to nobody."""
    other.send_batch(queue, range(6))
    cuts.plans = [plan, plan]
    one = client.receive(queue, visibility_timeout=600)
    cuts.plans = [plan]
    two, three = client.receive([queue], max=2)
    assert [(each.content, each.receive_count) for each in (one, two, three)] == [(0, 1), (1, 1), (2, 1)]
    assert other.queue(queue).messages.in_flight == 3
    assert client.ack_many([one, two, three]) == [None] * 3


@pytest.mark.parametrize("plan", CUTS, ids=repr)
def test_a_removal_is_not_repeated_where_it_may_have_been_done(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    other.send_batch(queue, range(3))
    cuts.plans, cuts.made = [plan], 0
    with pytest.raises(OutcomeUnknown):
        client.receive(queue, remove=True)
    assert cuts.made == 1
    assert len(stored(server, other, queue)) >= 2
    assert client.receive(queue, remove=True).content == (0 if plan in CUT_REQUEST else 1)


# --- what becomes of leases -------------------------------------------------------------------------


@pytest.mark.parametrize("plan", CUTS, ids=repr)
def test_what_is_said_of_a_lease_is_repeated_and_the_answer_is_what_happened(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    other.send_batch(queue, range(9))
    leased = other.receive(queue, max=9, visibility_timeout=600)

    def cut(name: str, *args: Any, **kwargs: Any) -> Any:
        cuts.plans = [plan]
        return getattr(client, name)(*args, **kwargs)

    assert cut("ack", leased[0]) is None
    assert cut("release", leased[1], delay=600) is None
    assert cut("reject", leased[2]) is None
    assert cut("extend", leased[3], 1_000).leased_until_s > leased[3].leased_until_s
    assert cut("ack_many", leased[4:6]) == [None, None]
    assert cut("release_many", leased[6:7]) == [None]
    assert cut("reject_many", leased[7:8]) == [None]
    assert isinstance(cut("extend_many", leased[8:9], 900)[0], tq.Message)
    settle(server)
    queue_now = other.queue(queue)
    assert (queue_now.totals.acked, queue_now.totals.released, queue_now.totals.dropped) == (3, 2, 2)
    assert (queue_now.messages.in_flight, queue_now.messages.ready, queue_now.messages.delayed) == (2, 1, 1)


@pytest.mark.parametrize("plan", CUT_ANSWER[:1], ids=repr)
def test_a_refusal_is_no_success_where_the_lease_was_over(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    """Who may have settled it cannot be known then, and is not made up."""
    other.send_batch(queue, range(3))
    leased = other.receive(queue, max=3, visibility_timeout=600)
    late = [_with_lease_over(message) for message in leased]
    cuts.plans = [plan]
    with pytest.raises(OutcomeUnknown):
        client.ack(late[0])
    cuts.plans = [plan]
    with pytest.raises(OutcomeUnknown):
        client.release(late[1])
    cuts.plans = [plan]
    assert isinstance(client.reject_many([late[2]])[0], OutcomeUnknown)
    with pytest.raises(MessageNotFound):
        client.ack(leased[0])
    with pytest.raises(StaleReceipt):
        client.release(leased[1])


def _with_lease_over(message: Any) -> Any:
    return replace(message, leased_until_s=time.monotonic())


def test_an_acknowledgement_that_was_not_done_is_told(
    client: Any, cuts: Any, server: Server, other: Any, queue: str
) -> None:
    """Its first try was lost on the way, and the message went to another meanwhile."""
    other.send(queue, 1)
    message = other.receive(queue, visibility_timeout=600)
    other.release(message)
    cuts.plans = [Plan(request_bytes=60)]
    with pytest.raises(StaleReceipt):
        client.ack(message)
    assert other.queue(queue).messages.ready == 1


# --- transactions -------------------------------------------------------------------------


@pytest.mark.parametrize("plan", CUTS, ids=repr)
def test_a_transaction_is_repeated_and_its_ids_are_found(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    known(client, queue)
    other.send_batch(queue, ["in", "too"])
    first, *leased = other.receive(queue, max=3, visibility_timeout=600)
    other.ack(first)
    cuts.plans = [plan]
    ids = client.transaction(ack=leased, send=[(queue, "a"), (queue, Envelope(content="b", dedup_id="b"))])
    assert ids == [4, 5]
    cuts.plans = [plan]
    assert client.transaction(send=[(queue, "c")]) == [6]
    last = other.receive(queue)
    cuts.plans = [plan]
    assert client.transaction(ack=[last]) == []
    assert stored(server, other, queue) == ["b", "c"]
    assert other.queue(queue).totals.sent == 6


def test_a_transaction_whose_messages_are_not_gone_was_not_done(
    client: Any, cuts: Any, server: Server, other: Any, queue: str
) -> None:
    """Of two receipts one is good no more: not because the first try was done."""
    known(client, queue)
    other.send_batch(queue, [1, 2])
    _, *leased = other.receive(queue, max=3, visibility_timeout=600)
    other.ack(leased[0])
    cuts.plans = [Plan(request_bytes=60)]
    with pytest.raises(StaleReceipt):
        client.transaction(ack=leased, send=[(queue, "out")])
    late = [_with_lease_over(message) for message in leased[1:]]
    cuts.plans = [Plan(answer_bytes=0)]
    with pytest.raises(OutcomeUnknown):
        client.transaction(ack=late, send=[(queue, "out")])
    assert stored(server, other, queue) == ["out"]


# --- queues -------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [CUT_REQUEST[0], CUT_ANSWER[0]], ids=repr)
def test_of_what_concerns_queues_only_the_harmless_is_repeated(
    client: Any, cuts: Any, server: Server, other: Any, queue: str, plan: Plan
) -> None:
    def cut(name: str, *args: Any, **kwargs: Any) -> Any:
        cuts.plans, cuts.made = [plan], 0
        return getattr(client, name)(*args, **kwargs)

    assert cut("create_queue", f"{queue}-new").name == f"{queue}-new"
    assert cut("put_queue", queue, delay=1).delay == 1
    assert cut("update_queue", queue, delay=0).delay == 0
    assert cut("queue", queue).name == queue
    assert cut("status").status == "ok"
    for name in ("purge", "delete_queue", "redrive", "start_move"):
        other.create_queue(queue)
        other.send(queue, 1)
        with pytest.raises(OutcomeUnknown):
            cut(name, queue)
        assert cuts.made == 1
        settle(server)


# --- what a server answers -------------------------------------------------------------------------


@pytest.mark.parametrize("refusal", [problem(503, "overloaded", "Retry-After: 1"), problem(408, "request_timeout")])
def test_what_was_not_done_is_tried_again_whatever_it_is(kind: Any, refusal: bytes) -> None:
    with Scripted(refusal, answer(200, b'{"purged":7}')) as scripted:
        client = kind(scripted.url)
        assert client.purge("q") == 7
        client.close()
    assert len(scripted.asked) == 2
    assert scripted.asked_s[1] - scripted.asked_s[0] >= (1 if b"Retry-After" in refusal else 0)


def test_it_is_tried_for_so_many_seconds_and_not_longer(kind: Any) -> None:
    with Scripted(problem(503, "overloaded", "Retry-After: 1")) as scripted:
        client = kind(scripted.url, retry_seconds=1.5)
        with pytest.raises(Overloaded, match="D"):
            client.purge("q")
        client.close()
        assert 1 < len(scripted.asked) <= 2
        client = kind(scripted.url, retry_seconds=0.5)
        with pytest.raises(Overloaded):
            client.purge("q")
        client.close()
        assert len(scripted.asked) <= 3


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (problem(404, "queue_not_found"), QueueNotFound),
        (problem(400, "invalid_queue_name"), InvalidQueueName),
        (problem(500, "internal_error"), InternalError),
        (problem(418, "short_and_stout"), tq.UnknownError),
        (answer(404, b"<html>"), tq.UnknownError),
    ],
)
def test_what_cannot_become_better_is_raised_at_once(kind: Any, said: bytes, error: type[tq.TqError]) -> None:
    with Scripted(said) as scripted:
        client = kind(scripted.url)
        with pytest.raises(error) as raised:
            client.queue("q")
        client.close()
    assert len(scripted.asked) == 1
    assert raised.value.code in (error.code, "short_and_stout")
    assert raised.value.status == int(said.split()[1])


@pytest.mark.parametrize(
    ("said", "cause", "shown"),
    [
        (problem(503, "storage_failed"), StorageFailed, StorageFailed),
        (answer(502, b"<html>"), tq.UnknownError, tq.UnknownError),
        (b"", httpx.TransportError, Unreachable),
    ],
    ids=["storage", "proxy", "cut"],
)
def test_an_outcome_that_is_unknown_is_not_repeated_where_that_may_do_harm(
    kind: Any, said: bytes, cause: type[Exception], shown: type[tq.TqError]
) -> None:
    """And it is told as such; what only looks tells what the server said."""
    with Scripted(said) as scripted:
        client = kind(scripted.url, retry_seconds=0.5)
        with pytest.raises(OutcomeUnknown) as raised:
            client.purge("q")
        assert isinstance(raised.value.__cause__, cause)
        assert len(scripted.asked) == 1
        with pytest.raises(shown):
            client.queue("q")
        assert len(scripted.asked) > 2
        client.close()


def test_a_refusal_after_a_try_of_unknown_outcome_does_not_say_that_nothing_was_done(kind: Any) -> None:
    settings = answer(200, b'{"dedup_window":300,"content_dedup":false}')
    for refusal in (problem(503, "overloaded"), problem(401, "unauthenticated"), problem(429, "queue_full")):
        with Scripted(settings, b"", refusal) as scripted:
            client = kind(scripted.url)
            with pytest.raises(OutcomeUnknown) as raised:
                client.send("q", 1)
            client.close()
        assert raised.value.__cause__.code in refusal.decode()
        keys = [re.search(rb"Idempotency-Key: (\S+)", asked) for asked in scripted.asked[1:]]
        assert keys[0]
        assert keys[1]
        assert keys[0][1] == keys[1][1]


def test_health_is_asked_for_once(kind: Any) -> None:
    with Scripted(problem(503, "storage_failed", "Retry-After: 5")) as scripted:
        client = kind(scripted.url)
        assert client.healthy() is False
        assert client.ready() is False
        client.close()
    assert len(scripted.asked) == 2


# --- no server -------------------------------------------------------------------------


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def test_a_server_that_is_not_there_is_told_and_one_that_comes_is_found(
    kind: Any, start: Callable[..., Server], tmp_path: Path
) -> None:
    port = free_port()
    hasty = kind(f"http://127.0.0.1:{port}", retry_seconds=0.2)
    for ask in (lambda: hasty.send("q", 1), lambda: hasty.purge("q"), hasty.healthy):
        with pytest.raises(Unreachable):
            ask()
    hasty.close()
    server: list[Server] = []
    starting = threading.Thread(target=lambda: server.append(start("--port", str(port))))
    starting.start()
    patient = kind(f"http://127.0.0.1:{port}")
    patient.create_queue("q")
    starting.join()
    server[0].kill()
    server[0].__exit__()
    starting = threading.Thread(target=lambda: start("--port", str(port)))
    starting.start()
    assert patient.send("q", 1).id == 1
    starting.join()
    assert patient.queue("q").totals.sent == 1
    patient.close()
