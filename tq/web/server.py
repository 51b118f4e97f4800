"""Drives the routes on Tornado's HTTP server: reads a request, runs its route, writes the response, and does nothing
else.

Each request is a `tornado.httputil.HTTPMessageDelegate`, Tornado's own interface between a connection and what
answers it. A `RequestHandler` would wrap the same calls in an object with sixty more methods for three times the
cost.
"""

from __future__ import annotations

import asyncio
import email.utils
import errno
import http.client
import logging
import re
import socket
import time
from typing import Any

from tornado import httputil, netutil
from tornado.httpserver import HTTPServer

from tq import __version__
from tq.broker import Broker, Ticket
from tq.errors import (
    EXIT_ADDRESS,
    HeadersTooLarge,
    HostMissing,
    InternalError,
    InvalidRequest,
    MessageTooLarge,
    MethodNotAllowed,
    StartError,
    TqError,
    UnsupportedMediaType,
)
from tq.settings import Settings
from tq.web import ROUTES
from tq.web.exchange import Request, Response, Route, problem
from tq.web.router import Router, variables_of

_MIB = 1024 * 1024
DISCARD_BYTES = 64 * _MIB  # of a refused body are read, so that the client gets to see the refusal
BACKLOG = 1024  # connections that may wait to be accepted; the kernel's own bound is often 4,096

log = logging.getLogger("tq.web")


class Application(httputil.HTTPServerConnectionDelegate):
    """What Tornado's server asks for a delegate for each request."""

    def __init__(self, broker: Broker, settings: Settings) -> None:
        self.broker = broker
        self.settings = settings
        self.router = Router(ROUTES)
        self._date = (0, "")
        self._in_hand = 0
        self.is_stopping = False  # each answer ends its connection
        self.is_stopped = False  # no request is run any more
        self._idle = asyncio.Event()
        self._idle.set()

    def start_request(
        self,
        server_conn: object,
        request_conn: httputil.HTTPConnection,
    ) -> httputil.HTTPMessageDelegate:
        return _Exchange(self, request_conn)

    def date(self) -> str:
        """The Date header, made once a second."""
        second = int(time.time())
        if second != self._date[0]:
            self._date = (second, email.utils.formatdate(second, usegmt=True))
        return self._date[1]

    def began(self) -> None:
        self._in_hand += 1
        self._idle.clear()

    def ended(self) -> None:
        self._in_hand -= 1
        if not self._in_hand:
            self._idle.set()

    async def stop(self) -> None:
        """Let requests in hand finish, and their answers leave, for `shutdown_seconds`; then run no more."""
        self.is_stopping = True
        self.broker.stop_waiting()
        try:
            async with asyncio.timeout(self.settings.shutdown_seconds):
                while self._in_hand:
                    await self._idle.wait()
        except TimeoutError:
            log.warning("requests still in hand were cut off")
        self.is_stopped = True


class _Exchange(httputil.HTTPMessageDelegate):
    """One request on its way in and its response on the way out."""

    def __init__(self, application: Application, connection: httputil.HTTPConnection) -> None:
        self._application = application
        self._connection = connection
        self._method = ""
        self._target = ""
        self._headers = httputil.HTTPHeaders()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_refused = False
        self._is_over = False  # the answer was given, or nobody is there to take it
        self._ticket: Ticket | None = None
        self._is_released = False  # … and has left

    # --- in -------------------------------------------------------------

    def headers_received(
        self,
        start_line: httputil.RequestStartLine | httputil.ResponseStartLine,
        headers: httputil.HTTPHeaders,
    ) -> None:
        assert isinstance(start_line, httputil.RequestStartLine)
        self._application.began()
        self._connection.set_close_callback(self.on_connection_close)  # type: ignore[attr-defined]
        self._method = start_line.method
        self._target = start_line.path
        self._headers = headers
        self._mend_headers(start_line.version)
        self._check_framing()
        try:
            self._check_headers(start_line)
        except TqError as error:
            self._refuse(error)

    def _mend_headers(self, version: str) -> None:
        """Make Tornado see what it would overlook: it compares these two headers as they are written."""
        expectation = self._headers.pop("Expect", "")
        if expectation and version != "HTTP/1.0":  # which knows no 100 (RFC 9110, 10.1.1)
            self._headers["Expect"] = expectation.lower()
        says_close = "close" in re.split(r"[\t ,]+", self._headers.get("Connection", "").lower())
        if says_close or self._application.is_stopping:
            self._close_at_the_end()

    def _close_at_the_end(self) -> None:
        self._connection._disconnect_on_finish = True  # type: ignore[attr-defined]

    def _check_framing(self) -> None:
        """Tornado checks this too, but when it reads the body: an answer of ours could be out by then.

        Raises HTTPInputError, upon which Tornado answers 400 and closes.
        """
        lengths = set(re.split(r",[\t ]*", self._headers.get("Content-Length", "0")))
        coding = self._headers.get("Transfer-Encoding", "chunked")
        is_both = "Content-Length" in self._headers and "Transfer-Encoding" in self._headers
        if is_both or len(lengths) > 1 or not re.fullmatch("[0-9]{1,18}", lengths.pop()) or coding.lower() != "chunked":
            raise httputil.HTTPInputError("Malformed framing")

    def _check_headers(self, start_line: httputil.RequestStartLine) -> None:
        settings = self._application.settings
        size = len(start_line.path) + sum(len(n) + len(v) + 4 for n, v in self._headers.get_all())
        if size > settings.max_header_bytes:
            raise HeadersTooLarge(
                f"The request line and headers have {size:,} bytes; {settings.max_header_bytes:,} is the most."
            )
        hosts = self._headers.get_list("Host")
        if len(hosts) > 1 or (not hosts and start_line.version != "HTTP/1.0"):
            raise HostMissing
        if self._headers.get("Content-Encoding", "identity").lower() != "identity":
            raise UnsupportedMediaType("Content-Encoding is not taken; send the body as it is.")
        length = self._headers.get("Content-Length", "0").partition(",")[0]
        if int(length) > settings.max_body_bytes:
            raise _body_too_large(settings)

    def data_received(self, chunk: bytes) -> None:
        self._body_bytes += len(chunk)
        if self._is_refused:
            if self._body_bytes > DISCARD_BYTES:
                self._end()
        elif self._body_bytes > self._application.settings.max_body_bytes:
            self._body.clear()
            self._refuse(_body_too_large(self._application.settings))
        else:
            self._body.append(chunk)

    def finish(self) -> None:
        if self._connection.stream.closed() or self._application.is_stopped:  # type: ignore[attr-defined]
            # Tornado goes on with what it had read when it closed: this would be run and not answered.
            self.on_connection_close()
            return
        if self._is_refused:
            self._end()
            return
        try:
            self._run()
        except TqError as error:
            self._respond(problem(error))
        except Exception:
            log.exception("%s %s failed", self._method, self._target)
            self._respond(problem(InternalError()))

    def on_connection_close(self) -> None:
        if self._ticket and not self._is_over:
            self._ticket.cancel()
        self._is_over = True
        self._release()

    def _release(self, _: object = None) -> None:
        if not self._is_released:
            self._is_released = True
            self._application.ended()

    # --- the route -------------------------------------------------------------

    def _run(self) -> None:
        path, query = _split_target(self._target)
        resource, encoded = self._application.router.find(path)
        if self._method == "OPTIONS":
            self._respond(Response(204, headers=(("Allow", resource.allow),)))
            return
        try:
            route = resource.route(self._method)
        except MethodNotAllowed as error:
            self._respond(problem(error, (("Allow", resource.allow),)))
            return
        variables = variables_of(route, encoded)
        request = Request(self._method, path, query, self._headers, variables, b"".join(self._body))
        self._body.clear()
        asked = route.parse(request)
        if isinstance(asked, Response):
            self._answer(route, request, asked)
            return
        self._ticket = self._application.broker.submit(asked, lambda result: self._answer(route, request, result))

    def _answer(self, route: Route, request: Request, result: Any) -> None:
        if self._is_over:
            return
        if isinstance(result, TqError):
            self._respond(problem(result))
            return
        try:
            self._respond(route.render(request, result))
        except TqError as error:
            self._respond(problem(error))
        except Exception:
            log.exception("%s %s could not be answered", self._method, self._target)
            self._respond(problem(InternalError()))

    # --- out -------------------------------------------------------------

    def _refuse(self, error: TqError) -> None:
        """Answer before the request was read, then read on for a while without keeping anything.

        To close at once would reset the connection, and the client would lose the answer with it.
        """
        self._is_refused = True
        self._write(problem(error, (("Connection", "close"),)))
        self._close_at_the_end()
        if "Expect" in self._headers:
            self._end()  # the client waits for a word before it sends its body

    def _respond(self, response: Response) -> None:
        if not self._is_over:
            self._write(response)
            self._end()

    def _write(self, response: Response) -> None:
        headers = httputil.HTTPHeaders()
        headers["Server"] = f"tq/{__version__}"
        headers["Date"] = self._application.date()
        headers["Cache-Control"] = "no-store"
        headers["X-Content-Type-Options"] = "nosniff"
        for name, value in response.headers:
            headers[name] = value
        if response.content_type:
            headers["Content-Type"] = response.content_type
        if response.status not in (204, 304):
            headers["Content-Length"] = str(len(response.body))
        body = None if self._method == "HEAD" else response.body or None
        start_line = httputil.ResponseStartLine("HTTP/1.1", response.status, http.client.responses[response.status])
        self._written = self._connection.write_headers(start_line, headers, body)

    def _end(self) -> None:
        if not self._is_over:
            self._is_over = True
            self._connection.finish()
            self._written.add_done_callback(self._release)


def _split_target(target: str) -> tuple[str, str]:
    """Path and query of a request target, which may be in absolute form (RFC 9112, 3.2). Raises InvalidRequest."""
    origin = re.match(r"https?://[^/?]*", target)
    relative = target[origin.end() :] if origin else target
    path, _, query = relative.partition("?")
    if not path.startswith("/") and (path or not origin):
        raise InvalidRequest("The request target is neither a path nor an http URL.")
    return path, query


def _body_too_large(settings: Settings) -> MessageTooLarge:
    return MessageTooLarge(f"The body has more than {settings.max_body_bytes:,} bytes.")


class Server:
    """Listening sockets and the Tornado server on them."""

    def __init__(self, application: Application) -> None:
        self._application = application
        # The limits that answer properly are checked by _Exchange; these only bound what Tornado buffers.
        self._http = HTTPServer(
            application,
            max_header_size=2 * application.settings.max_header_bytes + _MIB,
            max_body_size=1 << 62,
        )

    def listen(self) -> list[str]:
        """Begin to accept connections; returns the base URLs. Raises StartError."""
        settings = self._application.settings
        sockets = _bind(settings.host, settings.port)
        self._http.add_sockets(sockets)
        return [_url(one) for one in sockets]

    async def close(self) -> None:
        """Accept no more connections, finish what is in hand, then close the connections that are idle."""
        self._http.stop()
        await self._application.stop()
        await self._http.close_all_connections()


def _bind(host: str, port: int) -> list[socket.socket]:
    addresses = ["127.0.0.1", "::1"] if host == "localhost" else [host]
    sockets: list[socket.socket] = []
    for address in addresses:
        try:
            sockets += netutil.bind_sockets(port, address, backlog=BACKLOG)
        except OSError as error:
            if sockets and error.errno != errno.EADDRINUSE:
                continue  # this machine has no IPv6
            for one in sockets:
                one.close()
            raise StartError(_why_not(host, port, error), EXIT_ADDRESS) from error
        port = sockets[0].getsockname()[1]
    return sockets


def _why_not(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"Port {port} on {host} is taken; choose another with --port."
    if error.errno == errno.EACCES:
        return f"Port {port} may not be used by this user; choose one above 1023 with --port."
    return f"Cannot listen on {host} port {port} ({error.strerror}); choose another with --host."


def _url(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"http://{host}:{port}"
