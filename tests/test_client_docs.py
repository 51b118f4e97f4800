"""The client is all there: every route, field and setting can be used, and all of it is documented and typed."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tq
from tests.harness import ROOT, Server, wait_until
from tq.client import AsyncClient, Client, UnknownError, messages
from tq.client.calls import Answer, Call, method
from tq.errors import TqError
from tq.model import QueueSettings
from tq.web import ROUTES, shapes
from tq.web.exchange import Route
from tq.web.router import Router

TEXT = (ROOT / "docs/client.md").read_text()
MESSAGE = messages.Message(id=1, queue="q", sent_at=None, receipt="r1")  # type: ignore[arg-type]
ARGUMENTS: dict[str, Any] = {
    "queue": "q",
    "content": 1,
    "items": [1],
    "message": MESSAGE,
    "messages": [MESSAGE],
    "id": 1,
    "seconds": 1,
    "ack": [MESSAGE],
}
NOT_USED = {
    ("GET", "/queues/{queue}/messages"),  # the POST is the same, and nothing between fetches it ahead
    ("GET", "/queues/{queue}/history"),  # what the dashboard draws
    ("GET", "/openapi.json"),  # for who has no client
}


def routes_of(steps: Any) -> set[tuple[str, str]]:
    """Those of its calls. What is read out of the answers does not matter here."""
    found: set[tuple[str, str]] = set()
    try:
        call: Call = next(steps)
        while True:
            route = Router(ROUTES).find(call.target.partition("?")[0])[0].route(call.method)
            found.add((route.method, route.path))
            call = steps.send(
                Answer(200, b'{"dedup_window":0,"content_dedup":false,"results":[{"status":"acked"}]}', 0)
            )
    except (StopIteration, UnknownError):
        return found


def test_every_route_is_reached_by_a_method() -> None:
    client = Client()
    found = routes_of(client._receive("q", 1, 0, None, False)) | routes_of(client._receive(["q"], 1, 0, None, False))
    for name in dir(Client):
        made = getattr(Client, name)
        if isinstance(made, method):
            parameters = list(inspect.signature(made.steps).parameters.values())[1:]
            needed = [each.name for each in parameters if each.default is each.empty and each.kind != each.VAR_KEYWORD]
            given = {key: ARGUMENTS[key] for key in {*needed, *({"ack"} & {each.name for each in parameters})}}
            found |= routes_of(made.steps(client, **given))
    client.close()
    of_the_api = {(route.method, route.path) for route in ROUTES if _is_of_the_api(route)}
    assert of_the_api - found == NOT_USED & of_the_api


def _is_of_the_api(route: Route) -> bool:
    """Not a page, or figures for another program."""
    return route.path.startswith(("/queues", "/receive", "/transactions", "/status", "/healthz", "/readyz", "/openapi"))


def test_all_that_can_be_said_and_told_is_there() -> None:
    assert set(messages.Settings.__annotations__) == set(QueueSettings.__struct_fields__)
    assert {field.name for field in fields(tq.Envelope)} == set(shapes.Envelope.__struct_fields__)
    assert set(messages.Queue.__struct_fields__) == set(shapes.Queue.__struct_fields__)
    assert set(messages.Move.__struct_fields__) == set(shapes.Move.__struct_fields__)
    assert set(messages.Status.__struct_fields__) == set(shapes.Status.__struct_fields__)
    told = {field.encode_name for field in msgspec.structs.fields(messages.Message)}
    assert told == set(shapes.Message.__struct_fields__) | {"leased_until_s", "queue"}


@pytest.mark.parametrize("name", [name for name in dir(Client) if not name.startswith("_")])
def test_every_method_is_documented_with_its_parameters(name: str) -> None:
    found = getattr(Client, name)
    signature = inspect.signature(found.steps if isinstance(found, method) else found)
    shown: list[str] = []
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind == parameter.KEYWORD_ONLY and "*" not in shown:
            shown.append("*")
        stars = "**" if parameter.kind == parameter.VAR_KEYWORD else ""
        default = "" if parameter.default is parameter.empty else f"={_shown(parameter.default)}"
        shown.append(f"{stars}{parameter.name}{default}")
    assert f"`{name}({', '.join(shown)})`" in TEXT


def _shown(default: Any) -> str:
    return f'"{default}"' if isinstance(default, str) else repr(default)


@pytest.mark.parametrize("name", list(inspect.signature(Client).parameters))
def test_every_parameter_of_a_client_is_documented(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", TEXT, re.MULTILINE)


def test_every_name_of_the_package_is_documented() -> None:
    for name in tq._OF_CLIENT:
        assert re.search(rf"\b{name}\b", TEXT), name
        assert getattr(tq, name) is getattr(tq.client, name)
    for error in (tq.NoAnswer, tq.Unreachable, tq.OutcomeUnknown, tq.UnknownError):
        assert issubclass(error, TqError)
        assert f"| `tq.{error.__name__}` |" in TEXT


def test_links_lead_somewhere() -> None:
    for target, place in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", TEXT):
        text = (ROOT / "docs" / target).read_text() if target else TEXT
        headings = [
            re.sub(r"[^\w -]", "", line).strip().lower() for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        ]
        assert not place or place in [heading.replace(" ", "-") for heading in headings], (target, place)


# --- examples -------------------------------------------------------------------------


def test_examples_are_what_happens(start: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    server = start()
    monkeypatch.setenv("TQ_URL", server.url)
    example = doctest.DocTestParser().get_doctest(
        "\n".join(re.findall(r"```pycon\n(.*?)```", TEXT, re.DOTALL)), {}, "client.md", None, 0
    )
    assert len(example.examples) > 15
    said: list[str] = []
    result = doctest.DocTestRunner(optionflags=doctest.IGNORE_EXCEPTION_DETAIL).run(example, out=said.append)
    assert result.failed == 0, "".join(said)


def run(file: Path, server: Server) -> subprocess.Popen[str]:
    environment = {**os.environ, "TQ_URL": server.url, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", str(file)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def programs() -> list[str]:
    return re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_worker_is_the_one_of_the_document_and_of_fifteen_lines() -> None:
    worker = next(program for program in programs() if program.startswith("# docs/examples/worker.py\n"))
    _, _, code = worker.partition("\n")
    assert (ROOT / "docs/examples/worker.py").read_text().endswith(f'"""\n\n{code}')
    assert len([line for line in code.splitlines() if line]) <= 15


def test_the_worker_works_until_it_is_stopped(start: Callable[..., Server]) -> None:
    server = start()
    with Client(server.url) as client:
        client.create_queue("orders")
        client.send_batch("orders", range(3))
        worker = run(ROOT / "docs/examples/worker.py", server)
        assert worker.stdout
        assert [worker.stdout.readline() for _ in range(3)] == [f"handling {number}\n" for number in range(3)]
        wait_until(lambda: client.queue("orders").totals.acked == 3)
        worker.send_signal(signal.SIGTERM)
        out, errors = worker.communicate(timeout=20)
        assert (worker.returncode, out, errors) == (0, "", "")


def test_programs_for_asyncio_run(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    found = [program for program in programs() if "asyncio.run" in program]
    assert found
    for program in found:
        (tmp_path / "program.py").write_text(program)
        out, errors = run(tmp_path / "program.py", server).communicate(timeout=30)
        assert (out, errors) == ("100\n", "")


# --- types -------------------------------------------------------------------------

TYPED = """
import tq

async def both(client: tq.Client, other: tq.AsyncClient) -> None:
    reveal_type(client.send("q", 1))
    reveal_type(await other.send("q", 1, priority=3))
    reveal_type(client.receive("q"))
    reveal_type(await other.receive(["q"], max=3))
    for message in client.consume("q"):
        reveal_type(message)
    client.create_queue("q", dead_letter={"queue": "d", "max_receives": 3})
    client.create_queue("q", visibility=3)
    client.send("q", 1, delay="soon")
    await other.ack("receipt")
"""


@pytest.mark.slow  # mypy reads httpx and what that needs
def test_who_uses_it_is_told_the_types(tmp_path: Path) -> None:
    file = tmp_path / "use.py"
    file.write_text(TYPED)
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    line = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), str(file)]
    ran = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    told = [line.partition(": ")[2] for line in ran.stdout.splitlines()]
    assert [line.partition('"')[2].rstrip('"') for line in told if "Revealed" in line] == [
        "tq.client.messages.Sent",
        "tq.client.messages.Sent",
        "tq.client.messages.Message | None",
        "list[tq.client.messages.Message]",
        "tq.client.messages.Message",
    ]
    assert [line for line in told if line.startswith("error")] == [
        'error: Unexpected keyword argument "visibility"  [call-arg]',
        'error: Argument "delay" has incompatible type "str"; expected "float | None"  [arg-type]',
        'error: Argument 1 has incompatible type "str"; expected "Message"  [arg-type]',
    ]


def test_it_says_that_it_is_typed() -> None:
    assert (ROOT / "tq/py.typed").exists()
    assert 'tq = ["py.typed"]' in (ROOT / "pyproject.toml").read_text()
    assert inspect.signature(AsyncClient) == inspect.signature(Client)
