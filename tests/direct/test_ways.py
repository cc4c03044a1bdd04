"""No region has two kinds of contents: whoever comes first, by system calls alone.

What clients do here is the protocol of docs/design/direct.md by hand; the library is tested in
test_library.py.
"""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.helpers import direct, raw
from tests.helpers.mount import Mount
from tests.helpers.users import ChildKilledError, in_child
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct"
PAGE = mmap.PAGESIZE
UNIT = 2 << 20
HALF = UNIT // 2
NORESERVE = 0x4000
REFUSED = "is attached directly: a process that has mapped its file"


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A region of 2 MiB at `place`, its first half mapped, open for reading and writing."""
    with raw.region(place, UNIT) as fd:
        raw.create_mapping(fd, 0, HALF)
        yield fd


def touch(window: mmap.mmap, offset: int = 0) -> int:
    """A byte, in a child that may die of it without a report of its own."""
    faulthandler.disable()
    return window[offset]


def test_what_serves(mounted: Mount) -> None:
    """The status and the log say so."""
    assert mounted.status()["data_plane"] == {"name": "direct", "why": "asked for"}
    assert "data plane direct: asked for" in mounted.log()


def test_direct_clients_share_the_memory(region: int, place: Path) -> None:
    """D1: Each with a handle of its own, at the same offsets."""
    with (
        raw.opened(place) as other,
        direct.attached(region, UNIT) as one,
        direct.attached(other, UNIT) as two,
    ):
        one[PAGE : PAGE + 5] = b"hello"
        assert two[PAGE : PAGE + 5] == b"hello"


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDONLY])
def test_a_direct_region_is_not_mapped_plainly(
    region: int, place: Path, mounted: Mount, flags: int
) -> None:
    """D3: ENODEV, for who opens it from now on. A private mapping, which the kernel gives, is SIGBUS."""
    mounted.expect_log(REFUSED)
    with direct.attached(region, UNIT), raw.opened(place, flags) as fd:
        with raw.refused(errno.ENODEV):
            mmap.mmap(fd, PAGE, prot=mmap.PROT_READ)
        with mmap.mmap(fd, PAGE, mmap.MAP_PRIVATE, mmap.PROT_READ) as private:
            with pytest.raises(ChildKilledError, match="SIGBUS"):
                in_child(partial(touch, private))


def test_an_earlier_handle_gets_sigbus(region: int, place: Path, mounted: Mount) -> None:
    """A process that had the file open and mapped, and had touched nothing of it: FUSE cannot take
    the leave back that it gave with the open. A line in the log says so, one for any number."""
    mounted.expect_log(REFUSED)
    with raw.opened(place) as fd, mmap.mmap(fd, UNIT) as early, direct.attached(region, UNIT):
        before = mounted.log().count(REFUSED)
        for _ in range(3):
            with pytest.raises(ChildKilledError, match="SIGBUS"):
                in_child(partial(touch, early))
        assert mounted.log().count(REFUSED) == before + 1


def test_a_plain_region_is_not_given(region: int, place: Path) -> None:
    """D2: EBUSY from the first touch on, also for a token of before, and whatever handle asks."""
    early = direct.ask(region)
    with mmap.mmap(region, UNIT) as plain, raw.opened(place, os.O_RDONLY) as other:
        assert plain[0] == 0
        for fd in (region, other):
            with raw.refused(errno.EBUSY):
                direct.ask(fd)
        with raw.refused(errno.EBUSY):
            direct.redeem(early)
    with raw.refused(errno.EBUSY):
        direct.ask(region)


def test_the_ways_follow_one_another(place: Path) -> None:
    """Plain, direct, plain, and so on, each from the last close on: what is there is what the one before
    has left, and not what the kernel had in its cache at an earlier time."""
    with raw.opened(place, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, UNIT)
        raw.create_mapping(fd, 0, HALF)
    for turn in range(3):
        closed_by_all(place)
        with raw.opened(place) as fd, mmap.mmap(fd, HALF) as plain:
            assert (plain[0], plain[PAGE]) == (2 * turn, turn)
            plain[0] += 1
        closed_by_all(place)
        with raw.opened(place) as fd, direct.attached(fd, HALF) as window:
            assert (window[0], window[PAGE]) == (2 * turn + 1, turn)
            window[0] += 1
            window[PAGE] += 1
    place.unlink()


def closed_by_all(place: Path) -> None:
    """The mount has heard of the last close; looked at through a name, without a handle."""
    eventually(lambda: raw.layout(place)["open_handles"] == 0, what="it is open")


def test_the_last_mapping_counts(region: int, place: Path) -> None:
    """A descriptor that is closed is no end where the file is still mapped."""
    with raw.opened(place) as fd:
        plain = mmap.mmap(fd, HALF)
    plain[0] = 1
    with raw.refused(errno.EBUSY):
        direct.ask(region)
    plain.close()


def test_memory_that_comes_by_faults_is_not_given(region: int) -> None:
    """D4: MAP_NORESERVE: EBUSY. In a region that is direct the same is reserved."""
    raw.create_mapping(region, HALF, PAGE, flags=raw.ANONYMOUS | NORESERVE)
    with raw.refused(errno.EBUSY):
        direct.ask(region)
    raw.unmap(region, HALF, PAGE)
    with direct.attached(region, UNIT) as window:
        raw.create_mapping(region, HALF, PAGE, flags=raw.ANONYMOUS | NORESERVE)
        assert raw.layout(region)["reserved"] == HALF + PAGE
        window[HALF] = 1


def test_changes_reach_direct_clients(region: int) -> None:
    """D8: What is mapped is zeros and there at once, what is unmapped is gone for all at once, and its memory
    is free."""
    with direct.attached(region, UNIT) as one, direct.attached(region, UNIT) as two:
        one[0] = two[HALF - 1] = 7
        raw.unmap(region, 0, HALF)
        assert raw.layout(region)["reserved"] == os.fstat(region).st_blocks == 0
        raw.create_mapping(region, 0, UNIT)
        assert one[0] == two[HALF - 1] == 0
        one[UNIT - 1] = 3
        raw.create_mapping(region, UNIT - PAGE, PAGE)
        assert two[UNIT - 1] == 0


@pytest.mark.root_only("the memory of an ordinary user's mount has no limit of its own")
def test_a_touch_of_a_hole_finds_no_memory(region: int) -> None:
    """D7: Root's mount has a limit of its own, which is what is mapped."""
    with direct.attached(region, UNIT) as window:
        with pytest.raises(ChildKilledError, match="SIGBUS"):
            in_child(partial(touch, window, HALF))


@pytest.mark.user_only("a touch finds no memory on root's mount")
def test_a_touch_of_a_hole_is_swept(region: int, mounted: Mount) -> None:
    """D7: A client that has no fence gets zeros there; the memory is taken back in a while, and what
    is mapped stays."""
    with direct.attached(region, UNIT) as window:
        window[0] = 1
        for offset in range(HALF, UNIT, PAGE):
            window[offset] = 1
        eventually(lambda: window[HALF] == 0, timeout=20, what="it is not swept")
        assert window[0] == 1
    assert mounted.status()["arena"]["used"] == HALF


def test_an_unlinked_region(region: int, place: Path, mounted: Mount) -> None:
    """Whoever has it open may attach it still; with the last handle it is gone, whoever has it mapped."""
    with raw.opened(place) as other:
        os.unlink(place)
        with direct.attached(other, UNIT) as window:
            window[0] = 1
            with direct.attached(region, UNIT) as second:
                assert second[0] == 1


def test_read_and_write(region: int, place: Path) -> None:
    """D10: read(2) gives what is mapped, and makes the region plain; of one that is direct it is EINVAL.
    write(2) always is."""
    with direct.attached(region, UNIT) as window, raw.opened(place) as other:
        window[0] = 7
        for attempt in (lambda: os.pread(other, 1, 0), lambda: os.pwrite(other, b"x", 0)):
            with raw.refused(errno.EINVAL):
                attempt()
    with raw.region(place.with_name("plain"), UNIT, mapped=True) as fd:
        with raw.refused(errno.EINVAL):
            os.pwrite(fd, b"x", 0)
        assert raw.layout(fd).get("way") is None
        assert os.pread(fd, 2, 0) == b"\0\0"
        assert raw.layout(fd)["way"] == "plain"
    assert raw.layout(region)["way"] == "direct"
