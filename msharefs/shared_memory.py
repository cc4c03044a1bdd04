"""A replacement for multiprocessing.shared_memory.SharedMemory, on a directory of a mount.

Owns `SharedMemory`, the standard library's interface over a block (client/blocks.py). It uses
nothing of multiprocessing: there is no resource tracker, so nobody's end removes anything.
"""

from __future__ import annotations

import errno
import os
import secrets
from typing import TYPE_CHECKING, Self

from msharefs.client import blocks
from msharefs.client.arguments import byte_count
from msharefs.client.errors import InvalidArgument, RegionExists
from msharefs.client.mount import default_directory

if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable

    from msharefs.client.region import Region

__all__ = ["SharedMemory"]


class SharedMemory:
    """A named block of shared memory; the arguments are those of the standard library's class.

    `SharedMemory(name, create=True, size=n)` makes a block, `SharedMemory(name)` attaches one
    that is there, in this or any other process. Without a name, one that is free is chosen.
    `track` is accepted and means nothing.

    Of its own it has `directory`, where the block is a file (default: that of
    `msharefs.default_directory`); `mode`, the permission of that file, less the umask; and
    `readonly`, to attach a block that one may only read.

    A region of any other making can be attached too: it is as long as what is mapped from its
    start without a hole.

    Raises RegionExists (a FileExistsError), RegionNotFound (a FileNotFoundError), OutOfMemory
    (ENOMEM) if the memory is not there now, so that no access can fail later, AccessDenied (a
    PermissionError), NotMounted (ENODEV), ValueError for arguments that make no sense.
    """

    def __init__(
        self,
        name: str | None = None,
        create: bool = False,
        size: int = 0,
        *,
        track: bool = True,  # noqa: ARG002 - the standard library's, since Python 3.13
        directory: str | os.PathLike[str] | None = None,
        mode: int = 0o600,
        readonly: bool = False,
    ) -> None:
        where = os.fspath(directory) if directory is not None else default_directory()
        if not create:
            if name is None:
                raise ValueError("a name is needed to attach shared memory that is there")
            block = blocks.open_block(_path(where, name), writable=not readonly)
        elif readonly:
            raise ValueError("what is created is empty: it cannot be for reading only")
        else:
            if byte_count(size, "size") == 0:
                raise ValueError("shared memory has at least one byte")
            block = _create(where, name, size, mode)
        self._region, self._attachment = block

    @property
    def name(self) -> str:
        """The name by which other processes attach it, in the same directory."""
        return os.path.basename(os.fsdecode(self._region.path))

    @property
    def directory(self) -> str:
        """The directory in which the block is a file."""
        return os.path.dirname(os.fsdecode(self._region.path))

    @property
    def size(self) -> int:
        """The size in bytes: just what was asked for when it was created."""
        return self._attachment.size

    @property
    def buf(self) -> memoryview:
        """The memory itself, `size` bytes. ValueError after `close`."""
        return self._attachment.buf

    # Programs that work around the standard class reach for these.

    @property
    def _name(self) -> str:
        """The name as POSIX has it."""
        return f"/{self.name}"

    @property
    def _fd(self) -> int:
        """The open file; -1 after `close`."""
        return -1 if self._region.closed else self._region.fileno()

    @property
    def _mmap(self) -> mmap.mmap | None:
        """The map of its bytes, and of those to the end of their last page; None after `close`."""
        return None if self._attachment.closed else self._attachment.map

    def close(self) -> None:
        """Take the block out of this process; it stays, for others too. Closing twice is allowed.

        Raises BufferError while an array or a slice of `buf` exists, and changes nothing.
        """
        self._attachment.close()
        self._region.close()

    def unlink(self) -> None:
        """Remove the name; allowed after `close` too.

        The memory is free when the last process has closed it. Raises RegionNotFound (a
        FileNotFoundError) if the name is gone or another block's by now.
        """
        self._region.unlink()

    def __enter__(self) -> Self:
        self._region.fileno()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # As the standard library's: who forgets to close it loses nothing. What still views the
        # memory keeps the attachment alive; the region can go.
        region = getattr(self, "_region", None)
        if region is not None:
            region.close()

    def __reduce__(self) -> tuple[Callable[..., SharedMemory], tuple[object, ...]]:
        # The region knows how to travel, with or without a name.
        return _rebuild, (type(self), self._region)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, size={self.size})"


def _rebuild(kind: type[SharedMemory], region: Region) -> SharedMemory:
    block = kind.__new__(kind)
    block._region, block._attachment = region, blocks.attach(region)
    return block


def _path(directory: str, name: str) -> str:
    # POSIX names of shared memory begin with a slash, and programs may pass it on.
    plain = name.removeprefix("/")
    if plain in {"", ".", ".."} or "/" in plain or "\0" in plain:
        raise InvalidArgument(errno.EINVAL, f"not a name of shared memory: {name!r}")
    where = directory if os.path.isabs(directory) else os.path.abspath(directory)
    return os.path.join(where, plain)


def _create(directory: str, name: str | None, size: int, mode: int) -> blocks.Block:
    """A new block, under the name that is asked for, or under a free one."""
    if name is not None:
        path = _path(directory, name)
        if os.path.lexists(path):
            # Said before any memory is taken; that it is still so in the end is seen by rename.
            raise RegionExists(errno.EEXIST, "the name is taken", path)
        return blocks.create(path, size, mode)
    while True:
        try:
            return blocks.create(_path(directory, f"psm_{secrets.token_hex(4)}"), size, mode)
        except RegionExists:
            continue
