"""How much is measured: all of it, or what fits into five minutes. Sizes are bytes."""

from __future__ import annotations

from dataclasses import dataclass

MIB, GIB = 1 << 20, 1 << 30


@dataclass(frozen=True)
class Effort:
    """How often, how large and how many."""

    name: str
    rounds: int
    """Of what is compared in turns."""
    mounts: int
    """Mounts and ends of a server."""
    attached: int
    """What a process attaches and touches."""
    read: int
    """What a new process reads from end to end; at least `attached`."""
    herds: tuple[int, ...]
    """Processes that attach at once."""
    turns: int
    """Lives of a region of each client of the control operations."""
    regions: tuple[int, ...]
    mappings: tuple[int, ...]
    processes: tuple[int, ...]
    array: int
    """What eight processes calculate with."""
    clients: tuple[int, ...]
    """Of PostgreSQL."""
    database_rounds: int
    database_seconds: int
    database_scale: int
    slow_goals: bool
    """Whether goals that take minutes to prepare are measured."""


WHOLE = Effort(
    name="the whole",
    rounds=15,
    mounts=5,
    attached=GIB,
    read=4 * GIB,
    herds=(4, 100, 800),
    turns=400,
    regions=(10, 100, 1_000, 10_000, 100_000),
    mappings=(10, 100, 1_000, 10_000, 60_000),
    processes=(1, 10, 100, 1_000),
    array=512 * MIB,
    clients=(100, 200, 400),
    database_rounds=2,
    database_seconds=5,
    database_scale=50,
    slow_goals=True,
)

QUICK = Effort(
    name="quick (QUICK=1)",
    rounds=3,
    mounts=2,
    attached=256 * MIB,
    read=512 * MIB,
    herds=(4, 100),
    turns=60,
    regions=(10, 100, 1_000, 10_000),
    mappings=(10, 100, 1_000, 10_000),
    processes=(1, 10, 100),
    array=64 * MIB,
    clients=(50,),
    database_rounds=1,
    database_seconds=3,
    database_scale=10,
    slow_goals=False,
)
