"""core's port to the kernel: what is told, what is asked, and whose death is left to a worker."""

from __future__ import annotations

import errno
import logging
import struct
from collections.abc import Iterator

import pytest

from msharefs.core.ports import Segment
from msharefs.fuse.notifications import SLOW_TO_FREE, KernelPort
from tests.unit.support.devices import KernelEnd, connected
from tests.unit.support.fakes import FakeMemory, FakeSegment
from tests.unit.support.planes import FakePlane
from tests.unit.support.worlds import PAGE


@pytest.fixture
def kernel() -> Iterator[KernelEnd]:
    """Listens."""
    with connected() as end:
        yield end


@pytest.fixture
def plane() -> FakePlane:
    """Records what is asked of it."""
    return FakePlane()


@pytest.fixture
def reclaimable() -> list[tuple[int, Segment]]:
    """Segments that were left to the worker."""
    return []


@pytest.fixture
def owed() -> list[int]:
    """Regions that go when their files have been written."""
    return []


@pytest.fixture
def port(
    kernel: KernelEnd,
    plane: FakePlane,
    reclaimable: list[tuple[int, Segment]],
    owed: list[int],
) -> KernelPort:
    """Under test."""
    return KernelPort(kernel.device, plane, lambda *gone: reclaimable.append(gone), owed.append)


@pytest.fixture
def segment() -> FakeSegment:
    """Of region 7."""
    return FakeMemory(PAGE).create(7)


def notice(ino: int) -> bytes:
    """FUSE_NOTIFY_INVAL_INODE of attributes alone."""
    return struct.pack("<IiQQqq", 40, 2, 0, ino, -1, 0)


def test_the_kernel_is_told_of_attributes(port: KernelPort, kernel: KernelEnd) -> None:
    """In one message, of attributes alone."""
    port.attributes_changed(7)
    assert kernel.heard() == [notice(7)]


@pytest.mark.parametrize("code", [errno.ENOENT, errno.ENODEV, errno.ENOTCONN])
def test_a_kernel_that_does_not_care(
    port: KernelPort, kernel: KernelEnd, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It has no such inode in its cache, or the mount is gone: nothing to say."""
    kernel.device.writes = [code]
    port.attributes_changed(7)
    assert (caplog.records, kernel.device.writes) == ([], [])


def test_a_kernel_that_refuses_is_logged(
    port: KernelPort, kernel: KernelEnd, caplog: pytest.LogCaptureFixture
) -> None:
    """The request that caused it is answered all the same."""
    kernel.device.writes = [errno.EINVAL]
    port.attributes_changed(7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_the_kernel_is_asked_what_it_knows(port: KernelPort, kernel: KernelEnd) -> None:
    """ENOENT to a notification means that it does not know the inode; that alone."""
    assert port.is_known(7)
    assert kernel.heard() == [notice(7)]
    kernel.device.writes = [errno.ENOENT]
    assert not port.is_known(7)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENODEV, errno.ECONNABORTED, errno.ENOTCONN])
def test_a_doubt_keeps_a_region(
    port: KernelPort, kernel: KernelEnd, code: int, caplog: pytest.LogCaptureFixture
) -> None:
    """If the kernel cannot be asked the inode stays: somebody may have it mapped, and a
    connection that was aborted keeps its regions."""
    caplog.set_level(logging.WARNING)
    kernel.device.writes = [code]
    assert port.is_known(7)
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_segments_go_to_the_plane(port: KernelPort, plane: FakePlane, segment: FakeSegment) -> None:
    """To be registered."""
    assert port.register(segment) == 1007
    assert plane.log == [("register", 7)]


def test_a_region_that_owes_something(port: KernelPort, owed: list[int]) -> None:
    """Whoever writes files is told."""
    port.owes(7)
    assert owed == [7]


@pytest.mark.parametrize("mapped", [0, PAGE, SLOW_TO_FREE - PAGE])
def test_a_small_region_dies_at_once(
    port: KernelPort,
    plane: FakePlane,
    segment: FakeSegment,
    reclaimable: list[tuple[int, Segment]],
    mapped: int,
) -> None:
    """The plane lets go of it first."""
    assert port.region_gone(7, 1007, segment, mapped)
    assert (segment.destroyed, reclaimable) == (True, [])
    assert plane.log == [("unregister", 1007)]


def test_a_large_region_is_left_to_a_worker(
    port: KernelPort,
    plane: FakePlane,
    segment: FakeSegment,
    reclaimable: list[tuple[int, Segment]],
) -> None:
    """To free much memory would hold the loop up."""
    assert not port.region_gone(7, 1007, segment, SLOW_TO_FREE)
    assert (segment.destroyed, reclaimable) == (False, [(7, segment)])
    assert plane.log == [("unregister", 1007)]


def test_a_region_that_was_never_open_has_nothing_to_free(
    port: KernelPort, plane: FakePlane
) -> None:
    """No segment, and the plane never heard of it."""
    assert port.region_gone(7, 0, None, 0)
    assert plane.log == []
