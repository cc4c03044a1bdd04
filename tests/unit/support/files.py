"""Core's port Files without a process: files of callers as plain values."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msharefs.core.ports import Piece
from tests.unit.support.fakes import FakeMemory

FIRST_DESCRIPTOR = 1000
"""That of the segment with the number 0 (FakeSegment.fileno)."""


async def nothing() -> None:
    """What happens while a file is read that nobody disturbs."""


@dataclass
class FakeFile:
    """A file that is open in a caller; an ordinary one unless it is told otherwise."""

    contents: bytes = b""
    mode: int = stat.S_IFREG | 0o600
    flags: int = os.O_RDWR
    seals: int = 0
    file_system: str = "ext4"
    device: int = 7
    inode: int = 70
    path: str = "/tmp/file"
    memory: FakeMemory | None = None
    meanwhile: Callable[[], Awaitable[None]] = nothing
    """Called when all was read but the last piece."""

    async def read(self, pieces: Sequence[Piece]) -> None:
        """Into the segments that the pieces name."""
        for piece in pieces[:-1]:
            self._read(piece)
        await self.meanwhile()
        for piece in pieces[-1:]:
            self._read(piece)

    def _read(self, piece: Piece) -> None:
        assert self.memory is not None
        segment = self.memory.segments[piece.descriptor - FIRST_DESCRIPTOR]
        data = self.contents[piece.file_offset :][: piece.size]
        if data:
            segment.poke(piece.start, data)


@dataclass
class FakeFiles:
    """Callers' descriptors, by their numbers. `taken` are those that are had now."""

    memory: FakeMemory
    files: dict[int, FakeFile] = field(default_factory=dict)
    taken: list[FakeFile] = field(default_factory=list)
    before: Callable[[], Awaitable[None]] = nothing
    """Called before a file is had."""
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """Thread, user and group of each caller whose file was wanted."""

    @asynccontextmanager
    async def take(
        self, thread: int, uid: int, gid: int, descriptor: int
    ) -> AsyncIterator[FakeFile]:
        """EBADF where there is none."""
        self.asked.append((thread, uid, gid))
        await self.before()
        file = self.files.get(descriptor)
        if file is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        file.memory = self.memory
        self.taken.append(file)
        try:
            yield file
        finally:
            self.taken.remove(file)
