"""`data=auto` without passthrough: as the paged plane for everybody, but for regions that somebody has
claimed. By system calls, by the library and by the C header.

That all else is as in the paged plane is for the suite that an ordinary user runs on such mounts.
"""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from msharefs import MshareError, Region
from msharefs.shared_memory import SharedMemory
from tests.helpers import direct, raw
from tests.helpers.mount import Mount
from tests.helpers.poke import Poke
from tests.helpers.users import ChildKilledError, in_child
from tests.helpers.waiting import eventually
from tests.survival import gap

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=auto,x-msharefs.without=passthrough"
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


def touched(window: mmap.mmap) -> int:
    """A byte, in a child that may die of it without a report of its own."""
    faulthandler.disable()
    return window[0]


def attached(path: Path, data: bytes) -> bool:
    """Store at the start, as a process does that has the region by itself; whether it is the memory."""
    with Region.open(path) as region, region.attach() as window:
        window.buf[: len(data)] = data
        return window.direct


def test_what_serves(mounted: Mount) -> None:
    """The status and the log say so."""
    plane = mounted.status()["data_plane"]
    assert plane["name"] == "paged"
    assert plane["why"].endswith("; direct for regions that are claimed")
    assert plane["why"] in mounted.log()


def test_who_claims_nothing_is_not_in_anybodys_way(region: int, place: Path) -> None:
    """D11: Every client maps the file, and all of them see the same, whoever comes first."""
    with raw.refused(errno.EBUSY):
        direct.ask(region)
    with Region.open(place) as opened, opened.attach() as window, raw.opened(place) as fd:
        assert not window.direct
        window.buf[0] = 7
        with mmap.mmap(fd, HALF) as plain:
            assert plain[0] == 7
            plain[1] = 8
            assert window.buf[1] == 8
        with raw.refused(errno.EINVAL):
            os.pread(fd, 1, 0)


def test_all_have_what_one_has_claimed(region: int, place: Path, mounted: Mount) -> None:
    """D11: By the library and by hand, without a page fault that asks the daemon."""
    faults = mounted.requests("READ")
    with direct.claimed(region, UNIT) as window, raw.opened(place) as other:
        assert in_child(partial(attached, place, b"hello"))
        assert window[:5] == b"hello"
        with direct.attached(other, UNIT) as second:
            assert second[:5] == b"hello"
        assert raw.layout(place)["way"] == "direct"
    assert mounted.requests("READ") == faults


@pytest.mark.user_only("root's mount gives readers of a claimed region nothing")
def test_a_reader_of_a_claimed_region(region: int, place: Path) -> None:
    """D11: The memory, for reading."""
    with direct.claimed(region, UNIT) as window, Region.open(place, writable=False) as reader:
        window[:5] = b"hello"
        with reader.attach() as other:
            assert (other.direct, other.readonly) == (True, True)
            assert bytes(other.buf[:5]) == b"hello"


@pytest.mark.root_only("an ordinary user's mount gives readers a claimed region")
def test_a_reader_that_can_have_nothing(region: int, place: Path) -> None:
    """D11: ENODEV, and not a window whose touch is SIGBUS."""
    with direct.claimed(region, UNIT), Region.open(place, writable=False) as reader:
        with pytest.raises(MshareError) as told:
            reader.attach()
        assert told.value.errno == errno.ENODEV


def test_the_file_of_a_claimed_region(region: int, place: Path, mounted: Mount) -> None:
    """D11: SIGBUS at the first touch, with a line in the log; read(2) is EINVAL as everywhere."""
    mounted.expect_log(REFUSED)
    with direct.claimed(region, UNIT) as window, raw.opened(place) as fd:
        window[0] = 7
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            with mmap.mmap(fd, UNIT, flags) as plain:
                with pytest.raises(ChildKilledError, match="SIGBUS"):
                    in_child(partial(touched, plain))
        with raw.refused(errno.EINVAL):
            os.pread(fd, 1, 0)
        assert window[0] == 7


@pytest.mark.root_only("an ordinary user may lock little memory")
def test_who_populates_the_file_of_a_claimed_region(
    region: int, place: Path, mounted: Mount, client: Poke
) -> None:
    """P6: Such a call ends. The zeros that it gets for a moment never come to the memory, whatever it
    writes there."""
    mounted.expect_log(REFUSED)
    with direct.claimed(region, UNIT) as window:
        window[:HALF] = b"x" * HALF
        client.call("mlockall", 2)
        address = client.mmap(client.open(place), UNIT)
        eventually(lambda: client.probe(address, UNIT) == "0" * (UNIT // PAGE))
        assert window[:HALF] == b"x" * HALF


def test_who_may_claim(region: int, place: Path) -> None:
    """D11: Who has it open for reading and writing, and nobody else has it open."""
    for flags in (os.O_RDONLY, os.O_WRONLY):
        with raw.opened(place, flags) as fd, raw.refused(errno.EACCES):
            direct.ask(fd, direct.CLAIM)
    with raw.opened(place), raw.refused(errno.EBUSY):
        direct.ask(region, direct.CLAIM)
    told = eventually(lambda: alone(region), what="the others are still there")
    assert told is not None
    with raw.opened(place), raw.refused(errno.EBUSY):
        direct.redeem(told)
    raw.create_mapping(region, HALF, PAGE, flags=raw.ANONYMOUS | NORESERVE)
    with raw.refused(errno.EBUSY):
        direct.ask(region, direct.CLAIM)
    with raw.region(place.with_name("unsized")) as fd, raw.refused(errno.EINVAL):
        direct.ask(fd, direct.CLAIM)


def alone(fd: int) -> direct.Told | None:
    """A token for a claim, as soon as the mount knows that everybody else has closed the region."""
    with suppress(OSError):
        return direct.ask(fd, direct.CLAIM)
    return None


def test_a_region_that_is_mapped_cannot_be_claimed(region: int) -> None:
    """D11: Not from the first touch on."""
    with mmap.mmap(region, UNIT) as plain:
        plain[0] = 7
        with raw.refused(errno.EBUSY):
            direct.ask(region, direct.CLAIM)
        assert plain[0] == 7


def test_a_claim_ends_with_the_last_handle(place: Path) -> None:
    """D11: Then it is a file again, with what was stored; and the other way round, again and again."""
    with raw.opened(place, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, UNIT)
        raw.create_mapping(fd, 0, HALF)
    for turn in range(3):
        eventually(lambda: raw.layout(place)["open_handles"] == 0, what="it is open")
        with raw.opened(place) as fd, mmap.mmap(fd, HALF) as plain:
            assert (plain[0], plain[PAGE]) == (2 * turn, turn)
            plain[0] += 1
        eventually(lambda: raw.layout(place)["open_handles"] == 0, what="it is open")
        with raw.opened(place) as fd, direct.claimed(fd, HALF) as window:
            assert (window[0], window[PAGE]) == (2 * turn + 1, turn)
            window[0] += 1
            window[PAGE] += 1
    place.unlink()


def test_a_claim_outlives_the_server(region: int, place: Path, mounted: Mount) -> None:
    """D9: The next one gives the memory and answers no page fault."""
    mounted.expect_log(f"{gap.DEATHS}|{REFUSED}")
    with direct.claimed(region, UNIT) as window, raw.opened(place) as fd:
        os.kill(mounted.server_pid, signal.SIGKILL)
        assert in_child(partial(attached, place, b"hello"))
        assert window[:5] == b"hello"
        with mmap.mmap(fd, UNIT) as plain, pytest.raises(ChildKilledError, match="SIGBUS"):
            in_child(partial(touched, plain))


def test_huge_pages(place: Path) -> None:
    """What is claimed is collapsed, and nothing else: its huge pages would be nobody's."""
    with raw.region(place, UNIT) as fd, raw.region(place.with_name("plain"), UNIT) as other:
        for start in (0, HALF):
            raw.create_mapping(fd, start, HALF)
            raw.create_mapping(other, start, HALF)
        with direct.claimed(fd, UNIT):
            eventually(lambda: raw.collapsed(fd) == UNIT, timeout=40, what="small pages")
        assert raw.collapsed(other) == 0


# The library


def test_the_library_claims(place: Path, mounted: Mount) -> None:
    """Before it attaches: then it and all others that attach have the memory."""
    with Region.create(place, UNIT, map=True) as region:
        assert region.claim()
        with region.attach() as window:
            assert window.direct
            assert in_child(partial(attached, place, b"hello"))
            assert bytes(window.buf[:5]) == b"hello"
            assert region.claim()
    place.unlink()
    mounted.wait_until_empty()


def test_a_claim_that_comes_too_late(place: Path) -> None:
    """It says so, and all goes on as it was."""
    with Region.create(place, UNIT, map=True) as region, region.attach() as window:
        window.buf[0] = 7
        assert not region.claim()
        assert window.buf[0] == 7
        with Region.open(place, writable=False) as reader:
            assert not reader.claim()
    place.unlink()


def test_shared_memory_stays_a_file(mounted: Mount) -> None:
    """Whoever made a block, any program may map it."""
    with SharedMemory(create=True, size=UNIT, directory=mounted.path) as block:
        block.buf[0] = 7
        with raw.opened(mounted.path / block.name) as fd, mmap.mmap(fd, HALF) as plain:
            assert plain[0] == 7
        block.unlink()
