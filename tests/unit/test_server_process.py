"""What a supervisor takes for alive: a server that says how far it is, for as long as it does."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from msharefs.daemon.server_process import SILENCE, ServerError, ServerProcess, send
from msharefs.files.keeper import Keeper
from msharefs.fuse.in_service import Cause
from tests.helpers.descriptors import open_descriptors
from tests.unit.support.fakes import StillClock


class Both:
    """A process as its supervisor has it, and the other end of the socket."""

    def __init__(self) -> None:
        ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.stdin = child.stdin
        self.clock = StillClock()
        self.keeper = Keeper()
        self.process = ServerProcess(ours, child, self.clock)

    def close(self) -> None:
        """End it."""
        self.process.end()
        self.keeper.part()
        self.theirs.close()
        assert self.stdin is not None
        self.stdin.close()


@pytest.fixture
def both() -> Iterator[Both]:
    """A server that waits."""
    made = Both()
    yield made
    made.close()


def test_a_server_that_goes_on_is_waited_for(both: Both) -> None:
    """However long it takes: each word is a sign of life."""
    both.process.serve(0, 0.0, Cause.NONE, both.keeper)
    for step in range(20):
        both.clock.now += SILENCE
        assert not both.process.serves_within(0)
        send(both.theirs, {"progress": f"{step} inodes"})
        assert not both.process.serves_within(0)
        assert both.process.progress == f"{step} inodes"
    both.clock.now += SILENCE
    send(both.theirs, {"ready": True, "tuning": {"a": 1}})
    assert both.process.serves_within(0)
    assert both.process.tuning == {"a": 1}


def test_a_server_that_says_nothing_is_given_up(both: Both) -> None:
    """Not before its time."""
    both.process.serve(0, 0.0, Cause.NONE, both.keeper)
    both.clock.now += SILENCE
    assert not both.process.serves_within(0)
    both.clock.now += 0.1
    with pytest.raises(ServerError, match="said nothing for 30 seconds"):
        both.process.serves_within(0)


def test_a_standby_may_be_silent(both: Both) -> None:
    """Its time begins when it shall serve."""
    send(both.theirs, {"loaded": True})
    assert both.process.loaded_within(0)
    both.clock.now += 1000 * SILENCE
    both.process.serve(1, 0.0, Cause.NONE, both.keeper)
    assert not both.process.serves_within(0)
    both.clock.now += SILENCE + 0.1
    with pytest.raises(ServerError):
        both.process.serves_within(0)


def test_a_server_that_cannot_serve_says_why(both: Both) -> None:
    """Also after it has said how far it was."""
    send(both.theirs, {"progress": "some"})
    send(both.theirs, {"error": "no journal"})
    assert not both.process.serves_within(0)
    with pytest.raises(ServerError, match="no journal"):
        both.process.serves_within(0)


def test_a_server_that_is_gone(both: Both) -> None:
    """Its end of the socket is closed."""
    both.theirs.close()
    with pytest.raises(ServerError, match="ended at once"):
        both.process.serves_within(0)


def test_a_server_for_which_there_is_no_socket(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is tried later, as where there is no process."""

    def meet() -> socket.socket:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(both.keeper, "meet", meet)
    with pytest.raises(ServerError, match="Too many open files"):
        both.process.serve(0, 0.0, Cause.NONE, both.keeper)


def test_descriptors_that_a_server_sends_are_not_kept(both: Both) -> None:
    """It has none to give, whatever has become of it."""
    before = open_descriptors()
    send(both.theirs, {"loaded": True}, [both.theirs.fileno()] * 8)
    assert both.process.loaded_within(0)
    assert open_descriptors() == before


def test_its_last_words_are_heard_though_it_read_nothing(both: Both) -> None:
    """The kernel tells of the unread order before it gives the words, and once."""
    both.process.serve(0, 0.0, Cause.NONE, both.keeper)
    send(both.theirs, {"error": "no memory is seen"})
    both.theirs.close()
    with pytest.raises(ServerError, match="no memory is seen"):
        both.process.serves_within(1)
    with pytest.raises(ServerError, match="ended at once"):
        both.process.serves_within(1)
