"""Commands at a real terminal: what people see, and what must not reach a terminal."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import Server, sound_server, wait_until
from tests.remote import Terminal, held, run_alone, wait_for
from tests.test_receive import sent
from tq.cli.output import escaped, size, span
from tq.cli.showing import json_for_terminal
from tq.errors import EXIT_EMPTY, EXIT_INTERRUPTED

NUMBERS = itertools.count(1)
HOSTILE = "\x1b]0;title\x07 \x1b[31m \x9b2J \x7f \u202e \r\n\x00 end ä 漢"  # sets titles, colours, clears, turns round


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("terminal") / "data") as running:
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    name = f"q{next(NUMBERS)}"
    server.request("POST", "/queues", {"name": name})
    return name


def shown(server: Server, *arguments: str, columns: int = 80, **more: str) -> str:
    with Terminal(server.url, *arguments, columns=columns, **more) as terminal:
        ran = terminal.end()
    assert ran.code == 0, ran
    return ran.out.decode()


def plain(text: str) -> str:
    """Without the styles that tq itself gives to titles."""
    return re.sub(r"\x1b\[[\d;]*m", "", text)


@pytest.mark.parametrize("flag", [None, "--json", pytest.param("--raw", marks=pytest.mark.slow)])
@pytest.mark.parametrize("command", ["receive", pytest.param("peek", marks=pytest.mark.slow)])
def test_no_message_drives_the_terminal(server: Server, queue: str, command: str, flag: str | None) -> None:
    sent(server, queue, HOSTILE, headers={HOSTILE: HOSTILE}, group=HOSTILE)
    text = shown(server, command, queue, *([flag] if flag else []))
    assert {one for one in text if not one.isprintable()} == {"\n"}
    assert "end ä 漢" in text
    if flag == "--json":
        assert json.loads(text)["content"] == HOSTILE


@pytest.mark.slow
def test_no_bytes_drive_the_terminal_and_none_are_lost(server: Server, queue: str) -> None:
    server.request("POST", f"/queues/{queue}/messages", b"\xff\x1b[2J", {"Content-Type": "image/png"})
    text = shown(server, "receive", queue)
    assert "\\xff\\x1b[2J\n" in text
    assert "\x1b" not in text


def test_a_list_of_no_queues_says_so(server: Server) -> None:
    assert plain(shown(server, "queues", "no-such")) == "No queue has a name that begins with 'no-such'.\n"


def test_a_bench_of_no_server_prints_no_heading() -> None:
    with Terminal("http://127.0.0.1:1", "bench", "http://127.0.0.1:1") as terminal:
        ran = terminal.end()
    assert b"a second" not in ran.out


def test_no_error_drives_the_terminal(server: Server) -> None:
    with Terminal(server.url, "send", "x\x1b[2J", "y") as terminal:
        ran = terminal.end()
    assert b"\x1b" not in ran.out
    assert ran.out.startswith(b"tq: ")


def test_people_see_what_a_message_is_and_its_content(server: Server, queue: str) -> None:
    sent(server, queue, {"a": 1}, priority=3, group="g", headers={"h": "v"})
    about, content = shown(server, "receive", queue).splitlines()
    assert re.fullmatch(r"#1 · sent \d+\.\d s ago · priority 3 · group g · h: v", about)
    assert content == '{"a": 1}'
    with Terminal(server.url, "receive", queue) as terminal:
        ran = terminal.end()
    assert (ran.code, ran.out) == (EXIT_EMPTY, f"tq: There is no message in {queue}.\n".encode())


@pytest.mark.slow
def test_a_peek_shows_the_beginning_of_what_is_long(server: Server, queue: str) -> None:
    sent(server, queue, "x" * 5_000)
    assert shown(server, "peek", queue).endswith("\n" + "x" * 1_000 + "… (5,000 bytes)\n")
    assert "x" * 5_000 in shown(server, "receive", queue)


def test_tables_fit_the_terminal(server: Server, queue: str) -> None:
    name = f"wide.{queue}." + "n" * 60
    server.request("POST", "/queues", {"name": name, "paused": True})
    sent(server, name, *range(1_234))
    wide = plain(shown(server, "queues", f"wide.{queue}", columns=150))
    assert re.search(rf"^{name} \(paused\) +1,234 +0 +0 +0 +\d\.\d s +3\.7 KiB", wide, re.MULTILINE), wide
    for command in (("queues",), ("top", "--once", "--interval", "0.1")):
        narrow = plain(shown(server, *command, f"wide.{queue}", columns=40))
        assert max(map(len, narrow.splitlines())) <= 40
        assert "1,234" in narrow
        assert "".join(re.findall(r"^[\w.]+", narrow.partition("ready")[2], re.MULTILINE)).endswith(name)


@pytest.mark.slow
def test_colours_are_left_out_where_that_is_asked(server: Server, queue: str) -> None:
    assert "\x1b[1m" in shown(server, "queues", queue)
    assert "\x1b[3" not in shown(server, "queues", queue, NO_COLOR="1")


@pytest.mark.parametrize(
    ("command", "question"),
    [("purge", "Drop 2 messages"), pytest.param("delete", "with 2 messages?", marks=pytest.mark.slow)],
)
def test_people_are_asked_before_messages_are_dropped(server: Server, queue: str, command: str, question: str) -> None:
    sent(server, queue, 1, 2)
    with Terminal(server.url, command, queue) as terminal:
        terminal.until(question)
        terminal.type("n\n")
        assert terminal.end().code == EXIT_INTERRUPTED
    assert held(server, queue)["ready"] == 2
    with Terminal(server.url, command, queue) as terminal:
        terminal.until(question)
        terminal.type("y\n")
        assert terminal.end().code == 0
    assert server.request("GET", f"/queues/{queue}/messages").status in (204, 404)


@pytest.mark.slow
def test_ctrl_c_at_a_terminal_ends_following(server: Server, queue: str) -> None:
    with Terminal(server.url, "receive", queue, "--follow") as terminal:
        sent(server, queue, "first")
        terminal.until("first")
        wait_for(server, queue, in_flight=0)
        terminal.type("\x03")
        assert terminal.end().code == EXIT_INTERRUPTED


def test_ctrl_c_does_not_reach_a_command(server: Server, queue: str, tmp_path: Path) -> None:
    sent(server, queue, "x")
    command = f"touch {tmp_path}/runs; until test -e {tmp_path}/go; do sleep 0.05; done"
    with Terminal(server.url, "receive", queue, "--follow", "--exec", command) as terminal:
        wait_until((tmp_path / "runs").exists, 30)
        terminal.type("\x03")
        terminal.until("Waiting for 1 command;")
        (tmp_path / "go").touch()
        assert terminal.end().code == EXIT_INTERRUPTED
    assert server.request("GET", f"/queues/{queue}").json["totals"]["acked"] == 1


def test_what_is_typed_is_sent(server: Server, queue: str) -> None:
    with Terminal(server.url, "send", queue) as terminal:
        terminal.until("end it with Ctrl-D")
        terminal.type("typed\n\x04")
        assert terminal.end().code == 0
        assert "Sent as message 1." in terminal.shown
    assert run_alone(server.url, "receive", queue, "--raw").out == b"typed\n"


def test_many_lines_show_how_far_they_are(server: Server, queue: str, tmp_path: Path) -> None:
    file = tmp_path / "lines"
    file.write_bytes(b"line\n" * 20_000)
    text = plain(shown(server, "send", queue, "--lines", "--file", str(file)))
    assert "send ━━" in text
    assert re.search(r"20,000 sent, [\d,]+ a second", text)
    assert re.search(r"20,000 messages sent; .* s, [\d,]+ a second\n$", text)
    assert held(server, queue)["ready"] == 20_000


@pytest.mark.slow
def test_people_are_told_that_the_server_is_waited_for(server: Server, queue: str, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with Terminal(server.url, "send", queue, "--lines", "--file", str(pipe)) as terminal:
        with pipe.open("wb", buffering=0) as lines:
            lines.write(b"line\n")
            wait_for(server, queue, ready=1)
            server.process.send_signal(signal.SIGSTOP)
            lines.write(b"line\n")
        try:
            terminal.until("waiting for the server, 2")
        finally:
            server.process.send_signal(signal.SIGCONT)
        assert terminal.end().code == 0
    assert held(server, queue)["ready"] == 2


def test_top_shows_the_biggest_that_fit_and_ends_with_q(server: Server) -> None:
    for number in range(30):
        server.request("POST", "/queues", {"name": f"top.{number:02}"})
        sent(server, f"top.{number:02}", *range(number + 1))
    with Terminal(server.url, "top", "top.", "--interval", "0.1", lines=20) as terminal:
        text = plain(terminal.until("more"))
        assert re.findall(r"top\.\d\d", text)[:15] == [f"top.{number}" for number in range(29, 14, -1)]
        assert "and 15 queues more" in text
        assert "30 queues, 465 messages" in text
        sent(server, "top.00", *range(1_000))
        terminal.forget()
        terminal.until("1,001")
        terminal.type("q")
        assert terminal.end().code == 0
        assert "\x1b[?1049l" in terminal.shown  # what was there before is there again


@pytest.mark.slow
def test_bench_tells_people_percentiles_and_its_own_part(server: Server) -> None:
    text = shown(server, "bench", "--seconds", "0.2", "--connections", "2", columns=100)
    assert re.search(r"^ +a second +p50 +p90 +p99 +p99\.9 +max$", text, re.MULTILINE)
    assert re.search(r"^lease, ack +[\d,]+( +[\d.]+ ms){5}$", text, re.MULTILINE)
    assert re.search(r"The load took up to \d\.\d\d of a core", text)


def test_figures_are_short() -> None:
    assert [span(each) for each in (None, 0.04, 9.96, 59.4, 61, 3_600, 90_061)] == [
        "", "0.0 s", "10.0 s", "59 s", "1 m 1 s", "1 h 0 m", "1 d 1 h"]  # fmt: skip
    assert [size(each) for each in (0, 999, 1_000, 1 << 20, 1 << 40)] == [
        "0 B",
        "999 B",
        "1.0 KiB",
        "1.0 MiB",
        "1.0 TiB",
    ]


def test_escapes_keep_the_text_readable() -> None:
    assert escaped("a\tb\\ä漢\x1b\u202e🙂\U000e0001") == "a\\tb\\ä漢\\x1b\\u202e🙂\\U000e0001"
    line = json.dumps({"a": HOSTILE + "🙂\U000e0001"}, ensure_ascii=False).encode()
    assert json.loads(json_for_terminal(line)) == json.loads(line)
