"""A directory through which nothing can be changed, for descriptors that are handed on.

Owns how it is had without root. A descriptor that was opened for reading can be opened for writing by
/proc/self/fd, and its mode be changed, by whoever owns the file; what was opened through a read-only
mount is EROFS for both, whoever has it.
"""

from __future__ import annotations

import os
import socket

from msharefs.linux import syscalls
from msharefs.linux.sockets import said_with_descriptors


def read_only_view(directory: str) -> int:
    """An O_PATH descriptor of the directory on a read-only copy of its mount. The process has one
    thread. Raises OSError where neither this process nor a user namespace may make one."""
    try:
        return syscalls.read_only_copy(directory)
    except PermissionError:
        return _in_user_namespace(directory)


def _in_user_namespace(directory: str) -> int:
    """A child makes it where it is root, hands it over and ends; the copy does not need it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        with theirs:
            child = os.fork()
            if child == 0:
                _make(theirs, directory)
        message, descriptors = said_with_descriptors(ours, 16)
    os.waitpid(child, 0)
    if descriptors:
        return descriptors[0]
    code = int(message or 0)
    raise OSError(code, os.strerror(code), directory)


def _make(theirs: socket.socket, directory: str) -> None:
    """The whole of the child."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWNS)
        socket.send_fds(theirs, [b"0"], [syscalls.read_only_copy(directory)])
    except OSError as error:
        theirs.send(b"%d" % (error.errno or 0))
    finally:
        os._exit(0)
