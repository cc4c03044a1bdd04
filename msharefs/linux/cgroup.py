"""How much memory this process' control group allows: v1 and v2, all groups above it included.

Owns where those groups are and the names of their files. It judges nothing; `root` is the
directory in which the machine's files are, for tests of other machines.

Shared memory is charged to the group of the process that first touches or reserves it. Over a
group's limit the kernel ends a process of the group.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from msharefs.linux import mountinfo
from msharefs.linux.mountinfo import Mount
from msharefs.linux.proc import meminfo

_NO_LIMIT = 1 << 62
"""From here on a limit of v1 is none; it has no word for that."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One control group that has a limit. Bytes."""

    path: str
    """Its directory."""
    limit: int
    used: int
    """What is charged to it, and to all groups below it."""
    reclaimable: int
    """How much of `used` the kernel takes back by itself when the limit is reached: the cache of
    files, but for shared memory."""
    swappable: int
    """How much more of it may go to the machine's swap, where the limit does not count it."""

    @property
    def available(self) -> int:
        """How much more its processes may have, 0 if it is full."""
        return max(self.limit - self.used + self.reclaimable + self.swappable, 0)


def memory_groups(root: str = "/") -> list[MemoryGroup]:
    """The groups with a limit of memory that this process is in, its own first; none where no
    group limits it, or where that cannot be seen."""
    try:
        table = mountinfo.read(os.path.join(root, "proc/self/mountinfo"))
        memberships = _text(root, "proc/self/cgroup").split("\n")
        free_swap = meminfo(root).get("SwapFree", 0)
    except OSError:
        return []
    found: list[MemoryGroup] = []
    for line in memberships:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if "memory" in controllers.split(","):
            read, mounts = _read_v1, [m for m in table if "memory" in m.super_options]
        elif number == "0":
            read, mounts = _read_v2, [m for m in table if m.kind == "cgroup2"]
        else:
            continue
        for directory in _upwards(mounts, path):
            group = read(root, directory, free_swap)
            if group is not None:
                found.append(group)
    return found


def memory_limit(root: str = "/") -> int | None:
    """The smallest limit of those groups in bytes, None without any."""
    return min((group.limit for group in memory_groups(root)), default=None)


def available_memory(root: str = "/") -> int | None:
    """How much more memory all those groups allow in bytes, None without any."""
    return min((group.available for group in memory_groups(root)), default=None)


def _upwards(mounts: list[Mount], path: str) -> Iterator[str]:
    """The directory of the group `path` and of those above it, as far as they can be seen here."""
    if not mounts:
        return
    place = mounts[0]
    # In a container the group may lie above or beside what is mounted.
    below = os.path.relpath(path, place.root)
    current = "" if below.startswith("..") else below
    while current not in {"", "."}:
        yield os.path.join(place.path, current)
        current = os.path.dirname(current)
    yield place.path


def _read_v2(root: str, directory: str, free_swap: int) -> MemoryGroup | None:
    """Beyond memory.high processes are slowed down until they hardly run, so that it counts as a
    limit too."""
    limits = [_number(root, f"{directory}/memory.{name}") for name in ("max", "high")]
    used = _number(root, f"{directory}/memory.current")
    limit = min((each for each in limits if each is not None), default=None)
    if limit is None or used is None:
        return None
    swap_limit = _number(root, f"{directory}/memory.swap.max")
    swapped = _number(root, f"{directory}/memory.swap.current") or 0
    swap = free_swap if swap_limit is None else max(swap_limit - swapped, 0)
    cache = _cache(root, directory, "")
    return MemoryGroup(directory, limit, used, cache, min(swap, free_swap))


def _read_v1(root: str, directory: str, free_swap: int) -> MemoryGroup | None:
    limit = _number(root, f"{directory}/memory.limit_in_bytes")
    used = _number(root, f"{directory}/memory.usage_in_bytes")
    if limit is None or limit >= _NO_LIMIT or used is None:
        return None
    both = _number(root, f"{directory}/memory.memsw.limit_in_bytes")
    both_used = _number(root, f"{directory}/memory.memsw.usage_in_bytes") or 0
    swap = free_swap if both is None else max(both - both_used - (limit - used), 0)
    cache = _cache(root, directory, "total_")
    return MemoryGroup(directory, limit, used, cache, min(swap, free_swap))


def _cache(root: str, directory: str, prefix: str) -> int:
    """The pages of files in memory.stat, which shared memory is not among."""
    wanted = {f"{prefix}inactive_file", f"{prefix}active_file"}
    total = 0
    with suppress(OSError):
        for line in _text(root, f"{directory}/memory.stat").splitlines():
            name, _, value = line.partition(" ")
            total += int(value) if name in wanted else 0
    return total


def _number(root: str, path: str) -> int | None:
    """What a file of a group says, None for "max" and where there is no such file."""
    try:
        word = _text(root, path).strip()
    except OSError:
        return None
    return int(word) if word.isdigit() else None


def _text(root: str, path: str) -> str:
    with open(os.path.join(root, path.lstrip("/")), "rb") as file:
        return os.fsdecode(file.read())
