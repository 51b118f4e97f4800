"""What browsers are kept from: acting for pages of others, and taking this server for a page's own.

A browser sends requests to any address for any page, also to those of its own machine. So it is not enough that nobody
else can reach the port, and where no token is asked for a page could do everything. Three things prevent it:

- *Host.* A page's owner can let its name point here (DNS rebinding); then the browser takes this server for the page's
  own. But it says the name, so only names that nobody else can own are answered to: IP addresses, `localhost` and what
  is below it (RFC 6761, 6.3), this machine's own, and those that the settings name. A page cannot set the token of
  another, so with tokens any name will do.
- *Sec-Fetch-Site and Origin* say what page a request is from (Fetch Metadata; RFC 6454). What changes something is
  done for this server's own pages and those that the settings name, and among that is the GET that receives. What only
  looks is answered, for without CORS no page can read the answer.
- *CORS* says to the browser which pages those are; without the setting there is none.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from functools import lru_cache
from ipaddress import ip_address

from tq.errors import EXIT_USAGE, CrossSiteRequest, HostNotAllowed, StartError
from tq.settings import Settings
from tq.web.parser import Head

MAX_HOST_LENGTH = 300  # characters; a name of the DNS has 253
PREFLIGHT_S = 600  # that a browser remembers what a page may do; Chromium's own bound is 7,200

_HOST = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(?::\d*)?")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^/?#\s,*]+")
_PORTS = {"http": ":80", "https": ":443"}  # which browsers leave out of an Origin


class Browsers:
    """Judges the heads of requests by the settings."""

    def __init__(self, settings: Settings) -> None:
        """Raises StartError for settings that make no sense."""
        own = socket.gethostname()
        names = {"localhost", settings.host, own, own.partition(".")[0], *_names(settings.allowed_host)}
        self._names = {name.lower().removesuffix(".") for name in names}
        self._scheme = settings.scheme
        self._asks_for_host = not settings.tokens
        self._origins = _origins(settings)
        self.has_cors = bool(self._origins)
        self._is_ours = lru_cache(maxsize=100)(self._find_whether_ours)

    def check(self, headers: Mapping[str, str], authority: str, *, is_change: bool) -> None:
        """Raises HostNotAllowed and CrossSiteRequest. `authority` is that of a target in absolute form.

        It counts in place of the Host header (RFC 9112, 3.2.2).
        """
        host = authority or headers.get("host")
        # In HTTP/1.0 there may be none, but in that of no browser.
        if host is not None and self._asks_for_host and not (len(host) <= MAX_HOST_LENGTH and self._is_ours(host)):
            raise HostNotAllowed(
                f"This server is not asked by the name {host[:MAX_HOST_LENGTH]!r}, which anybody could make point to "
                "it; use an IP address or localhost, or start it with --allowed-host."
            )
        # Programs send none of these, and their requests must not be slower for what browsers do.
        if is_change and ("accept-language" in headers or "origin" in headers or "sec-fetch-site" in headers):
            self._check_site(headers, host)

    def _find_whether_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host)
        name = found[1].lower().removesuffix(".") if found else ""
        return name in self._names or name.endswith(".localhost") or _is_address(name)

    def _check_site(self, headers: Mapping[str, str], host: str | None) -> None:
        origin, site = headers.get("origin"), headers.get("sec-fetch-site")
        if origin is not None and self._allows(origin):
            return
        if site is not None:  # which no page can set
            if site in ("same-origin", "none"):
                return
        elif origin is not None:
            if host is not None and origin == self._own_origin(host):
                return
        elif not _is_browser(headers):
            return
        else:
            raise CrossSiteRequest(
                "The browser does not say what page this request is from; use HTTPS or localhost, or send a POST."
            )
        raise CrossSiteRequest(
            f"The request is from a page of another site ({origin or site}); start the server with --cors-origins and "
            "that page's origin if it may do this."
        )

    def _allows(self, origin: str) -> bool:
        return origin in self._origins or "*" in self._origins

    def _own_origin(self, host: str) -> str:
        return f"{self._scheme}://{host.lower().removesuffix(_PORTS[self._scheme])}"

    def cors(self, head: Head) -> bytes:
        """The headers of an answer, whatever it is, that let a page see it. For a preflight also what it may send."""
        origin = head.headers.get("origin")
        if origin is None or not self._allows(origin):
            return b"Vary: Origin\r\n"
        lines = [f"Access-Control-Allow-Origin: {origin}", "Access-Control-Expose-Headers: *", "Vary: Origin"]
        if head.method == "OPTIONS" and "access-control-request-method" in head.headers:
            lines.append("Access-Control-Allow-Methods: GET, HEAD, POST, PUT, PATCH, DELETE")
            lines.append(f"Access-Control-Allow-Headers: {head.headers.get('access-control-request-headers', '')}")
            lines.append(f"Access-Control-Max-Age: {PREFLIGHT_S}")
        return "".join(f"{line}\r\n" for line in lines).encode("latin-1")


def _is_browser(headers: Mapping[str, str]) -> bool:
    """Whether a request without Origin and Sec-Fetch-Site may be of a page all the same.

    Browsers send the latter only over HTTPS and to this machine itself, and the former not with images and links. No
    page can take these two away from such a request; of what is no browser hardly anything sends both.
    """
    return headers.get("user-agent", "").startswith("Mozilla/") and "accept-language" in headers


def _is_address(name: str) -> bool:
    try:
        ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _listed(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _names(text: str) -> list[str]:
    names = _listed(text)
    for name in names:
        if not _NAME.fullmatch(name):
            raise StartError(f"{name!r} is no name for --allowed-host: say it without scheme and port.", EXIT_USAGE)
    return names


def _origins(settings: Settings) -> frozenset[str]:
    origins = _listed(settings.cors_origins)
    for origin in origins:
        if origin == "*":
            if not settings.tokens:
                raise StartError(
                    "With --cors-origins '*' every page could do everything; ask for tokens with --tokens FILE, or "
                    "name the origins.",
                    EXIT_USAGE,
                )
        elif not _ORIGIN.fullmatch(origin):
            raise StartError(
                f"{origin!r} is no origin for --cors-origins: say scheme://host:port in lower case, and nothing behind "
                "it.",
                EXIT_USAGE,
            )
    return frozenset(origins)
