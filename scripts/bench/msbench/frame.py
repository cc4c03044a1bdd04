"""The one shape of everything that is measured: tables of rows and columns, whose cells are figures.

Owns what a figure is (measured, computed, or not to be had, and why) and how a row says who is better.
Knows no way of measuring and no way of showing: a table is a value that goes into JSON and comes back.
"""

from __future__ import annotations

import enum
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEVEL = 1.05
"""Figures that differ by less than this factor are level: a machine is not as steady as that."""


class Unit(enum.Enum):
    """What the samples of a figure count."""

    SECONDS = "seconds"
    BYTES = "bytes"
    BYTES_PER_SECOND = "bytes/second"
    PER_SECOND = "operations/second"
    COUNT = "count"


class Better(enum.Enum):
    """Which of two figures of a row is the better one."""

    LESS = "less"
    MORE = "more"
    NEITHER = "neither"


@dataclass(frozen=True)
class Cell:
    """One figure. `samples` where it was measured or computed (then `computed` says how); without
    any, `words` says what stands there instead and `why` the reason."""

    samples: tuple[float, ...] = ()
    computed: str = ""
    words: str = "-"
    why: str = ""

    @property
    def value(self) -> float | None:
        """The median of the samples; None without any."""
        return statistics.median(self.samples) if self.samples else None

    @property
    def measured(self) -> float | None:
        """The same of what was measured; None for what was computed."""
        return None if self.computed else self.value


def missing(why: str) -> Cell:
    """What could not be measured."""
    return Cell(why=why)


@dataclass(frozen=True)
class Column:
    """What is compared. `name` is for the command line, JSON and the code, `head` for people."""

    name: str
    head: str
    rival: bool = False
    """Whether ours is compared with it."""


@dataclass(frozen=True)
class Row:
    """One line of a table, in the words of those who measure."""

    name: str
    measure: str
    unit: Unit
    better: Better = Better.LESS
    cells: Mapping[str, Cell] = field(default_factory=dict)
    remark: str = ""
    """Said below the table."""

    def cell(self, column: str) -> Cell:
        """What stands in a column; an empty cell where nothing was to be measured."""
        return self.cells.get(column, Cell())


@dataclass(frozen=True)
class Table:
    """Rows over the same columns. `ours` and `usual` are the columns of which each row says how they
    compare: ours with the usual one, and with the best of the others."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ours: str = ""
    usual: str = ""
    remark: str = ""

    def row(self, name: str) -> Row:
        """KeyError without it."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def head(self, name: str) -> str:
        """What people call a column."""
        return next(column.head for column in self.columns if column.name == name)


def beside_usual(table: Table, row: Row) -> str:
    """How ours is beside the usual way; "" where that says nothing."""
    usual = row.cell(table.usual).measured
    return _compared(row, row.cell(table.ours).measured, usual)


def beside_best(table: Table, row: Row) -> str:
    """How ours is beside the best of its rivals, with the name of that one."""
    rivals = [column.name for column in table.columns if column.rival]
    found = {name: row.cell(name).measured for name in rivals}
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        return ""
    best = (max if row.better is Better.MORE else min)(known, key=lambda name: known[name])
    words = _compared(row, row.cell(table.ours).measured, known[best])
    return f"{words}, {table.head(best)}" if words else ""


def _compared(row: Row, ours: float | None, theirs: float | None) -> str:
    """A win, a loss and a draw are said in words of the same size."""
    if ours is None or theirs is None or row.better is Better.NEITHER:
        return ""
    if ours == theirs:
        return "LEVEL"
    if min(ours, theirs) <= 0:
        return "WINS" if (ours < theirs) is (row.better is Better.LESS) else "LOSES"
    factor = theirs / ours if row.better is Better.LESS else ours / theirs
    if 1 / LEVEL <= factor <= LEVEL:
        return "LEVEL"
    return f"WINS {times(factor)}" if factor > 1 else f"LOSES {times(1 / factor)}"


def times(factor: float) -> str:
    """A factor, as exactly as it is worth."""
    return f"{factor:,.0f} times" if factor >= 20 else f"{factor:.1f} times"


def exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """The power of the size with which the values grow: the slope of the line of least squares
    through the logarithms. 0: not at all; 1: in step. At least two sizes, nothing below or at 0."""
    x, y = [math.log(size) for size in sizes], [math.log(value) for value in values]
    return statistics.linear_regression(x, y).slope


def amount(value: float, unit: Unit) -> str:
    """A figure for people."""
    if unit is Unit.SECONDS:
        for factor, name in ((1.0, "s"), (1e3, "ms"), (1e6, "us")):
            if value * factor >= 1:
                return f"{value * factor:.3g} {name}"
        return f"{value * 1e9:.3g} ns" if value else "0"
    if unit is Unit.PER_SECOND and value >= 1e6:
        return f"{value / 1e6:.1f} M/s"
    if unit is Unit.PER_SECOND:
        return f"{value:,.0f} /s"
    if unit is Unit.COUNT:
        return f"{value:,.2f}" if abs(value) < 10 and value % 1 else f"{value:,.0f}"
    suffix = "/s" if unit is Unit.BYTES_PER_SECOND else ""
    for shift, name in ((30, "GiB"), (20, "MiB")):
        if value >= 1 << shift:
            return f"{value / (1 << shift):.1f} {name}{suffix}"
    return f"{value / 1024:.0f} KiB{suffix}" if value else "0"


def shown(cell: Cell, unit: Unit) -> str:
    """A cell for people; what was computed is marked."""
    if cell.value is None:
        return cell.words
    return ("~" if cell.computed else "") + amount(cell.value, unit)


def to_json(table: Table) -> dict[str, Any]:
    """All of it, every sample."""
    return {
        "name": table.name,
        "title": table.title,
        "ours": table.ours,
        "usual": table.usual,
        "remark": table.remark,
        "columns": [
            {"name": column.name, "head": column.head, "rival": column.rival}
            for column in table.columns
        ],
        "rows": [
            {
                "name": row.name,
                "measure": row.measure,
                "unit": row.unit.value,
                "better": row.better.value,
                "remark": row.remark,
                "cells": {name: _cell_to_json(cell) for name, cell in row.cells.items()},
            }
            for row in table.rows
        ],
    }


def _cell_to_json(cell: Cell) -> dict[str, Any]:
    record: dict[str, Any] = {"value": cell.value, "samples": list(cell.samples)}
    if cell.computed:
        record["computed"] = cell.computed
    if not cell.samples:
        record |= {"words": cell.words, "why": cell.why}
    return record


def from_json(record: Mapping[str, Any]) -> Table:
    """The table that to_json wrote."""
    return Table(
        name=record["name"],
        title=record["title"],
        columns=tuple(
            Column(column["name"], column["head"], column["rival"]) for column in record["columns"]
        ),
        rows=tuple(
            Row(
                name=row["name"],
                measure=row["measure"],
                unit=Unit(row["unit"]),
                better=Better(row["better"]),
                cells={name: _cell_from_json(cell) for name, cell in row["cells"].items()},
                remark=row["remark"],
            )
            for row in record["rows"]
        ),
        ours=record["ours"],
        usual=record["usual"],
        remark=record["remark"],
    )


def _cell_from_json(record: Mapping[str, Any]) -> Cell:
    return Cell(
        samples=tuple(record["samples"]),
        computed=record.get("computed", ""),
        words=record.get("words", "-"),
        why=record.get("why", ""),
    )
