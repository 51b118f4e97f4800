"""The rules of the house that matter, as tests."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT

# A module imports only from rows above it here; modules of one row never import each other.
ROWS: list[set[str]] = [
    {"tq"},
    {"tq.errors"},
    {"tq.model.nouns"},
    {"tq.model.requests"},
    {"tq.model"},
    {"tq.keys", "tq.codec", "tq.metrics", "tq.settings", "tq.tokens"},
    {"tq.store"},
    {"tq.lifecycle.group", "tq.audit"},
    {"tq.lifecycle.places"},
    {"tq.lifecycle.looking"},
    {"tq.lifecycle.queues", "tq.lifecycle.sending", "tq.lifecycle.moving"},
    {"tq.lifecycle.settling", "tq.lifecycle.loading"},
    {"tq.lifecycle.receiving"},
    {"tq.lifecycle.timers"},
    {"tq.lifecycle"},
    {"tq.dump"},
    {"tq.store.directory"},
    {"tq.store.faults"},
    {"tq.store.lmdb.tx"},
    {"tq.store.lmdb.snapshot"},
    {"tq.store.lmdb", "tq.store.lmdb.copies", "tq.store.memory"},
    {"tq.clock", "tq.waiters", "tq.logs", "tq.history"},
    {"tq.writer"},
    {"tq.survey"},
    {"tq.broker"},
    {"tq.web.exchange", "tq.web.parser", "tq.web.shapes", "tq.web.tls", "tq.web.tracing", "tq.web.traffic"},
    {"tq.web.access", "tq.web.browsers", "tq.web.dashboard", "tq.web.formats", "tq.web.metrics", "tq.web.openapi"}
    | {"tq.web.router", "tq.web.stream"},
    {"tq.web.native", "tq.web.sqs.errors", "tq.web.sqs.shapes"},
    {"tq.web.sqs.attributes", "tq.web.sqs.contents", "tq.web.sqs.signature"},
    {"tq.web.sqs.call"},
    {"tq.web.sqs.messages", "tq.web.sqs.moves", "tq.web.sqs.query"},
    {"tq.web.sqs.queues"},
    {"tq.web", "tq.web.connection", "tq.web.sqs"},
    {"tq.web.server"},
    {"tq.client.errors", "tq.client.sending"},
    {"tq.client.calls", "tq.client.messages"},
    {"tq.client.retrying", "tq.client.settling", "tq.client.connecting", "tq.client.tracing", "tq.client.transport"},
    {"tq.client.leases", "tq.client.transacting"},
    {"tq.client.methods", "tq.client.tasks", "tq.client.threads"},
    {"tq.client.aio", "tq.client.sync"},
    {"tq.client"},
    {"tq.cli.completion", "tq.cli.envelopes", "tq.cli.lines", "tq.cli.load", "tq.cli.output"},
    {"tq.cli.data", "tq.cli.remote", "tq.cli.showing"},
    {"tq.cli.leasing", "tq.cli.streaming"},
    {"tq.cli.executing"},
    {"tq.cli.bench", "tq.cli.peeking", "tq.cli.queues", "tq.cli.receiving", "tq.cli.sending", "tq.cli.top"},
    {"tq.cli.dumping", "tq.cli.serving", "tq.cli.tokens"},
    {"tq.cli"},  # which imports the others when a command of them is run
    {"tq.__main__"},
]

# What a module imports from rows below: only when it is asked for it, or for its types.
LAZY = {
    "tq": {"tq.client", "tq.errors"},
    "tq.client.tasks": {"tq.client.aio"},
    "tq.client.threads": {"tq.client.sync"},
}


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


# A vendor is known to these modules alone. `tornado` may go where it serves, `lmdb` where it stores.
VENDORS = {
    "lmdb": {"tq.store.lmdb", "tq.store.lmdb.tx", "tq.store.lmdb.snapshot"},
    "msgpack": {"tq.codec", "tq.web.formats"},
    "prometheus_client": {"tq.web.metrics"},
    "sortedcontainers": {"tq.store.memory", "tq.waiters"},
    "tornado": {"tq.web.connection", "tq.web.server", "tq.web.stream"},
    "httptools": {"tq.web.parser"},
    "click": {module_of(path) for path in (ROOT / "tq" / "cli").glob("*.py")}
    - {f"tq.cli.{name}" for name in ("envelopes", "executing", "leasing", "lines", "load", "showing")},
    "rich": {"tq.cli.output", "tq.cli.streaming", "tq.cli.top"},
    "uvloop": {"tq.cli.serving", "tq.cli.bench"},
    "httpx": {
        "tq.client",
        "tq.client.aio",
        "tq.client.connecting",
        "tq.client.retrying",
        "tq.client.sync",
        "tq.client.transport",
    },
    "opentelemetry": {"tq.client.aio", "tq.client.sync", "tq.client.tracing"},
}

# What would make the state depend on anything but the commands.
IMPURE = {"time", "datetime", "random", "secrets", "uuid", "os", "logging", "threading", "asyncio", "socket"}
PURE = {
    "tq.errors",
    "tq.model",
    "tq.model.nouns",
    "tq.model.requests",
    "tq.keys",
    "tq.codec",
    "tq.settings",
    "tq.store",
    "tq.metrics",
    "tq.waiters",
    "tq.history",
    "tq.audit",
    "tq.dump",
}
PURE |= {"tq.lifecycle"} | {f"tq.lifecycle.{path.stem}" for path in (ROOT / "tq" / "lifecycle").glob("[!_]*.py")}

BANNED_NAMES = {"manager", "service", "helper", "util", "utils", "misc", "process", "handle_data"}

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 70

SOURCES = sorted((ROOT / "tq").rglob("*.py"))
EVERY_SOURCE = [*SOURCES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "benchmarks").glob("*.py"))]


def imports_of(path: Path) -> set[str]:
    """Every module that the file imports, by its full name."""
    known = {module_of(source) for source in SOURCES}
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            module = node.module or ""
            names = {f"{module}.{alias.name}" for alias in node.names}
            found.update(names & known or {module})
            if names - known and module in known:
                found.add(module)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_imports_only_from_the_rows_above_it(path: Path) -> None:
    module = module_of(path)
    row = next(index for index, names in enumerate(ROWS) if module in names)
    allowed = set().union(*ROWS[:row])
    ours = {name for name in imports_of(path) if name.split(".")[0] == "tq"}
    assert ours - LAZY.get(module, set()) <= allowed


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_vendor_stays_where_it_belongs(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports_of(path)}
    for vendor in roots & VENDORS.keys():
        assert module_of(path) in VENDORS[vendor], f"{module_of(path)} imports {vendor}"


@pytest.mark.parametrize("path", [p for p in SOURCES if module_of(p) in PURE], ids=module_of)
def test_the_core_has_no_clock_no_chance_and_no_io(path: Path) -> None:
    assert not {name.split(".")[0] for name in imports_of(path)} & IMPURE
    assert not re.search(r"\b(open|print|input)\(", path.read_text())


@pytest.mark.parametrize("path", EVERY_SOURCE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION_LINES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_names_say_something(path: Path) -> None:
    assert path.stem not in BANNED_NAMES
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            words = set(re.findall(r"[A-Z]?[a-z]+", node.name.lower())) | {node.name.lower()}
            assert not words & BANNED_NAMES, node.name


@pytest.mark.parametrize("path", SOURCES, ids=module_of)
def test_a_module_opens_by_saying_what_it_owns(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_a_contract_has_at_most_eight_methods() -> None:
    tree = ast.parse((ROOT / "tq/store/__init__.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            methods = [item for item in node.body if isinstance(item, ast.FunctionDef)]
            assert len(methods) <= 8, node.name
            assert all(map(ast.get_docstring, methods)), node.name


def test_nothing_is_left_for_later() -> None:
    pattern = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")
    for path in EVERY_SOURCE:
        if path != Path(__file__):
            assert not pattern.search(path.read_text()), path


def test_no_file_names_this_machine_or_a_download_address() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    # Put together here, so that this file does not hold what it looks for.
    marks = ["/".join(["", "root", ""]), "/".join(["..", "shared"]), "index" + "-url", "pypi" + ".org"]
    for name in listed.stdout.split():
        path = ROOT / name
        if path.is_file() and path.suffix in {".py", ".md", ".toml", ".json", ".yml", ".yaml", ""}:
            text = path.read_text(errors="replace")
            assert not [mark for mark in marks if mark in text], name


def test_importing_the_server_is_quick_and_quiet() -> None:
    """And it does without what only other commands need."""
    code = "import sys, tq.cli, tq.cli.serving; print({'rich', 'httpx', 'tq.client'} & sys.modules.keys() or '')"
    ran = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert (ran.stdout, ran.stderr) == (b"\n", b"")
