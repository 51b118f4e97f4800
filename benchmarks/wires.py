"""The protocols that are spoken over raw sockets: where a reply ends, and the bytes of the requests.

A reply is only scanned for its end and matched against one pattern, so that all protocols cost the loader alike. The
sources: RFC 9112 (HTTP/1.1), RESP2 (Redis), beanstalkd's protocol.txt, the NATS client protocol with the JetStream API,
and AMQP 0-9-1 with RabbitMQ's publisher confirms.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Literal

from msgspec import Struct

CONNECTION = b"{connection}"  # stands in a request for the number of its connection
TOKEN = b"{token}"  # stands in a request for what the pattern of the reply before has in its first, second … group

WireName = Literal["HTTP", "RESP", "beanstalk", "NATS", "AMQP"]

_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
_AMQP_END = b"\xce"
_AMQP_GET_OK = b"\x00\x3c\x00\x47"


class Step(Struct, frozen=True):
    """A request and the pattern that begins a good reply to it. `empty` begins the one of a queue that has no message.

    `replies` is how many it has where it is many in one; such a step is not for a load.
    """

    request: bytes
    good: bytes
    empty: bytes | None = None
    replies: int = 1


def answer_size(buffer: bytes) -> int | None:
    """Bytes of the HTTP answer that the buffer begins with; None while it is not whole. A 204 has no length."""
    head = buffer.find(b"\r\n\r\n")
    if head < 0:
        return None
    length = _LENGTH.search(buffer, 0, head)
    return _whole(buffer, head + 4 + (int(length[1]) if length else 0))


def resp_size(buffer: bytes, start: int = 0) -> int | None:
    """The end of the RESP value at `start`."""
    line = buffer.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = buffer[start : start + 1], line + 2
    if kind == b"$":
        length = int(buffer[start + 1 : line])
        return _whole(buffer, end + length + 2 if length >= 0 else end)
    if kind == b"*":
        for _ in range(int(buffer[start + 1 : line])):
            found = resp_size(buffer, end)
            if found is None:
                return None
            end = found
    return end


def line_size(buffer: bytes) -> int | None:
    """A line; those of beanstalkd and NATS that announce a body do so in their last word."""
    line = buffer.find(b"\r\n")
    if line < 0:
        return None
    if buffer.startswith((b"RESERVED ", b"MSG ", b"HMSG ")):
        return _whole(buffer, line + 2 + int(buffer[buffer.rfind(b" ", 0, line) : line]) + 2)
    return line + 2


def amqp_size(buffer: bytes) -> int | None:
    """One frame; a get-ok comes with the frames of its message."""
    end = _frame_end(buffer, 0)
    if end is None or buffer[7:11] != _AMQP_GET_OK:
        return end
    header = end
    end = _frame_end(buffer, header)
    if end is None:
        return None
    (missing,) = struct.unpack_from(">Q", buffer, header + 11)
    while missing:
        body, end = end, _frame_end(buffer, end)
        if end is None:
            return None
        missing -= end - body - 8
    return end


def _frame_end(buffer: bytes, start: int) -> int | None:
    if len(buffer) < start + 7:
        return None
    return _whole(buffer, start + 7 + int.from_bytes(buffer[start + 3 : start + 7]) + 1)


def _whole(buffer: bytes, size: int) -> int | None:
    return size if len(buffer) >= size else None


SIZES: dict[WireName, Callable[[bytes], int | None]] = {
    "HTTP": answer_size,
    "RESP": resp_size,
    "beanstalk": line_size,
    "NATS": line_size,
    "AMQP": amqp_size,
}
UNASKED = b"PING\r\n"  # NATS sends it now and then; one that is not answered is forgiven


def exchange(connection: socket.socket, wire: WireName, steps: Sequence[Step]) -> None:
    """Send these, one after the other. Raises ValueError for a reply that is not good."""
    buffer = b""
    for step in steps:
        connection.sendall(step.request)
        for _ in range(step.replies):
            while (size := SIZES[wire](buffer)) is None:
                received = connection.recv(1 << 20)
                if not received:
                    raise ValueError(f"The server closed the connection after {step.request[:200]!r}")
                buffer += received
            reply, buffer = buffer[:size], buffer[size:]
            if not re.match(step.good, reply, re.DOTALL):
                raise ValueError(f"{step.request[:200]!r} was answered {reply[:200]!r}")


# --- requests ---------------------------------------------------------------------------


def resp(*words: bytes | str) -> bytes:
    encoded = [word if isinstance(word, bytes) else word.encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def nats_publish(subject: str, body: bytes) -> bytes:
    """With an inbox of this connection for the reply."""
    return b"PUB %b inbox.%b %d\r\n%b\r\n" % (subject.encode(), CONNECTION, len(body), body)


NATS_HELLO = [
    Step(b"", rb"INFO "),
    Step(b'CONNECT {"verbose":false,"headers":true}\r\nSUB inbox.%b 1\r\nPING\r\n' % CONNECTION, rb"PONG"),
]


def amqp_method(channel: int, class_id: int, method_id: int, arguments: bytes = b"", size: int | None = None) -> bytes:
    """A frame with a method. `size` is that of the arguments where they hold a token that is put in later."""
    length = 4 + (len(arguments) if size is None else size)
    return struct.pack(">BHIHH", 1, channel, length, class_id, method_id) + arguments + _AMQP_END


def amqp_frame(kind: int, payload: bytes) -> bytes:
    return struct.pack(">BHI", kind, 1, len(payload)) + payload + _AMQP_END


def amqp_short(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def amqp_long(data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + data


def amqp_good(class_id: int, method_id: int, then: bytes = b"") -> bytes:
    """The pattern of a frame with this method."""
    return b".{7}" + re.escape(struct.pack(">HH", class_id, method_id)) + then


def amqp_publish(queue: str, body: bytes) -> bytes:
    """A persistent message for the default exchange."""
    header = struct.pack(">HHQH", 60, 0, len(body), 1 << 12) + b"\x02"
    publish = amqp_method(1, 60, 40, struct.pack(">H", 0) + amqp_short("") + amqp_short(queue) + b"\x00")
    return publish + amqp_frame(2, header) + amqp_frame(3, body)


_LOGIN = amqp_long(b"") + amqp_short("PLAIN") + amqp_long(b"\0guest\0guest") + amqp_short("en_US")
_TUNE_OK = amqp_method(0, 10, 31, struct.pack(">HIH", 1, 131_072, 0))  # which has no answer of its own
AMQP_HELLO = [
    Step(b"AMQP\x00\x00\x09\x01", amqp_good(10, 10)),
    Step(amqp_method(0, 10, 11, _LOGIN), amqp_good(10, 30)),
    Step(_TUNE_OK + amqp_method(0, 10, 40, amqp_short("/") + b"\x00\x00"), amqp_good(10, 41)),
    Step(amqp_method(1, 20, 10, b"\x00"), amqp_good(20, 11)),
    Step(amqp_method(1, 85, 10, b"\x00"), amqp_good(85, 11)),
]
