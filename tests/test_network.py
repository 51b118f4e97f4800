"""Networks and clients that misbehave: cut anywhere, in pieces, late, silent. A proxy stands between (`tests.proxy`).

What is cut off has no answer, and may have taken effect or not; but never in part, never twice with a deduplication
id, and a client that was gone before it could be answered has consumed nothing.
"""

from __future__ import annotations

import http.client
import itertools
import json
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import monotonic_ns
from typing import Any

import pytest
from msgspec.structs import replace

from tests import leasing, removing
from tests.clients import Answer, Ask, Client, Place
from tests.harness import Server, settle, sound_server, wait_until
from tests.history import NEVER, Kill, Recorder, check
from tests.leases import Request, check_lives
from tests.proxy import Plan, Proxy
from tests.wire import Wire, ask, chunked
from tq.web.sqs import TARGET

NUMBERS = itertools.count(1)
ENDINGS = ["fin", "reset"]
CHAOS_SECONDS = 3
# Each cut costs some commits: by default they are some bytes apart, in the long runs each byte is tried.
STEPS = pytest.mark.parametrize("step", [23, pytest.param(1, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("network") / "data") as running:
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    name = f"q{next(NUMBERS)}"
    assert server.request("POST", "/queues", {"name": name}).status == 201
    return name


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server.port) as standing:
        yield standing


def said(proxy: Proxy, data: bytes) -> bytes:
    """All that comes back through the proxy. Where an answer is to be cut it is the last, as it may be shorter."""
    assert isinstance(proxy.plan, Plan)
    if proxy.plan.answer_bytes is not None:
        data = data.replace(b"\r\n", b"\r\nConnection: close\r\n", 1)
    got = b""
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=30) as connection, suppress(ConnectionError):
        connection.sendall(data)
        while more := connection.recv(65_536):
            got += more
    return got


def counted(server: Server, queue: str) -> dict[str, int]:
    """How many messages there are and were, when all that was said before is done."""
    settle(server)
    told = server.request("GET", f"/queues/{queue}").json
    return {**told["totals"], **told["messages"]}


# --- requests that are cut -------------------------------------------------------------


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_request_that_is_cut_anywhere_does_nothing(server: Server, queue: str, proxy: Proxy, ending: Any) -> None:
    path = f"/queues/{queue}/messages"
    send = ask("POST", path, b'{"content":1}')
    in_chunks = ask("POST", path, b"", "Transfer-Encoding: chunked") + chunked(b'{"content"', b":1}")
    for request in (send, in_chunks):
        for cut in range(len(request)):
            proxy.plan = Plan(request_bytes=cut, ending=ending)
            assert said(proxy, request) == b""
        assert counted(server, queue)["sent"] == 0


@STEPS
def test_of_pipelined_requests_that_are_cut_a_prefix_is_run(
    server: Server, queue: str, proxy: Proxy, step: int
) -> None:
    """Sends, a batch, and a receive; each is done when its last byte is there, and none else."""
    path = f"/queues/{queue}/messages"
    requests = [
        ask("POST", path, b'{"content":1}'),
        ask("POST", path, b'[{"content":1},{"content":2},{"content":3}]'),
        ask("POST", path, b"", "Transfer-Encoding: chunked") + chunked(b'{"content":1}'),
        ask("POST", path, b"x", "Content-Type: text/plain"),
    ]
    ends = list(itertools.accumulate(map(len, requests)))
    effects = [0, *itertools.accumulate((1, 3, 1, 1))]
    sent = 0
    for cut in [*range(0, ends[-1], step), *ends, *(end - 1 for end in ends)]:
        proxy.plan = Plan(request_bytes=cut, ending="fin")
        said(proxy, b"".join(requests))
        now = counted(server, queue)["sent"]
        assert now - sent == effects[sum(end <= cut for end in ends)], cut
        sent = now


@STEPS
def test_a_transaction_that_is_cut_anywhere_is_whole_or_absent(server: Server, proxy: Proxy, step: int) -> None:
    """Cut in the request it has not happened; in the answer it has."""
    one, two, three = (f"{name}{next(NUMBERS)}" for name in ("from", "to", "also"))
    for name in (one, two, three):
        server.request("POST", "/queues", {"name": name})
    plans = [Plan(request_bytes=cut, ending="fin") for cut in range(0, 230, step)]
    plans += [Plan(answer_bytes=cut) for cut in range(0, 230, step)]
    done = 0
    for number, plan in enumerate(plans):
        server.request("POST", f"/queues/{one}/messages", {"content": number})
        receipt = server.request("GET", f"/queues/{one}/messages?visibility_timeout=600").json["receipt"]
        sends = [{"queue": name, "content": number} for name in (two, three, two)]
        body = json.dumps({"ack": [{"queue": one, "receipt": receipt}], "send": sends}).encode()
        proxy.plan = plan
        request = ask("POST", "/transactions", body)
        assert len(request) > 230
        said(proxy, request)
        done += plan.answer_bytes is not None
        states = [counted(server, name) for name in (one, two, three)]
        assert [states[0]["acked"], states[1]["sent"], states[2]["sent"]] == [done, 2 * done, done], plan


# --- answers that are cut -------------------------------------------------------------


@STEPS
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_receive_without_a_lease_happens_once_wherever_its_answer_is_cut(
    server: Server, queue: str, proxy: Proxy, ending: Any, step: int
) -> None:
    """The server cannot know that what it wrote did not come: then the message is gone."""
    path = f"/queues/{queue}/messages"
    server.request("POST", path, {"content": 1})
    with Wire(server.port) as wire:
        wire.send(ask("GET", path))
        assert wire.expect().status == 200
    for number, cut in enumerate(range(0, 250, step), 2):
        server.request("POST", path, {"content": 1})
        proxy.plan = Plan(answer_bytes=cut, ending=ending)
        assert len(said(proxy, ask("GET", path))) <= cut
        now = counted(server, queue)
        assert (now["ready"], now["received"], now["acked"]) == (0, number, number)


def test_a_lease_whose_answer_was_cut_comes_back_after_its_time(server: Server, queue: str, proxy: Proxy) -> None:
    path = f"/queues/{queue}/messages"
    cuts = range(0, 400, 20)
    server.request("POST", path, [{"content": number} for number in cuts])
    began_s = time.monotonic()
    for cut in cuts:
        proxy.plan = Plan(answer_bytes=cut, ending=random.choice(ENDINGS))  # type: ignore[arg-type]
        said(proxy, ask("GET", f"{path}?visibility_timeout=1.5"))
    assert time.monotonic() - began_s < 1.5, "this machine is too slow for this test"
    assert server.request("GET", path).status == 204  # they are leased to nobody
    contents = []
    for _ in cuts:
        message = server.request("GET", f"{path}?wait=10").json
        assert message["receive_count"] == 2
        contents.append(message["content"])
    assert contents == list(cuts)
    assert time.monotonic() - began_s >= 1.5


class Way:
    """A kind of send that can be repeated: what is asked, with an id, and what the answer says that it is stored as."""

    def __init__(self, name: str, ask: Callable[[str, str], bytes], stored: Callable[[Any], Any]) -> None:
        self.name = name
        self.ask = ask
        self.stored = stored


def sqs_send(queue: str, dedup_id: str) -> bytes:
    wanted = {"QueueUrl": f"http://x/000000000000/{queue}", "MessageBody": "x"}
    body = json.dumps({**wanted, "MessageGroupId": "g", "MessageDeduplicationId": dedup_id}).encode()
    return ask("POST", "/", body, f"X-Amz-Target: {TARGET}SendMessage", "Content-Type: application/x-amz-json-1.0")


WAYS = [
    Way(
        "dedup_id",
        lambda queue, key: ask("POST", f"/queues/{queue}/messages", b'{"content":1,"dedup_id":"%b"}' % key.encode()),
        lambda told: told["id"],
    ),
    Way(
        "Idempotency-Key",
        lambda queue, key: ask("POST", f"/queues/{queue}/messages", b'[{"content":1}]', f"Idempotency-Key: {key}"),
        lambda told: told["ids"][0],
    ),
    Way("MessageDeduplicationId", sqs_send, lambda told: (told["MessageId"], told["SequenceNumber"])),
]


@STEPS
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.name)
def test_a_blind_retry_never_doubles(server: Server, proxy: Proxy, way: Way, step: int) -> None:
    """Cut anywhere in the request or in the answer, then repeated until there is an answer, and once more."""
    queue = f"retry{next(NUMBERS)}.fifo" if "Message" in way.name else f"retry{next(NUMBERS)}"
    server.request("POST", "/queues", {"name": queue, "fifo": queue.endswith(".fifo")})
    length = len(way.ask(queue, "key-100"))
    plans = [Plan(request_bytes=cut, ending=ending) for cut in (*range(0, length, step), length) for ending in ENDINGS]  # type: ignore[arg-type]
    plans += [Plan(answer_bytes=cut, ending=ending) for cut in range(0, 300, step) for ending in ENDINGS]  # type: ignore[arg-type]
    stored: set[Any] = set()
    with Wire(server.port) as wire:
        for number, plan in enumerate(plans, 100):
            request = way.ask(queue, f"key-{number}")
            proxy.plan = plan
            said(proxy, request)
            seen = set()
            for _ in range(2):
                wire.send(request)
                reply = wire.expect()
                assert reply.status in (200, 201), reply
                seen.add(way.stored(reply.json))
            assert len(seen) == 1
            stored |= seen
    assert len(stored) == len(plans)
    assert counted(server, queue)["sent"] == len(plans)


def test_an_ack_whose_answer_was_cut_can_be_repeated(server: Server, queue: str, proxy: Proxy) -> None:
    """The second one is told that the message is gone, and does nothing."""
    path = f"/queues/{queue}/messages"
    cuts = range(0, 150, 10)
    server.request("POST", path, [{"content": number} for number in (*cuts, "another")])
    for number, cut in enumerate(cuts, 1):
        receipt = server.request("GET", f"{path}?visibility_timeout=600").json["receipt"]
        proxy.plan = Plan(answer_bytes=cut)
        said(proxy, ask("DELETE", f"{path}/{receipt}"))
        again = server.request("DELETE", f"{path}/{receipt}")
        assert (again.status, again.json["code"]) == (404, "message_not_found")
        assert counted(server, queue)["acked"] == number
    assert server.request("GET", path).json["content"] == "another"


# --- clients that are gone -------------------------------------------------------------


@pytest.mark.parametrize("ending", ["fin", "reset", "half"])
@pytest.mark.parametrize("query", ["", "&visibility_timeout=60"], ids=["removing", "leasing"])
def test_a_long_poll_of_a_client_that_is_gone_consumes_nothing(
    server: Server, queue: str, proxy: Proxy, ending: Any, query: str
) -> None:
    path = f"/queues/{queue}/messages"
    poll = ask("GET", f"{path}?wait=60{query}")
    for number in range(1, 11):
        proxy.plan = Plan(request_bytes=len(poll), ending=ending)
        assert said(proxy, poll) == b""
        server.request("POST", path, {"content": number})
        got = server.request("GET", f"{path}?wait=10").json
        assert (got["id"], got["receive_count"]) == (number, 1)


def test_what_is_sent_into_a_black_hole(server: Server, queue: str, proxy: Proxy) -> None:
    """The server cannot know that nobody is there. What it removes for that is gone, once; a lease comes back; and when
    the time to wait is over nothing more goes there."""
    path = f"/queues/{queue}/messages"

    def into_the_hole(query: str) -> None:
        holes = proxy.holes
        poll = ask("GET", f"{path}{query}")
        proxy.plan = Plan(request_bytes=len(poll), ending="hole")
        with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
            connection.sendall(poll)
            wait_until(lambda: proxy.holes > holes)
        settle(server)

    into_the_hole("?wait=60")
    server.request("POST", path, [{"content": "gone"}, {"content": "next"}])
    assert server.request("GET", f"{path}?wait=10").json["content"] == "next"
    assert counted(server, queue)["received"] == 2
    into_the_hole("?wait=60&visibility_timeout=0.3")
    server.request("POST", path, {"content": "comes back"})
    got = server.request("GET", f"{path}?wait=10").json
    assert (got["content"], got["receive_count"]) == ("comes back", 2)
    into_the_hole("?wait=0.2")
    assert server.request("GET", f"{path}?wait=0.4").status == 204  # by then the other has ended
    server.request("POST", path, {"content": "for who is there"})
    assert server.request("GET", path).json["content"] == "for who is there"


def test_a_client_that_ends_its_side_is_answered_but_for_a_receive(server: Server, queue: str, proxy: Proxy) -> None:
    path = f"/queues/{queue}/messages"
    for request in (ask("POST", path, b'{"content":1}'), ask("GET", f"{path}/1"), ask("GET", "/status")):
        proxy.plan = Plan(request_bytes=len(request), ending="half")
        assert said(proxy, request).startswith(b"HTTP/1.1 20")
    receive = ask("GET", f"{path}?wait=60")
    proxy.plan = Plan(request_bytes=len(receive), ending="half")
    got = said(proxy, receive)
    now = counted(server, queue)
    assert (now["ready"], now["received"]) == ((1, 0) if not got else (0, 1))


# --- pieces -------------------------------------------------------------


@pytest.mark.parametrize("plan", [Plan(piece_bytes=1), Plan(piece_bytes=3), Plan(delay_s=0.05)])
def test_it_does_not_matter_how_the_bytes_come(server: Server, queue: str, proxy: Proxy, plan: Plan) -> None:
    proxy.plan = plan
    path = f"/queues/{queue}/messages"
    with Wire(proxy.port) as wire:
        for number in range(1, 4):
            wire.send(ask("POST", path, b'{"content":%d}' % number))
        wire.send(ask("GET", f"{path}?max=3"))
        assert [wire.expect().json for _ in range(3)] == [{"id": number} for number in range(1, 4)]
        assert [message["content"] for message in wire.expect().json["messages"]] == [1, 2, 3]


# --- chance -------------------------------------------------------------


class Stubborn(Client):
    """Goes on whatever the network does. What it got no answer to is over when the server has said something else."""

    server: Server

    def run(self) -> None:
        try:
            while self._place.after(0):
                connection = http.client.HTTPConnection("127.0.0.1", self._place.port, timeout=5)
                while self._ask(connection, 1):
                    pass
                connection.close()
        except BaseException as failure:
            self.failure = failure

    def learn(self, request: Ask, answer: Answer) -> None:
        if not answer.status:
            settle(self.server)
            answer = replace(answer, returned=monotonic_ns())
        super().learn(request, answer)


class StubbornLeaser(Stubborn, leasing.Leaser):
    pass


class StubbornProducer(Stubborn, removing.Producer):
    pass


class StubbornConsumer(Stubborn, removing.Consumer):
    pass


def any_plan(chance: random.Random) -> Plan:
    """Most connections live for some requests, before they are cut in one or in an answer."""
    most = chance.randrange(1, 8_000)
    return Plan(
        request_bytes=most if chance.random() < 0.5 else None,
        answer_bytes=chance.randrange(0, 8_000),
        ending=chance.choice(("fin", "reset")),
        piece_bytes=chance.choice((1 << 20, 1_000, 100)),
        delay_s=chance.choice((0, 0, 0, 0.001)),
    )


def cut_off(requests: list[Any], *operations: str) -> int:
    return sum(request.outcome == "unknown" and request.operation in operations for request in requests)


@pytest.mark.parametrize("seconds", [CHAOS_SECONDS, pytest.param(60, marks=pytest.mark.slow)])
def test_no_promise_breaks_on_a_network_that_does(tmp_path: Path, seconds: float) -> None:
    seed = time.time_ns() % 1_000_000
    print(f"seed {seed}")
    chance, recorder, place = random.Random(seed), Recorder(), Place()
    requests: list[Request] = []
    with sound_server(tmp_path / "data") as server, Proxy(server.port, lambda: any_plan(chance)) as proxy:
        for name, settings in (*((name, {}) for name in removing.QUEUES), *leasing.QUEUES.items()):
            server.request("POST", "/queues", {"name": name, **settings})
        Stubborn.server = server
        clients: list[Client] = [StubbornLeaser(f"leaser {n}", seed, place, requests) for n in range(4)]
        clients += [StubbornProducer(f"producer {n}", seed, place, recorder) for n in range(2)]
        clients += [StubbornConsumer(f"consumer {n}", seed, place, recorder) for n in range(2)]
        for client in clients:
            client.start()
        place.announce(proxy.port)
        over_s = time.monotonic() + seconds

        def is_enough() -> bool:
            """So much was cut off of each kind, however busy the machine is."""
            lived, moved = list(requests), list(recorder.operations)
            kinds = (each for name in ("send", "receive") for each in (cut_off(lived, name), cut_off(moved, name)))
            return min(kinds) > seconds and cut_off(lived, "settle", "transact") > 0

        wait_until(
            lambda: any(client.failure for client in clients) or (time.monotonic() > over_s and is_enough()),
            seconds + 60,
        )
        place.end()
        for client in clients:
            client.finish()
        left = removing.remove_all(server)
        leasing.Leaser("the end", seed, place, requests).drain(server)
        ended = {name: leasing.counters(server, name) for name in leasing.QUEUES}
    at_any_time = Kill(0, NEVER, NEVER)  # the network may have cut off any request, and the server was always there
    recorder.kills.append(at_any_time)
    lives = leasing.lives(requests, [at_any_time], ended)
    lived, moved = leasing.life_figures(lives), removing.figures(recorder.history(left))
    print({name: number for name, number in sorted((lived + moved).items()) if "unknown" in name or "ok" in name})
    for name in ("unknown sends", "unknown receives"):
        assert min(lived[name], moved[name]) >= seconds, name
    assert check_lives(lives) == []
    assert check(recorder.history(left)) == []
