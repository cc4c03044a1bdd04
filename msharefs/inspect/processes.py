"""Who has a region attached: what /proc/PID/maps and smaps tell with the caller's rights.

A region is known here by the device and inode numbers that its
mappings carry, whatever its name is or was. A mount that was made again has another device
number, and its regions have the inodes that they had.
"""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from msharefs.abi import HUGE_PAGE_SIZE
from msharefs.linux import mountinfo, proc

TABLE_SIZE = 4096
"""One page of page table; it holds the entries for one huge page's worth of small pages."""
KEEPS_OPEN = "---p"
"""Of a private mapping without any right: `mshare run` keeps the file of a region open by one."""
Segments = Mapping[tuple[int, int], int]
"""Device and inode number of the memory that processes have of a region itself, to the region's inode."""
_HIDING = {"hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable"}
"""Options of a /proc that does not list the processes of others (proc(5))."""


@dataclass(slots=True)
class Window:
    """One mapping of a region in a process. Bytes."""

    address: int
    end: int
    offset: int
    """Where in the region it begins."""
    prot: str
    touched: int = 0
    """How much of it the process has in its page tables."""
    huge: int = 0
    """How much of that by huge entries."""

    @property
    def size(self) -> int:
        """Its length."""
        return self.end - self.address

    @property
    def saved(self) -> int:
        """Page tables that small pages would have needed on top of what is there."""
        return self.huge // HUGE_PAGE_SIZE * TABLE_SIZE


@dataclass(slots=True)
class Process:
    """A process that has something attached."""

    pid: int
    uid: int
    command: str
    windows: list[Window]

    @property
    def user(self) -> str:
        """The name of its user."""
        return user_name(self.uid)


@dataclass(slots=True)
class Scan:
    """What was found, and how much could not be seen."""

    attached: defaultdict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Inode number to the pids that have it attached."""
    unseen: int = 0
    """Processes that the caller has no right to look into."""
    hidden: bool = False
    """Whether /proc does not even list the processes of others."""


def scan(devices: Collection[int], segments: Segments, supervisor: int) -> Scan:
    """Find every process that has files of these devices (st_dev) attached, a mount's, and those
    that it had before; or the memory of its regions itself, but for those that the mount's `supervisor`
    has started, which work on it."""
    result = Scan(hidden=_others_are_hidden())
    for pid in proc.pids():
        try:
            maps = proc.read_maps(pid)
        except PermissionError:
            result.unseen += _has_memory(pid)
        except ProcessLookupError:
            continue
        else:
            found = _regions_in(maps, devices, segments)
            for inode in found if found and not _serves(pid, supervisor) else ():
                result.attached[inode].append(pid)
    return result


def _regions_in(maps: bytes, devices: Collection[int], segments: Segments) -> set[int]:
    """The inodes of the regions that a process has attached, one way or the other."""
    files = {area.inode for device in devices for area in proc.areas_in(maps, device)}
    memory = {
        segments.get((device, area.inode))
        for device in {device for device, _ in segments}
        for area in proc.areas_in(maps, device)
    }
    return files | {inode for inode in memory if inode is not None}


def _serves(pid: int, supervisor: int) -> bool:
    """Whether it is a server, or what has files for one: a child of the supervisor's, or of a child's."""
    with suppress(ProcessLookupError):
        parent = proc.stat(pid).parent
        return supervisor > 0 and supervisor in (parent, proc.stat(parent).parent)
    return False


def processes(places: Collection[tuple[int, int]], pids: list[int]) -> Iterator[Process]:
    """Of those pids, what each has attached of a region, measured; the region is what has these device and
    inode numbers: its file, and its segment."""
    for pid in pids:
        try:
            smaps = proc.read_smaps(pid)
            windows = [
                _window(area)
                for device, inode in places
                for area in proc.measured_areas_in(smaps, device, inode)
                if area.area.prot != KEEPS_OPEN
            ]
            if windows:
                yield Process(pid, proc.effective_uid(pid), command(pid), windows)
        except (ProcessLookupError, PermissionError):
            continue  # it has ended, or it has become another user's, since the scan


def document(found: Sequence[Process], seen: Scan) -> dict[str, Any]:
    """Those processes as plain data, sizes in bytes, with what the scan could not see."""
    return {
        "processes": [
            {
                "pid": process.pid,
                "uid": process.uid,
                "user": process.user,
                "command": process.command,
                "windows": [
                    {
                        "address": window.address,
                        "offset": window.offset,
                        "size": window.size,
                        "prot": window.prot[:3],
                        "touched": window.touched,
                        "huge": window.huge,
                        "page_tables_saved": window.saved,
                    }
                    for window in process.windows
                ],
            }
            for process in found
        ],
        "unseen_processes": seen.unseen,
        "processes_hidden": seen.hidden,
    }


def command(pid: int) -> str:
    """The command line, or the name in brackets for a process without one."""
    words = proc.command_line(pid)
    return os.fsdecode(b" ".join(words) if words else b"[%s]" % proc.name(pid))


@cache
def user_name(uid: int) -> str:
    """The name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _window(measured: proc.MeasuredArea) -> Window:
    area, sizes = measured.area, measured.sizes
    return Window(
        area.start,
        area.end,
        area.offset,
        area.prot,
        touched=sizes.get(b"Rss", 0),
        huge=sizes.get(b"ShmemPmdMapped", 0) + sizes.get(b"FilePmdMapped", 0),
    )


def _has_memory(pid: int) -> bool:
    """Whether a process that may not be looked into could have anything attached at all."""
    try:
        facts = proc.stat(pid)
    except ProcessLookupError:
        return False
    if pid == 1 and os.geteuid() == 0:
        # Where root may not look into the first process, somebody outside keeps this machine or
        # container with it. A program that a container runs as its first one can be looked into.
        return False
    return facts.state != "Z" and not facts.is_kernel_thread


def _others_are_hidden() -> bool:
    """Whether /proc is mounted with hidepid= and we are not root."""
    if os.geteuid() == 0:
        return False
    tables = [mount for mount in mountinfo.own_mounts() if mount.path == "/proc"]
    return bool(tables) and not _HIDING.isdisjoint(tables[-1].super_options)
