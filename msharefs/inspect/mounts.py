"""Which msharefs are mounted here, what they say of themselves, and what lies on them.

Owns the reading of the status attribute and the search for regions. It asks with the caller's
own rights, as any program would.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from msharefs.abi import INFO_NAME, STATUS_ATTRIBUTE
from msharefs.inspect.errors import InspectError
from msharefs.linux import mountinfo

KIND = "fuse.msharefs"
_STATUS = STATUS_ATTRIBUTE.decode("ascii")
_INFO = INFO_NAME.decode("ascii")
_MOST_LINKS = 40
"""As many as the kernel follows in one path."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A mounted msharefs."""

    path: str
    source: str
    device: int
    """st_dev of every file on it."""


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is a region."""

    path: str
    name: str
    """Relative to the directory that was searched."""
    file: os.stat_result


def mounts() -> list[Mount]:
    """Every msharefs that this process sees, each once, in the order they were mounted."""
    found: dict[int, Mount] = {}
    for each in mountinfo.own_mounts():
        if each.kind == KIND:
            # A bind mount of it, or of a part of it, is the same file system again.
            found.setdefault(each.device, Mount(each.path, each.source, each.device))
    return list(found.values())


def lead_to(path: str) -> str | None:
    """The mount point of the msharefs that a path goes through, told without touching it.

    None if it goes through none. Links on the way are followed, below the mount point nothing.
    """
    points = {each.path for each in mountinfo.own_mounts() if each.kind == KIND}
    try:
        left = os.path.join(os.getcwd(), path).split("/")[::-1]
    except FileNotFoundError:
        return None  # relative to a directory that is no more
    current, links = "/", 0
    while left and current not in points and links <= _MOST_LINKS:
        word = left.pop()
        if word == "..":
            current = os.path.dirname(current)
        step = current if word in {"", ".", ".."} else os.path.join(current, word)
        try:
            target = os.readlink(step) if step not in points else ""
        except OSError:
            target = ""
        if target:
            links += 1
            left += target.split("/")[::-1]
            current = "/" if target.startswith("/") else current
        else:
            current = step
    return current if current in points else None


def mount_of(path: str) -> Mount:
    """The msharefs that `path` lies on. OSError if it does not exist, InspectError if none."""
    device = os.stat(path).st_dev
    for mount in mounts():
        if mount.device == device:
            return mount
    raise InspectError(f"{path} is not on a mounted msharefs")


def chosen(directory: str | None) -> list[tuple[Mount, str]]:
    """Each mount to look at, and where in it: at `directory`, or at every mount's root."""
    if directory is not None:
        mount = mount_of(directory)
        if not os.path.isdir(directory):
            raise InspectError(f"{directory} is not a directory")
        return [(mount, directory)]
    everything = [(mount, mount.path) for mount in mounts()]
    if not everything:
        raise InspectError("no msharefs is mounted here")
    return everything


def only(directory: str | None) -> Mount:
    """The mount that is meant: the one of `directory`, or the only one there is."""
    found = chosen(directory)
    if len(found) > 1:
        places = ", ".join(mount.path for mount, _ in found)
        raise InspectError(f"several are mounted, so say which: {places}")
    return found[0][0]


def status(mount: Mount) -> dict[str, Any]:
    """What the daemon says of its mount. OSError without the right to read the root directory."""
    # Asked at the root, by whatever path of ours leads there.
    answer = os.getxattr(mount.path, _STATUS)
    try:
        document = json.loads(answer)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise InspectError(f"{mount.path} gives a status that is not understood")
    return document


def status_or_nothing(mount: Mount) -> dict[str, Any]:
    """The same, but empty for who may not read it."""
    try:
        return status(mount)
    except PermissionError:
        return {}


def devices_of(mount: Mount, status: dict[str, Any]) -> frozenset[int]:
    """The device numbers by which processes may have regions of the mount attached.

    Its own, and those that it had before its daemon died and it was made again: who attached
    regions then has them still. The kernel gives such a number to another mount only when nobody
    uses it any more.
    """
    earlier = frozenset(status.get("mount", {}).get("earlier_devices", ()))
    return earlier - {each.device for each in mountinfo.own_mounts()} | {mount.device}


def supervisor_of(status: dict[str, Any]) -> int:
    """The process whose children serve the mount, 0 where it does not say."""
    return int(status.get("pids", {}).get("supervisor", 0))


def regions(
    mount: Mount, top: str, complain: Callable[[OSError], None] | None = None
) -> Iterator[Found]:
    """The regions below a directory, by name. `complain` hears of directories it cannot read."""
    pending = [top]
    while pending:
        directory = pending.pop()
        try:
            with os.scandir(directory) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if error.errno in {errno.ENOTCONN, errno.ECONNABORTED} or complain is None:
                raise
            complain(error)
            continue
        below: list[str] = []
        for entry in listed:
            try:
                file = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue  # unlinked since
            if file.st_dev != mount.device:
                continue  # something else is mounted there
            if stat.S_ISDIR(file.st_mode):
                below.append(entry.path)
            elif stat.S_ISREG(file.st_mode) and not is_info(mount, entry.path):
                yield Found(entry.path, os.path.relpath(entry.path, top), file)
        pending.extend(reversed(below))


def is_info(mount: Mount, path: str) -> bool:
    """Whether `path` is the mount's mshare_info."""
    if os.path.basename(path) != _INFO:
        return False
    directory = os.path.dirname(os.path.abspath(path))
    return os.path.samefile(directory, mount.path)
