"""The shapes a message has on the wire: envelopes on the way in; JSON, NDJSON, msgpack or the bare body on the way out.

Content is opaque. JSON text is kept and spliced back byte for byte, never decoded and encoded again.
"""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator, Mapping, Sized
from contextlib import suppress
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import quote

import msgpack
import msgspec
from msgspec import UNSET, Raw, UnsetType
from msgspec.structs import replace

from tq import model
from tq.errors import InvalidRequest
from tq.model import Draft, Message
from tq.web import tracing
from tq.web.exchange import ANY, JSON, NO_PAGE, Answer, NoParameters, Request, Response, decode
from tq.web.shapes import (
    MAX_BATCH,
    MAX_KEY_LENGTH,
    Batch,
    Envelope,
    IdempotencyKey,
    MessagePage,
    Messages,
    Options,
)
from tq.web.shapes import Message as Shown

NDJSON = "application/x-ndjson"
MSGPACK = "application/msgpack"
OCTETS = "application/octet-stream"

MAX_LINES = 10 * MAX_BATCH  # of NDJSON, some of which may be blank


# --- in -------------------------------------------------------------

# What a send takes, by its Content-Type. In NDJSON each line is an item of the batch.
BODIES: dict[str, Any] = {
    JSON: Envelope | Batch,
    NDJSON: Batch,
    MSGPACK: Envelope | Batch,
    OCTETS: bytes,
    ANY: bytes,
}

_WHITESPACE = b" \t\r\n"

_ONE = msgspec.json.Decoder(Envelope)
_MANY = msgspec.json.Decoder(Batch)
_MSGPACK = msgspec.msgpack.Decoder(BODIES[MSGPACK])


def read_drafts(request: Request) -> tuple[Draft, ...]:
    """The messages in a send's body, by its Content-Type; sets `request.is_list`. Raises InvalidRequest."""
    if request.has_json:
        _take_no_parameters(request)
        if is_array(request.body):
            request.is_list = True
            drafts = _json_drafts(_counted(decode(_MANY.decode, request.body)))
        else:
            drafts = (json_draft(decode(_ONE.decode, request.body), "$"),)
    elif request.media_type == NDJSON:
        _take_no_parameters(request)
        request.is_list = True
        drafts = _ndjson_drafts(request.body)
    elif request.media_type == MSGPACK:
        _take_no_parameters(request)
        request.is_list = _is_msgpack_array(request.body)
        drafts = tuple(_msgpack_drafts(request.body))
    else:
        options = request.query_as(Options)
        media_type = _kept_type(request.headers["content-type"])
        drafts = (to_draft(request.body, media_type, options, UNSET, "query string: $"),)
    if tracing.PARENT in request.headers:
        drafts = tracing.traced(request.headers, drafts)
    return _with_key(request, drafts) if "idempotency-key" in request.headers else drafts


T = TypeVar("T", bound=Sized)


def _counted(batch: T) -> T:
    """A batch that is none too large, before more is done with it. Raises InvalidRequest."""
    if not 1 <= len(batch) <= MAX_BATCH:
        raise InvalidRequest(f"A batch has 1 to {MAX_BATCH:,} messages; this one has {len(batch):,}.")
    return batch


def is_array(body: bytes) -> bool:
    return body.startswith(b"[") or (body[:1].isspace() and body.lstrip(_WHITESPACE).startswith(b"["))


def _is_msgpack_array(body: bytes) -> bool:
    first = body[:1]
    return first in (b"\xdc", b"\xdd") or b"\x90" <= first <= b"\x9f"  # the array formats


def _msgpack_length(body: bytes) -> int:
    """How many elements the array has that a body begins with."""
    if body[0] < 0xDC:
        return body[0] & 0x0F
    return int.from_bytes(body[1 : 3 if body[0] == 0xDC else 5])


def _take_no_parameters(request: Request) -> None:
    """Raises InvalidRequest."""
    if request.query:
        request.query_as(NoParameters)


def to_draft(
    content: bytes,
    media_type: str | None,
    options: Options,
    headers: dict[str, str] | UnsetType,
    place: str,
    index: int | None = None,
) -> Draft:
    """Raises InvalidRequest for what is too long; `place` is where the message stands, `index` which it is there."""
    group, dedup_id = options.group or None, options.dedup_id or None
    if group or dedup_id or headers:
        _check_lengths(group, dedup_id, headers or {}, place if index is None else f"{place}[{index}]")
    return Draft(
        content,
        media_type,
        None if options.delay is UNSET else round(options.delay * 1000),
        None if options.ttl is UNSET else max(1, round(options.ttl * 1000)),
        options.priority,
        group,
        dedup_id,
        headers or None,
    )


def _check_lengths(group: str | None, dedup_id: str | None, headers: dict[str, str], place: str) -> None:
    """Raises InvalidRequest."""
    for name, text in (("group", group), ("dedup_id", dedup_id)):
        if text is not None and len(_utf8(text, f"{place}.{name}")) > model.MAX_GROUP_BYTES:
            raise InvalidRequest(f"More than {model.MAX_GROUP_BYTES} bytes - at `{place}.{name}`.")
    size = sum(len(_utf8(part, f"{place}.headers")) for item in headers.items() for part in item)
    if size > model.MAX_HEADERS_BYTES:
        raise InvalidRequest(f"More than {model.MAX_HEADERS_BYTES:,} bytes - at `{place}.headers`.")


def _utf8(text: str, place: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"A lone surrogate - at `{place}`.") from error


def _with_key(request: Request, drafts: tuple[Draft, ...]) -> tuple[Draft, ...]:
    """An Idempotency-Key is the deduplication id of the messages that have none: of the n-th in a batch with `#n`."""
    key = request.headers["idempotency-key"]
    if not key:
        return drafts
    try:
        msgspec.convert(key, IdempotencyKey)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"Idempotency-Key has at most {MAX_KEY_LENGTH} ASCII characters.") from error
    return tuple(
        replace(draft, dedup_id=f"{key}#{index}" if request.is_list else key) if draft.dedup_id is None else draft
        for index, draft in enumerate(drafts)
    )


def _ndjson_drafts(body: bytes) -> tuple[Draft, ...]:
    """One envelope on each line that is not blank.

    msgspec reads lines at once, but takes a value over several lines, and several on one, too. Where each line
    begins and ends with a brace, each line break ends a value; then as many lines as values say that it is one
    on each. All else, and what is wrong, is read line by line.
    """
    breaks = body.count(b"\n", 0, -1)
    if breaks > MAX_LINES:
        raise InvalidRequest(f"A batch has at most {MAX_LINES:,} lines, those that are blank included.")
    if breaks == body.count(b"}\n{") < MAX_BATCH:
        with suppress(InvalidRequest):
            envelopes = decode(_ONE.decode_lines, body)
            if breaks == len(envelopes) - 1:
                return _json_drafts(envelopes)
    lines = _counted([line for line in body.split(b"\n") if line.strip()])
    return _json_drafts([decode(_ONE.decode, line, f"$[{index}]") for index, line in enumerate(lines)])


def _json_drafts(envelopes: list[Envelope]) -> tuple[Draft, ...]:
    return tuple([to_draft(bytes(one.content), None, one, one.headers, "$", at) for at, one in enumerate(envelopes)])


def json_draft(envelope: Envelope, place: str, index: int | None = None) -> Draft:
    return to_draft(bytes(envelope.content), None, envelope, envelope.headers, place, index)


def _msgpack_drafts(body: bytes) -> Iterator[Draft]:
    try:
        if _is_msgpack_array(body):
            _counted(range(_msgpack_length(body)))
        decoded = _MSGPACK.decode(body)
        envelopes = decoded if isinstance(decoded, list) else [decoded]
        for index, envelope in enumerate(envelopes):
            content, media_type = _from_msgpack(envelope.content)
            yield to_draft(content, media_type, envelope, envelope.headers, "$", index)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"The body is not what its type says: {error}.") from error


def _from_msgpack(content: Raw) -> tuple[bytes, str | None]:
    """Content as it is stored, and its type where it is not JSON. Raises InvalidRequest when JSON cannot say it.

    msgpack's own decoder looks at the keys of a map before it keeps them. Numbers and arrays, whose hashes anybody can
    foresee, would make a map of some megabytes take hours.
    """
    try:
        plain = msgpack.unpackb(content, strict_map_key=True)
        if isinstance(plain, bytes):
            return plain, OCTETS
        return json.dumps(plain, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode(), None
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidRequest(
            "Msgpack content is binary as a whole, or of what JSON has: only strings are keys, and no number is NaN "
            f"or infinite: {error}."
        ) from error


def _kept_type(content_type: str) -> str:
    if not model.is_media_type(content_type):
        raise InvalidRequest(f"Content-Type has at most {model.MAX_TYPE_LENGTH} printable ASCII characters.")
    return content_type


# --- out ---------------------------------------------------------------------------


def one_message(request: Request, message: Message, queue: str | None = None) -> Response:
    """A message in the format that the client likes best; a message sent as bytes comes back as them."""
    if not message.media_type and request.headers.get("accept", ANY) == ANY:
        return Response(200, json_message(message, queue), JSON)
    offers = [JSON, NDJSON, MSGPACK]
    if message.media_type:
        offers.insert(0, message.media_type.partition(";")[0].strip().lower())
    chosen = choose(request.headers, offers)
    if chosen == MSGPACK:
        return Response(200, msgspec.msgpack.encode(_msgpack_message(message, queue)), MSGPACK)
    if message.media_type and chosen == offers[0]:
        return Response(200, message.content, message.media_type, _headers(message, queue))
    if chosen == NDJSON:
        return Response(200, _line(message, queue), NDJSON)
    return Response(200, json_message(message, queue), JSON)


def many_messages(
    request: Request,
    messages: tuple[Message, ...],
    extra: Mapping[str, Any] | None = None,
    queue: str | None = None,
) -> Response:
    """Messages as `{"messages": […], …extra}`, or one on a line. NDJSON has no room for `extra`."""
    chosen = choose(request.headers, [JSON, NDJSON, MSGPACK])
    if chosen == MSGPACK:
        answer = {"messages": [_msgpack_message(message, queue) for message in messages], **(extra or {})}
        return Response(200, msgspec.msgpack.encode(answer), MSGPACK)
    if chosen == NDJSON:
        return Response(200, b"".join(_line(message, queue) for message in messages), NDJSON)
    tail = b"".join(
        b",%b:%b" % (msgspec.json.encode(name), msgspec.json.encode(value)) for name, value in (extra or {}).items()
    )
    return Response(
        200, b'{"messages":[%b]%b}' % (b",".join(json_message(message, queue) for message in messages), tail), JSON
    )


def json_message(message: Message, queue: str | None = None) -> bytes:
    """The message as a JSON object, its content spliced in as it came."""
    content, more = message.content, b""
    if message.media_type is not None:
        if message.media_type != model.TEXT:
            more = b',"content_type":' + msgspec.json.encode(message.media_type)
        try:
            content = msgspec.json.encode(content.decode())
        except UnicodeDecodeError:
            content = b'"%b"' % base64.b64encode(content)
            more = b',"encoding":"base64"' + more
    extra = _extra(message, queue)
    return b'{"id":%d,"content":%b%b,"sent_at":"%b","receive_count":%d%b' % (
        message.id,
        content,
        more,
        timestamp(message.sent_at_ms).encode(),
        message.receive_count,
        b"," + msgspec.json.encode(extra)[1:] if extra else b"}",
    )


def metadata(message: Message, queue: str | None = None) -> dict[str, Any]:
    """What is told of a message beside its id and content; what does not apply is left out."""
    always = {"sent_at": timestamp(message.sent_at_ms), "receive_count": message.receive_count}
    return always | _extra(message, queue)


def _extra(message: Message, queue: str | None) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    if queue:
        shown["queue"] = queue
    if message.receipt:
        shown["receipt"] = message.receipt
    if message.visible_at_ms:
        shown["visible_at"] = timestamp(message.visible_at_ms)
    if message.expires_at_ms:
        shown["expires_at"] = timestamp(message.expires_at_ms)
    if message.priority:
        shown["priority"] = message.priority
    if message.group:
        shown["group"] = message.group
    if message.headers:
        shown["headers"] = message.headers
    if message.dedup_id:
        shown["dedup_id"] = message.dedup_id
    if message.attributes:
        shown["attributes"] = {name: _attribute(each) for name, each in message.attributes.items()}
    if message.dead_letter:
        shown["dead_letter"] = message.dead_letter
    if message.state:
        shown["state"] = message.state
    return shown


def _attribute(attribute: model.Attribute) -> dict[str, Any]:
    return {"type": attribute.type, "value": attribute.value}


_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


def _line(message: Message, queue: str | None = None) -> bytes:
    """The message on one line. JSON has line ends only between its tokens, where a space says the same."""
    return json_message(message, queue).translate(_LINE_ENDS) + b"\n"


@lru_cache(maxsize=1_000)
def timestamp(ms: int) -> str:
    """RFC 3339, UTC, with milliseconds. Messages of one group have the same few times."""
    return f"{_date_and_time(ms // 1000)}.{ms % 1000:03d}Z"


@lru_cache(maxsize=1_000)
def _date_and_time(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def _msgpack_message(message: Message, queue: str | None = None) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": message.id, "content": message.content}
    if message.media_type == model.TEXT:
        shown["content"] = message.content.decode()
    elif message.media_type is not None:
        shown["content_type"] = message.media_type
    else:
        try:
            shown["content"] = _from_json(message.content)
        except (msgspec.MsgspecError, OverflowError, RecursionError):
            shown |= {"content": message.content.decode(), "encoding": "json"}
    return {**shown, **metadata(message, queue)}


def _from_json(content: bytes) -> Raw:
    """JSON text as msgpack. Raises when msgpack cannot say it, as with a number of 5,000 digits."""
    return Raw(msgspec.msgpack.encode(msgspec.json.decode(content)))


def _headers(message: Message, queue: str | None = None) -> tuple[tuple[str, str], ...]:
    """The metadata as `Tq-*` headers: structures as JSON, and text that a header cannot carry percent-encoded.

    A trace context among the message's headers stands there as itself too, where who traces HTTP looks for it.
    """
    headers = [("Tq-Id", str(message.id))]
    for name, value in metadata(message, queue).items():
        text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
        headers.append((_header_name(name), quote(text, safe=_HEADER_SAFE)))
    return (*headers, *tracing.trace_of(message.headers or {}).items(), *NO_PAGE)


def _header_name(field: str) -> str:
    return "Tq-" + field.title().replace("_", "-")


_HEADER_SAFE = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")


# What answers with messages have, for the route table.
ONE_MESSAGE = Answer(
    {JSON: Shown, NDJSON: list[Shown], MSGPACK: Shown, ANY: bytes},
    {
        _header_name(name): str | UnsetType
        for name in Shown.__struct_fields__
        if name not in ("content", "content_type", "encoding")
    }
    | {tracing.PARENT: str | UnsetType, tracing.STATE: str | UnsetType},
)
MESSAGES = Answer(
    {JSON: Messages | Shown, NDJSON: list[Shown], MSGPACK: Messages | Shown, ANY: bytes}, ONE_MESSAGE.headers
)
MESSAGE_PAGE = Answer({JSON: MessagePage, NDJSON: list[Shown], MSGPACK: MessagePage})


def choose(headers: Mapping[str, str], offers: list[str]) -> str:
    """The offer that the Accept header likes best (RFC 9110, 12.5.1).

    Equal offers: the one that is named more exactly, then the earlier. Where none is acceptable the first JSON: a
    message that was taken must be handed over all the same.
    """
    accept = headers.get("accept", "*/*")
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
