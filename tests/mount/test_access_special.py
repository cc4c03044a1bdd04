"""Attached memory as the kernel and other processes reach it: direct I/O, ptrace, pinning."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.raw import HUGE, PAGE, create_mapping, refused

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)

SIZE = 4 * HUGE


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A descriptor of a region with its first half mapped."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, 2 * HUGE)
        yield fd


def test_direct_io(place: Path, region: int, client: poke.Poke, tmp_path: Path) -> None:
    """M8: O_DIRECT out of a region into a file and back into another part of it."""
    address = client.attach(place, SIZE)
    client.fill(address, 16 * PAGE, 0x5A)
    flags = os.O_RDWR | os.O_CREAT | os.O_DIRECT
    fd = client.open(tmp_path / "file", flags)
    assert client.call("pwrite64", fd, address, 16 * PAGE, 0) == 16 * PAGE
    assert (tmp_path / "file").read_bytes() == b"\x5a" * 16 * PAGE
    assert client.call("pread64", fd, address + HUGE, 16 * PAGE, 0) == 16 * PAGE
    assert client.get(address + HUGE, 16 * PAGE) == b"\x5a" * 16 * PAGE


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def test_process_vm_readv(place: Path, region: int, client: poke.Poke) -> None:
    """M8: another process can read and write the attached memory of a client."""
    libc = ctypes.CDLL(None, use_errno=True)
    address = client.attach(place, SIZE)
    client.put(address + 100, b"across")
    buffer = ctypes.create_string_buffer(6)
    local = _Vector(ctypes.addressof(buffer), 6)
    remote = _Vector(address + 100, 6)
    arguments = (client.pid, ctypes.byref(local), 1, ctypes.byref(remote), 1, 0)
    assert libc.process_vm_readv(*arguments) == 6
    assert buffer.raw == b"across"
    buffer.raw = b"inward"
    assert libc.process_vm_writev(*arguments) == 6
    assert client.get(address + 100, 6) == b"inward"


def test_access_of_a_debugger(place: Path, region: int, client: poke.Poke) -> None:
    """M8: /proc/PID/mem, the way of ptrace, reads and writes it; a hole is EIO."""
    address = client.attach(place, SIZE)
    client.put(address, b"debug")
    with raw.opened(f"/proc/{client.pid}/mem") as fd:
        assert os.pread(fd, 5, address) == b"debug"
        assert os.pwrite(fd, b"fixed", address) == 5
        with refused(errno.EIO, errno.EFAULT):
            os.pread(fd, 5, address + 3 * HUGE)
    assert client.get(address, 5) == b"fixed"


def test_pinned_buffers(place: Path, region: int, client: poke.Poke, *, paged: bool) -> None:
    """M8, P5: io_uring can register (pin) attached memory; over a hole it is EFAULT.

    On the paged plane the kernel pins no page, because it has to write them back.
    """
    address = client.attach(place, SIZE)
    try:
        ring = client.call("io_uring_setup", 4, bytes(120))
    except OSError as error:
        if error.errno in {errno.ENOSYS, errno.EPERM}:
            pytest.skip(f"io_uring: {error.strerror}")
        raise
    register, unregister = 0, 1

    def vector(start: int) -> bytes:
        return start.to_bytes(8, "little") + HUGE.to_bytes(8, "little")

    if paged:
        with refused(errno.EFAULT):
            client.call("io_uring_register", ring, register, vector(address), 1)
        return
    assert client.call("io_uring_register", ring, register, vector(address), 1) == 0
    client.put(address, b"pinned")
    assert client.get(client.attach(place, SIZE), 6) == b"pinned"
    assert client.call("io_uring_register", ring, unregister, 0, 0) == 0
    with refused(errno.EFAULT):
        client.call("io_uring_register", ring, register, vector(address + 2 * HUGE), 1)
