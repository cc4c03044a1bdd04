"""Notices that take pages away, given by a process of their own: the notifier.

The kernel writes back what is dirty of them and waits for the answer, in a way that no signal ends
(fuse_launder_folio in fs/fuse/file.c). Were that a thread of the server, a server that is killed
could not end before the next one has answered, and that is started when it has ended.

Owns the server's side: a conversation with a thread of the notifier for each notice that is on its
way, of which one is kept for the next. The notifier's is daemon/notifier.py.
"""

from __future__ import annotations

import logging
import os
import socket
import struct

from msharefs.fuse.device import GONE, ConnectionGone, Device

log = logging.getLogger(__name__)

ANSWER = struct.Struct("=i")
"""An errno: 0 if the notice was given. One comes before all notices: the conversation has begun."""
LARGEST = 64
"""Bytes of a notice."""
IDLE = 1
"""Conversations that are kept: each is a thread of the notifier's, and a descriptor here and there."""
PATIENCE = 10.0
"""Seconds until a conversation has begun. Where none begins, because no process can be started, say,
the notice is given from here: a change that is done is worth more than a death that is easy."""


class PageNotices:
    """The notifier as worker threads use it, several at a time."""

    def __init__(self, orders: socket.socket, device: Device) -> None:
        """`orders` is where conversations are asked for, owned from here on."""
        self._orders = orders
        self._orders.settimeout(PATIENCE)
        self._device = device
        self._idle: list[socket.socket] = []

    def close(self) -> None:
        """No notice is on its way, and none will be given."""
        for each in (self._orders, *self._idle):
            each.close()

    def give(self, message: bytes) -> None:
        """Give a notice, and wait until the kernel has done what it says. Raises OSError, and
        ConnectionGone."""
        while True:
            try:
                conversation = self._conversation()
            except OSError as error:
                log.warning("no answer of the process that drops pages: %s", error)
                self._device.notify(message)
                return
            try:
                conversation.send(message)
                answer = conversation.recv(ANSWER.size)
            except OSError:
                answer = b""
            if answer:
                self._keep(conversation)
                (code,) = ANSWER.unpack(answer)
                if code in GONE:
                    raise ConnectionGone
                if code:
                    raise OSError(code, os.strerror(code))
                return
            # It was killed. Pages that are gone can be dropped again.
            conversation.close()

    def _keep(self, conversation: socket.socket) -> None:
        if len(self._idle) < IDLE:
            self._idle.append(conversation)
        else:
            conversation.close()

    def _conversation(self) -> socket.socket:
        """One that is idle, or a new one. Raises OSError."""
        try:
            return self._idle.pop()
        except IndexError:
            pass
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                socket.send_fds(self._orders, [b"\0"], [theirs.fileno()])
            ours.settimeout(PATIENCE)
            if not ours.recv(ANSWER.size):
                raise ConnectionResetError("it ended before it had begun")
            ours.settimeout(None)
        except BaseException:
            ours.close()
            raise
        return ours
