"""Requests drawn from a grammar and then spoiled: what is right in most of its parts gets further than noise."""

from __future__ import annotations

from hypothesis import strategies as st

ONE = b'{"content":1}'
METHODS = st.sampled_from(
    [b"GET", b"POST", b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"CONNECT", b"get", b"G T"]
)
PATHS = ["/", "/status", "/healthz", "/queues", "/queues/q/messages", "/queues/q/messages", "/queues/%71/messages/1"]
PATHS += ["/queues/q/acks", "/receive", "/000000000000/q", "/queues/%", "/queues/%00/%ff", "//q", "/queues/../status"]
QUERIES = ["", "", "?", "?max=10", "?limit=9007199254740993", "?limit=%D9%A3", "?prefix=%zz", "?max=1&max=2", "?a" * 50]
FORMS = st.sampled_from(["{}"] * 9 + ["http://tq{}", "https://tq:1{}", "ftp://tq{}", "*", "tq:80", "?{}", "\xe4{}"])
TARGETS = st.builds(
    lambda form, path, query: form.format(path + query).encode("latin-1"),
    FORMS,
    st.sampled_from(PATHS),
    st.sampled_from(QUERIES),
)
VERSIONS = st.sampled_from([b"HTTP/1.1"] * 12 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b""])
NAMES = [b"Accept", b"Content-Type", b"Connection", b"X", b"Cookie", b"Idempotency-Key", b"Expect", b"Upgrade", b"Host"]
NAMES += [b"Content-Encoding", b"X-Amz-Target", b"Authorization", b"X-HTTP-Method-Override", b"Range", b"x y", b"\xff"]
VALUES = [
    b"close",
    b"keep-alive",
    b"a, b",
    b"",
    b" \t",
    b"application/x-ndjson",
    b"application/msgpack",
    b"100-continue",
]
VALUES += [
    b"h2c",
    b"Upgrade",
    b"gzip",
    b"\xe4",
    b"a" * 300,
    b"a\tb",
    b"bytes=0-1",
    b"AmazonSQS.ListQueues",
    b"a\0b",
    b"=",
]
HEADERS = st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES))
LENGTHS = [
    b"0",
    b"5",
    b"13",
    b"14",
    b"+13",
    b"-1",
    b"013",
    b"13, 13",
    b"13,5",
    b"0x0d",
    b"1 3",
    b" 13 ",
    b"9" * 30,
    b"",
]
CODINGS = [b"chunked", b"Chunked", b"gzip, chunked", b"chunked, identity", b"identity", b"\x0bchunked", b" chunked\t"]
SIZES = [
    b"%x",
    b"%X",
    b"0%x",
    b"00000000%x",
    b"%x;a=b",
    b'%x;a="b;c"',
    b"%x;",
    b"%x ",
    b"0x%x",
    b"-%x",
    b"+%x",
    b"%x\t",
]
TRAILERS = [b"", b"", b"", b"X: y\r\n", b"Content-Length: 5\r\n", b"Host: b\r\n", b"bad\r\n", b"X : y\r\n"]


@st.composite
def _bodies(draw: st.DrawFn) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers that frame it, and the bytes of it; most fit together."""
    content = draw(st.sampled_from([ONE, ONE, b"", b"{}", b"[1", b"0\r\n\r\nGET /status HTTP/1.1\r\nHost: tq\r\n\r\n"]))
    kind = draw(st.sampled_from(["length"] * 5 + ["none"] * 3 + ["chunked"] * 4 + ["both", "wrong", "twice"]))
    right = (b"Content-Length", b"%d" % len(content))
    wrong = (draw(st.sampled_from([b"Content-Length", b"content-length", b"Content-Length "])), draw(_lengths))
    coding = (b"Transfer-Encoding", draw(st.sampled_from([b"chunked"] * 9 + CODINGS)))
    if kind in ("none", "length"):
        return ([right] if kind == "length" else []), content if kind == "length" else b""
    if kind in ("wrong", "twice"):
        return ([right, wrong] if kind == "twice" else [wrong]), content
    cut = draw(st.integers(0, len(content)))
    pieces = [piece for piece in (content[:cut], content[cut:]) if piece]
    size = draw(st.sampled_from([b"%x"] * 15 + SIZES))
    chunks = b"".join((size % len(piece)) + b"\r\n" + piece + b"\r\n" for piece in pieces)
    framing = [coding, right] if kind == "both" else [coding]
    return framing, chunks + b"0\r\n" + draw(st.sampled_from(TRAILERS)) + b"\r\n"


_lengths = st.sampled_from(LENGTHS)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request, nearly always with a Host, and in some of the cases with bytes that do not belong there."""
    framing, body = draw(_bodies())
    hosts = draw(st.sampled_from([[(b"Host", b"tq")]] * 10 + [[], [(b"Host", b"tq")] * 2, [(b"host", b"")]]))
    headers = [*hosts, *draw(st.lists(HEADERS, max_size=2)), *framing]
    lines = [b" ".join([draw(METHODS), draw(TARGETS), draw(VERSIONS)]), *(b"%b: %b" % header for header in headers)]
    request = b"\r\n".join([*lines, b"", b""]) + body
    for _ in range(draw(st.sampled_from([0] * 9 + [1, 2]))):
        at = draw(st.integers(0, len(request)))
        junk = draw(st.sampled_from([b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b"\x1b[31m", b"\xc3", b"%0d%0a"]))
        request = request[:at] + junk + request[at + draw(st.integers(0, 2)) :]
    return request
