"""What core tells, told on: to the kernel, to the data plane, to the undertaker."""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from msharefs.core.layout import Mapping
from msharefs.core.region import Region
from msharefs.fuse.notifications import SLOW_TO_FREE, KernelNotices
from tests.unit.support.fakes import FakeMemory, FakeSegment, failure
from tests.unit.support.planes import FakePlane
from tests.unit.support.worlds import ALICE, PAGE


class Kernel:
    """The other end of what stands for /dev/fuse."""

    def __init__(self) -> None:
        self.end, self.device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.end.setblocking(False)

    def heard(self) -> list[bytes]:
        """The messages since the last look."""
        messages = []
        while True:
            try:
                messages.append(self.end.recv(4096))
            except BlockingIOError:
                return messages


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    """Listens."""
    kernel = Kernel()
    yield kernel
    kernel.end.close()
    kernel.device.close()


@pytest.fixture
def plane() -> FakePlane:
    """Records what is asked of it."""
    return FakePlane()


@pytest.fixture
def dying() -> list[Region]:
    """Regions that were left to the undertaker."""
    return []


@pytest.fixture
def notices(kernel: Kernel, plane: FakePlane, dying: list[Region]) -> KernelNotices:
    """Under test."""
    return KernelNotices(kernel.device.fileno(), plane, dying.append)


def notice(ino: int) -> bytes:
    """FUSE_NOTIFY_INVAL_INODE of attributes alone."""
    return struct.pack("<IiQQqq", 40, 2, 0, ino, -1, 0)


def failing_with(code: int) -> Callable[[int, bytes], int]:
    """Stands in for os.write."""

    def write(fd: int, data: bytes) -> int:
        raise failure(code, "write")

    return write


def a_region(mapped: int) -> tuple[Region, FakeSegment]:
    """With so many bytes in its layout, none of them in memory."""
    region = Region(7, 0o600, 0, 0, 0, ALICE)
    region.become_sized(1 << 40)
    if mapped:
        region.layout.insert(Mapping(0, mapped, 3, reserve=False))
    segment = FakeMemory(PAGE).create(7)
    region.segment = segment
    return region, segment


def test_the_kernel_is_told_of_attributes(notices: KernelNotices, kernel: Kernel) -> None:
    """In one message, of attributes alone."""
    notices.attributes_changed(7)
    assert kernel.heard() == [notice(7)]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.ENOTCONN])
def test_a_kernel_that_does_not_care(
    notices: KernelNotices,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has no such inode in its cache, or the mount is gone: nothing to say."""
    monkeypatch.setattr(os, "write", failing_with(code))
    notices.attributes_changed(7)
    assert caplog.records == []


def test_a_kernel_that_refuses_is_logged(
    notices: KernelNotices, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The request that caused it is answered all the same."""
    monkeypatch.setattr(os, "write", failing_with(errno.EINVAL))
    notices.attributes_changed(7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_kernel_is_asked_what_it_knows(
    notices: KernelNotices, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ENOENT to a notice means that it does not know the inode; that alone."""
    assert notices.is_known(7)
    assert kernel.heard() == [notice(7)]
    monkeypatch.setattr(os, "write", failing_with(errno.ENOENT))
    assert not notices.is_known(7)


def test_a_doubt_keeps_a_region(
    notices: KernelNotices, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """If the kernel cannot be asked the inode stays: somebody may have it mapped."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(os, "write", failing_with(errno.EIO))
    assert notices.is_known(7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_segments_go_to_the_plane(notices: KernelNotices, plane: FakePlane) -> None:
    """New ones to be registered, those of an earlier process with their token."""
    segment = FakeMemory(PAGE).create(7)
    assert notices.segment_made(7, segment) == 1007
    notices.segment_adopted(8, segment, 1008)
    assert plane.log == [("attach", 7), ("adopt", 8)]


@pytest.mark.parametrize("mapped", [0, PAGE, SLOW_TO_FREE - PAGE])
def test_a_small_region_dies_at_once(
    notices: KernelNotices, plane: FakePlane, dying: list[Region], mapped: int
) -> None:
    """The plane lets go of it first."""
    region, segment = a_region(mapped)
    assert notices.region_gone(region)
    assert (segment.destroyed, dying) == (True, [])
    assert plane.log == [("detach", 7)]


def test_a_large_region_is_left_to_the_undertaker(
    notices: KernelNotices, plane: FakePlane, dying: list[Region]
) -> None:
    """To free much memory would hold the loop up."""
    region, segment = a_region(SLOW_TO_FREE)
    assert not notices.region_gone(region)
    assert (segment.destroyed, dying) == (False, [region])
    assert plane.log == [("detach", 7)]


def test_a_region_that_was_never_open_has_nothing_to_free(
    notices: KernelNotices, plane: FakePlane
) -> None:
    """No segment, and the plane never heard of it."""
    region = Region(7, 0o600, 0, 0, 0, ALICE)
    assert notices.region_gone(region)
    assert plane.log == []
