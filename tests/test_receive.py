"""`tq receive`: a message is handed over or comes back, whatever happens to the command, its reader or the server."""

from __future__ import annotations

import itertools
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Server, sound_server, wait_until
from tests.remote import Begun, contents, held, run_alone, wait_for, well
from tq.errors import EXIT_DATA, EXIT_EMPTY, EXIT_INTERRUPTED, EXIT_NO_QUEUE

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("receive") / "data") as running:
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    name = f"q{next(NUMBERS)}"
    server.request("POST", "/queues", {"name": name})
    return name


def sent(server: Server, queue: str, *contents: object, **said: object) -> None:
    batch = [{"content": content, **said} for content in contents]
    assert server.request("POST", f"/queues/{queue}/messages", batch).status == 201


def totals(server: Server, queue: str) -> dict[str, int]:
    counted: dict[str, int] = server.request("GET", f"/queues/{queue}").json["totals"]
    return counted


# --- to stdout -------------------------------------------------------------


def test_messages_are_printed_as_the_server_has_them_and_acknowledged(server: Server, queue: str) -> None:
    body = b'{"content":{"a": 1.10},"priority":3,"group":"g","headers":{"h":"v"},"dedup_id":"d","ttl":999}'
    server.request("POST", f"/queues/{queue}/messages", body)
    server.request("POST", f"/queues/{queue}/messages", b"\xff", {"Content-Type": "image/png"})
    server.request("POST", f"/queues/{queue}/messages", b"<a>", {"Content-Type": "text/html"})
    server.request("POST", f"/queues/{queue}/messages", b'{"content":[1,\n2]}')
    wanted = [
        {name: value for name, value in message.items() if name != "state"} | {"receive_count": 1}
        for message in server.request("GET", f"/queues/{queue}/peek").json["messages"]
    ]
    ran = well(run_alone(server.url, "receive", queue, "--max", "9"))
    assert ran.lines == wanted
    assert b'"content":{"a": 1.10},' in ran.out
    assert totals(server, queue)["acked"] == 4


def test_contents_alone_are_what_was_sent(server: Server, queue: str) -> None:
    sent(server, queue, "text", {"a": [1]}, "ä\x1b")
    server.request("POST", f"/queues/{queue}/messages", b"\xff\n\x00", {"Content-Type": "image/png"})
    assert run_alone(server.url, "receive", queue, "--raw").out == b"text"
    assert run_alone(server.url, "receive", queue, "--raw", "--max", "2").out == b'{"a": [1]}\n' + "ä\x1b\n".encode()
    assert run_alone(server.url, "receive", queue, "--raw").out == b"\xff\n\x00"


def test_when_there_is_none_that_is_an_exit_code_of_its_own(server: Server, queue: str) -> None:
    ran = run_alone(server.url, "receive", queue)
    assert (ran.code, ran.out, ran.err) == (EXIT_EMPTY, b"", "")
    assert run_alone(server.url, "receive", "nowhere").code == EXIT_NO_QUEUE


@pytest.mark.slow
def test_a_receive_waits_as_long_as_it_is_told(server: Server, queue: str) -> None:
    with Begun(server.url, "receive", queue, "--raw", "--wait", "60") as receiving:
        wait_until(lambda: receiving.process.poll() is None and has_connection(receiving), 30)
        sent(server, queue, "late")
        assert receiving.end().out == b"late"


def has_connection(begun: Begun) -> bool:
    links = [str(path.readlink()) for path in Path(f"/proc/{begun.process.pid}/fd").iterdir() if path.is_symlink()]
    return sum("socket:" in link for link in links) > 2  # two wake the event loop


@pytest.mark.slow
def test_thousands_are_received_in_order(server: Server, queue: str) -> None:
    sent(server, queue, *range(2_500))
    ran = well(run_alone(server.url, "receive", queue, "--raw", "--max", "2400"))
    assert ran.out.split() == [b"%d" % number for number in range(2_400)]
    assert contents(server, queue) == list(range(2_400, 2_500))


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_ends_following_and_nothing_is_leased_then(server: Server, queue: str, signum: signal.Signals) -> None:
    with Begun(server.url, "receive", queue, "--follow") as following:
        for number in range(3):
            sent(server, queue, number)
            assert json.loads(following.line())["content"] == number
        wait_until(lambda: totals(server, queue)["acked"] == 3, 30)
        following.signal(signum)
        ran = following.end()
    assert (ran.code, ran.err) == (EXIT_INTERRUPTED, "tq: Interrupted.\n")
    assert sum(held(server, queue).values()) == 0


def test_what_a_reader_does_not_take_goes_back(server: Server, queue: str) -> None:
    """It fills the pipe, and is interrupted. What the lease was extended for meanwhile is not received by others."""
    sent(server, queue, *["x" * 500_000] * 3)
    with Begun(server.url, "receive", queue, "--follow", "--lease", "1") as following:
        wait_for(server, queue, in_flight=3)
        extended = server.request("GET", f"/queues/{queue}/peek?state=in_flight").json["messages"][0]["visible_at"]
        wait_until(
            lambda: (
                server.request("GET", f"/queues/{queue}/peek?state=in_flight").json["messages"][0]["visible_at"]
                > extended
            ),
            30,
        )
        assert totals(server, queue)["timed_out"] == 0
        following.signal()
        following.process.wait(30)
    assert held(server, queue) == {"ready": 3, "in_flight": 0, "delayed": 0, "blocked": 0}
    assert totals(server, queue)["released"] == 3


def test_what_is_written_for_nobody_goes_back(server: Server, queue: str) -> None:
    with Begun(server.url, "receive", queue, "--follow") as following:
        sent(server, queue, 1)
        following.line()
        assert following.process.stdout
        following.process.stdout.close()
        following.process.stdout = None
        sent(server, queue, 2)
        ran = following.end()
    assert (ran.code, ran.err) == (EXIT_INTERRUPTED, "")
    assert contents(server, queue) == [2]


def test_what_the_disk_has_no_room_for_goes_back(server: Server, queue: str, small_disk: Path) -> None:
    sent(server, queue, "x" * 700_000, *range(3))
    (small_disk / "filler").write_bytes(bytes(7_900_000))
    with (
        (small_disk / "out").open("wb") as file,
        Begun(server.url, "receive", queue, "--max", "9", stdout=file.fileno()) as receiving,
    ):
        ran = receiving.end()
    assert (ran.code, ran.err) == (EXIT_DATA, "tq: stdout: No space left on device.\n")
    assert held(server, queue)["ready"] == 4


@pytest.mark.slow
def test_what_a_killed_command_had_comes_back_when_the_lease_is_over(server: Server, queue: str) -> None:
    sent(server, queue, "x" * 500_000)
    with Begun(server.url, "receive", queue, "--lease", "1") as receiving:
        wait_for(server, queue, in_flight=1)
        receiving.process.kill()
        wait_for(server, queue, ready=1)
    assert totals(server, queue)["timed_out"] == 1


@pytest.mark.slow
def test_following_outlasts_a_restart_of_the_server(start: Callable[..., Server]) -> None:
    server = start()
    port = str(server.port)
    server.request("POST", "/queues", {"name": "q"})
    sent(server, "q", 1)
    with Begun(server.url, "receive", "q", "--follow", "--raw") as following:
        assert following.line() == b"1\n"
        wait_until(lambda: totals(server, "q")["acked"] == 1, 30)
        server.kill()
        assert following.complaint().endswith(" It is tried again.\n")
        server = start("--port", port)
        sent(server, "q", 2)
        assert following.line() == b"2\n"
        wait_until(lambda: totals(server, "q")["acked"] == 2, 30)
        following.signal()
        assert following.end().code == EXIT_INTERRUPTED
