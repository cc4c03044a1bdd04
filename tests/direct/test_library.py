"""The library on a mount of the direct plane: it has the memory itself, and gives it back.

That everything else is as on other planes is for the library's own tests (tests/mount), which run on such
mounts, too.
"""

from __future__ import annotations

import errno
import faulthandler
import gc
import mmap
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import msharefs
from msharefs import Attachment, Region
from msharefs.shared_memory import SharedMemory
from tests.helpers import raw
from tests.helpers.descriptors import open_descriptors
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import PRIVILEGED, Mount
from tests.helpers.users import ChildKilledError, in_child
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct"
PAGE = mmap.PAGESIZE
MIB = 1 << 20
UNIT = 2 * MIB
HALF = UNIT // 2


@pytest.fixture
def region(place: Path) -> Iterator[Region]:
    """A region of 2 MiB, its first half mapped."""
    with Region.create(place, UNIT) as region:
        region.map(0, HALF)
        yield region
    place.unlink(missing_ok=True)


def touched(window: Attachment, offset: int) -> int:
    """A byte, in a child that may die of it without a report of its own."""
    faulthandler.disable()
    return window.buf[offset]


def fate(look: Callable[[], object]) -> str:
    """ "lives", or the signal that ends who looks, in a child."""
    try:
        in_child(look)
    except ChildKilledError as killed:
        return killed.signal.name
    return "lives"


def touch_anew(path: Path, offset: int) -> int:
    """A byte, as a process sees it that has attached the region by itself."""
    faulthandler.disable()
    with Region.open(path) as region, region.attach() as window:
        return window.buf[offset]


def given_nothing(fd: int) -> None:
    """The mount's answer to a process that cannot have the memory."""


def way(path: Path) -> str | None:
    """How a region is reached, as its layout says."""
    found: str | None = raw.layout(path).get("way")
    return found


def used(mounted: Mount) -> int:
    """Bytes of all regions that have memory."""
    return int(mounted.status()["arena"]["used"])


def test_an_attachment_is_the_memory(region: Region, place: Path, mounted: Mount) -> None:
    """Readers' and writers', in this process and in others; and no page fault asks the daemon."""
    faults = mounted.requests("READ")
    with region.attach() as window, Region.open(place, writable=False) as other:
        assert (window.direct, window.readonly) == (True, False)
        window.buf[:5] = b"hello"
        assert in_child(partial(touch_anew, place, 1)) == ord("e")
        with other.attach() as second:
            assert (second.direct, second.readonly) == (True, True)
            assert bytes(second.buf[:5]) == b"hello"
    assert mounted.requests("READ") == faults


@pytest.mark.parametrize("offset", [0, PAGE, UNIT, UNIT + 5 * PAGE])
@pytest.mark.parametrize("size", [PAGE, UNIT, 4 * MIB - PAGE, 3 * UNIT])
def test_where_it_lies(place: Path, offset: int, size: int) -> None:
    """What is a huge page of the region can be one of the process: from 2 MiB on an attachment that
    begins at one lies at a multiple of 2 MiB. All of them have the bytes of their place."""
    with Region.create(place, 8 * UNIT, map=True) as region, region.attach() as whole:
        with region.attach(offset, size) as part:
            whole.buf[offset : offset + size] = os.urandom(size)
            assert part.buf == whole.buf[offset : offset + size]
            if size >= UNIT and offset % UNIT == 0:
                assert part.address % UNIT == 0
    place.unlink()


def test_holes_are_holes_at_once(region: Region, place: Path) -> None:
    """D7: SIGBUS, until another process maps something there, and from its UNMAP on. No one has to
    look at the layout for that; a system call is told EFAULT."""
    look = partial(touch_anew, place, HALF)
    assert fate(look) == "SIGBUS"
    with region.attach() as window, Region.open(place) as other:
        reader, writer = os.pipe()
        with pytest.raises(OSError, match="Bad address"):
            os.write(writer, window.buf[HALF:])
        in_child(partial(other.map, HALF, PAGE))
        window.buf[HALF] = 7
        assert in_child(look) == 7
        in_child(partial(other.unmap, HALF, PAGE))
        assert fate(look) == "SIGBUS"
        with pytest.raises(OSError, match="Bad address"):
            os.write(writer, window.buf[HALF:])
        os.close(reader)
        os.close(writer)
        assert raw.layout(place)["reserved"] == HALF


def test_enforce_is_the_same_as_elsewhere(region: Region, place: Path) -> None:
    """SIGSEGV, and refresh() follows the layout."""
    with region.attach(enforce=True) as window:
        assert window.direct
        assert fate(partial(touched, window, HALF)) == "SIGSEGV"
        region.map(HALF, PAGE, prot="r")
        assert window.refresh()
        assert touched(window, HALF) == 0


@pytest.mark.root_only("on a user's mount these holes read as zeros")
def test_no_hole_has_memory_on_roots_mount(region: Region, place: Path) -> None:
    """Its limit is what is mapped, so that readers and forked children meet SIGBUS as well."""
    with region.attach() as window, Region.open(place, writable=False) as other:
        assert fate(partial(touched, window, HALF)) == "SIGBUS"
        with other.attach() as second:
            assert fate(partial(touched, second, HALF)) == "SIGBUS"


@pytest.mark.user_only("a touch finds no memory on root's mount")
def test_holes_without_a_fence(region: Region, place: Path, mounted: Mount) -> None:
    """D7: A reader and a forked child see zeros, and the memory that this took goes."""
    with region.attach() as window, Region.open(place, writable=False) as other:
        assert in_child(partial(touched, window, HALF)) == 0
        with other.attach() as second:
            assert second.buf[HALF + PAGE] == 0
            eventually(lambda: used(mounted) == HALF, timeout=20, what="it is not swept")


def test_the_way_lasts_as_long_as_the_memory(region: Region, place: Path) -> None:
    """Not as long as the Region, nor as the Attachment: a view of it is enough."""
    window = region.attach()
    region.close()
    view = window.buf[:PAGE]
    del window
    gc.collect()
    view[0] = 7
    assert way(place) == "direct"
    with raw.opened(place) as fd, raw.refused(errno.ENODEV):
        mmap.mmap(fd, PAGE)
    view.release()
    gc.collect()
    eventually(lambda: way(place) is None, what="it is still in use")
    with raw.opened(place) as fd, mmap.mmap(fd, PAGE) as plain:
        assert plain[0] == 7


def test_a_region_that_others_have_mapped(region: Region, place: Path) -> None:
    """It is attached plainly, and both see the same."""
    with raw.opened(place) as fd, mmap.mmap(fd, UNIT) as plain:
        plain[0] = 7
        with region.attach() as window:
            assert not window.direct
            assert window.buf[0] == 7
            window.buf[1] = 8
            assert plain[1] == 8


def test_memory_that_comes_by_faults(region: Region, place: Path, mounted: Mount) -> None:
    """MAP_NORESERVE: attached plainly, so that it does come, and within size=."""
    region.map(HALF, HALF, reserve=False)
    with region.attach() as window:
        assert not window.direct
        window.buf[HALF] = 7
    assert raw.layout(place)["reserved"] == HALF


def test_why_it_cannot_be_attached(
    region: Region, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that the mount gives no memory to, in a region that others have attached directly."""
    with region.attach(), Region.open(place) as other:
        monkeypatch.setattr("msharefs.client.attachment.segment_of", given_nothing)
        with pytest.raises(msharefs.MshareError, match="attached the memory of the region") as told:
            other.attach()
        assert told.value.errno == errno.ENODEV


def test_on_other_planes_nothing_is_direct(make_mount: MakeMount) -> None:
    """And the attribute says so."""
    if PRIVILEGED:
        path = make_mount("size=16M,data=paged").path / "region"
        with Region.create(path, UNIT, map=True) as region, region.attach() as window:
            assert not window.direct
        path.unlink()


def test_it_leaves_no_descriptor(region: Region, place: Path) -> None:
    """Neither where it succeeds, nor where there is no room for the memory."""
    before = open_descriptors()
    for _ in range(3):
        with region.attach() as window, Region.open(place, writable=False) as other:
            other.attach(0, PAGE).close()
            assert len(open_descriptors()) == len(before) + 3
            window.buf[0] = 1
    assert open_descriptors() == before

    def without_room() -> bool:
        had = open_descriptors()
        resource.setrlimit(resource.RLIMIT_AS, (1 << 20, resource.RLIM_INFINITY))
        with suppress(msharefs.OutOfMemory):
            region.attach()
            return False
        return open_descriptors() == had

    region.attach(0, PAGE).close()
    assert in_child(without_room)


def test_without_a_descriptor_left(region: Region, place: Path) -> None:
    """The process may open no more: an error of its own, and the region is as it was."""

    def attempt() -> int | None:
        region.attach(0, PAGE).close()
        os.close(lowest := os.dup(0))
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
        try:
            region.attach()
        except OSError as error:
            return error.errno
        return None

    assert in_child(attempt) == errno.EMFILE
    with region.attach() as window:
        assert window.direct


# SharedMemory and NumPy


def test_shared_memory(mounted: Mount) -> None:
    """Made, attached and read without a page fault that asks the daemon, and nothing is left."""
    mounted.wait_until_empty()
    faults = mounted.requests("READ")
    with SharedMemory(create=True, size=3 * UNIT + 5, directory=mounted.path) as block:
        block.buf[-1:] = b"x"
        with SharedMemory(block.name, directory=mounted.path) as other:
            assert other.size == 3 * UNIT + 5
            assert other.buf[3 * UNIT + 4] == ord("x")
        with SharedMemory(block.name, directory=mounted.path, readonly=True) as reader:
            assert bytes(reader.buf[-2:]) == b"\0x"
        block.unlink()
    assert mounted.requests("READ") == faults
    mounted.wait_until_empty()


def test_small_shared_memory_asks_for_no_memory(mounted: Mount) -> None:
    """Its file is mapped, which costs no more than the file's own requests, and shares all the same."""
    mounted.wait_until_empty()
    asked = mounted.requests("IOCTL")
    with SharedMemory(create=True, size=100, directory=mounted.path) as block:
        block.buf[99] = 7
        with SharedMemory(block.name, directory=mounted.path) as other:
            assert bytes(other.buf[98:]) == b"\0\7"
            other.buf[0] = 8
        assert block.buf[0] == 8
        assert way(Path(block.directory) / block.name) == "plain"
        block.unlink()
    # The one that gave it its memory.
    assert mounted.requests("IOCTL") == asked + 1
    mounted.wait_until_empty()


def test_small_shared_memory_whose_memory_is_given_already(mounted: Mount) -> None:
    """Whoever had the region's memory before, by the library or another client: so has this one."""
    with SharedMemory(create=True, size=100, directory=mounted.path) as block:
        block.buf[99] = 7
        name = block.name
    path = mounted.path / name
    eventually(lambda: way(path) is None, what="the block is still somebody's")
    with Region.open(path) as region, region.attach(0, PAGE) as window:
        assert window.direct
        with SharedMemory(name, directory=mounted.path) as other:
            assert other.buf[99] == 7
            other.buf[0] = 8
        assert window.buf[0] == 8
    path.unlink()


def fill(window: Attachment, part: int) -> None:
    """Each fourth number of an array."""
    window.as_array(np.int64, HALF // 8)[part::4] = part


def test_an_array_in_forked_children(region: Region) -> None:
    """They have the parent's attachment, on the same memory."""
    with region.attach(0, HALF) as window:
        for part in range(4):
            in_child(partial(fill, window, part))
        assert window.as_array(np.int64, HALF // 8).sum() == (0 + 1 + 2 + 3) * (HALF // 8 // 4)


def test_a_server_that_dies_meanwhile(region: Region, place: Path, mounted: Mount) -> None:
    """The library begins again by itself; what is attached stays."""
    mounted.expect_log(r"the server ended with -9; starting a new one")
    with region.attach() as window:
        for turn in range(5):
            os.kill(mounted.server_pid, signal.SIGKILL)
            with Region.open(place) as other, other.attach() as second:
                assert second.direct
                window.buf[turn] = turn
                assert second.buf[turn] == turn
