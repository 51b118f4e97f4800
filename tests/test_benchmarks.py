"""The benchmarks run, end what they started, and count right. How fast anything is, is not asserted anywhere."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from benchmarks import adapters, machine
from benchmarks.adapters import PEERS, Absent, Cell, Redis, start_redis
from benchmarks.hidden import HIDINGS, ROUNDS
from benchmarks.load import Failed, HttpRequest, OwnLoader, Sample, lua_script, parse_wrk, run_raw
from benchmarks.loader import Work, percentile
from benchmarks.machine import file_system
from benchmarks.measure import Spread, ratio, spread
from benchmarks.scenarios import DEFAULT, SCENARIOS
from benchmarks.server import Client, ServerProcess
from benchmarks.storm import KINDS
from benchmarks.systems import Setup, Tq, start_tq
from benchmarks.wires import SIZES, Step, amqp_frame, amqp_good, amqp_method, answer_size
from tests.harness import ROOT, wait_until

RUN = [sys.executable, "-m", "benchmarks", "--quick"]
RUN_SECONDS = 120  # ten times what it takes
PEERS_SECONDS = 600  # more than ten times; Erlang alone may take a third of a minute to start

MICROSECONDS = """\
Running 2s test @ http://127.0.0.1:18998/
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   635.86us    1.09ms   9.06ms   85.04%
    Req/Sec     6.84k     5.60k   16.31k    75.00%
  Latency Distribution
     50%   90.00us
     75%  699.00us
     90%    2.33ms
     99%    4.65ms
  13591 requests in 2.00s, 530.90KB read
Requests/sec:   6783.59
Transfer/sec:    264.98KB
"""

# The space behind the unit of a second is wrk's own.
SECONDS = """\
Running 4s test @ http://127.0.0.1:18999/
  1 threads and 4 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.20s   658.80us   1.20s    33.33%
    Req/Sec     3.00      0.00     3.00    100.00%
  Latency Distribution
     50%    1.20s\x20
     75%    1.20s\x20
     90%    1.20s\x20
     99%    1.20s\x20
  12 requests in 4.01s, 480.00B read
Requests/sec:      2.99
Transfer/sec:    119.56B
"""

TIMEOUTS = """\
Running 2s test @ http://127.0.0.1:18999/
  1 threads and 2 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     0.00us    0.00us   0.00us    -nan%
    Req/Sec     1.00      0.00     1.00    100.00%
  Latency Distribution
     50%    0.00us
     75%    0.00us
     90%    0.00us
     99%    0.00us
  2 requests in 2.00s, 80.00B read
  Socket errors: connect 0, read 0, write 0, timeout 2
Requests/sec:      1.00
Transfer/sec:      39.93B
"""

NOT_FOUND = """\
Running 1s test @ http://127.0.0.1:33481/queues/nope/messages
  1 threads and 1 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.32ms    1.00ms  12.35ms   94.45%
    Req/Sec   827.60    147.94     1.14k    80.00%
  Latency Distribution
     50%    1.19ms
     75%    1.48ms
     90%    1.82ms
     99%    6.20ms
  825 requests in 1.00s, 277.95KB read
  Non-2xx or 3xx responses: 825
Requests/sec:    822.71
Transfer/sec:    277.18KB
"""


# --- whole runs ---------------------------------------------------------------------------


@pytest.mark.parametrize("loader", ["own", "wrk"])
def test_a_quick_run(loader: str, tmp_path: Path) -> None:
    if loader == "wrk" and not shutil.which("wrk"):
        pytest.skip("wrk is not installed (apt install wrk)")
    made = tmp_path / "made"
    made.mkdir()
    others = SCENARIOS.keys() - DEFAULT - {"peers", "client"} if loader == "own" else ()  # which use no wrk
    command = [*RUN, *DEFAULT, *others, "--loader", loader, "--dir", str(made), "--json", str(tmp_path / "found.json")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=RUN_SECONDS, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "%" not in ran.stderr  # the bar is for terminals
    assert list(made.iterdir()) == []
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["loader"].startswith("wrk " if loader == "wrk" else "own loader (slower than wrk)")
    cells = {(cell["system"], cell["operation"]): cell for cell in found["results"]["systems"]["figures"]}
    assert cells.keys() == {(name, way) for name in ("tq", "do-nothing Tornado") for way in ("send", "receive")}
    for (name, _), cell in cells.items():
        assert cell["speed"]["requests_per_s"]["median"] > 0
        assert 0 < cell["speed"]["p50_ms"]["median"] <= cell["speed"]["p99_ms"]["median"]
        assert (cell["ratio"] is None) == (name != "tq")
    assert [cell["operation"] for cell in found["results"]["backlog"]] == ["send", "receive"]
    assert all(cell["ratio"]["median"] > 0 for cell in found["results"]["backlog"])
    if loader == "own":
        assert_hidden_and_storm(found["results"])
    assert found["disturbance"]["others"] >= 0
    for word in ("machine:", "fdatasyncs/s", "commit:", "tq send", "tq receive", "do-nothing Tornado", "p99 ms"):
        assert word in ran.stdout


def assert_hidden_and_storm(results: Any) -> None:
    assert {(cell["round"], cell["hiding"]) for cell in results["hidden"]} == set(product(ROUNDS, HIDINGS))
    for cell in results["hidden"]:
        assert (cell["ratio"] is None) == (cell["hiding"] == "none")
        assert cell["speed"]["requests_per_s"]["median"] > 0
    assert [storm["kind"] for storm in results["storm"]] == list(KINDS)
    for storm in results["storm"]:
        assert storm["seconds"] > 0
        for found in (storm["quiet"], storm["storm"]):
            assert 0 < found["p50_ms"] <= found["p99_ms"] <= found["max_ms"]


def test_a_run_is_kept_under_its_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import __main__ as command

    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process keeps its own
    ran = CliRunner().invoke(command.main, ["systems", "--quick", "--loader", "own", "--keep", "--dir", str(tmp_path)])
    assert ran.exit_code == 0, ran.output
    (kept,) = (tmp_path / "results").iterdir()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d{6}Z\.json", kept.name)
    assert json.loads(kept.read_text())["results"]["systems"]


def test_a_run_that_is_ended_leaves_nothing_behind(tmp_path: Path) -> None:
    ran = subprocess.Popen([*RUN, "--dir", str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    wait_until(lambda: list(tmp_path.glob("*/tq/data/data.mdb")), seconds=30)
    ran.send_signal(signal.SIGTERM)
    ran.communicate(timeout=RUN_SECONDS)
    assert ran.returncode == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []
    commands = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
    assert not [command for command in commands if str(tmp_path).encode() in command]


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The results of a quick run with all systems that are here, and what it told of the others."""
    made = tmp_path_factory.mktemp("made")
    found = tmp_path_factory.mktemp("found") / "found.json"
    command = [*RUN, "peers", "--loader", "own", "--dir", str(made), "--json", str(found)]
    environment = {**os.environ, "TQ_TEST_RUN": str(found)}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=PEERS_SECONDS, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert list(made.iterdir()) == []
    # Each server has its directory under `made`, the environment of the run, or both.
    assert [path for path in Path("/proc").glob("[0-9]*") if belongs_to(path, str(made), str(found))] == []
    assert "to that of" in ran.stdout
    return found, ran.stderr


def test_what_was_loaded_before_comes_to_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or is waited for no longer than is said, on a machine that is never quiet."""
    monkeypatch.setattr(machine, "LOOK_SECONDS", 0.01)
    looks = iter([(1.0, 0.0, 0.0), (2.0, 0.0, 0.0), (3.0, 0.0, 0.0), (3.0, 0.0, 0.0)])
    monkeypatch.setattr(machine, "_cpu_seconds", lambda: next(looks))
    machine.settle()
    assert list(looks) == []
    monkeypatch.setattr(machine, "SETTLE_SECONDS", 0.1)
    monkeypatch.setattr(machine, "_cpu_seconds", lambda: (time.monotonic(), 0.0, 0.0))
    began_s = time.monotonic()
    machine.settle()
    assert time.monotonic() - began_s >= 0.1


def belongs_to(process: Path, *marks: str) -> bool:
    try:
        known = f"{(process / 'cwd').readlink()} {(process / 'environ').read_bytes()!r}"
    except OSError:
        return False  # it ended meanwhile, or is somebody else's
    return any(mark in known for mark in marks)


def test_a_quick_run_of_peers(peers: tuple[Path, str]) -> None:
    results = json.loads(peers[0].read_text())["results"]["peers"]
    present = {one["system"] for one in results["figures"]}
    absent = {row.name for row in PEERS} - present
    assert present >= {"tq", "do-nothing Tornado", "two fdatasyncs", "raw py-lmdb"}
    assert {told.partition(" is left out: ")[0] for told in results["absent"]} == absent
    assert peers[1].splitlines() == results["absent"]
    versions = {re.sub(r" \d+\.\d.*", "", version) for version in results["versions"]}
    assert versions == present - {"tq", "do-nothing Tornado", "two fdatasyncs", "raw py-lmdb"}
    for one in results["figures"]:
        assert one["messages_per_s"]["median"] > 0
        assert 0 < one["p50_ms"]["median"] <= one["p99_ms"]["median"]
        assert one["durability"]
    to = {ratio["to"] for ratio in results["ratios"]}
    assert to == present - {"tq"}
    assert all(ratio["ratio"]["median"] > 0 for ratio in results["ratios"])


def test_the_chart_names_every_system(peers: tuple[Path, str], tmp_path: Path) -> None:
    chart = tmp_path / "chart.svg"
    subprocess.run([sys.executable, "-m", "benchmarks.chart", str(peers[0]), str(chart)], cwd=ROOT, check=True)
    words = {text.text for text in ElementTree.parse(chart).iter("{http://www.w3.org/2000/svg}text")}
    figures = json.loads(peers[0].read_text())["results"]["peers"]["figures"]
    assert {one["system"] for one in figures} - {"two fdatasyncs", "raw py-lmdb"} <= words


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("FastAPI + SQLite", "fastapi is not installed; to install it: pip install '.[bench]'"),
        ("Redis", "redis-server is not installed; to install it: apt install redis"),
        ("beanstalkd", "beanstalkd is not installed; to install it: apt install beanstalkd"),
        ("RabbitMQ", "rabbitmq-server is not installed; to install it: apt install rabbitmq-server"),
        ("NATS JetStream", "nats-server is not installed; to install it: pip install '.[bench]'"),
    ],
)
def test_a_system_that_is_not_here_says_how_to_get_it(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(adapters, "find_spec", lambda _: None)
    row = next(row for row in PEERS if row.name == name)
    with pytest.raises(Absent) as caught, row.start(Setup(tmp_path, OwnLoader(), 100)):
        pass
    assert str(caught.value) == message


def test_a_missing_wrk_is_told_with_what_to_do(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "--loader", "wrk", "--dir", str(tmp_path)]
    environment = {**os.environ, "PATH": str(tmp_path)}
    ran = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
    )
    assert ran.returncode == 1
    assert ran.stderr == "Error: wrk is not installed; to install it: apt install wrk\n"


# --- servers ---------------------------------------------------------------------------


def test_a_server_is_ended_when_what_uses_it_fails(tmp_path: Path) -> None:
    server = ServerProcess(tmp_path, "benchmarks.do_nothing", "100")
    with Client(server.port) as client:
        assert client.json("GET", "/any")["id"] == 1000
    with pytest.raises(ZeroDivisionError), server:
        raise ZeroDivisionError
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(Failed, match="No such option"):
        ServerProcess(tmp_path, "tq", "serve", "--no-such-option")


class _Overcounter:
    """What a loader does that takes the 204 of an empty queue for a message: its count is above the server's."""

    name = "a loader that counts too many"

    def rounded(self, duration_s: float) -> float:
        return duration_s

    def run(self, request: HttpRequest, connections: int, duration_s: float) -> Sample:
        sample = OwnLoader().run(request, connections, duration_s)
        return Sample(sample.requests + 1, sample.seconds, sample.p50_ms, sample.p99_ms)


def test_a_cell_whose_answers_were_not_all_messages_fails(tmp_path: Path) -> None:
    with start_tq(Setup(tmp_path, _Overcounter(), 100)) as tq:
        with pytest.raises(Failed, match="some answers were no messages"):
            tq.measure("receive", 1, 0.1)
        with pytest.raises(Failed, match="some answers were no messages"):
            tq.measure("send", 1, 0.1)


def test_the_own_loader_takes_an_empty_queue_for_a_failure(tmp_path: Path) -> None:
    setup = Setup(tmp_path, OwnLoader(), 100)
    with ServerProcess(tmp_path, "tq", "serve", "--port", "0", "--data-dir", str(tmp_path / "data")) as server:
        Tq(server, setup).fill("few", 3)
        with pytest.raises(Failed, match="204 No Content"):
            setup.loader.run(setup.request("receive", server.port, "few"), 1, 0.1)


# --- the loader ---------------------------------------------------------------------------


def test_a_load_ends_when_its_queue_is_empty(tmp_path: Path) -> None:
    with start_tq(Setup(tmp_path, OwnLoader(), 100)) as tq:
        tq.fill("few", 3)
        get = tq.setup.request("receive", tq.port, "few").as_bytes()
        step = Step(get, rb"HTTP/1.1 200 ", rb"HTTP/1.1 204 ")
        sample = run_raw(Work(tq.port, "HTTP", [step], 2, 20))
        assert sample.requests == 3
        assert sample.seconds < 20


def test_an_open_loop_counts_from_when_a_request_was_due() -> None:
    """One stall makes all wait that are due meanwhile, although only one request is under way."""
    stall_ms, rate, seconds = 400, 100, 0.5
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as connection:
                connection.recv(1000)
                threading.Event().wait(stall_ms / 1000)
                connection.sendall(b"$1\r\nx\r\n")
                while connection.recv(1000):
                    connection.sendall(b"$1\r\nx\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port: int = listener.getsockname()[1]
        sample = run_raw(Work(port, "RESP", [Step(b"x", rb"\$1")], 1, seconds, rate=rate))
        thread.join()
    assert abs(sample.requests - rate * seconds) <= 1
    assert sample.p50_ms > stall_ms / 4  # half of them were due in the first 250 ms, and waited 150 ms or more
    assert sample.p99_ms >= stall_ms


GET_OK = amqp_method(1, 60, 71, bytes(20)) + amqp_frame(2, bytes(4) + (5).to_bytes(8) + b"\0\0")


@pytest.mark.parametrize(
    ("wire", "reply"),
    [
        ("HTTP", b'HTTP/1.1 201 Created\r\ncontent-length: 8\r\n\r\n{"id":1}'),
        ("RESP", b":1\r\n"),
        ("RESP", b"$-1\r\n"),
        ("RESP", b"*-1\r\n"),
        ("RESP", b"*2\r\n$2\r\n\r\n\r\n*1\r\n*0\r\n"),
        ("beanstalk", b"INSERTED 7\r\n"),
        ("beanstalk", b"RESERVED 7 4\r\n\r\n\r\n\r\n"),
        ("NATS", b"+OK\r\n"),
        ("NATS", b"MSG inbox.1 1 $JS.ACK.x 4\r\n\r\n\r\n\r\n"),
        ("NATS", b"HMSG inbox.1 1 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n"),
        ("AMQP", amqp_method(1, 60, 80, bytes(9))),
        ("AMQP", GET_OK + amqp_frame(3, b"12345")),
        ("AMQP", GET_OK + amqp_frame(3, b"123") + amqp_frame(3, b"45")),
    ],
)
def test_a_reply_is_whole_at_its_last_byte(wire: Any, reply: bytes) -> None:
    assert [SIZES[wire](reply[:length]) for length in range(len(reply))] == [None] * len(reply)
    assert SIZES[wire](reply) == len(reply)
    assert SIZES[wire](reply + reply) == len(reply)


def test_a_reply_of_amqp_is_known_by_its_method() -> None:
    assert amqp_method(1, 60, 80, bytes(9))[:11] == b"\x01\x00\x01\x00\x00\x00\x0d\x00\x3c\x00\x50"
    assert amqp_good(60, 80) == b".{7}\x00<\x00P"


def test_redis_is_not_believed_when_its_list_tells_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not shutil.which("redis-benchmark"):
        pytest.skip("redis is not installed (apt install redis)")
    with start_redis(Setup(tmp_path, _Overcounter(), 100)) as redis:
        assert isinstance(redis, Redis)
        assert redis.measure(Cell("send", 2), 0.2, None).requests > 0
        monkeypatch.setitem(redis._commands, "send", ["PING"])
        with pytest.raises(Failed, match="the list is of another length"):
            redis.measure(Cell("send", 2), 0.2, None)


# --- arithmetic ---------------------------------------------------------------------------


def test_wrk_in_microseconds_and_milliseconds() -> None:
    assert parse_wrk(MICROSECONDS) == Sample(requests=13591, seconds=2.0, p50_ms=0.09, p99_ms=4.65)
    assert parse_wrk(MICROSECONDS).requests_per_s == 6795.5


def test_wrk_in_seconds() -> None:
    assert parse_wrk(SECONDS) == Sample(requests=12, seconds=4.01, p50_ms=1200.0, p99_ms=1200.0)


@pytest.mark.parametrize(
    ("text", "why"),
    [(TIMEOUTS, "timeout 2"), (NOT_FOUND, "Non-2xx or 3xx responses: 825"), ("unable to connect", "no report")],
)
def test_wrk_in_trouble(text: str, why: str) -> None:
    with pytest.raises(Failed, match=why):
        parse_wrk(text)


def test_the_script_for_wrk() -> None:
    assert lua_script(HttpRequest("GET", "http://x/")) == 'wrk.method = "GET"\n'
    assert 'wrk.body = [==[{"content": "x"}]==]\n' in lua_script(HttpRequest("POST", "http://x/", '{"content": "x"}'))


def test_the_message_has_the_size_that_was_asked_for(tmp_path: Path) -> None:
    for size in (2, 100):
        content = json.loads(Setup(tmp_path, OwnLoader(), size).envelope)["content"]
        assert len(json.dumps(content)) == size


def test_an_answer_is_whole_when_its_body_is_there() -> None:
    assert answer_size(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n") is None
    assert answer_size(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no") is None
    assert answer_size(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP") == 40
    assert answer_size(b"HTTP/1.1 204 No Content\r\nServer: tq\r\n\r\n") == 39


def test_percentiles_are_by_nearest_rank() -> None:
    hundred = list(range(1, 101))
    assert [percentile(hundred, percent) for percent in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7.0], 99) == 7.0
    assert percentile([1.0, 2.0, 3.0], 50) == 2.0


def test_a_spread_is_the_median_between_the_extremes() -> None:
    assert spread([5.0, 1.0, 3.0]) == Spread(3.0, 1.0, 5.0)
    assert spread([4.0, 2.0]) == Spread(3.0, 2.0, 4.0)


def test_a_ratio_is_taken_within_each_repeat() -> None:
    ours = [Sample(requests, 1.0, 0, 0) for requests in (50, 300, 100)]
    theirs = [Sample(requests, 2.0, 0, 0) for requests in (200, 400, 800)]
    assert ratio(ours, theirs) == Spread(0.5, 0.25, 1.5)  # that of the medians would be 100 / 200 too, but not its ends


def test_the_file_system_of_a_path() -> None:
    if not Path("/proc/self/mountinfo").exists():
        pytest.skip("this system has no /proc/self/mountinfo")
    assert file_system(Path("/proc/self"))[0] == "proc"
    assert file_system(Path("/"))[0] != "unknown"
