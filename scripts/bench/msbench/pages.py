"""Puts the tables of a run into the pages, between marks.

Knows which pages there are, and what of the tables the README shows.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from .frame import Cell, Row, Table, beside_usual, shown
from .record import Run, sentence
from .terminal import markdown

PAGES = ("README.md", "docs/performance.md")

MARK = re.compile(r"(<!-- bench: ([a-z-]+) -->\n).*?(<!-- bench: end -->)", re.DOTALL)
"""What stands between is written by a run; a table that the run does not have stays as it is."""

SHORT_ROWS = ("vmpte", "attach", "tables-100", "tables-800", "attached-800")
SHORT_COLUMNS = ("shm", "tmpfs", "passthrough", "user", "direct")


def fill(project: Path, run: Run) -> None:
    """Write the pages below the project's directory."""
    for name in PAGES:
        page = project / name
        text = page.read_text(encoding="utf-8")
        page.write_text(MARK.sub(lambda found: _between(found, run), text), encoding="utf-8")


def _between(found: re.Match[str], run: Run) -> str:
    text = _text(found[2], run)
    return found[0] if text is None else f"{found[1]}\n{text}\n\n{found[3]}"


def _text(name: str, run: Run) -> str | None:
    if name == "machine":
        return sentence(run)
    if name == "short":
        memory = run.table("memory")
        return None if memory is None else f"{_short(memory)}\n\n{sentence(run)}"
    table = run.table(name)
    if table is None or not table.rows:
        return None
    # The goals may be of a run of their own, and then the line at the top is not theirs.
    return f"{markdown(table)}\n\n{sentence(run)}" if name == "goals" else markdown(table)


def _short(memory: Table) -> str:
    """A few rows and columns. What is ours says in its own cell how it is beside what is usual."""
    rows = []
    for row in memory.rows:
        if row.name not in SHORT_ROWS:
            continue
        cells = {name: _judged(memory, row, name) for name in SHORT_COLUMNS}
        rows.append(Row(row.name, row.measure, row.unit, row.better, cells))
    heads = {"user": "without root", "direct": "without root, direct"}
    columns = tuple(
        replace(column, head=heads.get(column.name, column.head))
        for column in memory.columns
        if column.name in SHORT_COLUMNS
    )
    return markdown(Table("short", memory.title, columns, tuple(rows)))


def _judged(memory: Table, row: Row, name: str) -> Cell:
    cell = row.cell(name)
    if name in (memory.usual, "tmpfs"):
        return Cell(words=shown(cell, row.unit))
    words = beside_usual(Table("", "", memory.columns, (), name, memory.usual), row)
    return Cell(words=shown(cell, row.unit) + (f", {words}" if words else ""))
