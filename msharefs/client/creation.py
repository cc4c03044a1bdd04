"""How a region comes to be: a new file, a size, and whatever must hold before anybody has it.

Owns the order of these steps and the taking back of a file whose making has failed: no half-made
region is left under a name. It makes whatever object it is told to (region.py), and knows only
that it can be unlinked and closed.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, TypeVar

from msharefs.abi import AUTOMAP_ATTRIBUTE
from msharefs.client.errors import NotARegion, SizeAlreadySet, from_os_error, translated
from msharefs.client.mount import alignment_hint, not_mounted

if TYPE_CHECKING:
    from collections.abc import Callable

    from msharefs.client.errors import StrOrBytesPath


class Made(Protocol):
    """What is made: something that owns a descriptor and a name."""

    def fileno(self) -> int:
        """The descriptor."""
        ...

    def unlink(self) -> None:
        """Remove the name, if it is still this one's."""
        ...

    def close(self) -> None:
        """Close the descriptor."""
        ...


T = TypeVar("T", bound=Made)


def create(
    adopt: Callable[..., T],
    path: StrOrBytesPath,
    size: int,
    mode: int,
    prepare: Callable[[T], None],
) -> T:
    """A new region of `size` bytes at `path`, open for reading and writing.

    `adopt(fd, path, writable=True)` makes the object. `prepare` is called with it when it has its
    size, and asks the mount for something that only a region has: NotARegion from it says that
    no msharefs is mounted there. Raises RegionExists, NotMounted, and what the steps raise; the
    file is gone then.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with translated("cannot create the region", path):
        region = adopt(os.open(path, flags, mode), path, writable=True)
    try:
        map_by_hand(region.fileno())
        settle_size(region.fileno(), path, size)
        prepare(region)
    except SizeAlreadySet:
        # A process that may open what is there (exist_ok) was faster, and uses it now.
        region.close()
        raise
    except BaseException as error:
        _take_back(region, error)
        if isinstance(error, NotARegion):
            raise not_mounted(path) from error
        raise
    return region


def map_by_hand(fd: int) -> None:
    """Let a new region begin with nothing mapped, also in a directory with automap. Elsewhere, and
    where an earlier version serves the mount, there is nothing to do."""
    with suppress(OSError):
        os.setxattr(fd, AUTOMAP_ATTRIBUTE, b"off")


def settle_size(fd: int, path: StrOrBytesPath, size: int) -> None:
    """Set the size of a region, or see that it is `size` already; SizeAlreadySet if it is another."""
    what = f"cannot make a region of {size} bytes"
    try:
        os.ftruncate(fd, size)
    except OSError as error:
        if error.errno == errno.EINVAL:
            present = os.fstat(fd).st_size
            if present == size:
                return
            if present != 0:
                text = f"{what}: it has {present} already"
                raise SizeAlreadySet(errno.EINVAL, text, os.fspath(path)) from None
            what += alignment_hint(path, size)
        raise from_os_error(error, what, path) from None


def _take_back(region: Made, error: BaseException) -> None:
    """Remove what was made; a name that cannot go is noted on the `error` that is the reason."""
    try:
        region.unlink()
    except OSError as left:
        error.add_note(f"the new file could not be removed again: {left}")
    region.close()
