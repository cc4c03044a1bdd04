"""How much memory may be reserved before the kernel ends processes for want of it.

Owns when the machine and the control groups are asked, which takes as long as many a small
reservation: once for a while, and again after so many bytes. Memory that somebody else takes in
between is not seen, so it is never many of those that are left. Not known here is for what.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

from msharefs.linux import cgroup, proc

KEPT_BACK = 16 << 20
"""Bytes that are left for the processes of the mount itself."""
LARGEST_GRANT = 64 << 20
SHARE = 4
"""Without a further look a fourth of what is left is given, but not more than so many bytes."""


def available_memory(root: str = "/") -> int:
    """Bytes that the machine and this process' control groups can give without ending anybody:
    free memory, what the kernel takes back by itself, and free swap."""
    facts = proc.meminfo(root)
    machine = facts["MemAvailable"] + facts["SwapFree"]
    group = cgroup.available_memory(root)
    return machine if group is None else min(machine, group)


class Headroom:
    """The memory that is left, for any thread. `look` says how many bytes that is."""

    def __init__(self, look: Callable[[], int] = available_memory) -> None:
        self._look = look
        # What was granted at the last look, and what is left of it.
        self._grant = self._granted = 0
        self._lock = threading.Lock()

    def check(self, size: int) -> None:
        """Whether there are `size` bytes at this moment. Raises OSError (ENOMEM)."""
        self._left_for(size)

    def take(self, size: int) -> None:
        """`size` bytes are about to be reserved. Raises OSError (ENOMEM)."""
        with self._lock:
            if size > self._granted:
                left = self._left_for(size)
                self._grant = self._granted = max(size, min(left // SHARE, LARGEST_GRANT))
            self._granted -= size

    def give_back(self, size: int) -> None:
        """`size` bytes are free again. No more than the last look has granted is kept of them."""
        with self._lock:
            self._granted = min(self._granted + size, self._grant)

    def _left_for(self, size: int) -> int:
        left = self._look() - KEPT_BACK
        if size > left:
            raise OSError(errno.ENOMEM, f"{size} bytes wanted, {max(0, left)} left for regions")
        return left
