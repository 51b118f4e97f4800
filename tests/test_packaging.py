"""The wheel and the source archive hold what they should, and the wheel runs where nothing else is."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from tests.harness import ROOT, Server
from tests.trees import copied_into_image, copy_project, files_below
from tq import __version__

WHEEL = f"tq-{__version__}-py3-none-any.whl"
BUILD_SECONDS = 120  # fifty times what it takes


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project, and beside it what must get into no archive."""
    path = copy_project(tmp_path_factory.mktemp("build") / "tq")
    for stray in ("tq/__pycache__/errors.cpython-311.pyc", "tests/__pycache__/x.pyc", "tokens.json", "data/data.mdb"):
        (path / stray).parent.mkdir(exist_ok=True)
        (path / stray).write_bytes(b"not to be given to anybody")
    return path


@pytest.fixture(scope="module")
def built(tree: Path) -> Path:
    """The directory with both archives, made by the setuptools that is installed, so that it needs no network."""
    ran = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", tree / "dist", tree],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        check=False,
    )
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert "warning" not in said.lower(), said
    return tree / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    return built / WHEEL


@pytest.fixture(scope="module")
def wheel_of_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pip builds in the Dockerfile, of what was copied there."""
    place = tmp_path_factory.mktemp("image")
    for name in copied_into_image():
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, place / name)
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", place, place]
    subprocess.run(command, check=True, timeout=BUILD_SECONDS)
    return place / WHEEL


@pytest.mark.parametrize("kind", ["wheel", "wheel_of_image"])
def test_the_wheel_is_the_package_and_nothing_else(kind: str, request: pytest.FixtureRequest) -> None:
    with zipfile.ZipFile(request.getfixturevalue(kind)) as archive:
        names = set(archive.namelist())
    info = f"tq-{__version__}.dist-info/"
    about = {name for name in names if name.startswith(info)}
    assert f"{info}licenses/LICENSE" in about
    package = {f"tq/{name}" for name in files_below(ROOT / "tq") if "__pycache__" not in name}
    assert names - about == package


def test_the_source_archive_is_the_project_with_its_tests(built: Path, tmp_path: Path) -> None:
    with tarfile.open(built / f"tq-{__version__}.tar.gz") as archive:
        names = {member.name for member in archive.getmembers() if member.isfile()}
    top = f"tq-{__version__}/"
    assert all(name.startswith(top) for name in names)
    files = {name.removeprefix(top) for name in names}
    made = {"PKG-INFO", "setup.cfg"} | {name for name in files if name.startswith("tq.egg-info/")}
    assert files - made == files_below(copy_project(tmp_path))


def test_the_index_would_take_both_archives(built: Path) -> None:
    """Metadata is whole, and the readme renders."""
    archives = sorted(map(str, built.iterdir()))
    assert len(archives) == 2
    ran = subprocess.run(
        [sys.executable, "-m", "twine", "--no-color", "check", "--strict", *archives],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count("PASSED") == 2


def test_the_metadata_says_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = HeaderParser().parsestr(archive.read(f"tq-{__version__}.dist-info/METADATA").decode())
    assert (metadata["Name"], metadata["Version"], metadata["License-Expression"]) == ("tq", __version__, "MIT")
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier") or []
    assert "Operating System :: POSIX :: Linux" in classifiers
    assert ("Typing :: Typed" in classifiers) == (ROOT / "tq/py.typed").exists()
    assert {"client", "otel", "test"} <= set(metadata.get_all("Provides-Extra") or [])
    assert metadata.get_all("Project-URL") is None  # there is no address that is known to stay


EXTRAS = ("httpx", "opentelemetry")  # what only extras bring
WITHOUT = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS})); from tq.cli import main; main(prog_name='tq')"


def test_it_serves_without_what_only_extras_bring(tmp_path: Path) -> None:
    with Server(tmp_path / "data", program=(sys.executable, "-c", WITHOUT)) as server:
        serves(server)


@pytest.mark.slow
def test_the_wheel_serves_where_nothing_else_is_installed(wheel: Path, tmp_path: Path) -> None:
    """With what it says it needs, and without an extra."""
    place = tmp_path / "venv"
    venv.create(place)
    installed = subprocess.run(
        [sys.executable, "-m", "pip", "--python", place, "install", "-q", "--disable-pip-version-check", wheel],
        capture_output=True,
        text=True,
        timeout=BUILD_SECONDS,
        check=False,
    )
    if installed.returncode and "Retrying" in installed.stderr:
        pytest.skip("what tq needs cannot be installed without a network")
    assert installed.returncode == 0, installed.stderr
    said = subprocess.run([place / "bin/tq", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert said.stdout == f"tq, version {__version__}\n"
    with Server(tmp_path / "data", program=(place / "bin/tq",), cwd=tmp_path) as server:
        serves(server)


def serves(server: Server) -> None:
    assert server.request("POST", "/queues", {"name": "orders"}).status == 201
    assert server.request("POST", "/queues/orders/messages", {"content": 1}).status == 201
    assert server.request("GET", "/queues/orders/messages").json["content"] == 1
    assert server.request("GET", "/openapi.json").json["info"]["version"] == __version__
    assert server.stop() == 0
    assert server.complaints() == ""
