"""What is left when all is gone: the machine before the first mount, and after the last."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..frame import Better, Cell, Column, Row, Table, Unit
from ..site import SHM
from ..ways import OVERCOMMIT, POOL

ROWS = (
    Row("mounts", "mounts of the bench", Unit.COUNT, Better.NEITHER),
    Row("processes", "daemons of msharefs on the machine", Unit.COUNT, Better.NEITHER),
    Row("shm", "files of msharefs and the bench in /dev/shm", Unit.COUNT, Better.NEITHER),
    Row("state", "directories in /run/msharefs", Unit.COUNT, Better.NEITHER),
    Row("sysv", "SysV segments", Unit.COUNT, Better.NEITHER),
    Row("pool", "pages of 2 MiB in the pool", Unit.COUNT, Better.NEITHER),
    Row("overcommit", "pages by which it may grow", Unit.COUNT, Better.NEITHER),
    Row("shmem", "Shmem of the machine", Unit.BYTES, Better.NEITHER),
    Row("tables", "PageTables of the machine", Unit.BYTES, Better.NEITHER),
)

BEFORE, AFTER = Column("before", "before"), Column("after", "after")

Look = Mapping[str, float]


def look() -> Look:
    """The counts of the rows now."""
    meminfo = dict(
        line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    )
    return {
        "mounts": _lines("/proc/self/mounts", "msharefs-bench"),
        "processes": _daemons(),
        "shm": _entries(SHM, "msharefs"),
        "state": _entries(Path("/run/msharefs"), ""),
        "sysv": _lines("/proc/sysvipc/shm", " ") - 1,
        "pool": int(POOL.read_text(encoding="ascii")),
        "overcommit": int(OVERCOMMIT.read_text(encoding="ascii")),
        "shmem": int(meminfo["Shmem"].split()[0]) << 10,
        "tables": int(meminfo["PageTables"].split()[0]) << 10,
    }


def _lines(path: str, word: str) -> int:
    text = Path(path).read_text(encoding="utf-8", errors="replace")
    return sum(word in line for line in text.splitlines())


def _entries(directory: Path, begin: str) -> int:
    if not directory.is_dir():
        return 0
    return sum(name.startswith(begin) for name in os.listdir(directory))


def _daemons() -> int:
    found = 0
    for entry in Path("/proc").glob("[0-9]*/comm"):
        try:
            found += entry.read_text(encoding="utf-8").startswith("mshare")
        except OSError:
            continue
    return found


def table(before: Look, after: Look) -> Table:
    """The two looks beside each other."""
    rows = tuple(
        Row(
            row.name,
            row.measure,
            row.unit,
            row.better,
            {"before": Cell((before[row.name],)), "after": Cell((after[row.name],))},
        )
        for row in ROWS
    )
    remark = "Shmem and PageTables are the whole machine's, whatever else runs on it."
    return Table("left", "What is left when all is gone", (BEFORE, AFTER), rows, remark=remark)
