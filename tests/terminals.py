"""A terminal, in which commands behave as in front of people."""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Mapping
from pathlib import Path

WIDTH = 100


def typed(command: str, cwd: Path, environment: Mapping[str, str]) -> str:
    """All that is on the terminal when a line that was typed there has been done, colours and movements left out."""
    ours, its = pty.openpty()
    shown = b""
    try:
        with subprocess.Popen(
            ["bash", "-c", command],
            stdin=its,
            stdout=its,
            stderr=its,
            cwd=cwd,
            env={**environment, "TERM": "dumb", "NO_COLOR": "1", "COLUMNS": str(WIDTH)},
        ):
            os.close(its)
            while True:
                try:
                    shown += os.read(ours, 65_536)
                except OSError:  # EIO: nobody has it open any more
                    break
    finally:
        os.close(ours)
    return shown.decode().replace("\r\n", "\n")
