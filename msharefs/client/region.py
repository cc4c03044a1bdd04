"""Region: shared memory with a name, for Python programs.

Owns the life of one open region in this process, and says what a user may do with it. It talks
to the mount as any program would, by system calls alone, and imports nothing of the daemon's
side. How a region is made is creation.py's; the ioctls and their refusals are requests.py's.
"""

from __future__ import annotations

import errno
import mmap
import os
import warnings
from functools import partial
from typing import TYPE_CHECKING, Protocol, Self

from msharefs import abi
from msharefs.client import creation, requests, segments
from msharefs.client.arguments import byte_count, region_size
from msharefs.client.async_watch import layouts as async_layouts
from msharefs.client.attachment import Attachment
from msharefs.client.errors import (
    AccessDenied,
    MappingExists,
    NotARegion,
    RegionNotFound,
    translated,
)
from msharefs.client.layout import (
    Layout,
    holes,
    mappings_within,
    read_generation,
    read_layout,
)
from msharefs.client.pickling import reduced
from msharefs.client.watch import Source, layouts

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from msharefs.client.errors import StrOrBytesPath
    from msharefs.client.layout import Generation, Mapping
    from msharefs.client.pickling import Reduced

_LAYOUT = abi.LAYOUT_ATTRIBUTE.decode("ascii")


class HasFileno(Protocol):
    """An open file of Python's."""

    def fileno(self) -> int:
        """Its descriptor."""


class Region:
    """An open region of a mounted msharefs; made by `Region.create` or `Region.open`.

    A region is a file whose bytes are shared memory. It has a fixed size, which costs nothing;
    memory is used where something is mapped (`map`), and a process reaches it with `attach`. It
    lives until its name is unlinked and the last process has let go of it, whoever made it.

    All offsets and sizes are bytes. Failures raise MshareError, an OSError, with the errno of the
    mount; using a closed region raises ValueError. A Region belongs to the process that opened it
    and to the children that it forks, each of which closes its own. Pickled, it opens the same
    region in another process: a child of multiprocessing, with any start method, gets the open
    descriptor; else it is opened by its path, and RegionNotFound says if that is another one now.
    """

    __slots__ = ("__weakref__", "_fd", "_identity", "_path", "_writable")

    def __init__(self, fd: int, path: StrOrBytesPath, *, writable: bool) -> None:
        """Take over `fd`, an open region; from now on `close` closes it."""
        self._fd = fd
        name = os.fspath(path)
        self._path = name if os.path.isabs(name) else os.path.abspath(name)
        self._writable = writable
        status = os.fstat(fd)
        self._identity = (status.st_dev, status.st_ino)

    @classmethod
    def create(
        cls,
        path: StrOrBytesPath,
        size: int,
        *,
        mode: int = 0o600,
        map: bool = False,  # noqa: A002 - it does what the method of this name does
        exist_ok: bool = False,
    ) -> Self:
        """Make a region of `size` bytes at `path` and open it for reading and writing.

        `size` is a positive multiple of the mount's alignment (see `alignment`) and final; it may
        be far larger than the memory of the machine. `mode` is the permission of the file, less
        the umask. With `map` all of it has memory at once, as by `map(0, size)`. With `exist_ok` a
        region of that name and size is opened instead; `map` then fills what has no memory yet,
        and leaves alone what is mapped.

        Raises RegionExists (EEXIST), SizeAlreadySet (EINVAL) if `exist_ok` meets another size,
        InvalidArgument (EINVAL) for a size that does not fit the alignment, RegionTooLarge
        (EFBIG), OutOfInodes (ENOSPC), QuotaExceeded (EDQUOT), OutOfMemory (ENOMEM) with `map`, AccessDenied (EACCES),
        RegionNotFound (ENOENT) if the directory is missing, NotMounted (ENODEV) if no msharefs is
        mounted there, TypeError for a size that is no int. What fails leaves no name behind.
        """
        wanted = region_size(size)
        prepare = cls._map_holes if map else cls._require_region
        while True:
            try:
                return creation.create(cls, path, wanted, mode, prepare)
            except FileExistsError:
                if not exist_ok:
                    raise
            try:
                return cls._open_sized(path, wanted, fill=map)
            except FileNotFoundError:
                # Unlinked between the two calls: the name is free again.
                continue

    @classmethod
    def open(cls, path: StrOrBytesPath, *, writable: bool = True) -> Self:
        """Open the region at `path`; `writable=False` needs and gives the right to read only.

        Raises RegionNotFound (ENOENT), AccessDenied (EACCES), NotARegion (ENOTTY) for a file that
        is something else.
        """
        flags = os.O_RDWR if writable else os.O_RDONLY
        with translated("cannot open the region", path):
            region = cls(os.open(path, flags | os.O_CLOEXEC), path, writable=writable)
        try:
            region._require_region()
        except BaseException:
            region.close()
            raise
        return region

    @property
    def path(self) -> str | bytes:
        """The absolute path by which the region was opened; it may have moved since."""
        return self._path

    @property
    def size(self) -> int:
        """The size in bytes; 0 while nobody has set it."""
        with translated("cannot see the size", self._path):
            return os.fstat(self.fileno()).st_size

    @property
    def writable(self) -> bool:
        """Whether the region was opened for writing, so that it may map and unmap."""
        return self._writable

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._fd < 0

    def fileno(self) -> int:
        """The descriptor of the open region; it stays the region's own."""
        if self._fd < 0:
            raise ValueError("operation on a closed region")
        return self._fd

    def map(
        self,
        offset: int,
        size: int,
        *,
        prot: str = "rw",
        huge: bool = False,
        reserve: bool = True,
        replace: bool = True,
    ) -> None:
        """Put zeroed memory at `offset` to `offset + size`, at once there in every process.

        `offset` is a multiple of the page size, and `size` is rounded up to one. `prot` are
        letters of "rwx": what `attach` will allow there. `huge` asks for 2 MiB pages (`offset`
        then is a multiple of 2 MiB) or fails. The memory is set aside now, unless `reserve` is
        false and the mount lets it come at first touch (overcommit, or the paged data plane).
        What was mapped in the range is replaced, unless `replace` is false.

        Raises OutOfMemory (ENOMEM), OutOfInodes (ENOSPC), QuotaExceeded (EDQUOT), MappingExists (EEXIST) if `replace` is false, InvalidArgument
        (EINVAL), SizeNotSet (EINVAL), AccessDenied (EACCES) if the region is open for reading
        only. What fails changes nothing.
        """
        start, length = byte_count(offset, "offset"), byte_count(size, "size")
        requests.create_mapping(
            self.fileno(),
            self._path,
            start,
            length,
            prot=prot,
            huge=huge,
            reserve=reserve,
            replace=replace,
        )

    def map_file(
        self,
        offset: int,
        file: int | HasFileno,
        size: int | None = None,
        *,
        file_offset: int = 0,
        prot: str = "r",
        replace: bool = True,
        reserve: bool = True,
    ) -> None:
        """Put the bytes of an open file at `offset`, at once there in every process.

        `file` is a descriptor that is open for reading, or an object with `fileno()`. `file_offset`
        is where in it to begin, a multiple of the page size; without `size` the mapping reaches to
        the end of the file as it is now. What is behind the end of the file is zeros. The bytes
        are a copy: later changes of the file do not show, and the descriptor may be closed.
        `prot`, `replace` and `reserve` are those of `map`: without `reserve` holes of the file take no memory
        until they are touched, where the mount allows that. With "w" in `prot` the file has to be open for
        reading and writing, and what is changed here goes back to it: at `sync`, `unmap`, the last
        close and umount.

        Raises NotMappable (ENODEV) for what is no regular file of a file system on this machine,
        AccessDenied (EACCES, EPERM) for a file that is not open for what `prot` says, InvalidArgument
        (EINVAL) also for a region, MshareError with ETIMEDOUT for a file that does not answer, with
        ENFILE for more than can be kept, and what `map` raises. What fails changes nothing.
        """
        start, begin = byte_count(offset, "offset"), byte_count(file_offset, "file_offset")
        descriptor = file if isinstance(file, int) else file.fileno()
        if size is None:
            with translated("cannot map the file", self._path):
                length = max(os.fstat(descriptor).st_size - begin, 0)
        else:
            length = byte_count(size, "size")
        requests.map_file(
            self.fileno(),
            self._path,
            start,
            length,
            file=descriptor,
            file_offset=begin,
            prot=prot,
            flags=requests.file_flags(replace=replace, reserve=reserve),
        )

    def unmap(self, offset: int, size: int) -> None:
        """Take away what is mapped from `offset` to `offset + size`, in every process at once.

        `offset` is a multiple of the page size, and `size` is rounded up to one. Mappings may be
        cut or split; nothing mapped there is no error. The memory is free again when it returns.

        Raises InvalidArgument (EINVAL), SizeNotSet (EINVAL), AccessDenied (EACCES) if the region
        is open for reading only.
        """
        start, length = byte_count(offset, "offset"), byte_count(size, "size")
        requests.unmap(self.fileno(), self._path, start, length)

    def sync(self) -> None:
        """Have files that are mapped for writing get what was changed, and store it where it outlives
        the machine.

        Raises MshareError with the errno of a file that cannot be written (ENOSPC, EDQUOT, EIO,
        EPERM...): nothing is lost then, and `layout` says which file it is.
        """
        with translated("cannot write back", self._path):
            os.fsync(self.fileno())

    def claim(self) -> bool:
        """Have all who attach this region get its memory itself, on an ordinary user's mount, also with
        `data=auto`, which does so for regions alone that are claimed.

        It lasts until nobody has the region open or attached. The price: a program that maps the
        file of the region meanwhile by mmap(2) gets SIGBUS at its first touch. So it is for who
        knows all that use the region, and comes first: the region must be open nowhere else.

        Returns whether it is so now. False is no error, `attach` works as before: the mount maps the
        memory itself for everybody (passthrough) or can never give it, others have the region open,
        it is open for reading only here, or has no size yet.
        """
        with translated("cannot claim the region", self._path):
            return segments.claim(self.fileno())

    def attach(
        self,
        offset: int = 0,
        size: int | None = None,
        *,
        writable: bool | None = None,
        enforce: bool = False,
    ) -> Attachment:
        """Map a range of the region into this process and return the attachment.

        `offset` is a multiple of the page size; without `size` the range reaches to the end of
        the region. Without `writable` it is as writable as the region was opened and as the
        mappings in it allow now; `True` insists on it.

        With `enforce` each mapping has its own protection and holes have none: an access that
        the layout forbids ends the process with SIGSEGV, as with the kernel's mshare, and the
        mappings no longer decide whether the range as a whole is writable. It is the layout of
        this moment, until `Attachment.refresh` takes the new one over.

        Raises SizeNotSet (EINVAL), InvalidArgument (EINVAL) for a range that is empty, not page
        aligned or beyond the end, AccessDenied (EACCES) if a mapping in the range, or the way
        the region was opened, forbids the access, OutOfMemory (ENOMEM) without address space.
        """
        start = byte_count(offset, "offset")
        if size is None:
            length, what = max(self.size - start, 0), f"cannot attach from {start} to the end"
        else:
            length = byte_count(size, "size")
            what = f"cannot attach {length} bytes at {start}"
        with translated(what, self._path):
            requests.require_range(self.fileno(), self._path, what, start, length, mmap.PAGESIZE)
        allowed = self._writable
        if not enforce:
            allowed &= self._layout_allows_writing(start, start + length)
        if writable and not allowed:
            text = f"{what} for writing: the region is open for reading only"
            if self._writable:
                text = f"{what} for writing: a mapping there is read-only"
            raise AccessDenied(errno.EACCES, text, self._path)
        rights = allowed if writable is None else writable
        look = partial(self._mappings, start, start + length)
        with translated(what, self._path):
            return Attachment(
                self._fd,
                start,
                length,
                writable=rights,
                advice=requests.attach_advice(self._fd, length, writable=rights),
                look=look,
                enforce=enforce,
            )

    def layout(self) -> Layout:
        """What is mapped in the region now, and who made it.

        Raises AccessDenied (EACCES) without the right to read the file, MountGone (ENOTCONN);
        MshareError with EAGAIN if it never stands still while it is read.
        """
        self.fileno()
        with translated("cannot read the layout", self._path):
            return read_layout(self._attribute)

    def watch(self, *, interval: float = 0.1, timeout: float | None = None) -> Iterator[Layout]:
        """Give the layout now, and from then on each time it has changed.

        The mount is asked every `interval` seconds; of changes in between the last one shows,
        and none is missed. With `timeout` it ends when nothing has changed for so many seconds;
        else when the region is closed, by another thread for example. Raises MountGone
        (ENOTCONN) if the file system ends before.
        """
        self.fileno()
        source = Source(self.layout, self._generation, lambda: self.closed)
        return layouts(source, interval, timeout)

    def watch_async(
        self, *, interval: float = 0.1, timeout: float | None = None
    ) -> AsyncIterator[Layout]:
        """The same for `async for`, in a program of trio or asyncio; neither stands still meanwhile.

        Needs the package anyio (`pip install msharefs[async]`): ModuleNotFoundError without it.
        """
        self.fileno()
        source = Source(self.layout, self._generation, lambda: self.closed)
        return async_layouts(source, interval, timeout)

    def close(self) -> None:
        """Close the region; closing twice does nothing. Attachments stay, and so does the name."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with translated("cannot close", self._path):
                os.close(fd)

    def unlink(self) -> None:
        """Remove the region's name; allowed after `close` too.

        Its memory is free again when the last descriptor and the last attachment are gone.
        Raises RegionNotFound (ENOENT) if the name is gone or another file's by now, AccessDenied.
        """
        with translated("cannot unlink", self._path):
            status = os.stat(self._path, follow_symlinks=False)
            if (status.st_dev, status.st_ino) != self._identity:
                raise RegionNotFound(
                    errno.ENOENT, "cannot unlink: the name is another file's by now", self._path
                )
            os.unlink(self._path)

    def __enter__(self) -> Self:
        self.fileno()
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        # As Python's files do: whoever forgets to close hears of it and loses nothing.
        if getattr(self, "_fd", -1) >= 0:
            warnings.warn(f"unclosed region {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd={self._fd}"
        return f"<{type(self).__name__} {self._path!r} {state}>"

    def __reduce__(self) -> Reduced:
        kind = type(self)
        return reduced(
            self.fileno(),
            self._path,
            self._identity,
            writable=self._writable,
            open_path=kind.open,
            adopt=kind,
        )

    @classmethod
    def _open_sized(cls, path: StrOrBytesPath, size: int, *, fill: bool) -> Self:
        """Open a region that exists; give it `size` if its creator has not come to that yet."""
        region = cls.open(path)
        try:
            if region.size != size:
                creation.settle_size(region.fileno(), path, size)
            if fill:
                region._map_holes()
        except BaseException:
            region.close()
            raise
        return region

    def _map_holes(self) -> None:
        """Put memory wherever there is none, without a byte of the rest being touched."""
        try:
            # Nearly always the region is new, and one request is enough.
            self.map(0, self.size, replace=False)
        except MappingExists:
            while empty := list(holes(self.layout().mappings, 0, self.size)):
                self._map_what_is_free(empty)

    def _map_what_is_free(self, ranges: list[tuple[int, int]]) -> None:
        for start, end in ranges:
            try:
                self.map(start, end - start, replace=False)
            except MappingExists:
                # Another process creates it, too.
                return

    def _require_region(self) -> None:
        with translated("cannot open the region", self._path):
            self._attribute(_LAYOUT)

    def _attribute(self, name: str) -> bytes:
        try:
            return os.getxattr(self._fd, name)
        except OSError as error:
            if error.errno in {errno.ENODATA, errno.EOPNOTSUPP}:
                text = "not a region of a mounted msharefs"
                raise NotARegion(errno.ENOTTY, text, self._path) from None
            raise

    def _generation(self, size: int) -> Generation:
        """Which layout it has now; `size` is the region's, as the last layout said."""
        self.fileno()
        with translated("cannot watch the layout", self._path):
            return read_generation(self._attribute, size)

    def _mappings(self, start: int, end: int) -> list[Mapping]:
        """What is mapped in a range of the region now."""
        self.fileno()
        with translated("cannot read the layout", self._path):
            return list(mappings_within(self._attribute, start, end))

    def _layout_allows_writing(self, start: int, end: int) -> bool:
        """The kernel knows nothing of a mapping's protection, so it is kept here."""
        try:
            mappings = self._mappings(start, end)
        except AccessDenied:
            # Who was handed the descriptor and may not read the file has the descriptor's rights.
            return True
        return requests.may_write(mappings, self._path)
