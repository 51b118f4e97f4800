"""Every route and every operation asks for a token and its rights, and what is secret stays out of logs."""

from __future__ import annotations

import json
import logging
import re
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import requests
from botocore.auth import SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.guarded import TIMEOUT_S, Guarded
from tests.harness import wait_until
from tests.sqs_server import LocalServer
from tests.wire import Wire, ask
from tq import tokens
from tq.broker import Broker
from tq.tokens import RIGHTS
from tq.web import ROUTES
from tq.web.sqs import _OPERATIONS as OPERATIONS

ANY = set(RIGHTS)
RECEIPT = "$receipt"
# Of each route: a body that it takes, and the rights for the queue `orders` any one of which opens it.
ROUTE_CASES: dict[tuple[str, str], tuple[Any, set[str]]] = {
    ("POST", "/queues"): ({"name": "orders"}, {"manage"}),
    ("GET", "/queues"): (None, set()),
    ("GET", "/queues/{queue}"): (None, ANY),
    ("PUT", "/queues/{queue}"): ({}, {"manage"}),
    ("PATCH", "/queues/{queue}"): ({"delay": 0}, {"manage"}),
    ("DELETE", "/queues/{queue}"): (None, {"manage"}),
    ("POST", "/queues/{queue}/messages"): ({"content": 1}, {"send"}),
    ("GET", "/queues/{queue}/messages"): (None, {"receive"}),
    ("POST", "/queues/{queue}/messages/receive"): ({}, {"receive"}),
    ("DELETE", "/queues/{queue}/messages"): (None, {"manage"}),
    ("GET", "/queues/{queue}/messages/{id}"): (None, {"observe"}),
    ("DELETE", "/queues/{queue}/messages/{id}"): (None, {"manage"}),
    ("PATCH", "/queues/{queue}/messages/{id}"): ({"visibility_timeout": 1}, {"receive"}),
    ("POST", "/queues/{queue}/acks"): ({"receipts": [RECEIPT]}, {"receive"}),
    ("POST", "/queues/{queue}/redrive"): ({}, {"manage"}),
    ("POST", "/queues/{queue}/moves"): ({}, {"manage"}),
    ("GET", "/queues/{queue}/moves"): (None, {"observe"}),
    ("DELETE", "/queues/{queue}/moves/{move}"): (None, {"manage"}),
    ("POST", "/receive"): ({"queues": ["orders"]}, {"receive"}),
    ("POST", "/transactions"): ({"send": [{"queue": "orders", "content": 1}]}, {"send"}),
    ("GET", "/queues/{queue}/peek"): (None, {"observe"}),
    ("GET", "/queues/{queue}/history"): (None, {"observe"}),
    ("GET", "/history"): (None, set()),
    ("GET", "/metrics"): (None, set()),
    ("GET", "/status"): (None, set()),
}
OPEN = {("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json")}

ARN = "arn:aws:sqs:eu-central-1:000000000000:orders"
AT = {"QueueUrl": "orders"}
# Of each operation of SQS likewise.
SQS_CASES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "AddPermission": ({**AT, "Label": "a", "AWSAccountIds": ["000000000000"], "Actions": ["*"]}, {"manage"}),
    "CancelMessageMoveTask": ({"TaskHandle": "$task"}, {"manage"}),
    "ChangeMessageVisibility": ({**AT, "ReceiptHandle": RECEIPT, "VisibilityTimeout": 1}, {"receive"}),
    "ChangeMessageVisibilityBatch": (
        {**AT, "Entries": [{"Id": "a", "ReceiptHandle": RECEIPT, "VisibilityTimeout": 1}]},
        {"receive"},
    ),
    "CreateQueue": ({"QueueName": "new"}, {"manage"}),
    "DeleteMessage": ({**AT, "ReceiptHandle": RECEIPT}, {"receive"}),
    "DeleteMessageBatch": ({**AT, "Entries": [{"Id": "a", "ReceiptHandle": RECEIPT}]}, {"receive"}),
    "GetQueueAttributes": ({**AT, "AttributeNames": ["All"]}, ANY),
    "GetQueueUrl": ({"QueueName": "orders"}, ANY),
    "ListDeadLetterSourceQueues": (AT, ANY),
    "ListMessageMoveTasks": ({"SourceArn": ARN}, {"observe"}),
    "ListQueueTags": (AT, ANY),
    "ListQueues": ({}, set()),
    "PurgeQueue": (AT, {"manage"}),
    "ReceiveMessage": (AT, {"receive"}),
    "RemovePermission": ({**AT, "Label": "kept"}, {"manage"}),
    "SendMessage": ({**AT, "MessageBody": "a"}, {"send"}),
    "SendMessageBatch": ({**AT, "Entries": [{"Id": "a", "MessageBody": "a"}]}, {"send"}),
    "SetQueueAttributes": ({**AT, "Attributes": {"DelaySeconds": "0"}}, {"manage"}),
    "StartMessageMoveTask": ({"SourceArn": ARN}, {"manage"}),
    "TagQueue": ({**AT, "Tags": {"a": "b"}}, {"manage"}),
    "UntagQueue": ({**AT, "TagKeys": ["a"]}, {"manage"}),
    "DeleteQueue": (AT, {"manage"}),  # the last, for the others need what is in it
}


class Rights:
    """A guarded server with a token for each single right, for two queues alone, and one for others."""

    def __init__(self, guarded: Guarded) -> None:
        self.guarded = guarded
        self.tokens: dict[str, tuple[str, str]] = {}
        self.receipt = self.task = ""
        allowed = {name: (f"{name}:orders", f"{name}:new") for name in RIGHTS}
        for name, allow in {**allowed, "stranger": ("*:order", "*:orders?", "*:other")}.items():
            shown, token = tokens.create(guarded.file, name, allow)
            self.tokens[name] = shown, token.sqs_secret
        guarded.server.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.ask("GET", "/queues/orders", "observe").status_code == 200)
        letter = {"dead_letter": {"queue": "orders", "max_receives": 1}}
        assert self.ask("PATCH", "/queues/other", "", letter).status_code == 200
        assert self.ask("POST", "/queues/orders/messages", "", {"content": "a"}).status_code == 201
        self.receipt = self.ask("GET", "/queues/orders/messages?visibility_timeout=600", "").json()["receipt"]
        kept = {**SQS_CASES["AddPermission"][0], "Label": "kept"}
        assert guarded.sqs("all", guarded.all_secret, "AddPermission", kept).status_code == 200
        started = guarded.sqs("all", guarded.all_secret, "StartMessageMoveTask", {"SourceArn": ARN})
        self.task = started.json()["TaskHandle"]

    def ask(self, method: str, path: str, name: str, body: Any = None) -> requests.Response:
        """By the token of that name, or the one that may do everything."""
        shown = self.tokens[name][0] if name else self.guarded.all
        return self.guarded.ask(method, path, shown, self.filled(body))

    def filled(self, given: Any) -> Any:
        return json.loads(json.dumps(given).replace(RECEIPT, self.receipt).replace("$task", self.task))


@pytest.fixture
def rights(guarded: Guarded) -> Rights:
    return Rights(guarded)


def path_of(path: str) -> str:
    return re.sub(r"\{(\w+)\}", lambda name: "orders" if name[1] == "queue" else "99", path)


def test_every_route_asks_for_a_token_and_a_right(rights: Rights) -> None:
    routes = {(route.method, route.path) for route in ROUTES}
    assert routes == ROUTE_CASES.keys() | OPEN, "each has a case"
    assert {(route.method, route.path) for route in ROUTES if route.is_open} == OPEN
    for method, template in OPEN:
        assert rights.guarded.ask(method, template, None).status_code == 200, template
    for (method, template), (body, opened_by) in sorted(ROUTE_CASES.items(), key=lambda case: case[0] == "DELETE"):
        path = path_of(template)
        for token in (None, "unknown"):
            reply = rights.guarded.ask(method, path, token, rights.filled(body))
            assert (reply.status_code, reply.json()["code"]) == (401, "unauthenticated"), (method, path)
            assert reply.headers["WWW-Authenticate"] == "Bearer"
        for name in ("stranger", *sorted(ANY - opened_by)):
            reply = rights.ask(method, path, name, body)
            assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), (method, path, name)
        for name in sorted(opened_by):
            assert rights.ask(method, path, name, body).status_code not in (401, 403), (method, path, name)
            rights.ask("POST", "/queues", "", {"name": "orders"})  # one of them deletes it


def test_a_receipt_takes_the_right_to_receive(rights: Rights) -> None:
    """The path of an acknowledgement is also that of a cancel."""
    for name in ("stranger", "send", "manage", "observe"):
        assert rights.ask("DELETE", f"/queues/orders/messages/{rights.receipt}", name).status_code == 403
    assert rights.ask("DELETE", f"/queues/orders/messages/{rights.receipt}", "receive").status_code == 204


def test_every_operation_of_sqs_asks_for_a_signature_and_a_right(rights: Rights) -> None:
    assert SQS_CASES.keys() == OPERATIONS.keys(), "each has a case"
    server = rights.guarded.server

    def code(reply: requests.Response) -> str:
        return reply.headers.get("x-amzn-query-error", "").partition(";")[0]

    for operation, (given, opened_by) in SQS_CASES.items():
        wanted = rights.filled(given)
        headers = {"X-Amz-Target": f"AmazonSQS.{operation}", "Content-Type": "application/x-amz-json-1.0"}
        unsigned = server.request("POST", "/", wanted, headers)
        assert unsigned.headers["x-amzn-query-error"] == "MissingAuthenticationToken;Sender", operation
        for method in ("GET", "POST"):
            assert b"MissingAuthenticationToken" in server.request(method, f"/?Action={operation}").body, operation
        assert code(rights.guarded.sqs("nobody", "secret", operation, wanted)) == "InvalidClientTokenId"
        for name in ("stranger", *sorted(ANY - opened_by)):
            reply = rights.guarded.sqs(name, rights.tokens[name][1], operation, wanted)
            refused = (reply.status_code, code(reply)) == (403, "AccessDenied")
            assert refused or "AccessDenied" in json.dumps(reply.json().get("Failed")), (operation, name, reply.text)
        for name in sorted(opened_by):
            reply = rights.guarded.sqs(name, rights.tokens[name][1], operation, wanted)
            assert "AccessDenied" not in reply.text + code(reply), (operation, name, reply.text)
            rights.ask("POST", "/queues", "", {"name": "orders"})


def test_a_file_without_tokens_lets_nobody_in(guarded: Guarded) -> None:
    for name in ("all", "shop"):
        tokens.revoke(guarded.file, name)
    guarded.server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: guarded.ask("GET", "/status", guarded.all).status_code == 401)
    for token in (guarded.all, guarded.shop, None, ""):
        assert guarded.ask("GET", "/queues/orders/messages", token).status_code == 401


# --- when a token is revoked -------------------------------------------------------------


def test_a_token_that_is_revoked_takes_nothing_more(guarded: Guarded) -> None:
    """Connections stay, each request is judged anew, and long polls end, of everybody."""
    bearer = f"Authorization: Bearer {guarded.shop}"
    path = "/queues/orders/messages"
    poll = ask("GET", path + "?wait=60", b"", bearer)
    with Wire(guarded.server.port) as kept, Wire(guarded.server.port) as first, Wire(guarded.server.port) as second:
        kept.send(ask("GET", path, b"", bearer))
        assert kept.expect().status == 204
        for waiting in (first, second):
            waiting.send(poll)
        other = ask("GET", path + "?wait=0.01", b"", f"Authorization: Bearer {guarded.all}")
        kept.send(other)
        assert kept.expect().status == 204  # so the others were read, and wait
        tokens.revoke(guarded.file, "shop")
        guarded.server.process.send_signal(signal.SIGHUP)
        for waiting in (first, second):
            assert waiting.expect().status == 204
            waiting.send(poll)
            assert waiting.expect().status == 401
        assert guarded.ask("POST", path, guarded.all, {"content": 1}).status_code == 201
        kept.send(ask("GET", path, b"", bearer))
        assert kept.expect().status == 401
    assert guarded.ask("GET", path, guarded.all).json()["content"] == 1


def test_no_token_is_lost_when_many_are_made_at_once(tmp_path: Path) -> None:
    """Each of which writes the file anew."""
    file = tmp_path / "tokens.json"
    names = [f"n{number}" for number in range(64)]
    with ThreadPoolExecutor(16) as pool:
        made = pool.map(lambda name: tokens.create(file, name, ("send:*",))[0], names)
        shown = dict(zip(names, made, strict=True))
    known = tokens.load(file)
    for name, token in shown.items():
        assert known.bearer(f"Bearer {token}").name == name
    assert [path.name for path in tmp_path.iterdir()] == ["tokens.json"]


# --- what is not to be seen -------------------------------------------------------------


def secret_requests(port: int, token: str, secret: str) -> tuple[list[bytes], list[str]]:
    """Requests that go wrong in many ways, each with something secret in it; and the secrets."""
    url = f"http://127.0.0.1:{port}/000000000000/orders?Action=SendMessage&MessageBody=a"
    presigned = AWSRequest("GET", url)
    SigV4QueryAuth(Credentials("shop", secret), "sqs", "eu-central-1", expires=60).add_auth(presigned)
    target = str(presigned.prepare().url).partition(str(port))[2]
    signature = target.partition("X-Amz-Signature=")[2]
    bearer = f"Authorization: Bearer {token}"
    rows = [
        ask("GET", f"/queues/orders/messages?token={token}", b"", bearer),
        ask("GET", f"/queues/orders/messages?access_token={token}"),
        ask("GET", target, b"", "Host: evil.test"),
        ask("GET", target + "x"),
        ask("GET", target),
        ask("POST", "/queues", b"{" + token.encode(), bearer),
        ask("POST", "/?" + token, b"Action=ListQueues", bearer),
        ask("GET", "/status", b"", bearer, "Transfer-Encoding: gzip"),
        ask("GET", "/status", b"", bearer, f"X: {'a' * 40_000}"),
        ask("GET", "/status", b"", bearer + "\0"),
        ask("GET", f"/{token}?{signature} HTTP/9", b"", bearer),
        bearer.encode() + b"\r\n\r\n",
        ask("GET", target, b"", "Connection: close")[:-3],
    ]
    return rows, [token, secret, signature]


def attack(port: int, rows: list[bytes]) -> list[bytes]:
    """The status lines of the answers."""
    found: list[bytes] = []
    for row in rows:
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection, suppress(ConnectionError):
            connection.sendall(row)
            connection.shutdown(socket.SHUT_WR)
            found += re.findall(rb"HTTP/1.1 \d+", b"".join(iter(lambda: connection.recv(65_536), b"")))
    return found


def test_no_log_of_the_server_has_what_is_secret(guarded: Guarded) -> None:
    rows, secrets = secret_requests(guarded.server.port, guarded.shop, guarded.shop_secret)
    assert len(attack(guarded.server.port, rows)) >= len(rows) - 2
    status = guarded.ask("GET", "/status", guarded.all).text
    assert guarded.server.stop() == 0
    assert guarded.server.process.stdout
    said = guarded.server.banner + guarded.server.process.stdout.read().decode() + guarded.server.errors() + status
    for secret in (*secrets, guarded.all, guarded.all_secret):
        assert secret not in said


def test_no_log_of_a_bug_has_what_is_secret(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """What is logged where the server itself fails, at any level, with tracebacks."""

    def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    local = LocalServer()
    rows, secrets = secret_requests(local.port, "t" * 43, "s" * 40)
    caplog.set_level(logging.DEBUG)
    try:
        monkeypatch.setattr(Broker, "submit", broken)
        monkeypatch.setattr("tq.web.server.Route.parse", broken)
        monkeypatch.setattr("tq.web.sqs._protocol_of", broken)
        assert attack(local.port, rows).count(b"HTTP/1.1 500") >= 3
    finally:
        monkeypatch.undo()
        local.close()
    assert caplog.text.count("ZeroDivisionError") >= 3, caplog.text
    assert "GET /000000000000/orders failed" in caplog.text
    for secret in (*secrets, "X-Amz-Credential", "Authorization"):
        assert secret not in caplog.text


@pytest.mark.parametrize("name", ["token", "access_token"])
def test_a_token_in_a_url_opens_nothing(guarded: Guarded, name: str) -> None:
    for method, path in (("GET", "/status"), ("GET", "/queues/orders/messages"), ("POST", "/queues/orders/messages")):
        target = f"{path}?{name}={guarded.all}"
        body = {"content": 1} if method == "POST" else None
        assert guarded.ask(method, target, None, body).status_code == 401
        reply = guarded.ask(method, target, guarded.all, body)
        assert (reply.status_code, reply.json()["code"]) == (400, "invalid_request"), path
        assert name in reply.json()["detail"]
        assert guarded.all not in reply.text
    reply = requests.get(f"{guarded.server.url}/?Action=ListQueues&{name}={guarded.all}", timeout=TIMEOUT_S)
    assert reply.status_code == 403
