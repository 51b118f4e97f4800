"""What the clients make of a server that is none of tq's, is broken, or means harm: an error, and soon."""

from __future__ import annotations

import gzip
import math
import threading
from typing import Any

import httpx
import pytest

import tq
from tests.both import Awaited, Blocking
from tests.harness import wait_until
from tests.remote import Begun, run_alone
from tests.scripted import Scripted, answer, problem
from tq.client.calls import FREELY, Call
from tq.client.errors import MAX_TOLD
from tq.client.retrying import MAX_AFTER_S, MAX_PAUSE_S, Tries
from tq.errors import EXIT_INTERRUPTED, EXIT_REFUSED, InvalidRequest, Overloaded

LEASED = b'{"messages":[{"id":1,"content":1,"sent_at":"2026-01-01T00:00:00Z","receipt":"1-a"}]}'


@pytest.fixture(params=[Blocking, Awaited])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.mark.parametrize(
    "said",
    [
        answer(200, b"<html>Log in</html>"),
        answer(200),
        answer(200, b"[]"),
        answer(200, b"{}"),
        answer(200, b'{"\xff":1}'),
        answer(200, b'{"x":' * 100_000),
        answer(200, b"none", "Content-Encoding: gzip"),
        answer(200, gzip.compress(b" " * 100_000_000), "Content-Encoding: gzip"),
        answer(302, b"", "Location: http://127.0.0.1:1/"),
        answer(304),
        answer(400, b'{"x":' * 100_000),
    ],
    ids=lambda said: repr(said[:12] + said[-12:]),
)
def test_an_answer_that_is_not_tqs_is_an_error_of_tq(kind: Any, said: bytes) -> None:
    with Scripted(said) as scripted:
        client = kind(scripted.url, retry_seconds=0)
        for ask in (lambda: client.queue("q"), client.queues, client.status, lambda: client.send("q", 1)):
            with pytest.raises(tq.UnknownError, match="not tq's"):
                ask()
        client.close()
    assert len(scripted.asked) == 4


@pytest.mark.parametrize("said", [b'{"results":[]}', b'{"results":[{"status":"acked"},{"status":"acked"}]}', b"{}"])
def test_an_answer_of_other_messages_than_were_asked_about_is_an_error(kind: Any, said: bytes) -> None:
    with Scripted(answer(200, LEASED), answer(200, said)) as scripted:
        client = kind(scripted.url)
        messages = client.receive("q", max=1)
        with pytest.raises(tq.UnknownError):
            client.ack_many(messages)
        client.close()


def test_a_consumer_ends_with_the_error_of_an_answer_that_is_not_tqs() -> None:
    with (
        Scripted(answer(200, b"<html>")) as scripted,
        tq.Client(scripted.url) as client,
        pytest.raises(tq.UnknownError),
        client.consume("q") as messages,
    ):
        next(iter(messages))


def test_what_is_said_of_an_error_has_a_bound(kind: Any) -> None:
    body = b'{"code":"invalid_request","detail":"%b"}' % (b"A" * 3_000_000)
    with Scripted(answer(400, body)) as scripted:
        client = kind(scripted.url)
        with pytest.raises(InvalidRequest) as raised:
            client.queue("q")
        client.close()
    assert len(str(raised.value)) <= MAX_TOLD + 100


@pytest.mark.parametrize("retry_after", ["1000000000", "9" * 12, "9" * 400])
def test_who_goes_on_for_ever_comes_back_soon_whatever_the_server_says(retry_after: str) -> None:
    tries = Tries(Call("GET", "/", repeat_s=FREELY, looks=True), math.inf, 10)
    assert tries.answered(503, b"", {"retry-after": retry_after}.get) is None
    assert tries.pause_s <= MAX_AFTER_S + MAX_PAUSE_S
    with Scripted(problem(503, "overloaded", f"Retry-After: {retry_after}")) as scripted:
        with tq.Client(scripted.url, retry_seconds=5) as client, pytest.raises(Overloaded):
            client.queue("q")  # who does not go on for ever learns at once that it is too long
        assert len(scripted.asked) == 1
        with tq.Client(scripted.url) as client, client.consume("q") as messages:
            ending = threading.Timer(0.3, messages.stop)
            ending.start()
            assert list(messages) == []  # it waits, and can be stopped
            ending.join()


def test_a_server_may_be_away_for_days() -> None:
    tries = Tries(Call("GET", "/", repeat_s=FREELY, looks=True), math.inf, 10)
    for _ in range(5_000):
        tries.failed(httpx.ConnectError("refused"))
        assert tries.pause_s <= MAX_PAUSE_S


def test_following_asks_a_server_that_is_busy_no_more_than_once_a_second() -> None:
    with (
        Scripted(problem(503, "overloaded", "Retry-After: 5")) as scripted,
        Begun(scripted.url, "receive", "q", "--follow") as following,
    ):
        wait_until(lambda: len(scripted.asked) >= 3, 30)
        following.signal()
        assert following.end().code == EXIT_INTERRUPTED
    assert scripted.asked_s[2] - scripted.asked_s[0] > 1.5


@pytest.mark.parametrize("arguments", [["queues"], ["receive", "q"], ["receive", "q", "--exec", "true"]])
def test_a_command_says_in_a_sentence_that_the_answer_is_not_tqs(arguments: list[str]) -> None:
    with Scripted(answer(200, b"<html>\x1b[31m")) as scripted:
        ran = run_alone(scripted.url, *arguments)
    assert (ran.code, ran.out) == (EXIT_REFUSED, b"")
    assert ran.err.startswith("tq: The answer is not tq's")
    assert ran.err.count("\n") == 1
    assert "\x1b" not in ran.err
