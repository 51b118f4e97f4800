"""The documents of the project: their blocks of code, their links, and what these may lead to."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.harness import ROOT

DOCUMENTS = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

_BLOCK = re.compile(r"(?:<!-- not run: (?P<why>[^\n]+) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)


class Block(NamedTuple):
    """A fenced block; `why` says why no test runs it, and is empty where one does."""

    document: str
    language: str
    text: str
    why: str


def read(document: str) -> str:
    return (ROOT / document).read_text()


def blocks(document: str, language: str = "") -> list[Block]:
    """Those in a language, or all that name one."""
    found = [Block(document, m["language"], m["text"], m["why"] or "") for m in _BLOCK.finditer(read(document))]
    return [block for block in found if block.language and language in ("", block.language)]


def prose(document: str) -> str:
    """The text without its blocks and without what is quoted as code."""
    return re.sub(r"`[^`\n]*`", "``", _BLOCK.sub("", read(document)))


def links(document: str) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", prose(document))


def anchors(document: str) -> set[str]:
    """What GitHub calls the headings of a document: words of their text, joined."""
    headings = re.findall(r"^#+ (.+)$", _BLOCK.sub("", read(document)), re.M)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def resolve(document: str, link: str) -> tuple[Path, str]:
    """The file that a relative link leads to, and its part behind the #."""
    path, _, anchor = link.partition("#")
    return ((ROOT / document).parent / path if path else ROOT / document), anchor
