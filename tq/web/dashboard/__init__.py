"""The dashboard: a page at `/` and its files, which lie beside this module and are read once, at the start.

They hold nothing of the queues, so they are open to all. What they show they ask of the API as any client does, with
the token that their user has given them. The page loads nothing from elsewhere, runs no script and no style that is not
in these files, is in no frame, and sends no form away: so says its policy, to which the browser holds it.

A `GET /` with an `Action` is of SQS (`web.sqs`).
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from pathlib import Path

from tq.web.exchange import Answer, Request, Response, Route

INDEX = "index.html"
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    ("Content-Security-Policy", POLICY),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Referrer-Policy", "same-origin"),
)
# They are asked for each time, for the server may be another version by then; when it is not, that is all.
CACHE = "no-cache"


def routes() -> tuple[Route, ...]:
    """A row for each file, and the page again at `/`."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in MEDIA_TYPES)
    return tuple(
        _route("/" if path.name == INDEX else f"/dashboard/{path.name}", path.read_bytes(), MEDIA_TYPES[path.suffix])
        for path in files
    )


def _route(path: str, content: bytes, media_type: str) -> Route:
    return Route(
        "GET",
        path,
        _shower(content, media_type),
        lambda _, response: response,
        query=None,
        answers={200: Answer({media_type: bytes}), 304: Answer()},
        is_open=True,
        unless="Action" if path == "/" else "",
    )


def _shower(content: bytes, media_type: str) -> Callable[[Request], Response]:
    tag = f'"{blake2b(content, digest_size=12).hexdigest()}"'
    headers = (("ETag", tag), *HEADERS)
    whole = Response(200, content, media_type, headers, CACHE)
    known = Response(304, headers=headers, cache=CACHE)

    def show_file(request: Request) -> Response:
        return known if tag in request.headers.get("if-none-match", "") else whole

    return show_file
