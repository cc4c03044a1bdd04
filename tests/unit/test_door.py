"""The door: how many conversations one user can have at a time."""

from __future__ import annotations

import select
import socket
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from msharefs.daemon import door
from msharefs.daemon.door import Door
from msharefs.fuse.tokens import Tokens
from tests.unit.support.worlds import make_world

GUESTS = 8


def test_a_user_has_no_more_than_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many come at once and say nothing: the oldest are let go, and the others kept."""
    monkeypatch.setattr(door, "GUESTS_OF_A_USER", GUESTS)
    tokens = Tokens()

    def kept(clients: list[socket.socket]) -> list[bool]:
        poll = select.poll()
        for client in clients:
            poll.register(client, select.POLLIN)
        ended = {fd for fd, _events in poll.poll(0)}
        return [client.fileno() not in ended for client in clients]

    async def flood() -> list[bool]:
        with ExitStack() as stack:
            clients: list[socket.socket] = []
            async with trio.open_nursery() as nursery:
                nursery.start_soon(Door(tokens, make_world().manager.attaching, _never).serve)
                for _ in range(20 * GUESTS):
                    client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                    clients.append(stack.enter_context(client))
                    client.connect(b"\0" + tokens.address)
                await trio.testing.wait_all_tasks_blocked(0.01)
                found = kept(clients)
                nursery.cancel_scope.cancel()
        return found

    assert trio.run(flood) == [False] * (19 * GUESTS) + [True] * GUESTS


def _never(_step: str) -> None:
    """No failpoint is armed."""
