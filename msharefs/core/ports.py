"""What core needs from the outside, as Protocols.

Owns the shape of memory, of the kernel and of callers' files; implementations live in memory/,
fuse/ and files/, in-memory ones in the tests. All offsets and sizes are bytes and page aligned.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from msharefs.core.ways import Giving

IsInterrupted = Callable[[], bool]
"""Whether what is being done is to be given up."""


def never() -> bool:
    """Nothing is given up."""
    return False


class Lent(Protocol):
    """A descriptor of a segment that a client is given: open for as long as somebody refers to it."""

    def fileno(self) -> int:
        """The descriptor."""


class OpenSegment(Protocol):
    """The memory of a region in use: open for as long as somebody refers to it. A method that
    raises OSError has not changed what is in memory; `punch` and `zero` do not fail."""

    def fileno(self) -> int:
        """The descriptor of the segment, valid while this is referred to."""

    def set_size(self, size: int) -> None:
        """Set the length to `size` bytes. What lies behind it is gone then."""

    def reserve(self, start: int, size: int, interrupted: IsInterrupted = never) -> None:
        """Give every page of the range memory, and none outside; pages that have some keep
        their contents. After an OSError a part may have memory."""

    def make_huge(self, start: int, size: int) -> None:
        """Put the range into 2 MiB pages, contents kept."""

    def collapse(self, start: int, size: int) -> None:
        """The same beside everything else, once: it makes way where memory is short. OSError
        where not all of the range is huge: EAGAIN for pages that are in use or swapped out at this
        moment, ENOMEM and EBUSY where there is no memory for it, EINVAL where the kernel has none."""

    def punch(self, start: int, size: int) -> None:
        """Take the range's memory away, from every process at once."""

    def zero(self, start: int, size: int) -> None:
        """Make a range that has memory read as zeros."""

    def read_into(self, buffer: memoryview, start: int) -> None:
        """Fill the buffer with the bytes from `start` on."""

    def window(self, start: int, size: int) -> memoryview:
        """The bytes themselves, to be read, of whole pages that have memory."""

    def write(self, data: memoryview, start: int) -> None:
        """Write the bytes at `start`. OSError where there is no memory for them."""

    def count(self) -> None:
        """Somebody else has given it memory, by its descriptor: that is in use from now on."""

    def allocated(self) -> int:
        """How many bytes have memory."""


class Segment(Protocol):
    """The memory of one region, which takes nothing of the process until it is opened."""

    def open(self) -> OpenSegment:
        """To change it, or to look into it. Raises OSError, where the process may open no more
        say, so it comes before the first change."""

    def open_for_page(self) -> OpenSegment:
        """The same for a page that somebody waits for, or has written: it lasts for a moment, and
        does not fail because the process may open no more."""

    def open_for_readers(self) -> Lent:
        """A descriptor that is open for reading, and can never be opened or changed otherwise by who
        gets it. Raises OSError, EOPNOTSUPP where there is no such thing."""

    def allocated(self) -> int:
        """How many bytes have memory."""

    def identity(self) -> tuple[int, int] | None:
        """Device (st_dev) and inode number, by which its mappings are known in other processes; None where
        somebody else has removed it."""

    def destroy(self) -> None:
        """Remove the name and let go; does not fail, but may take long for a large segment."""


class Memory(Protocol):
    """Where segments come from, and the limit on their sum."""

    @property
    def capacity(self) -> int:
        """The most that all segments together may hold, in bytes."""

    def set_capacity(self, capacity: int) -> None:
        """Hold at most that many bytes from now on."""

    @property
    def huge(self) -> str:
        """The huge page policy, as the huge= option names it."""

    def create(self, ino: int) -> Segment:
        """A new segment of size 0 for this inode number. Raises OSError."""

    def stored(self) -> Mapping[int, Segment]:
        """The segments that there are, also of an earlier process, by inode number."""

    def used(self) -> int:
        """Bytes in use in all segments."""

    def set_limit(self, limit: int) -> None:
        """Allow at most `limit` bytes. OSError(EINVAL) where more is in use."""


class Kernel(Protocol):
    """What the kernel has to be told, and can be asked, about inodes and segments. Called
    within a request that it waits for, so an implementation must not wait for it."""

    @property
    def maps_segments(self) -> bool:
        """Whether programs map segments themselves, so that a segment's huge pages are theirs."""

    @property
    def gives(self) -> Giving:
        """Who may make a region direct, so that its clients have the segment."""

    def attributes_changed(self, ino: int) -> None:
        """The attributes of a living inode are not what the kernel has cached."""

    def register(self, segment: OpenSegment) -> int:
        """A region can be opened with this segment from now on. Returns its registration,
        by which the kernel knows it for as long as the mount lives; 0 where it need not
        know. OSError if the region cannot be served from it."""

    def is_known(self, ino: int) -> bool:
        """Whether the kernel holds the inode: for its cache, a handle or a mapping."""

    def owes(self, ino: int) -> None:
        """No name, handle or mapping refers to a region, but a part of it goes back to files. Have
        that done, and call `WriteBack.let_go`. May be called again meanwhile."""

    def region_gone(self, ino: int, registration: int, segment: Segment | None, size: int) -> bool:
        """No name, handle or mapping refers to a region, of which `size` bytes are mapped:
        let go of its segment and destroy it. False where a worker will, and
        RegionManager.reclaimed be called later."""


class Piece(NamedTuple):
    """Bytes of a file on their way into a segment: into `descriptor` at `start`, from
    `file_offset` on, `size` bytes."""

    descriptor: int
    start: int
    file_offset: int
    size: int


class Done(NamedTuple):
    """What became of a part of a region, in bytes: `written` to its file, of which `both` had been
    changed there as well, and `unwritten`, for the reason `error` (an errno, else 0)."""

    written: int = 0
    both: int = 0
    unwritten: int = 0
    error: int = 0


class OpenFile(Protocol):
    """A file that a caller has open, as another process has it that works with the caller's
    rights. What it is was seen once, of the very file that is read."""

    @property
    def mode(self) -> int:
        """Its st_mode."""

    @property
    def flags(self) -> int:
        """The flags of its open file description, as fcntl(2) has them, O_PATH too."""

    @property
    def seals(self) -> int:
        """Those of fcntl(2), 0 for a file that cannot have any."""

    @property
    def file_system(self) -> str:
        """The name of its file system, as /proc/filesystems has it; empty for one that is not
        known, and for what is no regular file."""

    @property
    def device(self) -> int:
        """Its st_dev."""

    @property
    def inode(self) -> int:
        """Its st_ino."""

    @property
    def path(self) -> str:
        """What the kernel calls it; for people alone."""

    async def remember(self, offset: int, size: int) -> int:
        """Make a record of what is read from now on, so that these bytes of the file can be
        written back. Returns its number. Raises OSError."""

    async def read(self, pieces: Sequence[Piece]) -> None:
        """Read them. Beyond the end of the file nothing is written, so that memory that is zeros
        stays so. Raises OSError: of the file, and ETIMEDOUT where it does not answer."""

    async def measure(self, offset: int, size: int) -> int:
        """How many of these bytes of the file may be data, in whole pages; the others are holes. Raises OSError."""

    async def read_data(self, pieces: Sequence[Piece]) -> None:
        """The same as `read` into memory that is zeros, of which holes of the file and pages of zeros take none. Raises
        OSError, ENOMEM where there is no memory for the data."""

    async def keep(self) -> None:
        """Have the record and the file kept, whatever becomes of the caller and of us, until
        `Files.forget`. Raises OSError, with ENFILE where there are too many."""


class WrittenFile(Protocol):
    """A file that is written back, as a process has it that works with the rights of who mapped it."""

    async def write(
        self, segment: int, start: int, offset: int, size: int
    ) -> tuple[int, int, int, int]:
        """Write what was changed of `size` bytes of a segment (its descriptor) from `start` on, which
        belong into the file at `offset`. Returns what a Done has. Raises OSError where it is not
        known how much was written: ETIMEDOUT, EIO."""

    async def count(self, segment: int, start: int, offset: int, size: int) -> int:
        """How much of the same would be compared with the file because it was changed: bytes, in whole pages. Nothing
        is written. Raises OSError."""

    async def sync(self) -> None:
        """Have what was written stored where it outlives the machine. Raises OSError."""


class Files(Protocol):
    """The files of callers. The one port whose work is waited for: by its adapter's own caller,
    never by core."""

    def take(
        self, thread: int, uid: int, gid: int, descriptor: int
    ) -> AbstractAsyncContextManager[OpenFile]:
        """What a thread of that user has open as `descriptor`, for a while. Raises OSError: EBADF
        where it has nothing, EPERM where we may not look, ETIMEDOUT where it does not answer."""

    def open(self, record: int, uid: int) -> AbstractAsyncContextManager[WrittenFile]:
        """The file of a record, which that user has mapped, for a while. Raises OSError: ENOENT
        where no such record is kept, ETIMEDOUT where nobody answers."""

    def look_into(self, record: int, uid: int) -> AbstractAsyncContextManager[WrittenFile]:
        """The same to count alone, for a user who need not be that one. It waits for no other file, so that whoever
        calls bounds how many a user has."""

    def forget(self, records: Sequence[int]) -> None:
        """Nobody needs these records any more."""
