"""Notices that may wait: given by the notifier, several at a time, and given all the same without one."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from msharefs.daemon.notifier import Notifier
from msharefs.fuse import page_notices
from msharefs.fuse.device import ConnectionGone, Device
from msharefs.fuse.page_notices import PageNotices
from tests.helpers.descriptors import open_descriptors

SECONDS = 10


class Told(Device):
    """A kernel that notes what it is told. What is told of "wait" waits for `go_on`."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self.told: list[bytes] = []
        self.waits, self.go_on = threading.Event(), threading.Event()

    def notify(self, message: bytes) -> bool:
        """See Device."""
        self.told.append(message)
        if message == b"wait":
            self.waits.set()
            assert self.go_on.wait(SECONDS)
        if message == b"gone":
            raise ConnectionGone
        if message == b"refused":
            raise OSError(errno.ENOMEM, "")
        return True


@pytest.fixture
def kernel() -> Iterator[Told]:
    """What the notifier talks to, which asks nothing."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Told(ours.fileno())


@pytest.fixture
def orders(kernel: Told) -> Iterator[socket.socket]:
    """Of a notifier that runs until they are closed."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ThreadPoolExecutor(1) as executor:
        served = executor.submit(Notifier(theirs, kernel).serve)
        with ours:
            yield ours
        served.result(SECONDS)


@pytest.fixture
def notices(orders: socket.socket) -> Iterator[PageNotices]:
    """By that notifier; a server that gave one from its own process would fail."""
    with closing(PageNotices(orders, Device(-1))) as made:
        yield made


def test_a_notice_is_given(notices: PageNotices, kernel: Told) -> None:
    """And the next one, in the same conversation."""
    for each in (b"one", b"two"):
        notices.give(each)
    assert kernel.told == [b"one", b"two"]


def test_one_that_waits_holds_no_other_up(notices: PageNotices, kernel: Told) -> None:
    """A read that waits for a notice may be what another one waits for."""
    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(notices.give, b"wait")
        assert kernel.waits.wait(SECONDS)
        notices.give(b"other")
        assert not waiting.done()
        kernel.go_on.set()
        waiting.result(SECONDS)


@pytest.mark.parametrize(("message", "raised"), [(b"gone", ConnectionGone), (b"refused", OSError)])
def test_what_the_kernel_says(
    notices: PageNotices, message: bytes, raised: type[Exception]
) -> None:
    """Is said here, and the next notice is given."""
    with pytest.raises(raised):
        notices.give(message)
    notices.give(b"next")


def test_a_notifier_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of a notice: it is given again, by the next."""
    monkeypatch.setattr(page_notices, "PATIENCE", SECONDS)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        theirs,
        closing(PageNotices(ours, Device(-1))) as notices,
        ThreadPoolExecutor(1) as executor,
    ):
        giving = executor.submit(notices.give, b"notice")
        for answer in (None, page_notices.ANSWER.pack(0)):
            _order, (descriptor,), _flags, _address = socket.recv_fds(theirs, 1, 1)
            with socket.socket(fileno=descriptor) as conversation:
                conversation.send(page_notices.ANSWER.pack(0))
                assert conversation.recv(page_notices.LARGEST) == b"notice"
                if answer is not None:
                    conversation.send(answer)
        giving.result(SECONDS)


def refuse_all(orders: socket.socket) -> None:
    """Nobody will ever take one."""
    orders.close()


@pytest.mark.parametrize("trouble", [refuse_all, lambda orders: None])
def test_without_a_notifier(
    kernel: Told, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[socket.socket], None]
) -> None:
    """The server gives it itself, and no descriptor is left."""
    monkeypatch.setattr(page_notices, "PATIENCE", 0.05)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, closing(PageNotices(ours, kernel)) as notices:
        trouble(theirs)
        before = open_descriptors()
        notices.give(b"notice")
        assert open_descriptors() == before
    assert kernel.told == [b"notice"]
