"""`tq queues`, `create`, `purge`, `redrive`, `delete`, `peek`, `bench` and `completion`."""

from __future__ import annotations

import itertools
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import click
import msgspec
import pytest

from tests.guarded import Guarded
from tests.harness import ROOT, Server, sound_server, wait_until
from tests.remote import Begun, environment, held, run, run_alone, well
from tq.cli.queues import SETTINGS
from tq.errors import EXIT_DATA, EXIT_EMPTY, EXIT_INTERRUPTED, EXIT_NO_QUEUE, EXIT_REFUSED, EXIT_UNREACHABLE, EXIT_USAGE
from tq.model import QueueSettings

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("queues") / "data") as running:
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    name = f"q{next(NUMBERS)}"
    server.request("POST", "/queues", {"name": name})
    return name


def shown(server: Server, queue: str) -> Any:
    return server.request("GET", f"/queues/{queue}").json


def test_a_queue_is_made_listed_and_deleted(server: Server) -> None:
    ran = well(run(server.url, "create", "made.one", "--ttl", "60", "--max-messages", "9", "--paused"))
    assert ran.lines == [shown(server, "made.one")]
    assert ran.lines[0].items() >= {"name": "made.one", "ttl": 60, "max_messages": 9, "paused": True}.items()
    assert well(run(server.url, "create", "made.one", "--ttl", "60", "--max-messages", "9", "--paused")).code == 0
    again = run(server.url, "create", "made.one")
    assert (again.code, again.err) == (EXIT_REFUSED, "tq: The queue 'made.one' exists with other settings.\n")
    dead = ("--dead-letter", "made.one", "--max-receives", "7", "--on-expiry")
    assert well(run(server.url, "create", "made.two", *dead)).lines[0]["dead_letter"] == {
        "queue": "made.one", "max_receives": 7, "on_expiry": True, "on_receive": False}  # fmt: skip
    assert [each["name"] for each in well(run(server.url, "queues", "made.")).lines] == ["made.one", "made.two"]
    assert well(run(server.url, "delete", "made.two")).lines == [{"deleted": "made.two"}]
    gone = run(server.url, "delete", "made.two")
    assert (gone.code, "tq create makes one" in gone.err) == (EXIT_NO_QUEUE, True)
    assert well(run(server.url, "queues", "made.")).lines == [shown(server, "made.one")]
    assert well(run(server.url, "queues", "no-such")).out == b""


def test_every_setting_of_a_queue_is_an_option() -> None:
    assert {*SETTINGS, "dead_letter"} == {field.name for field in msgspec.structs.fields(QueueSettings)}


def test_a_queue_with_messages_is_kept_where_that_is_asked(server: Server, queue: str) -> None:
    server.request("POST", f"/queues/{queue}/messages", {"content": 1})
    assert run(server.url, "delete", queue, "--if-empty").code == EXIT_REFUSED
    assert well(run(server.url, "purge", queue)).lines == [{"purged": 1}]
    well(run(server.url, "delete", queue, "--if-empty"))


def test_dead_letters_are_moved_back(server: Server, queue: str) -> None:
    target = f"{queue}.back"
    server.request("POST", "/queues", {"name": target})
    server.request("POST", f"/queues/{queue}/messages", [{"content": n} for n in range(3)])
    assert well(run(server.url, "redrive", queue)).lines == [{"moved": 0}]  # they came from nowhere
    assert well(run(server.url, "redrive", queue, "--to", target, "--limit", "2")).lines == [{"moved": 2}]
    assert (held(server, queue)["ready"], held(server, target)["ready"]) == (1, 2)
    assert run(server.url, "redrive", queue, "--to", "nowhere").code == EXIT_NO_QUEUE


def test_a_peek_changes_nothing(server: Server, queue: str) -> None:
    server.request("POST", f"/queues/{queue}/messages", [{"content": n} for n in range(150)])
    server.request("POST", f"/queues/{queue}/messages", {"content": "later", "delay": 99})
    assert [each["content"] for each in well(run(server.url, "peek", queue)).lines] == list(range(10))
    assert len(well(run(server.url, "peek", queue, "--limit", "1000")).lines) == 150
    assert well(run(server.url, "peek", queue, "--state", "delayed", "--raw")).out == b"later\n"
    assert run(server.url, "peek", queue, "--state", "blocked").code == EXIT_EMPTY
    assert held(server, queue)["ready"] == 150


def test_a_token_is_shown_to_a_server_that_asks(guarded: Guarded) -> None:
    url = guarded.server.url
    refused = run(url, "queues")
    assert (refused.code, refused.err.count("\n")) == (EXIT_REFUSED, 1)
    assert "token" in refused.err
    assert [each["name"] for each in well(run(url, "queues", "--token", guarded.all)).lines] == ["orders", "other"]
    well(run(url, "send", "orders", "y", "--token", guarded.shop))
    assert well(run_alone(url, "receive", "orders", "--raw", TQ_TOKEN=guarded.shop)).out == b"y"
    assert run(url, "purge", "orders", "--token", guarded.shop).code == EXIT_REFUSED
    well(run(url, "send", "orders", "x", "--token", guarded.shop))
    command = f'test "$TQ_TOKEN" = {guarded.shop}'  # so it can speak to the server too
    well(run_alone(url, "receive", "orders", "--exec", command, "--token", guarded.shop))


@pytest.mark.parametrize(
    ("arguments", "closed", "code"),
    [
        ("receive {queue}", ">&-", EXIT_DATA),
        ("send {queue}", "<&-", EXIT_USAGE),
        pytest.param("queues", ">&-", EXIT_DATA, marks=pytest.mark.slow),
        pytest.param("send {queue} --lines", "2>&- </dev/null", 0, marks=pytest.mark.slow),
        pytest.param("top --once --interval 0.1", "<&- 2>&-", 0, marks=pytest.mark.slow),
    ],
)
def test_what_is_closed_is_said(server: Server, queue: str, arguments: str, closed: str, code: int) -> None:
    server.request("POST", f"/queues/{queue}/messages", {"content": 1})
    line = f"{sys.executable} -m tq {arguments.format(queue=queue)} {closed}"
    ran = subprocess.run(["sh", "-c", line], cwd=ROOT, env=environment(server.url), capture_output=True, check=False)
    assert ran.returncode == code, ran
    assert b"Traceback" not in ran.stderr
    assert ran.stderr.count(b"\n") == (code > 0)
    assert held(server, queue)["ready"] == 1


def test_what_answers_but_is_no_server_of_tq_is_said(server: Server) -> None:
    ran = run(f"{server.url}/some/path", "queues")
    assert (ran.code, ran.err.count("\n")) == (EXIT_REFUSED, 1)


def test_without_httpx_it_is_said_how_to_install_it() -> None:
    code = "import sys; sys.modules['httpx'] = None; from tq.cli import main; main(['queues'])"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == EXIT_USAGE
    assert ran.stderr == "tq: The client needs httpx: pip install 'tq[client]'.\n"


# --- top -------------------------------------------------------------


def test_top_tells_rates(server: Server, queue: str) -> None:
    with Begun(server.url, "top", queue, "--interval", "0.3") as watching:
        first = msgspec.json.decode(watching.line())["queues"][0]
        assert first.items() >= {"name": queue, "ready": 0, "sent_per_second": 0}.items()
        server.request("POST", f"/queues/{queue}/messages", [{"content": n} for n in range(300)])
        server.request("GET", f"/queues/{queue}/messages?max=100")
        rates = []
        while not any(rate["acked_per_second"] for rate in rates):
            rates.append(msgspec.json.decode(watching.line())["queues"][0])
        watching.signal()
        assert watching.end().code == EXIT_INTERRUPTED
    for name, count in (("sent", 300), ("received", 100), ("acked", 100)):
        rate = sum(each[f"{name}_per_second"] for each in rates)  # of looks 0.3 s apart, or more where it is busy
        assert count / 3 < rate <= count / 0.29
    assert rates[-1]["ready"] == 200


@pytest.mark.slow
def test_top_goes_on_when_the_server_is_away(start: Callable[..., Server]) -> None:
    server = start()
    port = str(server.port)
    with Begun(server.url, "top", "--interval", "0.1") as watching:
        assert msgspec.json.decode(watching.line())["queues"] == []
        server.kill()
        while "error" not in (look := msgspec.json.decode(watching.line())):
            pass
        assert server.url in look["error"]
        server = start("--port", port)
        while "queues" not in msgspec.json.decode(watching.line()):
            pass


def test_top_of_no_server_ends(server: Server) -> None:
    ran = run("http://127.0.0.1:1", "top", "--once")
    assert (ran.code, "see that tq serve runs there" in ran.err) == (EXIT_UNREACHABLE, True)


def test_a_command_that_is_mistyped_gets_the_nearest_one(server: Server) -> None:
    ran = run(server.url, "sned")
    assert (ran.code, "Did you mean 'send'?" in ran.err) == (EXIT_USAGE, True)
    far = run(server.url, "xyzzy")
    assert (far.code, "Did you mean" in far.err) == (EXIT_USAGE, False)


def test_a_priority_out_of_range_is_named_by_its_option(server: Server, queue: str) -> None:
    ran = run(server.url, "send", queue, "x", "--priority", "10")
    assert (ran.code, "'--priority'" in ran.err) == (EXIT_USAGE, True)


# --- bench -------------------------------------------------------------


def test_bench_measures_and_leaves_nothing(server: Server) -> None:
    before = server.request("GET", "/status").json["queues"]
    ran = well(
        run_alone("http://127.0.0.1:1", "bench", server.url, "--seconds", "0.3", "--connections", "4", "--size", "7")
    )
    [found] = ran.lines
    assert (found["connections"], found["bytes"]) == (4, 7)
    for name in ("send", "lease, ack", "receive"):
        part = found[name]
        assert part["per_second"] > 0
        assert 0 < part["p50_ms"] <= part["p90_ms"] <= part["p99_ms"] <= part["p99.9_ms"] <= part["max_ms"]
        assert 0 < part["load_cores"] <= 1.1
    assert server.request("GET", "/status").json["queues"] == before


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_bench_leaves_nothing(server: Server, signum: signal.Signals) -> None:
    def benched() -> list[Any]:
        queues: list[Any] = server.request("GET", "/queues?prefix=tq-bench").json["queues"]
        return queues

    with Begun(server.url, "bench", "--seconds", "60") as running:
        wait_until(lambda: any(each["totals"]["sent"] for each in benched()), 30)
        running.signal(signum)
        ran = running.end()
    assert (ran.code, ran.out, ran.err) == (EXIT_INTERRUPTED, b"", "tq: Interrupted.\n")
    assert benched() == []


@pytest.mark.slow
def test_a_bench_that_a_server_ends_says_so(start: Callable[..., Server]) -> None:
    server = start()
    with Begun(server.url, "bench", "--seconds", "60") as running:
        wait_until(lambda: server.request("GET", "/queues").json["queues"], 30)
        server.kill()
        ran = running.end()
    assert ran.code == EXIT_UNREACHABLE
    assert ran.err.startswith("tq: ")
    assert ran.err.count("\n") == 1


# --- completion -------------------------------------------------------------


def completed(url: str, words: str, *more: str) -> list[str]:
    variables = {"_TQ_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1)}
    ran = subprocess.run(
        [sys.executable, "-c", "from tq.cli import main; main(prog_name='tq')"],
        cwd=ROOT, env=environment(url, **variables), capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stderr == ""
    return [line.partition(",")[2] for line in ran.stdout.split()]


def test_a_shell_is_given_commands_options_and_queues(server: Server) -> None:
    for name in ("complete-a", "complete-b"):
        server.request("POST", "/queues", {"name": name})
    assert completed(server.url, "tq re") == ["redrive", "receive", "restore"]
    assert completed(server.url, "tq send --fi") == ["--file"]
    assert completed(server.url, "tq receive complete-") == ["complete-a", "complete-b"]
    assert completed("http://127.0.0.1:1", f"tq create --url {server.url} --dead-letter complete-b") == ["complete-b"]


def test_completion_is_silent_where_no_server_is() -> None:
    assert completed("http://127.0.0.1:1", "tq peek ") == []
    assert completed("nonsense://%%", "tq peek ") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_takes_what_it_is_given(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = well(run("http://127.0.0.1:1", "completion", shell)).out
    check = subprocess.run([shell, "-n"], input=script, capture_output=True, check=False)
    assert (check.returncode, check.stderr) == (0, b"")


def test_every_command_has_help_and_says_nothing_else() -> None:
    from tq.cli import COMMANDS, main

    context = click.Context(main)
    listed = well(run("", "--help")).out.decode()
    for title, section in COMMANDS.items():
        assert f"{title}:\n" in listed
        for name in section:
            assert f"\n  {name} " in listed
            command = main.get_command(context, name)
            assert command
            assert command.help
            assert all(option.help for option in command.params if isinstance(option, click.Option)), name
