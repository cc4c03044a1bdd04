"""The conversation of a client with a direct mount, with a mount that is not there."""

from __future__ import annotations

import errno
import os
import time

import pytest

from msharefs import abi
from msharefs.client import segments


class Servers:
    """They answer the ioctl one after the other, and nobody hears at their addresses."""

    def __init__(self, *addresses: bytes) -> None:
        self.asked: list[bytes] = []
        self._addresses = iter(addresses)

    def ask(self, fd: int, command: int) -> abi.Attach:
        """A token of the next one."""
        assert command == abi.ATTACH
        self.asked.append(next(self._addresses))
        return abi.Attach(b"t" * 16, os.geteuid(), self.asked[-1])


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sleeps."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def refused(where: abi.Attach) -> int:
    """What connect(2) says."""
    raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))


def test_a_server_in_another_network_namespace(
    still: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lives, and cannot be reached: the file is mapped, and nobody waits ten seconds for that."""
    servers = Servers(b"one", b"one")
    monkeypatch.setattr(segments, "_ask", servers.ask)
    monkeypatch.setattr(segments, "_redeem", refused)
    assert segments.segment_of(0) is None
    assert servers.asked == [b"one", b"one"]


def test_servers_that_die_one_after_the_other(still: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has another address: the next one is asked."""
    servers = Servers(b"one", b"two", b"three", b"four")
    monkeypatch.setattr(segments, "_ask", servers.ask)

    def redeem(where: abi.Attach) -> int:
        return 7 if where.address == b"four" else refused(where)

    monkeypatch.setattr(segments, "_redeem", redeem)
    assert segments.segment_of(0) == 7
    assert len(servers.asked) == 4
