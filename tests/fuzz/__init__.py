"""Fuzzing: what is given hostile bytes (`targets`), what they are made of (`corpus`), and how they are changed
(`mutations`).

`python -m tests.fuzz connection --seconds 60` searches by coverage, with atheris (`pip install '.[fuzz]'`). The
targets need no atheris: `tests/test_fuzz.py` gives each of them its corpus and some thousand changes of it.
"""
