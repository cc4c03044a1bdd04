"""Regions that a test has attached in its own process, on every plane by the same words.

Owns the two ways: mmap(2) of the file, as programs have it that know nothing, and the library, which gets
the memory itself where a mount gives it. Knows nothing of what is done there.
"""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

from msharefs import Attachment
from tests.helpers.mount import is_direct


class Window:
    """The first `size` bytes of an open region, or all of them, by mmap(2). Raises OSError."""

    def __init__(self, fd: int, size: int = 0) -> None:
        self._map = mmap.mmap(fd, size)
        self.view = memoryview(self._map)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._map))

    def close(self) -> None:
        """Detach."""
        self.view.release()
        self._map.close()

    def __enter__(self) -> memoryview:
        return self.view

    def __exit__(self, *_exception: object) -> None:
        self.close()


class LibraryWindow(Window):
    """The same by the library, with the right to write whatever the mappings say, as mmap(2) gives it."""

    def __init__(self, fd: int, size: int = 0) -> None:
        self._attachment = Attachment(fd, 0, size or os.fstat(fd).st_size, writable=True)
        self.view = self._attachment.buf
        self.address = self._attachment.address

    def close(self) -> None:
        """Detach."""
        self._attachment.close()


def kind_for(path: Path) -> type[Window]:
    """What attaches the regions of the mount on which this path is: the library, where it gets memory itself."""
    while not os.path.ismount(path):
        path = path.parent
    return LibraryWindow if is_direct(path) else Window
