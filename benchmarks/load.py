"""What puts a server under load: `wrk` where it is installed, else the loader in `benchmarks.loader`.

Both keep a number of connections open, send the next request on each as soon as its answer is there, and say how many
requests were answered and how long they took.
"""

from __future__ import annotations

import math
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from benchmarks.loader import Found, Work
from benchmarks.wires import Step

ROOT = Path(__file__).parent.parent  # where `python -m benchmarks.…` and `python -m tq` are run
WRK_MISSING = "wrk is not installed, so a slower loader takes its place; to install it: apt install wrk"
WRK_TIMEOUT = "20s"  # for one request; wrk's own 2 s would call a disk that is slow for once a failure
SLACK_SECONDS = 60  # beyond the duration of a cell, after which its loader is given up

_UNIT_MS = {"us": 0.001, "ms": 1.0, "s": 1_000.0, "m": 60_000.0, "h": 3_600_000.0}


class Failed(Exception):
    """A figure could not be had, or would be wrong. The message is for whoever started the run."""


class HttpRequest(Struct, frozen=True):
    """The request that is sent again and again. A POST has a body of ASCII JSON, a GET none."""

    method: str
    url: str
    body: str = ""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    pipelined: int = 1  # so many are sent before the answer to the first is waited for, by wrk alone

    def as_bytes(self) -> bytes:
        url = urlsplit(self.url)
        target = f"{url.path}?{url.query}" if url.query else url.path
        lines = [f"{self.method} {target} HTTP/1.1", f"Host: {url.netloc}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body:
            lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        return "\r\n".join([*lines, "", self.body]).encode("ascii")

    def as_step(self) -> Step:
        """Only 200 and 201 are successes, and the 204 of a DELETE; a receive that finds its queue empty is an error."""
        if self.method == "DELETE":
            return Step(self.as_bytes(), rb"HTTP/1.1 204 ")
        return Step(self.as_bytes(), rb'HTTP/1.1 20[01] (?:.*"receipt":"([^"]+)")?')


class Sample(Struct, frozen=True):
    """What one cell gave. `requests` were answered in `seconds`; the loader used `loader_cores` meanwhile."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    p999_ms: float | None = None
    loader_cores: float | None = None

    @property
    def requests_per_s(self) -> float:
        return self.requests / self.seconds


class Loader(Protocol):
    name: str

    def rounded(self, duration_s: float) -> float:
        """The shortest duration it can run for that is not below this one."""

    def run(self, request: HttpRequest, connections: int, duration_s: float) -> Sample:
        """Raises Failed when an answer was an error or a connection broke."""


def choose_loader(wanted: str, directory: Path) -> Loader:
    """The loader of this name; `auto` is wrk where it is installed. `directory` is for its files. Raises Failed."""
    wrk = shutil.which("wrk")
    if wanted == "own" or (wanted == "auto" and not wrk):
        return OwnLoader()
    if not wrk:
        raise Failed("wrk is not installed; to install it: apt install wrk")
    return Wrk(wrk, directory)


class Wrk:
    """https://github.com/wg/wrk, with one thread: on few cores another would take time from the server."""

    def __init__(self, program: str, directory: Path) -> None:
        self._program = program
        self._directory = directory
        self.name = _wrk_version(program)

    def rounded(self, duration_s: float) -> float:
        return math.ceil(duration_s)

    def run(self, request: HttpRequest, connections: int, duration_s: float) -> Sample:
        seconds = math.ceil(duration_s)
        script = self._directory / "request.lua"
        script.write_text(lua_script(request), encoding="ascii")
        options = ["-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", WRK_TIMEOUT, "--latency", "-s", str(script)]
        text, cpu_s = output([self._program, *options, request.url], seconds)
        sample = parse_wrk(text)
        return msgspec.structs.replace(sample, loader_cores=cpu_s / sample.seconds)


def lua_script(request: HttpRequest) -> str:
    """The script that has wrk send this request. Lua's long brackets take the body as it is."""
    lines = [f'wrk.method = "{request.method}"']
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in request.headers]
    if request.body:
        lines += [f"wrk.body = [==[{request.body}]==]", f'wrk.headers["Content-Type"] = "{request.content_type}"']
    if request.pipelined > 1:
        lines.append(f"init = function() row = string.rep(wrk.format(), {request.pipelined}) end")
        lines.append("request = function() return row end")
    return "\n".join(lines) + "\n"


def parse_wrk(text: str) -> Sample:
    """The report that `wrk --latency` prints. Raises Failed when it tells of errors or is not such a report."""
    trouble = re.search(r"(Socket errors: .*|Non-2xx or 3xx responses: \d+)", text)
    if trouble:
        raise Failed(f"wrk says: {trouble[1]}")
    total = re.search(r"(\d+) requests in ([\d.]+)([a-z]+),", text)
    percentiles = [re.search(rf"^ +{percent}% +([\d.]+)([a-z]+) *$", text, re.MULTILINE) for percent in (50, 99)]
    if not total or not all(percentiles):
        raise Failed(f"wrk printed no report: {text[-500:]}")
    p50_ms, p99_ms = (float(found[1]) * _UNIT_MS[found[2]] for found in percentiles if found)
    return Sample(int(total[1]), float(total[2]) * _UNIT_MS[total[3]] / 1_000, p50_ms, p99_ms)


class OwnLoader:
    """`python -m benchmarks.loader`: Python, so it takes more of the machine than wrk does."""

    name = "own loader (slower than wrk)"

    def rounded(self, duration_s: float) -> float:
        return duration_s

    def run(self, request: HttpRequest, connections: int, duration_s: float) -> Sample:
        return run_cycle([request], connections, duration_s)


def run_cycle(
    requests: Sequence[HttpRequest], connections: int, duration_s: float, rate: float | None = None
) -> Sample:
    """Each connection sends these in turn, round and round; `{token}` is the receipt in the answer before."""
    port = urlsplit(requests[0].url).port
    assert port is not None
    steps = [request.as_step() for request in requests]
    return run_raw(Work(port, "HTTP", steps, connections, duration_s, rate=rate))


def run_raw(work: Work) -> Sample:
    """Load with the loader in `benchmarks.loader`. Raises Failed when any reply was not good."""
    command = [sys.executable, "-m", "benchmarks.loader"]
    text, _ = output(command, work.duration_s, msgspec.json.encode(work).decode())
    found = msgspec.json.decode(text, type=Found)
    if found.errors:
        raise Failed(f"The loader met {found.errors} errors, the first: {found.first_error}")
    return Sample(found.requests, found.seconds, found.p50_ms, found.p99_ms, found.p999_ms, found.cpu_s / found.seconds)


def output(command: list[str], duration_s: float, stdin: str = "") -> tuple[str, float]:
    """What a loader prints, and the processor seconds it used. It is killed when it does not end."""
    timeout = duration_s + SLACK_SECONDS
    before_s = _children_s()
    try:
        ran = subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=timeout, cwd=ROOT, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{command[0]} did not end {SLACK_SECONDS} s after it should have") from error
    if ran.returncode:
        raise Failed(f"{command[0]} ended with {ran.returncode}: {(ran.stderr or ran.stdout)[-2000:]}")
    return ran.stdout, _children_s() - before_s


def _children_s() -> float:
    """The processor seconds of all processes that were ended and waited for, which a server that runs is not."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _wrk_version(program: str) -> str:
    """As it prints itself; `wrk -v` ends with 1 and may print to either stream."""
    ran = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=SLACK_SECONDS, check=False)
    found = re.search(r"^wrk (?:debian/)?([\w.]+)", ran.stdout + ran.stderr, re.MULTILINE)
    return f"wrk {found[1]}" if found else "wrk"
