"""The access log: a line for each request, whatever the client wrote, and the events of the log as JSON."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import re
import select
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.guarded import create
from tests.harness import ROOT, NotStarted, Server, open_store
from tests.wire import ask
from tq.errors import EXIT_USAGE
from tq.logs import MAX_ACCESS_LINES, MAX_ALIKE, StderrHandler
from tq.store.faults import FaultNote
from tq.web.access import AccessLog
from tq.web.exchange import Response
from tq.web.parser import Head

LINE = re.compile(r'(\S+Z) INFO tq\.access: (\S+) "(\S+) (\S+)" (\d{3}) (\d+) ([\d.]+) ms(?: ([0-9a-f]{32}))?')
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


def requests_in(errors: str) -> list[tuple[str, ...]]:
    """Method, path, status, bytes and trace of each line of the access log; every other line is one of the log."""
    lines = [line for line in errors.splitlines() if " tq.access: " in line]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    return [(match[3], match[4], match[5], match[6], match[8] or "") for match in found if match]


def test_each_request_has_a_line(start: Callable[..., Server]) -> None:
    server = start("--access-log")
    server.request("POST", "/queues", {"name": "q"})
    sent = server.request(
        "POST", "/queues/q/messages", {"content": 1}, {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}
    )
    server.request("GET", "/queues/q?secret=1", headers={"traceparent": "00-none-of-these-01"})
    head = server.request("HEAD", "/status")
    assert int(head.headers["Content-Length"]) > 0
    server.request("GET", "/nothing")
    server.request("OPTIONS", "/status")
    server.raw(b'GET /a%0d%0aB\\" HTTP/1.1\r\nHost: tq\r\n\r\n')
    server.raw(b"nonsense\r\n\r\n")
    server.raw(b"GET http://me:secret@tq/status HTTP/1.1\r\nHost: tq\r\n\r\n")
    server.raw(b"".join(ask("POST", "/queues/q/messages", b'{"content":1}') for _ in range(50)))
    receipt = server.request("GET", "/queues/q/messages?visibility_timeout=9").json["receipt"]
    server.request("DELETE", f"/queues/q/messages/{receipt}")
    assert server.stop() == 0
    errors = server.errors()
    lines = requests_in(errors)
    shown = [line[:3] for line in lines]
    assert shown[0] == ("POST", "/queues", "201")
    assert lines[1] == ("POST", "/queues/q/messages", "201", str(len(sent.body)), TRACE)
    assert lines[2][:3] + lines[2][4:] == ("GET", "/queues/q", "400", "")
    assert lines[3] == ("HEAD", "/status", "200", "0", "")
    assert shown[4:6] == [("GET", "/nothing", "404"), ("OPTIONS", "/status", "204")]
    assert shown[6][:2] == ("GET", "/a%0d%0aB\\x5c\\x22")
    assert shown[7] == ("-", "-", "400")
    assert shown.pop(8)[:2] == ("GET", "http://tq/status")
    assert shown[8:58] == [("POST", "/queues/q/messages", "201")] * 50
    assert shown[58:] == [("GET", "/queues/q/messages", "200"), ("DELETE", f"/queues/q/messages/{receipt}", "204")]
    assert "secret" not in errors


def test_it_holds_no_token(start: Callable[..., Server], tmp_path: Path) -> None:
    shown, _ = create(tmp_path / "tokens", "all", "*:*")
    server = start("--access-log", "--tokens", str(tmp_path / "tokens"))
    for headers in ({"Authorization": f"Bearer {shown}"}, {"Authorization": shown}, {"Cookie": shown}):
        server.request("GET", "/status", headers=headers)
        server.request("GET", f"/status?token={shown}", headers=headers)
    assert server.stop() == 0
    errors = server.errors()
    assert len(requests_in(errors)) == 6
    assert shown not in errors


def test_there_is_none_by_default(server: Server) -> None:
    server.request("GET", "/status")
    assert server.stop() == 0
    assert "access" not in server.errors()


def test_a_long_poll_counts_with_its_wait_and_all_lines_are_written(start: Callable[..., Server]) -> None:
    server = start("--access-log")
    server.request("POST", "/queues", {"name": "q"})
    server.request("GET", "/queues/q/messages?wait=0.3")
    connection = http.client.HTTPConnection("127.0.0.1", server.port)
    for _ in range(MAX_ALIKE * 20):
        connection.request("GET", "/healthz")
        connection.getresponse().read()
    connection.close()
    assert server.stop() == 0
    found = [match for line in server.errors().splitlines() if (match := LINE.fullmatch(line))]
    # The timers of the loop count whole milliseconds.
    assert next(float(match[7]) for match in found if match[5] == "204") > 300 - 1
    assert sum(match[4] == "/healthz" for match in found) == MAX_ALIKE * 20


def test_who_logs_for_nobody_says_how_many_lines_are_lost() -> None:
    """More lines than may wait, into a pipe that nobody reads for now."""
    reading, writing = os.pipe()
    handler = StderrHandler(writing)
    lines = [b"x" * 100] * 1_000
    rounds = MAX_ACCESS_LINES // 1_000 + 20
    for _ in range(rounds):
        handler.write_access(lines)
    read = b""
    while b"left out" not in read:
        assert select.select([reading], [], [], 30)[0], "nobody says so"
        read += os.read(reading, 1 << 20)
    handler.close()
    written = read.count(b"x" * 100 + b"\n")
    assert MAX_ACCESS_LINES <= written < rounds * 1_000
    assert f"{rounds * 1_000 - written} lines of the access log were left out" in read.decode()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("is_json", [False, True])
def test_no_client_forges_a_line(is_json: bool) -> None:
    """Whatever could come through the parser, were it to let everything through."""

    async def run() -> list[bytes]:
        lines: list[bytes] = []
        log = AccessLog(lines.extend, is_json=is_json)
        for byte in range(256):
            head = Head()
            head.method, head.target = "GET", f"/a{bytes([byte]).decode('latin-1')}b?c"
            head.headers = {"traceparent": f"00-{TRACE}\n-00f067aa0ba902b7-01"}
            log.add("127.0.0.1", head, Response(200), 0.0)
        log.flush()
        return lines

    lines = asyncio.run(run())
    assert len(lines) == 256
    for line in lines:
        text = line.decode("ascii")
        assert text.isprintable()
        if is_json:
            assert json.loads(text)["trace_id"] is None
        else:
            assert LINE.fullmatch(text), text


# --- events as JSON ---------------------------------------------------------------------


def read_until(server: Server, event: str) -> str:
    """What it writes on stderr while it runs, until a line with that event has come."""
    assert server.process.stderr
    read = b""
    while f'"{event}"'.encode() not in read:
        read += server.process.stderr.readline()
    return read.decode()


def events_of(errors: str) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in errors.splitlines()]
    for event in events:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["time"])
        assert event["level"] in ("info", "warning", "error", "critical")
        assert event["message"]
        assert event["logger"].startswith("tq")
    return events


def test_all_lines_are_objects(start: Callable[..., Server], tmp_path: Path) -> None:
    create(tmp_path / "tokens", "all", "*:*")
    flags = ("--log-format", "json", "--access-log", "--tokens", str(tmp_path / "tokens"))
    server = start(*flags, "--max-connections", "2")
    server.request("GET", "/healthz", headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"})
    first, second, third = (socket.create_connection(("127.0.0.1", server.port)) for _ in range(3))
    assert third.recv(100).startswith(b"HTTP/1.1 503")
    for each in (first, second, third):
        each.close()
    server.process.send_signal(signal.SIGHUP)
    errors = read_until(server, "tokens_read")
    (tmp_path / "tokens").write_text("{")
    server.process.send_signal(signal.SIGHUP)
    errors += read_until(server, "tokens_not_read")
    assert server.stop() == 0
    told = events_of(errors + server.errors())
    events = {event["event"]: event for event in told}
    assert events.keys() == {
        "started",
        "request",
        "connection_refused",
        "tokens_read",
        "tokens_not_read",
        "stopping",
        "stopped",
    }
    started = events["started"]
    assert (started["data_dir"], started["format"], started["recovered"]) == (str(server.data_dir), "tq 1", "nothing")
    assert server.url in started["addresses"]
    assert server.banner.startswith(f"tq {started['version']} listens on {server.url}")
    assert events["stopping"]["signal"] == "SIGTERM"
    assert events["connection_refused"].items() >= {"client": "127.0.0.1", "reason": "total", "open": 3}.items()
    request = next(event for event in told if event["event"] == "request")
    assert request.items() >= {"method": "GET", "path": "/healthz", "status": 200, "trace_id": TRACE}.items()


def test_what_the_last_server_left_is_told(start: Callable[..., Server], tmp_path: Path) -> None:
    data = tmp_path / "data"
    open_store(data).close()
    note = FaultNote(data)
    note.read()
    note.note("LMDB failed to write: a test")
    note.close()
    server = start("--log-format", "json")
    assert server.stop() == 0
    told = events_of(server.errors())
    events = {event["event"]: event for event in told}
    assert [event["event"] for event in told] == ["recovery", "verified", "started", "stopping", "stopped"]
    assert events["recovery"]["fault"] == events["started"]["recovered"] == "LMDB failed to write: a test"


def test_a_server_that_cannot_start_says_so_as_an_object(tmp_path: Path) -> None:
    with pytest.raises(NotStarted) as ended:
        Server(tmp_path / "data", "--log-format", "json", "--tokens", str(tmp_path / "none"))
    (line,) = ended.value.errors.splitlines()
    event = json.loads(line)
    assert (ended.value.exit_code, event["exit_code"], event["event"]) == (EXIT_USAGE, EXIT_USAGE, "failed")
    assert "cannot be read" in event["error"] == event["message"]


def test_every_event_is_documented_and_there_are_no_others() -> None:
    table = (ROOT / "docs/operations.md").read_text().partition("\n## The log\n")[2].partition("\n### ")[0]
    rows = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    documented = set(re.findall(r"`(\w+)`", " ".join(rows)))
    sources = "".join(path.read_text() for path in (ROOT / "tq").rglob("*.py"))
    assert documented == set(re.findall(r'"event": "(\w+)"', sources))
