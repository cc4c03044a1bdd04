"""The server, the supervisor and clients die before, while and after a segment is given. Which way a
region is reached outlives them, and so does the memory."""

from __future__ import annotations

import errno
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs import Region
from tests.helpers import direct, mount, raw
from tests.helpers.background import Background
from tests.helpers.mount import Mount
from tests.helpers.waiting import eventually
from tests.survival import gap

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = f"size=256M,data=direct,{gap.CRASH_OPTION}"
PAGE = mmap.PAGESIZE
UNIT = 2 << 20


@pytest.fixture
def region(place: Path, mounted: Mount) -> Iterator[int]:
    """A region of 2 MiB at `place`, mapped, open for reading and writing."""
    mounted.expect_log(gap.DEATHS)
    with raw.region(place, UNIT, mapped=True) as fd:
        yield fd


def replace_the_server(mounted: Mount) -> None:
    """As kill -9 does; the next one serves when this returns."""
    os.kill(mounted.server_pid, signal.SIGKILL)
    mounted.status()


def again_and_again(fd: int) -> int:
    """The segment's descriptor, as a client gets it that begins again as the protocol says."""
    while True:
        try:
            return direct.segment(fd)
        except OSError as error:
            if error.errno not in {errno.ESTALE, errno.ECONNREFUSED, errno.ECONNRESET, None}:
                raise


def plainly(place: Path) -> str:
    """What plain mmap of the region says: "" where it works, and the region may be plain then."""
    with raw.opened(place) as fd:
        try:
            mmap.mmap(fd, PAGE).close()
        except OSError as error:
            return errno.errorcode[error.errno or 0]
    return ""


@pytest.mark.parametrize("step", ["token_redeemed", "segment_lent", "segment_sent"])
def test_a_client_whose_server_dies(region: int, place: Path, mounted: Mount, step: str) -> None:
    """It has the segment in the end; and before another server serves nobody could map the file of
    a region that somebody may have got the segment of."""
    segment = gap.through_a_crash(mounted, step, lambda: again_and_again(region))
    with raw.opened(place) as other, mmap.mmap(segment, UNIT) as window:
        os.close(segment)
        window[0] = 7
        assert plainly(place) == "ENODEV"
        with direct.attached(other, UNIT) as second:
            assert second[0] == 7


@pytest.mark.parametrize("step", ["token_redeemed", "segment_lent", "segment_sent"])
def test_the_library_begins_again(region: int, place: Path, mounted: Mount, step: str) -> None:
    """By itself, and has the memory then; not the file, which could make the region plain."""
    with Region.open(place) as opened:
        window = gap.through_a_crash(mounted, step, opened.attach)
        assert window.direct
        window.close()


def test_a_descriptor_that_did_not_arrive(region: int, place: Path, mounted: Mount) -> None:
    """The region is direct, because nobody knows that; until its last handle is closed, as ever."""

    def once() -> str:
        try:
            os.close(direct.segment(region))
        except ConnectionResetError:
            return "lost"
        return "had"

    assert gap.through_a_crash(mounted, "segment_lent", once) == "lost"
    assert plainly(place) == "ENODEV"
    closed(region, place)
    assert plainly(place) == ""


def closed(fd: int, place: Path) -> None:
    """Something else has the number of a region's only handle, and the mount knows of the close."""
    with raw.opened(place.parent, os.O_PATH) as nothing:
        os.dup2(nothing, fd)
    eventually(lambda: raw.layout(place)["open_handles"] == 0, what="it is open")


def test_who_has_it_goes_on(region: int, place: Path, mounted: Mount) -> None:
    """D9: Through the death of several servers, and so does what they know of it."""
    with direct.attached(region, UNIT) as window:
        for turn in range(3):
            window[turn] = turn
            replace_the_server(mounted)
            assert plainly(place) == "ENODEV"
            assert window[turn] == turn
        with raw.opened(place, os.O_RDONLY) as other:
            with direct.attached(other, UNIT, mmap.PROT_READ) as second:
                assert second[:3] == bytes(range(3))
        raw.unmap(region, 0, UNIT)
        raw.create_mapping(region, 0, UNIT)
        assert window[2] == 0


def test_plain_stays_plain(region: int, mounted: Mount) -> None:
    """The next server gives nobody the segment of a region that somebody has mapped."""
    with mmap.mmap(region, UNIT) as plain:
        plain[0] = 7
        replace_the_server(mounted)
        with raw.refused(errno.EBUSY):
            direct.ask(region)
        assert plain[0] == 7
        plain[PAGE] = 8


def test_a_token_dies_with_its_server(region: int, mounted: Mount) -> None:
    """Nobody is at its address, and the next server does not know it."""
    told = direct.ask(region)
    replace_the_server(mounted)
    with raw.refused(errno.ECONNREFUSED):
        direct.connect(told)
    with raw.refused(errno.ESTALE):
        direct.redeem(direct.ask(region)._replace(token=told.token))


def test_a_client_that_is_killed(region: int, place: Path, mounted: Mount) -> None:
    """Its handle is closed for it, and the way ends with the last one."""
    ready, told = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(region)
        fd = os.open(place, os.O_RDWR)
        window = mmap.mmap(direct.segment(fd), UNIT)
        window[0] = 7
        os.write(told, b"x")
        signal.pause()
    os.read(ready, 1)
    assert plainly(place) == "ENODEV"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    os.close(told)
    with direct.attached(region, UNIT) as window:
        assert window[0] == 7


def start(background: Background) -> None:
    """Mount on its place, as often as that is free."""
    done = background.start("-o", "size=64M,data=direct")
    assert done.returncode == 0, done.stderr


def test_the_supervisor_dies(background: Background) -> None:
    """Who had the segment has it, and shares it with those who attach it on the next mount of the place.
    There nobody can map its file, because the first have no handle that would tell of them; the file of
    another region can be."""
    start(background)
    shared, other = background.path / "shared", background.path / "other"
    for path in (shared, other):
        with raw.opened(path, os.O_RDWR | os.O_CREAT) as fd:
            os.ftruncate(fd, UNIT)
            raw.create_mapping(fd, 0, UNIT)
    with raw.opened(shared) as fd, direct.attached(fd, UNIT) as window:
        window[0] = 7
        os.kill(background.supervisor_pid(), signal.SIGKILL)
        eventually(lambda: not mount.processes_of(background.marker), what="processes are left")
        start(background)
        for _ in range(2):
            assert (plainly(shared), plainly(other)) == ("ENODEV", "")
        with raw.opened(shared) as again, direct.attached(again, UNIT) as second:
            assert second[0] == 7
            second[1] = 8
            assert window[1] == 8
    for path in (shared, other):
        path.unlink()
