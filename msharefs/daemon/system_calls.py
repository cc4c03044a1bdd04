"""The system calls that a server makes, which are all that its filter lets pass.

Owns that list: whoever has a server call something new adds it here, with the narrowest
condition that serves. It starts no program and no process, makes no mount, looks into no memory
but its own, and talks to no kernel interface that it does not need.
"""

from __future__ import annotations

import os
import socket
import termios

from msharefs.fuse import kernel
from msharefs.linux.seccomp import Rule
from msharefs.linux.syscalls import MS_BIND, MS_REMOUNT

_CLONE_THREAD = 0x00010000
_FIOCLEX, _FIONCLEX = 0x5451, 0x5450
_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA = 15, 16, 0x53564D41
_WORD = (1 << 32) - 1
"""Numbers of 32 bits, whose upper halves may hold anything."""

_MEMORY = "brk mmap munmap mremap mprotect madvise mincore msync memfd_create cachestat"
_THREADS = """
    exit exit_group futex set_robust_list get_robust_list rseq set_tid_address arch_prctl membarrier
    gettid getpid getppid getpgid getpgrp getsid sched_yield sched_getaffinity getcpu
    getuid geteuid getgid getegid getresuid getresgid getgroups capget
"""
_SIGNALS = """
    rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack
    restart_syscall signalfd4 pause
"""
_TIME = """
    clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage
    timerfd_create timerfd_settime timerfd_gettime setitimer getitimer
"""
_DESCRIPTORS = """
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek sendfile splice
    vmsplice tee copy_file_range close close_range dup dup2 dup3 fcntl flock pipe pipe2
    poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait
    epoll_pwait2 eventfd2
"""
_FILES = """
    open openat openat2 stat fstat lstat newfstatat statx access faccessat faccessat2 readlink
    readlinkat getcwd getdents64 statfs fstatfs mkdir mkdirat rmdir rename renameat renameat2
    link linkat unlink unlinkat chmod fchmod fchmodat fchown umask utimensat ftruncate truncate
    fallocate fadvise64 sync_file_range fsync fdatasync
"""
_SOCKETS = """
    connect bind listen accept accept4 shutdown getsockname getpeername getsockopt setsockopt
    sendto recvfrom sendmsg recvmsg
"""
_MACHINE = "uname sysinfo getrandom getrlimit"
_PLAIN = " ".join(
    (_MEMORY, _THREADS, _SIGNALS, _TIME, _DESCRIPTORS, _FILES, _SOCKETS, _MACHINE)
).split()

_IOCTLS = (
    kernel.FUSE_DEV_IOC_BACKING_OPEN,
    kernel.FUSE_DEV_IOC_BACKING_CLOSE,
    # Python: whether a file is a terminal, inheritance, blocking.
    termios.TCGETS,
    termios.FIONBIO,
    termios.FIONREAD,
    _FIOCLEX,
    _FIONCLEX,
)
_FAMILIES = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
_OF_OURSELVES = ("kill", "tgkill")


def rules() -> list[Rule]:
    """What this process may call."""
    return [
        *(Rule(name) for name in _PLAIN),
        # A thread, and no process. clone3, whose flags cannot be seen, is done without.
        Rule("clone", 0, _CLONE_THREAD, _CLONE_THREAD),
        # The limit of the arena's tmpfs.
        Rule("mount", 3, MS_REMOUNT, MS_REMOUNT | MS_BIND),
        *(Rule("ioctl", 1, command, _WORD) for command in _IOCTLS),
        *(Rule("socket", 0, family, _WORD) for family in _FAMILIES),
        Rule("socketpair", 0, socket.AF_UNIX, _WORD),
        *(Rule(name, 0, os.getpid(), _WORD) for name in _OF_OURSELVES),
        Rule("prlimit64", 0, 0, _WORD),
        *(Rule("prctl", 0, option, _WORD) for option in (_PR_SET_NAME, _PR_GET_NAME, _PR_SET_VMA)),
    ]
