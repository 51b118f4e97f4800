"""Tokens: how they are made, who is let in, and with which rights; and Signature V4, signed by botocore."""

from __future__ import annotations

import json
import signal
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import botocore.auth
import pytest
import requests
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.guarded import TIMEOUT_S, Guarded, create, tq
from tests.harness import Server, wait_until
from tq import model, tokens
from tq.errors import Forbidden, StartError, Unauthenticated
from tq.tokens import Token, needs

# --- the file -------------------------------------------------------------


def test_the_file_keeps_no_token(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    shown, secret = create(file, "a", "send:*")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert shown not in file.read_text()
    assert len(secret) == 40
    known = tokens.load(file)
    assert known.bearer(f"Bearer {shown}") == known.named["a"]
    assert known.named["a"].sqs_secret == secret == tokens.sqs_secret(shown)


def test_tokens_are_listed_and_revoked(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    shown, _ = create(file, "a", "send:*", "receive:b?")
    tokens.create(file, "c", ("*:*",))
    assert tq(file, "list").stdout == "a  send:* receive:b?\nc  *:*\n"
    assert tq(file, "revoke", "a").stdout == ""
    assert tq(file, "list").stdout == "c  *:*\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with pytest.raises(Unauthenticated):
        tokens.load(file).bearer(f"Bearer {shown}")
    again = tq(file, "revoke", "a")
    assert (again.returncode, again.stderr) == (2, "tq: There is no token named 'a'.\n")
    assert tq(tmp_path / "absent", "list").returncode == 2
    assert tq(tmp_path / "absent/t", "revoke", "a").returncode == 2


def test_the_file_stays_where_its_name_leads(tmp_path: Path) -> None:
    tokens.create(tmp_path / "real", "a", ("*:*",))
    (tmp_path / "link").symlink_to("real")
    tokens.create(tmp_path / "link", "b", ("*:*",))
    assert (tmp_path / "link").is_symlink()
    assert set(tokens.load(tmp_path / "real").named) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "allow", "why"),
    [
        ("a", "send:*", "already"),
        ("", "send:*", "no name"),
        ("b c", "send:*", "no name"),
        ("b", "sent:*", "no right"),
        ("b", "send:[ab]", "no right"),
    ],
)
def test_tokens_that_cannot_be_made(tmp_path: Path, name: str, allow: str, why: str) -> None:
    file = tmp_path / "tokens.json"
    tokens.create(file, "a", ("*:*",))
    before = file.read_bytes()
    with pytest.raises(StartError, match=why):
        tokens.create(file, name, (allow,))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "mode", "why"),
    [("[]", 0o644, "others"), ("{", 0o600, "no file of tokens"), (None, 0, "cannot be read")],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, content: str | None, mode: int, why: str) -> None:
    file = tmp_path / "tokens.json"
    if content is not None:
        file.write_text(content)
        file.chmod(mode)
    with pytest.raises(StartError, match=why):
        tokens.load(file)


# --- who is let in -------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "", "Bearer", "Bearer x", "Basic YTpi", "Bearer \u00e4"])
def test_what_is_no_token(tmp_path: Path, authorization: str | None) -> None:
    tokens.create(tmp_path / "t", "a", ("*:*",))
    with pytest.raises(Unauthenticated):
        tokens.load(tmp_path / "t").bearer(authorization)


def test_a_token_opens_what_it_has_the_right_to(guarded: Guarded) -> None:
    send = {"content": 1}
    assert guarded.ask("POST", "/queues/orders/messages", guarded.shop, send).status_code == 201
    assert guarded.ask("GET", "/queues/orders/messages", guarded.shop).json()["content"] == 1
    assert guarded.ask("GET", "/queues/orders", guarded.shop).status_code == 200
    refused = [
        ("POST", "/queues/other/messages", send),
        ("GET", "/queues/other/messages", None),
        ("GET", "/queues/other", None),
        ("GET", "/queues/orders/peek", None),
        ("GET", "/queues", None),
        ("GET", "/status", None),
        ("POST", "/receive", {"queues": ["orders", "other"]}),
        ("POST", "/transactions", {"send": [{"queue": "orders", "content": 1}, {"queue": "other", "content": 1}]}),
        ("DELETE", "/queues/orders", None),
    ]
    for method, path, body in refused:
        reply = guarded.ask(method, path, guarded.shop, body)
        assert (reply.status_code, reply.json()["code"]) == (403, "forbidden"), (method, path)
        assert guarded.ask(method, path, guarded.all, body).status_code < 300, (method, path)


def test_a_head_that_was_seen_lets_nobody_else_in(guarded: Guarded) -> None:
    """Heads are remembered with what they ask for: each with its own token."""
    with requests.Session() as session:
        for _ in range(3):
            for token, status in ((guarded.all, 200), (guarded.shop, 403), ("unknown", 401)):
                headers = {"Authorization": f"Bearer {token}"}
                assert session.get(guarded.server.url + "/status", headers=headers).status_code == status


def test_the_file_is_read_again(guarded: Guarded) -> None:
    assert guarded.ask("GET", "/queues/orders", guarded.shop).status_code == 200
    kept = [each for each in json.loads(guarded.file.read_text()) if each["name"] != "shop"]
    guarded.file.write_text("{")
    guarded.server.process.send_signal(signal.SIGHUP)
    assert "The tokens stay as they were" in guarded.server.line()
    assert guarded.ask("GET", "/queues/orders", guarded.shop).status_code == 200  # it could not be read
    guarded.file.write_text(json.dumps(kept))
    guarded.server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: guarded.ask("GET", "/queues/orders", guarded.shop).status_code == 401)
    assert guarded.ask("GET", "/queues/orders", guarded.all).status_code == 200


def test_every_command_says_what_it_takes() -> None:
    """All but those that the server asks of itself, and those of its health."""
    requests_of = [each for each in vars(model).values() if isinstance(each, type)]
    kinds = {each for each in requests_of if issubclass(each, model.Command | model.Query)}
    own = {model.Command, model.Query, model.Unreceive, model.MoveSome, model.Tick, model.Sweep, model.SetClock}
    own |= {
        model.Probe,
        model.GetHealth,
        model.GetTotals,
        model.GetFigures,
        model.GetClock,
        model.Load,
        model.GetLoaded,
    }
    values = {"queue": "q", "name": "q", "queues": ("q",), "to": "q", "receipt": "r", "id": "1", "drafts": ()}
    values |= {"actions": (), "settings": model.QueueSettings(), "sends": (("q", model.Draft(b"")),), "limit": 1}
    for kind in kinds - own:
        given = {name: values[name] for name in kind.__struct_fields__ if name in values}
        found = needs(kind(**given))
        assert found, kind
        nobody = Token("nobody", "", "", ("send:x", "receive:x", "manage:x", "observe:x"))
        with pytest.raises(Forbidden):
            nobody.check(kind(**given))
        Token("all", "", "", ("*:*",)).check(kind(**given))


def test_dead_letters_go_nowhere_without_a_right(guarded: Guarded) -> None:
    create(guarded.file, "mine", "*:mine*")
    token, _ = create(guarded.file, "both", "*:mine*", "manage:other")
    guarded.server.process.send_signal(signal.SIGHUP)
    wait_until(lambda: guarded.ask("GET", "/queues/mine", token).status_code == 404)
    letter = {"queue": "orders", "max_receives": 1}
    assert guarded.ask("POST", "/queues", token, {"name": "mine", "dead_letter": letter}).status_code == 403
    assert guarded.ask("PUT", "/queues/mine", token, {"dead_letter": letter}).status_code == 403
    assert guarded.ask("POST", "/queues", token, {"name": "mine"}).status_code == 201
    assert guarded.ask("PATCH", "/queues/mine", token, {"dead_letter": letter}).status_code == 403
    letter["queue"] = "other"
    assert guarded.ask("PATCH", "/queues/mine", token, {"dead_letter": letter}).status_code == 200
    assert guarded.ask("PATCH", "/queues/mine", token, {"dead_letter": None}).status_code == 200


# --- Signature V4 -------------------------------------------------------------


def test_a_signed_request_has_the_rights_of_its_token(guarded: Guarded) -> None:
    url = f"{guarded.server.url}/000000000000/orders"
    sent = guarded.sqs("shop", guarded.shop_secret, "SendMessage", {"QueueUrl": url, "MessageBody": "ä"})
    assert sent.status_code == 200, sent.text
    refused = guarded.sqs("shop", guarded.shop_secret, "SendMessage", {"QueueUrl": "other", "MessageBody": "x"})
    assert refused.status_code == 403
    assert refused.headers["x-amzn-query-error"] == "AccessDenied;Sender"
    assert guarded.sqs("shop", guarded.shop_secret, "PurgeQueue", {"QueueUrl": url}).status_code == 403
    assert guarded.sqs("shop", guarded.shop_secret, "ListQueues", {}).status_code == 403
    assert len(guarded.sqs("all", guarded.all_secret, "ListQueues", {}).json()["QueueUrls"]) == 2
    attributes = {"QueueUrl": url, "AttributeNames": ["QueueArn"]}
    answer = guarded.sqs("shop", guarded.shop_secret, "GetQueueAttributes", attributes).json()
    assert answer["Attributes"]["QueueArn"] == "arn:aws:sqs:eu-central-1:000000000000:orders"


def _set(name: str, value: str) -> Callable[[AWSRequest], None]:
    def spoil(request: AWSRequest) -> None:
        del request.headers[name]
        request.headers[name] = value

    return spoil


def _body(request: AWSRequest) -> None:
    request.data = request.data.replace(b"orders", b"other!")


def _replace_in_authorization(old: str, new: str) -> Callable[[AWSRequest], None]:
    def spoil(request: AWSRequest) -> None:
        value = request.headers["Authorization"]
        assert old in value
        _set("Authorization", value.replace(old, new))(request)

    return spoil


@pytest.mark.parametrize(
    ("name", "spoil", "code"),
    [
        ("nobody", None, "InvalidClientTokenId"),
        ("shop", _body, "SignatureDoesNotMatch"),
        ("shop", _set("X-Amz-Target", "AmazonSQS.PurgeQueue"), "SignatureDoesNotMatch"),
        ("shop", _set("X-Amz-Date", "20200101T000000Z"), "SignatureDoesNotMatch"),
        ("shop", _set("X-Amz-Date", "yesterday"), "IncompleteSignature"),
        ("shop", _set("X-Amz-Content-SHA256", "0" * 64), "SignatureDoesNotMatch"),
        ("shop", _set("Authorization", ""), "MissingAuthenticationToken"),
        ("shop", _set("Authorization", "Bearer x"), "IncompleteSignature"),
        ("shop", _replace_in_authorization("/sqs/", "/s3/"), "SignatureDoesNotMatch"),
        ("shop", _replace_in_authorization("/eu-central-1/", "/eu-west-1/"), "SignatureDoesNotMatch"),
        ("shop", _replace_in_authorization(";x-amz-target", ""), "SignatureDoesNotMatch"),
        ("shop", _replace_in_authorization("host;", ""), "SignatureDoesNotMatch"),
        ("shop", _replace_in_authorization("Credential=shop", "Credential=all"), "SignatureDoesNotMatch"),
        ("shop", _replace_in_authorization("Signature=", "Signature=0"), "SignatureDoesNotMatch"),
        ("shop", _replace_in_authorization("Credential=", "Credential=\u00e4"), "InvalidClientTokenId"),
    ],
)
def test_signatures_that_are_refused(guarded: Guarded, name: str, spoil: Any, code: str) -> None:
    wanted = {"QueueUrl": f"{guarded.server.url}/000000000000/orders", "MessageBody": "x"}
    assert guarded.sqs("shop", guarded.shop_secret, "SendMessage", wanted).status_code == 200
    refused = guarded.sqs(name, guarded.shop_secret, "SendMessage", wanted, spoil=spoil)
    assert refused.headers["x-amzn-query-error"] == f"{code};Sender", refused.text
    assert refused.json()["__type"].endswith(f"#{code}")
    assert refused.status_code in (400, 403)


def test_a_stranger_is_not_told_when_a_queue_was_purged(start: Callable[..., Server], tmp_path: Path) -> None:
    guarded = Guarded(start, tmp_path, "--sqs-purge-seconds", "60")
    url = f"{guarded.server.url}/000000000000/other"
    assert guarded.sqs("all", guarded.all_secret, "PurgeQueue", {"QueueUrl": url}).status_code == 200
    assert "PurgeQueueInProgress" in guarded.sqs("all", guarded.all_secret, "PurgeQueue", {"QueueUrl": url}).text
    for name in ("other", "absent"):
        refused = guarded.sqs("shop", guarded.shop_secret, "PurgeQueue", {"QueueUrl": name})
        assert refused.headers["x-amzn-query-error"] == "AccessDenied;Sender", refused.text


@pytest.mark.parametrize("name", ["other", "absent"])
def test_a_stranger_is_not_told_whether_there_is_a_queue(guarded: Guarded, name: str) -> None:
    """Also where the request is wrong, and the queue is looked for because of that."""
    wanted = {"QueueUrl": name, "MessageBody": "x", "DelaySeconds": 9_999}
    refused = guarded.sqs("shop", guarded.shop_secret, "SendMessage", wanted)
    assert refused.headers["x-amzn-query-error"] == "AccessDenied;Sender", refused.text


class _OfAnyOperation(SigV4Auth):
    """A signature that is right, but does not say what for."""

    def headers_to_sign(self, request: AWSRequest) -> Any:
        headers = super().headers_to_sign(request)
        del headers["x-amz-target"]
        return headers


def test_what_is_asked_for_is_signed(guarded: Guarded) -> None:
    """Else who has seen a request could have another operation run."""
    wanted = {"QueueUrl": f"{guarded.server.url}/000000000000/orders", "MessageBody": "x"}
    refused = guarded.sqs("shop", guarded.shop_secret, "SendMessage", wanted, sign=_OfAnyOperation)
    assert refused.headers["x-amzn-query-error"] == "SignatureDoesNotMatch;Sender", refused.text


@pytest.mark.parametrize(("minutes", "status"), [(-16, 403), (-14, 200), (14, 200), (16, 403)])
def test_a_signature_is_good_for_a_quarter_of_an_hour(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch, minutes: int, status: int
) -> None:
    signed_at = datetime.now(UTC).replace(tzinfo=None) + timedelta(minutes=minutes)
    monkeypatch.setattr(botocore.auth, "get_current_datetime", lambda *_, **__: signed_at)
    wanted = {"QueueUrl": f"{guarded.server.url}/000000000000/orders", "MessageBody": "x"}
    reply = guarded.sqs("shop", guarded.shop_secret, "SendMessage", wanted)
    assert reply.status_code == status, reply.text


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda url: url, None),
        (lambda url: url.replace("Action=SendMessage", "Action=PurgeQueue"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("X-Amz-Expires=60", "X-Amz-Expires=600000"), "SignatureDoesNotMatch"),
        (lambda url: url.replace("X-Amz-Expires=60", "X-Amz-Expires=9999999"), "IncompleteSignature"),
        (lambda url: url.replace("X-Amz-Expires=60", "X-Amz-Expires=000000001" + "9" * 5_000), "IncompleteSignature"),
        (lambda url: url.partition("&X-Amz-Signature")[0], "MissingAuthenticationToken"),
        (lambda url: url.partition("&X-Amz-Algorithm")[0], "MissingAuthenticationToken"),
    ],
)
def test_presigned_requests(guarded: Guarded, change: Callable[[str], str], code: str | None) -> None:
    url = f"{guarded.server.url}/000000000000/orders?Action=SendMessage&MessageBody=a%20b%2B~%C3%A4"
    request = AWSRequest("GET", url)
    SigV4QueryAuth(Credentials("shop", guarded.shop_secret), "sqs", "eu-central-1", expires=60).add_auth(request)
    reply = requests.get(change(request.prepare().url), timeout=TIMEOUT_S)
    if code is None:
        assert reply.status_code == 200, reply.text
        assert guarded.ask("GET", "/queues/orders/messages", guarded.shop).json()["content"] == "a b+~ä"
    else:
        assert f"<Code>{code}</Code>" in reply.text
