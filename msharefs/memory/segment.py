"""One POSIX shared-memory object: size, reserve, punch out.

Owns what is done to the object, from `create` to `destroy`; which descriptor it is done with is
objects.py's. What the bytes mean, and which ranges may be touched, is not known here. All
offsets and sizes are bytes.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable

from msharefs.abi import HUGE_PAGE_SIZE, PAGE_SIZE
from msharefs.linux import syscalls
from msharefs.memory.headroom import LARGEST_GRANT, Headroom
from msharefs.memory.objects import Descriptor, SharedObjects

IsInterrupted = Callable[[], bool]
"""Whether a reservation is to be given up."""
COLLAPSE_TRIES = 3
PIECE = LARGEST_GRANT
"""Bytes, of whole huge pages: a large reservation asks again after so many what the machine has
left, because others take of it, too."""
_ZEROS = bytes(1 << 20)


def never() -> bool:
    """Nothing is given up."""
    return False


class PosixSegment:
    """A shared-memory object that belongs to this process alone to size and fill. Nothing is
    open for it until `open`, and its name is unlinked in `destroy`."""

    __slots__ = ("_name", "_objects")

    def __init__(self, name: str, objects: SharedObjects) -> None:
        """The object `name` (a word, as it stands in /dev/shm), which is there."""
        self._name = name
        self._objects = objects

    def open(self) -> OpenPosixSegment:
        """The segment with a descriptor, for as long as that is referred to. Raises OSError."""
        return self._opened(self._objects.open(self._name))

    def open_for_page(self) -> OpenPosixSegment:
        """The same for a moment, also where no descriptor is left. Raises OSError."""
        return self._opened(self._objects.open_for_page(self._name))

    def open_for_readers(self) -> Descriptor:
        """A descriptor to be given away that is for reading and stays so. Raises OSError."""
        return self._objects.open_for_readers(self._name)

    def _opened(self, descriptor: Descriptor) -> OpenPosixSegment:
        return OpenPosixSegment(self._name, descriptor, self._objects.headroom)

    def allocated(self) -> int:
        """How many bytes have memory, in holes of the layout, too; none if somebody else has
        removed the name."""
        return self._objects.allocated(self._name)

    def identity(self) -> tuple[int, int] | None:
        """Device and inode number; None if somebody else has removed the name."""
        return self._objects.identity(self._name)

    def destroy(self) -> None:
        """Unlink and close. The memory goes with the last mapping of it."""
        self._objects.remove(self._name)


class OpenPosixSegment:
    """A segment with a descriptor, which is open while this is referred to."""

    __slots__ = ("_descriptor", "_fd", "_headroom", "_name")

    def __init__(self, name: str, descriptor: Descriptor, headroom: Headroom) -> None:
        self._name = name
        self._descriptor = descriptor
        self._fd = descriptor.fd
        self._headroom = headroom

    def fileno(self) -> int:
        """The descriptor, open for reading and writing."""
        return self._fd

    def set_size(self, size: int) -> None:
        """Set the length. Raises OSError."""
        os.ftruncate(self._fd, size)

    def reserve(self, start: int, size: int, interrupted: IsInterrupted = never) -> None:
        """Give every page of the range memory, zeros where there was none.

        Raises OSError: ENOSPC over the arena's limit, ENOMEM where the machine or a control
        group has no more, EINTR where it was `interrupted`. A part may then have memory already.
        """
        if size > PIECE:
            self._headroom.check(size)
        # fallocate takes large pages, and may take them beyond both ends of its range: into
        # holes, where they would be touched without SIGBUS and use up the arena's limit.
        # So it gets whole huge pages only, and the ends come in small ones.
        end = start + size
        first = min(-(-start // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE, end)
        last = max(end // HUGE_PAGE_SIZE * HUGE_PAGE_SIZE, first)
        if first > start:
            self._take(start, first)
            syscalls.populate_small(self._fd, start, first - start)
        for piece in range(first, last, PIECE):
            if piece > first and interrupted():
                raise OSError(errno.EINTR, os.strerror(errno.EINTR), self._name)
            piece_end = min(piece + PIECE, last)
            self._take(piece, piece_end)
            os.posix_fallocate(self._fd, piece, piece_end - piece)
        if end > last:
            self._take(last, end)
            syscalls.populate_small(self._fd, last, end - last)

    def _take(self, start: int, end: int) -> None:
        """Ask for memory for the range; a page that was touched before needs none."""
        try:
            self._headroom.take(end - start)
        except OSError:
            if os.lseek(self._fd, start, os.SEEK_HOLE) < end:
                raise

    def make_huge(self, start: int, size: int) -> None:
        """Put a reserved range into 2 MiB pages. Raises OSError(ENOMEM) where that fails."""
        for attempt in range(1, COLLAPSE_TRIES + 1):
            try:
                syscalls.collapse(self._fd, start, size, HUGE_PAGE_SIZE)
            except OSError as error:
                # EAGAIN and EBUSY pass: a page was locked or on a per-processor list.
                if attempt == COLLAPSE_TRIES:
                    raise OSError(errno.ENOMEM, f"no huge pages: {error}", self._name) from error
            else:
                return

    def collapse(self, start: int, size: int) -> None:
        """Put a reserved range into 2 MiB pages if that is to be had at this moment. Raises OSError:
        EAGAIN for pages that are in use or swapped out, ENOMEM and EBUSY where the machine or a
        control group has no memory for it, EINVAL where the kernel does not do it."""
        # The old pages go one huge page after the other.
        self._headroom.take(HUGE_PAGE_SIZE)
        if not self._is_in_memory(start, size):
            raise OSError(errno.EAGAIN, "a part is swapped out", self._name)
        syscalls.collapse(self._fd, start, size, HUGE_PAGE_SIZE)

    def _is_in_memory(self, start: int, size: int) -> bool:
        """Whether nothing is swapped out: a collapse would bring it back, when it had to go
        because memory is short. A kernel that cannot tell is taken to have swapped nothing."""
        try:
            return syscalls.cached_pages(self._fd, start, size) * PAGE_SIZE >= size
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
            return True

    def punch(self, start: int, size: int) -> None:
        """Take the range's memory away, from every process at once."""
        before = self.allocated()
        syscalls.punch_hole(self._fd, start, size)
        # Others may have touched more meanwhile than was there.
        self._headroom.give_back(max(0, before - self.allocated()))

    def zero(self, start: int, size: int) -> None:
        """Overwrite a reserved range with zeros; its pages stay, so it cannot fail for memory."""
        end = start + size
        while start < end:
            start += os.pwrite(self._fd, _ZEROS[: end - start], start)

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer with the bytes from `start` on, which are within the size."""
        while buffer:
            done = os.preadv(self._fd, [buffer], start)
            if not done:
                raise OSError(errno.EIO, "the segment is shorter than its region", self._name)
            buffer, start = buffer[done:], start + done

    def window(self, start: int, size: int) -> memoryview:
        """The bytes themselves, read-only, of whole pages that have memory: one that had
        none would get it now. The view is unmapped when it is dropped. Raises OSError."""
        # Whole huge pages where there are any, so that the kernel can map each as one.
        low = start // HUGE_PAGE_SIZE * HUGE_PAGE_SIZE
        high = -(-(start + size) // HUGE_PAGE_SIZE) * HUGE_PAGE_SIZE
        high = min(high, os.fstat(self._fd).st_size)
        whole = mmap.mmap(self._fd, high - low, mmap.MAP_SHARED, mmap.PROT_READ, offset=low)
        return memoryview(whole)[start - low :][:size]

    def write(self, data: memoryview, start: int) -> None:
        """Write the bytes at `start`. Raises OSError(ENOSPC)."""
        while data:
            done = os.pwrite(self._fd, data, start)
            data, start = data[done:], start + done

    def count(self) -> None:
        """The file system that it is in counts by itself."""

    def allocated(self) -> int:
        """How many bytes have memory, in holes of the layout, too."""
        return os.fstat(self._fd).st_blocks * 512
