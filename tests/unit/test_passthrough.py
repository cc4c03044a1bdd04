"""The passthrough plane, with the device's ioctls replaced; and the choice of a plane."""

from __future__ import annotations

import errno
import fcntl
import struct

import pytest

from msharefs.abi import CreateMapping
from msharefs.core.region import Region
from msharefs.fuse import kernel
from msharefs.fuse.messages import InitOffer, ReadIn, WriteIn
from msharefs.fuse.planes.choice import choose_plane, without
from msharefs.fuse.planes.passthrough import PassthroughPlane
from msharefs.fuse.planes.plane import PlaneError
from tests.unit.support.fakes import FakeMemory, FakeSegment, failure
from tests.unit.support.worlds import ALICE, PAGE, make_world, refused

DEVICE = 99
ALLOW_MMAP, PASSTHROUGH, RESEND = 0x10, 0x20, 0x80
EVERYTHING = ALLOW_MMAP | PASSTHROUGH | RESEND | 0x1000000


class Device:
    """Stands in for fcntl.ioctl: backing ids as the kernel gives them."""

    def __init__(self) -> None:
        self.backing: dict[int, int] = {}
        self.code = 0
        self._next = 0

    def ioctl(self, fd: int, command: int, argument: bytearray) -> int:
        """FUSE_DEV_IOC_BACKING_OPEN and _CLOSE."""
        assert fd == DEVICE
        if self.code:
            raise failure(self.code, "ioctl")
        if command == kernel.FUSE_DEV_IOC_BACKING_OPEN:
            backing_fd, flags, padding = struct.unpack("<iIQ", argument)
            assert (flags, padding) == (0, 0)
            self._next += 1
            self.backing[self._next] = backing_fd
            return self._next
        assert command == kernel.FUSE_DEV_IOC_BACKING_CLOSE
        del self.backing[struct.unpack("<I", argument)[0]]
        return 0


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """Instead of the kernel's."""
    device = Device()
    monkeypatch.setattr(fcntl, "ioctl", device.ioctl)
    return device


@pytest.fixture
def plane(device: Device) -> PassthroughPlane:
    """Under test."""
    return PassthroughPlane(DEVICE, "a test")


@pytest.fixture
def segment() -> FakeSegment:
    """A region's."""
    return FakeMemory(PAGE).create(7)


def offer(flags2: int = EVERYTHING) -> InitOffer:
    """Of a kernel with these capabilities."""
    return InitOffer(major=7, minor=45, flags=1 << 30 | 0x80000, flags2=flags2)


def test_a_segment_is_registered_once_for_life(
    plane: PassthroughPlane, device: Device, segment: FakeSegment
) -> None:
    """Its id is in every open, until the region is gone."""
    token = plane.attach(7, segment)
    assert device.backing == {token: segment.fd}
    assert [plane.open_flags(7) for _ in range(2)] == [(0x81, token)] * 2
    plane.detach(7)
    assert device.backing == {}
    plane.detach(7)


def test_an_id_of_an_earlier_process_is_valid(
    plane: PassthroughPlane, device: Device, segment: FakeSegment
) -> None:
    """It belongs to the connection: adopted, not registered anew, and let go of at the end."""
    token = plane.attach(7, segment)
    later = PassthroughPlane(DEVICE, "a test")
    later.adopt(7, token)
    assert later.open_flags(7) == (0x81, token)
    later.detach(7)
    assert device.backing == {}


def test_a_kernel_that_refuses_a_segment(
    plane: PassthroughPlane, device: Device, segment: FakeSegment
) -> None:
    """The creation of the region fails then."""
    device.code = errno.EPERM
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EPERM):
        plane.attach(7, segment)


@pytest.mark.parametrize("code", [errno.ENOTCONN, errno.EPERM, errno.ENOENT])
def test_an_id_that_is_gone_already(
    plane: PassthroughPlane, device: Device, segment: FakeSegment, code: int
) -> None:
    """With the connection, or by an earlier process that died before it said so."""
    plane.attach(7, segment)
    device.code = code
    plane.detach(7)


def test_read_and_write_are_refused(plane: PassthroughPlane) -> None:
    """They alone come here; faults never do."""
    region = Region(7, 0o600, 0, 0, 0, ALICE)
    with refused(errno.EINVAL):
        plane.read(region, ReadIn(2, 0, PAGE, 0, 0, 0, 0))
    with refused(errno.EINVAL):
        plane.write(region, WriteIn(2, 0, 4, 1, 0, 0, 0), memoryview(b"data"))


def test_what_is_negotiated(plane: PassthroughPlane) -> None:
    """What is needed and offered; one level of stacking, without which passthrough fails."""
    negotiation = plane.negotiate(offer())
    assert negotiation.flags2 == ALLOW_MMAP | PASSTHROUGH | RESEND
    assert (negotiation.flags, negotiation.stack_depth) == (0x80000, 1)
    assert plane.negotiate(offer(PASSTHROUGH)).flags2 == PASSTHROUGH


def test_no_change_leaves_stale_pages(plane: PassthroughPlane) -> None:
    """Processes have the segment's own pages, and punching takes them from all."""
    world = make_world()
    region = world.region()
    world.map(region, 0, PAGE)
    plan = world.plan(region, CreateMapping(0, PAGE))
    assert not plane.has_stale_pages(plan)
    with plane.changing(plan):
        plane.drop_stale_pages(plan)


# The choice


@pytest.mark.parametrize(
    ("wanted", "flags2", "privileged", "name", "why"),
    [
        ("auto", EVERYTHING, True, "passthrough", "works"),
        ("passthrough", EVERYTHING, True, "passthrough", "asked for"),
        ("paged", EVERYTHING, True, "paged", "asked for"),
        ("paged", 0, False, "paged", "asked for"),
        ("auto", EVERYTHING, False, "paged", "root"),
        ("auto", EVERYTHING & ~PASSTHROUGH, True, "paged", "6.9"),
        ("auto", 0, False, "paged", "root"),
    ],
)
def test_the_plane_that_serves(
    wanted: str, flags2: int, privileged: bool, name: str, why: str
) -> None:
    """The best that the kernel and the user allow, and why."""
    plane = choose_plane(wanted, offer(flags2), device=DEVICE, privileged=privileged)
    assert plane.name == name
    assert why in plane.why


@pytest.mark.parametrize(("flags2", "privileged"), [(EVERYTHING, False), (0, True), (0, False)])
def test_passthrough_that_cannot_be_had(flags2: int, privileged: bool) -> None:
    """data=passthrough says why not; it never becomes something else."""
    with pytest.raises(PlaneError, match=r"root|6\.9"):
        choose_plane("passthrough", offer(flags2), device=DEVICE, privileged=privileged)


@pytest.mark.parametrize(
    ("names", "left"),
    [
        ((), EVERYTHING),
        (("passthrough",), EVERYTHING & ~PASSTHROUGH),
        (("direct_io_mmap", "resend"), EVERYTHING & ~ALLOW_MMAP & ~RESEND),
    ],
)
def test_capabilities_that_are_done_without(names: tuple[str, ...], left: int) -> None:
    """As on a kernel that lacks them; the rest of the offer stays."""
    assert without(offer(), names) == offer(left)
