"""A memory group (cgroup) of a test's own, of version 1 or 2, whichever the machine has.

Knows where groups are mounted and how a process is put into one. Needs root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers.waiting import eventually


class MemoryGroup:
    """What the processes of the group have got counts here, in bytes."""

    def __init__(self, path: Path, usage: str) -> None:
        self.path = path
        self._usage = path / usage
        self._limit = path / (
            "memory.max" if usage == "memory.current" else "memory.limit_in_bytes"
        )

    def add(self, pid: int) -> None:
        """What the process gets from now on counts in this group."""
        (self.path / "cgroup.procs").write_text(f"{pid}\n")

    def limit(self, size: int) -> None:
        """All its processes together may have so many bytes from now on."""
        self._limit.write_text(f"{size}\n")

    def used(self) -> int:
        """Bytes of all its processes together, files in memory among them."""
        return int(self._usage.read_text())


def _parent() -> tuple[Path, str] | None:
    """The directory for new groups, and the file in each that says what is used."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        place, kind, options = Path(head.split()[4]), tail.split()[0], tail.split()[-1]
        if kind == "cgroup" and "memory" in options.split(","):
            return place, "memory.usage_in_bytes"
        control = place / "cgroup.subtree_control"
        if kind == "cgroup2" and "memory" in control.read_text().split():
            return place, "memory.current"
    return None


def missing_for_memory_groups() -> str | None:
    """Why this machine cannot make memory groups, or None."""
    found = _parent()
    if found is None:
        return "no memory groups are mounted"
    return None if os.access(found[0], os.W_OK) else f"{found[0]} is not writable"


@contextmanager
def memory_group() -> Iterator[MemoryGroup]:
    """A new group without a limit. Its processes must have ended with the block."""
    found = _parent()
    assert found is not None, "no memory groups are mounted"
    path = found[0] / f"msharefs-test-{os.getpid()}"
    path.mkdir()
    try:
        yield MemoryGroup(path, found[1])
    finally:

        def removed() -> bool:
            try:
                path.rmdir()
            except OSError:
                return False
            return True

        eventually(removed, what=f"{path} still has processes")
