"""Who keeps a file system in use: found in /proc, without a request to the file system.

Owns the search. It knows no file system by name, and asks none, because the one in question
may be one that does not answer.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

from msharefs.linux import mountinfo, proc, syscalls

_LINKS = {"cwd": "its working directory", "root": "its root directory"}


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that keeps it in use, and by what."""

    pid: int
    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name} ({self.pid}: {self.what})"


def holders(device: int) -> list[Holder]:
    """The processes that keep the file system with this st_dev in use, one entry each: by files,
    memory or directories, or by a copy of the mount in a mount namespace that is not ours, of
    which the first process is named. Those that we may not look into are not found."""
    found = []
    namespaces = {_namespace(os.getpid())}
    for pid in proc.pids():
        with suppress(OSError):
            what = _use(pid, device) or _copy(pid, device, namespaces)
            if what is not None:
                found.append(Holder(pid, os.fsdecode(proc.name(pid)), what))
    return found


def _use(pid: int, device: int) -> str | None:
    if proc.areas(pid, device):
        return "attached memory"
    for link, what in _LINKS.items():
        if _is_on(device, f"/proc/{pid}/{link}"):
            return what
    if any(_is_on(device, path) for path in _descriptors(pid)):
        return "an open file"
    return None


def _descriptors(pid: int) -> Iterator[str]:
    for number in os.listdir(f"/proc/{pid}/fd"):
        yield f"/proc/{pid}/fd/{number}"


def _is_on(device: int, path: str) -> bool:
    try:
        return syscalls.identity(path)[0] == device
    except FileNotFoundError:
        # Closed since; or a kernel thread, which has no directories.
        return False


def _copy(pid: int, device: int, seen: set[str]) -> str | None:
    """Looks once at each mount namespace; `seen` are those that were looked at."""
    namespace = _namespace(pid)
    if namespace in seen:
        return None
    seen.add(namespace)
    if any(mount.device == device for mount in mountinfo.read(f"/proc/{pid}/mountinfo")):
        return "a copy of the mount in its mount namespace"
    return None


def _namespace(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/mnt")
