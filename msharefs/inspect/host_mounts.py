"""How the mounts of a machine are doing, each a sentence and what to do about it.

Mounts whose daemon is gone are among them: what they have left takes memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from functools import partial

from msharefs import notation
from msharefs.abi import MAX_ALIGN
from msharefs.client.mount import alignment
from msharefs.inspect import mounts
from msharefs.inspect.errors import InspectError
from msharefs.inspect.host import Finding, unseen
from msharefs.inspect.leftovers import leftovers
from msharefs.inspect.probe import Asker, answers_of


def check_leftovers() -> Iterator[Finding]:
    """What mounts of ours have left that nobody serves."""
    for left in leftovers():
        yield Finding(
            "warn",
            "left",
            f"the daemon of {left.mountpoint} is gone, and {notation.size(left.memory)} of its "
            "regions is kept for the next mount there",
            f"mount it again, or run 'mshare discard {left.mountpoint}'",
        )


def check_mounts() -> Iterator[Finding]:
    """Each msharefs that is mounted, looked at without waiting for one that hangs."""
    found, asker = mounts.mounts(), Asker()
    for mount, number in zip(found, answers_of(mount.path for mount in found), strict=True):
        if number is None:
            connection = os.minor(mount.device)
            yield Finding(
                "FAIL",
                "mount",
                f"{mount.path} does not answer",
                f"read its log; 'echo 1 > /sys/fs/fuse/connections/{connection}/abort' as root "
                "ends the waiting of all its programs, and the mount",
            )
        elif number in {errno.ENOTCONN, errno.ECONNABORTED}:
            yield Finding(
                "FAIL",
                "mount",
                f"the daemon of {mount.path} has died",
                "mount it again, which brings its regions back",
            )
        elif number == 0:
            yield Finding("ok", "mount", f"{mount.path} answers{_alignment(asker, mount.path)}")
            yield from _huge_pages(asker, mount)
        else:
            # Another user's, most likely.
            yield unseen("mount", f"{mount.path} is not for you: {os.strerror(number)}")


def _huge_pages(asker: Asker, mount: mounts.Mount) -> Iterator[Finding]:
    """How much of a mount is in huge pages, and why it is not more."""
    try:
        status = asker.ask(mount.path, partial(mounts.status, mount))
    except (OSError, InspectError):
        return
    huge = status.get("huge_pages")
    if huge is None:
        return  # a daemon of an earlier version
    words = f"{mount.path} has {notation.size(huge['collapsed'])} in pages of 2 MiB"
    if status.get("direct_for") == "claimants":
        words += ", which only regions have that are claimed; with data=direct all can"
    obstacle = huge["obstacle"]
    if obstacle is None:
        yield Finding("ok", "huge pages", words)
    elif status["data_plane"]["name"] == "paged":
        yield Finding("ok", "huge pages", f"{words}: {obstacle}")
    else:
        advice = "it tries again by itself; 'echo 1 > /proc/sys/vm/compact_memory' as root may help"
        yield Finding("warn", "huge pages", f"{words}: {obstacle}", advice)


def _alignment(asker: Asker, path: str) -> str:
    """What a program that was written for the kernel's mshare does not expect, if anything."""
    try:
        unit = asker.ask(path, partial(alignment, path))
    except OSError:
        return ""
    if unit == MAX_ALIGN:
        return ""
    size = notation.exact_size(unit)
    return f"; its alignment is {size}, that of the kernel's mshare would be 512 GiB (align=512G)"
