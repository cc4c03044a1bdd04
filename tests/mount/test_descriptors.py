"""The daemon's open files: few of them for any number of regions, and a clear end."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.background import Background
from tests.helpers.raw import HUGE, PAGE, create_mapping, opened, refused, unmap
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("requires_fuse")

REGIONS = 400
FEW = 96
"""Open files, with which a mount could have no 400 regions if each took one."""


@contextmanager
def no_descriptor_left(server: int) -> Iterator[None]:
    """The server may open no more files, whichever of those that it has it closes."""
    limits = resource.prlimit(server, resource.RLIMIT_NOFILE)
    resource.prlimit(server, resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        yield
    finally:
        resource.prlimit(server, resource.RLIMIT_NOFILE, limits)


def mount_with_limits(background: Background, soft: int, hard: int) -> None:
    """By a command that may have so many open files."""
    words = [*mount.command(), "msharefs", str(background.path), "-o", "size=16M"]
    subprocess.run(
        ["sh", "-c", f'ulimit -S -n {soft}; ulimit -H -n {hard}; exec "$@"', "sh", *words],
        env=mount.environment(background.marker),
        timeout=30,
        check=True,
    )


def use_all(path: Path) -> None:
    """Map, write, read and unmap a page of each region."""
    for number in range(REGIONS):
        with opened(path / str(number)) as fd:
            create_mapping(fd, 0, PAGE)
            with mmap.mmap(fd, PAGE) as window:
                window[:4] = b"%04d" % number
    for number in range(REGIONS):
        with opened(path / str(number)) as fd:
            with mmap.mmap(fd, PAGE) as window:
                assert window[:4] == b"%04d" % number
            unmap(fd, 0, PAGE)


def test_regions_do_not_take_open_files(background: Background) -> None:
    """N18: many times more regions than the daemon may have open, each as good as the others,
    also for the next server."""
    mount_with_limits(background, FEW, FEW)
    for number in range(REGIONS):
        with opened(background.path / str(number), os.O_CREAT | os.O_RDWR) as fd:
            os.ftruncate(fd, HUGE)
    use_all(background.path)
    server = mount.read_status(background.path)["pids"]["server"]
    os.kill(server, signal.SIGKILL)
    use_all(background.path)
    for number in range(REGIONS):
        os.unlink(background.path / str(number))
    server = mount.read_status(background.path)["pids"]["server"]
    assert len(os.listdir(f"/proc/{server}/fd")) < FEW
    background.unmount_and_check()


def test_the_soft_limit_is_the_callers(background: Background) -> None:
    """N18: the daemon may have as many open files as the hard limit allows."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    mount_with_limits(background, FEW, hard)
    for pid in mount.read_status(background.path)["pids"].values():
        assert resource.prlimit(pid, resource.RLIMIT_NOFILE) == (hard, hard)
    background.unmount_and_check()


@pytest.mark.root_only("in the paged plane a page fault needs the segment open, too")
def test_it_is_really_over(make_mount: Callable[..., mount.Mount]) -> None:
    """N18: ENFILE for whoever needs the memory of a region that is not open, nothing changed,
    one line in the log; and all is well when it is possible again."""
    mounted = make_mount("size=16M,align=4096")
    mounted.expect_log("no descriptor is left")
    path = mounted.path / "r"
    with raw.region(path, 4 * PAGE) as fd:
        create_mapping(fd, 0, PAGE)
        with mmap.mmap(fd, PAGE) as window, no_descriptor_left(mounted.server_pid):
            for _ in range(3):
                with refused(errno.ENFILE):
                    os.open(mounted.path / "new", os.O_CREAT | os.O_RDWR)
            # Nobody has it open now; its handles, its pages and its name are as before.
            with refused(errno.ENFILE):
                create_mapping(fd, PAGE, PAGE)
            with refused(errno.ENFILE):
                unmap(fd, 0, PAGE)
            window[:4] = b"kept"
            assert window[:4] == b"kept"
            with opened(path):
                assert raw.mapped_ranges(path) == [(0, PAGE)]
            assert sorted(os.listdir(mounted.path)) == ["mshare_info", "r"]
        create_mapping(fd, PAGE, PAGE)
        unmap(fd, 0, 2 * PAGE)
        assert os.fstat(fd).st_blocks == 0
    eventually(lambda: mounted.log().count("no descriptor is left") == 1)
