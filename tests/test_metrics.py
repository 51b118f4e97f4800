"""What `GET /metrics` says is what happened, in both of its formats, and never more lines than there may be."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import random
import re
import select
import socket
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tests.harness import ROOT, Server, settle, wait_until
from tests.scraped import Scraped, parsed, sampled, series_of
from tests.wire import ask
from tq import __version__, lifecycle
from tq.broker import Broker
from tq.errors import all_errors
from tq.metrics import (
    CONNECTIONS_CUT,
    CONNECTIONS_REFUSED,
    EVENTS,
    KINDS,
    METHODS,
    OVERLOADS,
    STATES,
    SUMMED_QUEUES,
    TOLD_QUEUES,
    Metrics,
    Overview,
    follow,
)
from tq.model import Counters, Counts, Figures, StorageInfo
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web import ROUTES, dashboard
from tq.web.exchange import Request, Response
from tq.web.metrics import FAMILIES, OF_QUEUES, OPENMETRICS, PART, TEXT, metrics_shown
from tq.web.server import Application
from tq.web.server import Server as HttpServer
from tq.web.sqs import _OPERATIONS, Endpoint

DOCUMENT = (ROOT / "docs/metrics.md").read_text()
OPEN = "application/openmetrics-text"
STORAGE = StorageInfo("memory", "memory:", 0, 0, None)


def sqs(server: Server, operation: str, body: Any) -> int:
    return server.request("POST", "/", body, {"X-Amz-Target": f"AmazonSQS.{operation}"}).status


# --- the table -----------------------------------------------------------------------


def documented() -> dict[str, tuple[str, ...]]:
    rows = re.findall(r"^\| `((?:tq|process)_\w+)` \| (\w+) \| (.*?) ?\| (.+) \|$", DOCUMENT, re.MULTILINE)
    return {name: (kind, labels, meaning) for name, kind, labels, meaning in rows}


def test_every_metric_is_documented_and_nothing_else_is() -> None:
    known = {
        family.name: (family.kind, ", ".join(f"`{label}`" for label in family.labels), family.help)
        for family in FAMILIES
    }
    told = documented()
    assert {name: row for name, row in told.items() if name.startswith("tq_")} == known


def test_every_label_is_documented_with_its_values() -> None:
    rows = dict(re.findall(r"^\| `(\w+)`[^|]* \| (.+) \|$", DOCUMENT.partition("### Labels")[2], re.MULTILINE))
    labels = {label for family in FAMILIES for label in family.labels} - {"version", "python", "engine"}
    assert labels <= rows.keys()
    values = [*KINDS, *STATES, *OVERLOADS, *CONNECTIONS_REFUSED, *CONNECTIONS_CUT]
    assert [value for value in values if f"`{value}`" not in DOCUMENT.partition("### Labels")[2]] == []


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_are_by_the_conventions(family: Any) -> None:
    assert re.fullmatch(r"tq(_[a-z]+)+", family.name)
    assert family.name.endswith("_total") == (family.kind == "counter")
    assert not re.search(r"_(ms|milliseconds|kb|mb|count|sum|bucket)$", family.name)
    if family.unit:
        assert family.unit in family.help or family.unit == "seconds"
    assert family.help.endswith(".")


# --- the text -------------------------------------------------------------------------


def do_something_of_everything(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    for path in ("/queues/q/messages", "/queues/none/messages"):
        server.request("POST", path, {"content": 1})
    server.request("GET", "/nothing/is/here")
    server.request("GET", "/queues/q/messages")
    assert sqs(server, "SendMessage", {"QueueUrl": "q", "MessageBody": "a"}) == 200


@pytest.mark.parametrize("accept", ["", OPEN])
def test_the_official_parsers_read_it(server: Server, accept: str) -> None:
    do_something_of_everything(server)
    found = Scraped(server, accept)
    names = {family.name + ("_total" if family.type == "counter" else "") for family in found.families}
    # A moment after the start there is no sample of the queues.
    assert names | {family.name for family in FAMILIES if "queue" in family.labels} == documented().keys()
    for family in found.families:
        table = next((each for each in FAMILIES if each.name.removesuffix("_total") == family.name), None)
        if table:
            assert (family.type, family.documentation) == (table.kind, table.help)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/plain;version=0.0.4", TEXT),
        (OPEN, OPENMETRICS),
        (OPEN.upper(), OPENMETRICS),
        (f"{OPEN};q=0", TEXT),
        (f"{OPEN};version=1.0.0;q=0.5,text/plain;q=0.9", TEXT),
        (f"{OPEN};version=1.0.0;escaping=allow-utf-8;q=0.6,{OPEN};version=0.0.1;q=0.5,text/plain;q=0.3", OPENMETRICS),
        (f"{OPEN};q=many", TEXT),
        ("application/json", TEXT),
        (";;,;q=,,", TEXT),
    ],
)
def test_the_format_is_what_the_client_would_rather_have(accept: str, expected: str) -> None:
    assert shown(Overview(), {}, accept).content_type == expected


def shown(before: Overview, sample: dict[str, Figures], accept: str = "") -> Response:
    """The page of a server that knows nothing but its queues."""
    metrics = Metrics()
    metrics.overview = before
    return ended(page(metrics, sample, accept))


def page(metrics: Metrics, sample: dict[str, Figures], accept: str = "") -> Any:
    request = Request("GET", "/metrics", "", {"accept": accept} if accept else {}, {}, b"")
    return metrics_shown(request, (metrics, STORAGE, sample))


def ended(steps: Any) -> Any:
    while True:
        try:
            assert next(steps) is None
        except StopIteration as stop:
            return stop.value


# --- what happened ---------------------------------------------------------------------


ANSWERED = {
    ("POST", "/queues/{queue}/messages", "201", ""): 8,
    ("POST", "/queues/{queue}/messages", "404", "queue_not_found"): 2,
    ("POST", "/queues/{queue}/messages", "400", "invalid_request"): 1,
    ("GET", "/queues/{queue}/messages", "200", ""): 5,
    ("DELETE", "/queues/{queue}/messages/{id}", "204", ""): 1,
    ("DELETE", "/queues/{queue}/messages/{id}", "404", "message_not_found"): 1,
    ("HEAD", "/status", "200", ""): 1,
    ("OPTIONS", "/queues/{queue}/messages", "204", ""): 1,
    ("PUT", "/queues/{queue}/messages", "405", "method_not_allowed"): 1,
    ("other", "unknown", "400", "invalid_request"): 1,
    ("POST", "/", "200", ""): 2,
    ("POST", "/", "400", "AWS.SimpleQueueService.NonExistentQueue"): 1,
}


def act(server: Server) -> None:
    """Ask for things of which some go wrong: `ANSWERED` is how often each comes to what."""
    path = "/queues/q/messages"
    for number in range(7):
        assert server.request("POST", path, {"content": number}).status == 201
    assert server.request("POST", path, [{"content": "of a batch"}] * 5).status == 201
    for _ in range(3):
        assert server.request("GET", path).status == 200
    receipt = server.request("GET", f"{path}?visibility_timeout=60").json["receipt"]
    assert server.request("GET", f"{path}?visibility_timeout=60").status == 200
    assert server.request("DELETE", f"{path}/{receipt}").status == 204
    assert server.request("DELETE", f"{path}/{receipt}").status == 404
    assert server.request("HEAD", "/status").status == 200
    assert server.request("OPTIONS", path).status == 204
    assert server.request("PUT", path, {}).status == 405
    for _ in range(2):
        assert server.request("POST", "/queues/none/messages", {"content": 1}).status == 404
    assert server.request("POST", path, b"{").status == 400
    for _ in range(2):
        assert sqs(server, "SendMessage", {"QueueUrl": "q", "MessageBody": "a"}) == 200
    assert sqs(server, "SendMessage", {"QueueUrl": "none", "MessageBody": "a"}) == 400
    assert server.raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")


def test_each_figure_is_what_was_done(start: Callable[..., Server]) -> None:
    server = start()
    assert server.request("POST", "/queues", {"name": "q"}).status == 201
    before = Scraped(server)
    act(server)
    found = sampled(server, sent=14, received=5, acked=4)
    told = {
        (method, route, status, code): found(
            "tq_http_requests_total", method=method, route=route, status=status, code=code
        )
        for method, route, status, code in ANSWERED
    }
    assert told == ANSWERED
    assert found("tq_sqs_requests_total", operation="SendMessage", code="") == 2
    assert found("tq_sqs_requests_total", operation="SendMessage") == 3

    def grown(name: str, **labels: str) -> float:
        return found(name, **labels) - before(name, **labels)

    assert grown("tq_operation_duration_seconds_count", kind="send") == 8 + 2 + 2 + 1  # with those that were refused
    assert grown("tq_operation_duration_seconds_count", kind="receive") == 5
    assert grown("tq_operation_duration_seconds_count", kind="settle") == 2
    commands = sum(grown("tq_operation_duration_seconds_count", kind=kind) for kind in KINDS if kind != "query")
    assert grown("tq_commit_commands_sum") == commands
    commits = grown("tq_commit_duration_seconds_count")
    assert commits == grown("tq_commit_sync_seconds_count") == grown("tq_commit_size_bytes_count") >= 17
    assert 0 < grown("tq_commit_sync_seconds_sum") < grown("tq_commit_duration_seconds_sum")
    assert grown("tq_commit_size_bytes_sum") > 14 * 256
    assert 0 <= grown("tq_commits_on_thread_total") <= commits

    assert found("tq_messages", state="ready") == found("tq_queue_messages", queue="q", state="ready") == 9
    assert found("tq_messages", state="in_flight") == found("tq_queue_messages", queue="q", state="in_flight") == 1
    assert found("tq_queue_messages_handled_total", queue="q", event="sent") == 14
    assert found("tq_messages_size_bytes") == found("tq_queue_size_bytes", queue="q") > 0
    assert found("tq_oldest_message_age_seconds") == found("tq_queue_oldest_message_age_seconds", queue="q") > 0
    assert (found("tq_queues"), found("tq_queues_left_out")) == (1, 0)
    assert found("tq_build_info", version=__version__) == 1
    assert found("process_resident_memory_bytes") > 1 << 20
    storage = server.request("GET", "/status").json["storage"]
    for name in ("file", "used", "reserve"):
        assert found(f"tq_store_{name}_bytes") == storage[f"{name}_bytes"] > 0
    assert found("tq_store_available_bytes") > 0
    assert found("tq_store_failed") == 0

    assert server.stop() == 0
    again = sampled(start(), sent=14)
    assert not again.has("tq_http_requests_total", route="/queues/{queue}/messages")
    assert again("tq_operation_duration_seconds_count", kind="send") == 0
    assert again("tq_messages_handled_total", event="acked") == 4


def test_counters_never_fall(server: Server) -> None:
    chance = random.Random(7)
    server.request("POST", "/queues", {"name": "q"})
    before = Scraped(server)
    for _ in range(4):
        for _ in range(25):
            method, path = chance.choice(
                [("GET", "/status"), ("GET", "/queues/q/messages"), ("POST", "/queues/q/messages")]
            )
            server.request(method, path, {"content": 1} if method == "POST" else None)
        after = Scraped(server)
        for family in before.families:
            if family.type in ("counter", "histogram"):
                for sample in family.samples:
                    key = sample.name, frozenset(sample.labels.items())
                    assert after.series[key] >= sample.value, key
        before = after


def test_buckets_grow_to_the_count(server: Server) -> None:
    settle(server)
    for family in Scraped(server).families:
        if family.type == "histogram":
            for labels, samples in itertools.groupby(
                (s for s in family.samples if s.name.endswith("_bucket")),
                lambda s: {name: value for name, value in s.labels.items() if name != "le"},
            ):
                counts = [sample.value for sample in samples]
                assert counts == sorted(counts), labels


def test_who_waits_and_who_is_connected(server: Server) -> None:
    server.request("POST", "/queues", {"name": "q"})
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(3)]
    for each in waiting:
        each.request("GET", "/queues/q/messages?wait=60")
    wait_until(lambda: Scraped(server)("tq_receives_waiting") == 3)
    found = Scraped(server)
    assert found("tq_connections") == 4
    for _ in waiting:
        server.request("POST", "/queues/q/messages", {"content": 1})
    for each in waiting:
        assert each.getresponse().status == 200
        each.close()
    wait_until(lambda: Scraped(server)("tq_connections") == 1)
    found = Scraped(server)
    assert found("tq_receives_waiting") == 0
    # A long poll counts for what it took to find nothing and to be woken, not for what it has waited.
    assert found("tq_operation_duration_seconds_count", kind="receive") >= 6
    assert found("tq_operation_duration_seconds_sum", kind="receive") < 5


def connect(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=30)


def test_what_is_refused(start: Callable[..., Server]) -> None:
    server = start("--max-waiters", "1", "--max-connections", "9", "--max-connections-per-address", "5")
    server.request("POST", "/queues", {"name": "q"})
    first = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    first.request("GET", "/queues/q/messages?wait=60")
    wait_until(lambda: Scraped(server)("tq_receives_waiting") == 1)
    assert server.request("GET", "/queues/q/messages?wait=20").status == 503
    with ExitStack() as stack:
        many = [stack.enter_context(connect(server)) for _ in range(7)]
        assert many[-1].recv(1000).startswith(b"HTTP/1.1 503")
        # They were accepted one after the other, so all that were refused have their answer by now.
        refused = 1 + sum(bool(select.select([each], [], [], 0)[0]) for each in many[:-1])
    wait_until(lambda: server.request("GET", "/healthz").status == 200)
    found = Scraped(server)
    assert found("tq_overload_refusals_total", reason="waiters") == found("tq_overload_refusals_total") == 1
    told = {reason: found("tq_connections_refused_total", reason=reason) for reason in CONNECTIONS_REFUSED}
    assert told == {"total": 0, "address": told["address"], "unanswered": 0}
    assert told["address"] >= refused >= 3  # more when a request to look came while they were there
    assert found("tq_http_requests_total", code="overloaded") == 1 + told["address"]
    assert found("tq_connections_max") == 9
    assert found("tq_receives_waiting_max") == 1
    first.close()


def test_what_is_cut(start: Callable[..., Server]) -> None:
    server = start("--header-seconds", "0.3", "--idle-seconds", "0.3")
    with connect(server) as slow:
        slow.sendall(b"GET / HT")
        assert slow.recv(1000).startswith(b"HTTP/1.1 408")
    with connect(server) as idle:
        assert idle.recv(1) == b""
    found = Scraped(server)
    told = {reason: found("tq_connections_cut_total", reason=reason) for reason in CONNECTIONS_CUT}
    assert told == {**dict.fromkeys(CONNECTIONS_CUT, 0), "header": 1, "idle": 1}
    assert found("tq_http_requests_total", code="request_timeout", method="other", route="unknown") == 1


# --- bounds -----------------------------------------------------------------------------


def test_no_client_makes_lines_of_its_own(server: Server) -> None:
    """Whatever it writes: paths, methods, names of queues, operations, tokens, what it would like to have."""
    chance = random.Random(3)
    letters = "abc/%{}\"\\'<>?=&;\u00e9".encode("latin-1").replace(b"?", b"")

    def odd(size: int = 12) -> bytes:
        return bytes(chance.choice(letters) for _ in range(chance.randint(1, size)))

    server.request("POST", "/queues", {"name": "q"})
    methods = [*METHODS, "PROPFIND", "TRACE", "LOCK", "PURGE", "SUBSCRIBE"]
    for _ in range(300):
        method = chance.choice(methods).encode()
        path = chance.choice([b"/", b"/queues/", b"/queues/q/messages/", b"/000000000000/", b"/metrics/"]) + odd()
        request = b"%b %b HTTP/1.1\r\nHost: tq\r\n" % (method, path)
        request += b"X-Amz-Target: %b\r\n" % chance.choice([b"AmazonSQS." + odd(), b"AmazonSQS.SendMessage", odd()])
        server.raw(request + b"Accept: %b\r\nAuthorization: Bearer %b\r\nContent-Length: 0\r\n\r\n" % (odd(), odd()))
    for _ in range(50):
        server.raw(odd(40) + b"\r\n\r\n")
        server.raw(b"GET /?Action=%b HTTP/1.1\r\nHost: tq\r\n\r\n" % odd())
    found = Scraped(server, OPEN)
    allowed = {
        "method": {*METHODS, "other"},
        "route": {route.path for route in ROUTES}
        | {route.path for route in dashboard.routes()}
        | {route.path for route in Endpoint(Settings(), Metrics()).routes()}
        | {"unknown"},
        "operation": {*_OPERATIONS, "unknown"},
    }
    codes = {error.code for error in all_errors()}
    for family in found.families:
        for sample in family.samples:
            for label, value in sample.labels.items():
                assert value in allowed.get(label, {value}), (label, value)
                assert label != "code" or not value or value in codes or re.fullmatch(r"[A-Za-z.]+", value)
    requested = [sample for sample in found.series if sample[0] == "tq_http_requests_total"]
    assert found("tq_http_requests_total") == 1 + 300 + 2 * 50
    assert found("tq_http_requests_total", route="unknown") > 50
    assert found("tq_http_requests_total", method="other", code="method_not_allowed") > 5
    assert len(requested) < 150
    assert len({code for name, labels in found.series for label, code in labels if label == "code"}) < 30


def figures(name: str, number: int = 0, **counters: int) -> Figures:
    return Figures(name, 1, Counts(ready=number), number * 10, number * 1000 or None, Counters(**counters))


def test_labels_are_escaped() -> None:
    name = 'a"b\\c\nd\u00e9'
    for accept, kind in (("", TEXT), (OPEN, OPENMETRICS)):
        text = shown(Overview(), {name: figures(name, 3)}, accept).body
        series = series_of(parsed(text, kind))
        assert series["tq_queue_messages", frozenset({("queue", name), ("state", "ready")})] == 3


def test_of_many_queues_the_biggest_are_told() -> None:
    sample = {f"q{number}": figures(f"q{number}", number, sent=number) for number in range(1000)}
    metrics = Metrics()
    text = ended(page(metrics, sample)).body
    assert [text.count(b"# TYPE %b " % family.name.encode()) for family in OF_QUEUES] == [1] * len(OF_QUEUES)
    series = series_of(parsed(text, TEXT))
    assert series_of(parsed(ended(page(metrics, sample, OPEN)).body, OPENMETRICS)).keys() >= series.keys()
    told = {value for name, labels in series for label, value in labels if label == "queue"}
    assert told == {f"q{number}" for number in range(1000 - TOLD_QUEUES, 1000)}
    assert series["tq_queues_left_out", frozenset()] == 1000 - TOLD_QUEUES
    assert series["tq_messages", frozenset({("state", "ready")})] == sum(range(1000))
    assert series["tq_messages_handled_total", frozenset({("event", "sent")})] == sum(range(1000))
    assert series["tq_oldest_message_age_seconds", frozenset()] == 999


def test_others_have_their_turn_in_between() -> None:
    """A part has so many samples or queues that it takes about a millisecond."""
    sample = {f"q{number}": figures(f"q{number}", number) for number in range(10_000)}
    metrics = Metrics()
    steps = page(metrics, sample)
    yields = sum(
        1 for _ in iter(lambda: next(steps, None) is None and not isinstance(steps.gi_frame, type(None)), False)
    )
    assert yields > 10_000 // SUMMED_QUEUES + TOLD_QUEUES * 19 // (2 * PART)


# --- totals that never fall -------------------------------------------------------------


@st.composite
def histories(draw: st.DrawFn) -> list[dict[str, Figures]]:
    """Samples of queues of which counters grow, and which are deleted and made again."""
    samples: list[dict[str, Figures]] = []
    now: dict[str, Figures] = {}
    born = itertools.count(1)
    for _ in range(draw(st.integers(1, 6))):
        for name in draw(st.sets(st.sampled_from("abcd"))):
            old = now.pop(name, None)
            if old is None or draw(st.booleans()):
                if draw(st.booleans()):
                    now[name] = Figures(name, next(born), Counts(), 0, None, Counters(sent=draw(st.integers(0, 9))))
            else:
                grown = Counters(sent=old.counters.sent + draw(st.integers(0, 9)))
                now[name] = Figures(name, old.created_at_ms, Counts(), 0, None, grown)
        samples.append(dict(now))
    return samples


@examples(max_examples=200, deadline=None)
@given(histories())
def test_totals_are_of_all_queues_that_were_seen(samples: list[dict[str, Figures]]) -> None:
    overview, sent = Overview(), EVENTS.index("sent")
    latest: dict[int, int] = {}
    for sample in samples:
        before = overview.totals
        overview = ended(follow(overview, sample))
        latest |= {figures.created_at_ms: figures.counters.sent for figures in sample.values()}
        assert overview.totals[sent] == sum(latest.values())
        assert all(new >= old for new, old in zip(overview.totals, before, strict=True))


def test_two_who_ask_at_once_see_no_total_fall() -> None:
    """The one that began with an earlier sample ends last."""
    metrics = Metrics()
    first = {f"q{number}": figures(f"q{number}", 1, sent=1) for number in range(1000)}
    slow = page(metrics, first)
    next(slow)
    ended(page(metrics, {**first, "new": figures("new", 1, sent=50)}))
    total = metrics.overview.totals
    ended(slow)
    assert metrics.overview.totals == total
    ended(page(metrics, {}))
    assert metrics.overview.totals == total


def test_who_does_not_wait_for_the_page_harms_nobody() -> None:
    async def run() -> bytes:
        broker = Broker(MemoryStore(lifecycle.apply), Settings())
        broker.history.begin()
        broker.history.take(figures(f"q{number}", number) for number in range(TOLD_QUEUES))
        broker.history.finish(0)
        http = HttpServer(Application(broker, Settings()), Settings())
        listening = socket.create_server(("127.0.0.1", 0))
        await http.listen_on([listening])
        port = listening.getsockname()[1]
        for _ in range(20):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(ask("GET", "/metrics"))
            await asyncio.sleep(0)  # a turn, in which it may be read
            writer.transport.abort()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(ask("GET", "/metrics") + ask("GET", "/healthz") + ask("GET", "/metrics", b"", "Connection: close"))
        read = await reader.read()
        writer.close()
        await http.close()
        await broker.close()
        return read

    read = asyncio.run(asyncio.wait_for(run(), 30))
    assert read.count(b"HTTP/1.1 200 OK") == 3
    assert read.index(b"tq_build_info") < read.index(b'{"status":"ok"}') < read.rindex(b"tq_build_info")
