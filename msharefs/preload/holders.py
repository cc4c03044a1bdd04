"""Which processes have which parts of a file attached: what /proc/PID/maps tells.

Owns who counts as a process of the run. The kernel's list of mappings is the only one that fork,
exec and kill keep right by themselves.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from msharefs.linux import proc

MAX_ROUNDS = 50
"""Processes that appear during a look are looked at in another round, so many times."""

Span = tuple[int, int]
"""Where in the file a window begins and ends, in bytes."""


@dataclass(slots=True)
class Holders:
    """Every process that has the file attached, at one moment."""

    windows: dict[int, list[Span]] = field(default_factory=dict)
    blind: list[int] = field(default_factory=list)
    """Descendants of ours that may not be looked into: they may have anything attached."""
    complete: bool = True
    """False if processes appeared faster than they could be looked at."""

    def of(self, span: Span) -> list[int]:
        """The processes that have, or may have, a byte of `span` attached."""
        found = [pid for pid, windows in self.windows.items() if overlaps(windows, span)]
        return sorted([*found, *self.blind])


def overlaps(windows: list[Span], span: Span) -> bool:
    """Whether one of the windows has a byte of `span`."""
    return any(start < span[1] and span[0] < end for start, end in windows)


def find_holders(device: int, inode: int, ours: frozenset[int] = frozenset()) -> Holders:
    """Look at all processes that may descend from us, but for `ours`.

    A process that has been seen without a window cannot inherit one: only one that is born
    meanwhile can, and that is looked at in the next round. So when a round finds nobody new,
    nobody was missed.
    """
    found = Holders()
    parents: dict[int, int] = {}
    for _ in range(MAX_ROUNDS):
        fresh = set(proc.pids()) - parents.keys()
        if not fresh:
            return found
        parents.update((pid, _parent(pid)) for pid in fresh)
        for pid in fresh - ours:
            if _is_stranger(pid, parents):
                continue
            windows = windows_of(pid, device, inode)
            if windows is None:
                found.blind.append(pid)
            elif windows:
                found.windows[pid] = windows
    found.complete = False
    return found


def windows_of(pid: int, device: int, inode: int) -> list[Span] | None:
    """What a process has attached of the file. None if it is ours and does not let us look."""
    try:
        areas = proc.areas(pid, device, inode)
    except PermissionError:
        return None if _descends_from_us(pid) else []
    except ProcessLookupError:
        return []
    return [(area.offset, area.offset + area.size) for area in areas]


def open_elsewhere(device: int, inode: int) -> bool:
    """Whether a process that we may look into has a descriptor of the file."""
    for pid in proc.pids():
        try:
            for file in proc.descriptors(pid):
                if (file.st_dev, file.st_ino) == (device, inode):
                    return True
        except OSError:
            continue  # it has ended, or it is somebody else's
    return False


def _parent(pid: int) -> int:
    """The parent's number; -1 if the process has ended."""
    try:
        return proc.stat(pid).parent
    except ProcessLookupError:
        return -1


def _is_stranger(pid: int, parents: dict[int, int]) -> bool:
    """Whether the process certainly does not descend from us. All that do lead to us, as
    orphans of ours become our children; a chain with a gap proves nothing."""
    ours = os.getpid()
    while pid > 0:
        if pid == ours:
            return False
        pid = parents.get(pid, -1)
    return pid == 0


def _descends_from_us(pid: int) -> bool:
    """Whether the process is a child of ours, or of one, and so on, at this moment."""
    ours = os.getpid()
    while pid > 0 and pid != ours:
        pid = _parent(pid)
    return pid == ours
