"""Fixtures. Every store that a test used is checked when the test is over."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.ioloop import IOLoop

from tests.api import NOW_MS, Api
from tests.bench import Bench
from tests.documented import assert_documented
from tests.engines import open_engine
from tests.environments import Environment
from tests.guarded import Guarded
from tests.harness import HOSTS, ROOT, Server, findings, open_store
from tests.sqs_queue import SqsQueue
from tests.sqs_server import LocalServer
from tests.sqs_wire import Json, Query, Wire
from tq import __version__, lifecycle
from tq.audit import audit
from tq.broker import Broker
from tq.clock import TimerClock
from tq.settings import Settings
from tq.store.memory import MemoryStore
from tq.web.server import Application
from tq.web.server import Server as HttpServer

# A shell has what it starts in the background ignore Ctrl-C, and that is inherited by every process a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB."""
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", path], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a disk cannot be mounted here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


@pytest.fixture
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture
def guarded(start: Callable[..., Server], tmp_path: Path) -> Guarded:
    return Guarded(start, tmp_path)


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


# --- the dashboard in Chromium -------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for the tests of a module. Playwright runs a loop of its own on this thread, so no longer than that."""
    from playwright.sync_api import sync_playwright

    from tests.browsing import chromium_path, launch

    path = chromium_path()
    if not path:
        pytest.skip("chromium is not installed")
    with sync_playwright() as playwright:
        opened = launch(playwright, path)
        yield opened
        opened.close()


@pytest.fixture
def watch(browser: Any) -> Callable[..., Any]:
    """Opens a page that is watched: `with watch(url) as look`."""
    from tests.browsing import watched

    return partial(watched, browser)


@pytest.fixture
def look(watch: Callable[..., Any], server: Server) -> Iterator[Any]:
    """A watched page of `server`."""
    with watch(server.url) as page:
        yield page


@pytest.fixture(scope="module")
def axe() -> Iterator[str]:
    """The source of axe-core, which npm installs. Skips where it cannot."""
    if not shutil.which("npm"):
        pytest.skip("npm is not installed")
    versions = json.loads((ROOT / "tests/dashboard/package.json").read_text())["dependencies"]["axe-core"]
    environment = Environment("axe", f"npm install --no-package-lock --no-audit --no-fund 'axe-core@{versions}'")
    try:
        yield (environment.ready() / "node_modules/axe-core/axe.min.js").read_text()
    finally:
        environment.close()


# --- SQS -------------------------------------------------------------


@pytest.fixture(scope="module")
def local() -> Iterator[LocalServer]:
    """A server in this process that the tests of a module share. Its store is checked at the end."""
    server = LocalServer()
    yield server
    server.close()


@pytest.fixture(params=[Json, Query], ids=["json", "query"])
def wire(request: pytest.FixtureRequest, local: LocalServer) -> Iterator[Wire]:
    """A client of it, for each protocol of SQS in turn."""
    client: Wire = request.param(local.port)
    yield client
    client.close()


@pytest.fixture
def queue(local: LocalServer) -> Iterator[Callable[..., SqsQueue]]:
    """Makes queues on it: `queue(fifo=True, DelaySeconds=1)`."""
    made: list[SqsQueue] = []

    def make(**options: Any) -> SqsQueue:
        made.append(SqsQueue(local, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


# --- the server in process, for pytest-tornado ---------------------------------------------


@pytest.fixture
def io_loop() -> Iterator[IOLoop]:
    """Instead of pytest-tornado's own, which calls what Tornado has deprecated."""
    loop = IOLoop(make_current=False)
    asyncio.set_event_loop(loop.asyncio_loop)  # type: ignore[attr-defined]
    yield loop
    asyncio.set_event_loop(None)
    loop.close(all_fds=True)


@pytest.fixture
def clock() -> list[int]:
    """The time in milliseconds, its only item."""
    return [NOW_MS]


@pytest.fixture
def memory() -> MemoryStore:
    """The store of the server in process."""
    return MemoryStore(lifecycle.apply)


@pytest.fixture
def settings() -> Settings:
    """The settings of the server in process."""
    return Settings(data_dir="memory:", allowed_host=HOSTS)


@pytest.fixture
def app(io_loop: IOLoop, memory: MemoryStore, settings: Settings, clock: list[int]) -> Iterator[Application]:
    """What pytest-tornado's `http_server` serves. The broker must be made on the running loop."""

    def now_ms() -> int:
        return clock[0]

    async def make() -> Application:
        return Application(Broker(memory, settings, TimerClock(0, 0, now_ms, now_ms)), settings)

    application = io_loop.run_sync(make)
    yield application
    io_loop.run_sync(application.broker.close)
    assert memory.read(audit) == []


@pytest.fixture
def http_server(io_loop: IOLoop, _unused_port: Any, app: Application) -> Iterator[HttpServer]:
    """Instead of pytest-tornado's own, which serves by Tornado's connection."""
    http = HttpServer(app, app.settings)

    async def listen() -> None:
        await http.listen_on([_unused_port[0]])

    io_loop.run_sync(listen)
    yield http
    io_loop.run_sync(http.close)


@pytest.fixture
def api(http_client: AsyncHTTPClient, base_url: str) -> Api:
    """`await api(method, path, body, **headers)`; a body that is not bytes or text is sent as JSON."""

    async def call(method: str, path: str, body: Any = None, **headers: str) -> HTTPResponse:
        raw = body if body is None or isinstance(body, bytes | str) else json.dumps(body)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = await http_client.fetch(
            base_url + path, method=method, body=raw, headers=named, raise_error=False, allow_nonstandard_methods=True
        )
        assert reply.headers["Cache-Control"] == "no-store"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["Server"] == f"tq/{__version__}"
        assert reply.headers.get_list("Date")
        assert ("Content-Type" in reply.headers) == (reply.code != 204)
        assert_documented(method, path, reply.code, reply.headers.get("Content-Type", ""), reply.body)
        return reply

    return call


@pytest.fixture(params=["lmdb", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    """Over either engine."""
    store = open_engine(request.param, tmp_path)
    yield Bench(store)
    found = store.read(audit) + store.check()
    store.close()
    assert found == []
