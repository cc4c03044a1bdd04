"""A whole run: its tables, the machine and the effort, as a value and as JSON."""

from __future__ import annotations

import json
import os
import platform
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from .frame import Table, from_json, to_json

VERSION = 2


@dataclass(frozen=True)
class Run:
    """What was measured, and what is needed to compare it with another run."""

    machine: Mapping[str, str]
    tables: tuple[Table, ...]

    def table(self, name: str) -> Table | None:
        """None where it was not measured."""
        return next((table for table in self.tables if table.name == name), None)


def machine() -> dict[str, str]:
    """What a run has to be judged by."""
    return {
        "processor": _processor(),
        "cpus": str(os.cpu_count()),
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "python": f"{platform.python_version()} {_optimized()}",
        "load": f"{os.getloadavg()[0]:.1f} at the beginning",
    }


def _processor() -> str:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as text:
        names = [line.partition(":")[2].strip() for line in text if line.startswith("model name")]
    return names[0] if names else "not named"


def _optimized() -> str:
    """How the interpreter was built: with both it is 15 to 20 % faster."""
    words = str(sysconfig.get_config_var("CONFIG_ARGS"))
    options = {"PGO": "--enable-optimizations", "LTO": "--with-lto"}
    found = [name for name, option in options.items() if option in words]
    return f"({' and '.join(found)})" if found else "(neither PGO nor LTO)"


def sentence(run: Run) -> str:
    """The machine in a line for people."""
    found = run.machine
    return (
        f"{found['processor']}, {found['cpus']} processors, {found['memory']}, Linux {found['kernel']} "
        f"{found['architecture']}, Python {found['python']}; load {found['load']}; {found['effort']}."
    )


def write(path: Path, run: Run) -> None:
    """Every sample."""
    record = {
        "version": VERSION,
        "machine": dict(run.machine),
        "tables": [to_json(table) for table in run.tables],
    }
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read(path: Path) -> Run:
    """What `write` wrote. Ends with a sentence where it is something else."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["version"] != VERSION:
            raise ValueError(f"is of version {record['version']}, not {VERSION}")
        return Run(record["machine"], tuple(map(from_json, record["tables"])))
    except (OSError, ValueError, KeyError, TypeError) as problem:
        print(f"bench: {path} is no record of a run: {problem}", file=sys.stderr)
        raise SystemExit(2) from None
