"""The documentation is complete, and its examples are what really happens."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import msgspec
import pytest

from tests.harness import ROOT, Server
from tq.cli import COMMANDS, main
from tq.errors import all_errors
from tq.model import (
    MAX_GROUP_BYTES,
    MAX_HEADERS_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_PAGE,
    MAX_PAGE_BYTES,
    MAX_PARTS,
    MAX_POLLED,
    MAX_QUEUES,
    MAX_WAIT_S,
    Counters,
    QueueSettings,
)
from tq.settings import Settings
from tq.web import ROUTES
from tq.web.connection import MAX_RUNNING
from tq.web.parser import MAX_HEADERS
from tq.web.router import Router
from tq.web.shapes import MAX_BATCH, Envelope, ReceiveParameters

CLI = (ROOT / "docs/cli.md").read_text()
API = (ROOT / "docs/api.md").read_text()
DATA = (ROOT / "docs/data.md").read_text()
OPERATIONS = (ROOT / "docs/operations.md").read_text()
README = (ROOT / "README.md").read_text()


def console_examples(text: str) -> list[tuple[str, str]]:
    """Each `$ command` in the text's console blocks with the output shown below it."""
    examples: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", text, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                examples.append((line[2:], []))
            else:
                examples[-1][1].append(line)
    return [(command, "\n".join(output)) for command, output in examples]


def masked(text: str) -> str:
    """The text without what differs from run to run: times, ages, receipts and byte figures of the storage."""
    text = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "TIME", text)
    text = re.sub(r'"(uptime_seconds|oldest_message_age_seconds)":[\d.e-]+', r'"\1":AGE', text)
    text = re.sub(r'"(file|used|available)_bytes":\d+', r'"\1_bytes":N', text)
    text = re.sub(r'"receipt":"r[\w-]{22}"', '"receipt":RECEIPT', text)
    text = re.sub(r"[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}", "UUID", text)
    return re.sub(r'"path":"[^"]*"', '"path":DIR', text).strip()


class Shell:
    """One shell for all commands of a document, so that a later one may use what an earlier one set."""

    def __init__(self, cwd: Path = ROOT, env: dict[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            ["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=cwd, env=env
        )

    def run(self, command: str) -> str:
        """What the command prints. Raises AssertionError when it fails."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(f"{command}\nprintf '\\n%s %s\\n' {MARK} $?\n")
        self._process.stdin.flush()
        printed = ""
        for line in self._process.stdout:
            if line.startswith(MARK):
                assert line == f"{MARK} 0\n", command
                return printed.removesuffix("\n")
            printed += line
        raise AssertionError(f"the shell ended at {command}")

    def close(self) -> None:
        self._process.communicate(timeout=30)


MARK = "--end-of-command--"


def requested(command: str) -> Iterator[tuple[str, str]]:
    """Method and path of the routes that a command's curls ask for."""
    for curl in command.split("curl ")[1:]:
        path = re.search(r"http://localhost:8000(/[^\s?'\")]*)", curl)
        method = re.search(r"-X (\w+)", curl)
        assert path, command
        is_post = re.search(r" (-d|--data-binary) ", curl)
        route = Router(ROUTES).find(path[1])[0].route(method[1] if method else "POST" if is_post else "GET")
        yield route.method, route.path


@pytest.mark.parametrize("document", ["README.md", "docs/api.md"])
def test_examples_are_what_happens(document: str, start: Callable[..., Server]) -> None:
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    server = start()
    examples = console_examples((ROOT / document).read_text())
    assert len(examples) > 5
    shell = Shell()
    try:
        for command, expected in examples:
            printed = shell.run(command.replace("http://localhost:8000", server.url))
            assert masked(printed) == masked(expected), command
    finally:
        shell.close()


def masked_figures(text: str) -> str:
    """The text without sizes, times and identities."""
    text = re.sub(r"[\d.,]+ (MiB|s|a second)\b", r"N \1", text)
    text = re.sub(r'"(id|snapshot)":"[^"]+"', r'"\1":ID', text)
    return re.sub(r'_at_ms":\d+', '_at_ms":TIME', text).strip()


def command_line(shell: Shell, directory: Path) -> None:
    """Have `tq` be the one that is tested."""
    shell.run(f'cd {directory}; export PYTHONPATH={ROOT}; tq() {{ {sys.executable} -m tq "$@"; }}')


def test_examples_of_commands_are_what_happens(start: Callable[..., Server], tmp_path: Path) -> None:
    """Beside a server on the data directory `data`, as the document has it."""
    if not shutil.which("curl"):
        pytest.skip("curl is not installed")
    server = start()
    shell = Shell()
    try:
        command_line(shell, tmp_path)
        shell.run("export TQ_DATA_DIR=data")
        examples = console_examples(DATA)
        assert {command.split()[1] for command, _ in examples if command.startswith("tq ")} == {
            "backup",
            "restore",
            "check",
            "compact",
            "dump",
            "load",
        }
        for command, expected in examples:
            printed = shell.run(command.replace("http://localhost:8000", server.url))
            assert masked_figures(printed) == masked_figures(expected), command
    finally:
        shell.close()


def test_examples_of_the_command_line_are_what_happens(start: Callable[..., Server], tmp_path: Path) -> None:
    server = start()
    shell = Shell()
    try:
        command_line(shell, tmp_path)
        shell.run(f"export TQ_URL={server.url}")
        for command, expected in console_examples(CLI):
            printed, wanted = (
                re.sub(r'"dedup_id":"[^"]+"', '"dedup_id":KEY', masked(text)) for text in (shell.run(command), expected)
            )
            assert printed == wanted, command
    finally:
        shell.close()


def remote_commands() -> Iterator[tuple[str, click.Command]]:
    for title in ("Server", "Queues", "Messages", "Shell"):
        for name in COMMANDS[title]:
            command = main.get_command(click.Context(main), name)
            assert command
            if name not in ("serve", "token"):
                yield name, command


def test_every_command_is_documented_with_every_option() -> None:
    table = CLI.partition("\n## ")[0]
    for section in COMMANDS.values():
        for name in section:
            assert re.search(rf"`(tq )?{name}`", table), name
    known = {"--help"}
    for name, command in remote_commands():
        for parameter in command.params:
            if isinstance(parameter, click.Option):
                known.update(parameter.opts)
                for option in parameter.opts:
                    assert re.search(rf"`{option}[ `=]", CLI), f"{name} {option}"
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", CLI)) <= known


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_is_documented(route) -> None:
    table = API.partition("## ")[0]
    row = next(line for line in table.splitlines() if f"`{route.method} {route.path}`" in line)
    assert {str(status) for status in route.answers} <= set(re.findall(r"\b\d{3}\b", row))


def test_every_route_has_an_example_that_shows_its_answer() -> None:
    shown = {asked for command, output in console_examples(API) if output for asked in requested(command)}
    assert {(route.method, route.path) for route in ROUTES} - shown == set()


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_every_error_is_documented(error) -> None:
    assert f"| {error.status} | `{error.code}` |" in API


def test_every_error_has_a_code_of_its_own_and_stands_in_the_drawn_tree() -> None:
    import tq.errors

    codes = [error.code for error in all_errors()]
    assert len(codes) == len(set(codes))
    for error in all_errors():
        assert re.search(rf"{error.__name__} +{error.code} +{error.status}\n", tq.errors.__doc__ or "")


@pytest.mark.parametrize("field", msgspec.structs.fields(Settings), ids=lambda field: field.name)
def test_every_setting_is_documented(field) -> None:
    assert f"| `{field.name}` | " in OPERATIONS
    row = next(line for line in OPERATIONS.splitlines() if line.startswith(f"| `{field.name}` |"))
    assert row.split("|")[2].strip().strip("`") == str(field.default)


def test_every_limit_stands_in_the_table() -> None:
    table = OPERATIONS.partition("\n## Limits\n")[2].partition("\n## ")[0]
    for value in (
        MAX_QUEUES,
        MAX_BATCH,
        MAX_PAGE,
        MAX_PARTS,
        MAX_POLLED,
        MAX_GROUP_BYTES,
        MAX_HEADERS_BYTES,
        MAX_WAIT_S,
    ):
        assert re.search(rf"\| [^|]*\b{value:,}\b", table), value
    for value in (MAX_RUNNING, MAX_HEADERS, MAX_PAGE_BYTES >> 20, MAX_MESSAGE_BYTES >> 20):
        assert re.search(rf"\b{value}\b", table), value
    limits = {field.name for field in msgspec.structs.fields(Settings) if field.name.startswith("max_")}
    assert limits <= set(re.findall(r"`(\w+)`", table))


@pytest.mark.parametrize("field", msgspec.structs.fields(QueueSettings), ids=lambda field: field.name)
def test_every_queue_setting_is_documented(field) -> None:
    assert f"| `{field.name}` | {json.dumps(field.default)} |" in API


@pytest.mark.parametrize("field", msgspec.structs.fields(Envelope), ids=lambda field: field.name)
def test_every_send_option_is_documented(field) -> None:
    assert f"\n| `{field.name}` | " in API.partition("\n## Send\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("field", msgspec.structs.fields(ReceiveParameters), ids=lambda field: field.name)
def test_every_receive_parameter_is_documented(field) -> None:
    assert f"\n| `{field.name}` | " in API.partition("\n## Receive\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize("field", msgspec.structs.fields(Counters), ids=lambda field: field.name)
def test_every_counter_is_documented(field) -> None:
    assert f"\n| `{field.name}` | " in API.partition("\n## Look at a queue\n")[2].partition("\n## ")[0]


def test_every_exit_code_is_documented() -> None:
    import tq.errors

    codes = {value for name, value in vars(tq.errors).items() if name.startswith("EXIT_")}
    assert codes == {*range(1, 12), 130}
    for code in codes:
        assert f"\n| {code} | " in OPERATIONS
        assert f"\n| {code} | " in CLI


def test_the_readme_is_short() -> None:
    assert README.count("\n") <= 200


def test_continuous_integration_runs_the_command_of_the_readme() -> None:
    command = next(line for line in README.splitlines() if line.endswith("-m pytest"))
    assert command.startswith("python3 -m venv .venv")
    script = (ROOT / ".ci/run").read_text()
    assert "README.md" in script
    pattern = re.search(r"grep -m1 -e '([^']+)' README.md", script)
    assert pattern
    assert next(line for line in README.splitlines() if re.search(pattern[1], line)) == command


def test_the_package_says_what_it_needs() -> None:
    """Every vendor that the code imports is declared."""
    declared = (ROOT / "pyproject.toml").read_text()
    for vendor in ("tornado", "lmdb", "msgpack", "msgspec", "click", "rich", "uvloop", "sortedcontainers"):
        assert re.search(rf'"{vendor}[>=<]', declared)
    assert Path(ROOT / "LICENSE").exists()
