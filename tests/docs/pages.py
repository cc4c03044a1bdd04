"""The blocks of a page, and whether what a command printed is what the page shows.

Reads Markdown and compares text; runs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.mount import ROOT

_BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)^```$", re.MULTILINE)
_FILE_NAME = re.compile(r"`([\w@.-]+\.\w+)`[^`]*:\n\n\Z")
_NUMBER = re.compile(r"[0-9][0-9,]*(\.[0-9]+)*")
_ADDRESS = re.compile(r"[0-9a-f]{9,}")
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block. `file` is the name that the sentence before it gives it, or nothing."""

    page: str
    line: int
    language: str
    file: str
    text: str

    def __str__(self) -> str:
        return f"{Path(self.page).stem}:{self.line}"


@dataclass(slots=True)
class Step:
    """A command of a console block, whose it is, and what the page shows as its answer."""

    command: str
    root: bool
    shown: list[str]


def blocks(page: str) -> list[Block]:
    """All fenced blocks of a page in docs/, whatever their language."""
    text = (ROOT / "docs" / page).read_text()
    assert text.count("\n```") % 2 == 0, f"{page} has a block without an end"
    found = []
    for match in _BLOCK.finditer(text):
        name = _FILE_NAME.search(text[: match.start()])
        line = text.count("\n", 0, match.start()) + 1
        file = name[1] if name else ""
        found.append(Block(page, line, match[1].strip(), file, match[2]))
    return found


def steps(block: Block) -> list[Step]:
    """The commands of a console block. AssertionError where an answer has no command."""
    found: list[Step] = []
    for line in block.text.splitlines():
        prompt, command = line[:2], line[2:]
        if prompt in ("$ ", "# "):
            words = command.removeprefix("sudo ")
            root = prompt == "# " or words != command
            assert "sudo " not in words, f"{block}: sudo stands at the beginning of a line"
            found.append(Step(words, root, []))
        else:
            assert found, f"{block} begins with {line!r}, which is no command"
            found[-1].shown.append(line)
    assert found, f"{block} has no command"
    return found


def first_missing(shown: list[str], output: str) -> str | None:
    """The first line of the page that the output does not have, in this order; "..." is any."""
    seen = iter(output.splitlines())
    for line in shown:
        if line.strip() not in ("...", "") and not any(alike(line, other) for other in seen):
            return line
    return None


def alike(shown: str, seen: str) -> bool:
    """Whether two lines say the same: word for word, with room in numbers that differ by nature."""
    ours, theirs = shown.split(), seen.split()
    units = [*ours[1:], ""]
    return len(ours) == len(theirs) and all(map(_same_word, ours, theirs, units))


def _same_word(shown: str, seen: str, unit: str) -> bool:
    if shown == seen:
        return True
    if _ADDRESS.fullmatch(shown) and _ADDRESS.fullmatch(seen):
        return True
    ours, theirs = _NUMBER.match(shown), _NUMBER.match(seen)
    if not ours or not theirs or shown[ours.end() :] != seen[theirs.end() :]:
        return False
    if ours[0].count(".") > 1:
        return theirs[0].count(".") > 1  # a version
    if unit in ("s", "ms", "us"):
        return True
    wanted, there = (float(found[0].replace(",", "")) for found in (ours, theirs))
    if wanted >= 1000:
        # A process or so; but whole pages are sizes, and those are what the page is about.
        return bool(wanted % PAGE and there % PAGE)
    return wanted / 3 <= there <= wanted * 3
