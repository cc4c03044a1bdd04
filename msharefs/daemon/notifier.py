"""The notifier: gives the notices for which the kernel may wait until written pages are taken.

Owns a thread for each conversation with a server (fuse/page_notices.py). A thread that waits in the
kernel cannot be ended, and what it waits for is a server's answer: so this is no server, has nothing of
a server's, and outlives servers. If it is killed, it ends when the kernel lets it. If its supervisor is
gone, no server will come any more, and it answers in its place: with an error, whatever is asked.
"""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import threading
from collections.abc import Sequence
from contextlib import suppress

from msharefs.daemon.confinement import confine_to_nothing, filter_system_calls
from msharefs.fuse import messages
from msharefs.fuse.device import ConnectionGone, Device
from msharefs.fuse.kernel import NO_REPLY
from msharefs.fuse.mounting import REQUEST_ROOM
from msharefs.fuse.page_notices import ANSWER, LARGEST
from msharefs.linux import syscalls
from msharefs.linux.sockets import said_with_descriptors

_RETIRE = signal.SIGTERM
LOOK = 0.1
"""Seconds between looks at whether a thread waits still."""
_STACK = 256 << 10
"""Bytes of a thread's stack, which does little."""


class Notifier:
    """The conversations that there are, and the socket on which more are asked for."""

    def __init__(self, orders: socket.socket, device: Device) -> None:
        """SIGTERM is blocked. Raises OSError."""
        self._orders = orders
        self._device = device
        self._retire = syscalls.signalfd([_RETIRE])
        self._supervisor = os.pidfd_open(os.getppid())
        self._over = os.eventfd(0)
        self._conversations: set[socket.socket] = set()
        self._poll = select.poll()
        for each in (orders.fileno(), self._retire, self._supervisor, self._over):
            self._poll.register(each, select.POLLIN)

    def serve(self) -> None:
        """Until nobody is left who may give notices, and none waits in the kernel. After SIGTERM no
        conversation is begun any more."""
        listens = True
        while listens or self._conversations:
            ready = {fd for fd, _events in self._poll.poll()}
            if self._supervisor in ready:
                break
            if self._over in ready:
                os.eventfd_read(self._over)
            if self._retire in ready:
                listens = False
                self._poll.unregister(self._retire)
                self._poll.unregister(self._orders)
            elif self._orders.fileno() in ready and not self._take_order():
                break
        with suppress(ConnectionGone):
            self._refuse()

    def _take_order(self) -> bool:
        """Returns whether there is still somebody who may give one."""
        try:
            message, descriptors = said_with_descriptors(self._orders, 1)
        except OSError:
            return False
        if not message:
            return False
        for descriptor in descriptors:
            conversation = socket.socket(fileno=descriptor)
            self._conversations.add(conversation)
            threading.Thread(target=self._converse, args=(conversation,), daemon=True).start()
        return True

    def _converse(self, conversation: socket.socket) -> None:
        """The whole life of a thread."""
        try:
            # Whoever is at the other end may be killed at any time.
            with conversation, suppress(OSError):
                conversation.send(ANSWER.pack(0))
                while notice := conversation.recv(LARGEST):
                    conversation.send(ANSWER.pack(self._give(notice)))
        finally:
            self._conversations.discard(conversation)
            os.eventfd_write(self._over, 1)

    def _give(self, notice: bytes) -> int:
        """Returns an errno."""
        try:
            self._device.notify(notice)
        except ConnectionGone:
            return errno.ENODEV
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def _refuse(self) -> None:
        """Let go of the threads that wait in the kernel. Each holds /dev/fuse open: the mount would seem to
        be alive, and who asks would wait for ever. Raises ConnectionGone."""
        buffer = bytearray(REQUEST_ROOM)
        while self._conversations:
            # For what a server has read and not answered (Linux 6.9).
            self._device.notify(messages.encode_resend())
            while self._refuse_one(buffer):
                pass

    def _refuse_one(self, buffer: bytearray) -> bool:
        """Returns whether anything has come. Raises ConnectionGone."""
        ready = select.select([self._device.fileno(), self._over], [], [], LOOK)[0]
        if self._over in ready:
            os.eventfd_read(self._over)
        if self._device.fileno() in ready and (size := self._device.read_into(buffer)):
            header = messages.decode_header(memoryview(buffer)[:size])
            if header.opcode not in NO_REPLY:
                self._device.reply(messages.encode_error(header.unique, errno.EIO))
        return bool(ready) and bool(self._conversations)


def main(arguments: Sequence[str]) -> int:
    """The whole life of the notifier: its arguments are the descriptors of the socket and of /dev/fuse,
    and what the option seccomp= says."""
    # The supervisor's mask, which waits for signals one by one, came with us.
    signal.pthread_sigmask(signal.SIG_SETMASK, [_RETIRE])
    syscalls.call_ourselves("msharefs-pages")
    orders, device_fd, seccomp = arguments
    threading.stack_size(_STACK)
    device = Device(int(device_fd))
    device.set_blocking(False)
    notifier = Notifier(socket.socket(fileno=int(orders)), device)
    confine_to_nothing()
    filter_system_calls(seccomp)
    notifier.serve()
    return 0
