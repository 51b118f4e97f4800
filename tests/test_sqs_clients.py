"""Clients of Amazon SQS, as they are published, run on tq.

Each scenario in `sqs_clients/` is a program that uses a client as its own documentation says, checks what comes of it,
and prints "ok <n> checks" in the end. It runs with a real server, in an environment of its own that pip or npm makes,
in `~/.cache/tq-sqs-clients` or in SQS_CLIENTS_DIR. Where one cannot be made, for want of a network or of Node.js, its
tests are skipped and say so.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.environments import Environment
from tests.harness import ROOT, Server

SCENARIOS = ROOT / "tests" / "sqs_clients"
SCENARIO_SECONDS = 180  # ten times what the longest takes

# What pip installs in each environment. The newest of all shows what today's clients do; boto3 1.28.80 was the last to
# speak the Query protocol, and 1.26.126 is one of the many before it that are still in use.
PACKAGES = {
    "today": ("boto3>=1.35", "awscli>=1.35", "celery[sqs]>=5.5,<6"),
    "aio": ("aiobotocore>=2.20",),
    "query": ("boto3==1.28.80", "botocore==1.31.80"),
    "older": ("boto3==1.26.126", "botocore==1.29.126"),
}
NODE = "node"


def pip_install(packages: tuple[str, ...]) -> str:
    install = '"$PYTHON" -m pip --python bin/python install --quiet --no-compile --disable-pip-version-check'
    return f'"$PYTHON" -m venv --without-pip . && {install} ' + " ".join(f"'{package}'" for package in packages)


def npm_install() -> str:
    dependencies = json.loads((SCENARIOS / "package.json").read_text())["dependencies"]
    packages = " ".join(f"'{name}@{versions}'" for name, versions in dependencies.items())
    return f"node --version && npm install --no-package-lock --no-audit --no-fund --ignore-scripts {packages}"


@pytest.fixture(scope="session")
def environments() -> Iterator[dict[str, Environment]]:
    """All of them, being installed at the same time."""
    commands = {name: pip_install(packages) for name, packages in PACKAGES.items()} | {NODE: npm_install()}
    made = {name: Environment(name, command) for name, command in commands.items()}
    yield made
    for environment in made.values():
        environment.close()


def run(command: list[str], path: Path, server: Server, work: Path) -> str:
    """What a scenario prints. Nothing it has started outlives it."""
    variables = {
        "AWS_ACCESS_KEY_ID": "any",
        "AWS_SECRET_ACCESS_KEY": "any",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_REGION": "eu-central-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SQS_ENDPOINT": server.url,
        "HOME": str(work),
        "PATH": f"{path / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "WORK": str(work),
    }
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=work,
        env=variables,
        start_new_session=True,
        text=True,
    )
    try:
        printed, _ = process.communicate(timeout=SCENARIO_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        printed, _ = process.communicate()
        pytest.fail(f"not over within {SCENARIO_SECONDS} s:\n{printed}")
    assert process.returncode == 0, printed
    return printed


@pytest.mark.parametrize(
    ("environment", "scenario"),
    [
        ("older", "with_boto3.py"),
        ("query", "with_boto3.py"),
        (NODE, "with_sdk.mjs"),
        (NODE, "with_sqs_consumer.mjs"),
        ("aio", "with_aiobotocore.py"),
        ("today", "with_boto3.py"),
        ("today", "with_aws_cli.py"),
        ("today", "with_celery.py"),
    ],
)
def test_a_client_runs_on_tq(
    environment: str,
    scenario: str,
    environments: dict[str, Environment],
    start: Callable[..., Server],
    tmp_path: Path,
) -> None:
    path = environments[environment].ready()
    work = tmp_path / "work"
    work.mkdir()
    program = SCENARIOS / scenario
    if environment == NODE:  # finds packages from where a program is
        shutil.copytree(SCENARIOS, work / "programs")
        (work / "programs" / "node_modules").symlink_to(path / "node_modules")
        program = work / "programs" / scenario
    command = ["node" if environment == NODE else str(path / "bin/python"), str(program)]
    printed = run(command, path, start(), work)
    print(printed)
    assert re.fullmatch(r"ok [1-9]\d* checks", printed.splitlines()[-1]), printed


def test_every_client_that_is_run_is_documented() -> None:
    section = (ROOT / "docs" / "sqs.md").read_text().partition("\n## Clients that were run\n")[2].partition("\n## ")[0]
    wanted = json.loads((SCENARIOS / "package.json").read_text())["dependencies"].keys()
    wanted |= {re.split(r"[\[<>=]", package)[0] for packages in PACKAGES.values() for package in packages}
    assert {name for name in wanted if name not in section} == set()
