"""A region on its way to another process: what stands in its pickle, and how it is opened again.

Owns the choice between the two ways. To a process that multiprocessing is starting goes the
descriptor itself, which works without a name and without any right to the path. Everywhere
else goes the path, with the identity of the file, so that nobody gets another region by mistake.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import TYPE_CHECKING, Any

from msharefs.client.errors import RegionNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from msharefs.client.region import Region

    Reduced = tuple[Callable[..., Region], tuple[Any, ...]]

Identity = tuple[int, int]
"""st_dev and st_ino."""


def reduced(region: Region, identity: Identity) -> Reduced:
    """What `Region.__reduce__` gives. RegionNotFound if neither way leads to the region."""
    fd = region.fileno()
    if _starts_a_process():
        return _by_descriptor(region, fd)
    if _leads_to(region.path, identity):
        return reopen, (type(region), region.path, identity, region.writable)
    if "multiprocessing.reduction" in sys.modules:
        # Through a queue or a pipe of multiprocessing: it keeps a copy of the descriptor, which
        # the receiver fetches from this process.
        return _by_descriptor(region, fd)
    text = "cannot pickle a region whose name is gone; only multiprocessing can hand it over"
    raise RegionNotFound(errno.ENOENT, text, region.path)


def reopen(kind: type[Region], path: str | bytes, identity: Identity, writable: bool) -> Region:
    """Open the region of a pickle; RegionNotFound if its name is gone or another's by now."""
    region = kind.open(path, writable=writable)
    status = os.fstat(region.fileno())
    if (status.st_dev, status.st_ino) != identity:
        region.close()
        text = "the name is another region's by now, not the pickled one's"
        raise RegionNotFound(errno.ENOENT, text, path)
    return region


def receive(kind: type[Region], sent: Any, path: str | bytes, writable: bool) -> Region:
    """Take the descriptor that multiprocessing carried; RegionNotFound if its sender has ended."""
    try:
        fd = sent.detach()
    except (OSError, EOFError) as error:
        text = "the process that sent the region has ended, and its name is gone"
        raise RegionNotFound(errno.ENOENT, text, path) from error
    # multiprocessing had to make it inheritable on its way; a region's is not.
    os.set_inheritable(fd, False)
    return kind(fd, path, writable=writable)


def _starts_a_process() -> bool:
    """Whether multiprocessing is pickling for a process that it starts (spawn, forkserver)."""
    # It is slow to import, and who has not imported it starts no process with it.
    if "multiprocessing.context" not in sys.modules:
        return False
    from multiprocessing import context  # noqa: PLC0415 - see above

    return context.get_spawning_popen() is not None


def _by_descriptor(region: Region, fd: int) -> Reduced:
    from multiprocessing import reduction  # noqa: PLC0415 - it is there already

    return receive, (type(region), reduction.DupFd(fd), region.path, region.writable)


def _leads_to(path: str | bytes, identity: Identity) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    return (status.st_dev, status.st_ino) == identity
