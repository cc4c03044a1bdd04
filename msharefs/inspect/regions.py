"""What a command knows of one region: its file's facts, its layout, and what it costs.

Owns the arithmetic of huge pages and page tables. It looks, and changes nothing.
"""

from __future__ import annotations

import grp
import os
import stat
from dataclasses import dataclass
from functools import cache
from typing import Any

from msharefs.abi import HUGE_PAGE_SIZE
from msharefs.cli import formatting
from msharefs.cli.errors import CommandError
from msharefs.client.layout import Layout, read_layout
from msharefs.inspect import mounts, processes

_SHMEM_ENABLED = "/sys/kernel/mm/transparent_hugepage/shmem_enabled"


@dataclass(frozen=True, slots=True)
class Facts:
    """A region as it is at one moment. Sizes are bytes."""

    path: str
    name: str
    file: os.stat_result
    layout: Layout | None
    """None for a region that the caller may not read."""

    @property
    def size(self) -> int:
        """The size, 0 while nobody has set it."""
        return self.file.st_size

    @property
    def memory(self) -> int:
        """What it has in memory, reserved or touched."""
        return self.file.st_blocks * 512

    @property
    def owner(self) -> str:
        """The name of its owner."""
        return processes.user_name(self.file.st_uid)

    @property
    def group(self) -> str:
        """The name of its group."""
        return _group_name(self.file.st_gid)

    @property
    def mode(self) -> str:
        """Its permissions as letters: "rw-r-----"."""
        return stat.filemode(self.file.st_mode)[1:]

    @property
    def shown(self) -> str:
        """The name, fit for a terminal."""
        return formatting.name(self.name)


@dataclass(frozen=True, slots=True)
class HugePages:
    """Whether memory comes in huge pages on a mount."""

    by_default: bool
    on_request: bool

    @classmethod
    def of(cls, status: dict[str, Any]) -> HugePages:
        """What the mount's status says; where it could not be read, a mount's default."""
        if status.get("data_plane", {}).get("name") == "paged":
            return cls(by_default=False, on_request=False)
        try:
            with open(_SHMEM_ENABLED, encoding="utf-8") as file:
                kernel = file.read().partition("[")[2].partition("]")[0]
        except OSError:
            kernel = ""  # a kernel without huge pages says no when they are asked for
        if kernel == "deny":
            return cls(by_default=False, on_request=False)
        policy = status.get("arena", {}).get("huge", "always")
        return cls(by_default=policy in {"always", "within_size"}, on_request=True)

    def bytes_of(self, layout: Layout) -> int:
        """How much of what is mapped lies in whole huge pages, one page table entry each."""
        total = 0
        for mapping in layout.mappings:
            if self.by_default or (self.on_request and mapping.huge):
                start = -(-mapping.offset // HUGE_PAGE_SIZE)
                total += max(mapping.end // HUGE_PAGE_SIZE - start, 0) * HUGE_PAGE_SIZE
        return total

    def table_cost(self, layout: Layout) -> tuple[int, int]:
        """Bytes of page tables for a process that touches all of the region: with small pages
        only, and as it is. The levels above, the same for both, are left out."""
        units = 0
        last = -1
        for mapping in layout.mappings:
            first = mapping.offset // HUGE_PAGE_SIZE
            units += (mapping.end - 1) // HUGE_PAGE_SIZE - first + (first != last)
            last = (mapping.end - 1) // HUGE_PAGE_SIZE
        small = units * processes.TABLE_SIZE
        return small, small - self.bytes_of(layout) // HUGE_PAGE_SIZE * processes.TABLE_SIZE


def facts_of(found: mounts.Found) -> Facts:
    """The facts of a file that a search found. FileNotFoundError if it has gone since."""
    return Facts(found.path, found.name, found.file, _layout_or_nothing(found.path))


def look_at(path: str) -> tuple[mounts.Mount, Facts]:
    """The facts of the region at `path`, and its mount. OSError, CommandError if it is none."""
    mount = mounts.mount_of(path)
    file = os.stat(path)
    if not stat.S_ISREG(file.st_mode) or mounts.is_info(mount, path):
        raise CommandError(f"{formatting.name(path)} is not a region")
    return mount, Facts(path, path, file, _layout_or_nothing(path))


def needs_layout(facts: Facts) -> Layout:
    """The layout, for commands that are about it. CommandError for who may not read it."""
    if facts.layout is None:
        raise CommandError(f"{facts.shown} may not be read by you")
    return facts.layout


def _layout_or_nothing(path: str) -> Layout | None:
    try:
        # By name: an open descriptor of ours would be counted as a user of the region.
        return read_layout(lambda attribute: os.getxattr(path, attribute))
    except PermissionError:
        return None


@cache
def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
