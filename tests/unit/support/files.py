"""Core's port Files without a process: files of callers as plain values."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from msharefs.abi import PAGE_SIZE
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
    """Called when all was read but the last piece, and before anything is written."""
    kept: dict[int, FakeFile] = field(default_factory=dict)
    """Where records are kept."""
    noted: dict[int, bytes] = field(default_factory=dict)
    """Pages by their offset in the file, as region and file had them when they were last in step."""
    synced: int = 0
    full: bool = False
    """Nothing more is written."""
    _record: int = 0

    async def remember(self, offset: int, size: int) -> int:
        """The number is that of records that there are, and one."""
        for place in range(offset, offset + size, PAGE_SIZE):
            self.noted[place] = self._page(place)
        self._record = len(self.kept) + 1
        return self._record

    async def keep(self) -> None:
        """From now on it is there."""
        self.kept[self._record] = self

    async def write(
        self, segment: int, start: int, offset: int, size: int
    ) -> tuple[int, int, int, int]:
        """By pages, as helpers do it."""
        await self.meanwhile()
        assert self.memory is not None
        written = both = unwritten = 0
        for place in range(0, size, PAGE_SIZE):
            ours = self.memory.segments[segment - FIRST_DESCRIPTOR].peek(start + place, PAGE_SIZE)
            noted, theirs = self.noted[offset + place], self._page(offset + place)
            if ours in (noted, theirs) or offset + place >= len(self.contents):
                continue
            if self.full:
                unwritten += PAGE_SIZE
                continue
            both += PAGE_SIZE * (theirs != noted)
            written += PAGE_SIZE
            length, end = len(self.contents), offset + place
            self.contents = (self.contents[:end] + ours + self.contents[end + PAGE_SIZE :])[:length]
            self.noted[offset + place] = ours
        return written, both, unwritten, errno.ENOSPC if unwritten else 0

    async def count(self, segment: int, start: int, offset: int, size: int) -> int:
        """Pages that are not as they were noted."""
        await self.meanwhile()
        assert self.memory is not None
        ours = self.memory.segments[segment - FIRST_DESCRIPTOR]
        places = range(0, min(size, len(self.contents) - offset), PAGE_SIZE)
        return PAGE_SIZE * sum(
            ours.peek(start + place, PAGE_SIZE) != self.noted[offset + place] for place in places
        )

    async def sync(self) -> None:
        """Counted."""
        self.synced += 1

    def _page(self, offset: int) -> bytes:
        return self.contents[offset : offset + PAGE_SIZE].ljust(PAGE_SIZE, b"\0")

    async def read(self, pieces: Sequence[Piece]) -> None:
        """Into the segments that the pieces name."""
        for piece in pieces[:-1]:
            self._read(piece)
        await self.meanwhile()
        for piece in pieces[-1:]:
            self._read(piece)

    async def measure(self, offset: int, size: int) -> int:
        """Pages with anything else than zeros."""
        return PAGE_SIZE * len(self._data(offset, size))

    async def read_data(self, pieces: Sequence[Piece]) -> None:
        """Those, for which there may be no memory."""
        await self.meanwhile()
        for piece in pieces:
            for place in self._data(piece.file_offset, piece.size):
                start = piece.start + place - piece.file_offset
                try:
                    self._read(Piece(piece.descriptor, start, place, PAGE_SIZE))
                except OSError as error:
                    raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)) from error

    def _data(self, offset: int, size: int) -> list[int]:
        places = range(offset, offset + size, PAGE_SIZE)
        return [place for place in places if any(self._page(place))]

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
    looked: list[int] = field(default_factory=list)
    """Who had what was changed in a file counted."""
    kept: dict[int, FakeFile] = field(default_factory=dict)
    """Files that are written back, by the numbers of their records."""

    @asynccontextmanager
    async def open(self, record: int, uid: int) -> AsyncIterator[FakeFile]:
        """ENOENT where it is not kept."""
        if record not in self.kept:
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
        yield self.kept[record]

    @asynccontextmanager
    async def look_into(self, record: int, uid: int) -> AsyncIterator[FakeFile]:
        """The same; who asked is noted."""
        self.looked.append(uid)
        async with self.open(record, uid) as file:
            yield file

    def forget(self, records: Sequence[int]) -> None:
        """They are not there any more."""
        for record in records:
            self.kept.pop(record, None)

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
        file.memory, file.kept = self.memory, self.kept
        self.taken.append(file)
        try:
            yield file
        finally:
            self.taken.remove(file)
