"""W3C Trace Context, levels 1 and 2: which `traceparent` and `tracestate` of a request go with the messages it sends.

tq has no spans of its own here. It hands on what came, as it came, so that a consumer can go on with the producer's
trace. What the specification calls invalid is ignored, and never an error: it may be a proxy that adds such headers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from tq import model
from tq.model import Draft

PARENT, STATE = "traceparent", "tracestate"
_Header = Annotated[str, Meta(description="W3C Trace Context, for the `headers` of messages without a `traceparent`.")]
HEADERS = {PARENT: _Header, STATE: _Header}  # of a request that sends, for the route table

MAX_LENGTH = 512  # characters of either: as many of a `tracestate` should be handed on; it is stored with each message
MAX_MEMBERS = 32  # of a `tracestate`
MAX_MEMBER_LENGTH = 128  # of one in a `tracestate` that is too long: those that are longer are left out first

# Of version 00 nothing follows the flags; of later ones, but for ff, anything may, behind a dash.
_PARENT = re.compile("(?!ff|00.{54})[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-[!-~]*)?")
_MEMBER = re.compile("[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+.-<>-~-]{0,255}[!-+.-<>-~-]")


def trace_of(headers: Mapping[str, str]) -> dict[str, str]:
    """The trace context in headers of a request or a message: empty when there is none that is valid."""
    parent = headers.get(PARENT, "")
    if len(parent) > MAX_LENGTH or not _PARENT.fullmatch(parent):
        return {}
    state = _state(headers.get(STATE, ""))
    return {PARENT: parent, STATE: state} if state else {PARENT: parent}


def _state(text: str) -> str:
    """A `tracestate`, of which whole members are left out where it is too long; empty where it is not valid."""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    if len(members) > MAX_MEMBERS or not all(map(_MEMBER.fullmatch, members)):
        return ""
    if members and len(text) <= MAX_LENGTH:
        return text
    members = [member for member in members if len(member) <= MAX_MEMBER_LENGTH]
    while len(state := ",".join(members)) > MAX_LENGTH:
        members.pop()
    return state


def traced(headers: Mapping[str, str], drafts: Iterable[Draft]) -> tuple[Draft, ...]:
    """The messages of a request with its trace context, but those that have their own or no room for it."""
    trace = trace_of(headers)
    return tuple(_with_trace(draft, trace) for draft in drafts) if trace else tuple(drafts)


def _with_trace(draft: Draft, trace: dict[str, str]) -> Draft:
    own = draft.headers
    if own is None:
        return replace(draft, headers=trace)
    both = {**trace, **own}
    if PARENT in own or sum(len(part.encode()) for item in both.items() for part in item) > model.MAX_HEADERS_BYTES:
        return draft
    return replace(draft, headers=both)
