"""What the kernel tells of processes and of the machine's memory: /proc, read and taken apart.

Owns the forms of maps, smaps, stat, status, meminfo and vmstat (proc(5)), which are read as bytes: names
of files and of programs in them may hold anything. Which processes and files matter is the
caller's business. A process that has ended is ProcessLookupError, whatever file told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import NamedTuple

_KERNEL_THREAD = 0x00200000
"""PF_KTHREAD of the kernel's include/linux/sched.h."""
_STOPPING = sum(
    1 << number - 1
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM)
)


class Area(NamedTuple):
    """One memory area of a process that maps a file: a line of maps. Bytes."""

    start: int
    end: int
    offset: int
    """Where in the file it begins."""
    prot: str
    """As it stands there: "rw-s"."""
    inode: int

    @property
    def size(self) -> int:
        """Its length."""
        return self.end - self.start


class MeasuredArea(NamedTuple):
    """An area with what is in memory of it: an entry of smaps. Bytes by the kernel's names."""

    area: Area
    sizes: dict[bytes, int]


class Stat(NamedTuple):
    """A few fields of /proc/PID/stat."""

    state: str
    parent: int
    is_kernel_thread: bool


class FileRights(NamedTuple):
    """By which the kernel judges what a thread does with files."""

    uid: int
    gid: int
    groups: tuple[int, ...]


def pids() -> list[int]:
    """The processes that /proc lists, in order of their numbers."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def areas(pid: int, device: int, inode: int | None = None) -> list[Area]:
    """The areas of a process that map files of `device` (st_dev), or that one file of it.

    Raises PermissionError for who may not look.
    """
    return areas_in(read_maps(pid), device, inode)


def read_maps(pid: int) -> bytes:
    """The text of maps, for `areas_in`. Raises PermissionError, ProcessLookupError."""
    return _read(pid, "maps")


def areas_in(maps: bytes, device: int, inode: int | None = None) -> list[Area]:
    """The same from the text of maps."""
    mark = _mark(device, inode)
    # Few processes have any, so lines are taken apart only where there is one.
    if mark not in maps:
        return []
    found = (_area(line, device) for line in maps.split(b"\n") if mark in line)
    return [area for area in found if area is not None and inode in (None, area.inode)]


def read_smaps(pid: int) -> bytes:
    """The text of smaps, for `measured_areas_in`. Raises PermissionError, ProcessLookupError."""
    return _read(pid, "smaps")


def measured_areas_in(smaps: bytes, device: int, inode: int) -> list[MeasuredArea]:
    """The areas of a process that map one file, measured, from the text of its smaps."""
    mark = _mark(device, inode)
    found: list[MeasuredArea] = []
    current: MeasuredArea | None = None
    for line in smaps.split(b"\n"):
        key, _, rest = line.partition(b" ")
        if not key.endswith(b":"):
            area = _area(line, device) if mark in line else None
            current = None
            if area is not None and area.inode == inode:
                current = MeasuredArea(area, {})
                found.append(current)
        elif current is not None and rest.endswith(b" kB"):
            current.sizes[key[:-1]] = int(rest.split()[0]) * 1024
    return found


def stat(pid: int) -> Stat:
    """Raises ProcessLookupError."""
    # The name, in parentheses, may hold blanks and parentheses of its own.
    state, parent, *rest = _read(pid, "stat").rpartition(b")")[2].split()
    return Stat(state.decode("ascii"), int(parent), bool(int(rest[4]) & _KERNEL_THREAD))


def effective_uid(pid: int) -> int:
    """Not the owner of /proc/PID, which is root for some. Raises ProcessLookupError."""
    return int(status_field(_read(pid, "status"), b"Uid").split()[1])


def caught_signals(thread: int) -> int:
    """The signals for which it has handlers: bit 0 is signal 1. Raises ProcessLookupError."""
    return int(status_field(_read(thread, "status"), b"SigCgt"), 16)


def status_field(status: bytes, name: bytes) -> bytes:
    """A field in the text of /proc/PID/status. ProcessLookupError if it is not there."""
    for line in status.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == name:
            return value.strip()
    raise ProcessLookupError(f"no {name.decode()} in the status")


def command_line(pid: int) -> list[bytes]:
    """The words of the command, none for a process that has no memory. ProcessLookupError."""
    text = _read(pid, "cmdline").rstrip(b"\0")
    return text.split(b"\0") if text else []


def name(pid: int) -> bytes:
    """What the process calls itself, at most 15 bytes. Raises ProcessLookupError."""
    return _read(pid, "comm").removesuffix(b"\n")


def process_of(thread: int) -> int:
    """The process that a thread belongs to. Raises ProcessLookupError."""
    return int(status_field(_read(thread, "status"), b"Tgid"))


def file_rights(thread: int) -> FileRights:
    """With what rights a thread touches files. Raises ProcessLookupError."""
    status = _read(thread, "status")
    uid, gid = (int(status_field(status, name).split()[3]) for name in (b"Uid", b"Gid"))
    return FileRights(uid, gid, tuple(map(int, status_field(status, b"Groups").split())))


def is_told_to_stop(thread: int) -> bool:
    """Whether a thread of our pid namespace, or its process, has a signal coming that it does
    not block and that is meant to end something: SIGKILL, as every signal that kills is, or one of
    those that users send. One that cannot be looked at counts as told."""
    try:
        status = _read(thread, "status")
    except (OSError, ProcessLookupError):
        return True
    own, common, blocked = (
        int(status_field(status, name), 16) for name in (b"SigPnd", b"ShdPnd", b"SigBlk")
    )
    return bool((own | common) & ~blocked & _STOPPING)


def descriptors(pid: int) -> Iterator[os.stat_result]:
    """The files that a process has open. Raises PermissionError, ProcessLookupError."""
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None
    for number in numbers:
        try:
            file = os.stat(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue  # closed since
        yield file


def meminfo(root: str = "/") -> dict[str, int]:
    """The machine's memory in bytes, by the kernel's names; counts of pages stay counts."""
    with open(os.path.join(root, "proc/meminfo"), "rb") as file:
        return dict(map(_meminfo_line, file.read().decode("ascii").splitlines()))


def oom_kills(root: str = "/") -> int:
    """How many processes the kernel has ended for want of memory since the machine started: the
    machine's memory, or a memory group's."""
    with open(os.path.join(root, "proc/vmstat"), "rb") as file:
        counts = dict(line.split() for line in file)
    return int(counts.get(b"oom_kill", 0))


def oom_adjustment(pid: int | str = "self") -> int:
    """How likely the kernel ends a process for want of memory: from -1000, never, to 1000
    (oom_score_adj of proc(5)). Children begin with the same."""
    with open(f"/proc/{pid}/oom_score_adj", "rb") as file:
        return int(file.read())


def adjust_oom(pid: int, adjustment: int) -> None:
    """Set it, for one of our processes. Raises OSError, also where it would be less likely than it once
    was made, which takes CAP_SYS_RESOURCE."""
    with open(f"/proc/{pid}/oom_score_adj", "wb") as file:
        file.write(b"%d" % adjustment)


def _meminfo_line(line: str) -> tuple[str, int]:
    key, _, value = line.partition(":")
    number, *unit = value.split()
    return key, int(number) * (1024 if unit else 1)


def _read(pid: int, file: str) -> bytes:
    try:
        with open(f"/proc/{pid}/{file}", "rb") as opened:
            return opened.read()
    except FileNotFoundError:
        raise ProcessLookupError(pid) from None


def _mark(device: int, inode: int | None) -> bytes:
    """How a line of maps names a device, and a file of it."""
    mark = b" %02x:%02x " % (os.major(device), os.minor(device))
    return mark if inode is None else mark + b"%d " % inode


def _area(line: bytes, device: int) -> Area | None:
    """A line of maps, if it is about that device. A path at its end may look like another line."""
    addresses, prot, offset, place, inode = line.split(b" ", 5)[:5]
    if place != _mark(device, None).strip():
        return None
    start, _, end = addresses.partition(b"-")
    return Area(int(start, 16), int(end, 16), int(offset, 16), prot.decode("ascii"), int(inode))
