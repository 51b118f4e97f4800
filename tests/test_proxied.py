"""tq behind the proxies that docs/deploying.md has, set up as it says."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.server import free_port
from tests.documents import blocks
from tests.harness import START_SECONDS, Server, settle, wait_until

NAME = "queue.example.com"
LARGE = "x" * 15_000_000  # little less than a body may have


class Proxied:
    """A server, and a proxy in front of it."""

    def __init__(self, server: Server, port: int, cert: Path) -> None:
        self.server = server
        self._port = port
        self._context = ssl.create_default_context(cafile=cert)

    def connect(self) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self._port), timeout=START_SECONDS)
        return self._context.wrap_socket(raw, server_hostname=NAME)

    def request(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(NAME)
        connection.sock = self.connect()
        connection.request(method, path, None if body is None else json.dumps(body))
        with connection.getresponse() as response:
            answer = response.status, response.read()
        connection.close()
        return answer


def documented(language: str, changes: dict[str, str]) -> str:
    """The only block in a language, with what differs here put in."""
    (block,) = blocks("docs/deploying.md", language)
    text = block.text
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def nginx(place: Path, tq_port: int, port: int) -> list[str]:
    """The command that runs it, with its files in a directory of its own."""
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{tq_port}",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/nginx/cert.pem": f"{place}/cert.pem",
        "/etc/nginx/key.pem": f"{place}/key.pem",
    }
    own = "".join(
        f"{kind}_temp_path {place}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = f"{own}access_log off;\n{documented('nginx', changes)}"
    (place / "conf").write_text(f"user root;\npid {place}/pid;\ndaemon off;\nevents {{}}\nhttp {{\n{text}}}\n")
    return ["nginx", "-p", str(place), "-e", "stderr", "-c", str(place / "conf")]


def caddy(place: Path, tq_port: int, port: int) -> list[str]:
    """With a certificate of ours: by itself it would ask an authority for one."""
    changes = {
        "127.0.0.1:8000": f"127.0.0.1:{tq_port}",
        f"{NAME} {{": f"{NAME}:{port} {{\n\tbind 127.0.0.1\n\ttls {place}/cert.pem {place}/key.pem",
    }
    settings = "{\n\tadmin off\n\tauto_https disable_redirects\n}\n"
    (place / "conf").write_text(settings + documented("caddy", changes))
    return ["caddy", "run", "--adapter", "caddyfile", "--config", str(place / "conf")]


@pytest.fixture(params=[nginx, caddy])
def proxied(request: pytest.FixtureRequest, start: Callable[..., Server], tmp_path: Path) -> Iterator[Proxied]:
    program = request.param.__name__
    if missing := [name for name in (program, "openssl") if not shutil.which(name)]:
        pytest.skip(f"{missing[0]} is not installed")
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "cert.pem"]
    names = ["-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", *kind, *names, *files], check=True, capture_output=True)
    server = start("--allowed-host", NAME)
    port = free_port()
    with (tmp_path / "log").open("wb") as log:
        running = subprocess.Popen(
            request.param(tmp_path, server.port, port),
            stdout=log,
            stderr=log,
            env={**os.environ, "HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)},
        )
    try:
        wait_until(lambda: answers(port) or running.poll() is not None, START_SECONDS)
        assert running.poll() is None, (tmp_path / "log").read_text()
        yield Proxied(server, port, tmp_path / "cert.pem")
    finally:
        running.terminate()
        running.wait(START_SECONDS)


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def test_what_is_sent_through_a_proxy_is_received_through_it(proxied: Proxied) -> None:
    assert proxied.request("POST", "/queues", {"name": "q", "max_message_bytes": 16_000_000})[0] == 201
    assert proxied.request("POST", "/queues/q/messages", {"content": LARGE})[0] == 201
    status, body = proxied.request("GET", "/queues/q/messages?visibility_timeout=60")
    assert (status, json.loads(body)["content"]) == (200, LARGE)
    receipt = json.loads(body)["receipt"]
    assert proxied.request("DELETE", f"/queues/q/messages/{receipt}") == (204, b"")
    assert proxied.request("GET", "/queues/q/messages") == (204, b"")


def test_a_client_that_is_gone_behind_a_proxy_takes_no_message(proxied: Proxied) -> None:
    """Its long poll is over when it has hung up, so the next message is for others."""
    proxied.server.request("POST", "/queues", {"name": "q"})  # not through the proxy, which would keep the connection
    wait_until(lambda: held(proxied.server) == 0)
    with proxied.connect() as waiting:
        waiting.sendall(f"GET /queues/q/messages?wait=60 HTTP/1.1\r\nHost: {NAME}\r\n\r\n".encode())
        wait_until(lambda: held(proxied.server) == 1)
    wait_until(lambda: held(proxied.server) == 0)
    settle(proxied.server)
    proxied.request("POST", "/queues/q/messages", {"content": 1})
    assert proxied.request("GET", "/queues/q/messages")[0] == 200


def held(server: Server) -> int:
    """Connections to the server that are open, by the kernel's table."""
    local = f":{server.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(row[1].endswith(local) and row[3] == "01" for row in rows)
