"""TLS: a context of the files that the settings name, and the handshake that comes before a connection."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tq.errors import EXIT_USAGE, StartError
from tq.metrics import Metrics
from tq.settings import Settings

ACCEPT_AGAIN_S = 1.0  # as asyncio's own servers

log = logging.getLogger("tq.web")


def load(settings: Settings) -> ssl.SSLContext | None:
    """None where the settings ask for no TLS. Raises StartError."""
    certificate, key, authority = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if not certificate:
        if key or authority:
            raise _refusal("--tls-key and --tls-client-ca are of no use without --tls-cert")
        return None
    if not key:
        raise _refusal("--tls-cert needs the certificate's private key, --tls-key FILE")
    _check(certificate, "CERTIFICATE", "--tls-cert")
    _check(key, "PRIVATE KEY", "--tls-key")
    if Path(key).stat().st_mode & 0o007:
        raise _refusal(f"Everybody may read the private key in {key}; say: chmod 600 {key}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])

    def no_password() -> str:
        raise _refusal(f"The private key in {key} is encrypted, and there is nobody to ask for its password")

    try:
        context.load_cert_chain(certificate, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise _refusal(f"The private key in {key} is not that of the certificate in {certificate}") from error
        raise _refusal(f"The certificate in {certificate} or its key in {key} cannot be used ({error})") from error
    if authority:
        _check(authority, "CERTIFICATE", "--tls-client-ca")
        try:
            context.load_verify_locations(authority)
        except ssl.SSLError as error:
            raise _refusal(f"The certificates in {authority} cannot be used ({error})") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _check(file: str, kind: str, flag: str) -> None:
    """The file can be read and has something of the kind. Raises StartError."""
    try:
        text = Path(file).read_bytes()
    except OSError as error:
        raise _refusal(f"The file {file} cannot be read ({error.strerror}); name another with {flag}") from error
    if f"{kind}-----".encode() not in text:
        raise _refusal(f"The file {file} holds no {kind.lower()} in PEM; name another with {flag}")


def _refusal(sentence: str) -> StartError:
    return StartError(f"{sentence}.", EXIT_USAGE)


class Handshakes:
    """Accepts connections, and counts their handshakes as such: else who never finishes one could have any number.

    asyncio's own servers tell of a connection only when its handshake is over, and keep the context they began with.
    """

    def __init__(
        self,
        accept: Callable[[], asyncio.Protocol],
        has_room: Callable[[str], bool],
        seconds: float,
        metrics: Metrics,
    ) -> None:
        """`accept` makes the protocol of a connection that has one behind it; `seconds` is all that it may take.

        `has_room` says whether one more may begin from an address.
        """
        self._accept = accept
        self._has_room = has_room
        self._seconds = seconds
        self._metrics = metrics
        metrics.gauges["handshakes"] = lambda: len(self._running)
        self.context: ssl.SSLContext | None = None  # of those that begin now
        self._listening: dict[socket.socket, asyncio.Task[None]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self.by_address: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._running)

    def listen(self, listening: socket.socket) -> None:
        listening.setblocking(False)
        self._listening[listening] = asyncio.get_running_loop().create_task(self._accept_all(listening))

    def close(self) -> None:
        for listening, task in self._listening.items():
            task.cancel()
            listening.close()
        for task in self._running:
            task.cancel()

    async def _accept_all(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, peer = await loop.sock_accept(listening)
            except OSError as error:  # no descriptors, or the client has gone already
                log.warning("a connection could not be accepted: %s", error)
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            if self._has_room(peer[0]):
                task = loop.create_task(self._shake_hands(accepted, peer[0]))
                self._running.add(task)
                self.by_address[peer[0]] += 1
                task.add_done_callback(partial(self._end, peer[0]))
            else:
                self._metrics.connections_refused["unanswered"] += 1
                accepted.close()

    def _end(self, peer: str, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self.by_address[peer] -= 1
        if not self.by_address[peer]:
            del self.by_address[peer]

    async def _shake_hands(self, accepted: socket.socket, peer: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._accept,
                accepted,
                ssl=self.context,
                ssl_handshake_timeout=self._seconds,
                ssl_shutdown_timeout=self._seconds,
            )
        except OSError as error:  # among which are timeouts, and what TLS has to say
            self._metrics.handshakes_failed += 1
            told = {"event": "handshake_failed", "client": peer, "error": str(error)}
            log.warning("a TLS handshake with %(client)s failed: %(error)s", told)
