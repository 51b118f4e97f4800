"""`tq receive --exec`: a message whose command does not end well comes back."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.harness import Server, sound_server, wait_until
from tests.remote import Begun, contents, held, run_alone, wait_for, well
from tests.test_receive import sent, totals
from tq.errors import EXIT_COMMAND, EXIT_EMPTY, EXIT_INTERRUPTED

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("exec") / "data") as running:
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    name = f"q{next(NUMBERS)}"
    server.request("POST", "/queues", {"name": name})
    return name


def is_alive(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def pid_in(path: Path) -> int:
    """When the command has written it there."""
    wait_until(lambda: path.exists() and path.read_text().endswith("\n"), 30)
    return int(path.read_text())


def test_a_command_gets_content_and_what_is_known_of_the_message(server: Server, queue: str, tmp_path: Path) -> None:
    body = b'{"content":"t\xc3\xa4xt","priority":3,"group":"g","headers":{"h":"\\u0000v"},"dedup_id":"d"}'
    server.request("POST", f"/queues/{queue}/messages", body)
    server.request("POST", f"/queues/{queue}/messages", b"\xff\x00" * 100_000, {"Content-Type": "image/png"})
    sent(server, queue, {"a": 1})
    command = 'cat > "$TQ_ID"; env | grep ^TQ_ | sort >> said'
    os_path = os.environ["PATH"]
    ran = well(
        run_alone(server.url, "receive", queue, "--max", "5", "--exec", f"cd {tmp_path}; {command}", PATH=os_path)
    )
    assert ran.out == b""
    assert (tmp_path / "1").read_text() == "täxt"
    assert (tmp_path / "2").read_bytes() == b"\xff\x00" * 100_000
    assert (tmp_path / "3").read_text() == '{"a": 1}'
    said = (tmp_path / "said").read_text().splitlines()
    for line in (
        f"TQ_QUEUE={queue}", "TQ_ID=1", "TQ_RECEIVE_COUNT=1", "TQ_PRIORITY=3", "TQ_GROUP=g", "TQ_DEDUP_ID=d",
        'TQ_HEADERS={"h":"\\u0000v"}', "TQ_CONTENT_TYPE=image/png", f"TQ_URL={server.url}"
    ):  # fmt: skip
        assert line in said
    assert totals(server, queue)["acked"] == 3
    assert run_alone(server.url, "receive", queue, "--exec", "cat").code == EXIT_EMPTY


@pytest.mark.parametrize(
    ("command", "why"),
    [("exit 3", "the command ended with 3"), ("kill -9 $$", "the command was ended by SIGKILL")],
)
def test_a_command_that_fails_or_is_killed_gives_its_message_back(
    server: Server, queue: str, command: str, why: str
) -> None:
    sent(server, queue, "a", "b")
    ran = run_alone(server.url, "receive", queue, "--exec", command, "--retry-delay", "0")
    assert (ran.code, ran.err) == (EXIT_COMMAND, f"tq: Message 1 is released: {why}.\n")
    assert totals(server, queue)["released"] == 1
    assert contents(server, queue) == ["a", "b"]


def test_a_message_that_fails_is_not_tried_again_at_once(server: Server, queue: str) -> None:
    """Nor does it keep others from being handled."""
    sent(server, queue, "bad", "good")
    command = 'test "$(cat)" = good'
    with Begun(server.url, "receive", queue, "--follow", "--exec", command, "--retry-delay", "300") as receiving:
        wait_until(lambda: totals(server, queue)["acked"] == 1, 30)
        assert held(server, queue) == {"ready": 0, "in_flight": 0, "delayed": 1, "blocked": 0}
        receiving.signal()
        assert receiving.end().code == EXIT_INTERRUPTED


@pytest.mark.parametrize("trap", ["", pytest.param("trap '' TERM; ", marks=pytest.mark.slow)])
def test_a_command_that_hangs_is_ended_with_all_that_it_began(
    server: Server, queue: str, tmp_path: Path, trap: str
) -> None:
    """Also where neither it nor what it began cares for SIGTERM."""
    sent(server, queue, "a")
    child = tmp_path / "child"
    command = f"{trap}sh -c 'echo $$ > {child}; while :; do sleep 0.1; done'; sleep 100"
    with Begun(
        server.url, "receive", queue, "--exec", command, "--timeout", "0.5", "--retry-delay", "0", "--lease", "1"
    ) as receiving:
        pid = pid_in(child)
        ran = receiving.end()
    assert (ran.code, ran.err) == (EXIT_COMMAND, "tq: Message 1 is released: the command took too long.\n")
    assert totals(server, queue)["timed_out"] == 0
    wait_until(lambda: not is_alive(pid), 30)
    assert contents(server, queue) == ["a"]


def test_the_lease_lasts_as_long_as_the_command(server: Server, queue: str, tmp_path: Path) -> None:
    sent(server, queue, "a")
    with Begun(
        server.url, "receive", queue, "--lease", "1", "--exec", f"until test -e {tmp_path}/go; do sleep 0.1; done"
    ) as receiving:
        wait_for(server, queue, in_flight=1)
        peek = f"/queues/{queue}/peek?state=in_flight"
        began = server.request("GET", peek).json["messages"][0]["visible_at"]
        over_s = time.monotonic() + 30
        while server.request("GET", peek).json["messages"][0]["visible_at"][:19] <= began[:19]:
            assert time.monotonic() < over_s
        (tmp_path / "go").touch()
        well(receiving.end())
    assert totals(server, queue).items() >= {"acked": 1, "timed_out": 0}.items()


def test_a_command_that_is_not_there_ends_it_and_loses_nothing(server: Server, queue: str) -> None:
    sent(server, queue, *range(5))
    ran = run_alone(server.url, "receive", queue, "--follow", "--jobs", "2", "--exec", "no-such-command")
    assert ran.code == EXIT_COMMAND
    assert "the shell cannot run the command (127), and no more are tried" in ran.err
    assert totals(server, queue)["received"] <= 2
    assert sum(held(server, queue).values()) == 5


@pytest.mark.slow
def test_commands_run_beside_each_other(server: Server, queue: str, tmp_path: Path) -> None:
    """Each waits for the other two."""
    sent(server, queue, *range(3))
    command = f"cd {tmp_path}; touch $TQ_ID; until test -e 1 -a -e 2 -a -e 3; do sleep 0.05; done"
    well(run_alone(server.url, "receive", queue, "--max", "3", "--jobs", "3", "--exec", command))
    assert totals(server, queue)["acked"] == 3


def test_a_signal_waits_for_what_runs_and_a_second_one_ends_it(server: Server, queue: str, tmp_path: Path) -> None:
    sent(server, queue, "a", "b", "c")
    command = f"cd {tmp_path}; touch $TQ_ID; test $TQ_ID = 2 && sleep 1000; until test -e go; do sleep 0.05; done"
    with Begun(server.url, "receive", queue, "--follow", "--jobs", "2", "--exec", command) as receiving:
        wait_until(lambda: (tmp_path / "1").exists() and (tmp_path / "2").exists(), 30)
        receiving.signal()
        assert receiving.complaint() == "tq: Waiting for 2 commands; once more to end what runs.\n"
        (tmp_path / "go").touch()
        wait_until(lambda: totals(server, queue)["acked"] == 1, 30)
        receiving.signal(signal.SIGTERM)
        ran = receiving.end()
    assert ran.code == EXIT_INTERRUPTED
    assert ran.err == "tq: Message 2 is released: the command was interrupted.\ntq: Interrupted.\n"
    assert contents(server, queue) == ["b", "c"]


@pytest.mark.slow
def test_a_killed_consumer_gives_back_what_its_commands_had(server: Server, queue: str, tmp_path: Path) -> None:
    sent(server, queue, "a")
    command = f"echo $$ > {tmp_path}/pid; exec sleep 1000"
    with Begun(server.url, "receive", queue, "--lease", "1", "--exec", command) as receiving:
        pid = pid_in(tmp_path / "pid")
        receiving.process.kill()
    wait_for(server, queue, ready=1)
    os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
def test_a_command_outlasts_a_restart_of_the_server(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    port = str(server.port)
    server.request("POST", "/queues", {"name": "q"})
    sent(server, "q", "a", "b")
    command = f"touch {tmp_path}/$TQ_ID; until test -e {tmp_path}/go; do sleep 0.05; done"
    with Begun(server.url, "receive", "q", "--max", "2", "--exec", command) as receiving:
        wait_until((tmp_path / "1").exists, 30)
        server.kill()
        server = start("--port", port)
        (tmp_path / "go").touch()
        well(receiving.end())
    assert totals(server, "q").items() >= {"acked": 2, "timed_out": 0}.items()


def test_headers_that_no_environment_holds_fail_one_message_only(server: Server, queue: str) -> None:
    sent(server, queue, "big", headers={"h": "\x01" * 60_000})
    sent(server, queue, "small")
    ran = run_alone(server.url, "receive", queue, "--max", "2", "--exec", "cat", "--retry-delay", "300")
    assert (ran.code, ran.out) == (EXIT_COMMAND, b"small")
    assert "Message 1 is released: the command cannot be started" in ran.err
