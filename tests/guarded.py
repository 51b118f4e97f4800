"""A server that asks for tokens, and requests that show them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.harness import ROOT, Server
from tq import tokens

TIMEOUT_S = 20


def tq(file: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`tq token …`, on a file."""
    command, *rest = arguments
    line = [sys.executable, "-m", "tq", "token", command, "--tokens", str(file), *rest]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)


def create(file: Path, name: str, *allow: str) -> tuple[str, str]:
    """By the command line: the token and the secret key."""
    ran = tq(file, "create", "--name", name, *(part for right in allow for part in ("--allow", right)))
    found = dict(line.split(":", 1) for line in ran.stdout.splitlines())
    assert found["SQS access key id"].strip() == name
    return found["token"].strip(), found["SQS secret access key"].strip()


class Guarded:
    """A server that asks for tokens. `all` may do everything, `shop` sends and receives in `orders*`."""

    def __init__(self, start: Callable[..., Server], directory: Path, *flags: str) -> None:
        self.file = directory / "tokens.json"
        self.all, admin = tokens.create(self.file, "all", ("*:*",))
        self.shop, shop = tokens.create(self.file, "shop", ("send:orders*", "receive:orders*"))
        self.all_secret, self.shop_secret = admin.sqs_secret, shop.sqs_secret
        self.server = start("--tokens", str(self.file), *flags)
        for name in ("orders", "other"):
            assert self.ask("POST", "/queues", self.all, {"name": name}).status_code == 201

    def ask(self, method: str, path: str, token: str | None, body: Any = None) -> requests.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return requests.request(method, self.server.url + path, json=body, headers=headers, timeout=TIMEOUT_S)

    def sqs(
        self, name: str, secret: str, operation: str, wanted: dict[str, Any], sign: Any = None, spoil: Any = None
    ) -> requests.Response:
        """A signed request of the JSON protocol; `spoil` changes it after it was signed."""
        headers = {"X-Amz-Target": f"AmazonSQS.{operation}", "Content-Type": "application/x-amz-json-1.0"}
        request = AWSRequest("POST", self.server.url + "/", headers, json.dumps(wanted).encode())
        (sign or SigV4Auth)(Credentials(name, secret), "sqs", "eu-central-1").add_auth(request)
        if spoil:
            spoil(request)
        prepared = request.prepare()
        return requests.request("POST", prepared.url, data=prepared.body, headers=prepared.headers, timeout=TIMEOUT_S)
