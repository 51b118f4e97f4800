"""TLS: a context of the files that the settings name, and the handshake that comes before a connection."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tq.errors import EXIT_USAGE, StartError
from tq.settings import Settings

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
    """Those that are under way, and count as connections: else who never finishes one could have any number.

    asyncio's own servers tell of a connection only when its handshake is over.
    """

    def __init__(self, accept: Callable[[], asyncio.Protocol], has_room: Callable[[], bool], seconds: float) -> None:
        """`accept` makes the protocol of a connection that has one behind it; `seconds` is all that it may take."""
        self.accept = accept
        self.has_room = has_room
        self.seconds = seconds
        self.context: ssl.SSLContext | None = None  # of those that begin now
        self.running: set[Handshake] = set()

    def begin(self) -> Handshake:
        return Handshake(self)

    def close(self) -> None:
        for handshake in list(self.running):
            handshake.close()


class Handshake(asyncio.Protocol):
    """One, and what the client has sent behind it before the connection took over."""

    def __init__(self, handshakes: Handshakes) -> None:
        self._all = handshakes
        self._transport: Any = None
        self._task: asyncio.Task[None] | None = None
        self._has_begun = False
        self._data = b""
        self._is_ended = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        if not self._all.has_room():
            transport.abort()
            return
        transport.pause_reading()
        self._all.running.add(self)
        self._task = asyncio.get_running_loop().create_task(self._run())

    def data_received(self, data: bytes) -> None:
        if self._has_begun:
            self._data += data
        else:
            self.close()  # it was sent in the clear

    def eof_received(self) -> None:
        self._is_ended = True

    def close(self) -> None:
        if self._task:
            self._task.cancel()
        self._transport.abort()

    async def _run(self) -> None:
        raw, limits = self._transport, self._all
        assert limits.context
        self._has_begun = True
        try:
            transport = await asyncio.get_running_loop().start_tls(
                raw,
                self,
                limits.context,
                server_side=True,
                ssl_handshake_timeout=limits.seconds,
                ssl_shutdown_timeout=limits.seconds,
            )
        except OSError as error:  # among which are timeouts and what TLS has to say
            log.info("a TLS handshake with %s failed: %s", raw.get_extra_info("peername"), error)
            raw.abort()
            return
        finally:
            limits.running.discard(self)
        if transport is None or transport.is_closing():
            return
        protocol = limits.accept()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._data:
            protocol.data_received(self._data)
        if self._is_ended:
            protocol.eof_received()
