"""Messages as they are printed: for people, as lines of JSON, or their contents alone.

Whatever goes to a terminal, in any form, is kept from driving it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw

from tq.cli.output import escaped, is_for_people, span

if TYPE_CHECKING:
    from tq.client import Message

_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def content_alone(message: Message) -> bytes:
    """Bytes and JSON as they were sent, but a JSON string as its text."""
    raw = message.raw
    is_string = message.content_type is None and message.encoding is None and raw.startswith(b'"')
    return str(json.loads(raw)).encode() if is_string else raw


def for_people(message: Message, most: int | None) -> bytes:
    """A line about the message, and one with its content, or with `most` characters of it."""
    return f"{_about(message)}\n{content_for_people(message, most)}\n".encode()


def content_for_people(message: Message, most: int | None) -> str:
    """All of it, or as much as was asked for; bytes that are no text as `\\xff`."""
    content = content_alone(message)
    text = content.decode(errors="backslashreplace")
    is_cut = most is not None and len(text) > most
    return escaped(text[:most]) + (f"… ({len(content):,} bytes)" if is_cut else "")


def _about(message: Message) -> str:
    age_s = (datetime.now(UTC) - message.sent_at).total_seconds()
    said = [f"#{message.id}", f"sent {span(max(0.0, age_s))} ago"]
    if message.state not in (None, "ready"):
        said.append(str(message.state).replace("_", " "))
    if message.receive_count > (0 if message.state else 1):
        said.append(f"received {message.receive_count} times")
    said += [f"{name} {value}" for name in ("priority", "group", "dedup_id") if (value := getattr(message, name))]
    said += [f"{name}: {value}" for name, value in message.headers.items()]
    if message.dead_letter:
        said.append(f"from {message.dead_letter.source}, {message.dead_letter.reason}")
    return escaped(" · ".join(said))


def as_line(message: Message) -> bytes:
    """A line, as the server has it, but without what is good for the lease alone."""
    said: dict[str, Any] = {"id": message.id, "content": message.raw}
    if message.content_type is None and message.encoding is None:
        said["content"] = Raw(message.raw.translate(_LINE_ENDS))  # byte for byte, but on one line
    elif message.encoding is None:
        said["content"] = message.raw.decode()
    for name in ("encoding", "content_type"):
        said |= {name: value} if (value := getattr(message, name)) else {}
    said |= {"sent_at": timestamp(message.sent_at), "receive_count": message.receive_count}
    if message.expires_at:
        said["expires_at"] = timestamp(message.expires_at)
    for name in ("priority", "group", "headers", "dedup_id", "attributes", "dead_letter", "state"):
        said |= {name: value} if (value := getattr(message, name)) else {}
    return msgspec.json.encode(said)


def timestamp(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def json_for_terminal(line: bytes) -> bytes:
    """The same JSON, with escapes for what a terminal would obey, which can only be in its strings."""
    text = line.decode()
    if text.isprintable():
        return line
    return "".join(
        [one if one.isprintable() else " " if one in "\t\r\n" else _json_escape(one) for one in text]
    ).encode()


def _json_escape(one: str) -> str:
    pair = one.encode("utf-16-be")
    return "".join([f"\\u{pair[at]:02x}{pair[at + 1]:02x}" for at in range(0, len(pair), 2)])


def form_for(as_json: bool, raw: bool, is_many: bool, most: int | None = None) -> Callable[[Message], bytes]:
    """How messages are printed; `most` is how many characters of a content a terminal gets.

    Of `raw` contents, many end with a line each, and one is as it was sent.
    """
    is_terminal = sys.stdout.isatty()
    if raw and is_terminal:
        return lambda message: f"{content_for_people(message, most)}\n".encode()
    if raw:
        return lambda message: content_alone(message) + (b"\n" if is_many else b"")
    if is_for_people(as_json):
        return lambda message: for_people(message, most)
    if is_terminal:
        return lambda message: json_for_terminal(as_line(message)) + b"\n"
    return lambda message: as_line(message) + b"\n"
