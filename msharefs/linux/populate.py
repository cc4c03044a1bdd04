"""Which system calls make all pages of a mapping present, and whether a thread is in one.

Owns the numbers of these calls and the form of /proc/TID/syscall (proc(5)). What follows from
it is the caller's business.
"""

from __future__ import annotations

import os
import signal

from msharefs.linux import proc

_GENERIC = frozenset({216, 222, 228, 230, 233, 284})
"""mremap, mmap, mlock, mlockall, madvise, mlock2 in asm-generic/unistd.h: aarch64, riscv64."""
_X86_64 = frozenset({9, 12, 25, 28, 30, 149, 151, 325})
"""mmap, brk, mremap, madvise, shmat, mlock, mlockall, mlock2 in syscall_64.tbl."""

_CALLS = _X86_64 if os.uname().machine == "x86_64" else _GENERIC


RUNNING = "running"
"""Stands for a thread that runs, or would if there were a processor for it: in the kernel or not."""


UNSEEN = "unseen"
"""Stands for a thread whose system call we may not see, and which SIGBUS would end."""


def populating_call(thread: int) -> str | None:
    """The system call by which a thread of our pid namespace makes pages present now, with its
    arguments; "" if it waits in another one or in a page fault, RUNNING if it does not wait.

    Where we may not see that (a process with rights that we lack, one that hides by
    PR_SET_DUMPABLE, Yama) it is UNSEEN, or None if SIGBUS would not end it, or nothing is known.
    """
    try:
        with open(f"/proc/{thread}/syscall", "rb") as file:
            line = file.read().decode("ascii").rstrip("\n")
    except OSError:
        return None if _outlives_sigbus(thread) else UNSEEN
    if line == RUNNING:
        return RUNNING
    number = line.partition(" ")[0]
    return line if number.isdigit() and int(number) in _CALLS else ""


def _outlives_sigbus(thread: int) -> bool:
    """Whether it has a handler; to ignore it does not help after a page fault."""
    try:
        return bool(proc.caught_signals(thread) >> (signal.SIGBUS - 1) & 1)
    except OSError:
        return True
