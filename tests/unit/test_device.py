"""/dev/fuse: what its failures mean, and which of them mean nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest

from msharefs.fuse.device import ConnectionGone
from tests.unit.support.devices import KernelEnd, ScriptedDevice, connected

GONE = [errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN]


@pytest.fixture
def kernel() -> Iterator[KernelEnd]:
    """At the other end of the device."""
    with connected() as end:
        end.device.set_blocking(False)
        yield end


def test_a_request_is_read(kernel: KernelEnd) -> None:
    """Into the buffer; 0 when there is none, and the bytes behind it stay."""
    buffer = bytearray(b"........")
    assert kernel.device.read_into(buffer) == 0
    kernel.send(b"abc")
    assert kernel.device.read_into(buffer) == 3
    assert buffer == b"abc....."


def test_a_request_that_was_taken_back_is_not_there(kernel: KernelEnd) -> None:
    """ENOENT and EINTR: the next is read."""
    kernel.device.reads = [errno.ENOENT, errno.EINTR, errno.ENOENT]
    kernel.send(b"abc")
    assert kernel.device.read_into(bytearray(8)) == 3


@pytest.mark.parametrize("code", GONE)
def test_the_end_of_the_connection(kernel: KernelEnd, code: int) -> None:
    """By umount or by fusectl: reading says so, notifying says so, a reply is not awaited."""
    kernel.device.reads = [code]
    with pytest.raises(ConnectionGone):
        kernel.device.read_into(bytearray(8))
    kernel.device.writes = [code, code]
    with pytest.raises(ConnectionGone):
        kernel.device.notify(b"news")
    kernel.device.reply(b"answer")
    assert kernel.heard() == []


def test_a_reply_that_nobody_awaits(kernel: KernelEnd) -> None:
    """The caller was killed."""
    kernel.device.writes = [errno.ENOENT]
    kernel.device.reply(b"late")
    kernel.device.reply(b"head", b"payload")
    assert kernel.heard() == [b"headpayload"]


def test_a_notification_of_an_unknown_inode(kernel: KernelEnd) -> None:
    """ENOENT: the kernel does not have it."""
    assert kernel.device.notify(b"news")
    kernel.device.writes = [errno.ENOENT]
    assert not kernel.device.notify(b"news")
    assert kernel.heard() == [b"news"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EPERM, errno.EBADF])
def test_any_other_failure_is_not_hidden(kernel: KernelEnd, code: int) -> None:
    """Of whichever call."""
    device = kernel.device
    device.reads, device.writes, device.ioctls = [code], [code, code], [code]
    for call in (
        lambda: device.read_into(bytearray(8)),
        lambda: device.reply(b"answer"),
        lambda: device.notify(b"news"),
        lambda: device.register_backing(5),
    ):
        with pytest.raises(OSError, check=lambda error: error.errno == code):
            call()


@pytest.mark.parametrize("code", [*GONE, errno.EPERM, errno.ENOENT])
def test_a_backing_id_that_is_gone_already(code: int) -> None:
    """With the connection, or by an earlier process that died before it said so."""
    device = ScriptedDevice()
    backing_id = device.register_backing(5)
    device.ioctls = [code]
    device.drop_backing(backing_id)
    assert device.backing == {backing_id: 5}
    device.ioctls = [errno.EINVAL]
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
        device.drop_backing(backing_id)
    device.drop_backing(backing_id)
    assert device.backing == {}
