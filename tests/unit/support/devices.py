"""/dev/fuse without a mount: a Device on a socket, each call of which a test can let fail."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msharefs.fuse import kernel
from msharefs.fuse.device import Device
from tests.unit.support.fakes import failure


class ScriptedDevice(Device):
    """Each read, write or ioctl takes the next errno of its script, and once that is used up
    does what it should; ioctls keep backing ids in `backing`, as the kernel does."""

    def __init__(self, fd: int = -1) -> None:
        super().__init__(fd)
        self.reads: list[int] = []
        self.writes: list[int] = []
        self.ioctls: list[int] = []
        self.backing: dict[int, int] = {}
        self.looks = 0
        self._last_backing = 40

    def _readv(self, buffers: Sequence[bytearray | memoryview]) -> int:
        self.looks += 1
        self._follow(self.reads)
        return super()._readv(buffers)

    def _writev(self, parts: Sequence[bytes | memoryview]) -> int:
        self._follow(self.writes)
        return super()._writev(parts)

    def _ioctl(self, number: int, argument: bytearray) -> int:
        self._follow(self.ioctls)
        if number == kernel.FUSE_DEV_IOC_BACKING_OPEN:
            backing_fd, flags, padding = struct.unpack("<iIQ", argument)
            assert (flags, padding) == (0, 0)
            self._last_backing += 1
            self.backing[self._last_backing] = backing_fd
            return self._last_backing
        assert number == kernel.FUSE_DEV_IOC_BACKING_CLOSE
        del self.backing[struct.unpack("<I", argument)[0]]
        return 0

    @staticmethod
    def _follow(script: list[int]) -> None:
        if script:
            raise failure(script.pop(0), "scripted")


class KernelEnd:
    """The kernel's side of such a device."""

    def __init__(self, end: socket.socket, device: ScriptedDevice) -> None:
        self.device = device
        self._end = end

    def heard(self) -> list[bytes]:
        """The messages since the last look."""
        messages = []
        while True:
            try:
                messages.append(self._end.recv(4096))
            except BlockingIOError:
                return messages

    def send(self, request: bytes) -> None:
        """A request."""
        self._end.send(request)


@contextmanager
def connected() -> Iterator[KernelEnd]:
    """A device, and the kernel at its other end."""
    end, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with end, device:
        end.setblocking(False)
        yield KernelEnd(end, ScriptedDevice(device.fileno()))
