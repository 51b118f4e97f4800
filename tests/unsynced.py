"""Runs tq over an LMDB without one of its syncs, so that tests of power cuts can show that they notice.

    python -m tests.unsynced sync|metasync python -m tq serve …

The product has no such option.
"""

from __future__ import annotations

import functools
import sys

import lmdb

from tq.cli import main

if __name__ == "__main__":
    option, arguments = sys.argv[1], sys.argv[sys.argv.index("tq") + 1 :]
    lmdb.open = functools.partial(lmdb.open, **{option: False})  # type: ignore[assignment]
    main(arguments)
