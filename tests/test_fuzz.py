"""Every target of the search (`tests/fuzz`), without the search: its corpus, and some thousand changes of that."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.corpus import CORPUS
from tests.fuzz.mutations import changed
from tests.fuzz.targets import TARGETS, WORLD, run
from tq import tokens
from tq.errors import StartError


@pytest.fixture(scope="module", autouse=True)
def _world() -> Iterator[None]:
    """The store behind the targets is checked when the last of them is through."""
    yield
    WORLD.close()


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    for data in CORPUS[name]:
        run(TARGETS[name], data)


@pytest.mark.parametrize("name", TARGETS)
def test_changes_of_the_corpus(name: str) -> None:
    for data in changed(CORPUS[name], 600, seed=1):
        run(TARGETS[name], data)


@pytest.mark.slow
@pytest.mark.parametrize("name", TARGETS)
def test_many_changes_of_the_corpus(name: str) -> None:
    seed = int.from_bytes(os.urandom(4))
    for number, data in enumerate(changed(CORPUS[name], 200_000, seed)):
        try:
            run(TARGETS[name], data)
        except Exception as error:
            raise AssertionError(f"seed {seed}, change {number}: {data!r}") from error


def test_a_file_of_tokens_that_is_no_text(tmp_path: Path) -> None:
    """It was a traceback, at the start and at SIGHUP."""
    path = tmp_path / "tokens.json"
    path.write_bytes(b'[{"name": "\xff"}]')
    path.chmod(0o600)
    with pytest.raises(StartError, match="is no file of tokens"):
        tokens.load(path)
