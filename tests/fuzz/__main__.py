"""`python -m tests.fuzz TARGET --seconds N`: a search by coverage, with atheris, in this process.

What is found is left in the working directory as `crash-…`, `timeout-…` or `oom-…` by libFuzzer; its bytes go into
`corpus.FOUND` with the mending. `--corpus DIR` keeps what reached something new, for the next time.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["tq"]):
    from tests.fuzz.corpus import CORPUS
    from tests.fuzz.targets import MAX_INPUT_BYTES, TARGETS, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--corpus", type=Path, help="directory of what was found to be of interest")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as seeds:
        for number, data in enumerate(CORPUS[given.target]):
            (Path(seeds) / str(number)).write_bytes(data)
        if given.corpus:
            given.corpus.mkdir(parents=True, exist_ok=True)
        places = [str(given.corpus), seeds] if given.corpus else [seeds]
        bounds = [
            f"-max_total_time={given.seconds}",
            f"-max_len={MAX_INPUT_BYTES}",
            "-timeout=10",
            "-rss_limit_mb=2048",
        ]
        target = TARGETS[given.target]
        atheris.Setup([sys.argv[0], *bounds, "-print_final_stats=1", *places], lambda data: run(target, data))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
