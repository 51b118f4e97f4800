"""TLS, with certificates that the openssl command makes."""

from __future__ import annotations

import shutil
import signal
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import Session

from tests.both import Awaited, Blocking
from tests.harness import Server, wait_until
from tests.wire import ask
from tq.client import Unreachable
from tq.errors import StartError
from tq.settings import Settings
from tq.web.tls import load

TIMEOUT_S = 20
NAMES = "subjectAltName=DNS:localhost,IP:127.0.0.1"
STATUS = ask("GET", "/status")
LAST = ask("GET", "/status", b"", "Connection: close")


class Pki:
    """A directory of certificates. `cert`, `other` and `client` are signed by `ca`, `stranger` by itself."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._sign("ca", "-x509")
        self._sign("stranger", "-x509")
        for name in ("cert", "other", "client"):
            self._sign(name, "-x509", "-CA", self["ca.pem"], "-CAkey", self["ca.key"], "-addext", NAMES)

    def __getitem__(self, name: str) -> str:
        return str(self.directory / name)

    def _sign(self, name: str, *more: str) -> None:
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", f"/CN={name}")
        command = ["openssl", "req", *curve, "-keyout", self[f"{name}.key"], "-out", self[f"{name}.pem"], *more]
        subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)

    def flags(self, *more: str) -> tuple[str, ...]:
        return ("--tls-cert", self["cert.pem"], "--tls-key", self["cert.key"], *more)

    def trusting(self, client: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self["ca.pem"])
        if client:
            context.load_cert_chain(self[f"{client}.pem"], self[f"{client}.key"])
        return context


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    return Pki(tmp_path_factory.mktemp("pki"))


def connect(server: Server, context: ssl.SSLContext) -> ssl.SSLSocket:
    raw = socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S)
    try:
        return context.wrap_socket(raw, server_hostname="localhost")
    except BaseException:
        raw.close()
        raise


def answer(server: Server, context: ssl.SSLContext, request: bytes = LAST) -> bytes:
    """What a connection of its own gives for a request that says that it is the last."""
    with connect(server, context) as connection:
        connection.sendall(request)
        return b"".join(iter(lambda: connection.recv(65_536), b""))


def name_of(connection: ssl.SSLSocket) -> str:
    """Whose certificate the server has shown."""
    certificate = connection.getpeercert()
    assert certificate
    ((_, name),) = certificate["subject"][0]  # type: ignore[misc]
    return str(name)


# --- a conversation -------------------------------------------------------------


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_is_spoken(start: Callable[..., Server], pki: Pki, version: ssl.TLSVersion) -> None:
    server = start(*pki.flags())
    assert server.url.startswith("https://")
    context = pki.trusting()
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with connect(server, context) as connection:
        assert connection.version() == version.name.replace("_", ".")
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert name_of(connection) == "cert"
    for path in (b"/status", b"/healthz", b"/readyz"):
        assert answer(server, context, LAST.replace(b"/status", path)).startswith(b"HTTP/1.1 200")
    assert server.stop() == 0
    assert server.complaints() == ""


def test_older_tls_is_refused(start: Callable[..., Server], pki: Pki) -> None:
    server = start(*pki.flags())
    context = pki.trusting()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):  # that it is deprecated
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    with pytest.raises(ssl.SSLError):
        connect(server, context)


def test_a_request_in_the_clear_is_cut_off(start: Callable[..., Server], pki: Pki) -> None:
    server = start(*pki.flags())
    reply = b""
    with suppress(ConnectionError):
        reply = server.raw(STATUS)
    assert b"HTTP" not in reply
    assert answer(server, pki.trusting()).startswith(b"HTTP/1.1 200")


def handshaken(raw: socket.socket, context: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
    """A handshake on the client's side, whose last bytes were not sent yet."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            raw.sendall(outgoing.read())
            incoming.write(raw.recv(65_536))
        else:
            return tls, outgoing


@pytest.mark.parametrize("has_ended", [False, True])
def test_what_comes_with_the_end_of_the_handshake_is_read(
    start: Callable[..., Server], pki: Pki, has_ended: bool
) -> None:
    """In one segment with it, before the connection knows that it is one."""
    server = start(*pki.flags())
    server_context = pki.trusting()
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as raw:
        tls, outgoing = handshaken(raw, server_context)
        tls.write(ask("POST", "/queues", b'{"name":"q"}'))
        if has_ended:
            with suppress(ssl.SSLWantReadError):
                tls.unwrap()
        raw.sendall(outgoing.read())
        wait_until(lambda: b"200" in answer(server, pki.trusting(), LAST.replace(b"/status", b"/queues/q"))[:15])
    assert server.stop() == 0
    assert server.complaints() == ""


def test_sqs_over_tls(start: Callable[..., Server], pki: Pki) -> None:
    server = start(*pki.flags())
    session = Session()
    session.set_credentials("any", "any")
    sqs = session.create_client(
        "sqs", "eu-central-1", endpoint_url=server.url, verify=pki["ca.pem"], config=Config(retries={"max_attempts": 0})
    )
    url = sqs.create_queue(QueueName="q")["QueueUrl"]
    assert url == f"{server.url}/000000000000/q"
    sqs.send_message(QueueUrl=url, MessageBody="a")
    assert sqs.receive_message(QueueUrl=url)["Messages"][0]["Body"] == "a"
    sqs.close()


# --- tq's own client -------------------------------------------------------------


@pytest.mark.parametrize("kind", [Blocking, Awaited])
def test_the_client_speaks_it_and_believes_no_stranger(start: Callable[..., Server], pki: Pki, kind: Any) -> None:
    server = start(*pki.flags())
    client = kind(server.url, verify=pki.trusting())
    client.create_queue("q")
    big = "x" * 300_000
    assert [client.send("q", big).id for _ in range(3)] == [1, 2, 3]
    got = []

    def body(message: Any, messages: Any) -> Any:
        got.append(message.content == big)
        if len(got) == 3:
            messages.stop()  # which ends a long poll that is under way
        yield lambda: True

    began_s = time.monotonic()
    client.handle("q", body, wait=TIMEOUT_S)
    assert got == [True] * 3
    assert time.monotonic() - began_s < TIMEOUT_S / 2
    assert client.queue("q").messages.in_flight == 0
    client.close()
    stranger = kind(server.url, retry_seconds=0)
    with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
        stranger.send("q", 1)
    stranger.close()


# --- certificates of clients -------------------------------------------------------------


def test_a_client_must_show_its_certificate_where_that_is_asked_for(start: Callable[..., Server], pki: Pki) -> None:
    server = start(*pki.flags("--tls-client-ca", pki["ca.pem"]))
    assert answer(server, pki.trusting("client")).startswith(b"HTTP/1.1 200")
    for name in ("", "stranger"):
        reply = b""
        with suppress(ssl.SSLError, ConnectionError):
            reply = answer(server, pki.trusting(name))
        assert reply == b""


# --- reading the files again -------------------------------------------------------------


def test_the_certificate_is_read_again(start: Callable[..., Server], pki: Pki, tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"

    def use(name: str) -> None:
        shutil.copy(pki[f"{name}.pem"], certificate)
        shutil.copy(pki[f"{name}.key"], key)

    def shown() -> str:
        with connect(server, pki.trusting()) as connection:
            return name_of(connection)

    use("cert")
    server = start("--tls-cert", str(certificate), "--tls-key", str(key))
    with connect(server, pki.trusting()) as old:
        use("other")
        assert shown() == "cert"
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shown() == "other")
        shutil.copy(pki["cert.pem"], certificate)  # whose key this is not
        server.process.send_signal(signal.SIGHUP)
        use("cert")
        server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: shown() == "cert")
        old.sendall(LAST)
        assert old.recv(100).startswith(b"HTTP/1.1 200")
    assert server.stop() == 0


def test_a_certificate_that_cannot_be_used_changes_nothing(
    start: Callable[..., Server], pki: Pki, tmp_path: Path
) -> None:
    certificate = tmp_path / "cert.pem"
    shutil.copy(pki["cert.pem"], certificate)
    server = start("--tls-cert", str(certificate), "--tls-key", pki["cert.key"])
    certificate.write_text("nothing")
    server.process.send_signal(signal.SIGHUP)
    assert "The certificate stays as it was" in server.line()
    assert answer(server, pki.trusting()).startswith(b"HTTP/1.1 200")


def test_clients_that_are_trusted_no_more_are_refused(start: Callable[..., Server], pki: Pki, tmp_path: Path) -> None:
    """Also those that could take up an earlier session again."""
    authority = tmp_path / "ca.pem"
    shutil.copy(pki["ca.pem"], authority)
    server = start(*pki.flags("--tls-client-ca", str(authority)))
    context = pki.trusting("client")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with connect(server, context) as connection:
        session = connection.session
    shutil.copy(pki["stranger.pem"], authority)
    server.process.send_signal(signal.SIGHUP)
    assert "was read again" in server.line()
    reply = b""
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as raw, suppress(OSError):
        tls = context.wrap_socket(raw, server_hostname="localhost", session=session)
        tls.sendall(LAST)
        reply = tls.recv(1)
    assert reply == b""
    assert answer(server, pki.trusting("stranger")).startswith(b"HTTP/1.1 200")


# --- handshakes that have no end -------------------------------------------------------------


def is_open(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        return connection.recv(1, socket.MSG_PEEK) != b""
    except BlockingIOError:
        return True
    except ConnectionError:
        return False


def test_a_handshake_that_has_no_end_is_given_up(start: Callable[..., Server], pki: Pki) -> None:
    server = start(*pki.flags("--header-seconds", "0.3"))
    for begun in (b"", b"\x16\x03\x01"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
            connection.sendall(begun)
            wait_until(lambda: not is_open(connection))
    assert server.stop() == 0


@pytest.mark.parametrize("limit", ["--max-connections", "--max-connections-per-address"])
def test_handshakes_count_as_connections(start: Callable[..., Server], pki: Pki, limit: str) -> None:
    """The limit is 4, and 32 more may be told so."""
    server = start(*pki.flags(limit, "4"))
    begun = [socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) for _ in range(60)]
    try:
        wait_until(lambda: sum(map(is_open, begun)) == 36)
    finally:
        for connection in begun:
            connection.close()
    wait_until(lambda: can_connect(server, pki))
    assert server.stop() == 0


def can_connect(server: Server, pki: Pki) -> bool:
    with suppress(OSError):
        return answer(server, pki.trusting()).startswith(b"HTTP/1.1 200")
    return False


def test_a_stop_does_not_wait_for_handshakes(start: Callable[..., Server], pki: Pki) -> None:
    server = start(*pki.flags("--header-seconds", "3000", "--shutdown-seconds", "3000"))
    with socket.create_connection(("127.0.0.1", server.port), timeout=TIMEOUT_S) as connection:
        assert answer(server, pki.trusting()).startswith(b"HTTP/1.1 200")
        assert server.stop() == 0
        wait_until(lambda: not is_open(connection))
    assert server.complaints() == ""


# --- files that cannot be used -------------------------------------------------------------


def with_password(pki: Pki, path: Path) -> str:
    command = ["openssl", "pkey", "-in", pki["cert.key"], "-aes256", "-passout", "pass:word", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT_S)
    return str(path)


def test_files_that_cannot_be_used(pki: Pki, tmp_path: Path) -> None:
    broken = tmp_path / "broken.pem"
    broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    public = tmp_path / "public.key"
    shutil.copy(pki["cert.key"], public)
    public.chmod(0o644)
    cert, key = pki["cert.pem"], pki["cert.key"]
    for why, files in {
        "--tls-cert needs": (cert, "", ""),
        "of no use without --tls-cert": ("", key, ""),
        "are of no use without --tls-cert": ("", "", cert),
        "cannot be read .*--tls-cert": (pki["absent"], key, ""),
        "cannot be read .*--tls-key": (cert, pki["absent"], ""),
        "cannot be read .*--tls-client-ca": (cert, key, pki["absent"]),
        "holds no certificate": (key, key, ""),
        "holds no private key": (cert, cert, ""),
        "holds no certificate in PEM; name another with --tls-client-ca": (cert, key, key),
        "is not that of the certificate": (cert, pki["other.key"], ""),
        "Everybody may read": (cert, str(public), ""),
        "is encrypted": (cert, with_password(pki, tmp_path / "locked.key"), ""),
        f"certificate in {broken} or its key": (str(broken), key, ""),
        f"certificates in {broken} cannot be used": (cert, key, str(broken)),
    }.items():
        with pytest.raises(StartError, match=why) as refused:
            load(Settings(tls_cert=files[0], tls_key=files[1], tls_client_ca=files[2]))
        assert refused.value.exit_code == 2
        assert str(refused.value).endswith(".")
    assert load(Settings()) is None
    assert load(Settings(tls_cert=cert, tls_key=key, tls_client_ca=cert))
