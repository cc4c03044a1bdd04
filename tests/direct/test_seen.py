"""Who has the memory of a region itself is shown like all others that have it attached."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msharefs import Region
from tests.cli.tool import mshare
from tests.helpers.mount import Mount
from tests.helpers.raw import MIB

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct"
SIZE = 4 * MIB

CLIENT = """
import sys
from msharefs import Region
with Region.open(sys.argv[1], writable=sys.argv[2] == "rw") as region, region.attach() as attached:
    assert attached.direct
    sum(attached.buf[::4096])
    print("there", flush=True)
    sys.stdin.read()
"""


@contextmanager
def client(path: Path, how: str) -> Iterator[int]:
    """A process that has it attached and has touched all of it; its number."""
    command = [sys.executable, "-c", CLIENT, str(path), how]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"there\n"
        yield process.pid


@pytest.mark.parametrize("how", ["rw", "ro"])
def test_a_client_is_seen(mounted: Mount, place: Path, how: str) -> None:
    """By ps with what it has touched, by ls and stat by its number; and not any more when it has ended."""
    beside = place.with_name("beside")
    with Region.create(place, SIZE, map=True), Region.create(beside, SIZE, map=True):
        with client(place, how) as pid, client(beside, "rw"):
            (process,) = mshare("ps", "--json", place).json["processes"]
            assert process["pid"] == pid
            (window,) = process["windows"]
            assert (window["offset"], window["size"], window["touched"]) == (0, SIZE, SIZE)
            assert window["prot"] == ("rw-" if how == "rw" else "r--")
            assert mshare("stat", "--json", place).json["pids"] == [pid]
            listed = mshare("ls", "--json", mounted.path).json["regions"]
            assert {r["path"]: r["pids"] for r in listed}[str(place)] == [pid]
        assert mshare("ps", "--json", place).json["processes"] == []
    place.unlink()
    beside.unlink()


def test_a_program_under_mshare_run_is_seen(place: Path) -> None:
    """By its memory, and not by the page that keeps the file open."""
    script = "import mmap, sys; m = mmap.mmap(-1, 64 << 20); print(1, flush=True); sys.stdin.read()"
    run = [sys.executable, "-m", "msharefs.cli.run", "--region", str(place), "--"]
    with subprocess.Popen(
        [*run, sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"1\n"
        (found,) = mshare("ps", "--json", place).json["processes"]
        assert [window["size"] for window in found["windows"]] == [64 * MIB]
        assert os.path.samefile(f"/proc/{found['pid']}/exe", sys.executable)
    assert not place.exists()
