"""Whoever is killed while the kernel gives back written pages that a change takes away: the mount goes on.

The kernel waits for the server's answer to a WRITE then, and nothing ends that wait but the answer, or the
end of the connection.
"""

from __future__ import annotations

import mmap
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.file_processes import children, end, name_of
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import MIB, PAGE, create_mapping, opened
from tests.helpers.waiting import eventually
from tests.survival import gap
from tests.survival.kept import Kept

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = f"data=paged,size=64M,align=4096,{gap.CRASH_OPTION}"
SIZE = MIB
SECONDS = 20


@pytest.fixture
def region(mounted: mount.Mount, place: Path) -> Iterator[int]:
    """A region with memory in two places, which has been written."""
    mounted.expect_log(gap.DEATHS)
    with raw.region(place, SIZE) as fd:
        with written_in_two_places(fd):
            yield fd


def written_in_two_places(fd: int) -> mmap.mmap:
    """Map memory there, and leave what is written with the kernel: until the window is closed."""
    for page in (0, 8):
        create_mapping(fd, page * PAGE, 4 * PAGE)
    window = mmap.mmap(fd, SIZE)
    for page in (0, 8):
        window[page * PAGE : (page + 4) * PAGE] = b"x" * (4 * PAGE)
    return window


def die_at_write_back(state: Path | None, signal_name: str = "KILL") -> None:
    """Let the server end when it has read the request after the next: the WRITE of a page that the
    next one, which is the change, takes away."""
    assert state is not None
    draft = state / "draft"
    draft.write_text(f"request_read:2:{signal_name}", encoding="ascii")
    draft.rename(state / "order")


def notifiers(mounted: mount.Mount) -> list[int]:
    """The processes that give notices which may wait."""
    return [child for child in children(mounted.pid) if name_of(child) == "msharefs-pages"]


def unmapping(region: int, executor: ThreadPoolExecutor) -> Future[None]:
    """UNMAP of the first place, on its way."""
    return executor.submit(raw.unmap, region, 0, 4 * PAGE)


def test_a_server_that_dies_at_unmap(mounted: mount.Mount, region: int) -> None:
    """The next one answers what the kernel waits for, and the change is done."""
    restarts = mounted.status()["restarts"]
    die_at_write_back(mounted.state)
    with ThreadPoolExecutor(1) as executor:
        unmapping(region, executor).result(SECONDS)
    assert raw.mapped_ranges(region) == [(8 * PAGE, 12 * PAGE)]
    assert mounted.status()["restarts"] == restarts + 1
    assert os.pread(region, 0, 0) == b""


def test_a_server_that_dies_at_a_new_mapping(mounted: mount.Mount, region: int) -> None:
    """What was written before is not seen in what is mapped now, and all else is there."""
    die_at_write_back(mounted.state)
    with ThreadPoolExecutor(1) as executor:
        executor.submit(create_mapping, region, 0, 8 * PAGE).result(SECONDS)
    with mmap.mmap(region, SIZE) as window:
        assert window[: 8 * PAGE] == bytes(8 * PAGE)
        assert window[8 * PAGE : 12 * PAGE] == b"x" * (4 * PAGE)


def test_who_waits_in_the_kernel_is_killed(mounted: mount.Mount, region: int) -> None:
    """The process that drops pages, in the moment in which it waits for the server: another one drops
    them. The server waits for nobody who does not answer."""
    mounted.expect_log("drops pages ended with -9")
    server = mounted.server_pid
    die_at_write_back(mounted.state, "STOP")
    with ThreadPoolExecutor(1) as executor:
        change = unmapping(region, executor)
        eventually(lambda: gap.state_of(server) == "T", what="the server has the WRITE")
        (notifier,) = notifiers(mounted)
        os.kill(notifier, signal.SIGKILL)
        os.kill(server, signal.SIGCONT)
        change.result(SECONDS)
    eventually(lambda: gap.has_ended(notifier))
    assert raw.mapped_ranges(region) == [(8 * PAGE, 12 * PAGE)]
    with mmap.mmap(region, SIZE) as window:
        assert window[8 * PAGE : 12 * PAGE] == b"x" * (4 * PAGE)


def test_the_supervisor_dies_too(requires_fuse: None) -> None:
    """No server will answer: who waits gets an error, and every process ends. Mounted again, the regions
    are there."""
    kept = Kept(MOUNT_OPTIONS)
    try:
        pids = mount.read_status(kept.path)["pids"]
        fd = os.open(kept.path / "r", os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, SIZE)
        with written_in_two_places(fd), ThreadPoolExecutor(1) as executor:
            die_at_write_back(kept.state, "STOP")
            change = unmapping(fd, executor)
            eventually(lambda: gap.state_of(pids["server"]) == "T", what="the server has the WRITE")
            os.kill(pids["supervisor"], signal.SIGKILL)
            os.kill(pids["server"], signal.SIGKILL)
            assert isinstance(change.exception(SECONDS), OSError)
        # The mount is gone.
        with suppress(OSError):
            os.close(fd)
        eventually(lambda: not mount.processes_of(kept.marker), what="processes are left")
        kept.mount_again(MOUNT_OPTIONS)
        with opened(kept.path / "r") as fd:
            assert (8 * PAGE, 12 * PAGE) in raw.mapped_ranges(fd)
    finally:
        kept.discard()


def test_a_server_waits_for_the_one_who_drops(make_mount: MakeMount) -> None:
    """Who drops pages is there from the first need on, and once for all servers."""
    mounted = make_mount(MOUNT_OPTIONS)
    mounted.expect_log(gap.DEATHS)
    assert notifiers(mounted) == []
    with raw.region(mounted.path / "r", SIZE) as fd:
        create_mapping(fd, 0, 4 * PAGE)
        raw.unmap(fd, 0, 4 * PAGE)
        first = notifiers(mounted)
        assert len(first) == 1
        end(mounted.server_pid)
        create_mapping(fd, 0, 4 * PAGE)
        raw.unmap(fd, 0, 4 * PAGE)
        assert notifiers(mounted) == first
