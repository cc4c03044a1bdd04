"""The direct plane: which handles may be mapped, and what else is not as in the paged plane."""

from __future__ import annotations

import errno
import os

import pytest

from msharefs.abi import CreateMapping
from msharefs.core.region import Region
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.messages import ReadIn, WriteIn
from msharefs.fuse.planes.direct import DirectPlane
from tests.unit.support.devices import ScriptedDevice
from tests.unit.support.worlds import PAGE, World, make_world, refused

DIRECT_IO, KEEP_CACHE = 1, 2
WRITE_CACHE = 1
ALLOW_MMAP, RESEND = 0x10, 0x80
OFFER = InitOffer(major=7, minor=45, flags=1 << 30, flags2=ALLOW_MMAP | RESEND)


@pytest.fixture
def world() -> World:
    """A mount of 64 MiB."""
    return make_world()


@pytest.fixture
def region(world: World) -> Region:
    """With two pages that are mapped."""
    region = world.region()
    world.map(region, 0, 2 * PAGE)
    return region


@pytest.fixture
def plane() -> DirectPlane:
    """On a kernel that offers everything."""
    return DirectPlane(ScriptedDevice().notify, "a test", OFFER)


def test_the_kernel_asks_before_mmap(plane: DirectPlane) -> None:
    """With FUSE_DIRECT_IO_ALLOW_MMAP it would let every handle be mapped."""
    assert plane.negotiate(OFFER).flags2 == RESEND


def test_how_a_handle_is_opened(plane: DirectPlane, world: World, region: Region) -> None:
    """Without the pages of an earlier time; with those that the others have; not to be mapped."""
    attaching = world.manager.attaching
    assert plane.open_flags(region) == 0
    attaching.touch(region)
    assert plane.open_flags(region) == KEEP_CACHE
    world.manager.release(None, region.ino)
    world.manager.open(None, region.ino, os.O_RDWR)
    assert plane.open_flags(region) == 0
    attaching.attach(region.ino, os.O_RDWR)
    assert plane.open_flags(region) == DIRECT_IO


def test_a_page_fault_beside_clients(plane: DirectPlane, world: World, region: Region) -> None:
    """It is refused wherever it is, and what comes back of a page does not get to the memory."""
    wanted, back = ReadIn(2, 0, PAGE, 0, 0, 0, 0), WriteIn(2, 0, PAGE, WRITE_CACHE, 0, 0, 0)
    plane.write(region, back, memoryview(b"x" * PAGE))
    before = plane.read(region, wanted, 0)
    assert isinstance(before, memoryview)
    assert bytes(before) == b"x" * PAGE
    world.manager.attaching.attach(region.ino, os.O_RDWR)
    with refused(errno.EIO):
        plane.read(region, wanted, 0)
    plane.write(region, back, memoryview(b"y" * PAGE))
    view = memoryview(bytearray(PAGE))
    region.touchable(0, PAGE).read_into(view, 0)
    assert bytes(view) == b"x" * PAGE


def test_a_change_has_no_pages_to_drop(plane: DirectPlane, world: World, region: Region) -> None:
    """Of a direct region; so that it need not be made in a thread."""
    plan = world.plan(region, CreateMapping(0, PAGE))
    assert plane.has_stale_pages(plan)
    world.manager.mappings.perform(plan)
    world.manager.attaching.attach(region.ino, os.O_RDWR)
    assert not plane.has_stale_pages(world.plan(region, CreateMapping(0, PAGE)))
