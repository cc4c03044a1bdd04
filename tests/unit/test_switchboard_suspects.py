"""The switchboard after the death of a server: what was in service then comes again, and ends no
third one."""

from __future__ import annotations

import errno
from collections.abc import Awaitable

import pytest
import trio
import trio.testing

from msharefs.fuse.in_service import AREA_SIZE, Cause, InService
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.payload import Handler
from tests.unit.support.exchange import Exchange, FakeReplay, serving
from tests.unit.support.planes import message, reply

RESENT = 1 << 63
"""The kernel marks a request that it sends again with this bit of unique."""


@pytest.fixture
def area() -> memoryview:
    """What outlives a server."""
    return memoryview(bytearray(AREA_SIZE))


def first(area: memoryview) -> InService:
    """The first server of a connection."""
    return InService(area, Cause.NONE)


def after(area: memoryview, cause: Cause = Cause.FAILURE) -> InService:
    """The next server, the last having ended for a `cause`."""
    return InService(area, cause)


def deaths(area: memoryview, unique: int) -> int:
    """At how many deaths the request was in service, the server that runs now having died, too."""
    return after(memoryview(bytearray(area))).suspicion(unique).deaths


class Slow:
    """A handler that answers later, each request when the test says so."""

    def __init__(self) -> None:
        self.called: list[int] = []
        self.working: list[int] = []
        self._may_end: dict[int, trio.Event] = {}

    def __call__(self, header: Header, body: memoryview) -> Awaitable[bytes]:
        """Called in the loop; what it returns is awaited."""
        self.called.append(header.unique & ~RESENT)
        return self._answer(header.unique & ~RESENT)

    async def _answer(self, unique: int) -> bytes:
        self.working.append(unique)
        self._may_end[unique] = trio.Event()
        await self._may_end[unique].wait()
        self.working.remove(unique)
        return b"late"

    def end(self, unique: int) -> None:
        """This one is answered."""
        self._may_end[unique].set()


def echo(header: Header, body: memoryview) -> bytes:
    """A handler that answers with what it got."""
    return bytes(body)


def killer(header: Header, body: memoryview) -> bytes:
    """A handler that must not be called."""
    raise AssertionError(f"{header.unique} was served")


async def heard(board: Exchange, count: int) -> set[bytes]:
    """So many replies."""
    return {await board.kernel.hear() for _ in range(count)}


@pytest.mark.parametrize(
    ("causes", "code"),
    [
        ([Cause.FAILURE, Cause.FAILURE], errno.EIO),
        ([Cause.MEMORY, Cause.MEMORY], errno.ENOMEM),
        ([Cause.KILLED, Cause.KILLED, Cause.KILLED], errno.EIO),
    ],
)
async def test_what_ended_servers_is_not_served(
    area: memoryview, caplog: pytest.LogCaptureFixture, causes: list[Cause], code: int
) -> None:
    """The error instead, and one line with all that is known; others are served."""
    server = first(area)
    for cause in causes:
        server.begin(6)
        server = after(area, cause)
    async with serving({Opcode.IOCTL: killer, Opcode.OPEN: echo}, in_service=server) as board:
        request = message(Opcode.IOCTL, unique=RESENT | 6, nodeid=3)
        assert await board.ask(request) == reply(RESENT | 6, error=code)
        assert await board.ask(message(Opcode.OPEN, b"x", unique=8)) == reply(8, b"x")
        assert board.counted("IOCTL") == (1, 1)
    (record,) = caplog.records
    why = " for want of memory" if code == errno.ENOMEM else ""
    who = "IOCTL of inode 3 by pid 101 of uid 1001 (request 6)"
    sentence = f"{len(causes)} servers ended{why} while it was being served"
    assert record.levelname == "ERROR"
    assert record.getMessage() == f"not served again: {who}: {sentence}"


async def test_what_ended_one_server_is_served_again(area: memoryview) -> None:
    """At once, if it is answered at once; and it is in service again."""
    first(area).begin(6)
    seen: list[int] = []

    def handler(header: Header, body: memoryview) -> bytes:
        seen.append(deaths(area, 6))
        return b"served"

    async with serving({Opcode.MKDIR: handler}, in_service=after(area)) as board:
        answer = await board.ask(message(Opcode.MKDIR, unique=RESENT | 6))
        assert answer == reply(RESENT | 6, b"served")
    assert seen == [2]


async def test_what_was_applied_is_answered_whatever_ended_servers(area: memoryview) -> None:
    """An error would be a lie; but not if the answer itself ends them."""
    server = first(area)
    for _ in range(3):
        server.begin(6)
        server = after(area)
    async with serving({Opcode.MKDIR: killer}, in_service=server) as board:
        board.replay.answers = {RESENT | 6: b"as before"}
        answer = await board.ask(message(Opcode.MKDIR, unique=RESENT | 6))
        assert answer == reply(RESENT | 6, b"as before")
    server = after(area)
    async with serving({Opcode.MKDIR: killer}, in_service=server) as board:
        board.replay.answers = {RESENT | 6: b"as before"}
        answer = await board.ask(message(Opcode.MKDIR, unique=RESENT | 6))
        assert answer == reply(RESENT | 6, error=errno.EIO)


async def test_a_failing_replay_is_eio(
    area: memoryview, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Logged with its traceback; the next request is served."""

    def bug(self: FakeReplay, header: Header, body: memoryview) -> bytes | None:
        raise KeyError("bug")

    monkeypatch.setattr(FakeReplay, "answer", bug)
    async with serving({Opcode.OPEN: echo}, in_service=first(area)) as board:
        answer = await board.ask(message(Opcode.OPEN, unique=RESENT | 6))
        assert answer == reply(RESENT | 6, error=errno.EIO)
        assert await board.ask(message(Opcode.OPEN, b"x", unique=8)) == reply(8, b"x")
    assert "KeyError: 'bug'" in caplog.text


async def test_several_at_once_are_all_in_service(area: memoryview) -> None:
    """Each until it is answered; what is served in the loop meanwhile is not, once it is over."""
    slow = Slow()
    handlers: dict[int, Handler] = {Opcode.IOCTL: slow, Opcode.OPEN: echo}
    async with serving(handlers, in_service=first(area)) as board:
        for unique in (6, 8):
            await board.kernel.send(message(Opcode.IOCTL, unique=unique))
        await board.ask(message(Opcode.OPEN, unique=10))
        await trio.testing.wait_all_tasks_blocked()
        assert [deaths(area, unique) for unique in (6, 8)] == [1, 1]
        slow.end(6)
        assert await board.kernel.hear() == reply(6, b"late")
        await trio.testing.wait_all_tasks_blocked()
        assert [deaths(area, unique) for unique in (6, 8)] == [0, 1]
        slow.end(8)
        await board.kernel.hear()


async def test_suspects_are_served_one_by_one(area: memoryview) -> None:
    """In the order in which their handlers were called, so that the next death accuses one of
    them. What is answered at once passes them."""
    server = first(area)
    for unique in (6, 8):
        server.begin_later(unique)
    slow = Slow()
    handlers: dict[int, Handler] = {Opcode.IOCTL: slow, Opcode.OPEN: echo}
    async with serving(handlers, in_service=after(area)) as board:
        for unique in (RESENT | 6, RESENT | 8, 10):
            await board.kernel.send(message(Opcode.IOCTL, unique=unique))
        assert await board.ask(message(Opcode.OPEN, unique=12)) == reply(12)
        await trio.testing.wait_all_tasks_blocked()
        assert slow.called == [6, 8, 10]
        for position, unique in enumerate(slow.called):
            assert slow.working == [unique]
            waiting = slow.called[position + 1 :]
            assert [deaths(area, each) for each in waiting] == [int(each != 10) for each in waiting]
            slow.end(unique)
            await board.kernel.hear()
            await trio.testing.wait_all_tasks_blocked()


async def test_when_suspects_are_answered_it_is_as_before(area: memoryview) -> None:
    """Those of them that never come were answered before: what is new comes after them."""
    server = first(area)
    for unique in (6, 8):
        server.begin_later(unique)
    slow = Slow()
    handlers: dict[int, Handler] = {Opcode.IOCTL: slow, Opcode.OPEN: echo}
    async with serving(handlers, in_service=after(area)) as board:
        await board.kernel.send(message(Opcode.IOCTL, unique=RESENT | 6))
        await board.ask(message(Opcode.OPEN, unique=10))
        await trio.testing.wait_all_tasks_blocked()
        slow.end(6)
        await board.kernel.hear()
        for unique in (12, 14):
            await board.kernel.send(message(Opcode.IOCTL, unique=unique))
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(slow.working) == [12, 14]
        for unique in (12, 14):
            slow.end(unique)
        assert await heard(board, 2) == {reply(12, b"late"), reply(14, b"late")}


async def test_the_end_finds_some_waiting_for_their_turn(area: memoryview) -> None:
    """They are never begun, and nothing is said of that (a warning would fail this test)."""
    first(area).begin_later(6)
    slow = Slow()
    async with serving({Opcode.IOCTL: slow}, in_service=after(area)) as board:
        for unique in (RESENT | 6, 8, 10):
            await board.kernel.send(message(Opcode.IOCTL, unique=unique))
        await trio.testing.wait_all_tasks_blocked()
        assert slow.called == [6, 8, 10]
        assert slow.working == [6]


async def test_of_what_pyfuse3_has_the_oldest_is_in_service(area: memoryview) -> None:
    """It answers one after the other."""
    async with serving(in_service=first(area)) as board:
        for unique in (6, 8):
            await board.kernel.send(message(Opcode.STATFS, unique=unique))
            await board.pyfuse3.hear()
        await board.kernel.send(message(Opcode.INTERRUPT, bytes(8), unique=10))
        await trio.testing.wait_all_tasks_blocked()
        assert [deaths(area, unique) for unique in (6, 8)] == [1, 0]
        await board.pyfuse3.send(reply(6))
        assert await board.kernel.hear() == reply(6)
        assert [deaths(area, unique) for unique in (6, 8)] == [0, 1]
        await board.pyfuse3.send(reply(8))
        await board.kernel.hear()
        assert [deaths(area, unique) for unique in (6, 8)] == [0, 0]
