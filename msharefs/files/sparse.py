"""Files with holes, read so that holes and zeros take no memory.

Owns how it is found out where a file has data, without the caller's open file: to ask for that moves the
position of whoever is asked, so that the same file is opened once more, for nothing else. Where that is not
to be had all of the file is read, and what is zeros is left out all the same.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cached_property
from typing import Self

from msharefs.files.record import PAGE, next_data, runs

CHUNK = 4 << 20
"""Bytes that are read at a time."""
_ZEROS = bytes(CHUNK)

Note = Callable[[int, memoryview], None]
"""Told of pages that were read from that offset of the file on."""


class SparseFile:
    """A caller's open file, and where it has data. A context, in which it takes what it needs when it is asked."""

    def __init__(self, file: int) -> None:
        """A descriptor, which stays the caller's: of a regular file of a file system that is known, touched with the rights
        of whose it is."""
        self._file = file
        self._opened = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def pieces(self, offset: int, size: int) -> Iterator[tuple[int, int]]:
        """Where there may be data in so many bytes, as (start, end) in whole pages of the file, in order. Raises
        OSError."""
        end = offset + size
        if self._places is None:
            yield offset, end
            return
        position = offset
        while position < end and (start := next_data(self._places, position)) is not None:
            if start >= end:
                return
            start = max(position, start // PAGE * PAGE)
            position = -(-self._next_hole(start) // PAGE) * PAGE
            yield start, min(position, end)

    def fill(self, target: int, start: int, offset: int, size: int, note: Note) -> Iterator[int]:
        """Read the data of so many bytes from `offset` on into the memory of `target` (a descriptor) from `start` on, which
        is zeros. After each part it tells how many bytes were read. Raises OSError, ENOMEM where `target` has no memory."""
        for low, high in self.pieces(offset, size):
            for place in range(low, high, CHUNK):
                length = min(CHUNK, high - place)
                pages = self._fetch(place, length)
                if pages:
                    self._store(target, start + place - offset, pages)
                    note(place, pages)
                yield len(pages)
                if len(pages) < length:
                    return

    @cached_property
    def _places(self) -> int | None:
        """The same file, with a position of its own; None where the caller could not open it, or somebody would
        have to be waited for."""
        flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            fd = os.open(f"/proc/self/fd/{self._file}", flags)
        except OSError:
            return None
        self._opened.callback(os.close, fd)
        return fd

    @cached_property
    def _copy(self) -> int:
        """Where what is read comes first, for the kernel to copy it from: a page that cannot be had is an error then."""
        fd = os.memfd_create("read")
        self._opened.callback(os.close, fd)
        os.ftruncate(fd, CHUNK)
        return fd

    @cached_property
    def _memory(self) -> memoryview:
        return memoryview(mmap.mmap(self._copy, CHUNK))

    def _next_hole(self, start: int) -> int:
        """At the end of the file at the latest."""
        assert self._places is not None
        try:
            return max(os.lseek(self._places, start, os.SEEK_HOLE), start + 1)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            # It has become shorter.
            return start + 1

    def _fetch(self, offset: int, size: int) -> memoryview:
        """What the file has there, in whole pages, with zeros behind its end."""
        done = 0
        while done < size and (
            more := os.preadv(self._file, [self._memory[done:size]], offset + done)
        ):
            done += more
        whole = -(-done // PAGE) * PAGE
        self._memory[done:whole] = _ZEROS[: whole - done]
        return self._memory[:whole]

    def _store(self, target: int, start: int, pages: memoryview) -> None:
        if pages == _ZEROS[: len(pages)]:
            return
        with mmap.mmap(target, len(pages), offset=start) as memory:
            # A large page would reach into holes.
            with suppress(OSError):
                memory.madvise(mmap.MADV_NOHUGEPAGE)
            with memoryview(memory) as view:
                for at, length in runs(_not_zero(pages)):
                    self._store_run(at, view[at : at + length])

    def _store_run(self, at: int, view: memoryview) -> None:
        """By the kernel: a store would be SIGBUS where no memory is left."""
        with view:
            try:
                done = os.preadv(self._copy, [view], at)
            except OSError as error:
                if error.errno != errno.EFAULT:
                    raise
                done = 0
            if done < len(view):
                raise OSError(errno.ENOMEM, "no memory for the file's bytes")


def _not_zero(pages: memoryview) -> list[int]:
    """Where the pages are that are not all zeros, in bytes."""
    zeros = _ZEROS[:PAGE]
    return [at for at in range(0, len(pages), PAGE) if bytes(pages[at : at + PAGE]) != zeros]
