"""The command line: what it says, how it fails, how it ends."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.harness import ROOT, START_SECONDS, Server, open_store, wait_until
from tq import __version__, tokens
from tq.errors import EXIT_ADDRESS, EXIT_DATA, EXIT_USAGE, StartError
from tq.settings import Settings
from tq.web.server import _bind, _check_that_they_are_of_this_machine


def run(*arguments: str, env: dict[str, str] | None = None, script: tuple[str, ...] = ("-m", "tq", "serve")):
    """Run a command that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, *script, *arguments],
        cwd=ROOT,
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=START_SECONDS,
        check=False,
    )


def assert_refused(ran: subprocess.CompletedProcess[str], exit_code: int, *words: str) -> None:
    """One sentence on stderr, nothing else anywhere."""
    assert ran.returncode == exit_code, ran.stderr
    assert ran.stdout == ""
    assert ran.stderr.count("\n") == 1
    assert ran.stderr.startswith("tq: ")
    assert "Traceback" not in ran.stderr
    for word in words:
        assert word in ran.stderr


def test_it_says_where_it_listens_and_where_the_data_is(start: Callable[..., Server]) -> None:
    server = start()
    assert server.banner == (
        f"tq {__version__} listens on http://127.0.0.1:{server.port}"
        + (f" and http://[::1]:{server.port}" if socket.has_ipv6 and "[::1]" in server.banner else "")
        + f", data in {server.data_dir}\n"
    )
    assert server.request("GET", "/healthz").status == 200


def test_it_listens_on_both_loopback_addresses(server: Server) -> None:
    if "[::1]" not in server.banner:
        pytest.skip("this machine has no IPv6 loopback")
    connection = http.client.HTTPConnection("::1", server.port, timeout=10)
    connection.request("GET", "/status")
    assert connection.getresponse().status == 200
    connection.close()


@pytest.mark.parametrize("script", [("solution.py",), ("-m", "tq", "serve")], ids=["solution", "module"])
def test_each_entry_point_serves(script: tuple[str, ...], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *script, "--port", "0", "--data-dir", str(tmp_path / "made" / "here")],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert "listens on" in process.stdout.readline()
        process.terminate()
        assert process.wait(START_SECONDS) == 0
    assert (tmp_path / "made/here/data.mdb").exists()


def test_the_console_script_is_declared() -> None:
    assert 'tq = "tq.cli:main"' in (ROOT / "pyproject.toml").read_text()
    assert run("--version", script=("-m", "tq")).stdout == f"tq, version {__version__}\n"


def test_settings_come_from_the_environment_and_flags_beat_them(tmp_path: Path, start: Callable[..., Server]) -> None:
    env = {"TQ_HOST": "127.0.0.1", "TQ_DATA_DIR": str(tmp_path / "env"), "TQ_MAX_BODY_BYTES": "2048"}
    server = start(env=env)
    assert "[::1]" not in server.banner
    assert str(tmp_path / "data") in server.banner
    server.request("POST", "/queues", {"name": "q"})
    assert server.request("POST", "/queues/q/messages", {"content": "x" * 3000}).status == 413


def test_help_names_every_setting_its_variable_and_default() -> None:
    shown = " ".join(run("--help").stdout.split())
    for field in msgspec.structs.fields(Settings):
        assert "--" + field.name.replace("_", "-") in shown
        assert "TQ_" + field.name.upper() in shown
        assert field.default is False or f"default: {field.default}" in shown


@pytest.mark.parametrize(
    ("flags", "flag"),
    [
        (("--port", "70000"), "--port"),
        (("--max-body-bytes", "5"), "--max-body-bytes"),
        (("--reserve-bytes", "0"), "--reserve-bytes"),
        (("--host", ""), "--host"),
        (("--shutdown-seconds", "nan"), "--shutdown-seconds"),
    ],
)
def test_a_value_out_of_range_is_named(flags: tuple[str, str], flag: str) -> None:
    assert_refused(run(*flags, "--data-dir", "memory:"), EXIT_USAGE, flag)


def test_a_value_of_the_wrong_type_is_named() -> None:
    ran = run("--port", "eighty")
    assert ran.returncode == EXIT_USAGE
    assert "--port" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_taken_port_is_named(server: Server) -> None:
    ran = run("--port", str(server.port), "--data-dir", "memory:")
    assert_refused(ran, EXIT_ADDRESS, str(server.port), "--port")


def test_a_port_taken_on_ipv6_alone_is_named() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as taken:
        try:
            taken.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 loopback here: {error}")
        taken.listen()
        port = taken.getsockname()[1]
        assert_refused(run("--port", str(port), "--data-dir", "memory:"), EXIT_ADDRESS, str(port), "--port")


@pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid"])
def test_a_host_that_is_not_here_is_named(host: str) -> None:
    assert_refused(run("--host", host, "--port", "0", "--data-dir", "memory:"), EXIT_ADDRESS, host, "--host")


# --- who may connect -------------------------------------------------------------


@pytest.mark.parametrize("host", ["0.0.0.0", "::", socket.gethostname()])
def test_others_are_served_only_when_that_is_said(host: str) -> None:
    if all(address[4][0].startswith("127.") for address in _resolved(host)):
        pytest.skip(f"{host} is a loopback address here")
    ran = run("--host", host, "--port", "0", "--data-dir", "memory:")
    assert_refused(ran, EXIT_USAGE, "--tokens", "--allow-anonymous")


def _resolved(host: str) -> list[Any]:
    try:
        return socket.getaddrinfo(host, 0)
    except OSError as error:
        pytest.skip(f"{host} is not here: {error}")


@pytest.mark.parametrize("flags", [("--allow-anonymous",), ("--tokens", "FILE")])
def test_others_are_served_when_that_is_said(flags: tuple[str, ...], tmp_path: Path) -> None:
    tokens.create(tmp_path / "tokens", "a", ("*:*",))
    process = subprocess.Popen(
        [sys.executable, "-m", "tq", "serve", "--host", "0.0.0.0", "--port", "0", "--data-dir", "memory:"]
        + [str(tmp_path / "tokens") if flag == "FILE" else flag for flag in flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    with process.stdout:
        assert "listens on http://0.0.0.0:" in process.stdout.readline()
        process.terminate()
        assert process.wait(START_SECONDS) == 0


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_this_machine_is_served_unasked(host: str) -> None:
    try:
        sockets = _bind(host, 0)
    except StartError as error:
        pytest.skip(str(error))
    _check_that_they_are_of_this_machine(sockets, host)
    for one in sockets:
        one.close()


def test_one_address_that_others_reach_is_enough() -> None:
    sockets = [*_bind("127.0.0.1", 0), *_bind("0.0.0.0", 0)]
    with pytest.raises(StartError, match="reach 0"):
        _check_that_they_are_of_this_machine(sockets, "some.name")
    assert [one.fileno() for one in sockets] == [-1, -1]


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (("--cors-origins", "*"), "--cors-origins"),
        (("--allowed-host", "http://a"), "--allowed-host"),
        (("--tls-cert", "absent", "--tls-key", "absent"), "absent"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(flags: tuple[str, ...], word: str) -> None:
    assert_refused(run("--port", "0", "--data-dir", "memory:", *flags), EXIT_USAGE, word)


def test_lists_may_be_given_several_times_or_with_commas(start: Callable[..., Server]) -> None:
    server = start("--allowed-host", "a", "--allowed-host", "b,c")
    again = start("--port", "0", env={"TQ_ALLOWED_HOST": "a,b", "TQ_MAX_QUEUES": "1"}, data_dir="memory:")
    for name, status, by_variable in (("a", 200, 200), ("b", 200, 200), ("c", 200, 403), ("d", 403, 403)):
        assert server.request("GET", "/status", headers={"Host": name}).status == status
        assert again.request("GET", "/status", headers={"Host": name}).status == by_variable
    assert again.request("POST", "/queues", {"name": "q"}).status == 201
    assert again.request("POST", "/queues", {"name": "r"}).status == 429


def test_a_data_dir_that_is_a_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    ran = run("--port", "0", "--data-dir", str(tmp_path / "file"))
    assert_refused(ran, EXIT_DATA, str(tmp_path / "file"), "--data-dir")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_data_dir_that_cannot_be_written_is_named() -> None:
    assert_refused(run("--port", "0", "--data-dir", "/proc/tq"), EXIT_DATA, "/proc/tq", "--data-dir")


def test_a_data_dir_that_another_server_holds_is_named(server: Server) -> None:
    ran = run("--port", "0", "--data-dir", str(server.data_dir))
    assert_refused(ran, EXIT_DATA, str(server.data_dir), "another", "--data-dir")
    assert server.request("GET", "/healthz").status == 200


def test_a_data_dir_of_an_unknown_format_is_named(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    (tmp_path / "FORMAT").write_text("tq 99\n")
    assert_refused(run("--port", "0", "--data-dir", str(tmp_path)), EXIT_DATA, "tq 99", "--data-dir")


def test_no_thread_but_the_main_one_takes_a_signal_that_stops(server: Server) -> None:
    """Else one that comes while the process ends would end it otherwise than in order."""
    assert server.request("GET", "/readyz").status == 200  # the first commit, which has made the writer's thread
    threads = {path.parent.name: path.read_text() for path in Path(f"/proc/{server.process.pid}/task").glob("*/status")}
    del threads[str(server.process.pid)]
    assert len(threads) >= 2
    for status in threads.values():
        blocked = int(status.partition("SigBlk:")[2].split()[0], 16)
        assert all(blocked >> (signum - 1) & 1 for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)), status


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_in_hand(start: Callable[..., Server], signum: signal.Signals) -> None:
    """A request whose body is half sent when the signal comes is still answered, and its message is kept."""
    server = start()
    server.request("POST", "/queues", {"name": "q"})
    body = json.dumps({"content": "x" * 1000}).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        head = f"POST /queues/q/messages HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body[:500])
        # An answer on another connection shows that the loop has read the half request by then.
        assert server.request("GET", "/status").status == 200
        server.process.send_signal(signum)
        wait_until(lambda: not _accepts(server))
        connection.sendall(body[500:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 201")
    assert server.process.wait(START_SECONDS) == 0
    assert server.complaints() == ""
    again = start()
    assert len(again.request("GET", "/queues/q/messages").json["content"]) == 1000


def _accepts(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=10).close()
    except ConnectionRefusedError:
        return False
    return True


def test_a_stop_does_not_wait_for_a_client_that_says_nothing_more(start: Callable[..., Server]) -> None:
    server = start("--shutdown-seconds", "0.2")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(b"POST /queues HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert server.request("GET", "/status").status == 200
        assert server.stop() == 0
    assert "cut off" in server.errors()


def test_idle_connections_do_not_delay_a_stop(start: Callable[..., Server]) -> None:
    server = start("--shutdown-seconds", "3600")
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    connection.request("GET", "/status")
    connection.getresponse().read()
    assert server.stop() == 0
    connection.close()


def test_a_stop_under_load_loses_nothing_that_was_acknowledged(start: Callable[..., Server]) -> None:
    server = start()
    server.request("POST", "/queues", {"name": "q"})
    acknowledged: list[int] = []

    def produce() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            while True:
                connection.request("POST", "/queues/q/messages", b'{"content":1}')
                response = connection.getresponse()
                body = json.loads(response.read())
                if response.status == 201:
                    acknowledged.append(body["id"])
        except (OSError, http.client.HTTPException):
            connection.close()

    producers = [threading.Thread(target=produce) for _ in range(8)]
    for producer in producers:
        producer.start()
    wait_until(lambda: len(acknowledged) > 200, 30)
    assert server.stop() == 0
    for producer in producers:
        producer.join()
    again = start()
    kept = again.request("GET", "/queues/q").json["messages"]["ready"]
    assert kept >= len(acknowledged) > 200


def test_memory_keeps_nothing(tmp_path: Path) -> None:
    with Server("memory:") as server:
        server.request("POST", "/queues", {"name": "q"})
        assert server.request("POST", "/queues/q/messages", {"content": 1}).json == {"id": 1}
        assert server.request("GET", "/status").json["storage"]["engine"] == "memory"
        assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_a_stop_under_load_answers_all_that_it_takes(start: Callable[..., Server]) -> None:
    """What a removing receive takes while the server stops must still reach its client."""
    server = start()
    server.request("POST", "/queues", {"name": "q"})
    for _ in range(3):
        lines = b'{"content":1}\n' * 10_000
        server.request("POST", "/queues/q/messages", lines, {"Content-Type": "application/x-ndjson"})
    taken: list[int] = []

    def consume() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            while True:
                connection.request("GET", "/queues/q/messages")
                taken.append(json.loads(connection.getresponse().read())["id"])
        except (OSError, http.client.HTTPException):
            connection.close()

    consumers = [threading.Thread(target=consume) for _ in range(8)]
    for consumer in consumers:
        consumer.start()
    wait_until(lambda: len(taken) > 200, 30)
    assert server.stop() == 0
    for consumer in consumers:
        consumer.join()
    assert server.complaints() == ""
    again = start()
    assert again.request("GET", "/queues/q").json["totals"]["received"] == len(taken) == len(set(taken))


def test_a_stop_waits_until_a_slow_reader_has_its_message(start: Callable[..., Server]) -> None:
    server = start("--max-body-bytes", "20000000", "--shutdown-seconds", "60")
    server.request("POST", "/queues", {"name": "q", "max_message_bytes": 20_000_000})
    content = b'"' + b"x" * 14_000_000 + b'"'
    assert server.request("POST", "/queues/q/messages", b'{"content":' + content + b"}").status == 201
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(b"GET /queues/q/messages HTTP/1.1\r\nHost: x\r\n\r\n")
        reply = connection.recv(1000)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _accepts(server))
        while part := connection.recv(1 << 20):
            reply += part
    assert content in reply
    assert server.process.wait(START_SECONDS) == 0


def test_a_hangup_without_anything_to_read_again_stops_nobody(start: Callable[..., Server]) -> None:
    server = start(data_dir="memory:")
    server.process.send_signal(signal.SIGHUP)
    assert server.request("GET", "/healthz").status == 200
    assert server.stop() == 0
    assert "there are no tokens and no certificate to read again" in server.errors()
