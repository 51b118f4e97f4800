"""The shapes a message has on the wire: envelopes on the way in; JSON, NDJSON, msgpack or the bare body on the way out.

Content is opaque. JSON text is kept and spliced back byte for byte, never decoded and encoded again.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct

from tq.errors import InvalidRequest
from tq.model import Draft, Message
from tq.web.exchange import JSON, Request, Response, decode

NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
OCTETS = "application/octet-stream"

MAX_BATCH = 10_000  # messages in one send, so that one batch does not hold up the others for long
MAX_TYPE_LENGTH = 255  # characters of a Content-Type that is kept; RFC 6838 allows 127 on each side of the slash


class Envelope(Struct, frozen=True, forbid_unknown_fields=True):
    """What a producer says of one message."""

    content: Raw


# --- in ---------------------------------------------------------------------------

_ONE = msgspec.json.Decoder(Envelope)
_MANY = msgspec.json.Decoder(list[Envelope])
_MSGPACK = msgspec.msgpack.Decoder(Envelope | list[Envelope])


def read_drafts(request: Request) -> tuple[Draft, ...]:
    """The messages in a send's body, by its Content-Type. Raises InvalidRequest."""
    if request.has_json:
        if is_array(request.body):
            return _batch(map(_json_draft, decode(_MANY.decode, request.body)))
        return (_json_draft(decode(_ONE.decode, request.body)),)
    if request.media_type == NDJSON:
        return _batch(_ndjson_drafts(request.body))
    if request.media_type == MSGPACK:
        return _msgpack_drafts(request.body)
    return (Draft(request.body, _kept_type(request.headers["Content-Type"])),)


def is_batch(request: Request) -> bool:
    """Whether a send's body holds a list of messages, so that the answer lists ids."""
    if request.media_type == MSGPACK:
        first = request.body[:1]
        return first in (b"\xdc", b"\xdd") or b"\x90" <= first <= b"\x9f"  # the array formats
    return request.media_type == NDJSON or (request.has_json and is_array(request.body))


def is_array(body: bytes) -> bool:
    return body.lstrip(b" \t\r\n")[:1] == b"["


def _batch(drafts: Iterable[Draft]) -> tuple[Draft, ...]:
    batch = tuple(drafts)
    if not 1 <= len(batch) <= MAX_BATCH:
        raise InvalidRequest(f"A batch has 1 to {MAX_BATCH:,} messages; this one has {len(batch):,}.")
    return batch


def _ndjson_drafts(body: bytes) -> Iterator[Draft]:
    """One envelope on each line that is not blank. (`Decoder.decode_lines` takes one over many lines as well.)"""
    lines = [line for line in body.split(b"\n") if line.strip()]
    for index, line in enumerate(lines):
        yield _json_draft(decode(_ONE.decode, line, f"$[{index}]"))


def _json_draft(envelope: Envelope) -> Draft:
    return Draft(bytes(envelope.content))


def _msgpack_drafts(body: bytes) -> tuple[Draft, ...]:
    try:
        decoded = _MSGPACK.decode(body)
        envelopes = decoded if isinstance(decoded, list) else [decoded]
        return _batch(_msgpack_draft(msgspec.msgpack.decode(e.content)) for e in envelopes)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not what its type says: {error}.") from error


def _msgpack_draft(content: Any) -> Draft:
    if isinstance(content, bytes):
        return Draft(content, OCTETS)
    _check_json(content)
    return Draft(json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode())


def _check_json(value: Any) -> None:
    """Raises InvalidRequest when JSON cannot say the value."""
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise InvalidRequest("A map in msgpack content may have only strings for keys.")
        for item in value.values():
            _check_json(item)
    elif isinstance(value, list):
        for item in value:
            _check_json(item)
    elif isinstance(value, float):
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidRequest("Content may not hold NaN or Infinity.")
    elif not isinstance(value, str | int | None):
        raise InvalidRequest("Msgpack content is binary as a whole or of the types that JSON has.")


def _kept_type(content_type: str) -> str:
    if len(content_type) > MAX_TYPE_LENGTH or not content_type.isascii() or not content_type.isprintable():
        raise InvalidRequest(f"Content-Type has at most {MAX_TYPE_LENGTH} printable ASCII characters.")
    return content_type


# --- out ---------------------------------------------------------------------------


def one_message(request: Request, message: Message) -> Response:
    """A message in the format that the client likes best; a message sent as bytes comes back as them."""
    offers = [JSON, NDJSON, MSGPACK]
    if message.media_type:
        offers.insert(0, message.media_type.partition(";")[0].strip().lower())
    chosen = choose(request.headers, offers)
    if chosen == MSGPACK:
        return Response(200, msgspec.msgpack.encode(_msgpack_message(message)), MSGPACK)
    if message.media_type and chosen == offers[0]:
        return Response(200, message.content, message.media_type, _metadata(message))
    if chosen == NDJSON:
        return Response(200, _line(message), NDJSON)
    return Response(200, json_message(message), JSON)


def many_messages(request: Request, messages: tuple[Message, ...], extra: Mapping[str, Any] | None = None) -> Response:
    """Messages as `{"messages": […], …extra}`, or one on a line. NDJSON has no room for `extra`."""
    chosen = choose(request.headers, [JSON, NDJSON, MSGPACK])
    if chosen == MSGPACK:
        answer = {"messages": [_msgpack_message(message) for message in messages], **(extra or {})}
        return Response(200, msgspec.msgpack.encode(answer), MSGPACK)
    if chosen == NDJSON:
        return Response(200, b"".join(map(_line, messages)), NDJSON)
    tail = b"".join(
        b",%b:%b" % (msgspec.json.encode(name), msgspec.json.encode(value)) for name, value in (extra or {}).items()
    )
    return Response(200, b'{"messages":[%b]%b}' % (b",".join(map(json_message, messages)), tail), JSON)


def json_message(message: Message) -> bytes:
    """The message as a JSON object, its content spliced in as it came."""
    content, more = message.content, b""
    if message.media_type is not None:
        more = b',"content_type":' + msgspec.json.encode(message.media_type)
        try:
            content = msgspec.json.encode(content.decode())
        except UnicodeDecodeError:
            content = b'"%b"' % base64.b64encode(content)
            more = b',"encoding":"base64"' + more
    return b'{"id":%d,"content":%b%b,"sent_at":"%b","receive_count":%d%b}' % (
        message.id,
        content,
        more,
        timestamp(message.sent_at_ms).encode(),
        message.receive_count,
        b',"state":"%b"' % message.state.encode() if message.state else b"",
    )


_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def _line(message: Message) -> bytes:
    """The message on one line. JSON has line ends only between its tokens, where a space says the same."""
    return json_message(message).translate(_LINE_ENDS) + b"\n"


def timestamp(ms: int) -> str:
    """RFC 3339, UTC, with milliseconds."""
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(ms // 1000))}.{ms % 1000:03d}Z"


def _msgpack_message(message: Message) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": message.id, "content": message.content}
    if message.media_type is not None:
        shown["content_type"] = message.media_type
    else:
        try:
            shown["content"] = _from_json(message.content)
        except (msgspec.MsgspecError, OverflowError, RecursionError):
            shown |= {"content": message.content.decode(), "encoding": "json"}
    shown |= {
        "sent_at": timestamp(message.sent_at_ms),
        "receive_count": message.receive_count,
    }
    if message.state:
        shown["state"] = message.state
    return shown


def _from_json(content: bytes) -> Raw:
    """JSON text as msgpack. Raises when msgpack cannot say it, as with a number of 5,000 digits."""
    return Raw(msgspec.msgpack.encode(msgspec.json.decode(content)))


def _metadata(message: Message) -> tuple[tuple[str, str], ...]:
    metadata = (
        ("Tq-Id", str(message.id)),
        ("Tq-Sent-At", timestamp(message.sent_at_ms)),
        ("Tq-Receive-Count", str(message.receive_count)),
        ("Content-Security-Policy", "sandbox"),  # a message that is a page must not act as one of this server's
    )
    return (*metadata, ("Tq-State", message.state)) if message.state else metadata


def choose(headers: Mapping[str, str], offers: list[str]) -> str:
    """The offer that the Accept header likes best (RFC 9110, 12.5.1).

    Equal offers: the one that is named more exactly, then the earlier. Where none is acceptable the first JSON: a
    message that was taken must be handed over all the same.
    """
    accept = headers.get("Accept", "*/*")
    if accept == "*/*":
        return offers[0]
    ranges = [_media_range(part) for part in accept.split(",")]
    liked = [(*_liking(offer, ranges), -index, offer) for index, offer in enumerate(offers)]
    quality, _, _, best = max(liked)
    return best if quality > 0 else JSON


def _media_range(text: str) -> tuple[str, float]:
    name, *parameters = (part.strip().lower() for part in text.split(";"))
    for parameter in parameters:
        if parameter.startswith("q="):
            try:
                return name, float(parameter[2:])
            except ValueError:
                return name, 0.0
    return name, 1.0


def _liking(offer: str, ranges: list[tuple[str, float]]) -> tuple[float, int]:
    """Quality and exactness of the most exact range that covers the offer."""
    patterns = ("*/*", offer.partition("/")[0] + "/*", offer)
    covering = [(patterns.index(name), quality) for name, quality in ranges if name in patterns]
    exactness, quality = max(covering, default=(-1, 0.0))
    return quality, exactness
