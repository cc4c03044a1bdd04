"""The door: a socket at which clients with a token get the descriptor of a segment.

Owns the conversations: one message each way, for a short while, and of one user no more than some at a
time. What a token is good for is told by tokens.py, whether the segment may be given by core. The
protocol is in docs/design/direct.md.
"""

from __future__ import annotations

import array
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import trio

from msharefs.abi import TOKEN_SIZE
from msharefs.core.attaching import Attaching
from msharefs.core.errors import RefusedError
from msharefs.core.ports import Lent
from msharefs.fuse.tokens import Tokens
from msharefs.linux.sockets import peer_uid

PATIENCE = 5.0
"""Seconds that a client has to send its token."""
GUESTS_OF_A_USER = 128
"""Conversations that a user has at a time; one more ends the oldest, whose client begins again."""
BACKLOG = 1024
PAUSE = 0.1
"""Seconds until the next is let in where no descriptor is left for it."""
_ANSWER = struct.Struct("=i")


class Door:
    """Where the tokens of this server are redeemed."""

    def __init__(
        self, tokens: Tokens, attaching: Attaching, failpoint: Callable[[str], None]
    ) -> None:
        """It can be knocked at from now on. Raises OSError."""
        self._tokens = tokens
        self._attaching = attaching
        self._failpoint = failpoint
        self._guests: dict[int, deque[trio.CancelScope]] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(b"\0" + tokens.address)
        self._listener.listen(BACKLOG)

    async def serve(self) -> None:
        """For as long as the server runs."""
        listener = trio.socket.from_stdlib_socket(self._listener)
        with listener:
            async with trio.open_nursery() as nursery:
                while True:
                    try:
                        guest, _address = await listener.accept()
                    except OSError:
                        await trio.sleep(PAUSE)
                    else:
                        nursery.start_soon(self._converse, guest)

    async def _converse(self, guest: trio.socket.SocketType) -> None:
        # Who leaves early has what he wanted, or begins again.
        with guest, suppress(OSError), self._place(peer_uid(guest)):
            token = await guest.recv(TOKEN_SIZE + 1)
            try:
                lent = self._lend(token)
            except RefusedError as refused:
                await guest.send(_ANSWER.pack(refused.errno))
                return
            self._failpoint("segment lent")
            rights = array.array("i", [lent.fileno()])
            await guest.sendmsg([_ANSWER.pack(0)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            self._failpoint("segment sent")

    def _lend(self, token: bytes) -> Lent:
        promise = self._tokens.take(token)
        self._failpoint("token redeemed")
        return self._attaching.attach(promise.ino, promise.access, claims=promise.claims)

    @contextmanager
    def _place(self, uid: int) -> Iterator[None]:
        """One of those that a user has."""
        others = self._guests.setdefault(uid, deque())
        if len(others) >= GUESTS_OF_A_USER:
            # Older ones have been told to go already, and may not have gone yet.
            others[-GUESTS_OF_A_USER].cancel()
        with trio.move_on_after(PATIENCE) as scope:
            others.append(scope)
            try:
                yield
            finally:
                others.remove(scope)
                if not others:
                    del self._guests[uid]
