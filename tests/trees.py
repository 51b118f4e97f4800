"""The project as a tree of its own, as who clones or unpacks it has it: with nothing that a run or a build has left."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.harness import ROOT

LEFT = [".git", ".*.swp", *(line.rstrip("/") for line in (ROOT / ".gitignore").read_text().split())]


def copy_project(to: Path) -> Path:
    shutil.copytree(ROOT, to, ignore=shutil.ignore_patterns(*LEFT), dirs_exist_ok=True)
    return to


def copied_into_image() -> set[str]:
    """What the Dockerfile takes of the project."""
    commands = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    return {name for names in commands for name in names.split()}


def files_below(path: Path) -> set[str]:
    """Of all files in a tree, the path from there."""
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
