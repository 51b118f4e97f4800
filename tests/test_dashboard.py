"""The dashboard's files over HTTP: what is served, how, and what stays with SQS."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest
import requests

from tests.guarded import Guarded
from tests.harness import ROOT, Server
from tq.web import dashboard
from tq.web.exchange import Request

FILES = ROOT / "tq" / "web" / "dashboard"
MOST_BYTES = 150_000
PATHS = ["/", *(f"/dashboard/{path.name}" for path in FILES.iterdir() if path.suffix in (".js", ".css", ".svg"))]


def test_each_file_is_served(server: Server) -> None:
    for path in PATHS:
        assert_served(server, path)


def assert_served(server: Server, path: str) -> None:
    name = "index.html" if path == "/" else path.rpartition("/")[2]
    reply = server.request("GET", path)
    assert (reply.status, reply.body) == (200, (FILES / name).read_bytes())
    kind = {".js": "text/javascript", ".css": "text/css", ".html": "text/html"}.get(Path(name).suffix, "image/svg+xml")
    assert reply.headers["Content-Type"].partition(";")[0] == kind
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Content-Security-Policy"] == dashboard.POLICY
    assert reply.headers["Cache-Control"] == "no-cache"
    head = server.request("HEAD", path)
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(reply.body)))
    again = server.request("GET", path, headers={"If-None-Match": reply.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
    assert again.headers["ETag"] == reply.headers["ETag"]
    assert server.request("GET", path, headers={"If-None-Match": '"other"'}).status == 200
    assert server.request("GET", path + "?utm=1").body == reply.body
    if path != "/":
        assert server.request("GET", path + "/").body == reply.body
        refused = server.request("POST", path, b"")
        assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS")
        assert refused.headers["Cache-Control"] == "no-store"


def test_one_answer_has_one_cache_control(server: Server) -> None:
    for path, caches in (("/", "no-cache"), ("/openapi.json", "no-cache"), ("/status", "no-store")):
        raw = server.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert re.findall(rb"(?i)cache-control: ([^\r]+)", raw) == [caches.encode()], path


def test_sqs_keeps_what_is_its_own(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    for target in ("/?Action=ListQueues", "/?Version=2012-11-05&Action=ListQueues", "/?Acti%6fn=ListQueues"):
        assert b"ListQueuesResponse" in server.request("GET", target).body
    assert server.request("GET", "/?Action=").headers["Content-Type"] == "text/xml"
    assert server.request("GET", "/?NoAction=1").headers["Content-Type"].startswith("text/html")
    assert server.request("HEAD", "/?Action=ListQueues").status == 405
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert b"ListQueuesResponse" in server.request("POST", "/", b"Action=ListQueues", form).body
    assert server.request("POST", "/", b"").headers["Content-Type"] == "text/xml"
    refused = server.request("DELETE", "/")
    assert (refused.status, refused.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
    assert server.request("OPTIONS", "/").headers["Allow"] == "GET, HEAD, OPTIONS, POST"


@pytest.mark.parametrize(
    "name", ["__init__.py", "..%2f__init__.py", "../router.py", "%2e%2e/router.py", "nothing.js", ""]
)
def test_nothing_else_is_served(name: str, server: Server) -> None:
    reply = server.request("GET", f"/dashboard/{name}")
    assert reply.status == 404
    assert b"import" not in reply.body


def test_the_files_are_open_and_what_they_ask_for_is_not(guarded: Guarded) -> None:
    for path in PATHS:
        assert requests.get(guarded.server.url + path, timeout=30).status_code == 200
    for path in ("/queues", "/history", "/status", "/queues/orders", "/queues/orders/peek", "/queues/orders/history"):
        assert requests.get(guarded.server.url + path, timeout=30).status_code == 401


def test_the_page_may_be_opened_by_a_link_from_elsewhere(server: Server) -> None:
    """Which a receive may not: it is a look, and in no frame."""
    for headers in ({"Sec-Fetch-Site": "cross-site"}, {"User-Agent": "Mozilla/5.0", "Accept-Language": "en"}):
        assert server.request("GET", "/", headers=headers).status == 200
        assert server.request("GET", "/?Action=ListQueues", headers=headers).status == 403


def test_the_files_are_small_and_say_what_they_own() -> None:
    files = [path for path in FILES.iterdir() if path.suffix in dashboard.MEDIA_TYPES]
    sizes = {path.name: path.stat().st_size for path in files}
    assert sum(sizes.values()) < MOST_BYTES, sizes
    for path in files:
        text = path.read_text()
        assert text.count("\n") <= 400, path.name
        if path.suffix == ".js":
            assert re.match(r"// [A-Z]", text), path.name
            assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", text)
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", text), path.name


@pytest.mark.slow
def test_they_are_in_the_package(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "tq", copy / "tq")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    made = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tmp_path / "dist", copy],
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stdout + made.stderr
    wheel, source = next((tmp_path / "dist").glob("*.whl")), next((tmp_path / "dist").glob("*.tar.gz"))
    wanted = {f"tq/web/dashboard/{path.name}" for path in FILES.iterdir() if path.suffix in dashboard.MEDIA_TYPES}
    assert wanted <= set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(source) as archive:
        assert wanted <= {name.partition("/")[2] for name in archive.getnames()}


def test_no_file_is_read_for_a_request(monkeypatch: pytest.MonkeyPatch) -> None:
    routes = dashboard.routes()
    for name in ("open", "read_bytes", "read_text", "stat"):
        monkeypatch.setattr(Path, name, None)
    for route in routes:
        assert route.parse(Request("GET", route.path, "", {}, {}, b"")).status == 200
