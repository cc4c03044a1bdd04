"""The keeper of files, at its socket: what is kept, given and forgotten, and how many."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from msharefs.files import keeper, wire
from msharefs.files.keeper import Keeper
from tests.helpers.descriptors import open_descriptors


class Server:
    """The other end."""

    def __init__(self, keeper: Keeper) -> None:
        self.keeper = keeper
        self.channel = keeper.meet()

    def ask(
        self, message: dict[str, Any], descriptors: list[int]
    ) -> tuple[dict[str, Any], list[int]]:
        """The answer, and what came along."""
        wire.send(self.channel, message, descriptors)
        self.keeper.serve()
        return wire.receive(self.channel)

    def keep(self, number: int, text: bytes) -> dict[str, Any]:
        """A file with a text, and its record, which are closed here."""
        pair = [os.memfd_create("file"), os.memfd_create("record")]
        os.write(pair[0], text)
        answer, _none = self.ask({"keep": number}, pair)
        for fd in pair:
            os.close(fd)
        return answer

    def text(self, number: int) -> bytes | None:
        """Of the file that is given; None where there is none."""
        _answer, given = self.ask({"give": number}, [])
        text = os.pread(given[0], 100, 0) if given else None
        for fd in given:
            os.close(fd)
        return text


@pytest.fixture
def server() -> Iterator[Server]:
    """That serves now."""
    before = open_descriptors()
    server = Server(Keeper())
    yield server
    wire.send(server.channel, {"forget": server.keeper.numbers})
    server.keeper.serve()
    server.keeper.part()
    server.channel.close()
    assert open_descriptors() == before


def test_files_outlive_servers(server: Server) -> None:
    """The next one has them by their numbers."""
    server.keep(7, b"seven")
    server.keep(3, b"three")
    server.channel.close()
    server.channel = server.keeper.meet()
    assert server.keeper.numbers == [3, 7]
    assert (server.text(7), server.text(3), server.text(1)) == (b"seven", b"three", None)


def test_what_is_forgotten_is_gone(server: Server) -> None:
    """One that was never kept is no error."""
    server.keep(7, b"seven")
    wire.send(server.channel, {"forget": [7, 8]})
    server.keeper.serve()
    assert server.text(7) is None
    assert len(server.keeper) == 0


def test_no_more_than_there_may_be(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENFILE, and the descriptors that came are closed."""
    monkeypatch.setattr(keeper, "most", lambda: 1)
    assert "errno" not in server.keep(1, b"first")
    assert server.keep(2, b"second")["errno"] == errno.ENFILE
    assert server.keeper.numbers == [1]


def test_descriptors_that_did_not_come(server: Server) -> None:
    """The kernel leaves those out that a process may not open: ENFILE."""
    fd = os.memfd_create("file")
    answer, _none = server.ask({"keep": 1}, [fd])
    os.close(fd)
    assert answer["errno"] == errno.ENFILE


def test_a_server_that_is_gone() -> None:
    """Is nobody any more; what it had kept stays."""
    made = Keeper()
    server = Server(made)
    server.keep(1, b"first")
    server.channel.close()
    made.serve()
    assert made.fileno() == -1
    assert made.numbers == [1]
    with made.meet() as channel:
        wire.send(channel, {"forget": [1]})
        made.serve()
    made.part()


def test_the_number_goes_with_the_limit_of_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two for each file, and some for other things; never more than a message has room for."""
    for soft, wanted in ((1024, 448), (129, 0), (100, 0), (1 << 20, 2048), (-1, 2048)):
        monkeypatch.setattr(resource, "getrlimit", lambda _which, soft=soft: (soft, soft))
        assert keeper.most() == wanted
    numbers = [(1 << 48) - n for n in range(2048)]
    assert len(wire.encode({"serve": {"kept": numbers}})) < 1 << 16
