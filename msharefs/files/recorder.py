"""The making of a record, while a file is read: by a helper, with the rights of the caller.

Owns the memory that a record is in, a memfd whose descriptor outlives the helper. What is in it is
record.py's.
"""

from __future__ import annotations

import errno
import mmap
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

from msharefs.files.record import Owner, Record


class Recorder:
    """At most one record, of what that user has read."""

    def __init__(self, uid: int, gid: int, groups: Sequence[int]) -> None:
        self._rights = (uid, gid, groups)
        self._record: Record | None = None
        self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        """Whoever was given the descriptor has a copy."""
        if self._fd >= 0:
            os.close(self._fd)

    def begin(self, file: int, offset: int, size: int) -> None:
        """Record what is read from now on, which is of `size` bytes of the file from `offset` on.
        Raises OSError: what mmap(2) says of a file that cannot be written, no memory, or E2BIG for a
        user who is in too many groups."""
        with suppress(ValueError):  # It is empty, perhaps since this moment.
            mmap.mmap(file, 1).close()
        self._fd = os.memfd_create("record")
        owner = Owner(*self._rights, offset, secrets.randbits(64))
        try:
            self._record = Record.begin(self._fd, owner, size)
        except ValueError as error:
            raise OSError(errno.E2BIG, str(error)) from error

    def note(self, offset: int, pages: memoryview) -> None:
        """Pages that were read from that offset of the file on, zeros behind its end. Raises OSError where there is no
        memory for their digests."""
        if self._record is not None:
            self._record.note(offset, self._record.digests(pages))

    def fileno(self) -> int:
        """The descriptor of the record. Raises OSError where none was begun."""
        if self._record is None:
            raise OSError(errno.EINVAL, "nothing was recorded")
        return self._fd
