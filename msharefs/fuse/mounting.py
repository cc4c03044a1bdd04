"""Mounting and unmounting: the /dev/fuse descriptor comes from fusermount3.

Owns the conversation with fusermount3, which works for root and for users. Standard library
only: the supervisor uses it and must stay small.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Sequence
from contextlib import suppress

HELPER = "fusermount3"
SUBTYPE = "msharefs"
REQUEST_ROOM = (1 << 20) + (64 << 10)
"""Bytes: max_write (1 MiB, libfuse's choice) and headers. /dev/fuse refuses a read that has
not room for the largest request, even where it would give a small one or an error."""
HELPER_TIMEOUT = 30.0
"""Seconds. fusermount3 does nothing that could take longer."""
KILL_TIMEOUT = 1.0
"""Seconds that it gets to be gone when it has been killed."""


class ChannelError(Exception):
    """fusermount3 refused; the text is its reason."""


def helper_path() -> str | None:
    """Where fusermount3 is, or None."""
    return shutil.which(HELPER)


def mount(mountpoint: str, source: str, options: Sequence[str]) -> int:
    """Mount, and return the /dev/fuse descriptor, which the caller owns. Raises ChannelError."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    words = [*options, f"fsname={_escaped(source)}", f"subtype={SUBTYPE}"]
    with ours, theirs:
        child = subprocess.Popen(
            [HELPER, "-o", ",".join(words), "--", mountpoint],
            env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno()), "LC_ALL": "C"},
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        ours.settimeout(HELPER_TIMEOUT)
        descriptors: list[int] = []
        try:
            _message, descriptors, _flags, _address = socket.recv_fds(ours, 1, 1)
            _out, complaint = child.communicate(timeout=HELPER_TIMEOUT)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            for descriptor in descriptors:
                os.close(descriptor)
            child.kill()
            # It may wait for a file system that does not answer, and then not even that ends it.
            with suppress(subprocess.TimeoutExpired):
                child.communicate(timeout=KILL_TIMEOUT)
            raise ChannelError(f"{HELPER} does not come back") from error
    if not descriptors:
        raise ChannelError(_reason(complaint) or f"{HELPER} ended with {child.returncode}")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def unmount(mountpoint: str) -> None:
    """Unmount. Raises ChannelError, in particular where the mount is in use."""
    _unmount("-u", mountpoint)


def detach(mountpoint: str) -> None:
    """Unmount now from the tree, and really when nothing uses it any more. Raises ChannelError."""
    _unmount("-uz", mountpoint)


def _unmount(flags: str, mountpoint: str) -> None:
    try:
        done = subprocess.run(
            [HELPER, flags, "--", mountpoint],
            env={**os.environ, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            timeout=HELPER_TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ChannelError(f"{HELPER} does not come back") from error
    if done.returncode:
        raise ChannelError(_reason(done.stderr) or f"{HELPER} ended with {done.returncode}")


def _escaped(source: str) -> str:
    return source.replace("\\", "\\\\").replace(",", "\\,")


def _reason(complaint: bytes) -> str:
    lines = complaint.decode(errors="replace").strip().splitlines()
    return lines[-1].removeprefix(f"{HELPER}: ") if lines else ""
