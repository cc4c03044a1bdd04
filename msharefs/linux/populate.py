"""Which system calls make all pages of a mapping present, and whether a thread is in one.

Owns the numbers of these calls and the form of /proc/TID/syscall (proc(5)). What follows from
it is the caller's business.
"""

from __future__ import annotations

import os

_GENERIC = frozenset({216, 222, 228, 230, 233, 284})
"""mremap, mmap, mlock, mlockall, madvise, mlock2 in asm-generic/unistd.h: aarch64, riscv64."""
_X86_64 = frozenset({9, 12, 25, 28, 30, 149, 151, 325})
"""mmap, brk, mremap, madvise, shmat, mlock, mlockall, mlock2 in syscall_64.tbl."""

_CALLS = _X86_64 if os.uname().machine == "x86_64" else _GENERIC


def populating_call(thread: int) -> str | None:
    """The system call by which a thread of our pid namespace makes pages present now, with its
    arguments; "" if it is in another one, in none, or on its way. None where we may not see it:
    another user's, one that hides (PR_SET_DUMPABLE), Yama, another pid namespace."""
    try:
        with open(f"/proc/{thread}/syscall", "rb") as file:
            line = file.read().decode("ascii").rstrip("\n")
    except OSError:
        return None
    number = line.partition(" ")[0]
    return line if number.isdigit() and int(number) in _CALLS else ""
