"""A disk for the files of a journal, which is as full as a test wants it."""

from __future__ import annotations

import errno
import os

AMPLE = 1 << 40


class FakeDisk:
    """Counts what it has given. `left` is how many bytes more it has."""

    def __init__(self) -> None:
        self.left = AMPLE
        self.sizes: dict[str, int] = {}

    def allocate(self, suffix: str, size: int) -> None:
        """As posix_fallocate(3) of the whole file."""
        more = max(0, size - self.sizes.get(suffix, 0))
        if more > self.left:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), suffix)
        self.left -= more
        self.sizes[suffix] = self.sizes.get(suffix, 0) + more
