"""What a real browser does, and lets pages do: Chromium, without a screen, on pages of another origin."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, wait_until

pytestmark = pytest.mark.slow  # a browser takes seconds to start

SECONDS = 120  # many times what a page takes
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# Names that Chromium is told to find on this machine: of a page of somebody else, and one of a plain network.
NAMES = "MAP evil.test 127.0.0.1,MAP lan.test 127.0.0.1"

PAGE = """<!doctype html><title>test</title><body><pre id=result></pre><script>
const TQ = %s;
const tried = {};
async function attempt(name, act) {
    const given_up = new Promise(done => setTimeout(done, 1000, "given up"));  // what is saved, not shown, never loads
    try { tried[name] = await Promise.race([act(), given_up]) } catch (error) { tried[name] = "failed" }
}
const load = (kind, url) => new Promise(done => {
    const element = document.createElement(kind);
    element.onload = () => done("loaded");
    element.onerror = () => done("failed");
    if (kind == "link") { element.rel = "stylesheet"; element.href = url } else element.src = url;
    document.body.append(element);
});
const post = (url, type, text) => new Promise(done => {
    const form = document.createElement("form"), frame = document.createElement("iframe");
    frame.name = "f" + Math.random(); frame.onload = () => done("loaded");
    document.body.append(frame);
    form.method = type; form.action = url; form.target = frame.name; form.enctype = "text/plain";
    const input = document.createElement("input"); input.name = text; form.append(input);
    document.body.append(form); form.submit();
});
const text = async (url, options) => {
    const reply = await fetch(url, options);
    return reply.status + " " + await reply.text();
};
(async () => {
%s
document.getElementById("result").textContent = JSON.stringify(tried);
document.title = "done";
})();
</script>"""

ATTACKS = """
await attempt("no-cors", () => text(TQ + "/queues/q/messages", {mode: "no-cors"}));
await attempt("cors", () => text(TQ + "/queues/q/messages"));
await attempt("post", () => text(TQ + "/queues/q/messages", {method: "POST", mode: "no-cors", body: '{"content":6}'}));
await attempt("beacon", () => navigator.sendBeacon(TQ + "/queues/q/messages", '{"content":666}') ? "sent" : "failed");
await attempt("put", () => text(TQ + "/queues/q", {method: "PUT", body: "{}"}));
await attempt("delete", () => text(TQ + "/queues/q", {method: "DELETE"}));
await attempt("sqs", () => text(TQ + "/?Action=PurgeQueue&QueueUrl=q", {mode: "no-cors"}));
await attempt("image", () => load("img", TQ + "/queues/q/messages"));
await attempt("script", () => load("script", TQ + "/queues/scripts/messages/1"));
await attempt("style", () => load("link", TQ + "/queues/q/messages"));
await attempt("frame", () => load("iframe", TQ + "/queues/q/messages"));
await attempt("frame of sqs", () => load("iframe", TQ + "/?Action=ReceiveMessage&QueueUrl=q"));
await attempt("form", () => post(TQ + "/queues/q/messages", "POST", '{"content":666,"a":"'));
await attempt("form that gets", () => post(TQ + "/queues/q/messages", "GET", "a"));
await attempt("peek", () => text(TQ + "/queues/q/peek"));
await attempt("status", () => text(TQ + "/status"));
await attempt("peek unseen", () => text(TQ + "/queues/q/peek", {mode: "no-cors"}));
tried.stolen = typeof stolen;
"""
USES = """
await attempt("send", () => text(TQ + "/queues/q/messages", {method: "POST", body: '{"content":"mine"}',
    headers: {"Content-Type": "application/json", "Idempotency-Key": "a"}}));
await attempt("receive", () => text(TQ + "/queues/q/messages"));
await attempt("status", async () => (await fetch(TQ + "/status")).status);
await attempt("absent", async () => (await fetch(TQ + "/absent")).status);
await attempt("delete", async () => (await fetch(TQ + "/queues/q", {method: "DELETE"})).status);
"""


class Site:
    """A site of somebody else on a port of this machine. Pages are served by their path."""

    def __init__(self) -> None:
        pages = self.pages = dict[str, str]()
        asked = self.asked = set[str]()

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.add(self.path)
                page = pages.get(self.path)
                self.send_response(200 if page else 404)
                self.send_header("Content-Type", "text/html")
                self.end_headers()
                self.wfile.write((page or "").encode())

            def log_message(self, *_: Any) -> None: ...

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if not found:
        pytest.skip("chromium is not installed")
    return found


@pytest.fixture
def site() -> Iterator[Site]:
    opened = Site()
    yield opened
    opened.close()


@pytest.fixture
def command(chromium: str, tmp_path: Path) -> list[str]:
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
    return [chromium, *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--host-resolver-rules={NAMES}"]


@pytest.fixture
def visit(command: list[str]) -> Callable[..., str]:
    """Opens a page and returns what became of it, as HTML."""

    def dump(url: str) -> str:
        line = [*command, "--virtual-time-budget=30000", "--dump-dom", url]
        return subprocess.run(line, capture_output=True, text=True, check=True, timeout=SECONDS).stdout

    return dump


def tried_on(site: Site, visit: Callable[..., str], name: str, target: str, acts: str) -> dict[str, Any]:
    """What came of each attempt of a page, which is at `name` on the other site's port, against the target."""
    site.pages["/"] = PAGE % (json.dumps(target), acts)
    html = visit(f"http://{name}:{site.port}/")
    result = html.partition('<pre id="result">')[2].partition("</pre>")[0]
    assert result, html
    tried: dict[str, Any] = json.loads(unescape(result))
    return tried


def stocked(server: Server) -> dict[str, Any]:
    """Two queues with a message each, the second one's a script; what the first one has counted."""
    for name in ("q", "scripts"):
        server.request("POST", "/queues", {"name": name})
    server.request("POST", "/queues/q/messages", {"content": "secret"})
    server.request("POST", "/queues/scripts/messages", b"var stolen = 1", {"Content-Type": "text/javascript"})
    return counted(server)


def counted(server: Server) -> dict[str, Any]:
    shown: dict[str, Any] = server.request("GET", "/queues/q").json
    return {key: shown[key] for key in ("messages", "totals", "delay")}


@pytest.mark.parametrize(
    ("page", "name"),
    [
        ("127.0.0.1", "127.0.0.1"),  # another port of the same host: the same site, but another origin
        ("evil.test", "127.0.0.1"),
        ("evil.test", "lan.test"),  # to which the browser says nothing of the page with images and links
    ],
)
def test_a_page_of_another_origin_can_do_nothing(
    start: Callable[..., Server], site: Site, visit: Callable[..., str], page: str, name: str
) -> None:
    server = start("--allowed-host", "lan.test")
    before = stocked(server)
    tried = tried_on(site, visit, page, f"http://{name}:{server.port}", ATTACKS)
    assert counted(server) == before, tried
    assert tried["stolen"] == "undefined"
    for attempt in ("cors", "put", "delete", "peek", "status"):
        assert tried[attempt] == "failed", tried
    assert "secret" not in json.dumps(tried)


def test_a_link_on_a_page_takes_no_message(start: Callable[..., Server], site: Site, visit: Callable[..., str]) -> None:
    server = start("--allowed-host", "lan.test")
    before = stocked(server)
    for name in ("127.0.0.1", "lan.test"):
        target = f"http://{name}:{server.port}/queues/q/messages"
        site.pages["/"] = f"<script>location = {json.dumps(target)}</script>"
        shown = visit(f"http://evil.test:{site.port}/")
        assert "cross_site_request" in shown
        assert counted(server) == before


def test_a_name_that_was_made_to_point_here_opens_nothing(
    start: Callable[..., Server], visit: Callable[..., str]
) -> None:
    """DNS rebinding: to the browser the server is the page's own."""
    server = start()
    before = stocked(server)
    for path in ("/queues/q/messages", "/queues/q/peek", "/status"):
        shown = visit(f"http://evil.test:{server.port}{path}")
        assert "host_not_allowed" in shown
        assert "secret" not in shown
    assert counted(server) == before
    assert "secret" in visit(f"http://localhost:{server.port}/queues/q/messages")  # as the user has typed it


@pytest.mark.parametrize("how", ["location = TARGET", "document.body.append(Object.assign(frame, {src: TARGET}))"])
@pytest.mark.parametrize("media_type", ["text/html", "image/svg+xml"])
def test_a_message_is_no_page(
    start: Callable[..., Server], site: Site, command: list[str], how: str, media_type: str
) -> None:
    """It runs nothing where a page leads to it; the browser saves it, and the page stays."""
    server = start()
    server.request("POST", "/queues", {"name": "q"})
    script = f"<script>fetch('http://evil.test:{site.port}/ran', {{mode: 'no-cors'}})</script>"
    body = f'<svg xmlns="http://www.w3.org/2000/svg">{script}</svg>' if "svg" in media_type else script
    server.request("POST", "/queues/q/messages", body.encode(), {"Content-Type": media_type})
    target = json.dumps(f"http://127.0.0.1:{server.port}/queues/q/messages/1")
    site.pages["/"] = (
        f"<body><script>const TARGET = {target}, frame = document.createElement('iframe'); {how};"
        "setTimeout(() => fetch('/stayed'), 2000)</script>"
    )
    with subprocess.Popen([*command, f"http://evil.test:{site.port}/"], stderr=subprocess.DEVNULL) as browser:
        try:
            wait_until(lambda: {"/ran", "/stayed"} & site.asked, SECONDS)
        finally:
            browser.terminate()
    assert "/ran" not in site.asked
    assert "/stayed" in site.asked


def test_a_page_that_the_settings_name_can_use_it(
    start: Callable[..., Server], site: Site, visit: Callable[..., str]
) -> None:
    server = start("--cors-origins", f"http://127.0.0.1:{site.port}")
    server.request("POST", "/queues", {"name": "q"})
    tried = tried_on(site, visit, "127.0.0.1", server.url, USES)
    assert tried["send"] == '201 {"id":1}', tried
    assert '"content":"mine"' in tried["receive"]
    assert (tried["status"], tried["absent"], tried["delete"]) == (200, 404, 204)
    stocked(server)
    before = counted(server)
    tried_on(site, visit, "evil.test", server.url, ATTACKS)
    assert counted(server) == before
