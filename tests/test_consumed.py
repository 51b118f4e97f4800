"""What judges the work of programs finds each kind of broken promise, and finds nothing where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from tests.consumed import Program, check_work
from tests.history import NEVER
from tests.leases import Request
from tests.recorded import Line, Log, read_log, requests_of

S = 1_000_000_000


class Script:
    """What one program writes; each line is a moment later than the one before, in all programs."""

    now = 0

    def __init__(self, name: str) -> None:
        self.name = name
        self.lines: list[Line] = []
        self._number = 0

    def write(self, kind: Any, **fields: Any) -> Script:
        Script.now += 1
        self.lines.append(Line(kind, Script.now, **fields))
        return self

    def ask(self, method: str, path: str, body: Any, status: int, answer: Any = "") -> Script:
        """A request, with its answer unless the status is 0."""
        self._number += 1
        text = body if isinstance(body, str) else json.dumps(body)
        self.write("asked", number=self._number, method=method, path=path, body=text)
        told = answer if isinstance(answer, str) else json.dumps(answer)
        return self.write("answered", number=self._number, status=status, body=told) if status else self

    def send(self, *contents: int, status: int = 201, first: int = 1) -> Script:
        body = "\n".join(f'{{"content":{content}}}' for content in contents)
        return self.ask("POST", "/queues/q/messages", body, status, {"ids": [first + n for n in range(len(contents))]})

    def lease(self, *contents: int, count: int = 1, status: int = 200, attempt: str = "") -> Script:
        """Message 1, received for the 2nd time, has the receipt 1.2."""
        messages = [
            {"id": content, "content": content, "receive_count": count, "receipt": f"{content}.{count}"}
            for content in contents
        ]
        asked = {"max": 5, "visibility_timeout": 1, "attempt_id": attempt}
        return self.ask("POST", "/queues/q/messages/receive", asked, status, {"messages": messages})

    def work(self, content: int, *kinds: str, count: int = 1) -> Script:
        for kind in kinds:
            self.write(kind, receipt=f"{content}.{count}", content=msgspec.Raw(b"%d" % content))
        return self

    def settle(self, word: str = "", status: int = 200, **wanted: list[str]) -> Script:
        """`acked=["1.1"]`, `released=…`, `extended=…`; all are answered with that word, or with `word`."""
        names = {"acked": "receipts", "released": "releases", "extended": "extends"}
        body: dict[str, Any] = {}
        results = []
        for done, receipts in wanted.items():
            said = {"extended": {"visibility_timeout": 1}}.get(done, {})
            body[names[done]] = receipts if done == "acked" else [{"receipt": one, **said} for one in receipts]
            results += [{"receipt": receipt, "status": word or done} for receipt in receipts]
        return self.ask("POST", "/queues/q/acks", body, status, {"results": results})

    def told(self, is_killed: bool = False) -> Program:
        return Program(self.name, tuple(self.lines), is_killed)


def found(*scripts: Script) -> list[str]:
    return check_work([script.told() for script in scripts])


def consumer() -> Script:
    """One that has leased four messages, and was right with the first three."""
    script = Script("c").lease(1, 2, 3, 4)
    script.work(1, "handling", "handled").work(2, "handling", "failed").settle(acked=["1.1"], released=["2.1", "3.1"])
    return script.work(4, "handling", "handled")


def test_sound_work_is_not_blamed() -> None:
    producer = Script("p").send(1, 2, 3).send(4, 5, status=0).send(6, status=429)
    other = Script("d").lease(2, 3, count=2).settle(extended=["2.2", "3.2"])
    other.work(2, "handling", "handled", count=2).work(3, "handling", "handled", count=2)
    other.settle(acked=["2.2", "3.2"], status=0).settle("message_not_found", acked=["2.2", "3.2"])
    assert found(producer, consumer().settle(acked=["4.1"]), other) == []


def test_one_that_was_killed_need_not_give_back() -> None:
    assert check_work([Script("c").lease(1, 2).work(1, "handling").told(is_killed=True)]) == []


def test_one_whose_lease_was_over_need_not_give_back() -> None:
    """A lease lasts for a second; here each line is a second later than the one before."""
    late = Script("c").lease(1, 2).work(1, "handling", "handled").settle(acked=["1.1"])
    lines = tuple(msgspec.structs.replace(line, at=line.at * S) for line in late.lines)
    assert check_work([Program("c", lines)]) == []
    assert check_work([late.told()]) == ["c ended and did not give back 2.1."]


def test_one_whose_lease_was_refused_need_not_give_back() -> None:
    assert found(Script("c").lease(1).settle("stale_receipt", extended=["1.1"])) == []


@pytest.mark.parametrize(
    ("script", "sentence"),
    [
        (Script("c").lease(1).settle(acked=["1.1"]).work(1, "handling", "handled"), "acknowledged 1.1 of q before"),
        (Script("c").lease(1).work(1, "handling").settle(acked=["1.1"]).work(1, "handled"), "before it was handled"),
        (Script("c").lease(1).settle(acked=["1.1"], status=0), "before it was handled"),
        (Script("c").lease(1).work(1, "handling", "handled").ask("DELETE", "/queues/q/messages/9.1", "", 0), "9.1"),
        (consumer().work(4, "handling").settle(acked=["4.1"]), "was handed 4.1 2 times"),
        (consumer(), "c ended and did not give back 4.1"),
        (Script("c").lease(1).work(1, "handling", "failed"), "failed at it and did not give back 1.1"),
        (Script("c").lease(1).work(1, "handling", "failed").settle(extended=["1.1"]), "did not give back 1.1"),
        (Script("c").send(7), "message 1 of q, sent by c, was handled by nobody"),
    ],
)
def test_each_broken_promise_is_found(script: Script, sentence: str) -> None:
    assert any(sentence in one for one in found(script)), found(script)


def test_work_on_what_was_acknowledged_is_found_whoever_does_it() -> None:
    first = Script("c").lease(1).work(1, "handling", "handled").settle(acked=["1.1"])
    late = (
        Script("d").lease(1, count=2).work(1, "handling", "handled", count=2).settle("message_not_found", acked=["1.2"])
    )
    assert found(first, late) == ["d was handed 1.2 after an acknowledgement of it was confirmed."]


# --- the file -------------------------------------------------------------


def requests(script: Script) -> list[Request]:
    return requests_of(script.name, script.lines)


def test_what_had_no_answer_may_take_effect_at_any_time() -> None:
    for script in (Script("p").send(1, status=0), Script("p").send(1, status=503), Script("c").lease(status=0)):
        (request,) = requests(script)
        assert (request.outcome, request.returned) == ("unknown", NEVER)


def test_what_was_refused_was_not_asked() -> None:
    assert requests(Script("p").send(1, status=429)) == []


def test_a_receive_that_is_tried_again_began_with_its_first_try() -> None:
    script = Script("c").lease(status=0, attempt="a").lease(1, attempt="a").lease(2, attempt="b")
    first, again, other = requests(script)
    assert (first.outcome, again.outcome, other.outcome) == ("unknown", "ok", "ok")
    assert first.invoked == again.invoked < again.returned < other.invoked


def test_a_file_that_is_cut_off_tells_what_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(path)
    request = httpx.Request("GET", "http://x/queues/q?a=%20b")
    number = log.asked(request, b"body \xc3\xa9")
    log.answered(number, httpx.Response(200, content="ä".encode()))
    log.write("handled", receipt="r", content=msgspec.Raw(b'{"a": 1.10}'))
    log.answered(log.asked(request, b""), None)
    data = path.read_bytes()
    whole = read_log(path)
    assert [line.kind for line in whole] == ["asked", "answered", "handled", "asked", "answered"]
    assert (whole[0].path, whole[0].body, whole[1].body) == ("/queues/q?a=%20b", "body é", "ä")
    assert (bytes(whole[2].content), whole[4].status) == (b'{"a": 1.10}', 0)
    for cut in range(len(data)):
        path.write_bytes(data[:cut])
        assert read_log(path) == whole[: data[:cut].count(b"\n")]
