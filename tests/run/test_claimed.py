"""mshare run on a mount that is in the paged data plane but for what is claimed: it claims its region."""

from __future__ import annotations

import mmap
import subprocess
import sys
from pathlib import Path

import pytest

from msharefs import Region
from tests.helpers import raw
from tests.helpers.mount import Mount
from tests.run.conftest import Start
from tests.run.programs import MIB, command, environment, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=auto,x-msharefs.without=passthrough"
SIZE = 64 * MIB


def way(path: Path) -> str | None:
    """How the region is reached, as its layout says."""
    found: str | None = raw.layout(path).get("way")
    return found


def test_a_run_has_the_memory_itself(start: Start, place: Path, mounted: Mount) -> None:
    """No page fault asks the daemon, and who attaches the region has the same memory."""
    faults = mounted.requests("READ")
    work = start(place)
    work.map(0, 64, "0")
    assert work.inside(0)
    work.ok("put 0 5 7")
    assert way(place) == "direct"
    with Region.open(place) as region, region.attach(0, SIZE) as attached:
        assert attached.direct
        assert attached.buf[5] == 7
    assert work.end() == (0, "")
    # What the run has asked for is the alignment (mshare_info).
    assert mounted.requests("READ") <= faults + 1


def test_a_region_that_was_there_is_not_claimed(start: Start, place: Path) -> None:
    """Others may map its file, now or later."""
    with Region.create(place, 2 * SIZE) as region:
        work = start(place)
        work.map(0, 64, "0")
        work.ok("put 0 5 7")
        with mmap.mmap(region.fileno(), region.size) as plain:
            assert plain[5] == 7
        assert work.end() == (0, "")
    place.unlink()


def test_segments_with_names_are_not_claimed(start: Start, place: Path) -> None:
    """They may grow without memory where page faults bring it."""
    work = start(place, "--shm")
    work.map(0, 64, "0")
    work.ok("put 0 5 7")
    assert way(place) == "plain"
    assert work.end() == (0, "")


@pytest.mark.root_only("makes a network namespace")
def test_a_program_in_another_network_namespace(place: Path) -> None:
    """Its memory is the kernel's: it is not given a window whose touch would be SIGBUS."""
    script = f"import mmap; m = mmap.mmap(-1, {SIZE}); m[5] = 7; print(m[5])"
    done = run(place, "unshare", "-n", sys.executable, "-c", script)
    assert (done.returncode, done.stdout) == (0, "7\n")
    assert "ENODEV" in done.stderr


def test_what_is_foretold(place: Path) -> None:
    """Small page tables where the region is claimed, and else how to get them."""

    def sentences(*options: str) -> str:
        words = [*command(place, "--dry-run", *options), sys.executable]
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=45, check=False, env=environment()
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "page tables" not in sentences()
    assert "page tables would not be small" in sentences("--shm")
