"""Whose requests are refused though the sender can reach the port: those of pages, by the heads that browsers send."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import Any, get_type_hints

import pytest

from tests.harness import Reply, Server
from tests.wire import Wire
from tq import model
from tq.errors import CrossSiteRequest, HostNotAllowed, StartError
from tq.metrics import Metrics
from tq.settings import Settings
from tq.web import ROUTES, dashboard
from tq.web.browsers import Browsers
from tq.web.sqs import Endpoint

OWN = socket.gethostname()
FOREIGN = {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.test"}
BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64)", "Accept-Language": "en"}
CONSOLE = "https://console.example.com"


def check(
    headers: dict[str, str], authority: str = "", *, is_change: bool = True, **settings: Any
) -> type[Exception] | None:
    """What is said of a head."""
    given = {"host": "localhost:8000"} | {name.lower(): value for name, value in headers.items()}
    try:
        Browsers(Settings(**settings)).check(given, authority, is_change=is_change)
    except (HostNotAllowed, CrossSiteRequest) as error:
        return type(error)
    return None


# --- names -------------------------------------------------------------

OURS = ["localhost", "LocalHost", "localhost.", "a.localhost", "127.0.0.1", "192.168.1.7", "[::1]", "[fe80::1%25eth0]"]
OTHERS = ["", "evil.test", "localhost.evil.test", "notlocalhost", "127.0.0.1.evil.test", "127.0.0.1.nip.io"]
OTHERS += ["2130706433", "0x7f000001", "::1", "[::1", "[localhost]", "[::1].evil.test", "localhost@evil.test"]
OTHERS += ["localhost:80@evil.test", "evil.test:localhost", "localhost:x", "a" * 10_000, "local\u017fhost", ".", "*"]


@pytest.mark.parametrize("name", [*OURS, OWN, OWN.upper()])
def test_names_that_are_ours(name: str) -> None:
    for host in (name, f"{name}:1", f"{name}:65535", f"{name}:"):
        assert check({"Host": host}) is None, host


@pytest.mark.parametrize("name", OTHERS)
def test_names_that_are_not(name: str) -> None:
    assert check({"Host": name}, is_change=False) is HostNotAllowed
    assert check({"Host": f"{name}:8000"}, is_change=False) is HostNotAllowed
    assert check({"Host": name}, is_change=False, tokens="t") is None


def test_names_that_the_settings_allow() -> None:
    for name in ("tq", "Queue.Internal.", "b.example"):
        assert check({"Host": name}, allowed_host="tq, queue.internal,B.example") is None
        assert check({"Host": name}) is HostNotAllowed
    assert check({"Host": "a.tq"}, allowed_host="tq") is HostNotAllowed
    assert check({"Host": "lan.example:8000"}, host="lan.example") is None


def test_the_authority_of_a_target_counts_in_place_of_host() -> None:
    assert check({"Host": "localhost"}, "evil.test") is HostNotAllowed
    assert check({"Host": "evil.test"}, "localhost:8000") is None


@pytest.mark.parametrize("name", ["http://a", "a:8000", "a b", "*"])
def test_a_name_that_is_none_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(StartError, match="--allowed-host"):
        Browsers(Settings(allowed_host=name))


# --- sites -------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "may_pass"),
    [
        ({}, True),
        ({"Sec-Fetch-Site": "same-origin"}, True),
        ({"Sec-Fetch-Site": "none"}, True),
        ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, True),
        ({"Sec-Fetch-Site": "same-site"}, False),
        ({"Sec-Fetch-Site": "cross-site"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}, False),
        ({"Sec-Fetch-Site": "cross-site", "Origin": "http://localhost:8000"}, False),
        ({"Sec-Fetch-Site": ""}, False),
        ({"Sec-Fetch-Site": "Same-Origin"}, False),
        ({"Sec-Fetch-Site": "none, cross-site"}, False),
        ({"Origin": "http://localhost:8000"}, True),
        ({"Origin": "http://localhost:8000", "Host": "LOCALHOST:8000"}, True),
        ({"Origin": "http://localhost", "Host": "localhost:80"}, True),
        ({"Origin": "http://[::1]:8000", "Host": "[::1]:8000"}, True),
        ({"Origin": "https://localhost:8000"}, False),
        ({"Origin": "http://localhost:3000"}, False),
        ({"Origin": "http://127.0.0.1:8000"}, False),
        ({"Origin": "http://evil.test"}, False),
        ({"Origin": "null"}, False),
        ({"Origin": ""}, False),
        (BROWSER, False),
        ({**BROWSER, "Sec-Fetch-Site": "none"}, True),
        ({**BROWSER, "Origin": "http://localhost:8000"}, True),
        ({"User-Agent": "Mozilla/5.0 (Windows NT; en-US) WindowsPowerShell/5.1"}, True),
        ({"User-Agent": "node", "Accept-Language": "*", "Sec-Fetch-Mode": "cors"}, True),  # as Node's fetch
    ],
)
def test_whose_request_it_is(headers: dict[str, str], may_pass: bool) -> None:
    assert check(headers) is (None if may_pass else CrossSiteRequest)
    assert check(headers, is_change=False) is None
    # So with tokens, too: an address may be signed.
    assert check(headers, tokens="t") is (None if may_pass else CrossSiteRequest)


def test_whose_request_it_is_over_tls() -> None:
    assert check({"Origin": "https://localhost:8000"}, tls_cert="c") is None
    assert check({"Origin": "https://localhost", "Host": "localhost:443"}, tls_cert="c") is None
    assert check({"Origin": "http://localhost:8000"}, tls_cert="c") is CrossSiteRequest


def test_an_origin_that_the_settings_allow() -> None:
    for headers in ({"Origin": CONSOLE}, {"Origin": CONSOLE, "Sec-Fetch-Site": "cross-site"}):
        assert check(headers, cors_origins=f"http://localhost:3000,{CONSOLE}") is None
        assert check(headers, cors_origins="http://localhost:3000") is CrossSiteRequest
        assert check({**headers, "Origin": CONSOLE + ":444"}, cors_origins=CONSOLE) is CrossSiteRequest
        assert check(headers, cors_origins="*", tokens="t") is None
    assert check({"Sec-Fetch-Site": "cross-site"}, cors_origins=CONSOLE) is CrossSiteRequest
    assert check({"Origin": CONSOLE, "Host": "evil.test"}, cors_origins=CONSOLE) is HostNotAllowed


@pytest.mark.parametrize(
    "origin", ["*", "null", "example.com", "https://a/", "https://a/b", "HTTPS://a", "https://*.a"]
)
def test_an_origin_that_is_none_is_refused_at_the_start(origin: str) -> None:
    with pytest.raises(StartError, match="--cors-origins"):
        Browsers(Settings(cors_origins=origin))


# --- every route -------------------------------------------------------------

PAGES = dashboard.routes()
EVERY = [*ROUTES, *Endpoint(Settings(), Metrics()).routes(), *PAGES]
LOOKING = ("/status", "/queues", "/queues/{queue}", "/queues/{queue}/peek", "/queues/{queue}/messages/{id}")
LOOKING += ("/queues/{queue}/moves", "/queues/{queue}/history", "/history", "/healthz", "/openapi.json", "/metrics")


def asked(route: Any) -> tuple[str, str, bytes | None]:
    path = re.sub(r"\{(\w+)\}", lambda name: {"id": "1", "move": "1"}.get(name[1], "q"), route.path)
    if path == "/" and route.method == "GET" and not route.unless:
        path = "/?Action=ListQueues"  # without one it is the dashboard's
    return route.method, path, b"{}" if route.reads_body else None


def code_of(reply: Reply) -> str | None:
    if b"AccessDenied" in reply.body:  # as SQS says it
        return "host_not_allowed" if b"name" in reply.body else "cross_site_request"
    return reply.json.get("code") if reply.headers.get("Content-Type") == "application/problem+json" else None


def test_every_route_is_closed_to_pages_of_others(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    server.request("POST", "/queues/q/messages", {"content": 1})
    before = server.request("GET", "/queues/q").json["totals"]
    for route in EVERY:
        looks = route.method == "GET" and (route.path in LOOKING or route in PAGES)
        for headers in (FOREIGN, {"Origin": "null"}, BROWSER):
            reply = server.request(*asked(route), headers=headers)
            refused = (reply.status, code_of(reply)) == (403, "cross_site_request")
            assert refused != looks, (route.method, route.path, reply)
        reply = server.request(*asked(route), headers={"Host": "evil.test"})
        assert (reply.status, code_of(reply)) == (403, "host_not_allowed"), (route.method, route.path, reply)
    assert server.request("GET", "/queues/q").json["totals"] == before
    assert server.request("OPTIONS", "/status", headers={"Host": "evil.test"}).status == 403
    assert server.request("HEAD", "/status", headers={"Host": "evil.test"}).status == 403


def test_what_looks_is_what_asks_for_a_query() -> None:
    """Else a route that was forgotten here would be open or closed by mistake."""
    for route in ROUTES:
        kind = get_type_hints(route.ask)["return"]
        is_query = isinstance(kind, type) and not issubclass(kind, model.Command)
        assert is_query == (route.method == "GET" and route.path in LOOKING), route.path


def test_a_head_that_was_seen_is_judged_as_it_was(server: Server) -> None:
    """Heads are remembered, with what was found of them."""
    server.request("POST", "/queues", {"name": "q"})
    with Wire(server.port) as wire:
        for _ in range(3):
            for extra, status in (("", 204), ("Origin: http://evil.test\r\n", 403), ("Sec-Fetch-Site: none\r\n", 204)):
                wire.send(f"GET /queues/q/messages HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n".encode())
                assert wire.expect().status == status


def test_targets_in_absolute_form(server: Server) -> None:
    for target, host, status in (
        ("http://localhost/status", "evil.test", 200),
        ("http://evil.test/status", "localhost", 403),
        ("http://evil.test:80/status?", "localhost", 403),
        ("http://localhost@evil.test/status", "localhost", 403),
        ("http:///status", "localhost", 400),
    ):
        with Wire(server.port) as wire:
            wire.send(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            assert wire.expect().status == status, target


def test_http_1_0_needs_no_host(server: Server) -> None:
    assert server.raw(b"GET /status HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200")
    assert server.raw(b"GET /status HTTP/1.0\r\nHost: evil.test\r\n\r\n").startswith(b"HTTP/1.1 403")


# --- CORS -------------------------------------------------------------


def cors_of(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("Access-") or name == "Vary"}


PREFLIGHT = {"Origin": CONSOLE, "Access-Control-Request-Method": "POST"}
PREFLIGHT["Access-Control-Request-Headers"] = "authorization,idempotency-key"


def test_there_is_no_cors_unless_it_is_asked_for(server: Server) -> None:
    for method, path in (("OPTIONS", "/queues"), ("GET", "/status"), ("POST", "/queues"), ("GET", "/absent")):
        assert cors_of(server.request(method, path, headers={**PREFLIGHT, "Sec-Fetch-Site": "cross-site"})) == {}


def test_cors(start: Callable[..., Server]) -> None:
    server = start("--cors-origins", "http://localhost:3000", "--cors-origins", CONSOLE)
    allowed = {"Access-Control-Allow-Origin": CONSOLE, "Access-Control-Expose-Headers": "*", "Vary": "Origin"}
    preflight = server.request("OPTIONS", "/queues", headers=PREFLIGHT)
    assert preflight.status == 204
    assert cors_of(preflight) == allowed | {
        "Access-Control-Allow-Methods": "GET, HEAD, POST, PUT, PATCH, DELETE",
        "Access-Control-Allow-Headers": "authorization,idempotency-key",
        "Access-Control-Max-Age": "600",
    }
    page = {"Origin": CONSOLE, "Sec-Fetch-Site": "cross-site"}
    for method, path, body, status in (
        ("POST", "/queues", {"name": "q"}, 201),
        ("GET", "/queues/q/messages", None, 204),
        ("GET", "/status", None, 200),
        ("GET", "/absent", None, 404),
        ("POST", "/queues", b"{", 400),
        ("POST", "/?Action=ListQueues", None, 200),
        ("DELETE", "/status", None, 405),
    ):
        reply = server.request(method, path, body, page)
        assert (reply.status, cors_of(reply)) == (status, allowed), path
    for headers in ({**PREFLIGHT, "Origin": "http://evil.test"}, {}):
        assert cors_of(server.request("OPTIONS", "/queues", headers=headers)) == {"Vary": "Origin"}
    assert server.request("POST", "/queues", {"name": "r"}, FOREIGN).status == 403


# --- what a browser would show -------------------------------------------------------------


def test_a_message_is_no_page(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    for media_type in ("text/html", "image/svg+xml", "application/javascript", "application/xhtml+xml"):
        server.request("POST", "/queues/q/messages", b"<script>", {"Content-Type": media_type})
        number = server.request("GET", "/queues/q/peek").json["messages"][0]["id"]
        for path in (f"/queues/q/messages/{number}", "/queues/q/messages"):
            headers = server.request("GET", path).headers
            assert headers["Content-Type"] == media_type
            assert headers["Content-Security-Policy"] == "default-src 'none'; sandbox; frame-ancestors 'none'"
            assert headers["Content-Disposition"] == "attachment"
            assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
            assert headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in server.request("GET", "/?Action=ListQueues").headers["Content-Security-Policy"]
