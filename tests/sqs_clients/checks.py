"""What the scenarios in Python share: a check that is counted, and where the server is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

ENDPOINT = os.environ["SQS_ENDPOINT"]
REGION = os.environ["AWS_DEFAULT_REGION"]
ACCOUNT = "000000000000"

_counts = {"checks": 0}


def check(is_so: Any, message: str) -> None:
    assert is_so, message
    _counts["checks"] += 1


def same(found: Any, expected: Any, what: str) -> None:
    check(found == expected, f"{what}: {found!r} is not {expected!r}")


def raises(kind: type[Exception], call: Callable[[], Any]) -> Any:
    """The exception of that class which the call must raise."""
    try:
        call()
    except kind as error:
        check(True, "")
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def until(condition: Callable[[], Any], what: str, seconds: float = 20) -> Any:
    """Wait for what another process brings about; the first true answer."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.05)
    check(True, "")
    return found


def done(*versions: str) -> None:
    """What the test looks for: the versions that ran, and the last line."""
    print("ran", *versions)
    print(f"ok {_counts['checks']} checks")
