"""The file that the processes of one run share (runfile.h): its tables and its locks.

Owns their layout on this side, and which ranges some process may have. It decides nothing and
knows no region: collector.py does.
"""

from __future__ import annotations

import ctypes
import enum
import errno
import json
import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from msharefs.linux.locks import SharedMutex, is_locked, try_lock, unlock

PREFIX = ".msharefs-run-"
"""How the directories of runs are called, each with the file and a socket in it."""
FILE = "tables"
SOCKET = "collector"

MAGIC = 0x3430676E75726D73
WORD = 8
HUGE_PAGE = 2 << 20

# struct run_header: where each word is.
DEVICE, INODE, ROOM, FLOOR, NEXT_SEGMENT, REGION_SIZE, IPC_NAMESPACE = range(1, 8)
HOLDERS, RANGES, SEGMENTS, LEFT = range(8, 12)
HOLDERS_AT, RANGES_AT, SEGMENTS_AT, LEFT_AT, RECORDS_AT, RECORD_SIZE, SIZE = range(12, 19)
HOLDERS_USED, RANGES_USED, RANGES_THERE, SEGMENTS_USED, SEGMENTS_THERE = range(19, 24)
SEGMENTS_LIVE, MOVES, DIRECT, PEAK, HINTS_PUT = range(24, 29)
HINTS_BYTE = 29 * WORD
HINTS = 256
LOOKS = 16
"""How often it is looked again because something may have been missed."""
LOCK_BYTE = HINTS_BYTE + 4 * HINTS

# How many there may be of each.
HOLDER_COUNT = 16384
RANGE_COUNT = 65536
SEGMENT_COUNT = 65536
LEFT_COUNT = 4096
RANGE_BYTES = 16
SEGMENT_BYTES = 64

STORY_BYTE = 4096
STORY_BYTES = 2 * 4096
HOLDERS_BYTE = STORY_BYTE + STORY_BYTES

# The low bits of a range's offset.
RANGE_BLANK = 2
RANGE_TOLD = 4
RANGE_FILLING = 8
RANGE_SEGMENT = 16
RANGE_FLAGS = HUGE_PAGE - 1

# Locks are on bytes far beyond the end of the file.
HOLDER_LOCKS = 1 << 60
LIFE_LOCK = HOLDER_LOCKS - 1
"""Had by mshare run and its collector, as long as one of them lives."""
SETTLED_LOCK = HOLDER_LOCKS - 2
"""The same, from the moment on at which the run has the region for itself."""


class RangeState(enum.Enum):
    """What is known of a range (ranges.h)."""

    TOLD = enum.auto()
    """Somebody is about to have it; there is no memory, and nobody has it."""
    FILLING = enum.auto()
    """The place is its own; whether there is memory is not known."""
    FILLED = enum.auto()
    SEGMENT = enum.auto()
    """It belongs to a segment with a name; its size is the room that this has."""


class RunFileBusyError(Exception):
    """A process of the run is changing the tables."""


@dataclass(frozen=True, slots=True)
class Range:
    """A range of the region that the run has taken. Bytes."""

    number: int
    offset: int
    size: int
    state: RangeState


@dataclass(frozen=True, slots=True)
class SegmentEntry:
    """A segment with a name, by what the kernel knows it by."""

    place: int
    """Its number in the table."""
    kind: int
    device: int
    id: int
    range: int
    """The number of its range."""
    size: int
    """Bytes of memory that it has."""


@dataclass(frozen=True, slots=True)
class Story:
    """What is told about a run to who finds its file later."""

    region: str
    """The path of the region; "" if the run has none yet."""
    made: bool
    """The run has made the region, and it goes with the run."""
    creator: int
    """The process that made the region."""


class RunFile:
    """The file, open and mapped."""

    def __init__(self, directory: Path, fd: int) -> None:
        """Take over `fd`, the open file in `directory`. ValueError if it is none."""
        self.directory = directory
        self._fd = fd
        self._map = mmap.mmap(fd, os.fstat(fd).st_size)
        self._words = memoryview(self._map).cast("Q")
        if self._words[0] != MAGIC:
            self.close()
            raise ValueError(f"{directory} is no run's")
        address = ctypes.addressof(ctypes.c_char.from_buffer(self._map, LOCK_BYTE))
        self._mutex = SharedMutex(address)

    def make_mutex(self) -> None:
        """Make the lock; nobody may use the file before."""
        self._mutex.make()

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / FILE

    @property
    def socket_path(self) -> Path:
        """Where the collector is asked."""
        return self.directory / SOCKET

    @property
    def name(self) -> str:
        """A name for a region that is being made, which tells whose it is."""
        return self.directory.name

    def describe(self, story: Story, size: int, mode: int) -> None:
        """Tell of the region: its size in bytes, and its mode, because who may write there may
        use this file. OSError (ENAMETOOLONG) if the region's path is too long."""
        text = json.dumps(asdict(story)).encode()
        if len(text) > STORY_BYTES:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), story.region)
        self._map[STORY_BYTE : STORY_BYTE + STORY_BYTES] = text.ljust(STORY_BYTES, b"\0")
        self._words[FLOOR] = -(-size // HUGE_PAGE)
        self._words[NEXT_SEGMENT] = self._words[REGION_SIZE] = size
        os.fchmod(self._fd, _file_mode(mode))
        self.directory.chmod(0o700 | _file_mode(mode) >> 2 & 0o011)

    @property
    def story(self) -> Story:
        """What the file tells about its run."""
        text = bytes(self._map[STORY_BYTE : STORY_BYTE + STORY_BYTES]).rstrip(b"\0")
        return Story(**json.loads(text)) if text else Story("", made=False, creator=0)

    @property
    def region_identity(self) -> tuple[int, int]:
        """Device and inode of the region; zeros as long as the run claims none."""
        return self._words[DEVICE], self._words[INODE]

    @region_identity.setter
    def region_identity(self, identity: tuple[int, int]) -> None:
        self._words[DEVICE], self._words[INODE] = identity

    def tell_how_it_is_had(self, *, direct: bool) -> None:
        """Whether processes are to ask for the memory of the region itself."""
        self._words[DIRECT] = direct

    @property
    def peak(self) -> int:
        """The most bytes that lived in the region at one moment, as far as was seen: by the processes
        of a run that is to tell it (placed.c), and by its collector."""
        return self._words[PEAK]

    def note_peak(self, seen: int) -> None:
        """So many bytes live there now."""
        self._words[PEAK] = max(self._words[PEAK], seen)

    @property
    def segments_live(self) -> int:
        """How many segments live in the region."""
        return self._words[SEGMENTS_LIVE]

    def claim_life(self) -> None:
        """Say that the run lives, as long as this open file does."""
        try_lock(self._fd, LIFE_LOCK, shared=True)

    def claim_region(self) -> None:
        """Say that the run has the region for itself."""
        try_lock(self._fd, SETTLED_LOCK, shared=True)

    def claim_alone(self) -> bool:
        """Keep all others from claiming anything. False if somebody has."""
        return try_lock(self._fd, SETTLED_LOCK, size=2 + HOLDER_COUNT)

    def is_settled(self) -> bool:
        """Whether the run has the region for itself. To be asked by others."""
        return is_locked(self._fd, SETTLED_LOCK)

    def is_alive(self) -> bool:
        """Whether mshare run, its collector or any process with memory of the run lives.

        To be asked by others than these.
        """
        return is_locked(self._fd, LIFE_LOCK, size=1 + HOLDER_COUNT)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody gives back or changes segments inside. RunFileBusyError if somebody does now."""
        if not self._mutex.try_lock():
            raise RunFileBusyError
        try:
            yield
        finally:
            self._mutex.unlock()

    def has_holders(self) -> bool:
        """Whether any process may have a range."""
        return is_locked(self._fd, HOLDER_LOCKS, size=HOLDER_COUNT)

    def clear_dead_holders(self) -> None:
        """Forget what processes had that have ended."""
        for number in self._holders():
            # With the lock nobody else can begin to use it.
            if not try_lock(self._fd, HOLDER_LOCKS + number):
                continue
            start, size = self._record(number)
            self._map[start : start + size] = bytes(size)
            self._words[self._words[HOLDERS_AT] // WORD + number] = 0
            unlock(self._fd, HOLDER_LOCKS + number)

    def held(self) -> int:
        """The numbers of the ranges that some process may have, as bits.

        RunFileBusyError if so much is going on that one could have been missed.
        """
        for _ in range(LOOKS):
            moves = self._words[MOVES]
            bits = 0
            for number in self._holders():
                start, size = self._record(number)
                bits |= int.from_bytes(self._map[start : start + size], "little")
            # Else a process may have gone from one that was still to be read to one that was
            # read already.
            if self._words[MOVES] == moves:
                return bits
        raise RunFileBusyError

    def ranges(self) -> list[Range]:
        """The ranges that the run has taken."""
        base = self._words[RANGES_AT] // WORD
        found = []
        for number in range(self._words[RANGES_USED]):
            offset, size = self._words[base + 2 * number : base + 2 * number + 2]
            if offset:
                flags = offset & RANGE_FLAGS
                found.append(Range(number, offset - flags, size, _state(flags)))
        return found

    def free_range(self, number: int) -> None:
        """Its place may be taken again; nothing is mapped there."""
        self._words[self._words[RANGES_AT] // WORD + 2 * number] = 0

    def raise_floor(self) -> None:
        """Below the lowest segment the region is for memory without a name. To be called with
        the lock."""
        lowest = min(
            (r.offset - HUGE_PAGE for r in self.ranges() if r.state is RangeState.SEGMENT),
            default=None,
        )
        size = self._words[REGION_SIZE]
        floor = -(-size // HUGE_PAGE) if lowest is None else max(0, lowest) // HUGE_PAGE
        self._words[FLOOR] = max(self._words[FLOOR], floor)

    def take_hints(self, since: int) -> tuple[int, set[int] | None]:
        """The ranges that may be free by now, told after the hint with number `since`; None:
        there were too many to be told. With it the number of the next hint."""
        put = self._words[HINTS_PUT]
        if put - since > HINTS:
            return put, None
        hints = memoryview(self._map)[HINTS_BYTE:LOCK_BYTE].cast("I")
        return put, {hints[number % HINTS] for number in range(since, put)}

    def segments(self) -> list[SegmentEntry]:
        """The segments that live in the region."""
        base = self._words[SEGMENTS_AT] // WORD
        found = []
        for place in range(self._words[SEGMENTS_USED]):
            at = base + place * SEGMENT_BYTES // WORD
            kind, device, number, span, size = self._words[at : at + 5]
            if kind:
                found.append(SegmentEntry(place, kind, device, number, span, size))
        return found

    def remove_segment(self, segment: SegmentEntry) -> None:
        """Empty its entry. To be called with the lock."""
        self._words[self._words[SEGMENTS_AT] // WORD + segment.place * SEGMENT_BYTES // WORD] = 0
        self._words[SEGMENTS_LIVE] -= 1

    def remove(self) -> None:
        """Take it away; who has it mapped keeps it."""
        for name in (FILE, SOCKET):
            with suppress(FileNotFoundError):
                os.unlink(self.directory / name)
        with suppress(OSError):
            self.directory.rmdir()

    def close(self) -> None:
        """Let go of it."""
        self._words.release()
        # The mutex has the address of its memory, so that the mapping goes with the process.
        os.close(self._fd)

    def _holders(self) -> Iterator[int]:
        base = self._words[HOLDERS_AT] // WORD
        for number in range(self._words[HOLDERS_USED]):
            if self._words[base + number]:
                yield number

    def _record(self, number: int) -> tuple[int, int]:
        size = self._words[RECORD_SIZE]
        return self._words[RECORDS_AT] + number * size, size


def create(parent: Path) -> RunFile:
    """A new file in a directory of its own in `parent`, for a run that has no region yet.

    OSError if it cannot be.
    """
    directory = parent / f"{PREFIX}{secrets.token_hex(8)}"
    directory.mkdir(0o700)
    try:
        fd = os.open(directory / FILE, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        words = _layout()
        os.ftruncate(fd, words[SIZE])
        # What is touched without a look whether it has memory.
        os.posix_fallocate(fd, 0, words[RANGES_AT])
        os.pwrite(fd, b"".join(word.to_bytes(WORD, "little") for word in words), 0)
        run_file = RunFile(directory, fd)
        run_file.claim_life()
        run_file.make_mutex()
    except BaseException:
        for entry in directory.iterdir():
            entry.unlink()
        directory.rmdir()
        raise
    return run_file


def open_existing(directory: Path) -> RunFile:
    """That of another run. OSError or ValueError if it is no file that this user made."""
    fd = os.open(directory / FILE, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or not status.st_size:
            raise ValueError(f"{directory} is no run's")
    except BaseException:
        os.close(fd)
        raise
    return RunFile(directory, fd)


def _file_mode(mode: int) -> int:
    """Reading and writing for those who may write to the region, and for nobody else."""
    return sum(0o6 << shift for shift in (6, 3, 0) if mode >> shift & 0o2) | 0o600


def _layout() -> list[int]:
    """The header's words, but for those about the region."""
    words = [0] * (HINTS_BYTE // WORD)
    words[0] = MAGIC
    words[IPC_NAMESPACE] = os.stat("/proc/self/ns/ipc").st_ino
    words[HOLDERS], words[RANGES] = HOLDER_COUNT, RANGE_COUNT
    words[SEGMENTS], words[LEFT] = SEGMENT_COUNT, LEFT_COUNT
    at = HOLDERS_BYTE
    for place, length in (
        (HOLDERS_AT, HOLDER_COUNT * WORD),
        (LEFT_AT, LEFT_COUNT * WORD),
        (RANGES_AT, RANGE_COUNT * RANGE_BYTES),
        (SEGMENTS_AT, SEGMENT_COUNT * SEGMENT_BYTES),
        (RECORDS_AT, HOLDER_COUNT * RANGE_COUNT // 8),
    ):
        words[place] = at
        at += length
    words[RECORD_SIZE] = RANGE_COUNT // 8
    words[SIZE] = at
    return words


def _state(flags: int) -> RangeState:
    if flags & (RANGE_BLANK | RANGE_TOLD):
        return RangeState.TOLD
    if flags & RANGE_SEGMENT:
        return RangeState.SEGMENT
    return RangeState.FILLING if flags & RANGE_FILLING else RangeState.FILLED
