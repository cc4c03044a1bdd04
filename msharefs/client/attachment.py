"""A region's bytes in this process: one mmap and the views on it.

Owns `Attachment`, and that it is on the memory of the region itself where the mount gives that
(segments.py). It works on any descriptor that can be mapped: it knows nothing of mounts or paths. Which range and which rights make sense, and how to
look at the layout, is the caller's business (region.py).
"""

from __future__ import annotations

import errno
import math
import mmap
import os
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from operator import index
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar, overload

from msharefs.client.errors import AccessDenied, MshareError, translated
from msharefs.client.layout import holes
from msharefs.client.segments import segment_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    import numpy as np
    import numpy.typing as npt

    from msharefs.client.layout import Mapping
    from msharefs.client.protection import Run

    Look = Callable[[], Iterable[Mapping]]
    """Gives what is mapped in the attached range now, in order. Raises AccessDenied, and
    ValueError once the region is closed."""

    Source = Callable[[int, int, int, bool], tuple[mmap.mmap, bool]]
    """Maps a range of a descriptor (offset, bytes, writable) into this process, and says whether it
    is the memory itself."""

    Scalar = TypeVar("Scalar", bound=np.generic)


class Attachment:
    """A range of a region, mapped into this process; made by `Region.attach`.

    `buf` is its memory itself: what is written there is seen at once by every process that
    has attached the same bytes. An access to an offset at which nothing is mapped in the region
    ends the process with SIGBUS.

    With `enforce` (see `Region.attach`) every byte is protected as its mapping says, and what the
    layout forbids gives SIGSEGV. The protections are those of the layout at the time of `attach`
    or of the last `refresh`, whoever changes it, this process too. Until then a change shows so:
    what was unmapped gives SIGBUS; what was mapped in a hole still gives SIGSEGV; what was mapped
    anew with another protection keeps the old one.

    On a mount of the direct data plane it is the memory itself, and `direct` is true. It keeps two
    descriptors then, and holes give SIGBUS as elsewhere, with two exceptions: in an attachment for
    reading only, and in a forked child, a hole reads as zeros.

    Closing the region leaves its attachments as they are. An attachment that is not closed
    goes when it and the last view of it are gone. A forked child has it too, on the same memory;
    each process closes its own.
    """

    __slots__ = (
        "__weakref__",
        "_address",
        "_applied",
        "_buf",
        "_direct",
        "_enforced",
        "_lock",
        "_look",
        "_map",
        "_offset",
        "_own_references",
        "_size",
    )

    def __init__(
        self,
        fd: int,
        offset: int,
        size: int,
        *,
        writable: bool,
        advice: int = 0,
        look: Look | None = None,
        enforce: bool = False,
        source: Source | None = None,
    ) -> None:
        """Map `size` bytes of `fd` from `offset` (a multiple of the page size) on by `source` (else
        `map_memory`), and advise the kernel with `advice` (madvise(2); 0: with nothing), as far as
        it takes it.

        `look` gives the mappings that lie in the range now; `enforce`, which needs it, protects
        each byte as they say.
        """
        self._offset = offset
        self._size = size
        self._map, self._direct = (source or map_memory)(fd, offset, size, writable)
        if advice and not self._direct:
            # A kernel without huge pages knows no such advice, and reads less ahead.
            with suppress(OSError):
                self._map.madvise(advice)
        self._own_references = sys.getrefcount(self._map)
        self._buf = self._view()
        self._address: int | None = None
        self._look = look
        self._enforced = enforce
        self._applied: tuple[Run, ...] = ()
        self._lock = threading.Lock()
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    @property
    def offset(self) -> int:
        """Where in the region the attached range begins, in bytes."""
        return self._offset

    @property
    def size(self) -> int:
        """The length of the attached range in bytes."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether `close` has taken it out of this process."""
        return self._map.closed

    @property
    def buf(self) -> memoryview:
        """The bytes themselves: a flat view without a copy, writable if the attachment is."""
        self._require_open()
        return self._buf

    @property
    def map(self) -> mmap.mmap:
        """The mmap object, for what else it can do (madvise, find). It is closed by `close` alone."""
        self._require_open()
        return self._map

    @property
    def readonly(self) -> bool:
        """Whether it was attached for reading only."""
        return self.buf.readonly

    @property
    def address(self) -> int:
        """Where it begins in this process's memory, as for a C library."""
        self._require_open()
        if self._address is None:
            from msharefs.client.direct_map import (  # noqa: PLC0415 - few need an address, and it loads ctypes
                address_of,
            )

            self._address = address_of(self._map)
        return self._address

    @property
    def direct(self) -> bool:
        """Whether it is the memory itself: page faults ask no daemon, and page tables can be small."""
        return self._direct

    @property
    def enforced(self) -> bool:
        """Whether every byte is protected as its mapping says."""
        return self._enforced

    def refresh(self) -> bool:
        """Protect every byte as the layout says now; True if that changed something.

        Only an attachment with `enforce` has anything to do, and its region must still be open
        (else ValueError). Views stay valid, but what is no longer mapped must not be used. Raises
        OutOfMemory (ENOMEM) if the process has too many areas (vm.max_map_count), AccessDenied
        (EACCES) for prot "x" on a mount with noexec; some protections are then the old ones.
        """
        self._require_open()
        if self._look is None or not self._enforced:
            return False
        from msharefs.client import protection  # noqa: PLC0415 - few need it, and it loads ctypes

        # Who looked first must not have the last word.
        with self._lock:
            mappings = self._look()
            wanted = protection.runs(
                mappings, self._offset, self._size, writable=not self._buf.readonly
            )
            if wanted == self._applied:
                return False
            # Unknown, should it stop half way.
            self._applied = ()
            with translated("cannot protect the attachment"):
                protection.apply(self.address, wanted)
            self._applied = wanted
        return True

    @overload
    def as_array(
        self,
        dtype: type[Scalar] | np.dtype[Scalar],
        shape: int | tuple[int, ...],
        *,
        offset: int = 0,
        order: Literal["C", "F"] = "C",
    ) -> npt.NDArray[Scalar]: ...
    @overload
    def as_array(
        self,
        dtype: npt.DTypeLike,
        shape: int | tuple[int, ...],
        *,
        offset: int = 0,
        order: Literal["C", "F"] = "C",
    ) -> npt.NDArray[Any]: ...
    def as_array(
        self,
        dtype: npt.DTypeLike,
        shape: int | tuple[int, ...],
        *,
        offset: int = 0,
        order: Literal["C", "F"] = "C",
    ) -> npt.NDArray[Any]:
        """A NumPy array on the attached memory, without a copy; read-only if the attachment is.

        `offset` is the place of its first element, in bytes from the start of the attachment;
        `order` says which index changes fastest in memory, the last ("C") or the first ("F").
        The attachment cannot be closed while the array, or a view of it, exists.

        Raises ImportError without NumPy, ValueError if the array does not fit, has Python objects
        for elements, or would lie on bytes that are not mapped now, whose touch would end the
        process. (They are looked for while the region is open, by whoever may read its layout.)
        """
        try:
            import numpy as np  # noqa: PLC0415 - optional, and slow to import
        except ImportError as error:
            raise ImportError("as_array() needs NumPy: pip install 'msharefs[numpy]'") from error
        element = np.dtype(dtype)
        if element.hasobject:
            raise ValueError("an array of Python objects holds pointers of one process only")
        lengths = tuple(map(index, shape if isinstance(shape, Iterable) else (shape,)))
        count = math.prod(lengths)
        inside = min(offset, *lengths, 0) >= 0 and offset + count * element.itemsize <= self._size
        if not inside:
            raise ValueError(
                f"no room for {element} in shape {shape} at offset {offset} "
                f"of an attachment of {self._size} bytes"
            )
        self._require_mapped(offset, count * element.itemsize)
        # Not ndarray(buffer=...): it keeps the address without holding the memory.
        flat = np.frombuffer(self.buf, element, count, offset)
        return flat.reshape(lengths, order=order)

    def close(self) -> None:
        """Take it out of this process; closing twice does nothing.

        `buf` is released with it: using it later raises ValueError. While an array or a slice of
        it exists, BufferError is raised and it stays: those views remain valid, and
        `attachment.buf` is a fresh view if the one that was kept has been released.
        """
        if self._map.closed:
            return
        try:
            # First the view of our own: this fails if something stands directly on it.
            self._buf.release()
            # The map knows of slices and arrays, but not of numpy.ndarray(buffer=buf), which holds
            # the map and no view of it: to unmap under that would crash the process.
            if sys.getrefcount(self._map) > self._own_references:
                raise BufferError
            self._map.close()
        except BufferError:
            self._buf = self._view()
            raise BufferError(
                "the attachment is still used by an array or a slice of its buf; delete or "
                "release those first (del array, view.release())"
            ) from None

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except BufferError:
            # The frames of an exception on its way keep their views alive. It is the news, not
            # they: the memory goes as soon as the last of them does.
            if error is None:
                raise

    def __repr__(self) -> str:
        if self.closed:
            return f"<{type(self).__name__} closed>"
        rights = "read-only" if self.readonly else "writable"
        return f"<{type(self).__name__} of {self._size} bytes at {self._offset}, {rights}>"

    def _require_mapped(self, start: int, length: int) -> None:
        """ValueError if a byte from `start` on has nothing behind it, as far as that can be asked."""
        if self._look is None or not length:
            return
        try:
            mappings = list(self._look())
        except (AccessDenied, ValueError):
            # Who may not read the layout, or has closed the region, knows what is mapped.
            return
        first = self._offset + start
        for hole, end in holes(mappings, first, first + length):
            raise ValueError(
                f"nothing is mapped at {hole} to {end} of the region: to touch an array there "
                "would end the process"
            )

    def _view(self) -> memoryview:
        return memoryview(self._map)[: self._size]

    def _require_open(self) -> None:
        if self._map.closed:
            raise ValueError("operation on a closed attachment")


def map_memory(fd: int, offset: int, size: int, writable: bool) -> tuple[mmap.mmap, bool]:
    """The memory itself where the mount gives it, else the file."""
    segment = segment_of(fd)
    if segment is None:
        return _map_shared(fd, offset, size, writable=writable), False
    from msharefs.client.direct_map import DirectMap  # noqa: PLC0415 - the same

    try:
        return DirectMap.of(segment, fd, offset, size, writable=writable), True
    finally:
        os.close(segment)


def map_small(fd: int, offset: int, size: int, writable: bool) -> tuple[mmap.mmap, bool]:
    """The file, without asking for the memory, unless the file cannot be mapped.

    For what is so small that its page faults cost less than to ask.
    """
    try:
        return _map_shared(fd, offset, size, writable=writable), False
    except MshareError as error:
        if error.errno != errno.ENODEV:
            raise
    return map_memory(fd, offset, size, writable)


def _map_shared(fd: int, offset: int, size: int, *, writable: bool) -> mmap.mmap:
    prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    # Before Python 3.13 the module keeps a duplicate of the descriptor until the map is closed: the
    # region counts as open for so long, which is true enough of an attached one.
    untracked = {"trackfd": False} if sys.version_info >= (3, 13) else {}
    try:
        return mmap.mmap(fd, size, mmap.MAP_SHARED, prot, offset=offset, **untracked)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        # The kernel's word for the file of a region that is direct.
        text = "other processes have attached the memory of the region itself, which is not given to this one"
        raise MshareError(errno.ENODEV, text) from error
