"""What README.md and docs/getting-started.md have a newcomer do, word for word, in an empty environment.

But for the port, which is any that is free, and the directory of the data where a test may not write to the default.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.harness import START_SECONDS
from tests.terminals import typed
from tests.test_docs import Shell, console_examples, masked
from tests.trees import copy_project

INSTALL_SECONDS = 300  # the five minutes that it may take at the most
DOCUMENTS = {"README.md": "solution.py", "docs/getting-started.md": "tq serve --data-dir ./data"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project where nothing was installed yet, after the command of the README that installs it."""
    path = copy_project(tmp_path_factory.mktemp("newcomer") / "tq")
    install, _ = commands("README.md")
    assert install == commands("docs/getting-started.md")[0]
    began_s = time.monotonic()
    ran = subprocess.run(
        ["bash", "-c", install],
        cwd=path,
        env=environment(path),
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
    )
    if ran.returncode and "Retrying" in ran.stderr:
        pytest.skip("what tq needs cannot be installed without a network")
    assert ran.returncode == 0, ran.stderr
    print(f"installed within {time.monotonic() - began_s:.0f} s")
    return path


def commands(document: str) -> tuple[str, str]:
    """What the first command of a document does: installing, and starting."""
    install, _, serve = blocks(document, "sh")[0].text.strip().rpartition(" && ")
    assert serve.endswith(DOCUMENTS[document])
    return install, serve


def environment(path: Path, url: str = "") -> dict[str, str]:
    """Of a shell in which `.venv` was activated, or that has no such thing yet; nothing else of Python's is set."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL", "TQ_"))}
    search = f"{path / '.venv/bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**kept, "PATH": search} | ({"TQ_URL": url} if url else {})


@contextmanager
def serving(path: Path, document: str, data_dir: Path) -> Iterator[str]:
    """The server that the document starts: its address."""
    variables = {**environment(path), "TQ_PORT": "0", "TQ_DATA_DIR": str(data_dir)}
    with subprocess.Popen(
        ["bash", "-c", f"exec {commands(document)[1]}"], cwd=path, env=variables, stdout=subprocess.PIPE, text=True
    ) as server:
        try:
            assert server.stdout
            banner = server.stdout.readline()
            found = re.search(r"http://127\.0\.0\.1:\d+", banner)
            assert found, banner
            yield found[0]
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(START_SECONDS) == 0


def here(text: str, url: str) -> str:
    return text.replace("http://localhost:8000", url)


def as_on_any_day(text: str) -> str:
    """What was printed, without times, rates, generated ids, and the spaces that their lengths make."""
    text = re.sub(r"\b[\d.,]+ (ms|s|a second)\b", r"N \1", masked(text))
    text = re.sub(r" · dedup_id [\w-]{20}", "", text)
    return re.sub(r" +", " ", re.sub(r" +$", "", text, flags=re.M)).strip()


def test_the_readme_word_for_word(place: Path, tmp_path: Path) -> None:
    with (
        serving(place, "README.md", tmp_path / "data") as url,
        closing(Shell(place, environment(place, url))) as shell,
    ):
        for block in blocks("README.md")[1:]:
            text = here(block.text, url)
            if block.why or "import boto3" in text:
                continue
            if block.language == "console":
                for command, expected in console_examples(f"```console\n{text}```"):
                    assert masked(shell.run(command)) == masked(expected), command
            elif block.language == "sh":
                assert "hello" in shell.run(text.strip().replace("\n", " && "))
            else:
                (place / "example.py").write_text(text)
                assert shell.run("python example.py") == "{'sku': 'A-17'}\n"


def test_getting_started_word_for_word(place: Path, tmp_path: Path) -> None:
    """In a terminal, where commands say what is for people."""
    with serving(place, "docs/getting-started.md", tmp_path / "data") as url:
        variables = environment(place, url)
        for block in blocks("docs/getting-started.md")[1:]:
            text = here(block.text, url)
            if block.language == "console":
                for command, expected in console_examples(f"```console\n{text}```"):
                    assert as_on_any_day(typed(command, place, variables)) == as_on_any_day(expected), command
            elif block.language == "python":
                (place / "worker.py").write_text(text)
            else:
                assert typed(f"{text}\ncommand -v tq python", place, variables).split() == [
                    f"{place}/.venv/bin/{name}" for name in ("tq", "python")
                ]
