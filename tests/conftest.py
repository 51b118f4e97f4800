"""Fixtures. Every store that a test used is checked when the test is over."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import Server, findings, open_store
from tq import lifecycle
from tq.audit import audit
from tq.store.memory import MemoryStore


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers on `tmp_path / "data"`, one after the other; the data is checked at the end."""
    servers: list[Server] = []
    data_dir = tmp_path / "data"

    def start_server(*flags: str, **options: Any) -> Server:
        server = Server(options.pop("data_dir", data_dir), *flags, **options)
        servers.append(server)
        return server

    yield start_server
    for server in servers:
        server.__exit__()
    if data_dir.exists():
        assert findings(data_dir) == []


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture(params=["lmdb", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """Each engine of the contract in turn."""
    engine = open_store(tmp_path / "store") if request.param == "lmdb" else MemoryStore(lifecycle.apply)
    yield engine
    found = engine.read(audit)
    engine.close()
    assert found == []
    if request.param == "lmdb":
        assert findings(tmp_path / "store") == []
