"""A switchboard between two sockets: a test plays the kernel at one and pyfuse3 at the other.

A pair of SOCK_SEQPACKET sockets keeps messages apart as /dev/fuse does.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from msharefs.fuse.account import Account
from msharefs.fuse.in_service import AREA_SIZE, Cause, InService
from msharefs.fuse.messages import Header
from msharefs.fuse.metrics import Metrics
from msharefs.fuse.outstanding import KeptInFile, ResentByKernel
from msharefs.fuse.payload import Handler
from msharefs.fuse.planes.plane import Negotiation
from msharefs.fuse.replay import Replay
from msharefs.fuse.switchboard import Switchboard
from tests.unit.support.devices import ScriptedDevice
from tests.unit.support.planes import init_message, init_reply

PATHS = {1: b"/"}
"""What has a name."""
SECONDS = 10
"""A test that takes longer has failed."""


@dataclass
class End:
    """One end of a connection, which never blocks."""

    socket: socket.socket

    async def send(self, message: bytes) -> None:
        """Wait for room and send."""
        while True:
            try:
                self.socket.send(message)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.socket)
            else:
                return

    async def hear(self) -> bytes:
        """The next message."""
        if not self.waiting():
            await trio.lowlevel.wait_readable(self.socket)
        return self.socket.recv(1 << 20)

    def waiting(self) -> bool:
        """Whether a message is there."""
        try:
            return bool(self.socket.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    async def silent(self) -> bool:
        """Whether nothing comes once everybody has done what he can."""
        await trio.testing.wait_all_tasks_blocked()
        return not self.waiting()


class FakeReplay(Replay):
    """Knows the answers that a test gives it."""

    def __init__(self) -> None:
        self.resent = 0
        self.answers: dict[int, bytes] = {}

    def answer(self, header: Header, body: memoryview) -> bytes | None:
        """What the test says."""
        return self.answers.get(header.unique)


@dataclass
class Exchange:
    """A switchboard and both ends of it."""

    kernel: End
    pyfuse3: End
    device: ScriptedDevice
    switchboard: Switchboard
    metrics: Metrics
    replay: FakeReplay
    negotiation: Negotiation
    steps: list[str]
    """What the switchboard says that it came to."""
    ready: list[bool] = field(default_factory=list)
    """For each call of `on_ready`: whether the kernel had its reply by then."""
    gone: list[bool] = field(default_factory=list)
    """What `run` returned."""

    async def run(self) -> None:
        """The switchboard, until it ends."""
        gone = await self.switchboard.begin(init_message(), self.negotiation, self._is_ready)
        self.gone.append(gone)

    async def run_again(self) -> None:
        """As a process that takes the place of another."""
        self.gone.append(await self.switchboard.go_on(init_message(), self._is_ready))

    def _is_ready(self) -> None:
        self.ready.append(self.kernel.waiting())

    async def ask(self, request: bytes) -> bytes:
        """Send a request as the kernel, and await the next reply."""
        await self.kernel.send(request)
        return await self.kernel.hear()

    def counted(self, name: str) -> tuple[int, int]:
        """How many requests of this name there were, and how many failed."""
        counter = self.metrics.report()[name]
        return counter["count"], counter["errors"]

    async def greet(self) -> bytes:
        """INIT, which comes before all others: pyfuse3's part. Returns the kernel's reply."""
        assert await self.pyfuse3.hear() == init_message()
        await self.pyfuse3.send(init_reply())
        return await self.kernel.hear()


def new_in_service() -> InService:
    """Of the first server of a connection."""
    return InService(memoryview(bytearray(AREA_SIZE)), Cause.NONE)


@contextmanager
def exchange(
    handlers: Mapping[int, Handler],
    flags2: int = 0x30,
    *,
    area: memoryview | None = None,
    in_service: InService | None = None,
    replay: Replay | None = None,
) -> Iterator[Exchange]:
    """Connected, but not running. The data plane wishes these capabilities. With an `area`
    the kernel cannot send again, and an earlier server has left there what it had read."""
    ends = [
        *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
        *socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET),
    ]
    kernel, device, ours, theirs = ends
    for end in (kernel, theirs):
        end.setblocking(False)
    metrics, known = Metrics(), FakeReplay()
    scripted = ScriptedDevice(device.fileno())
    negotiation = Negotiation(flags=0x80000, flags2=flags2, stack_depth=7)
    steps: list[str] = []
    try:
        board = Switchboard(
            scripted,
            ours,
            handlers,
            Account(metrics, PATHS.get),
            replay or known,
            ResentByKernel(scripted) if area is None else KeptInFile(area),
            in_service or new_in_service(),
            steps.append,
        )
        yield Exchange(
            End(kernel), End(theirs), scripted, board, metrics, known, negotiation, steps
        )
    finally:
        for end in ends:
            end.close()


@asynccontextmanager
async def serving(
    handlers: Mapping[int, Handler] | None = None, *, in_service: InService | None = None
) -> AsyncIterator[Exchange]:
    """Running, INIT done. It must still run at the end; then it is cancelled."""
    with exchange(handlers or {}, in_service=in_service) as board, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await board.greet()
            yield board
            await trio.testing.wait_all_tasks_blocked()
            assert nursery.child_tasks, "the switchboard has ended"
            nursery.cancel_scope.cancel()
