"""Who has a region attached: what /proc/PID/maps and smaps tell with the caller's rights.

Owns the reading of /proc. A region is known here by the device and inode numbers that its
mappings carry, whatever its name is or was.
"""

from __future__ import annotations

import os
import pwd
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache

HUGE_PAGE_SIZE = 2 << 20
_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of the kernel's include/linux/sched.h."""
TABLE_SIZE = 4096
"""One page of page table; it holds the entries for one huge page's worth of small pages."""


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

    attached: defaultdict[int | None, list[int]] = field(default_factory=lambda: defaultdict(list))
    """Inode number to the pids that have it attached."""
    unseen: int = 0
    """Processes that the caller has no right to look into."""
    hidden: bool = False
    """Whether /proc does not even list the processes of others."""


def scan(device: int) -> Scan:
    """Find every process that has files of `device` attached."""
    result = Scan(hidden=_others_are_hidden())
    mark = _device_mark(device)
    for pid in _pids():
        try:
            with open(f"/proc/{pid}/maps", "rb") as file:
                text = file.read()
        except PermissionError:
            result.unseen += _has_memory(pid)
            continue
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, or it is a thread of the kernel
        # Few processes have any, so the lines are taken apart only where there is one.
        if mark in text:
            for inode in {_inode(line, mark) for line in text.splitlines()} - {None}:
                result.attached[inode].append(pid)
    return result


def processes(device: int, inode: int, pids: list[int]) -> Iterator[Process]:
    """Of those pids, what each has attached of the file, measured."""
    for pid in pids:
        try:
            with open(f"/proc/{pid}/smaps", "rb") as file:
                windows = windows_of(file.read(), device, inode)
            if windows:
                yield Process(pid, _uid(pid), command(pid), windows)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or it has become another user's, since the scan


def windows_of(smaps: bytes, device: int, inode: int) -> list[Window]:
    """The windows on a file in the text of /proc/PID/smaps (proc(5))."""
    mark = _device_mark(device)
    found: list[Window] = []
    current: Window | None = None
    for line in smaps.splitlines():
        key = line.split(maxsplit=1)[0]
        if not key.endswith(b":"):
            current = _window(line) if _inode(line, mark) == inode else None
            if current is not None:
                found.append(current)
        elif current is not None:
            if key == b"Rss:":
                current.touched = _kib(line)
            elif key in {b"ShmemPmdMapped:", b"FilePmdMapped:"}:
                current.huge += _kib(line)
    return found


def command(pid: int) -> str:
    """The command line, or the name in brackets for a process without one."""
    with open(f"/proc/{pid}/cmdline", "rb") as file:
        words = file.read().rstrip(b"\0").split(b"\0")
    if words == [b""]:
        with open(f"/proc/{pid}/comm", "rb") as file:
            return f"[{os.fsdecode(file.read().strip())}]"
    return os.fsdecode(b" ".join(words))


@cache
def user_name(uid: int) -> str:
    """The name of a user, or the number of one without a name."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _window(line: bytes) -> Window:
    addresses, prot, offset = line.split()[:3]
    start, _, end = addresses.partition(b"-")
    return Window(int(start, 16), int(end, 16), int(offset, 16), prot.decode("ascii"))


def _inode(line: bytes, mark: bytes) -> int | None:
    """The inode of a line of maps, if it is about that device."""
    # A path may look like a device: only the fourth field is one.
    if mark not in line:
        return None
    fields = line.split(maxsplit=5)
    return int(fields[4]) if fields[3] == mark.strip() else None


def _kib(line: bytes) -> int:
    return int(line.split()[1]) * 1024


def _device_mark(device: int) -> bytes:
    """How a line of maps names the device; inodes are in decimal behind it."""
    return b" %02x:%02x " % (os.major(device), os.minor(device))


def _pids() -> list[int]:
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _has_memory(pid: int) -> bool:
    """Whether a process that may not be looked into could have anything attached at all."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The command may hold blanks and brackets of its own (proc(5)).
            state, *numbers = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != b"Z" and not int(numbers[5]) & _KERNEL_THREAD


def _uid(pid: int) -> int:
    """The effective user. Not the owner of /proc/PID, which is root for some."""
    with open(f"/proc/{pid}/status", "rb") as lines:
        for line in lines:
            if line.startswith(b"Uid:"):
                return int(line.split()[2])
    raise ProcessLookupError(pid)


def _others_are_hidden() -> bool:
    """Whether /proc is mounted with hidepid= and we are not root."""
    if os.geteuid() == 0:
        return False
    with open("/proc/self/mounts", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            _, path, kind, options = line.split()[:4]
            if path == "/proc" and kind == "proc":
                return any(
                    word in {"hidepid=2", "hidepid=invisible", "hidepid=4", "hidepid=ptraceable"}
                    for word in options.split(",")
                )
    return False
