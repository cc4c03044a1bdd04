"""What is measured and what is wanted of it: the one place that holds the targets.

Owns no way of measuring and no way of printing: measures.py fills a Figure for
each Goal here, goals.py makes a table of both.
"""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from ..frame import Unit


class Kind(enum.Enum):
    """How a figure is judged."""

    TIMES_LESS = "theirs / ours, at least"
    SHARE = "ours / theirs, at least"
    TIMES_AS_MUCH = "ours / theirs, at most"
    ABSOLUTE = "ours, at most"


@dataclass(frozen=True)
class Goal:
    """One row of the table before it is measured."""

    name: str
    measure: str
    against: str
    unit: Unit
    kind: Kind
    wanted: float
    slow: bool = False
    """Left out of a quick run."""


@dataclass(frozen=True)
class Figure:
    """What was measured for a goal: every sample of both sides, and a remark."""

    ours: tuple[float, ...]
    theirs: tuple[float, ...] = ()
    note: str = ""


SHM = "POSIX shm, 4 KiB pages"
PLAINLY = "the same program without"
MIB = 1 << 20


def _among_many(name: str, operation: str) -> Goal:
    """An operation among very many regions and among few."""
    return Goal(
        name,
        f"{operation}, 100,000 regions there",
        "10 regions there",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.2,
        slow=True,
    )


GOALS = (
    Goal(
        "page-tables",
        "page tables of a process, 1 GiB touched",
        SHM,
        Unit.BYTES,
        Kind.TIMES_LESS,
        250,
    ),
    Goal(
        "attach",
        "attach and touch 1 GiB, new process",
        SHM,
        Unit.SECONDS,
        Kind.TIMES_LESS,
        8,
    ),
    Goal(
        "write",
        "sequential write, 1 GiB",
        "anonymous huge pages",
        Unit.BYTES_PER_SECOND,
        Kind.SHARE,
        0.95,
    ),
    Goal(
        "random",
        "random 8-byte read over 2 GiB",
        SHM,
        Unit.SECONDS,
        Kind.TIMES_LESS,
        1.3,
    ),
    Goal("stat", "stat", "tmpfs", Unit.SECONDS, Kind.TIMES_AS_MUCH, 1.05),
    Goal("fstat", "fstat", "tmpfs", Unit.SECONDS, Kind.TIMES_AS_MUCH, 1.05),
    Goal("open", "open + close", "C libfuse", Unit.SECONDS, Kind.TIMES_AS_MUCH, 0.9),
    Goal(
        "create",
        "create + size + close + unlink",
        "plain pyfuse3",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.0,
    ),
    Goal(
        "map",
        "CREATE_MAPPING + UNMAP, 2 MiB",
        "C libfuse, two ioctls",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.6,
    ),
    Goal(
        "map-work",
        "CREATE_MAPPING + UNMAP, 2 MiB",
        "C libfuse, fallocate and punch",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.25,
    ),
    Goal(
        "crowd",
        "open + close by 16 processes at once",
        "C libfuse",
        Unit.PER_SECOND,
        Kind.SHARE,
        0.7,
    ),
    Goal(
        "regions",
        "create + size + map + unlink, 10,000 regions there",
        "10 regions there",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.3,
    ),
    Goal(
        "mappings",
        "CREATE_MAPPING, 60,000 mappings in the region",
        "10 mappings in it",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.5,
    ),
    Goal(
        "file-map",
        "CREATE_MAPPING of a file of 4 KiB",
        "of memory, 4 KiB",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        2,
    ),
    Goal(
        "file-read",
        "CREATE_MAPPING of a file of 1 GiB in the page cache",
        "cp FILE /dev/shm/X",
        Unit.BYTES_PER_SECOND,
        Kind.SHARE,
        0.7,
    ),
    Goal(
        "file-write",
        "fsync of a region, 1 GiB of a file changed",
        "cp /dev/shm/X FILE, and fsync of FILE",
        Unit.BYTES_PER_SECOND,
        Kind.SHARE,
        0.7,
    ),
    Goal(
        "file-changed",
        "fsync of a region, 1 % of the pages of 1 GiB changed",
        "all of them changed",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        0.1,
    ),
    Goal(
        "memory",
        "memory of the daemon, 10,000 regions (RSS)",
        "-",
        Unit.BYTES,
        Kind.ABSOLUTE,
        120 * MIB,
    ),
    Goal(
        "many-make",
        "to make one of 100,000 regions",
        "-",
        Unit.SECONDS,
        Kind.ABSOLUTE,
        0.7e-3,
        slow=True,
    ),
    _among_many("many-stat", "stat"),
    _among_many("many-open", "open + close"),
    _among_many("many-map", "CREATE_MAPPING + UNMAP, 2 MiB"),
    _among_many("many-create", "create + size + map + unlink"),
    Goal(
        "many-memory",
        "memory of the daemon, 100,000 regions (RSS)",
        "-",
        Unit.BYTES,
        Kind.ABSOLUTE,
        200 * MIB,
        slow=True,
    ),
    Goal(
        "block",
        "SharedMemory: create + close + unlink, 100 bytes",
        "multiprocessing",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        10,
    ),
    Goal(
        "block-attach",
        "SharedMemory: attach + close, 100 bytes",
        "multiprocessing",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        10,
    ),
    Goal(
        "direct-attach-small",
        "direct, as a user: attach and touch 1 GiB, small pages",
        SHM,
        Unit.SECONDS,
        Kind.TIMES_LESS,
        1,
    ),
    Goal(
        "direct-attach",
        "direct, as a user: the same after the collapse",
        SHM,
        Unit.SECONDS,
        Kind.TIMES_LESS,
        6,
    ),
    Goal(
        "direct-tables",
        "direct, as a user: page tables, 1 GiB touched, after the collapse",
        SHM,
        Unit.BYTES,
        Kind.TIMES_LESS,
        250,
    ),
    Goal(
        "direct-write",
        "direct, as a user: sequential write, 1 GiB",
        "anonymous huge pages",
        Unit.BYTES_PER_SECOND,
        Kind.SHARE,
        0.95,
    ),
    Goal(
        "paged-read",
        "paged: first touch of a page, 1 GiB in order",
        SHM,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        4,
    ),
    Goal(
        "paged-user",
        "paged: the same on a user's mount, with the mount's advice",
        "root's mount",
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.2,
    ),
    Goal(
        "paged-write",
        "paged: sequential write and msync, 1 GiB",
        "passthrough",
        Unit.BYTES_PER_SECOND,
        Kind.SHARE,
        0.25,
    ),
    Goal(
        "paged-pingpong",
        "paged: a word there and back, two processes",
        SHM,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.1,
    ),
    Goal(
        "run-anonymous",
        "mshare run: mmap + munmap, 64 KiB",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        3,
    ),
    Goal(
        "run-segment",
        "mshare run: shm_open to munmap, 1 MiB",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        5,
    ),
    Goal(
        "run-munmap",
        "mshare run: munmap of 64 MiB in the region, 400 processes",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        2,
    ),
    Goal(
        "run-fork",
        "mshare run: fork with 1,000 ranges in the region",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        1.2,
    ),
    Goal(
        "run-small-anonymous",
        "mshare run --min-size 64K: mmap + munmap, 64 KiB in the region",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        3,
    ),
    Goal(
        "run-small-segment",
        "mshare run --min-size 64K: shm_open to munmap, 1 MiB in the region",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        5,
    ),
    Goal(
        "run-small-munmap",
        "mshare run --min-size 64K: munmap of 64 KiB in the region, 400 processes",
        PLAINLY,
        Unit.SECONDS,
        Kind.TIMES_AS_MUCH,
        2,
    ),
    Goal(
        "gap",
        "kill -9 of the server until the next answer, 1,000 regions",
        "-",
        Unit.SECONDS,
        Kind.ABSOLUTE,
        0.02,
    ),
    Goal("mount", "mount until it answers", "-", Unit.SECONDS, Kind.ABSOLUTE, 1.5),
)


def ratio(goal: Goal, figure: Figure) -> float:
    """The number that is judged: the median itself, or that of the ratios of the rounds. Both sides
    of a round were measured one behind the other, so that what else the machine did then is in both."""
    if goal.kind is Kind.ABSOLUTE:
        return statistics.median(figure.ours)
    rounds = zip(figure.ours, figure.theirs, strict=True)
    middle = statistics.median(ours / theirs for ours, theirs in rounds)
    return 1 / middle if goal.kind is Kind.TIMES_LESS else middle


def middle(goal: Goal, figures: Sequence[Figure]) -> Figure:
    """Of several runs the one whose number is the middle one, with a remark about all."""
    runs = sorted(figures, key=partial(ratio, goal))
    middle = runs[len(runs) // 2]
    if len(runs) == 1:
        return middle
    spread = f"{len(runs)} runs: {ratio(goal, runs[0]):.3g} to {ratio(goal, runs[-1]):.3g}"
    return replace(middle, note="; ".join(filter(None, [middle.note, spread])))


def met(goal: Goal, figure: Figure) -> bool:
    """Whether the figure is as good as wanted."""
    if goal.kind in (Kind.TIMES_LESS, Kind.SHARE):
        return ratio(goal, figure) >= goal.wanted
    return ratio(goal, figure) <= goal.wanted
