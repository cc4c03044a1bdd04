"""The real switchboard with all real handlers and the real replay, between a kernel that sends
anything and fakes of memory; and what must hold whatever is sent.

pyfuse3 is a fake that knows no request, because libfuse trusts its kernel.
"""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

import trio

from msharefs.fuse.attributes import AttributeHandlers
from msharefs.fuse.changes import Changes
from msharefs.fuse.control import Control
from msharefs.fuse.directories import DirectoryHandlers
from msharefs.fuse.handles import HandleHandlers
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.kernel import FUSE_DIRECT_IO_ALLOW_MMAP as ALLOW_MMAP
from msharefs.fuse.kernel import NO_REPLY
from msharefs.fuse.metrics import Metrics
from msharefs.fuse.names import NameHandlers
from msharefs.fuse.payload import Handler
from msharefs.fuse.planes.paged import PagedPlane
from msharefs.fuse.planes.passthrough import PassthroughPlane
from msharefs.fuse.planes.plane import DataPlane
from msharefs.fuse.replay import Replay
from msharefs.fuse.write_back import WriteBack
from tests.unit.support.devices import ScriptedDevice
from tests.unit.support.exchange import Exchange, exchange
from tests.unit.support.fakes import FakeOptions
from tests.unit.support.files import FakeFiles
from tests.unit.support.planes import OUT_HEADER_SIZE, reply
from tests.unit.support.worlds import MIB, PAGE, World, inode_numbers, make_world

LARGEST_ERROR = 133
"""The greatest errno of Linux (asm-generic/errno.h); the kernel takes others for garbage."""


class Complaints(logging.Handler):
    """Keeps what the server says is its own fault: an exception that is no refusal."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, if it has a traceback."""
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))


class Fuzzed:
    """A server that runs. `ask` sends it a request and checks what comes of that."""

    def __init__(self, board: Exchange, world: World, complaints: Complaints) -> None:
        self.world = world
        self._board = board
        self._complaints = complaints

    async def ask(self, request: bytes) -> None:
        """The reply is the request's and well-formed, or there is none where none is awaited; the
        server has found no fault of its own, and its sums are right."""
        opcode, unique = struct.unpack_from("<IQ", request, 4)
        await self._board.kernel.send(request)
        if opcode not in NO_REPLY:
            await self._check_reply(request, unique)
        assert not self._complaints.found, f"{request!r}: {self._complaints.found[0]}"

    async def tell(self, request: bytes) -> None:
        """Send what cannot be answered."""
        await self._board.kernel.send(request)

    async def _check_reply(self, request: bytes, unique: int) -> None:
        while True:
            answer = await self._board.kernel.hear()
            length, error, number = struct.unpack_from("<IiQ", answer)
            # A notification says more than was asked for.
            if number != 0:
                break
        assert (length, number) == (len(answer), unique), f"{request!r}: {answer!r}"
        assert -LARGEST_ERROR <= error <= 0, f"{request!r}: error {error}"
        assert error == 0 or length == OUT_HEADER_SIZE, f"{request!r}: {answer!r}"

    def inodes(self) -> list[int]:
        """The numbers of those that there are."""
        return inode_numbers(self.world.manager.names)

    def check_sums(self) -> None:
        """What is charged is what the layouts say, and names lead to inodes that are there."""
        tables = self.world.tables
        regions = tables.regions.values()
        assert tables.ledger.reserved == sum(region.layout.reserved for region in regions)
        assert tables.ledger.mappings == sum(len(region.layout) for region in regions)
        assert tables.ledger.files == sum(region.layout.files for region in regions)
        assert tables.ledger.pending == 0
        assert all(region.opens >= 0 for region in regions)


class Unheard(ScriptedDevice):
    """A device whose notifications nobody hears; every inode that they are about is known."""

    def notify(self, message: bytes) -> bool:
        """Taken, and forgotten."""
        return True


PLANES: dict[str, Callable[[], DataPlane]] = {
    "passthrough": lambda: PassthroughPlane(Unheard(), "a test"),
    "paged": lambda: PagedPlane(Unheard().notify, "a test", InitOffer(7, 45, 0, ALLOW_MMAP)),
}
"""Makes each of the real planes."""


@asynccontextmanager
async def fuzzed(plane: DataPlane) -> AsyncIterator[Fuzzed]:
    """Running on an empty mount; it must still run at the end."""
    world = make_world(capacity=16 * MIB, align=PAGE, nr_inodes=20)
    manager, metrics = world.manager, Metrics()
    changes = Changes(manager, plane)
    files = FakeFiles(world.memory)
    write_back = WriteBack(manager, changes, plane, files)
    handlers: dict[int, Handler] = {
        **NameHandlers(manager).handlers(),
        **HandleHandlers(manager, plane, write_back).handlers(),
        **write_back.handlers(),
        **DirectoryHandlers(manager).handlers(),
        **AttributeHandlers(manager, changes, write_back, metrics.report, FakeOptions()).handlers(),
        **Control(manager, changes, files, write_back).handlers(),
    }
    with complaints_of("msharefs") as complaints:
        with exchange(handlers, replay=Replay(manager, plane)) as board:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.run)
                await board.greet()
                nursery.start_soon(_know_nothing, board)
                yield Fuzzed(board, world, complaints)
                assert not board.gone, "the switchboard has ended"
                nursery.cancel_scope.cancel()


@contextmanager
def complaints_of(name: str) -> Iterator[Complaints]:
    """What a logger and those below it say in the block."""
    logger, complaints = logging.getLogger(name), Complaints()
    logger.addHandler(complaints)
    try:
        yield complaints
    finally:
        logger.removeHandler(complaints)


async def _know_nothing(board: Exchange) -> None:
    """pyfuse3's part: ENOSYS to everything."""
    while True:
        request = await board.pyfuse3.hear()
        (unique,) = struct.unpack_from("<Q", request, 8)
        await board.pyfuse3.send(reply(unique, error=errno.ENOSYS))
