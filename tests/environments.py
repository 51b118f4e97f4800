"""What pip and npm install for tests, each in a directory of its own that stays from run to run."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

INSTALL_SECONDS = 240  # a minute at most has been seen
ROOT = Path(os.environ.get("SQS_CLIENTS_DIR") or Path.home() / ".cache" / "tq-sqs-clients")


class Environment:
    """A directory with a client in it, or into which one is being installed.

    It stays from run to run, for it is thousands of files to write and to remove. Each week it is made anew, so that it
    has the newest versions. `installed` says what is in it. Who looks or installs holds the lock.
    """

    def __init__(self, name: str, command: str, root: Path = ROOT) -> None:
        self.name = name
        self.path = root / name / "env"
        self._log = root / name / "log"
        self._deadline = time.monotonic() + INSTALL_SECONDS
        self._process: subprocess.Popen[bytes] | None = None
        key = f"{command} {sys.executable} {sys.version} {time.strftime('%G-%V')}"
        installed = root / name / "installed"
        installed.parent.mkdir(parents=True, exist_ok=True)
        with (root / name / "lock").open("w") as lock, self._log.open("ab") as log:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if installed.exists() and installed.read_text() == key:
                return
            log.truncate(0)
            steps = f'rm -rf env installed && mkdir env && cd env && {command} && printf %s "$KEY" > ../installed'
            self._process = subprocess.Popen(
                ["sh", "-c", steps],
                cwd=installed.parent,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "KEY": key, "PYTHON": sys.executable},
                pass_fds=[lock.fileno()],  # which holds the lock until it ends
                start_new_session=True,
            )

    def ready(self) -> Path:
        """Wait until it is installed; skip the test when it cannot be."""
        if self._process:
            try:
                code = self._process.wait(max(0, self._deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pytest.skip(f"{self.name} was not installed within {INSTALL_SECONDS} s")
            if code:
                lines = self._log.read_text(errors="replace").splitlines() or ["nothing was said"]
                pytest.skip(f"{self.name} cannot be installed: {'; '.join(lines[-4:])}")
        return self.path

    def close(self) -> None:
        if self._process and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
