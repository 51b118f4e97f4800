"""The image, the compose file and the unit of systemd are sound, and give tq few rights."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from configparser import RawConfigParser
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from tests.harness import ROOT, START_SECONDS, NotStarted, Server
from tests.trees import copied_into_image
from tq.errors import EXIT_DATA, EXIT_USAGE
from tq.settings import SPARE_FILES, Settings

DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNIT = ROOT / "packaging" / "tq.service"
VARIABLES = {f"TQ_{field.name.upper()}" for field in msgspec.structs.fields(Settings)}
FILES = Settings().max_connections + SPARE_FILES  # open at a time, or there are fewer connections than settings say
LINT_SECONDS = 60


def lint(*command: str | Path) -> None:
    """Run a linter that says nothing when all is well; the test is skipped where it is not installed."""
    name = str(command[0])
    program = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if not program:
        pytest.skip(f"{name} is not installed")
    ran = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, timeout=LINT_SECONDS, cwd=ROOT, check=False
    )
    assert (ran.returncode, ran.stderr) == (0, ""), ran.stdout + ran.stderr


# --- the image -------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Of the image that is run, which is the last stage: each instruction and what it is given."""
    whole = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE))
    last = whole[whole.rindex("\nFROM ") :]
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in last.splitlines() if line]


def given(instruction: str) -> str:
    (value,) = (value for name, value in instructions() if name == instruction)
    return value


def environment() -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in given("ENV").split())


def health_check() -> list[str]:
    command: list[str] = json.loads(given("HEALTHCHECK").partition("CMD ")[2])
    return command


def test_the_linter_has_nothing_to_say_of_the_image() -> None:
    lint("hadolint", "--failure-threshold", "style", "Dockerfile")


def test_the_image_runs_tq_as_nobody_in_particular() -> None:
    user, group = map(int, given("USER").split(":"))
    assert min(user, group) >= 10_000
    assert f"-o {user} -g {group} -m 0700 {given('VOLUME')}" in given("RUN")
    assert json.loads(given("ENTRYPOINT")) == ["tq"]  # itself process 1, with no shell that would keep signals
    assert json.loads(given("CMD")) == ["serve"]
    assert given("EXPOSE") == str(Settings().port)
    assert environment()["TQ_DATA_DIR"] == given("VOLUME")
    assert environment().keys() - {"PATH"} <= VARIABLES


def test_what_the_image_is_built_of_is_let_through_and_nothing_else() -> None:
    copied = copied_into_image()
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert "\n*\n" in (ROOT / ".dockerignore").read_text()
    assert copied == allowed
    assert all((ROOT / name).exists() for name in copied)


def test_the_image_does_not_start_open_to_everybody(tmp_path: Path) -> None:
    variables = {**environment(), "TQ_DATA_DIR": str(tmp_path / "data")}
    del variables["PATH"]
    with pytest.raises(NotStarted, match="--tokens FILE, or say --allow-anonymous") as refused:
        Server(tmp_path / "data", env=variables)
    assert refused.value.exit_code == EXIT_USAGE


def test_the_health_check_tells_whether_it_serves(start: Callable[..., Server]) -> None:
    server = start()
    program, *arguments = health_check()
    assert program == "python"
    command = [sys.executable, *(text.replace(":8000/", f":{server.port}/") for text in arguments)]
    assert f":{server.port}/readyz" in " ".join(command)
    assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert server.stop() == 0
    assert subprocess.run(command, timeout=60, capture_output=True, check=False).returncode == 1


# --- compose ---------------------------------------------------------


def test_the_compose_file_is_that_of_the_image_and_holds_it_tightly() -> None:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    assert document.keys() == {"name", "services", "secrets", "volumes"}
    service = document["services"]["tq"]
    (volume,) = service["volumes"]
    name, _, place = volume.partition(":")
    assert place == environment()["TQ_DATA_DIR"]
    assert name in document["volumes"]
    (secret,) = service["secrets"]
    assert service["environment"] == {"TQ_TOKENS": f"/run/secrets/{secret}"}
    assert document["secrets"][secret] == {"file": "./tokens.json"}
    assert service["healthcheck"]["test"] == ["CMD", *health_check()]
    assert service["ulimits"]["nofile"] >= FILES
    assert float(service["stop_grace_period"].removesuffix("s")) > 2 * Settings().shutdown_seconds
    assert (service["read_only"], service["cap_drop"], service["restart"]) == (True, ["ALL"], "unless-stopped")
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert all(port.startswith("127.0.0.1:") for port in service["ports"])


# --- systemd ---------------------------------------------------------


def unit() -> dict[str, str]:
    """What [Service] says; of what is said several times, the last."""
    parser = RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNIT)
    return dict(parser["Service"])


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    here = tmp_path / UNIT.name
    here.write_text(UNIT.read_text().replace("/opt/tq/bin/tq", sys.executable))  # which it looks for
    lint("systemd-analyze", "verify", here)


def test_the_unit_leaves_little_to_an_intruder() -> None:
    """At most 1.3 of 10, of which 0.8 is that it serves a network."""
    lint("systemd-analyze", "security", "--offline=yes", "--threshold=13", "--no-pager", UNIT)


def test_the_unit_does_what_the_exit_codes_ask_for() -> None:
    service = unit()
    assert set(map(int, service["RestartPreventExitStatus"].split())) == {EXIT_USAGE, EXIT_DATA}
    assert (service["Restart"], service["ExecReload"]) == ("on-failure", "/bin/kill -HUP $MAINPID")
    assert int(service["LimitNOFILE"]) >= FILES
    assert int(service["TimeoutStopSec"]) > 2 * Settings().shutdown_seconds
    variable, _, data_dir = service["Environment"].partition("=")
    assert variable in VARIABLES
    assert data_dir == f"/var/lib/{service['StateDirectory']}"


def test_it_serves_without_rights_on_a_disk_that_it_may_only_read(start: Callable[..., Server], tmp_path: Path) -> None:
    """As in the image and under systemd: another user, no capabilities, nothing to write but its directory."""
    if not shutil.which("bwrap"):
        pytest.skip("bwrap is not installed")
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    files = ("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--bind", str(data_dir), str(data_dir))
    user = ("--unshare-user", "--unshare-pid", "--unshare-ipc", "--uid", "10001", "--gid", "10001", "--cap-drop", "ALL")
    sandbox = ("bwrap", *files, *user, "--as-pid-1", "--die-with-parent")
    tried = subprocess.run([*sandbox, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be confined here: {tried.stderr.strip()}")
    touched = subprocess.run([*sandbox, "touch", str(tmp_path / "x")], capture_output=True, check=False)
    assert touched.returncode == 1
    server = start(wrapper=sandbox)
    (child,) = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    served_well(server, int(child))


PR_SET_MDWE, PR_GET_MDWE, REFUSE_EXEC_GAIN = 65, 66, 1  # prctl(2)
WITHOUT_MAPPING_CODE = (
    f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_MDWE}, {REFUSE_EXEC_GAIN}, 0, 0, 0) and sys.exit(99); "
    "os.execv(sys.argv[1], sys.argv[1:])"
)


def test_it_serves_where_memory_cannot_become_code(start: Callable[..., Server]) -> None:
    """As MemoryDenyWriteExecute= of the unit has it: no part makes code of its own."""
    if ctypes.CDLL(None).prctl(PR_GET_MDWE, 0, 0, 0, 0) < 0:
        pytest.skip("the kernel cannot refuse it: it is older than 6.3")
    wrapper = (sys.executable, "-c", WITHOUT_MAPPING_CODE)
    looked = subprocess.run(
        [*wrapper, sys.executable, "-c", f"import ctypes; print(ctypes.CDLL(None).prctl({PR_GET_MDWE}, 0, 0, 0, 0))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert looked.stdout == f"{REFUSE_EXEC_GAIN}\n"
    server = start(wrapper=wrapper)
    served_well(server, server.process.pid)


def served_well(server: Server, pid: int) -> None:
    assert server.request("POST", "/queues", {"name": "orders"}).status == 201
    assert server.request("POST", "/queues/orders/messages", {"content": "x" * 10_000}).status == 201
    assert len(server.request("GET", "/queues/orders/messages").json["content"]) == 10_000
    os.kill(pid, signal.SIGTERM)
    assert server.process.wait(START_SECONDS) == 0
    assert server.complaints() == ""
