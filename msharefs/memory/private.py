"""The arena: a private tmpfs on /dev/shm whose limit is exact.

Owns that tmpfs: `mount_arena` makes it in the state directory, `enter` puts it over
/dev/shm of a private mount namespace, `Arena` hands out its segments and moves its
limit. Which limit is right is core's business.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from msharefs.linux import syscalls
from msharefs.memory.segment import PosixSegment, create_object, open_object

SHM = "/dev/shm"
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


def mount_arena(directory: str, options: ArenaOptions) -> None:
    """Mount the tmpfs on `directory`, for root alone. Raises OSError (EINVAL: the kernel
    does not know one of the options)."""
    words = [f"size={BALLAST_SIZE}", "mode=0700", "nr_inodes=0", f"huge={options.huge}"]
    if options.noswap:
        words.append("noswap")
    if options.mpol:
        # Last, because its list of nodes may hold commas.
        words.append(f"mpol={options.mpol}")
    syscalls.mount("msharefs", directory, "tmpfs", _FLAGS, ",".join(words))
    fd = os.open(
        os.path.join(directory, BALLAST_NAME), os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600
    )
    try:
        os.posix_fallocate(fd, 0, BALLAST_SIZE)
    finally:
        os.close(fd)


def enter(directory: str) -> None:
    """In a private mount namespace: put the arena of `directory` over /dev/shm."""
    syscalls.mount(directory, SHM, None, syscalls.MS_BIND)


class Arena:
    """Segments in the tmpfs that is /dev/shm here."""

    def __init__(self, options: ArenaOptions) -> None:
        self._options = options

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold, in bytes."""
        return self._options.size

    @property
    def huge(self) -> str:
        """The huge= policy."""
        return self._options.huge

    def create(self, ino: int) -> PosixSegment:
        """A new segment of size 0 for this number. Raises OSError."""
        return _segment(ino, create_object)

    def stored(self) -> list[int]:
        """The numbers of the segments that there are."""
        return [int(name) for name in os.listdir(SHM) if name.isdecimal()]

    def open(self, ino: int) -> PosixSegment:
        """The segment of this number that is there. Raises OSError."""
        return _segment(ino, open_object)

    def discard(self, ino: int) -> None:
        """Remove a segment without opening it."""
        os.unlink(os.path.join(SHM, str(ino)))

    def used(self) -> int:
        """Bytes in use in all segments, holes and dying ones included."""
        status = os.statvfs(SHM)
        return (status.f_blocks - status.f_bfree) * status.f_frsize - BALLAST_SIZE

    def set_limit(self, limit: int) -> None:
        """Allow at most `limit` bytes. Raises OSError(EINVAL) where more is in use."""
        syscalls.mount(
            "msharefs", SHM, None, syscalls.MS_REMOUNT | _FLAGS, f"size={limit + BALLAST_SIZE}"
        )


def _segment(ino: int, descriptor_of: Callable[[str], int]) -> PosixSegment:
    name = f"/{ino}"
    return PosixSegment(name, descriptor_of(name))
