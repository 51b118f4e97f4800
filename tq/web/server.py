"""The server: requests to routes, results to answers, and the sockets that connections come from."""

from __future__ import annotations

import asyncio
import email.utils
import errno
import http.client
import logging
import re
import socket
import ssl
import time
from collections import defaultdict
from functools import lru_cache
from ipaddress import ip_address
from types import GeneratorType
from typing import Any, cast

from tornado import httputil, netutil

from tq import __version__
from tq.broker import Broker, Ticket
from tq.errors import EXIT_ADDRESS, EXIT_USAGE, InternalError, InvalidRequest, MethodNotAllowed, StartError, TqError
from tq.metrics import METHOD_OTHER, ROUTE_UNKNOWN, Outcome
from tq.model import Command, Query, Receive, Received, Send, Settle
from tq.settings import Settings
from tq.survey import Look
from tq.tokens import Token, Tokens
from tq.web import ROUTES, dashboard
from tq.web.access import AccessLog
from tq.web.browsers import Browsers
from tq.web.connection import MAX_REFUSED, Connection
from tq.web.exchange import Request, Response, Route, Steps, problem
from tq.web.parser import Head, KnownHeads
from tq.web.router import MAX_REMEMBERED_LENGTH, Resource, Router
from tq.web.sqs import Endpoint
from tq.web.stream import Stream, WholeRequest
from tq.web.tls import Handshakes
from tq.web.traffic import Limits, Traffic

REMEMBERED_TARGETS = 1_000  # most requests have a few, whatever their headers
BACKLOG = 1024  # connections that may wait to be accepted; the kernel's own bound is often 4,096
CHECK_S = 1.0  # how often each client is looked at, whether it is too slow …
CHECK_SHARES = 10  # … and in how many parts
DRAIN_CHECK_S = 0.01
BODILESS = (204, 304)  # statuses whose answers have no body (RFC 9110, 15.3.5 and 15.4.5)

log = logging.getLogger("tq.web")


class Application(httputil.HTTPServerConnectionDelegate):
    """What a connection asks for a delegate for each request."""

    def __init__(self, broker: Broker, settings: Settings, access: AccessLog | None = None) -> None:
        self.broker = broker
        self.access = access
        self._exchange = _LoggedExchange if access else _Exchange
        self.settings = settings
        self._sqs = Endpoint(settings, broker.metrics)
        self._browsers = Browsers(settings)
        self._has_cors = self._browsers.has_cors
        self.router = Router((*ROUTES, *self._sqs.routes(), *dashboard.routes()))
        self._known = lru_cache(maxsize=REMEMBERED_TARGETS)(self._find)
        self.use_tokens(None)
        self._second = 0
        self._heads: dict[tuple[int, str | None, str], bytes] = {}

    def use_tokens(self, tokens: Tokens | None) -> None:
        """From now on, ask for one of these; heads that were seen before must not be known any more."""
        self._tokens = self._sqs.tokens = tokens

    def start_request(self, server_conn: object, request_conn: httputil.HTTPConnection) -> WholeRequest:
        assert isinstance(request_conn, Stream)
        return self._exchange(self, request_conn)

    def call(self, head: Head) -> _Call:
        """What a head asks for. Raises the TqErrors of its route."""
        find = self._known if len(head.target) <= MAX_REMEMBERED_LENGTH else self._find
        authority, path, query, resource, variables = find(head.target)
        if head.method == "OPTIONS":
            self._browsers.check(head.headers, authority, is_change=False)
            counts = self.broker.metrics.outcomes("OPTIONS", resource.path)
            return _Call(counts, response=Response(204, headers=(("Allow", resource.allow),)))
        counts = self.broker.metrics.outcomes(head.method, resource.path)
        try:
            route = resource.route(head.method, query)
        except MethodNotAllowed as error:
            return _Call(counts, response=problem(error, (("Allow", resource.allow),)))
        request = Request(head.method, path, query, head.headers, variables, b"")
        try:
            self._browsers.check(head.headers, authority, is_change=resource.is_change(route))
        except TqError as error:
            return _Call(counts, response=route.refuse(request, error))
        token = self._tokens.bearer(head.headers.get("authorization")) if self._tokens and not route.is_open else None
        if route.query:
            request.asked = request.query_as(route.query)
        if route.reads_body:
            return _Call(counts, route, request, token=token)
        parsed = route.parse(request)
        if isinstance(parsed, Response):
            return _Call(counts, response=parsed)
        asked = cast("Command | Query", parsed)  # only a body asks for several
        if token:
            token.check(asked)
        return _Call(counts, route, request, asked)

    def outcomes(self, head: Head) -> defaultdict[Outcome, int]:
        """Where the answer to a head is counted that could not be called."""
        try:
            path = self._find(head.target)[3].path
        except TqError:
            path = ROUTE_UNKNOWN
        return self.broker.metrics.outcomes(head.method, path)

    def _find(self, target: str) -> tuple[str, str, str, Resource, dict[str, str]]:
        """Authority, path, query string, and what is at the path. Raises NotFound, InvalidRequest."""
        authority, path, query = _split_target(target)
        return authority, path, query, *self.router.find(path)

    def head(self, response: Response, asked: Head | None = None) -> bytes:
        """Status line and headers; what all answers of a kind have is made once a second."""
        second = int(time.time())
        if second != self._second:
            self._second = second
            self._heads.clear()
        kind = response.status, response.content_type, response.cache
        head = self._heads.get(kind) or self._heads.setdefault(kind, self._make_head(*kind))
        if response.headers:
            for name, value in response.headers:
                head += f"{name}: {value}\r\n".encode("latin-1")
        if self._has_cors and asked:
            head += self._browsers.cors(asked)
        return head

    def _make_head(self, status: int, content_type: str | None, cache: str) -> bytes:
        headers = {
            "Server": f"tq/{__version__}",
            "Date": email.utils.formatdate(self._second, usegmt=True),
            "Cache-Control": cache,
            "X-Content-Type-Options": "nosniff",
        }
        if content_type:
            headers["Content-Type"] = content_type
        lines = [f"{name}: {value}\r\n" for name, value in headers.items()]
        return f"HTTP/1.1 {status} {http.client.responses[status]}\r\n{''.join(lines)}".encode("latin-1")

    def refusal(self, stream: Stream, error: TqError) -> tuple[bytes, bytes]:
        """Head and body of the answer to what a connection refuses by itself."""
        response = problem(error)
        if self.access:
            self.access.add(stream.remote_ip, stream.head, response, time.perf_counter())
        self.broker.metrics.outcomes(METHOD_OTHER)[error.status, error.code] += 1
        return self.head(response), response.body


class _Call:
    """What a head asks for, which is found once for all the requests that share it (`Head.call`).

    `asked` is None where it depends on the body too, and everything but `response` where the head is all it takes.
    `token` is whose rights are still to be looked at. `counts` are those of its route.
    """

    __slots__ = ("asked", "counts", "request", "response", "route", "token")

    def __init__(
        self,
        counts: defaultdict[Outcome, int],
        route: Route | None = None,
        request: Request | None = None,
        asked: Command | Query | None = None,
        response: Response | None = None,
        token: Token | None = None,
    ) -> None:
        self.counts = counts
        self.token = token
        self.route: Any = route  # a Route; a check of it for each answer would take longer than to count it
        self.request = request
        self.asked = asked
        self.response = response


class _Exchange(WholeRequest):
    """One request of a route, and its answer."""

    _response: Response | None = None
    _ticket: Ticket | Look | None = None
    _steps: Steps | None = None

    def __init__(self, application: Application, stream: Stream) -> None:
        self._application = application
        self._stream = stream

    def receive(self, head: Head, body: bytes) -> None:
        try:
            self._read(head, body)
        except TqError as error:
            self._refuse(head, error)
        except Exception:
            log.exception("%s %s failed", head.method, head.path)
            self._refuse(head, InternalError())

    def _refuse(self, head: Head, error: TqError) -> None:
        self._response = problem(error)
        self._call = _Call(self._application.outcomes(head))

    def _read(self, head: Head, body: bytes) -> None:
        call: _Call | None = head.call
        if call is None:
            call = head.call = self._application.call(head)
        self._call = call
        if call.response:
            self._response = call.response
            return
        assert call.route
        assert call.request
        self._request = call.request
        asked = call.asked
        if asked is None:
            self._request = call.request.with_body(body) if head.is_known else call.request
            self._request.body = body
            parsed = call.route.parse(self._request)
            if isinstance(parsed, GeneratorType):
                self._steps = parsed
                try:
                    parsed = next(parsed)
                except StopIteration as stop:
                    parsed = stop.value
            if isinstance(parsed, Response):
                self._response = parsed
                return
            asked = cast("Command | Query", parsed)
            if call.token:
                call.token.check(asked)
        self._asked = asked
        kind = type(asked)
        if kind is Receive:
            self.needs_client = True
        elif kind is Send or kind is Settle:
            self.may_overlap = True
        elif call.route.is_rendered_in_parts:
            self._steps = _in_parts(call.route, self._request)
            next(self._steps)

    def run(self) -> None:
        if self._response:
            self._respond(self._response)
        else:
            self._submit(self._asked)

    def _submit(self, asked: Command | Query) -> None:
        ticket = self._application.broker.submit(asked, self._answer)
        if ticket and not ticket.is_over:  # else it was answered already, and that may have made another one
            self._ticket = ticket

    def on_connection_close(self) -> None:
        if self._ticket:
            self._ticket.cancel()

    def _answer(self, result: Any) -> None:
        ticket, self._ticket = self._ticket, None  # it refers back to this
        if ticket and ticket.has_waited and isinstance(result, Received) and self._is_in_vain(result):
            return
        if self._steps:
            self._step(self._steps, result)
            return
        if isinstance(result, TqError):
            self._respond(problem(result))
            return
        try:
            response: Response = self._call.route.render(self._request, result)
        except TqError as error:
            response = problem(error)
        except Exception:
            log.exception("%s %s could not be answered", self._request.method, self._request.path)
            if isinstance(result, Received):
                self._application.broker.give_back(result)
            response = problem(InternalError())
        self._respond(response)

    def _step(self, steps: Steps, result: Any) -> None:
        """Go on with the next command of several, or answer."""
        try:
            asked = steps.throw(result) if isinstance(result, TqError) else steps.send(result)
        except StopIteration as stop:
            self._respond(stop.value)
        except Exception:
            log.exception("%s %s could not be answered", self._request.method, self._request.path)
            self._respond(problem(InternalError()))
        else:
            if asked is not None:
                self._submit(asked)
            elif self._stream.delegate is self:  # else the client is gone
                asyncio.get_running_loop().call_soon(self._step, steps, None)

    def _is_in_vain(self, received: Received) -> bool:
        """Whether the client of a long poll has gone meanwhile; then its messages go back."""
        if not received.messages or not self._stream.is_abandoned():
            return False
        self._application.broker.give_back(received)
        self._stream.abandon()
        return True

    def _respond(self, response: Response) -> None:
        self._call.counts[response.outcome or response.status] += 1
        body = None if response.status in BODILESS else response.body
        self._stream.respond(self._application.head(response, self._stream.head), body)


class _LoggedExchange(_Exchange):
    """One that is in the access log; others do not even ask whether they are."""

    _began_s = 0.0

    def receive(self, head: Head, body: bytes) -> None:
        self._began_s = time.perf_counter()
        super().receive(head, body)

    def _respond(self, response: Response) -> None:
        super()._respond(response)
        access = self._application.access
        assert access
        access.add(self._stream.remote_ip, self._stream.head, response, self._began_s)


def _in_parts(route: Route, request: Request) -> Steps:
    """What comes behind the first command, for which it waits, of a route that renders in parts."""
    try:
        result = yield None
    except TqError as error:
        return problem(error)
    return (yield from cast("Steps", route.render(request, result)))


def _split_target(target: str) -> tuple[str, str, str]:
    """Authority, path and query of a request target. Raises InvalidRequest.

    It has an authority only in absolute form (RFC 9112, 3.2).
    """
    authority = ""
    if not target.startswith("/"):
        origin = re.match(r"https?://([^/?]+)(?=[/?]|$)", target)
        if not origin:
            raise InvalidRequest("The request target is neither a path nor an http URL.")
        authority, target = origin[1], target[origin.end() :]
    path, _, query = target.partition("?")
    return authority, path, query


class Server:
    """Listening sockets, and the connections that come in by them."""

    def __init__(self, application: Application, settings: Settings, tls: ssl.SSLContext | None = None) -> None:
        self._application = application
        self._settings = settings
        self._limits = Limits(
            max_connections=settings.max_connections,
            max_connections_per_address=settings.max_connections_per_address,
            max_transit_bytes=settings.max_transit_bytes,
            max_header_bytes=settings.max_header_bytes,
            max_body_bytes=settings.max_body_bytes,
            header_seconds=settings.header_seconds,
            body_seconds=settings.body_seconds,
            idle_seconds=settings.idle_seconds,
        )
        self._traffic: Traffic[Connection] = Traffic(self._limits, application.broker.metrics)
        self._connections = self._traffic.members
        self._unchecked: list[Connection] = []
        self._known = KnownHeads()
        self._servers: list[asyncio.Server] = []
        self._check_due_s = 0.0
        self._handshakes = Handshakes(self.accept, self._has_room, settings.header_seconds, application.broker.metrics)
        self.use_tls(tls)

    def use_tokens(self, tokens: Tokens | None) -> None:
        """Ask for these tokens from now on, whatever was answered before."""
        self._known.forget()
        self._application.use_tokens(tokens)

    def use_tls(self, context: ssl.SSLContext | None) -> None:
        """Speak TLS by this context on connections that are made from now on; to be there, or not, from the start."""
        self._handshakes.context = context

    async def listen(self) -> list[str]:
        """Begin to accept connections; returns the base URLs. Raises StartError."""
        sockets = _bind(self._settings.host, self._settings.port)
        if not (self._settings.tokens or self._settings.allow_anonymous):
            _check_that_they_are_of_this_machine(sockets, self._settings.host)
        return await self.listen_on(sockets)

    async def listen_on(self, sockets: list[socket.socket]) -> list[str]:
        loop = asyncio.get_running_loop()
        has_tls = self._handshakes.context is not None
        for one in sockets:
            if has_tls:
                self._handshakes.listen(one)
            else:
                self._servers.append(await loop.create_server(self.accept, sock=one, backlog=BACKLOG))
        self._check()
        return [_url(one, has_tls) for one in sockets]

    def _has_room(self, address: str) -> bool:
        """For one more connection, if only to be told that there are too many."""
        limits, traffic, handshakes = self._limits, self._traffic, self._handshakes
        of_address = traffic.by_address[address] + handshakes.by_address[address]
        return (
            len(traffic.members) + len(handshakes) < limits.max_connections + MAX_REFUSED
            and of_address < limits.max_connections_per_address + MAX_REFUSED
        )

    def accept(self) -> Connection:
        """One more connection, which its transport is still to be told to."""
        return Connection(self._application, self._traffic, self._application.refusal, self._known)

    def _check(self) -> None:
        """Give up clients that are too slow: some at a time, so that ten thousand hold up nobody."""
        loop = asyncio.get_running_loop()
        now_s = time.monotonic()
        if self._check_due_s:
            self._application.broker.metrics.loop_delay_seconds.add(max(0.0, now_s - self._check_due_s))
        self._check_due_s = now_s + CHECK_S / CHECK_SHARES
        self._check_timer = loop.call_later(CHECK_S / CHECK_SHARES, self._check)
        if not self._unchecked:
            self._unchecked = list(self._connections)
        share = len(self._connections) // CHECK_SHARES + 1
        for connection in self._unchecked[-share:]:
            connection.check(loop.time())
        del self._unchecked[-share:]

    async def close(self) -> None:
        """Accept no more, finish what is in hand, for `shutdown_seconds` at the most, then close every connection."""
        for server in self._servers:
            server.close()
        self._handshakes.close()
        for connection in self._connections:
            connection.drain()
        self._application.broker.stop_waiting()
        try:
            async with asyncio.timeout(self._settings.shutdown_seconds):
                while any(connection.is_busy for connection in self._connections):
                    await asyncio.sleep(DRAIN_CHECK_S)
        except TimeoutError:
            busy = sum(connection.is_busy for connection in self._connections)
            told = {"event": "cut_off", "connections": busy}
            log.warning("requests still in hand on %(connections)d connections were cut off", told)
        self._check_timer.cancel()
        for connection in list(self._connections):
            connection.close()


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


def _check_that_they_are_of_this_machine(sockets: list[socket.socket], host: str) -> None:
    """Closes them and raises StartError when others can reach one."""
    for one in sockets:
        address = one.getsockname()[0]
        if not ip_address(address).is_loopback:
            for each in sockets:
                each.close()
            raise StartError(
                f"With --host {host!r} everybody who can reach {address} could do everything; ask for tokens with "
                "--tokens FILE, or say --allow-anonymous if that is meant.",
                EXIT_USAGE,
            )


def _url(listening: socket.socket, has_tls: bool) -> str:
    host, port = listening.getsockname()[:2]
    scheme = "https" if has_tls else "http"
    return f"{scheme}://[{host}]:{port}" if listening.family == socket.AF_INET6 else f"{scheme}://{host}:{port}"
