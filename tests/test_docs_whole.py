"""The documents as a whole: nothing leads nowhere, nothing is left out, and no example goes unrun without a reason."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import yaml

import tq.errors
from tests.documents import DOCUMENTS, anchors, blocks, links, read, resolve
from tests.harness import ROOT
from tests.test_docs import OPERATIONS, remote_commands
from tq.cli import main
from tq.errors import all_errors

# Which test runs the blocks of a document in a language, but for those that say why none does.
RUN_BY = {
    ("README.md", "console"): "tests/test_docs.py",
    ("README.md", "sh"): "tests/test_newcomer.py",
    ("README.md", "python"): "tests/test_newcomer.py",
    ("docs/getting-started.md", "sh"): "tests/test_newcomer.py",
    ("docs/getting-started.md", "console"): "tests/test_newcomer.py",
    ("docs/getting-started.md", "python"): "tests/test_newcomer.py",
    ("docs/api.md", "console"): "tests/test_docs.py",
    ("docs/data.md", "console"): "tests/test_docs.py",
    ("docs/cli.md", "console"): "tests/test_docs.py",
    ("docs/client.md", "pycon"): "tests/test_client_docs.py",
    ("docs/client.md", "python"): "tests/test_client_docs.py",
    ("docs/deploying.md", "nginx"): "tests/test_proxied.py",
    ("docs/deploying.md", "caddy"): "tests/test_proxied.py",
    ("docs/sqs.md", "python"): "tests/test_sqs_clients.py",
    ("docs/sqs.md", "sh"): "tests/test_sqs_clients.py",
    ("docs/operations.md", "sh"): "tests/test_docs_whole.py",
}
PARSED = {"json": json.loads, "yaml": yaml.safe_load}  # parts of files, which can be well formed and no more


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_example_is_run_or_says_why_not(document: str) -> None:
    for block in blocks(document):
        if block.language in PARSED:
            PARSED[block.language](block.text)
        elif not block.why:
            test = RUN_BY.get((document, block.language), "")
            assert test, f"nothing runs this, and nothing says why: {block.text}"
            assert Path(document).name in (ROOT / test).read_text(), f"{test} does not read {document}"


def test_nothing_is_said_to_be_run_that_is_not_there() -> None:
    there = {(block.document, block.language) for document in DOCUMENTS for block in blocks(document) if not block.why}
    assert RUN_BY.keys() <= there
    assert {language for _, language in there} <= {language for _, language in RUN_BY} | PARSED.keys()


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_leads_somewhere(document: str) -> None:
    for link in links(document):
        if link.startswith(("https://", "http://")):
            continue
        file, anchor = resolve(document, link)
        assert file.exists(), link
        if anchor:
            assert anchor in anchors(str(file.resolve().relative_to(ROOT))), link


def test_the_index_has_a_sentence_for_every_document() -> None:
    listed = re.findall(r"^- \[(\S+)\]\(\1\): .+\.$", read("docs/README.md"), re.M)
    assert len(listed) == len(set(listed))
    assert {f"docs/{name}" for name in listed} | {"docs/README.md"} == {d for d in DOCUMENTS if d.startswith("docs/")}
    assert set(links("docs/README.md")) - set(listed) == {f"../{name}" for name in DOCUMENTS if "/" not in name}


def rows(section: str) -> list[list[str]]:
    text = OPERATIONS.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    return [[cell.strip() for cell in line.split(" | ")] for line in text.splitlines() if line.startswith("| ")][2:]


def test_what_to_do_is_said_of_every_exit_code_and_of_every_failure_that_is_not_the_clients() -> None:
    table = rows("When something is wrong")
    assert all(len(row) == 4 and all(cell.strip("| ") for cell in row) for row in table), table
    symptoms = " ".join(row[0] for row in table)
    codes = {value for name, value in vars(tq.errors).items() if name.startswith("EXIT_")} | {0}
    assert codes == set(map(int, re.findall(r"\bexit (\d+)", symptoms)))
    for error in all_errors():
        if error.status >= 500 or error.status == 429:
            assert f"{error.status} `{error.code}`" in symptoms


def commands(group: click.Group, name: str = "tq") -> Iterator[tuple[str, click.Command]]:
    """All commands and those below them, by what one types."""
    for word in group.list_commands(click.Context(group)):
        command = group.get_command(click.Context(group), word)
        assert command
        yield f"{name} {word}", command
        if isinstance(command, click.Group):
            yield from commands(command, f"{name} {word}")


LOCAL = [(name, one) for name, one in commands(main) if name not in {f"tq {remote}" for remote, _ in remote_commands()}]


@pytest.mark.parametrize(("name", "command"), LOCAL, ids=[name for name, _ in LOCAL])
def test_every_command_that_asks_no_server_is_documented_with_its_options(name: str, command: click.Command) -> None:
    """The others are in docs/cli.md, and the options of `tq serve` in the table of settings, which have tests."""
    documents = [text for text in map(read, DOCUMENTS) if re.search(rf"\b{name}\b", text)]
    assert documents
    for option in command.params:
        if isinstance(option, click.Option) and name != "tq serve":
            assert any(option.opts[0] in text for text in documents), option.opts


COMPARED = ("SQS", "RabbitMQ", "NATS JetStream", "Redis", "beanstalkd")


def test_what_is_said_of_other_queues_has_a_source() -> None:
    """In each section that goes through them, each has its item, with a link to its own documents."""
    document = read("docs/comparison.md")
    compared = document.partition("\n## What")[2].partition("\n## Speed\n")[0]
    for section in compared.split("\n## "):
        items = dict(re.findall(r"^- \*\*([^*]+)\*\*(.+?)(?=^- |^## |\Z)", section, re.M | re.S))
        assert items.keys() == {"tq", *COMPARED}, section.partition("\n")[0]
        for system in COMPARED:
            assert "](https://" in items[system], (section.partition("\n")[0], system)


def test_the_figures_of_the_comparison_are_those_of_a_run() -> None:
    table = read("docs/comparison.md").partition("\n## Speed\n")[2].partition("\n## ")[0]
    run = read("docs/benchmarks.md").partition("\n## A run of `peers`\n")[2].partition("\n## ")[0]
    cells = ("send, 128 connections", "lease, ack, 128 connections", "send, 1 connection")
    for row in re.findall(r"^\| (.+?)(?:, one node)? \| (.+) \| (.+) \| (.+) \|$", table, re.M):
        if row[0] in ("tq", *COMPARED):
            for cell, figure in zip(cells, row[1:], strict=True):
                assert re.search(rf"^\| {cell} +\| +100 \| {row[0]} .*\| +{figure} \(", run, re.M), (row[0], cell)
    assert {"tq", *COMPARED} - {"SQS"} <= set(re.findall(r"^\| (.+?)(?:, one node)? \|", table, re.M))


def test_the_files_that_commands_of_the_tests_name_are_there() -> None:
    for block in blocks("docs/testing.md", "sh"):
        for path in re.findall(r"\btests/\w+\.py\b", block.text):
            assert (ROOT / path).exists(), path


def test_examples_of_operations_start_a_server(tmp_path: Path) -> None:
    """Line by line, in one directory; each server is stopped when it has said that it listens."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    key = [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-subj",
        "/CN=localhost",
    ]
    subprocess.run(
        ["openssl", *key, "-keyout", "key.pem", "-out", "cert.pem"], cwd=tmp_path, check=True, capture_output=True
    )
    shell = f'tq() {{ {sys.executable} -m tq "$@"; }}; export PYTHONPATH={ROOT} TQ_PORT=0 TQ_DATA_DIR=data'
    lines = [line for block in reversed(blocks("docs/operations.md", "sh")) for line in block.text.splitlines()]
    assert sum("tq serve" in line for line in lines) == 2
    for line in lines:
        is_server = "tq serve" in line
        with subprocess.Popen(
            ["bash", "-ec", f"{shell}; {line.replace('tq serve', f'exec {sys.executable} -m tq serve')}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        ) as running:
            assert running.stdout
            said = running.stdout.readline()
            if is_server:
                running.terminate()
            said += running.stdout.read()
        assert running.returncode == 0, line
        assert ("listens on http" if is_server else "token") in said.lower()
