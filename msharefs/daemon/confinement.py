"""What a server may still do once its code is loaded: as little as its work needs.

Owns which rights those are, and why. It is entered once, before any other thread is started,
and there is no way out of it. How rights are given up is linux/'s.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable

from msharefs.daemon import system_calls
from msharefs.linux import host, rights, seccomp

log = logging.getLogger(__name__)

_TO_SERVE = rights.CAP_SYS_ADMIN
"""Backing ids of passthrough (FUSE_DEV_IOC_BACKING_OPEN) and the limit of the arena's tmpfs
(a remount) ask for it."""
_TO_LOAD_CODE = rights.CAP_DAC_READ_SEARCH
"""Some modules are loaded when they are needed: from a home directory, too, that is closed to
everybody else."""


def confine() -> None:
    """Give up what a server does not need. Raises OSError."""
    privileged = host.is_privileged()
    permitted = rights.permitted()
    kept = needed(permitted)
    if _TO_LOAD_CODE in permitted - kept:
        with rights.only(kept):
            closed = is_closed(sys.path)
        kept |= {_TO_LOAD_CODE} if closed else frozenset()
    rights.forbid_new_privileges()
    rights.keep_capabilities(kept)
    if privileged:
        # A core file would hold what is in others' regions. A user's own daemon holds nothing
        # that he cannot open, and is his to look into.
        rights.forbid_dumps()


def confine_to_nothing() -> None:
    """The same for who has what it needs by its descriptors. Raises OSError."""
    privileged = host.is_privileged()
    rights.forbid_new_privileges()
    rights.keep_capabilities(frozenset())
    if privileged:
        rights.forbid_dumps()


def filter_system_calls(wanted: str) -> None:
    """As the option seccomp= says: "on", "off", or "auto", which means where there is a way.
    Raises FilterError where there is none for "on"."""
    if wanted == "off":
        return
    try:
        seccomp.allow_only(system_calls.rules())
    except seccomp.FilterError as error:
        if wanted == "on":
            raise seccomp.FilterError(f"seccomp=on cannot be had: {error}") from error
        log.info("system calls are not filtered: %s", error)


def needed(permitted: frozenset[int]) -> frozenset[int]:
    """Of the capabilities that are permitted."""
    return permitted & {_TO_SERVE}


def is_closed(directories: Iterable[str]) -> bool:
    """Whether we may not look for a module in one of these, of which some may be none."""
    for directory in directories:
        try:
            os.scandir(directory).close()
        except PermissionError:
            return True
        except OSError:
            continue
    return False
