"""A mount namespace of a process's own, in which it may unmount as it likes.

Owns going there and looking at the whole of it. What is to be unmounted is the caller's affair.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from msharefs.linux import mountinfo, syscalls


def unshare_mounts() -> None:
    """Go into a new mount namespace, with copies of all mounts. From here on nothing that is
    mounted or unmounted, in here or elsewhere, has an effect on the other side. Needs one
    thread and CAP_SYS_ADMIN. Raises OSError."""
    syscalls.unshare(syscalls.CLONE_NEWNS)
    with whole_namespace():
        syscalls.mount("none", "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


def join(path: str) -> int:
    """Go into the mount namespace that a file such as /proc/PID/ns/mnt stands for. Returns a
    descriptor of the one that we came from. Needs one thread, CAP_SYS_ADMIN and CAP_SYS_CHROOT.
    Raises OSError."""
    target = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        origin = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.setns(target, syscalls.CLONE_NEWNS)
    finally:
        os.close(target)
    return origin


@contextmanager
def whole_namespace() -> Iterator[None]:
    """In the block the root directory is that of our mount namespace, from which all of its
    mounts are seen, and can be reached: a chroot shows only what is mounted inside. Afterwards
    it is what it was, and the working directory, too. Needs CAP_SYS_CHROOT. Raises OSError."""
    root = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.setns(namespace, syscalls.CLONE_NEWNS)
        try:
            yield
        finally:
            os.fchdir(root)
            os.chroot(".")
    finally:
        os.close(namespace)
        os.close(root)


def beneath(directory: str, look: Callable[[], bytes]) -> bytes:
    """What `look` gives where the lowest of the file systems that are mounted on a directory is
    not hidden by the others. It runs in a child process; here nothing changes. Raises OSError."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _answer(writer, directory, look)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise OSError(int(answer or 0), "cannot look beneath what is mounted", directory)
    return answer


def _answer(writer: int, directory: str, look: Callable[[], bytes]) -> None:
    """The whole of the child."""
    code, answer = 0, b""
    try:
        unshare_mounts()
        for _ in range(mountinfo.layers(directory) - 1):
            syscalls.umount(directory, syscalls.MNT_DETACH)
        answer = look()
    except OSError as error:
        code, answer = 1, b"%d" % (error.errno or 0)
    finally:
        # Also after an error that nobody expected: the parent's life is not ours to go on with.
        with open(writer, "wb") as pipe:
            pipe.write(answer)
        os._exit(code)
