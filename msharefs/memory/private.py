"""The arena: a private tmpfs on /dev/shm whose limit is exact.

Owns that tmpfs: `provide` has it in the state directory, `enter` puts it over /dev/shm of a
private mount namespace, `Arena` hands out its segments and moves its limit. Which limit is
right is core's business.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from msharefs.linux import mountinfo, syscalls
from msharefs.memory.objects import SHM, SharedObjects
from msharefs.memory.segment import PosixSegment

BALLAST_NAME = "ballast"
BALLAST_SIZE = 4096
"""size=0 means unlimited to tmpfs, so one page is always there and the limit never 0."""

_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV


@dataclass(frozen=True, slots=True)
class ArenaOptions:
    """How the tmpfs is made: `size` in bytes, the rest as in tmpfs(5)."""

    size: int
    huge: str = "always"
    mpol: str | None = None
    noswap: bool = False


def provide(directory: str, options: ArenaOptions) -> None:
    """Have the arena mounted on `directory`, for root alone: a new one, or that which is there.
    Raises OSError (EINVAL: the kernel does not know one of the options).

    It is hidden by an empty file system over it. An arena's limit moves with what is in use,
    so that it is always full, and every df and every monitor of full disks would tell.
    """
    layers = mountinfo.layers(directory)
    if layers < 1:
        _mount_arena(directory, options)
    if layers < 2:
        _place_ballast(directory)
        # One without blocks is what df leaves out.
        flags = _FLAGS | syscalls.MS_NOEXEC | syscalls.MS_RDONLY
        syscalls.mount("msharefs", directory, "tmpfs", flags, "size=0,nr_inodes=1,mode=0000")


def enter(directory: str) -> None:
    """In a private mount namespace: put the arena of `directory` over /dev/shm."""
    if mountinfo.layers(directory) > 1:
        syscalls.umount(directory, syscalls.MNT_DETACH)
    syscalls.mount(directory, SHM, None, syscalls.MS_BIND)


def _mount_arena(directory: str, options: ArenaOptions) -> None:
    words = [f"size={BALLAST_SIZE}", "mode=0700", "nr_inodes=0", f"huge={options.huge}"]
    if options.noswap:
        words.append("noswap")
    if options.mpol:
        # Last, because its list of nodes may hold commas.
        words.append(f"mpol={options.mpol}")
    syscalls.mount("msharefs", directory, "tmpfs", _FLAGS, ",".join(words))


def _place_ballast(directory: str) -> None:
    fd = os.open(
        os.path.join(directory, BALLAST_NAME), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
    )
    try:
        os.posix_fallocate(fd, 0, BALLAST_SIZE)
    finally:
        os.close(fd)


class Arena:
    """Segments in the tmpfs that is /dev/shm here."""

    def __init__(self, options: ArenaOptions, *, readers: int | None = None) -> None:
        self._capacity = options.size
        self._huge = options.huge
        self._objects = SharedObjects(readers=readers)

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold, in bytes."""
        return self._capacity

    def set_capacity(self, capacity: int) -> None:
        """Hold at most that many bytes; the limit is moved by `set_limit` as ever."""
        self._capacity = capacity

    @property
    def huge(self) -> str:
        """The huge= policy."""
        return self._huge

    def create(self, ino: int) -> PosixSegment:
        """A new segment of size 0 for this number. Raises OSError."""
        self._objects.create(str(ino))
        return PosixSegment(str(ino), self._objects)

    def stored(self) -> dict[int, PosixSegment]:
        """The segments that there are, by number."""
        names = [name for name in os.listdir(SHM) if name.isdecimal()]
        return {int(name): PosixSegment(name, self._objects) for name in names}

    def used(self) -> int:
        """Bytes in use in all segments: in holes, too, and in those of regions that are being
        reclaimed."""
        status = os.statvfs(SHM)
        return (status.f_blocks - status.f_bfree) * status.f_frsize - BALLAST_SIZE

    def set_limit(self, limit: int) -> None:
        """Allow at most `limit` bytes. Raises OSError(EINVAL) where more is in use."""
        syscalls.mount(
            "msharefs", SHM, None, syscalls.MS_REMOUNT | _FLAGS, f"size={limit + BALLAST_SIZE}"
        )
