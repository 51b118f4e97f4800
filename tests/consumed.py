"""Judges what programs did with the messages that a client handed to them, by what they wrote of it (`tests.recorded`).

What the requests themselves must be is judged by `tests.leases`. Here it is about who works on what:

- A message is acknowledged when it was handled, and not before.
- One lease is handed to the program once, and not when an acknowledgement of the message was confirmed before.
- Whoever ends in order, or fails at a message, gives back what it does not handle.
- What was sent with success is handled by somebody.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from tests.history import NEVER, digest
from tests.leases import Request, Step
from tests.recorded import Line, asked_of, requests_of


class Program(Struct, frozen=True):
    """What one process wrote. `is_killed`: it had no chance to give anything back."""

    name: str
    lines: tuple[Line, ...]
    is_killed: bool = False

    def requests(self) -> list[Request]:
        return requests_of(self.name, self.lines)

    def first(self, kind: str) -> dict[str, int]:
        """When something was first said of each receipt."""
        return {line.receipt: line.at for line in reversed(self.lines) if line.kind == kind}

    def steps(self) -> Iterator[tuple[Step, int]]:
        """What was asked for leases, answered or not, and when."""
        for line in self.lines:
            wanted = asked_of(line) if line.kind == "asked" else None
            for step in wanted.steps if wanted else ():
                yield step, line.at


def check_work(programs: Sequence[Program]) -> list[str]:
    """Every broken promise, one sentence each; empty when all were kept."""
    return [sentence for rule in _RULES for sentence in rule(programs)]


def _acked_too_soon(programs: Sequence[Program]) -> Iterator[str]:
    for program in programs:
        handled = program.first("handled")
        for step, at in program.steps():
            if step.verb == "ack" and at < handled.get(step.receipt, NEVER):
                yield f"{program.name} acknowledged {step.receipt} of {step.queue} before it was handled."


def _handed_twice(programs: Sequence[Program]) -> Iterator[str]:
    for program in programs:
        receipts = Counter(line.receipt for line in program.lines if line.kind == "handling")
        for receipt, times in receipts.items():
            if times > 1:
                yield f"{program.name} was handed {receipt} {times} times."


def _handed_after_its_end(programs: Sequence[Program]) -> Iterator[str]:
    gone: dict[str, int] = {}  # when each content was confirmed to be acknowledged
    for program in programs:
        requests = program.requests()
        contents = {lease.receipt: lease.digest for request in requests for lease in request.leases}
        for request in requests:
            for step in request.steps:
                if step.verb == "ack" and step.status == "ok":
                    gone[contents[step.receipt]] = min(request.returned, gone.get(contents[step.receipt], NEVER))
    for program in programs:
        for line in program.lines:
            if line.kind == "handling" and line.at > gone.get(digest(bytes(line.content)), NEVER):
                yield f"{program.name} was handed {line.receipt} after an acknowledgement of it was confirmed."


def _kept(programs: Sequence[Program]) -> Iterator[str]:
    """What is leased no more by then need not be given back: by what the program can know of it."""
    for program in programs:
        if program.is_killed or not program.lines:
            continue
        requests = program.requests()
        refused = {
            step.receipt for request in requests for step in request.steps if step.status not in ("ok", "unknown")
        }
        settled = {step.receipt for step, _ in program.steps() if step.verb != "extend"}
        failed, ended = program.first("failed"), program.lines[-1].at
        for receipt, until in _ends(requests).items():
            if receipt not in settled | refused and until > failed.get(receipt, ended):
                why = "failed at it" if receipt in failed else "ended"
                yield f"{program.name} {why} and did not give back {receipt}."


def _ends(requests: Sequence[Request]) -> dict[str, int]:
    """Until when each lease lasts at least, by the answers."""
    ends = {lease.receipt: request.invoked + lease.until_ns for request in requests for lease in request.leases}
    for request in requests:
        for step in request.steps:
            if step.verb == "extend" and step.status == "ok":
                ends[step.receipt] = max(ends[step.receipt], request.invoked + step.ns)
    return ends


def _unhandled(programs: Sequence[Program]) -> Iterator[str]:
    handled = {digest(bytes(line.content)) for program in programs for line in program.lines if line.kind == "handled"}
    for program in programs:
        for request in program.requests():
            for sent in request.sent if request.outcome == "ok" else ():
                if sent.digest not in handled:
                    yield f"message {sent.id} of {sent.queue}, sent by {program.name}, was handled by nobody."


_RULES: tuple[Callable[[Sequence[Program]], Iterator[str]], ...] = (
    _acked_too_soon,
    _handed_twice,
    _handed_after_its_end,
    _kept,
    _unhandled,
)
