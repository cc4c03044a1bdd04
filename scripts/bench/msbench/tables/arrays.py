"""A NumPy job over eight processes, with the array pickled to them or shared."""

from __future__ import annotations

from dataclasses import replace

from ..effort import GIB, MIB, Effort
from ..frame import Cell, Column, Row, Table, Unit
from ..site import Site

ROUNDS = 5
COLUMNS = (
    Column("pickled", "pickled", rival=True),
    Column("multiprocessing", "Python's SharedMemory", rival=True),
    Column("msharefs", "msharefs"),
)


def measure(site: Site, effort: Effort) -> list[Table]:
    """Seconds of the job in each way."""
    words = f"{effort.array / GIB:g} GiB" if effort.array >= GIB else f"{effort.array // MIB} MiB"
    row = Row("job", f"sum of square roots, {words}, 8 processes", Unit.SECONDS)
    cells = {}
    with site.msharefs(f"size={effort.array + 64 * MIB}", placed=False) as mounted:
        for column in COLUMNS:
            lines = site.python_probe(
                "job", column.name, effort.array, ROUNDS, mounted.path, placed=False
            )
            cells[column.name] = Cell(tuple(float(seconds) for [seconds] in lines))
    return [
        Table(
            "numpy",
            "A NumPy job over eight processes",
            COLUMNS,
            (replace(row, cells=cells),),
            "msharefs",
            "pickled",
        )
    ]
