"""POSIX shared-memory objects by name: made, opened when they are needed, removed.

Owns their descriptors. There may be any number of objects, of which few are in use at a time, so
that they are opened by need, and those used last are kept open up to a bound. One descriptor is in
reserve for pages that somebody waits for or has written, which would be lost. What is in an object is
not known here.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress

import posix_ipc

from msharefs.memory.headroom import Headroom

log = logging.getLogger(__name__)

SHM = "/dev/shm"
KEPT_OPEN = 1024
"""Descriptors that are kept for the next use; but a quarter of what the process may have open."""
NONE_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
_KEEPER = 0
"""Standard input, of which a descriptor is a copy that only keeps its place."""


class Descriptor:
    """An open descriptor. It is closed when nothing refers to this any more, so that nobody,
    a worker thread say, loses one that it uses."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def fileno(self) -> int:
        """The number, for as long as this is referred to."""
        return self.fd

    def __del__(self) -> None:
        os.close(self.fd)


class LentDescriptor(Descriptor):
    """One that the reserve gave its place to, and gets it back from."""

    __slots__ = ("_give_back",)

    def __init__(self, fd: int, give_back: Callable[[Descriptor], None]) -> None:
        super().__init__(fd)
        self._give_back = give_back

    def __del__(self) -> None:
        # In one step, so that nobody takes the place.
        os.dup2(_KEEPER, self.fd, inheritable=False)
        self._give_back(Descriptor(self.fd))


class SharedObjects:
    """The objects in /dev/shm, with the descriptors of some. For any thread.

    `headroom` is the memory that is left for them.
    """

    def __init__(self, most: int | None = None, *, readers: int | None = None) -> None:
        """Keep at most so many descriptors that nobody uses. `readers` is a descriptor of the
        directory on a read-only mount, if there is one."""
        self._readers = readers
        self.headroom = Headroom()
        self._most = _room() if most is None else most
        self._open: OrderedDict[str, Descriptor] = OrderedDict()
        self._reserve: Descriptor | None = Descriptor(os.dup(_KEEPER))
        self._lock = threading.Lock()
        self._complained = False

    def create(self, name: str) -> None:
        """Make an object of size 0 and mode 0600, and keep it open. Raises OSError (EEXIST)."""
        self._keep(name, self._with_room(_create, name))

    def open(self, name: str) -> Descriptor:
        """A descriptor of an object that is there, for reading and writing. Raises OSError:
        ENOENT, or EMFILE and ENFILE where so many are in use."""
        with self._lock:
            descriptor = self._open.get(name)
            if descriptor is not None:
                self._open.move_to_end(name)
                return descriptor
        descriptor = self._with_room(_open, name)
        self._keep(name, descriptor)
        return descriptor

    def open_for_page(self, name: str) -> Descriptor:
        """The same for what is done in a moment, in the thread that serves requests, and is not
        to fail for want of a descriptor: the reserve makes room for one."""
        try:
            return self.open(name)
        except OSError as error:
            if error.errno not in NONE_LEFT or self._reserve is None:
                raise
        self._reserve = None
        try:
            return LentDescriptor(_open(name), self._take_back)
        except OSError:
            self._take_back(Descriptor(os.dup(_KEEPER)))
            raise

    def open_for_readers(self, name: str) -> Descriptor:
        """A new descriptor of an object, to be given away: open for reading, and through a read-only
        mount, so that nobody who has it can change the object by it. Raises OSError: EOPNOTSUPP where there
        is no such mount, and what `open` does."""
        if self._readers is None:
            raise OSError(errno.EOPNOTSUPP, "no descriptor would stay for reading", name)
        directory = self._readers
        return self._with_room(
            lambda name: os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=directory), name
        )

    def allocated(self, name: str) -> int:
        """How many bytes have memory; none where there is no such object."""
        try:
            return os.stat(f"{SHM}/{name}").st_blocks * 512
        except FileNotFoundError:
            return 0

    def identity(self, name: str) -> tuple[int, int] | None:
        """Device and inode number; None where there is no such object."""
        try:
            found = os.stat(f"{SHM}/{name}")
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    def remove(self, name: str) -> None:
        """Unlink it and keep no descriptor. Somebody else may have removed the name."""
        with suppress(posix_ipc.ExistentialError):
            posix_ipc.unlink_shared_memory(f"/{name}")
        with self._lock:
            descriptor = self._open.pop(name, None)
        # Not under the lock: to close the last one of a large object takes long.
        del descriptor

    def _take_back(self, reserve: Descriptor) -> None:
        self._reserve = reserve

    def _keep(self, name: str, descriptor: Descriptor) -> None:
        """Of an object that two threads open at once both descriptors are good."""
        surplus = None
        with self._lock:
            replaced = self._open.pop(name, None)
            self._open[name] = descriptor
            if len(self._open) > self._most:
                _, surplus = self._open.popitem(last=False)
        del replaced, surplus

    def _with_room(self, get: Callable[[str], int], name: str) -> Descriptor:
        try:
            descriptor = Descriptor(get(name))
        except OSError as error:
            if error.errno not in NONE_LEFT:
                raise
            self._close_unused()
            descriptor = self._the_last_try(get, name)
        self._complained = False
        return descriptor

    def _close_unused(self) -> None:
        """What is kept for the next use is there for others in need, too."""
        with self._lock:
            unused, self._open = self._open, OrderedDict()
        unused.clear()

    def _the_last_try(self, get: Callable[[str], int], name: str) -> Descriptor:
        try:
            return Descriptor(get(name))
        except OSError as error:
            # One line, until one could be had again.
            if error.errno in NONE_LEFT and not self._complained:
                self._complained = True
                log.error("no descriptor is left for a region's memory: %s", error.strerror)
            raise


def _room() -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return KEPT_OPEN if soft == resource.RLIM_INFINITY else min(KEPT_OPEN, soft // 4)


def _create(name: str) -> int:
    return _shm_open(name, posix_ipc.O_CREX, missing=errno.EEXIST)


def _open(name: str) -> int:
    return _shm_open(name, 0, missing=errno.ENOENT)


def _shm_open(name: str, flags: int, *, missing: int) -> int:
    """posix_ipc has exceptions of its own for some errors of shm_open(3), and an OSError
    without a number where no descriptor is left."""
    try:
        return int(posix_ipc.SharedMemory(f"/{name}", flags, mode=0o600, size=0).fd)
    except posix_ipc.ExistentialError as error:
        raise OSError(missing, os.strerror(missing), name) from error
    except posix_ipc.Error as error:
        raise OSError(errno.EACCES, str(error), name) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise OSError(errno.ENFILE, str(error), name) from error
