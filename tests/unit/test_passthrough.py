"""The passthrough plane, with the device's ioctls replaced; and the choice of a plane."""

from __future__ import annotations

import errno

import pytest

from msharefs.abi import CreateMapping
from msharefs.core.region import Region
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.messages import ReadIn, WriteIn
from msharefs.fuse.planes.choice import choose_plane, without
from msharefs.fuse.planes.passthrough import PassthroughPlane
from msharefs.fuse.planes.plane import PlaneError, outliving_the_default
from tests.unit.support.devices import ScriptedDevice
from tests.unit.support.fakes import FakeMemory, FakeSegment
from tests.unit.support.worlds import ALICE, PAGE, make_world, refused

ALLOW_MMAP, PASSTHROUGH, RESEND = 0x10, 0x20, 0x80
EVERYTHING = ALLOW_MMAP | PASSTHROUGH | RESEND | 0x1000000


@pytest.fixture
def device() -> ScriptedDevice:
    """Instead of the kernel's."""
    return ScriptedDevice()


@pytest.fixture
def plane(device: ScriptedDevice) -> PassthroughPlane:
    """Under test."""
    return PassthroughPlane(device, "a test")


@pytest.fixture
def segment() -> FakeSegment:
    """A region's."""
    return FakeMemory(PAGE).create(7)


def offer(flags2: int = EVERYTHING) -> InitOffer:
    """Of a kernel with these capabilities."""
    return InitOffer(major=7, minor=45, flags=1 << 30 | 0x80000, flags2=flags2)


def test_a_segment_is_registered(
    plane: PassthroughPlane, device: ScriptedDevice, segment: FakeSegment
) -> None:
    """By its descriptor; the id is the region's until it is gone."""
    registration = plane.register(segment)
    assert device.backing == {registration: segment.fileno()}
    assert plane.open_flags(make_world().region()) == 0x81
    plane.unregister(registration)
    assert device.backing == {}


def test_an_id_of_an_earlier_process_is_valid(
    plane: PassthroughPlane, device: ScriptedDevice, segment: FakeSegment
) -> None:
    """It belongs to the connection: another server lets go of it at the end."""
    registration = plane.register(segment)
    PassthroughPlane(device, "a test").unregister(registration)
    assert device.backing == {}


def test_what_was_never_registered_is_not_let_go(
    plane: PassthroughPlane, device: ScriptedDevice
) -> None:
    """A region that nobody has opened since the mount was made."""
    device.ioctls = [errno.EIO]
    plane.unregister(0)
    assert device.ioctls == [errno.EIO]


def test_a_kernel_that_refuses_a_segment(
    plane: PassthroughPlane, device: ScriptedDevice, segment: FakeSegment
) -> None:
    """The creation of the region fails then."""
    device.ioctls = [errno.EPERM]
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EPERM):
        plane.register(segment)


def test_read_and_write_are_refused(plane: PassthroughPlane) -> None:
    """They alone come here; faults never do."""
    region = Region(7, 0o600, 0, 0, 0, ALICE)
    with refused(errno.EINVAL):
        plane.read(region, ReadIn(2, 0, PAGE, 0, 0, 0, 0), 7)
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
        ("direct", EVERYTHING, True, "direct", "asked for"),
        ("direct", 0, False, "direct", "asked for"),
        ("paged", 0, False, "paged", "asked for"),
        ("auto", EVERYTHING, False, "paged", "root"),
        ("auto", EVERYTHING & ~PASSTHROUGH, True, "paged", "6.9"),
        ("auto", EVERYTHING, False, "paged", "direct for regions that are claimed"),
        ("auto", 0, False, "paged", "root"),
    ],
)
def test_the_plane_that_serves(
    wanted: str, flags2: int, privileged: bool, name: str, why: str
) -> None:
    """The best that the kernel and the user allow, and why."""
    plane = choose_plane(
        wanted,
        offer(flags2),
        device=ScriptedDevice(),
        notify=ScriptedDevice().notify,
        privileged=privileged,
    )
    assert plane.name == name
    assert why in plane.why


@pytest.mark.parametrize(("flags2", "privileged"), [(EVERYTHING, False), (0, True), (0, False)])
def test_passthrough_that_cannot_be_had(flags2: int, privileged: bool) -> None:
    """data=passthrough says why not; it never becomes something else."""
    with pytest.raises(PlaneError, match=r"root|6\.9"):
        choose_plane(
            "passthrough",
            offer(flags2),
            device=ScriptedDevice(),
            notify=ScriptedDevice().notify,
            privileged=privileged,
        )


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


TIMEOUT = 1 << 10


@pytest.mark.parametrize(
    ("flags2", "default", "asked"),
    [(TIMEOUT, 20, 65535), (TIMEOUT, 0, 0), (0, 20, 0)],
    ids=["a default", "no default", "an older kernel"],
)
def test_a_default_request_timeout_is_outlived(flags2: int, default: int, asked: int) -> None:
    """With the longest there is, where the kernel can be told; else nothing is asked for."""
    plane = PassthroughPlane(ScriptedDevice(), "a test")
    before = plane.negotiate(offer(EVERYTHING | flags2))
    after = outliving_the_default(before, offer(EVERYTHING | flags2), default)
    assert after.request_timeout == asked
    assert bool(after.flags2 & TIMEOUT) == bool(asked)
    assert after.flags2 & ~TIMEOUT == before.flags2
