"""What the methods of both clients do, against a real server."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import tq
from tests.both import Awaited, Blocking
from tests.harness import ROOT, Server, sound_server
from tq.client import AsyncClient, Client, Envelope, SentBatch
from tq.client.calls import method
from tq.errors import (
    InFlight,
    InvalidQueueName,
    InvalidRequest,
    MessageNotFound,
    MoveNotFound,
    QueueExists,
    QueueNotEmpty,
    QueueNotFound,
    StaleReceipt,
)

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
def queue(client: Any) -> str:
    name = f"q{next(NUMBERS)}"
    client.create_queue(name)
    return name


# --- queues -------------------------------------------------------------------------


def test_a_queue_is_made_changed_and_deleted(client: Any) -> None:
    name = f"q{next(NUMBERS)}"
    made = client.create_queue(name, visibility_timeout=5)
    assert (made.name, made.visibility_timeout, made.messages.ready) == (name, 5, 0)
    assert abs(made.created_at - datetime.now(UTC)) < timedelta(minutes=1)
    assert client.create_queue(name, visibility_timeout=5).created_at == made.created_at
    with pytest.raises(QueueExists):
        client.create_queue(name)
    assert client.update_queue(name, max_messages=7).visibility_timeout == 5
    changed = client.put_queue(name, dead_letter={"queue": client.put_queue(f"{name}-dead").name, "max_receives": 3})
    assert (changed.visibility_timeout, changed.max_messages) == (30, None)
    assert changed.dead_letter.max_receives == 3
    assert client.queue(name) == changed
    client.send(name, 1)
    with pytest.raises(QueueNotEmpty):
        client.delete_queue(name, if_empty=True)
    client.delete_queue(name)
    with pytest.raises(QueueNotFound):
        client.queue(name)


def test_all_pages_of_queues_are_listed(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = f"many{next(NUMBERS)}-"
    names = [f"{prefix}{number:04d}" for number in range(7)]
    for name in names:
        client.create_queue(name)
    monkeypatch.setattr("tq.client.methods.PAGE", 3)
    assert [queue.name for queue in client.queues(prefix)] == names


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "ä", "x" * 81, "-?", "a b"])
def test_a_name_that_is_none_is_refused(client: Any, name: str) -> None:
    for ask in (client.queue, client.purge, client.delete_queue):
        with pytest.raises((InvalidQueueName, QueueNotFound)):
            ask(name)
    with pytest.raises((InvalidQueueName, InvalidRequest, QueueNotFound)):
        client.send(name, 1)


# --- messages -------------------------------------------------------------------------

CONTENTS = [
    None,
    True,
    "ä\n\U0001f600",
    "",
    2**70,
    -1.5e300,
    [1, [2, {"a": None}]],
    {"a": 1.10, "": []},
    b"",
    b"text",
    bytes(range(256)),
]


@pytest.mark.parametrize("content", CONTENTS, ids=repr)
def test_content_comes_back_as_it_was_sent(client: Any, queue: str, content: Any) -> None:
    sent = client.send(queue, content)
    assert client.message(queue, sent.id).content == content
    message = client.receive(queue)
    assert (message.id, message.queue, message.receive_count) == (sent.id, queue, 1)
    assert message.content == content
    assert type(message.content) is type(content)
    client.ack(message)
    client.send_batch(queue, [content, "other", Envelope(content=content, priority=1)])
    assert [each.content for each in client.receive(queue, max=10)] == [content, content, "other"]


@pytest.mark.parametrize("content", [{1}, object(), float("nan"), "\ud800", [b"inside"]], ids=repr)
def test_what_is_no_content_is_refused_before_it_is_sent(client: Any, queue: str, content: Any) -> None:
    for ask in (client.send, lambda name, item: client.send_batch(name, [item])):
        with pytest.raises((TypeError, ValueError)):
            ask(queue, content)
    assert client.queue(queue).totals.sent == 0


def test_a_message_has_what_was_said_of_it(client: Any, queue: str) -> None:
    headers = {"traceparent": "00-1", "ä": "ö"}
    client.send(queue, 1, priority=3, group="g", dedup_id="d", ttl=60, headers=headers)
    message = client.receive(queue, visibility_timeout=20)
    assert (message.priority, message.group, message.dedup_id, message.headers) == (3, "g", "d", headers)
    assert message.expires_at - message.sent_at == timedelta(seconds=60)
    assert timedelta(seconds=18) < message.visible_at - datetime.now(UTC) < timedelta(seconds=22)
    assert 18 < message.leased_until_s - time.monotonic() < 20
    client.send(queue, 2, delay=60)
    assert client.receive(queue) is None
    assert client.peek(queue, state="delayed").messages[0].content == 2
    assert client.send(queue, 3, dedup_id="d") == tq.Sent(message.id, True)


def test_bytes_keep_their_type_and_options(client: Any, queue: str) -> None:
    client.send(queue, b"\xff", content_type="image/png", priority=9, group="ä&b")
    message = client.receive(queue)
    assert (message.content, message.content_type, message.priority, message.group) == (b"\xff", "image/png", 9, "ä&b")
    client.send(queue, b"\xff", headers={"a": "b"})
    message = client.receive(queue)
    assert (message.content, message.content_type, message.headers) == (b"\xff", "application/octet-stream", {"a": "b"})
    with pytest.raises(ValueError, match="octet-stream"):
        client.send(queue, b"\xff", headers={"a": "b"}, content_type="image/png")
    with pytest.raises(TypeError, match="content_type"):
        client.send(queue, "text", content_type="image/png")


def test_what_python_cannot_read_is_there_as_it_was_sent(client: Any, queue: str, server: Server) -> None:
    digits = b"1" * 5_000
    server.request("POST", f"/queues/{queue}/messages", b'{"content": %b}' % digits)
    message = client.receive(queue)
    assert message.raw == digits
    with pytest.raises(ValueError, match="4300"):
        print(message.content)
    client.ack(message)


def test_a_receive_leases_and_one_that_removes_does_not(client: Any, queue: str) -> None:
    assert client.receive(queue) is None
    assert client.receive(queue, max=3) == []
    client.send_batch(queue, range(5))
    assert client.receive(queue, remove=True).receipt is None
    assert [each.content for each in client.receive(queue, max=2, remove=True)] == [1, 2]
    leased = client.receive(queue, max=2)
    assert [each.content for each in leased] == [3, 4]
    totals = client.queue(queue)
    assert (totals.messages.in_flight, totals.totals.acked) == (2, 3)
    assert client.ack_many(leased) == [None, None]
    assert client.queue(queue).totals.acked == 5


def test_several_queues_are_received_from_in_their_order(client: Any, queue: str) -> None:
    other = f"{queue}-other"
    client.create_queue(other)
    client.send(other, "other")
    message = client.receive([queue, other], wait=1)
    assert (message.queue, message.content) == (other, "other")
    client.ack(message)
    client.send(other, "other")
    client.send(queue, "first")
    assert [each.queue for each in client.receive([queue, other], max=5)] == [queue]


def test_what_becomes_of_a_leased_message(client: Any, queue: str) -> None:
    client.create_queue(f"{queue}-dead")
    client.update_queue(queue, dead_letter={"queue": f"{queue}-dead", "max_receives": 100})
    client.send(queue, 1)
    message = client.receive(queue, visibility_timeout=10)
    longer = client.extend(message, 600)
    assert longer.visible_at - message.visible_at > timedelta(seconds=500)
    assert longer.leased_until_s - message.leased_until_s > 500
    client.release(longer)
    with pytest.raises(StaleReceipt):
        client.ack(longer)
    message = client.receive(queue)
    assert message.receive_count == 2
    client.release(message, delay=600)
    assert client.message(queue, message.id).state == "delayed"
    client.cancel(queue, message.id)
    with pytest.raises(MessageNotFound):
        client.cancel(queue, message.id)
    client.send(queue, 2)
    client.reject(client.receive(queue), "no such customer")
    dead = client.receive(f"{queue}-dead")
    assert (dead.dead_letter.source, dead.dead_letter.reason) == (queue, "no such customer")
    with pytest.raises(InFlight):
        client.cancel(f"{queue}-dead", dead.id)
    client.ack(dead)
    with pytest.raises(MessageNotFound):
        client.ack(dead)
    with pytest.raises(ValueError, match="no receipt"):
        client.ack(client.receive(queue, remove=True) or client.message(queue, client.send(queue, 3).id))
    with pytest.raises(ValueError, match="release"):
        client.extend(dead, 0)
    for settle in (client.ack, lambda message: client.ack_many([message])):
        with pytest.raises(TypeError, match="None is no message"):
            settle(client.receive(f"{queue}-dead"))


def test_many_are_settled_each_for_itself(client: Any, queue: str) -> None:
    other = f"{queue}-other"
    client.create_queue(other)
    client.send_batch(queue, range(4))
    client.send_batch(other, "ab")
    mine, others = client.receive(queue, max=9), client.receive(other, max=9)
    mixed = [mine[0], others[0], mine[1], others[1]]
    longer = client.extend_many(mixed, 600)
    assert [each.id for each in longer] == [each.id for each in mixed]
    assert all(each.leased_until_s > was.leased_until_s + 500 for each, was in zip(longer, mixed, strict=True))
    assert client.ack_many(mixed) == [None] * 4
    failed = client.ack_many([mine[2], mine[0], others[0]])
    assert [type(error) for error in failed] == [type(None), MessageNotFound, MessageNotFound]
    assert client.release_many([mine[3], mine[3]], delay=0)[0] is None
    (again,) = client.receive(queue, max=9)
    assert client.reject_many([again]) == [None]
    assert client.queue(queue).totals.dropped == 1
    assert isinstance(client.extend_many([again], 5)[0], MessageNotFound)
    assert client.ack_many([]) == []


def test_dead_letters_are_moved_back(client: Any, queue: str) -> None:
    dead = f"{queue}-dead"
    client.create_queue(dead)
    client.update_queue(queue, dead_letter={"queue": dead, "max_receives": 1})
    client.send_batch(queue, range(4))
    client.reject_many(client.receive(queue, max=4))
    assert client.redrive(dead, limit=1) == 1
    assert client.redrive(dead, to=queue, limit=1) == 1
    move = client.start_move(dead, per_second=1)
    assert (move.to, move.per_second, move.to_move) == (None, 1, 2)
    assert client.cancel_move(dead, move.id).status == "cancelled"
    with pytest.raises(MoveNotFound):
        client.cancel_move(dead, move.id)
    assert [each.id for each in client.moves(dead)] == [move.id]
    assert client.purge(queue) >= 2


def test_pages_of_a_peek_follow_one_another(client: Any, queue: str) -> None:
    client.send_batch(queue, range(5))
    first = client.peek(queue, limit=3)
    second = client.peek(queue, limit=3, after=first.next)
    assert [each.content for each in (*first.messages, *second.messages)] == [0, 1, 2, 3, 4]
    assert second.next is None
    assert first.messages[0].state == "ready"


def test_a_transaction_is_whole_or_absent(client: Any, queue: str) -> None:
    client.send(queue, "in")
    message = client.receive(queue)
    sends = [(queue, "a"), (queue, Envelope(content="b", priority=9)), (queue, {"c": 1.5})]
    ids = client.transaction(ack=[message], send=sends)
    assert [client.message(queue, each).content for each in ids] == ["a", "b", {"c": 1.5}]
    with pytest.raises(StaleReceipt):
        client.transaction(ack=[message], send=sends)
    assert client.queue(queue).messages.ready == 3
    assert client.transaction(ack=[client.receive(queue)]) == []


def test_the_server_tells_of_itself(client: Any) -> None:
    assert client.status().version == tq.__version__
    assert client.healthy() is True
    assert client.ready() is True


# --- many -------------------------------------------------------------------------


def test_any_number_is_sent_in_batches(client: Any, queue: str) -> None:
    sent: list[SentBatch] = []
    count = client.send_many(queue, (number for number in range(2_500)), on_batch=sent.append)
    assert (count, [len(batch.ids) for batch in sent]) == (2_500, [1_000, 1_000, 500])
    assert [each for batch in sent for each in batch.ids] == list(range(1, 2_501))
    assert client.send_many(queue, []) == 0
    assert client.queue(queue).totals.sent == 2_500


def test_batches_are_bounded_in_bytes_and_bytes_go_in_their_own(client: Any, queue: str) -> None:
    client.update_queue(queue, max_message_bytes=4 << 20)
    large = "x" * 400_000
    sizes: list[int] = []
    items = [large, large, large, b"\xff", b"\xfe", 1, "x" * 2_000_000, 2]
    assert client.send_many(queue, items, on_batch=lambda batch: sizes.append(len(batch.ids))) == 8
    assert sizes == [2, 1, 2, 1, 1, 1]
    received: list[Any] = []
    while found := client.receive(queue, max=10, remove=True):
        received += [message.content for message in found]
    assert received == items


def test_a_batch_is_all_or_none(client: Any, queue: str) -> None:
    client.update_queue(queue, max_messages=2)
    with pytest.raises(tq.TqError) as raised:
        client.send_batch(queue, range(20_000))
    assert raised.value.code in ("queue_full", "invalid_request")
    assert client.queue(queue).totals.sent == 0
    with pytest.raises(InvalidRequest):
        client.send_batch(queue, [])


def test_messages_of_an_asynchronous_source_are_sent(server: Server) -> None:
    async def numbers() -> Any:
        for number in range(1_001):
            yield number

    made = Awaited(server.url)
    name = f"q{next(NUMBERS)}"
    made.create_queue(name)
    assert made.send_many(name, numbers()) == 1_001
    made.close()


# --- the two are one -------------------------------------------------------------------------


def public(kind: type) -> dict[str, Any]:
    return {name: getattr(kind, name) for name in dir(kind) if not name.startswith("_")}


def test_both_clients_have_the_same_methods_and_parameters() -> None:
    blocking, awaited = public(Client), public(AsyncClient)
    assert blocking.keys() == awaited.keys()
    for name, found in blocking.items():
        mine, other = inspect.signature(found), inspect.signature(awaited[name])
        assert list(mine.parameters) == list(other.parameters), name
        for parameter, its in mine.parameters.items():
            assert (its.kind, its.default) == (other.parameters[parameter].kind, other.parameters[parameter].default)
        assert found.__doc__
        assert found.__doc__ == awaited[name].__doc__
        is_awaited = isinstance(found, method) or inspect.iscoroutinefunction(awaited[name])
        assert is_awaited or name == "consume", name
    assert inspect.signature(Client.__init__) == inspect.signature(AsyncClient.__init__)


def test_the_server_never_imports_the_client() -> None:
    code = "import sys, tq.cli, tq.web.server; sys.exit('httpx' in sys.modules or 'tq.client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_without_httpx_it_says_what_to_install() -> None:
    code = "import sys; sys.modules['httpx'] = None; import tq; tq.TqError; tq.Client"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.stderr.splitlines()[-1] == "ImportError: The client needs httpx: pip install 'tq[client]'"
