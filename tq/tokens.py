"""Who may do what: tokens, the file they are kept in, and the rights that a command takes.

A token is 256 random bits that are shown once, when it is made. The file keeps its SHA-256, under a name, with its
rights; and, because Signature V4 cannot be verified without it, the secret key that SQS clients sign with, which is
derived from the token. So the file is as secret as a private key: nobody but its owner may read it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec
from msgspec import Struct, UnsetType

from tq import model
from tq.errors import EXIT_USAGE, Forbidden, StartError, Unauthenticated

RIGHTS = ("send", "receive", "manage", "observe")
_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_RIGHT = re.compile(rf"({'|'.join(RIGHTS)}|\*):([A-Za-z0-9._*?-]{{1,100}})")

Need = tuple[str, str | None]
"""A right and the queue it is for; None is the server as a whole."""


class Token(Struct, frozen=True, forbid_unknown_fields=True):
    """`allow` are rights as `send:orders.*`: what may be done, and a pattern of queues' names; `*` is any."""

    name: str
    sha256: str
    sqs_secret: str
    allow: tuple[str, ...]

    def check(self, request: model.Command | model.Query) -> None:
        """Raises Forbidden."""
        for right, queue in needs(request):
            if not any(_grants(allowed, right, queue) for allowed in self.allow):
                place = f"the queue {queue!r}" if queue is not None else f"all queues ({right}:*)"
                what = "no right" if right == "look" else f"no right to {right}"
                raise Forbidden(f"The token {self.name!r} has {what} for {place}.")


def _grants(allowed: str, right: str, queue: str | None) -> bool:
    kind, _, pattern = allowed.partition(":")
    if kind not in ("*", right) and right != "look":
        return False
    return pattern == "*" if queue is None else fnmatchcase(queue, pattern)


def needs(request: model.Command | model.Query) -> list[Need]:
    """The rights that a command or query takes. `look` is had by who has any right for the queue."""
    match request:
        case model.Send():
            return [("send", request.queue)]
        case model.Receive():
            return [("receive", queue) for queue in request.queues]
        case model.Settle():
            return [("receive", request.queue)]
        case model.Transaction():
            sends: list[Need] = [("send", queue) for queue, _ in request.sends]
            return sends + [("receive", queue) for queue, _ in request.acks]
        case model.CreateQueue() | model.PutQueue():
            return [("manage", request.name), *_of_letter(request.settings.dead_letter)]
        case model.PatchQueue():
            return [("manage", request.name), *_of_letter(request.change.dead_letter)]
        case model.DeleteQueue() | model.PurgeQueue():
            return [("manage", request.name)]
        case model.Cancel() | model.CancelMove():
            return [("manage", request.queue)]
        case model.Redrive() | model.StartMove():
            return [("manage", queue) for queue in (request.queue, request.to) if queue is not None]
        case model.GetQueue():
            return [("look", request.name)]
        case model.ListSources():
            return [("look", request.queue)]
        case model.Peek() | model.GetMessage() | model.ListMoves() | model.GetHistory():
            return [("observe", request.queue)]
        case model.ListQueues() | model.GetStatus() | model.ListHistory() | model.GetMetrics():
            return [("observe", None)]
        case model.Probe() | model.GetHealth():
            return []  # whether the server is well
    raise Forbidden  # what only the server asks of itself


def _of_letter(letter: model.DeadLetter | UnsetType | None) -> list[Need]:
    """Whoever makes a queue send its dead letters somewhere may write there."""
    return [("manage", letter.queue)] if isinstance(letter, model.DeadLetter) else []


class Tokens:
    """Those of a file."""

    def __init__(self, tokens: list[Token]) -> None:
        self.named = {token.name: token for token in tokens}
        self._by_digest = {token.sha256: token for token in tokens}

    def bearer(self, authorization: str | None) -> Token:
        """Whose token the header shows (RFC 6750, 2.1). Raises Unauthenticated."""
        scheme, _, shown = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            raise Unauthenticated("Show a token: `Authorization: Bearer …`.")
        # Looked up by its digest, so that the time it takes says nothing of those that are known.
        found = self._by_digest.get(_digest(shown.strip()))
        if found is None:
            raise Unauthenticated("The token is not known.")
        return found


def load(path: Path) -> Tokens:
    """Raises StartError."""
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_mode & 0o077:
                raise StartError(f"{path} may be read by others than its owner; say: chmod 600 {path}", EXIT_USAGE)
            return Tokens(msgspec.json.decode(file.read(), type=list[Token]))
    except OSError as error:
        raise StartError(f"The tokens in {path} cannot be read ({error.strerror}).", EXIT_USAGE) from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise StartError(
            f"{path} is no file of tokens ({error}); make one with tq token create.", EXIT_USAGE
        ) from error


def create(path: Path, name: str, allow: tuple[str, ...]) -> tuple[str, Token]:
    """Add a token to the file, which is made when it is absent. Returns what is shown once, and the token.

    Raises StartError.
    """
    if not _NAME.fullmatch(name):
        raise StartError(f"{name!r} is no name: 1 to 64 of A-Z a-z 0-9 _ -.", EXIT_USAGE)
    for right in allow:
        if not _RIGHT.fullmatch(right):
            raise StartError(
                f"{right!r} is no right: say send:NAMES, receive:…, manage:…, observe:… or *:….", EXIT_USAGE
            )
    shown = secrets.token_urlsafe(32)
    token = Token(name, _digest(shown), sqs_secret(shown), allow)
    with _editing(path) as known:
        if name in known:
            raise StartError(f"There is a token named {name!r} already.", EXIT_USAGE)
        known[name] = token
    return shown, token


def revoke(path: Path, name: str) -> None:
    """Take a token out of the file. Raises StartError."""
    with _editing(path) as known:
        if known.pop(name, None) is None:
            raise StartError(f"There is no token named {name!r}.", EXIT_USAGE)


def sqs_secret(shown: str) -> str:
    """The secret access key of a token: 40 characters, as those of AWS have, none of which is to be quoted in a URL."""
    return urlsafe_b64encode(hmac.digest(shown.encode(), b"tq SQS secret access key", "sha256")).decode()[:40]


def _digest(shown: str) -> str:
    return hashlib.sha256(shown.encode()).hexdigest()


@contextmanager
def _editing(path: Path) -> Iterator[dict[str, Token]]:
    """The tokens by name, which are written back when the block ends well, by one process at a time.

    The lock is on the directory, because the file is another one afterwards.
    """
    path = path.resolve()
    try:
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise StartError(f"The tokens in {path} cannot be written ({error.strerror}).", EXIT_USAGE) from error
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        known = dict(load(path).named) if path.exists() else {}
        yield known
        _write(path, msgspec.json.format(msgspec.json.encode(list(known.values())), indent=2))
        os.fsync(directory)
    except OSError as error:
        raise StartError(f"The tokens in {path} cannot be written ({error.strerror}).", EXIT_USAGE) from error
    finally:
        os.close(directory)


def _write(path: Path, content: bytes) -> None:
    """All of the file or nothing, for its owner only, who stays the same."""
    new = path.with_name(path.name + ".new")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, 0o600)
        if path.exists():
            before = path.stat()
            os.fchown(descriptor, before.st_uid, before.st_gid)
        file.write(content + b"\n")
        file.flush()
        os.fsync(descriptor)
    new.replace(path)
