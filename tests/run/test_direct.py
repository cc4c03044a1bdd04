"""mshare run on a mount that gives the memory of a region itself: nobody comes to a copy beside it."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import sys
from pathlib import Path

import pytest

from msharefs import Region
from tests.helpers.mount import Mount
from tests.run.conftest import Start
from tests.run.programs import MIB, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct"
SIZE = 64 * MIB


def map_file(path: Path) -> int:
    """What a program that knows nothing of it gets for an mmap of the file: an errno, or 0."""
    fd = os.open(path, os.O_RDWR)
    try:
        mmap.mmap(fd, SIZE).close()
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(fd)
    return 0


def test_the_file_is_not_mapped_beside_it(start: Start, place: Path, mounted: Mount) -> None:
    """Not even when mshare run and its collector are dead: the program has a handle by a mapping."""
    work = start(place)
    work.map(0, 64, "0")
    assert work.inside(0)
    assert map_file(place) == errno.ENODEV
    work.ok("put 0 5 7")
    work.process.send_signal(signal.SIGSTOP)
    for pid in work.collectors:
        os.kill(pid, signal.SIGKILL)
    work.process.kill()
    work.process.wait(20)
    assert map_file(place) == errno.ENODEV
    with Region.open(place) as region, region.attach(0, SIZE) as attached:
        assert attached.direct
        assert attached.buf[5] == 7
    assert work.ask("get 0 5") == "7"
    os.kill(int(work.ask("pid")), signal.SIGKILL)
    assert run(mounted.path / "other", "true").returncode == 0
    assert not place.exists()


def test_memory_that_others_have_as_a_file_is_had_so(start: Start, place: Path) -> None:
    """The one copy stays the only one."""
    with Region.create(place, 2 * SIZE + 4 * MIB) as region:
        region.map(0, SIZE)
        with mmap.mmap(region.fileno(), SIZE) as window:
            window[5] = 1
            work = start(place)
            work.map(0, 64, "0")
            assert work.ask("where 0") == str(place)
            work.ok("put 0 5 7")
            offset = region.layout().mappings[-1].offset
            with mmap.mmap(region.fileno(), region.size) as theirs:
                assert theirs[offset + 5] == 7
            assert window[5] == 1
        assert work.end() == (0, "")
        place.unlink()


@pytest.mark.root_only("makes a network namespace")
def test_a_program_in_another_network_namespace(place: Path) -> None:
    """Its memory is the kernel's, with a reason: the socket of the mount is not there, and the file is not
    mapped beside the memory."""
    script = f"import mmap; m = mmap.mmap(-1, {SIZE}); m[5] = 7; print(m[5])"
    done = run(place, "unshare", "-n", sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert "the mount cannot be asked from this network namespace (ENODEV)" in done.stderr
