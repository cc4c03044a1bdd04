"""The switchboard: who answers what, and what happens when something goes wrong.

Handlers and the data plane are fakes; see exchange.py for the kernel and for pyfuse3.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
from collections.abc import Callable, Sequence

import pytest
import trio
import trio.testing

from msharefs.core.errors import NotAnIoctl, OutOfMemory
from msharefs.fuse import interrupts
from msharefs.fuse import waiting as waiting_module
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.outstanding import AREA_SIZE, KeptInFile
from msharefs.fuse.payload import Handler
from msharefs.fuse.waiting import Waiting
from msharefs.linux import proc
from tests.unit.support.exchange import SECONDS, Exchange, exchange, serving
from tests.unit.support.planes import init_message, init_reply, message, reply
from tests.unit.support.worlds import ALICE

RESENT = 1 << 63
"""The kernel marks a request that it sends again with this bit of unique."""


def echo(header: Header, body: memoryview) -> bytes:
    """A handler that answers with what it got."""
    return b"%d:" % header.nodeid + bytes(body)


def failing(error: Exception) -> Callable[[Header, memoryview], bytes]:
    """A handler that raises."""

    def handler(header: Header, body: memoryview) -> bytes:
        raise error

    return handler


# Own handlers


async def test_a_handler_answers() -> None:
    """Its payload behind a header with the request's unique; pyfuse3 hears nothing."""
    async with serving({Opcode.OPEN: echo}) as board:
        request = message(Opcode.OPEN, b"body", unique=6, nodeid=3)
        assert await board.ask(request) == reply(6, b"3:body")
        assert await board.pyfuse3.silent()
        assert board.counted("OPEN") == (1, 0)


async def test_a_payload_may_be_a_view() -> None:
    """Of a buffer that the handler uses again for the next answer."""
    buffer = bytearray(1)

    def handler(header: Header, body: memoryview) -> memoryview:
        buffer[0] = body[0]
        return memoryview(buffer)

    async with serving({Opcode.READ: handler}) as board:
        await board.kernel.send(message(Opcode.READ, b"a", unique=6))
        await board.kernel.send(message(Opcode.READ, b"b", unique=8))
        assert await board.kernel.hear() == reply(6, b"a")
        assert await board.kernel.hear() == reply(8, b"b")


async def test_a_refusal_is_its_errno(caplog: pytest.LogCaptureFixture) -> None:
    """The reason goes to the debug log, with who asked; no payload."""
    caplog.set_level(logging.DEBUG)
    handlers: dict[int, Handler] = {Opcode.IOCTL: failing(NotAnIoctl("ioctl 0x5401"))}
    async with serving(handlers) as board:
        answer = await board.ask(message(Opcode.IOCTL, unique=6, nodeid=3))
        assert answer == reply(6, error=errno.ENOTTY)
        assert board.counted("IOCTL") == (1, 1)
    (record,) = (r for r in caplog.records if "ENOTTY" in r.getMessage())
    assert record.levelno == logging.DEBUG
    who = "IOCTL of inode 3 by pid 101 of uid 1001 (request 6)"
    assert record.getMessage() == f"{who}: ENOTTY: ioctl 0x5401"


async def test_an_exception_in_a_handler_is_eio(caplog: pytest.LogCaptureFixture) -> None:
    """Logged with its traceback and the request; the next request is served."""
    handlers: dict[int, Handler] = {Opcode.OPEN: failing(KeyError("bug")), Opcode.READ: echo}
    async with serving(handlers) as board:
        answer = await board.ask(message(Opcode.OPEN, unique=6, nodeid=3))
        assert answer == reply(6, error=errno.EIO)
        assert await board.ask(message(Opcode.READ, unique=8)) == reply(8, b"1:")
        assert board.counted("OPEN") == (1, 1)
    (record,) = caplog.records
    who = "OPEN of inode 3 by pid 101 of uid 1001 (request 6)"
    assert (record.levelname, record.getMessage()) == ("ERROR", f"{who} failed")
    assert "KeyError: 'bug'" in caplog.text
    assert "Traceback" in caplog.text


async def test_a_deferred_answer_lets_others_pass() -> None:
    """The loop serves on while a handler waits, and each reply finds its request."""
    may_answer = trio.Event()

    async def late(header: Header, body: memoryview) -> bytes:
        await may_answer.wait()
        return b"late"

    handlers: dict[int, Handler] = {Opcode.IOCTL: late, Opcode.READ: echo}
    async with serving(handlers) as board:
        await board.kernel.send(message(Opcode.IOCTL, unique=6))
        assert await board.ask(message(Opcode.READ, unique=8)) == reply(8, b"1:")
        assert await board.kernel.silent()
        may_answer.set()
        assert await board.kernel.hear() == reply(6, b"late")
        assert board.counted("IOCTL") == (1, 0)


@pytest.mark.parametrize(
    ("error", "code"), [(OutOfMemory("full"), errno.ENOMEM), (ValueError("bug"), errno.EIO)]
)
async def test_a_deferred_failure_is_answered(
    error: Exception, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As one that comes at once; a bug is logged, a refusal is no error."""

    async def late(header: Header, body: memoryview) -> bytes:
        await trio.lowlevel.checkpoint()
        raise error

    async with serving({Opcode.IOCTL: late}) as board:
        assert await board.ask(message(Opcode.IOCTL, unique=6)) == reply(6, error=code)
        assert board.counted("IOCTL") == (1, 1)
    assert ("Traceback" in caplog.text) == (code == errno.EIO)


async def test_the_mark_of_a_resent_request_is_kept() -> None:
    """The kernel looks for it in the reply."""
    async with serving({Opcode.OPEN: echo}) as board:
        answer = await board.ask(message(Opcode.OPEN, unique=RESENT | 6))
        assert answer == reply(RESENT | 6, b"1:")


async def test_the_body_is_the_requests_own() -> None:
    """The bytes behind the header, and no rest of a longer request before."""
    async with serving({Opcode.OPEN: echo}) as board:
        await board.ask(message(Opcode.OPEN, b"long " * 100))
        assert await board.ask(message(Opcode.OPEN, b"x")) == reply(2, b"1:x")


# Turns


def asked_by(user: int, unique: int, opcode: int = Opcode.OPEN) -> bytes:
    """A request of this user."""
    return struct.pack("<IIQQIIIHH", 40, opcode, unique, 1, user, user, 7, 0, 0)


async def test_users_take_turns() -> None:
    """However many of one user's requests wait; see test_turns.py for the rules."""
    async with serving({Opcode.OPEN: echo}) as board:
        for unique in range(2, 34, 2):
            board.kernel.socket.send(asked_by(1001, unique))
        board.kernel.socket.send(asked_by(1002, 90))
        assert await board.kernel.hear() == reply(2, b"1:")
        assert await board.kernel.hear() == reply(90, b"1:")


async def test_what_pyfuse3_has_does_not_wait_for_a_burst() -> None:
    """It gets its turn between two of somebody's many requests, and the kernel its answer."""
    async with serving({Opcode.OPEN: echo}) as board:

        async def pyfuse3() -> None:
            assert await board.pyfuse3.hear() == asked_by(1002, 90, Opcode.STATFS)
            await board.pyfuse3.send(reply(90, b"statfs"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pyfuse3)
            await trio.testing.wait_all_tasks_blocked()
            for unique in range(2, 34, 2):
                board.kernel.socket.send(asked_by(1001, unique))
            board.kernel.socket.send(asked_by(1002, 90, Opcode.STATFS))
        served = [await board.kernel.hear() for _ in range(17)]
    assert served.index(reply(90, b"statfs")) <= 5


async def test_what_was_read_is_served_before_it_makes_room() -> None:
    """However many; the next server is to find nothing but what is in the kernel."""
    stops: list[Callable[[], None]] = []

    def stopping(header: Header, body: memoryview) -> bytes:
        stops.pop()()
        return b""

    handlers: dict[int, Handler] = {Opcode.FLUSH: stopping, Opcode.OPEN: echo}
    with exchange(handlers) as board, trio.fail_after(SECONDS):
        stops.append(board.switchboard.stop)
        uniques = range(2, 66, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await board.greet()
            await trio.testing.wait_all_tasks_blocked()
            board.kernel.socket.send(asked_by(1001, 90, Opcode.FLUSH))
            for unique in uniques:
                board.kernel.socket.send(asked_by(1001, unique))
            answers = [await board.kernel.hear() for _ in range(1 + len(uniques))]
        assert answers == [reply(90), *(reply(unique, b"1:") for unique in uniques)]
        assert board.gone == [False]


# pyfuse3's


@pytest.mark.parametrize("opcode", [Opcode.MKDIR, Opcode.STATFS, Opcode.POLL, 54, 4096])
async def test_others_are_forwarded(opcode: int) -> None:
    """To the byte, unknown opcodes included; and so is the reply."""
    async with serving({Opcode.OPEN: echo}) as board:
        request = message(opcode, b"anything", unique=6)
        await board.kernel.send(request)
        assert await board.pyfuse3.hear() == request
        answer = reply(6, b"whatever it says")
        await board.pyfuse3.send(answer)
        assert await board.kernel.hear() == answer


async def test_an_error_of_pyfuse3_is_passed_on_and_counted() -> None:
    """But for ENOSYS, its answer to what it does not know, which the kernel asks once."""
    async with serving() as board:
        for error, count in ((errno.ENOSYS, (1, 0)), (errno.EIO, (2, 1))):
            await board.kernel.send(message(Opcode.POLL, unique=6))
            await board.pyfuse3.hear()
            await board.pyfuse3.send(reply(6, error=error))
            assert await board.kernel.hear() == reply(6, error=error)
            assert board.counted("POLL") == count


async def test_replies_are_collected_without_waiting() -> None:
    """All that one step of pyfuse3 wrote reach the kernel when that step ends."""
    async with serving() as board:
        for unique in (6, 8, 10):
            await board.kernel.send(message(Opcode.MKDIR, unique=unique))
        for _ in range(3):
            await board.pyfuse3.hear()
        for unique in (10, 6, 8):
            board.pyfuse3.socket.send(reply(unique))
        assert not board.kernel.waiting()
        await trio.lowlevel.checkpoint()
        assert [await board.kernel.hear() for _ in range(3)] == [reply(10), reply(6), reply(8)]
        assert board.counted("MKDIR") == (3, 0)


@pytest.mark.parametrize("opcode", [Opcode.FORGET, Opcode.BATCH_FORGET])
async def test_forget_is_not_answered(opcode: int) -> None:
    """Nobody awaits that, whatever its handler does; pyfuse3 does not see it."""
    handlers: dict[int, Handler] = {Opcode.OPEN: echo, opcode: echo}
    async with serving(handlers) as board:
        await board.kernel.send(message(opcode, bytes(8), unique=6))
        assert await board.kernel.silent()
        # The same number may come again, and then stands for another request.
        assert await board.ask(message(Opcode.OPEN, unique=6)) == reply(6, b"1:")
        assert await board.pyfuse3.silent()


async def test_a_failing_forget_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    """With its traceback; on it goes."""
    handlers: dict[int, Handler] = {Opcode.OPEN: echo, Opcode.FORGET: failing(KeyError("bug"))}
    async with serving(handlers) as board:
        await board.kernel.send(message(Opcode.FORGET, bytes(8), unique=6))
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Traceback" in caplog.text


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """The callers that are told to stop."""
    found: set[int] = set()
    monkeypatch.setattr(proc, "is_told_to_stop", found.__contains__)
    monkeypatch.setattr(interrupts, "LOOK", 0)
    return found


def interrupt(unique: int) -> bytes:
    """The kernel asks to end a request."""
    return message(Opcode.INTERRUPT, struct.pack("=Q", unique), unique=unique | 1)


async def for_ever(header: Header, body: memoryview) -> bytes:
    """A handler that does not come to an end by itself."""
    await trio.Event().wait()
    return b"never"


@pytest.mark.parametrize("mark", [0, RESENT])
async def test_a_request_ends_whose_caller_is_killed(told: set[int], mark: int) -> None:
    """EINTR; no other, and the kernel may send it marked."""
    told.add(ALICE.pid)
    async with serving({Opcode.IOCTL: for_ever, Opcode.OPEN: echo}) as board:
        for unique in (6, 8):
            await board.kernel.send(message(Opcode.IOCTL, unique=unique))
        assert await board.kernel.silent()
        await board.kernel.send(interrupt(8 | mark))
        assert await board.kernel.hear() == reply(8, error=errno.EINTR)
        assert await board.ask(message(Opcode.OPEN, unique=10)) == reply(10, b"1:")
        await board.kernel.send(interrupt(6))
        assert await board.kernel.hear() == reply(6, error=errno.EINTR)


async def test_a_signal_that_ends_nothing_ends_no_request(told: set[int]) -> None:
    """A timer's, say. But the kernel asks only once, so a later one that does is seen."""
    async with serving({Opcode.IOCTL: for_ever}) as board:
        await board.kernel.send(message(Opcode.IOCTL, unique=6))
        await board.kernel.send(interrupt(6))
        for _ in range(20):
            await trio.lowlevel.checkpoint()
        assert not board.kernel.waiting()
        told.add(ALICE.pid)
        assert await board.kernel.hear() == reply(6, error=errno.EINTR)


async def test_an_interrupt_that_comes_before_its_request_is_served(told: set[int]) -> None:
    """It waits for its turn still."""
    told.add(ALICE.pid)
    async with serving({Opcode.IOCTL: for_ever, Opcode.OPEN: echo}) as board:
        await board.kernel.send(interrupt(6))
        await board.kernel.send(message(Opcode.IOCTL, unique=6))
        assert await board.kernel.hear() == reply(6, error=errno.EINTR)


async def test_interrupts_of_what_has_its_answer_are_nothing(told: set[int]) -> None:
    """Nobody looks for them any more."""
    async with serving({Opcode.OPEN: echo}) as board:
        await board.kernel.send(interrupt(6))
        assert await board.ask(message(Opcode.OPEN, unique=6)) == reply(6, b"1:")
        await trio.testing.wait_all_tasks_blocked()
        await board.kernel.send(message(Opcode.INTERRUPT, b"torn"))
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")


async def test_interrupts_are_not_handed_on() -> None:
    """pyfuse3 would look for a request that it never saw."""
    async with serving({Opcode.OPEN: echo}) as board:
        await board.kernel.send(message(Opcode.INTERRUPT, bytes(8)))
        assert await board.ask(message(Opcode.OPEN)) == reply(2, b"1:")
        assert await board.pyfuse3.silent()


async def test_a_slow_pyfuse3_slows_the_kernel() -> None:
    """Requests wait when the pair is full; none is lost, and their order stays."""
    requests = [message(Opcode.SETXATTR, bytes([n]) * 60_000, unique=2 * n) for n in range(1, 30)]

    async with serving() as board:

        async def send_all() -> None:
            for request in requests:
                await board.kernel.send(request)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send_all)
            await trio.testing.wait_all_tasks_blocked()
            assert [await board.pyfuse3.hear() for _ in requests] == requests


async def send_large(board: Exchange, monkeypatch: pytest.MonkeyPatch, request: bytes) -> None:
    """A request that no socket would carry, as /dev/fuse does."""

    def read(buffers: Sequence[bytearray | memoryview]) -> int:
        os.read(board.device.fd, 1)
        monkeypatch.undo()
        memoryview(buffers[0])[: len(request)] = request
        return len(request)

    # Whoever waits for a request sees that one is there.
    monkeypatch.setattr(board.device, "_readv", read)
    await board.kernel.send(b"x")


@pytest.mark.parametrize("size", [64 << 10, 300_000, 1 << 20])
async def test_what_is_too_long_for_the_pair_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Only a kind of request that nobody knows can be: ENOSYS, and on it goes."""
    async with serving({Opcode.OPEN: echo}) as board:
        await send_large(board, monkeypatch, message(4096, bytes(size), unique=6))
        assert await board.kernel.hear() == reply(6, error=errno.ENOSYS)
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")
        assert await board.pyfuse3.silent()


@pytest.mark.parametrize("code", [errno.ENOBUFS, errno.EMSGSIZE])
async def test_what_the_pair_does_not_take_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """The system has no memory for it: its errno and a line in the log; the next one is passed on."""
    async with serving() as board:

        class Refusing:
            def send(self, data: object) -> int:
                monkeypatch.undo()
                raise OSError(code, os.strerror(code))

            def recv_into(self, buffer: object) -> int:
                raise BlockingIOError

        monkeypatch.setattr(board.switchboard, "_pair", Refusing())
        assert await board.ask(message(Opcode.STATFS, unique=6)) == reply(6, error=code)
        await board.kernel.send(message(Opcode.STATFS, unique=8))
        assert await board.pyfuse3.hear() == message(Opcode.STATFS, unique=8)
        await board.pyfuse3.send(reply(8))
        assert await board.kernel.hear() == reply(8)
        assert board.counted("STATFS") == (2, 1)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@pytest.mark.parametrize("opcode", [Opcode.FSYNC, Opcode.LISTXATTR, Opcode.READDIR])
async def test_what_libfuse_would_read_beyond_is_refused(opcode: int) -> None:
    """It takes the length of a body for granted."""
    async with serving() as board:
        answer = await board.ask(message(opcode, bytes(7), unique=6))
        assert answer == reply(6, error=errno.EIO)
        assert await board.pyfuse3.silent()


async def test_the_largest_batch_is_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """65,000 inodes forgotten at once go to the handler as they came."""
    seen: list[int] = []

    def handler(header: Header, body: memoryview) -> bytes:
        seen.append(len(body))
        return b""

    handlers: dict[int, Handler] = {Opcode.BATCH_FORGET: handler, Opcode.OPEN: echo}
    async with serving(handlers) as board:
        body = struct.pack("<II", 65_000, 0) + bytes(16 * 65_000)
        await send_large(board, monkeypatch, message(Opcode.BATCH_FORGET, body, unique=6))
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")
    assert seen == [8 + 16 * 65_000]


async def test_a_reply_to_nothing_is_survived(caplog: pytest.LogCaptureFixture) -> None:
    """Logged; the reply that comes after it is passed on."""
    async with serving() as board:
        await board.kernel.send(message(Opcode.MKDIR, unique=6))
        await board.pyfuse3.hear()
        await board.pyfuse3.send(reply(4242))
        await board.pyfuse3.send(b"too short")
        await board.pyfuse3.send(reply(6))
        assert await board.kernel.hear() == reply(6)
    assert [r.getMessage() for r in caplog.records] == ["cannot complete a reply"] * 2


async def test_a_crowd_of_requests_lets_others_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time, of nothing here, another task gets its turn."""
    monkeypatch.setattr(waiting_module, "TURN", 0.0)
    monkeypatch.setattr(waiting_module, "BURST", 2)
    served: list[str] = []

    def handler(header: Header, body: memoryview) -> bytes:
        served.append("request")
        return b""

    async with serving({Opcode.OPEN: handler}) as board:
        for unique in range(2, 14, 2):
            board.kernel.socket.send(message(Opcode.OPEN, unique=unique))
        while served.count("request") < 6:
            served.append("other")
            await trio.lowlevel.checkpoint()
    crowds = "".join("r" if who == "request" else " " for who in served).split()
    # Two crowds may follow each other: trio runs those who are ready in any order.
    assert max(map(len, crowds)) <= 4


async def test_nobody_is_looked_for_while_pyfuse3_works(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look for the client's next request would take the time that pyfuse3 needs for this one."""
    looked: list[str] = []
    monkeypatch.setattr(Waiting, "look", lambda _: looked.append("now"))
    async with serving({Opcode.OPEN: echo}) as board:
        await board.kernel.send(message(Opcode.STATFS, unique=6))
        await board.pyfuse3.hear()
        looked.clear()
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        assert not looked
        await board.pyfuse3.send(reply(6))
        assert await board.kernel.hear() == reply(6)


async def test_nobody_sleeps_while_an_answer_is_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever works on it, pyfuse3 or a task with a worker thread, needs the loop."""
    slept: list[str] = []
    monkeypatch.setattr(Waiting, "sleep", lambda _: slept.append("now"))
    may_answer = trio.Event()

    async def late(header: Header, body: memoryview) -> bytes:
        await may_answer.wait()
        return b"late"

    async with serving({Opcode.IOCTL: late, Opcode.OPEN: echo}) as board:
        await trio.testing.wait_all_tasks_blocked()
        slept.clear()
        await board.kernel.send(message(Opcode.STATFS, unique=6))
        await board.pyfuse3.hear()
        await board.kernel.send(message(Opcode.IOCTL, unique=8))
        await board.ask(message(Opcode.OPEN, unique=10))
        await board.pyfuse3.send(reply(6))
        await board.kernel.hear()
        await board.ask(message(Opcode.OPEN, unique=12))
        assert not slept
        may_answer.set()
        await board.kernel.hear()
        await board.ask(message(Opcode.OPEN, unique=14))
        await trio.testing.wait_all_tasks_blocked()
        assert slept


# INIT


async def test_init_is_completed() -> None:
    """libfuse's reply with the bits that the data plane wishes, before anybody is told."""
    with exchange({}) as board, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            answer = await board.greet()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    expected = bytearray(init_reply())
    struct.pack_into("<I", expected, 16 + 12, 1 | 1 << 30 | 0x80000)
    struct.pack_into("<II", expected, 16 + 32, 0x30, 7)
    assert answer == bytes(expected)
    assert board.ready == [True]


async def test_a_later_server_asks_for_what_was_not_answered() -> None:
    """The kernel heard a reply to INIT before: only pyfuse3 needs it. A notice asks the
    kernel to send again what an earlier process read."""
    notice = struct.pack("<IiQ", 16, 7, 0)  # FUSE_NOTIFY_RESEND
    with exchange({}, flags2=0xB0) as board, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run_again)
            assert await board.pyfuse3.hear() == init_message()
            await board.pyfuse3.send(init_reply())
            assert await board.kernel.hear() == notice
            assert await board.kernel.silent()
            nursery.cancel_scope.cancel()
    assert board.ready == [False]


async def test_without_resend_a_server_that_dies_leaves_its_requests() -> None:
    """The next answers what was being worked on and what had just been read, each once, under
    the number that the kernel knows."""
    never = trio.Event()

    async def wait(header: Header) -> bytes:
        await never.wait()
        return b""

    area = memoryview(bytearray(AREA_SIZE))
    slow: dict[int, Handler] = {Opcode.IOCTL: lambda header, body: wait(header)}
    with exchange(slow, area=area) as board, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await board.greet()
            await board.kernel.send(message(Opcode.IOCTL, b"slow", unique=6, nodeid=3))
            await board.kernel.send(message(Opcode.MKDIR, b"forwarded", unique=8))
            assert await board.pyfuse3.hear() == message(Opcode.MKDIR, b"forwarded", unique=8)
            nursery.cancel_scope.cancel()
    last = message(Opcode.OPEN, b"last", unique=10, nodeid=3)
    area[: len(last)] = last

    with exchange({Opcode.IOCTL: echo, Opcode.OPEN: echo}, area=area) as board:
        board.replay.answers = {RESENT | 6: b"as before"}
        with trio.fail_after(SECONDS):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(board.run_again)
                await board.pyfuse3.hear()
                await board.pyfuse3.send(init_reply())
                assert await board.kernel.hear() == reply(6, b"as before")
                assert await board.kernel.hear() == reply(10, b"3:last")
                request = message(Opcode.MKDIR, b"forwarded", unique=RESENT | 8)
                assert await board.pyfuse3.hear() == request
                await board.pyfuse3.send(reply(RESENT | 8, b"made"))
                assert await board.kernel.hear() == reply(8, b"made")
                assert await board.kernel.silent()
                nursery.cancel_scope.cancel()
    assert KeptInFile(area).recover() == ()


# Requests that come again


async def test_a_request_that_was_applied_before_is_answered() -> None:
    """From what is remembered; neither a handler nor pyfuse3 sees it."""
    async with serving({Opcode.OPEN: failing(KeyError("it was served"))}) as board:
        board.replay.answers = {RESENT | 6: b"as before", RESENT | 8: b""}
        assert await board.ask(message(Opcode.OPEN, unique=RESENT | 6)) == reply(
            RESENT | 6, b"as before"
        )
        assert await board.ask(message(Opcode.MKDIR, unique=RESENT | 8)) == reply(RESENT | 8)
        assert await board.pyfuse3.silent()


async def test_its_steps_are_told() -> None:
    """Where tests end the process: after reading, and around the reply."""
    async with serving({Opcode.OPEN: echo}) as board:
        board.steps.clear()
        await board.ask(message(Opcode.OPEN))
        await board.kernel.silent()
        assert board.steps == ["request read", "before reply", "after reply"]


# The end


async def test_the_end_of_the_mount_ends_it() -> None:
    """ENODEV: run says that the mount is gone, and trio's steps are observed no more."""
    with exchange({}) as board, trio.fail_after(SECONDS):
        board.device.reads = [errno.ENODEV]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await board.greet()
        assert board.gone == [True]
        await board.pyfuse3.send(reply(6))
        assert await board.kernel.silent()


async def test_stop_finishes_what_is_in_hand() -> None:
    """No new request is read, but those that were are answered, by handlers and pyfuse3."""
    may_answer = trio.Event()

    async def late(header: Header, body: memoryview) -> bytes:
        await may_answer.wait()
        return b"late"

    with exchange({Opcode.IOCTL: late}) as board, trio.fail_after(SECONDS):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(board.run)
            await board.greet()
            await board.kernel.send(message(Opcode.IOCTL, unique=6))
            await board.kernel.send(message(Opcode.MKDIR, unique=8))
            await board.pyfuse3.hear()
            board.switchboard.stop()
            await board.kernel.send(message(Opcode.MKDIR, unique=10))
            for _ in range(10):
                await trio.lowlevel.checkpoint()
            may_answer.set()
            await board.pyfuse3.send(reply(8))
            answers = {await board.kernel.hear(), await board.kernel.hear()}
            assert answers == {reply(6, b"late"), reply(8)}
    assert board.gone == [False]


# The device


async def test_a_request_that_was_taken_back_is_survived() -> None:
    """ENOENT and EINTR: read again."""
    async with serving({Opcode.OPEN: echo}) as board:
        script = [errno.ENOENT, errno.EINTR, errno.ENOENT]
        board.device.reads = script
        assert await board.ask(message(Opcode.OPEN)) == reply(2, b"1:")


async def test_a_broken_device_ends_it() -> None:
    """Any other errno is no normal end, and is not hidden."""
    with exchange({}) as board, trio.fail_after(SECONDS):
        board.device.reads = [errno.EBADF]

        async def serve() -> None:
            with pytest.RaisesGroup(pytest.RaisesExc(OSError, match="Bad file descriptor")):
                await board.run()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await board.greet()


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV])
async def test_a_reply_that_nobody_awaits(code: int, caplog: pytest.LogCaptureFixture) -> None:
    """The caller was killed, or the mount is gone: no error, and on it goes."""
    async with serving({Opcode.OPEN: echo}) as board:
        board.device.writes = [code]
        await board.kernel.send(message(Opcode.OPEN, unique=6))
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")
    assert caplog.records == []


async def test_a_reply_that_the_kernel_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """EIO in its place, so that the caller does not wait for ever; on it goes."""
    async with serving({Opcode.OPEN: echo}) as board:
        board.device.writes = [errno.EINVAL]
        assert await board.ask(message(Opcode.OPEN, unique=6)) == reply(6, error=errno.EIO)
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")
    assert [r.levelname for r in caplog.records] == ["ERROR"]


async def test_a_device_that_takes_nothing_is_survived(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither the reply nor the error: both are logged, and on it goes."""
    async with serving({Opcode.OPEN: echo}) as board:
        board.device.writes = [errno.EINVAL, errno.EINVAL]
        await board.kernel.send(message(Opcode.OPEN, unique=6))
        assert await board.ask(message(Opcode.OPEN, unique=8)) == reply(8, b"1:")
    assert [r.levelname for r in caplog.records] == ["ERROR", "ERROR"]


async def test_a_reply_of_pyfuse3_that_the_kernel_refuses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The same, although it is written within a step of trio's own."""
    async with serving() as board:
        board.device.writes = [errno.EINVAL]
        await board.kernel.send(message(Opcode.MKDIR, unique=6))
        await board.pyfuse3.hear()
        await board.pyfuse3.send(reply(6))
        assert await board.kernel.hear() == reply(6, error=errno.EIO)
    assert [r.levelname for r in caplog.records] == ["ERROR"]
