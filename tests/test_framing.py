"""Where a request ends: tq reads what it takes as h11 does, wherever the bytes are cut and whatever was read before.

A difference here is what request smuggling lives on: a proxy in front and the server behind it would see other
requests in the same bytes. h11 knows nothing of llhttp, which reads for tq.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.harness import Server, findings
from tests.requests_made import ONE, requests
from tests.wire import Wire, ask
from tq.web.parser import Head, KnownHeads, RequestParser

MAX_BYTES = 1 << 20
SHORT = settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
LONG = settings(SHORT, max_examples=5_000)
STREAMS = st.lists(requests(), min_size=1, max_size=3)

Found = tuple[str, str, dict[str, str], bytes]
"""Method, target, headers with those of one name joined, and the body of a request that was taken."""


def read_by_tq(pieces: list[bytes], known: KnownHeads | None = None) -> tuple[list[Found], str]:
    """What is taken, and then: whether something was refused, the connection is over, or more must come."""
    parsed: deque[tuple[Head, bytes]] = deque()
    parser = RequestParser(parsed, known or KnownHeads(), 32_768, MAX_BYTES)
    for piece in pieces:
        if not parser.is_over:
            if known is None:
                parser._known.forget()
            parser.feed(piece)
    found = [(head.method, head.target, head.headers, body) for head, body in parsed if not head.refusal]
    if any(head.refusal for head, _ in parsed):
        return found, "refused"
    return found, "over" if parser.is_over else "more" if parser.part else ""


def read_by_h11(data: bytes) -> tuple[list[Found], str]:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_BYTES)
    connection.receive_data(data)
    found: list[Found] = []
    try:
        while True:
            event = connection.next_event()
            if event in (h11.NEED_DATA, h11.PAUSED) or isinstance(event, h11.ConnectionClosed):
                return found, "more" if connection.trailing_data[0] or connection.their_state is h11.SEND_BODY else ""
            assert isinstance(event, h11.Request)
            head, body = event, bytearray()
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if event is h11.NEED_DATA:
                    return found, "more"
                assert isinstance(event, h11.Data)
                body += event.data
            headers: dict[str, str] = {}
            for name, value in head.headers:
                key, text = name.decode("latin-1"), value.decode("latin-1")
                headers[key] = f"{headers[key]}, {text}" if key in headers else text
            found.append((head.method.decode(), head.target.decode("latin-1"), headers, bytes(body)))
            if head.method == b"CONNECT":
                return found, "over"  # what follows is the tunnel's
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is h11.MUST_CLOSE or connection.their_state is h11.MUST_CLOSE:
                return found, "over"
            connection.start_next_cycle()
    except h11.RemoteProtocolError:
        return found, "refused"


def _named(headers: dict[str, str]) -> dict[str, str]:
    """h11 tells the coding in lower case."""
    return {name: value.lower() if name == "transfer-encoding" else value for name, value in headers.items()}


def assert_read_alike(data: bytes) -> None:
    """Both may refuse what they like. What both take is the same, and neither waits where the other is through."""
    ours, end = read_by_tq([data])
    theirs, their_end = read_by_h11(data)
    for one, other in zip(ours, theirs, strict=False):
        if one[0] == "CONNECT":
            return  # tq answers it, and reads nothing of what follows
        assert one[:2] == other[:2]
        assert _named(one[2]) == _named(other[2])
        assert one[3] == other[3]
    if len(ours) > len(theirs):
        assert their_end in ("refused", "over")
    if len(theirs) > len(ours):
        assert end in ("refused", "over")


def assert_cut_alike(data: bytes, cuts: set[int]) -> None:
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    assert read_by_tq([data[begin:end] for begin, end in pairwise(edges)]) == read_by_tq([data])


def assert_known_alike(streams: list[bytes]) -> None:
    """Each request comes in one piece, as most do, so that the heads of those that are right are known from then on."""
    known = KnownHeads()
    for _ in range(2):
        for stream in (streams, streams[::-1]):
            assert read_by_tq(stream, known) == read_by_tq(stream)


CUTS = st.sets(st.integers(1, 2_000), max_size=20)


@SHORT
@given(stream=STREAMS)
def test_what_h11_takes_too_is_read_as_h11_reads_it(stream: list[bytes]) -> None:
    assert_read_alike(b"".join(stream))


@SHORT
@given(stream=STREAMS, cuts=CUTS)
def test_it_does_not_matter_where_anything_is_cut(stream: list[bytes], cuts: set[int]) -> None:
    assert_cut_alike(b"".join(stream), cuts)


@SHORT
@given(stream=st.lists(requests(), min_size=1, max_size=5))
def test_known_heads_change_nothing(stream: list[bytes]) -> None:
    assert_known_alike(stream)


@pytest.mark.slow
@LONG
@given(stream=st.lists(requests(), min_size=1, max_size=5), cuts=CUTS)
def test_framing_at_length(stream: list[bytes], cuts: set[int]) -> None:
    assert_read_alike(b"".join(stream))
    assert_cut_alike(b"".join(stream), cuts)
    assert_known_alike(stream)


def test_the_requests_are_good_for_something() -> None:
    """Of what is drawn a fifth at the least is taken by both, so that the comparison is not of refusals alone."""
    counts = {"taken": 0, "all": 0}

    @settings(SHORT, derandomize=True)
    @given(request=requests())
    def count(request: bytes) -> None:
        counts["all"] += 1
        counts["taken"] += bool(read_by_tq([request])[0] and read_by_h11(request)[0])

    count()
    assert counts["taken"] > counts["all"] / 5


# --- a real server -------------------------------------------------------------


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    data_dir = tmp_path_factory.mktemp("framing") / "data"
    with Server(data_dir) as running:
        for name in ("q", "good"):
            assert running.request("POST", "/queues", {"name": name}).status == 201
        yield running
        assert running.stop() == 0
        assert running.complaints() == ""
    assert findings(data_dir) == []


@pytest.fixture(scope="module")
def good(server: Server) -> Iterator[Wire]:
    """A connection that others must not disturb."""
    with Wire(server.port) as wire:
        yield wire


def assert_survived(server: Server, good: Wire, stream: list[bytes]) -> None:
    """Every answer is well-formed and none is a 5xx (`Wire`), the connection ends, and the good client is served."""
    with Wire(server.port) as wire:
        wire.send(*stream)
        good.send(ask("POST", "/queues/good/messages", ONE), ask("GET", "/queues/good/messages"))
        assert [good.expect().status, good.expect().status] == [201, 200]
        wire.rest()


@settings(SHORT, max_examples=60)
@given(stream=STREAMS)
def test_a_server_survives_them(server: Server, good: Wire, stream: list[bytes]) -> None:
    assert_survived(server, good, stream)


@pytest.mark.slow
@LONG
@given(stream=STREAMS)
def test_a_server_survives_many(server: Server, good: Wire, stream: list[bytes]) -> None:
    assert_survived(server, good, stream)
