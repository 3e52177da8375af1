"""The tables of the errors pages: their rows, and which of them a message belongs to."""

import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

from tests.docs.messages import HOLE

DOCS = Path(__file__).parents[2] / "docs"
ENTRY = DOCS / "errors.md"
FOLDER = DOCS / "errors"
OTHERS = ("*SAELens*", "*TransformerLens*", "*torch*")
"""Rows of messages that are not ours are marked with one of these."""


@dataclass(frozen=True)
class Row:
    """One row of a table, with the patterns in its first cell."""

    page: Path
    line: int
    cells: tuple[str, ...]

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(DOCS.parent)}:{self.line}"

    @property
    def is_of_others(self) -> bool:
        return any(mark in self.cells[0] for mark in OTHERS)

    @cached_property
    def patterns(self) -> tuple[str, ...]:
        """What stands in backticks in the first cell; two backticks where the message itself has one."""
        return tuple(found.strip() for _, found in re.findall(r"(`+)(.+?)\1(?!`)", self.cells[0]))


def pages() -> list[Path]:
    """The entry page, and those by topic."""
    return [ENTRY, *sorted(FOLDER.glob("*.md"))]


@cache
def rows() -> list[Row]:
    """The rows of every table with a column of messages."""
    found = []
    for page in pages():
        in_table = False
        for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), start=1):
            if not line.startswith("|"):
                in_table = False
                continue
            cells = tuple(cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1])
            if cells[0].startswith("message"):
                in_table = True
            elif in_table and not set(cells[0]) <= set(":- "):
                found.append(Row(page, number, cells))
    return found


@cache
def fixed_parts(pattern: str) -> list[str]:
    """What of a pattern or message is always the same: the words between its holes."""
    parts = (re.sub(r"\s+", " ", part).strip(" .,:;'\"()[]") for part in pattern.split(HOLE))
    return [part for part in parts if re.search(r"\w", part)]


@cache
def n_fixed_letters(pattern: str) -> int:
    """How much of a pattern is always the same, in letters."""
    return len(re.sub(r"\W", "", "".join(fixed_parts(pattern))))


def covers(pattern: str, message: str) -> bool:
    """Whether a row's pattern describes a message: the pattern's fixed parts stand in it in their order."""
    at = 0
    for part in fixed_parts(pattern):
        at = message.find(part, at)
        if at < 0:
            return False
        at += len(part)
    return True
