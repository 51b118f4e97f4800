"""`tq send`: one message in every form, and lines by the thousand, each once whatever happens."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import Server, sound_server, wait_until
from tests.proxy import Plan, Proxy
from tests.remote import Begun, Ran, contents, held, run, run_alone, well
from tq.errors import EXIT_INTERRUPTED, EXIT_NO_QUEUE, EXIT_REFUSED, EXIT_USAGE

NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with sound_server(tmp_path_factory.mktemp("send") / "data") as running:
        yield running


@pytest.fixture
def queue(server: Server) -> str:
    return made(server)


def made(server: Server, **settings: object) -> str:
    name = f"q{next(NUMBERS)}{'.fifo' * bool(settings.get('fifo'))}"
    assert server.request("POST", "/queues", {"name": name, **settings}).status == 201
    return name


def peeked(server: Server, queue: str) -> list[dict[str, object]]:
    messages = [
        message
        for state in ("ready", "delayed")
        for message in server.request("GET", f"/queues/{queue}/peek?limit=1000&state={state}").json["messages"]
    ]
    for message in messages:
        for name in ("id", "sent_at", "receive_count", "state", "visible_at", "expires_at"):
            message.pop(name, None)
        if "key" not in message.get("dedup_id", ""):
            message.pop("dedup_id")
    return messages


def ndjson(first: int, upto: int) -> bytes:
    return b"".join([b'{"content":%d}\n' % number for number in range(first, upto)])


# --- one message -------------------------------------------------------------


def test_text_is_text_and_json_is_json_where_that_is_said(server: Server, queue: str) -> None:
    assert well(run(server.url, "send", queue, '{"a": 1}')).lines == [{"id": 1}]
    well(run(server.url, "send", queue, '{"a": 1.10}', "--content-json"))
    body = server.request("GET", f"/queues/{queue}/messages?max=2").body
    assert b'"content":"{\\"a\\": 1}"' in body
    assert b'"content":{"a": 1.10}' in body


@pytest.mark.parametrize(
    ("flags", "raw", "shown"),
    [
        ((), "ä\n".encode(), {"content": "ä\n"}),
        ((), b"\xff\x00", {"content": "/wA=", "encoding": "base64", "content_type": "application/octet-stream"}),
        (("--content-type", "image/png"), b"png", {"content": "png", "content_type": "image/png"}),
        (("--content-json",), b'[1,\n 2]', {"content": [1, 2]}),
        (("--header", "a=b=c"), b"\xff", {"content": "/w==", "encoding": "base64",
            "content_type": "application/octet-stream", "headers": {"a": "b=c"}}),
        ((), b"", {"content": ""}),
    ],
)  # fmt: skip
def test_what_comes_on_stdin_or_is_in_a_file_is_one_message(
    server: Server, queue: str, tmp_path: Path, flags: tuple[str, ...], raw: bytes, shown: dict[str, object]
) -> None:
    (tmp_path / "file").write_bytes(raw)
    well(run(server.url, "send", queue, *flags, stdin=raw))
    well(run(server.url, "send", queue, *flags, "--file", tmp_path / "file"))
    assert peeked(server, queue) == [shown, shown]


def test_what_is_said_of_a_message_comes_with_it(server: Server, queue: str) -> None:
    said = ("--delay", "9", "--ttl", "99", "--priority", "7", "--group", "g", "--header", "a=1", "--header", "b=")
    well(run(server.url, "send", queue, "x", *said, "--dedup-id", "key"))
    again = well(run(server.url, "send", queue, "x", *said, "--dedup-id", "key"))
    assert again.lines == [{"id": 1, "duplicate": True}]
    [message] = peeked(server, queue)
    assert message == {
        "content": "x", "priority": 7, "group": "g", "headers": {"a": "1", "b": ""}, "dedup_id": "key"
    }  # fmt: skip
    assert held(server, queue)["delayed"] == 1


def test_an_answer_that_is_lost_doubles_nothing(server: Server, queue: str) -> None:
    plans = iter([Plan(answer_bytes=900)])  # of the look at the queue; then of the send nothing more gets through
    with Proxy(server.port, lambda: next(plans, Plan())) as proxy:
        assert well(run(f"http://127.0.0.1:{proxy.port}", "send", queue, "once")).lines == [{"id": 1}]
    assert held(server, queue)["ready"] == 1
    assert next(plans, None) is None


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("send", "nowhere", "x"), EXIT_NO_QUEUE, "nowhere"),
        (("send", "Q", "x", "--ttl", "-1"), EXIT_REFUSED, "ttl"),
        (("send", "Q", "{", "--content-json"), EXIT_USAGE, "cannot be sent"),
        (("send", "Q", "1,2", "--content-json"), EXIT_USAGE, "cannot be sent"),
        (("send", "Q", "x", "--url", "ftp://a"), EXIT_USAGE, "--url"),
        (("send", "Q", "--lines", "--resume", "no"), EXIT_USAGE, "--resume"),
        (("send", "Q", "--content-type", "a/b", "--header", "a=b"), EXIT_USAGE, "cannot be sent"),
    ],
)
def test_what_cannot_be_sent_is_said_in_a_sentence(
    server: Server, queue: str, arguments: tuple[str, ...], code: int, word: str
) -> None:
    ran = run(server.url, *[queue if each == "Q" else each for each in arguments])
    assert (ran.code, ran.out) == (code, b""), ran
    assert ran.err.startswith("tq: ")
    assert ran.err.count("\n") == 1
    assert word in ran.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("text", "--file", "-"),
        ("text", "--lines"),
        ("--lines", "--ndjson"),
        ("--ndjson", "--priority", "3"),
        ("--lines", "--dedup-id", "a"),
        ("x", "--resume", "a:1"),
        ("x", "--header", "novalue"),
        ("x", "--content-json", "--content-type", "a/b"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: tuple[str, ...]) -> None:
    assert run("http://127.0.0.1:1", "send", "q", *arguments).code == EXIT_USAGE


# --- lines -------------------------------------------------------------


def test_lines_are_text_json_or_envelopes(server: Server, queue: str) -> None:
    assert well(run_alone(server.url, "send", queue, "--lines", stdin=b"a\n\n \nb\r\n{}")).lines[0].items() >= {
        "sent": 3, "duplicates": 0, "lines": 5}.items()  # fmt: skip
    well(run_alone(server.url, "send", queue, "--lines", "--content-json", "--group", "g", stdin=b"[1.10]\n"))
    well(run_alone(server.url, "send", queue, "--ndjson", stdin=b'{"content":1,"group":"h"}\n'))
    assert [(each["content"], each.get("group")) for each in peeked(server, queue)] == [
        ("a", None), ("b\r", None), ("{}", None), ([1.10], "g"), (1, "h")]  # fmt: skip


@pytest.mark.parametrize(
    "bad", [b'{"content":1,"priority":77}', pytest.param(b'{"content":1} {"content":2}', marks=pytest.mark.slow)]
)
def test_a_bad_line_is_named_and_all_before_it_is_sent(server: Server, queue: str, bad: bytes) -> None:
    lines = ndjson(0, 1234) + b"\n" + bad + b"\n" + ndjson(1234, 3000)
    ran = run_alone(server.url, "send", queue, "--ndjson", stdin=lines)
    assert (ran.code, ran.out) == (EXIT_REFUSED, b"")
    assert ran.err.startswith("tq: Line 1,236 is refused: ")
    assert "Up to line 1,234 all is sent, and nothing behind" in ran.err
    assert contents(server, queue) == list(range(1234))


def test_a_line_that_the_queue_refuses_is_named(server: Server) -> None:
    queue = made(server, max_message_bytes=1_000)
    ran = run_alone(server.url, "send", queue, "--lines", stdin=b"a\nb\n" + b"x" * 1_000 + b"\nc\n")
    assert ran.code == EXIT_REFUSED
    assert "Line 3 is refused: Message 0 has 1,002 bytes" in ran.err
    assert contents(server, queue) == ["a", "b"]


@pytest.mark.slow
def test_batches_are_as_small_as_the_server_takes_them(start: Callable[..., Server]) -> None:
    server = start("--max-body-bytes", "65536")
    server.request("POST", "/queues", {"name": "q"})
    well(run_alone(server.url, "send", "q", "--lines", stdin=b"".join([b"%01000d\n" % n for n in range(2_000)])))
    assert [int(content) for content in contents(server, "q")] == list(range(2_000))


def test_lines_of_a_pipe_are_sent_when_they_come(server: Server, queue: str) -> None:
    with Begun(server.url, "send", queue, "--lines") as sending:
        assert sending.process.stdin
        for number in range(1, 4):
            sending.process.stdin.write(b"line\npart of ")
            sending.process.stdin.flush()
            wait_until(lambda number=number: held(server, queue)["ready"] == number, 30)
        assert sending.end().lines[0]["sent"] == 4
    assert contents(server, queue) == ["line", "part of line", "part of line", "part of "]


@pytest.mark.parametrize("settings", [{}, pytest.param({"content_dedup": True}, marks=pytest.mark.slow)])
def test_answers_that_are_lost_double_no_line(server: Server, settings: dict[str, object]) -> None:
    """Each connection breaks in the midst of the answer to its second batch."""
    queue = made(server, **settings)
    with Proxy(server.port, Plan(answer_bytes=14_000)) as proxy:
        sent = well(run_alone(f"http://127.0.0.1:{proxy.port}", "send", queue, "--ndjson", stdin=ndjson(0, 6_000)))
    assert sent.lines[0]["sent"] == 6_000
    assert server.request("GET", f"/queues/{queue}").json["totals"]["duplicates"] >= 1_000
    assert contents(server, queue) == list(range(6_000))


def test_an_interrupted_run_says_how_to_go_on(server: Server, queue: str, tmp_path: Path) -> None:
    """The first Ctrl-C waits for the batch that is under way, which hangs here; so it is in doubt after the second."""
    file = tmp_path / "lines"
    file.write_bytes(ndjson(0, 5_000))
    with (
        Proxy(server.port, Plan(answer_bytes=14_000, ending="hole")) as proxy,
        Begun(f"http://127.0.0.1:{proxy.port}", "send", queue, "--ndjson", "--file", file) as sending,
    ):
        wait_until(lambda: proxy.holes, 30)
        sending.signal()
        sending.signal(signal.SIGTERM)
        ran = sending.end()
    assert ran.code == EXIT_INTERRUPTED
    found = re.search(r"Up to line ([\d,]+) all is sent, and up to ([\d,]+) it may be; .*: --resume (\w+:\d+)", ran.err)
    assert found, ran.err
    sure, maybe = (int(figure.replace(",", "")) for figure in found.groups()[:2])
    assert sure < held(server, queue)["ready"] <= maybe
    assert found[3].endswith(f":{sure}")
    went_on = well(run_alone(server.url, "send", queue, "--ndjson", "--file", file, "--resume", found[3])).lines[0]
    assert (went_on["sent"], went_on["duplicates"]) == (5_000 - sure, maybe - sure)
    assert contents(server, queue) == list(range(5_000))


def test_a_run_that_is_interrupted_while_it_reads_has_sent_what_it_read(server: Server, queue: str) -> None:
    with Begun(server.url, "send", queue, "--lines") as sending:
        assert sending.process.stdin
        sending.process.stdin.write(b"a\nb\nc")
        sending.process.stdin.flush()
        wait_until(lambda: held(server, queue)["ready"] == 2, 30)
        sending.signal()
        ran = sending.end()
    assert ran.code == EXIT_INTERRUPTED
    assert ran.err.startswith("tq: Interrupted. Up to line 2 all is sent, and nothing behind")


# --- a server that is killed -------------------------------------------------------------


def kill_amid_lines(start: Callable[..., Server], tmp_path: Path, count: int, kills: int) -> Ran:
    """Send so many lines, and kill and start the server meanwhile; each must be there once, in order."""
    file = tmp_path / "lines"
    with file.open("wb") as lines:
        for first in range(0, count, 10_000):
            lines.write(ndjson(first, min(first + 10_000, count)))
    server = start()
    port = str(server.port)
    server.request("POST", "/queues", {"name": "q"})
    with Begun(server.url, "send", "q", "--ndjson", "--file", file) as sending:
        for kill in range(1, kills + 1):
            reached = count * kill // (kills + 2)
            wait_until(lambda running=server, least=reached: held(running, "q")["ready"] >= least, 60)
            server.kill()
            assert sending.process.poll() is None
            server = start("--port", port)
        ran = well(sending.end())
    assert ran.lines[0]["sent"] == ran.lines[0]["lines"] == count
    assert contents(server, "q") == list(range(count))
    return ran


def test_lines_survive_a_server_that_is_killed(start: Callable[..., Server], tmp_path: Path) -> None:
    kill_amid_lines(start, tmp_path, 60_000, 1)


@pytest.mark.slow
def test_a_million_lines_survive_a_server_that_is_killed(start: Callable[..., Server], tmp_path: Path) -> None:
    kill_amid_lines(start, tmp_path, 1_000_000, 3)
