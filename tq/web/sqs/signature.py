"""AWS Signature Version 4: who has signed a request, and whether it is what was signed.

As "AWS Signature Version 4 for API requests" in the AWS reference says, for the service `sqs`: in the header
Authorization, or in the query string of a presigned URL.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from calendar import timegm
from functools import lru_cache
from urllib.parse import parse_qsl, quote

from msgspec import Struct

from tq.tokens import Token, Tokens
from tq.web.exchange import Request
from tq.web.sqs.errors import SqsError

ALGORITHM = "AWS4-HMAC-SHA256"
MAX_SKEW_S = 900  # as in AWS
MAX_SCOPE_LENGTH = 128  # characters; keys are remembered by them
MAX_EXPIRES_S = 604_800  # a week, of a presigned request
UNSIGNED = "UNSIGNED-PAYLOAD"

_PARTS = re.compile(r"(Credential|SignedHeaders|Signature)=([^,\s]+)")
_SAFE = "-_.~"


class _Signed(Struct, frozen=True):
    """What a request says of its signature. `query` is the query string that was signed, by name and value."""

    credential: str
    headers: tuple[str, ...]
    signature: str
    date: str
    expires_s: int
    query: list[tuple[str, str]]


def verify(request: Request, tokens: Tokens) -> Token:
    """Whose secret key has signed the request. Raises SqsError."""
    signed = _read(request)
    name, _, scope = signed.credential.partition("/")
    token = tokens.named.get(name)
    date, region = _check_scope(scope)
    _check_time(signed, date)
    if token is None:
        raise SqsError("InvalidClientTokenId", "The security token included in the request is invalid.", status=403)
    to_sign = "\n".join((ALGORITHM, signed.date, scope, _sha256(_canonical(request, signed))))
    expected = hmac.new(_signing_key(token.sqs_secret, date, region), to_sign.encode(), "sha256").hexdigest()
    if not hmac.compare_digest(expected.encode(), signed.signature.encode()):
        raise _refused(
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details."
        )
    return token


def _refused(message: str) -> SqsError:
    return SqsError("SignatureDoesNotMatch", message, status=403)


def _incomplete(message: str) -> SqsError:
    return SqsError("IncompleteSignature", message, status=400)


def _read(request: Request) -> _Signed:
    authorization = request.headers.get("authorization", "")
    query = parse_qsl(request.query, keep_blank_values=True)
    if not authorization:
        return _read_presigned(query)
    parts = dict(_PARTS.findall(authorization))
    if not authorization.startswith(ALGORITHM + " ") or len(parts) != 3:
        raise _incomplete("Authorization header requires 'Credential', 'Signature' and 'SignedHeaders' parameters.")
    date = request.headers.get("x-amz-date", "")
    headers = tuple(parts["SignedHeaders"].split(";"))
    return _Signed(parts["Credential"], headers, parts["Signature"], date, MAX_SKEW_S, query)


def _read_presigned(query: list[tuple[str, str]]) -> _Signed:
    told = dict(query)
    if told.get("X-Amz-Algorithm") != ALGORITHM or "X-Amz-Credential" not in told or "X-Amz-Signature" not in told:
        message = "Request is missing Authentication Token"
        raise SqsError("MissingAuthenticationToken", message, status=403)
    expires = told.get("X-Amz-Expires", "")
    is_number = expires.isascii() and expires.isdigit() and len(expires) <= len(str(MAX_EXPIRES_S))
    if not is_number or not 1 <= int(expires) <= MAX_EXPIRES_S:
        raise _incomplete("X-Amz-Expires must be between 1 and 604800 seconds.")
    return _Signed(
        told["X-Amz-Credential"],
        tuple(told.get("X-Amz-SignedHeaders", "").split(";")),
        told["X-Amz-Signature"],
        told.get("X-Amz-Date", ""),
        int(expires),
        [pair for pair in query if pair[0] != "X-Amz-Signature"],
    )


def _check_scope(scope: str) -> tuple[str, str]:
    """The day and the region that the key is for."""
    parts = scope.split("/")
    if len(scope) > MAX_SCOPE_LENGTH or len(parts) != 4 or parts[2:] != ["sqs", "aws4_request"]:
        raise _refused("Credential should be scoped to the service 'sqs' and end with 'aws4_request'.")
    return parts[0], parts[1]


def _check_time(signed: _Signed, date: str) -> None:
    try:
        at_s = timegm(time.strptime(signed.date, "%Y%m%dT%H%M%SZ"))
    except ValueError as error:
        raise _incomplete("A date in the form of X-Amz-Date, YYYYMMDDTHHMMSSZ, is missing.") from error
    if not signed.date.startswith(date):
        raise _refused("Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP.")
    age_s = time.time() - at_s
    if age_s > signed.expires_s:
        raise _refused(f"Signature expired: {signed.date} is now earlier than is allowed.")
    if age_s < -MAX_SKEW_S:
        raise _refused(f"Signature not yet current: {signed.date} is still later than is allowed.")


def _canonical(request: Request, signed: _Signed) -> str:
    """The canonical request. Host and what says what is asked for must be among what was signed."""
    headers = request.headers
    if len(set(signed.headers)) < len(signed.headers):  # each may be as long as all of the request's together
        raise _refused("A header stands twice among the 'SignedHeaders'.")
    for name in ("host", "x-amz-target"):
        if name in headers and name not in signed.headers:
            raise _refused(f"'{name}' must be a 'SignedHeader' in the AWS Signature.")
    lines = [f"{name}:{' '.join(headers.get(name, '').split())}\n" for name in signed.headers]
    pairs = sorted((quote(name, safe=_SAFE), quote(value, safe=_SAFE)) for name, value in signed.query)
    query = "&".join(f"{name}={value}" for name, value in pairs)
    path = quote(request.path, safe=_SAFE + "/") or "/"
    payload = _payload(request, signed)
    return "\n".join((request.method, path, query, "".join(lines), ";".join(signed.headers), payload))


def _payload(request: Request, signed: _Signed) -> str:
    """The hash of the body, which it may be said to have or not to need."""
    told = request.headers.get("x-amz-content-sha256")
    if told == UNSIGNED:
        return UNSIGNED
    found = hashlib.sha256(request.body).hexdigest()
    if told is not None and told != found:
        raise _refused("The provided 'x-amz-content-sha256' header does not match what was computed.")
    return found


@lru_cache(maxsize=1_000)
def _signing_key(secret: str, date: str, region: str) -> bytes:
    key = ("AWS4" + secret).encode()
    for part in (date, region, "sqs", "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
