"""The paged plane: this daemon is the pager (no privilege; any kernel).

Owns the answers to page faults and write-backs, copied at most once between the request and
the segment, and the dropping of pages that a change of mappings makes stale. What is mapped
is core's knowledge: a fault elsewhere is refused with EIO, and the process gets SIGBUS.

While a range changes, what the kernel writes back of it is old and is thrown away. Reads
are never made to wait: the kernel drops a page only after a read of it in flight was
answered, so a read that waited for the drop would wait for itself.

Who populates a hole gets zeros for a moment, because it cannot be refused (loans.py).
"""

from __future__ import annotations

import mmap
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import trio

from msharefs.abi import PAGE_SIZE
from msharefs.core.errors import InvalidArgument, NothingMapped
from msharefs.core.layout import Range
from msharefs.core.ledger import storage_error
from msharefs.core.plan import Plan
from msharefs.core.ports import OpenSegment
from msharefs.core.region import Region
from msharefs.core.ways import Giving
from msharefs.fuse import kernel, messages
from msharefs.fuse.device import ConnectionGone
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.messages import ReadIn, WriteIn
from msharefs.fuse.planes.loans import Asked, Loan, Loans, merged
from msharefs.fuse.planes.plane import Negotiation
from msharefs.linux.populate import populating_call

Notify = Callable[[bytes], object]
"""Gives the kernel a notice. Raises ConnectionGone, or OSError."""
LARGEST_READ = 1 << 20
"""Bytes of a READ at most: max_pages, as libfuse negotiates it."""
WINDOW_FROM = 64 << 10
"""Bytes. The kernel takes larger answers out of the segment itself; to map a small one would
cost more than to copy it. Not while the region changes: a page that a worker takes away in
this moment would be made anew by the look at it."""
AHEAD = 2 << 20
"""Bytes that the kernel reads ahead at most, see `tuning`."""
_ZEROS = bytes(LARGEST_READ)


@dataclass(frozen=True, slots=True)
class _Lendable:
    """What is dropped again of a hole if a part of it is lent; and whether that is its `last` page,
    which none of the others' ranges may hold: its READ is answered after they are dropped."""

    dropped: Range
    last: bool


class PagedPlane:
    """Page faults come as READ, dirty pages as WRITE."""

    name = "paged"
    sees_touches = True
    gives = Giving.NOBODY
    maps_segments = False
    # Read ahead what two READs carry, so that kernel and daemon copy at the same time; more would
    # give MAP_NORESERVE memory to more than a huge page with each touch. And no strict limit: with
    # it a writer is put to sleep once 1 % of the dirty pages that the machine allows are of this
    # mount.
    tuning: Mapping[str, int] = {"read_ahead_kb": AHEAD // 1024, "strict_limit": 0}
    # With it the kernel reads 2 MiB ahead, whatever read_ahead_kb says, which only root may set
    # (do_sync_mmap_readahead in mm/filemap.c).
    attach_advice = mmap.MADV_HUGEPAGE
    # mmap of direct-I/O files, and resending.
    _wanted = kernel.FUSE_DIRECT_IO_ALLOW_MMAP | kernel.FUSE_HAS_RESEND

    def __init__(
        self,
        notify: Notify,
        why: str,
        offer: InitOffer,
        call_of: Callable[[int], str | None] = populating_call,
    ) -> None:
        """`notify` is called in worker threads, and waits until pages are dropped. `call_of` gives the system call in which a thread makes pages present (loans.py)."""
        self.why = why
        self._notify = notify
        # With it read(2) and write(2) can be told from faults and write-backs (Linux 6.6).
        # Without it all go through the page cache, and read(2) gives what is mapped.
        self._direct = bool(offer.flags2 & self._wanted & kernel.FUSE_DIRECT_IO_ALLOW_MMAP)
        self._buffer = bytearray(LARGEST_READ)
        self._changes: defaultdict[int, list[Plan]] = defaultdict(list)
        self._loans = Loans(call_of)
        self._any_lent = trio.Event()

    def negotiate(self, offer: InitOffer) -> Negotiation:
        """What is wanted, where it is offered."""
        return Negotiation(
            flags=offer.flags & (kernel.FUSE_HANDLE_KILLPRIV | kernel.FUSE_ABORT_ERROR),
            flags2=offer.flags2 & self._wanted,
            stack_depth=0,
        )

    def open_flags(self, region: Region) -> int:
        """Direct I/O where mmap is allowed with it; else the page cache, kept over opens."""
        return kernel.FOPEN_DIRECT_IO if self._direct else kernel.FOPEN_KEEP_CACHE

    def register(self, segment: OpenSegment) -> int:
        """The kernel need not know the segment."""
        return 0

    def unregister(self, registration: int) -> None:
        """It did not know it. Its pages went with its inode."""

    def read(self, region: Region, request: ReadIn, thread: int) -> memoryview | Awaitable[bytes]:
        """A page fault and its read-ahead, all of it or nothing: the kernel takes a short
        answer for the end of the file, and asks page by page after a refusal."""
        if self._direct and request.read_flags & kernel.FUSE_READ_LOCKOWNER:
            raise InvalidArgument(f"region {region.ino} is for mmap, not for read")
        if not request.size:
            return memoryview(b"")
        if request.size > LARGEST_READ:
            raise InvalidArgument(f"{request.size} bytes are more than was agreed on")
        try:
            return self._read(region, request)
        except NothingMapped:
            wanted = Range(start := request.offset, start + request.size)
            lendable = self._lendable(region, wanted)
            asked = lendable and self._loans.ask(thread, region.ino, wanted)
            if not lendable or not asked:
                raise
            if lendable.last:
                return self._lend_last(region, request, asked)
            return self._lend(wanted, lendable.dropped, asked)

    def _read(self, region: Region, request: ReadIn) -> memoryview:
        start, end = request.offset, request.offset + request.size
        for plan in self._changes.get(region.ino, ()):
            stale = plan.stale
            if stale and not plan.readable and stale.start < end and start < stale.end:
                raise NothingMapped(f"{start:#x} of region {region.ino} is being unmapped")
        segment = region.touchable(start, end)
        whole = not (start | end) % PAGE_SIZE
        if whole and request.size >= WINDOW_FROM and not self._changes.get(region.ino):
            # It takes a descriptor of its own, and one of the mappings that a process may have.
            with suppress(OSError):
                return segment.window(start, request.size)
        view = memoryview(self._buffer)[: request.size]
        segment.read_into(view, start)
        return view

    def write(self, region: Region, request: WriteIn, data: memoryview) -> None:
        """Dirty pages: what is mapped goes to the segment, the rest is thrown away. Raises
        NoDescriptor where the segment cannot be opened."""
        if not request.write_flags & kernel.FUSE_WRITE_CACHE:
            raise InvalidArgument(f"region {region.ino} is for mmap, not for write")
        if region.segment is None:
            return
        try:
            segment = region.segment.open_for_page()
        except OSError as cause:
            raise storage_error(cause) from cause
        offset, end = request.offset, request.offset + len(data)
        for start, stop in self._current_parts(region, offset, end):
            segment.write(data[start - offset : stop - offset], start)

    def has_stale_pages(self, plan: Plan) -> bool:
        """Whether anything that was mapped changes, or zeros are lent in the region."""
        return plan.stale is not None or bool(self._loans.out(plan.region.ino))

    @contextmanager
    def changing(self, plan: Plan) -> Iterator[None]:
        """From now on old contents of the range are neither read nor written."""
        ino = plan.region.ino
        self._changes[ino].append(plan)
        try:
            yield
        finally:
            self._changes[ino].remove(plan)
            if not self._changes[ino]:
                del self._changes[ino]

    def drop_stale_pages(self, plan: Plan) -> None:
        """Take them from every process; dirty ones come back as WRITE before, and go."""
        stale = plan.stale
        if stale is not None:
            self._drop(plan.region.ino, stale)
        # Somebody may have written into them, and it would be there in what is mapped now.
        for loan in self._loans.out(plan.region.ino):
            self._drop(loan.ino, loan.part)

    async def collect(self, region: Region, part: Range) -> None:
        """Dirty pages come back as WRITE when they are dropped, and those served meanwhile."""
        await trio.to_thread.run_sync(self._drop, region.ino, part)

    async def tend(self) -> None:
        """Take back what was lent, as long as the server runs."""
        while True:
            await self._any_lent.wait()
            self._any_lent = trio.Event()
            await self.take_back()

    async def take_back(self) -> None:
        """What is lent now, once it is over."""
        await trio.to_thread.run_sync(self._wait_and_drop, loans := self._loans.out())
        self._loans.returned(loans)

    def _wait_and_drop(self, loans: list[Loan]) -> None:
        for loan in loans:
            self._loans.wait_for_end(loan)
        self._drop_all(loans)

    def _drop_all(self, loans: list[Loan]) -> None:
        for ino, part in merged(loans):
            self._drop(ino, part)

    def _drop(self, ino: int, part: Range) -> None:
        with suppress(ConnectionGone):
            self._notify(messages.encode_pages_changed(ino, part.start, part.size))

    def _lendable(self, region: Region, wanted: Range) -> _Lendable | None:
        """Whether the wanted part of a hole may be lent. Not if some of it is mapped: it will be asked
        for page by page; nor while the region changes: it will be asked for again."""
        if wanted.end > region.size or self._changes.get(region.ino):
            return None
        single = wanted.size <= PAGE_SIZE
        hole = self._hole(region, wanted.start, min(wanted.end + AHEAD, region.size))
        if hole is None or hole.start > wanted.start:
            # MAP_NORESERVE memory that there is none of.
            return _Lendable(wanted, last=False) if single else None
        if hole.end <= wanted.end:
            return _Lendable(wanted, last=True) if single else None
        # With what the kernel has read ahead in vain, so that it reads ahead again.
        dropped = Range(wanted.start, max(wanted.end, hole.end - PAGE_SIZE))
        return _Lendable(dropped, last=False)

    def _hole(self, region: Region, start: int, end: int) -> Range | None:
        """The first range in which faults are refused."""
        return next(region.layout.gaps(start, end), None)

    def _lend(self, wanted: Range, dropped: Range, asked: Asked) -> memoryview:
        self._loans.lend(asked, dropped)
        self._any_lent.set()
        return memoryview(_ZEROS)[: wanted.size]

    async def _lend_last(self, region: Region, request: ReadIn, asked: Asked) -> bytes:
        """The last page of a hole, behind which the call may return: all before it was mapped by
        now and goes first, so that no more than this page can be touched then."""
        before = self._loans.out_to(asked.thread)
        await trio.to_thread.run_sync(self._drop_all, before)
        self._loans.returned(before)
        try:
            return bytes(self._read(region, request))
        except NothingMapped:
            wanted = Range(request.offset, request.offset + request.size)
            if self._lendable(region, wanted) is None:
                raise
            return bytes(self._lend(wanted, wanted, asked))

    def _current_parts(self, region: Region, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The parts of a range that are mapped and not changing."""
        parts = [(m.start, m.end) for m in region.layout.clipped(start, end)]
        for plan in self._changes.get(region.ino, ()):
            stale = plan.stale
            if stale is not None:
                parts = [
                    piece
                    for low, high in parts
                    for piece in ((low, min(high, stale.start)), (max(low, stale.end), high))
                    if piece[0] < piece[1]
                ]
        yield from parts
