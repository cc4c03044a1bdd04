"""A range of a segment in this process, at an address with which huge pages save page tables.

Owns `DirectMap`: what it is placed over, what has to stay open as long as it, and the fence around its
holes. Where the segment comes from is not known here (segments.py).
"""

from __future__ import annotations

import ctypes
import mmap
import os
from contextlib import suppress
from typing import Self

from msharefs.abi import HUGE_PAGE_SIZE
from msharefs.linux import syscalls, userfaultfd

_PLACES = 4
"""So often another place is looked for, if the one that the kernel chose is not aligned."""
_PLACE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | syscalls.MAP_NORESERVE


class Kept:
    """A descriptor that is closed with the last reference to this."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __del__(self) -> None:
        os.close(self._fd)


class DirectMap(mmap.mmap):
    """The mmap object of a range of a segment. With it go the descriptors that it needs."""

    _kept: tuple[Kept, ...] = ()

    @classmethod
    def of(cls, segment: int, handle: int, offset: int, size: int, *, writable: bool) -> Self:
        """Map `size` bytes of a segment from `offset` (a multiple of the page size) on. `handle` is
        the open region, of which a duplicate is kept: it tells the mount that the region is in
        use. Both stay the caller's. Raises OSError."""
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        kept = Kept(os.dup(handle))
        map_ = cls._placed(offset, size, prot)
        map_._kept = (kept,)
        address = address_of(map_)
        syscalls.map_shared(address, size, prot, segment, offset)
        if writable:
            # Where it cannot be had a touch of a hole reads zeros, and the page is swept.
            with suppress(OSError):
                fence = userfaultfd.sigbus_where_nothing_is(address, size)
                map_._kept = (kept, Kept(fence))
        return map_

    def close(self) -> None:
        """Take it out of this process, and only then let go of the region."""
        super().close()
        self._kept = ()

    @classmethod
    def _placed(cls, offset: int, size: int, prot: int) -> Self:
        """Memory of no use, at an address that is `offset` modulo 2 MiB if that can be had. The mmap
        module takes no address, but the kernel puts one mapping below the other: so one of which
        we choose the size fills the place where the first one was."""
        fillings: list[mmap.mmap] = []
        place = cls(-1, size, _PLACE, prot)
        while size >= HUGE_PAGE_SIZE and len(fillings) < _PLACES:
            address = address_of(place)
            if not (address - offset) % HUGE_PAGE_SIZE:
                break
            place.close()
            below = (address - size - offset) % HUGE_PAGE_SIZE
            fillings.append(mmap.mmap(-1, size + below, _PLACE, prot=0))
            place = cls(-1, size, _PLACE, prot)
        for filling in fillings:
            filling.close()
        return place


class _PyBuffer(ctypes.Structure):
    """The start of CPython's Py_buffer, and room for the rest of it."""

    _fields_ = (
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.c_void_p),
        ("rest", ctypes.c_byte * 128),
    )


def address_of(map_: mmap.mmap) -> int:
    """Where it lies, asked through the buffer protocol, which serves read-only maps too."""
    view = _PyBuffer()
    get = ctypes.pythonapi.PyObject_GetBuffer
    get.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
    get(map_, ctypes.byref(view), 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(view))
    return int(view.buf or 0)
