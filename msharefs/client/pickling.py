"""A region on its way to another process: what stands in its pickle, and how it is opened again.

Owns the choice between the two ways. To a process that multiprocessing is starting goes the
descriptor itself, which works without a name and without any right to the path. Everywhere
else goes the path, with the identity of the file, so that nobody gets another region by mistake.

It knows a descriptor, a path and two callables that make the object again; not what that object
is (region.py).
"""

from __future__ import annotations

import errno
import os
import sys
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from msharefs.client.errors import RegionNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

Identity = tuple[int, int]
"""st_dev and st_ino."""


class Opened(Protocol):
    """What a pickle becomes again: something that holds a descriptor until it is closed."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


T = TypeVar("T", bound=Opened)

Reduced = tuple["Callable[..., Any]", tuple[Any, ...]]
"""What `__reduce__` returns: a function and the arguments to call it with."""


def reduced(
    fd: int,
    path: str | bytes,
    identity: Identity,
    *,
    writable: bool,
    open_path: Callable[..., Opened],
    adopt: Callable[..., Opened],
) -> Reduced:
    """The pickle of the open region `fd`, for the process that it is going to.

    The receiver calls `open_path(path, writable=...)` or `adopt(fd, path, writable=...)`; both go
    into the pickle, so they must be found by name. RegionNotFound (ENOENT) if the region's name
    is gone or another's and multiprocessing is not in use, so that neither way leads to it.
    """
    by_descriptor = partial(_by_descriptor, fd, path, writable, adopt)
    if _starts_a_process():
        return by_descriptor()
    if _leads_to(path, identity):
        return reopen, (open_path, path, identity, writable)
    if "multiprocessing.reduction" in sys.modules:
        # Through a queue or a pipe of multiprocessing: it keeps a copy of the descriptor, which
        # the receiver fetches from this process.
        return by_descriptor()
    text = "cannot pickle a region whose name is gone; only multiprocessing can hand it over"
    raise RegionNotFound(errno.ENOENT, text, path)


def reopen(open_path: Callable[..., T], path: str | bytes, identity: Identity, writable: bool) -> T:
    """Open the region of a pickle; RegionNotFound if its name is gone or another's by now."""
    region = open_path(path, writable=writable)
    status = os.fstat(region.fileno())
    if (status.st_dev, status.st_ino) != identity:
        region.close()
        text = "the name is another region's by now, not the pickled one's"
        raise RegionNotFound(errno.ENOENT, text, path)
    return region


def receive(adopt: Callable[..., T], sent: Any, path: str | bytes, writable: bool) -> T:
    """Take the descriptor that multiprocessing carried; RegionNotFound if its sender has ended."""
    try:
        fd = sent.detach()
    except (OSError, EOFError) as error:
        text = "the process that sent the region has ended, and its name is gone"
        raise RegionNotFound(errno.ENOENT, text, path) from error
    # multiprocessing had to make it inheritable on its way; a region's is not.
    os.set_inheritable(fd, False)
    return adopt(fd, path, writable=writable)


def _starts_a_process() -> bool:
    """Whether multiprocessing is pickling for a process that it starts (spawn, forkserver)."""
    # It is slow to import, and who has not imported it starts no process with it.
    if "multiprocessing.context" not in sys.modules:
        return False
    from multiprocessing import context  # noqa: PLC0415 - see above

    return context.get_spawning_popen() is not None


def _by_descriptor(
    fd: int, path: str | bytes, writable: bool, adopt: Callable[..., Opened]
) -> Reduced:
    from multiprocessing import reduction  # noqa: PLC0415 - it is there already

    return receive, (adopt, reduction.DupFd(fd), path, writable)


def _leads_to(path: str | bytes, identity: Identity) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity
