"""One HTTP exchange as plain data: what a route is given and what it gives back.

A route is a pair of functions, `ask(request)`, which makes a command or query, and `render(request, result)`, which
makes the response. Where one command is not enough, `ask` is a generator of several and of the response (`Steps`).
Neither sees a socket. Whoever drives them (`web.server`) reads the request, calls `parse`, submits, renders, and
writes the response. The row of a route says all that it takes and gives: requests are decoded with the shapes that it
names, and the OpenAPI document is made of the rows.
"""

from __future__ import annotations

import http
from collections.abc import Callable, Generator, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from msgspec import Struct

from tq.errors import InvalidRequest, TqError, UnsupportedMediaType
from tq.model import Command, Query

T = TypeVar("T")

JSON = "application/json"
ANY = "*/*"
PROBLEM = "application/problem+json"  # RFC 9457
# Of what a browser could show as a page of this server's, made by whoever has sent it: it runs no script, loads
# nothing, and is saved rather than shown. Pages of others do not get it as a script or a picture of theirs either.
NO_PAGE = (
    ("Content-Security-Policy", "default-src 'none'; sandbox; frame-ancestors 'none'"),
    ("Content-Disposition", "attachment"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
REMEMBERED_QUERIES = 1_000  # query strings; consumers send the same few again and again
MAX_REMEMBERED_LENGTH = 200  # characters of one

# What `curl -d` sends unasked is the form type; its users mean JSON.
_JSON_TYPES = ("", JSON, "application/x-www-form-urlencoded")


class Request:
    """A request that was read to its end. `params` are the variables of the route's path, percent-decoded.

    `asked` is its query string and `told` its JSON body, in the shapes that the route names. `media_type` is the
    Content-Type without its parameters, in lower case; empty when there is none. `is_list` is for a send: whether its
    body holds a list of messages, so that the answer lists ids.
    """

    __slots__ = (
        "_media_type",
        "asked",
        "body",
        "headers",
        "is_list",
        "method",
        "params",
        "path",
        "query",
        "told",
    )

    def __init__(
        self,
        method: str,
        path: str,
        query: str,
        headers: Mapping[str, str],
        params: dict[str, str],
        body: bytes,
    ) -> None:
        self.method = method
        self.path = path
        self.query = query
        self.headers = headers
        self.params = params
        self.body = body
        self.asked: Any = None
        self.told: Any = None
        self.is_list = False
        self._media_type: str | None = None  # until somebody wants to know

    @property
    def media_type(self) -> str:
        if self._media_type is None:
            self._media_type = self.headers.get("content-type", "").partition(";")[0].strip().lower()
        return self._media_type

    @property
    def has_json(self) -> bool:
        return self.media_type in _JSON_TYPES

    def with_body(self, body: bytes) -> Request:
        """Another request with the same head."""
        other = _new(Request)
        other.method = self.method
        other.path = self.path
        other.query = self.query
        other.headers = self.headers
        other.params = self.params
        other.body = body
        other.asked = self.asked
        other.told = None
        other.is_list = False
        other._media_type = self.media_type
        return other

    def query_as(self, shape: type[T]) -> T:
        """The query string as a struct of optional fields, numbers read from digits. Raises InvalidRequest."""
        read = _query_as if len(self.query) <= MAX_REMEMBERED_LENGTH else _read_query
        query: T = read(self.query, shape)
        return query

    def json_as(self, shape: type[T]) -> T:
        """The JSON body as a struct. Raises InvalidRequest and UnsupportedMediaType."""
        if not self.has_json:
            raise UnsupportedMediaType(f"{self.media_type!r} is not taken here; send {JSON}.")
        return decode(msgspec.json.Decoder(shape).decode, self.body)


_new = object.__new__


def _read_query(query: str, shape: Any) -> Any:
    """Raises InvalidRequest."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, errors="strict")
    except ValueError as error:
        raise InvalidRequest("The query string is not UTF-8.") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise InvalidRequest("A query parameter is given twice.")
    try:
        return msgspec.convert(fields, shape, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidRequest(f"In the query string: {error}.") from error


# The structs of queries are frozen, so requests can share them.
_query_as: Callable[[str, Any], Any] = lru_cache(maxsize=REMEMBERED_QUERIES)(_read_query)


class NoParameters(Struct, frozen=True, forbid_unknown_fields=True):
    """The query string of a route that takes no parameters."""


class Response(Struct, frozen=True):
    status: int
    body: bytes = b""
    content_type: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    cache: str = "no-store"
    outcome: tuple[int, str] | None = None  # of what went wrong: the status and the code, as it is counted


class Problem(Struct, frozen=True):
    """RFC 9457, with a `code` for programs."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def problem(error: TqError, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    """An error as RFC 9457 says it, with the machine's `code`."""
    if error.retry_after_s is not None:
        headers = (*headers, ("Retry-After", str(error.retry_after_s)))
    if error.status == http.HTTPStatus.UNAUTHORIZED:
        headers = (*headers, ("WWW-Authenticate", "Bearer"))
    body = Problem("about:blank", error.title, error.status, error.code, error.detail)
    return Response(error.status, msgspec.json.encode(body), PROBLEM, headers, outcome=(error.status, error.code))


Steps = Generator[Command | Query | None, Any, Response]
"""What takes several commands: it yields each, is sent its result or thrown its TqError, and returns the response.

What takes long yields None, to go on when others had their turn of the loop.
"""

Ask = Callable[[Request], Command | Query | Response | Steps]
Render = Callable[[Request, Any], Response]
RenderInParts = Callable[[Request, Any], Steps]


class Answer(Struct, frozen=True):
    """One status that a route answers with: the shape of the body by media type, and of the headers that matter.

    A header that is not always there has UnsetType beside its shape.
    """

    content: Mapping[str, Any] = {}
    headers: Mapping[str, Any] = {}


class Route(Struct, frozen=True):
    """One row of the route table. A segment of `path` in braces is a variable.

    `body` is the shape of a JSON body; `bodies` are those, by media type, that `ask` reads by itself. `errors` are
    those of its own: what any request, any command or any query may meet is added by `web.openapi`. `refuse` is how it
    says what is wrong before `ask` was called.
    """

    method: str
    path: str
    ask: Ask
    render: Render | RenderInParts
    answers: Mapping[int, Answer] = {}
    query: type[Struct] | None = NoParameters  # None when `ask` reads it
    body: Any = None
    is_body_optional: bool = False  # when it is empty, all fields have their defaults
    bodies: Mapping[str, Any] = {}
    headers: Mapping[str, Any] = {}
    errors: tuple[type[TqError], ...] = ()
    is_open: bool = False  # asks for no token: for all, or it checks signatures by itself
    unless: str = ""  # a parameter of the query string with which it is the other row of this path and method
    refuse: Callable[[Request, TqError], Response] = lambda _, error: problem(error)
    is_rendered_in_parts: bool = False

    @property
    def reads_body(self) -> bool:
        """Whether what is asked for depends on more than the head."""
        return self.body is not None or bool(self.bodies)

    def parse(self, request: Request) -> Command | Query | Response | Steps:
        """What is asked for, or the response when nobody need be asked. Raises the TqErrors of the row.

        The query string was read already.
        """
        if self.body is not None:
            request.told = self.body() if self.is_body_optional and not request.body else request.json_as(self.body)
        return self.ask(request)


def json_response(status: int, value: Any, headers: tuple[tuple[str, str], ...] = ()) -> Response:
    return Response(status, msgspec.json.encode(value), JSON, headers)


def decode(decoder: Callable[[bytes], T], body: bytes, place: str = "$") -> T:
    """Run a msgspec JSON decoder. Raises InvalidRequest, whose detail names the place as `$.delay` does.

    `place` is where the body stands in a larger one.

    The body is checked to be UTF-8 first, because msgspec takes `Raw` parts over without looking at their encoding.
    """
    try:
        if not body.isascii():
            body.decode()
        return decoder(body)
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"The body is not UTF-8: byte {error.start} of {place}.") from error
    except msgspec.ValidationError as error:
        what, at, inner = str(error).partition(" - at `$")
        raise InvalidRequest(f"{what} - at `{place}{inner if at else '`'}.") from error
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"The body is not what its type says: {error} - at `{place}`.") from error
    except RecursionError as error:
        raise InvalidRequest(f"The body is nested too deep - at `{place}`.") from error
