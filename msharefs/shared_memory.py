"""A replacement for multiprocessing.shared_memory.SharedMemory, on a directory of a mount.

Owns `SharedMemory` and the form of its regions: the bytes from the start, and in the last
sixteen of what is mapped a footer with the exact size. It uses Region as any program would, and
nothing of multiprocessing: there is no resource tracker, so nobody's end removes anything.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import struct
from typing import TYPE_CHECKING, Self

from msharefs.client.arguments import byte_count
from msharefs.client.errors import InvalidArgument, MshareError, RegionExists, translated
from msharefs.client.mount import alignment, default_directory
from msharefs.client.region import Region

if TYPE_CHECKING:
    from collections.abc import Callable

    from msharefs.client.attachment import Attachment
    from msharefs.client.layout import Layout

__all__ = ["SharedMemory"]

_FOOTER = struct.Struct("=8sQ")
_MAGIC = b"mshr.len"


class SharedMemory:
    """A named block of shared memory; the arguments are those of the standard library's class.

    `SharedMemory(name, create=True, size=n)` makes a block, `SharedMemory(name)` attaches one
    that is there, in this or any other process. Without a name, one that is free is chosen.
    `track` is accepted and means nothing.

    Of its own it has `directory`, where the block is a file (default: $MSHAREFS_DIR, or the
    first mounted msharefs); `mode`, the permission of that file, less the umask; and `readonly`,
    to attach a block that one may only read.

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
            region = Region.open(_path(where, name), writable=not readonly)
        elif readonly:
            raise ValueError("what is created is empty: it cannot be for reading only")
        else:
            if byte_count(size, "size") == 0:
                raise ValueError("shared memory has at least one byte")
            region = _create(where, name, size, mode)
        self._take(region)

    def _take(self, region: Region) -> None:
        """Attach an open region, which from now on is this object's."""
        try:
            self._attachment: Attachment = region.attach(0, _length(region))
        except BaseException:
            region.close()
            raise
        self._region = region

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
    block._take(region)
    return block


def _path(directory: str, name: str) -> str:
    # POSIX names of shared memory begin with a slash, and programs may pass it on.
    plain = name.removeprefix("/")
    if plain in {"", ".", ".."} or "/" in plain or "\0" in plain:
        raise InvalidArgument(errno.EINVAL, f"not a name of shared memory: {name!r}")
    return os.path.join(os.path.abspath(directory), plain)


def _create(directory: str, name: str | None, size: int, mode: int) -> Region:
    """A new region that holds `size` bytes, under its name only when it is complete."""
    while True:
        path = _path(directory, name if name is not None else f"psm_{secrets.token_hex(4)}")
        try:
            return _create_at(path, size, mode)
        except RegionExists:
            if name is not None:
                raise


def _create_at(path: str, size: int, mode: int) -> Region:
    if os.path.lexists(path):
        # Said before any memory is taken; that it is still so in the end is seen by link(2).
        raise RegionExists(errno.EEXIST, "the name is taken", path)
    mapped = _round_up(size + _FOOTER.size, mmap.PAGESIZE)
    # Who attaches by the name must not meet a region that is half made.
    hidden = os.path.join(os.path.dirname(path), f".shm-{secrets.token_hex(8)}")
    region = Region.create(hidden, _round_up(mapped, alignment(hidden)), mode=mode)
    try:
        region.map(0, mapped)
        with region.attach(mapped - mmap.PAGESIZE, mmap.PAGESIZE) as last:
            _FOOTER.pack_into(last.buf, mmap.PAGESIZE - _FOOTER.size, _MAGIC, size)
        with translated("cannot give the shared memory its name", path):
            os.link(hidden, path)
        return _opened_by(path, region)
    finally:
        region.unlink()
        region.close()


def _opened_by(path: str, region: Region) -> Region:
    """`region` opened once more, by its own name, so that /proc/PID/maps shows that one."""
    try:
        named = Region.open(path)
    except MshareError:
        # The mode shuts its owner out, or somebody has unlinked it already: it is ours still.
        return Region(os.dup(region.fileno()), path, writable=True)
    if os.path.samestat(os.fstat(named.fileno()), os.fstat(region.fileno())):
        return named
    named.close()
    return Region(os.dup(region.fileno()), path, writable=True)


def _length(region: Region) -> int:
    """How many bytes a region holds for its users."""
    extent = _extent(region.layout())
    if extent == 0:
        text = "nothing is mapped at its start"
        raise InvalidArgument(errno.EINVAL, text, region.path)
    with region.attach(extent - mmap.PAGESIZE, mmap.PAGESIZE, writable=False) as last:
        magic, size = _FOOTER.unpack_from(last.buf, mmap.PAGESIZE - _FOOTER.size)
    if magic == _MAGIC and _round_up(size + _FOOTER.size, mmap.PAGESIZE) == extent:
        return int(size)
    return extent


def _extent(layout: Layout) -> int:
    """How far it is mapped from its start without a hole."""
    end = 0
    for mapping in layout.mappings:
        if mapping.offset != end:
            break
        end = mapping.end
    return end


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
