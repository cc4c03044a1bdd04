"""Files of callers as a server has them, over sockets whose other ends are the test's: who hears of
what becomes of a helper."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest
import trio

from msharefs.files import wire
from msharefs.files.callers import CallersFiles
from msharefs.files.wire import Facts

UID = 1001
FACTS = Facts(0o100600, 0, 0, "ext4", 7, 70, "/tmp/file")


class Desk:
    """A server's files, and the ends of the processes that have them."""

    def __init__(self) -> None:
        broker, self._orders = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper, asked = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sockets = [broker, self._orders, keeper, asked]
        self.files = CallersFiles(broker, keeper)

    async def take_order(self) -> socket.socket:
        """The end of a helper that is ordered."""
        await trio.lowlevel.wait_readable(self._orders)
        _message, descriptors = wire.receive(self._orders)
        return socket.socket(fileno=descriptors[0])

    def close(self) -> None:
        """All is over."""
        for each in self._sockets:
            each.close()


@pytest.fixture
def desk() -> Iterator[Desk]:
    """With a broker and a keeper."""
    desk = Desk()
    yield desk
    desk.close()


async def has_file(helper: socket.socket) -> None:
    """A helper is asked for a file, and says what it is."""
    await trio.lowlevel.wait_readable(helper)
    assert "have" in wire.receive(helper)[0]
    wire.send(helper, {"file": FACTS._asdict()})


async def refuses_file(helper: socket.socket) -> None:
    """The same, and it cannot have it."""
    await trio.lowlevel.wait_readable(helper)
    assert "have" in wire.receive(helper)[0]
    wire.send(helper, wire.failure(OSError(errno.EBADF, os.strerror(errno.EBADF))))


async def has_first_file(desk: Desk, started: list[socket.socket]) -> None:
    """A helper is started and has one; it is in the list then."""
    started.append(await desk.take_order())
    await has_file(started[0])


async def test_a_helper_that_ends_when_all_is_done(desk: Desk) -> None:
    """Is no failure of what was done with the file. The next one is had from another helper."""
    for _ in range(2):
        started: list[socket.socket] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(has_first_file, desk, started)
            async with desk.files.take(4242, UID, UID, 5) as file:
                assert file.inode == FACTS.inode
                started[0].close()


async def test_a_caller_who_gives_up_when_all_is_done(desk: Desk) -> None:
    """What was done stays done. The helper is told that it is over, and gets the next file."""
    started: list[socket.socket] = []
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(has_first_file, desk, started)
            async with desk.files.take(4242, UID, UID, 5):
                scope.cancel()
        done = True
    assert done
    with started[0] as helper:
        assert "close" in wire.receive(helper)[0]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuses_file, helper)
            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                async with desk.files.take(4242, UID, UID, 6):
                    pass


async def test_a_helper_that_ends_before(desk: Desk) -> None:
    """EIO: nothing was done."""

    async def end_at_once() -> None:
        (await desk.take_order()).close()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(end_at_once)
        with pytest.raises(OSError, match="has ended") as caught:
            async with desk.files.take(4242, UID, UID, 5):
                pass
    assert caught.value.errno == errno.EIO
