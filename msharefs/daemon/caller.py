"""What a command has of its caller, and a daemon must not keep.

Owns letting go of it: descriptors, signals that the caller ignores, its umask, working
directory, environment and limits of resources. Whoever starts a mount, a shell, a service
manager or a program that knows nothing of daemons, gets the same one.
"""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Collection
from contextlib import suppress

STANDARD = (0, 1, 2)

_KEPT = frozenset(
    {"PATH", "LANG", "TZ", "HOME", "LD_LIBRARY_PATH", "NOTIFY_SOCKET", "XDG_RUNTIME_DIR"}
)
_KEPT_PREFIXES = ("LC_", "PYTHON", "MSHAREFS_TEST")
"""What finds the interpreter, its libraries and ours, and says how times and texts are
written. All else goes: secrets, and above all LD_PRELOAD, because what the caller preloads may
be the library of `mshare run`, which would put the daemon's memory into a region."""

_LIFTED = (
    resource.RLIMIT_AS,
    resource.RLIMIT_CPU,
    resource.RLIMIT_DATA,
    resource.RLIMIT_FSIZE,
    resource.RLIMIT_NOFILE,
)
"""Limits that would end a daemon, or refuse it a region, for what the caller's own work was
not to exceed."""


def ready_to_start() -> None:
    """Make this process one that can open descriptors and wait for children as any program
    expects: the standard descriptors are open, and the death of a child is told."""
    while (null := _open_null()) in STANDARD:
        # A closed one has got it, and shall keep it: also in the processes that we start.
        os.set_inheritable(null, True)
    os.close(null)
    # Ignored, as many service managers and languages have it, it would be ignored in our
    # children, too: fusermount3 could not wait for its own, nor we for a server.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def let_go(keep: Collection[int] = ()) -> None:
    """Keep nothing of the caller but the standard descriptors and those in `keep`.

    Relative paths mean nothing afterwards, and files that are made are for their owner alone.
    """
    os.umask(0o077)
    os.chdir("/")
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        if descriptor not in STANDARD and descriptor not in keep:
            # The one that listed them is closed already.
            with suppress(OSError):
                os.close(descriptor)
    for name in list(os.environ):
        if name not in _KEPT and not name.startswith(_KEPT_PREFIXES):
            del os.environ[name]
    for limit in _LIFTED:
        _lift(limit)


def detach() -> None:
    """In a new process: no terminal, no session and no process group of the caller's."""
    os.setsid()
    null = _open_null()
    for standard in STANDARD:
        os.dup2(null, standard)
    os.close(null)


def has_terminal() -> bool:
    """Whether a terminal's Ctrl-C and hang-up reach this process."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _open_null() -> int:
    """What nothing comes from and nothing goes to; in a /dev without it at least something
    that keeps the number taken."""
    try:
        return os.open(os.devnull, os.O_RDWR)
    except OSError:
        return os.open("/", os.O_RDONLY)


def _lift(limit: int) -> None:
    """Take a limit of resources away, or raise it to the hard limit where we may do no more."""
    infinite = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    _soft, hard = resource.getrlimit(limit)
    for limits in (infinite, (hard, hard)):
        with suppress(OSError, ValueError):
            resource.setrlimit(limit, limits)
            return
