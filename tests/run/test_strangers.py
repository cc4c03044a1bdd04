"""mshare run and other users: none can read along, take a part, or hold the run up."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
from pathlib import Path

import pytest

from msharefs import Region
from msharefs.cli.run import run as run_command
from msharefs.linux.locks import try_lock
from msharefs.preload.run_file import PREFIX
from tests.helpers.mount import Mount
from tests.helpers.users import ALICE, BOB, as_user
from tests.run.conftest import Start
from tests.run.programs import MIB, Run, run, sizes

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M"
SHM = Path("/dev/shm")


def directory_of(work: Run) -> Path:
    """Where the files of a run are, as its program knows it."""
    environment = Path(f"/proc/{work.ask('pid')}/environ").read_bytes().split(b"\0")
    (path,) = [word for word in environment if word.startswith(b"MSHAREFS_RUN=")]
    return Path(os.fsdecode(path.partition(b"=")[2])).parent


def test_another_users_region_is_refused(mounted: Mount, place: Path) -> None:
    """Whoever made it can look into it and take its memory away: exit code 125, and it is left
    alone. Root is told so, too."""

    def make() -> None:
        Region.create(place, 1 << 30, mode=0o666).close()

    as_user(ALICE, make)
    done = run(place, "true", options=("--mode", "666"))
    assert (done.returncode, done.stderr) == (
        125,
        f"mshare run: {place} belongs to another user\n",
    )
    assert place.exists()
    place.unlink()


@pytest.mark.parametrize(("mode", "option"), [(0o644, "600"), (0o666, "644"), (0o620, "640")])
def test_a_region_that_others_may_use_is_refused(place: Path, mode: int, option: str) -> None:
    """--mode says who may have a part in it; a region that allows more is not used."""
    with Region.create(place, 1 << 30) as region:
        place.chmod(mode)
        done = run(place, "true", options=("--mode", option))
        assert (done.returncode, done.stderr) == (
            125,
            f"mshare run: {place} has mode {mode:03o}, which is wider than --mode {option}\n",
        )
        assert run(place, "true", options=("--mode", f"{mode:o}")).returncode == 0
        region.unlink()


def test_the_files_of_a_run_are_its_users_alone(start: Start, place: Path) -> None:
    """Another user can neither open the tables nor ask the collector, also where he may read the
    region."""
    work = start(place, "--mode", "644")
    work.map(0, 64)
    directory = directory_of(work)

    def look() -> list[str]:
        found = []
        for name in ("tables", "collector"):
            try:
                os.close(os.open(directory / name, os.O_RDONLY))
            except PermissionError:
                found.append(name)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            try:
                asking.sendto(b"c", str(directory / "collector"))
            except PermissionError:
                found.append("asked")
        return found

    assert as_user(ALICE, look) == ["tables", "collector", "asked"]


def test_where_others_may_write_they_may_map_and_not_ask(start: Start, place: Path) -> None:
    """--mode 666 is for programs that become another user: such a one has its part in the
    tables, and the collector is still its user's alone."""
    work = start(place, "--mode", "666")
    work.map(0, 64)
    directory = directory_of(work)

    def look() -> str:
        os.close(os.open(directory / "tables", os.O_RDWR))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            try:
                asking.sendto(b"c", str(directory / "collector"))
            except PermissionError:
                return "refused"
        return "asked"

    assert as_user(ALICE, look) == "refused"


def test_locks_of_a_reader_hold_nobody_up(start: Start, place: Path) -> None:
    """Another user may read the region and locks all of it, and whatever he finds in /dev/shm."""
    work = start(place, "--shm", "--mode", "644")
    work.map(0, 64)
    reader, writer = os.pipe()
    ready, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setresgid(ALICE, ALICE, ALICE)
        os.setresuid(ALICE, ALICE, ALICE)
        fd = os.open(place, os.O_RDONLY)
        for kind in (fcntl.F_OFD_SETLK, fcntl.F_SETLK):
            fcntl.fcntl(fd, kind, struct.pack("hhqqi4x", fcntl.F_RDLCK, 0, 0, 0, 0))
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.write(tell, b"x")
        os.read(reader, 1)
        os._exit(0)
    os.read(ready, 1)
    try:
        name = f"/msharefs-strangers-{os.getpid()}"
        work.ok("unmap 0", f"open 0 {name} create", f"truncate 0 {64 * MIB}")
        work.ok(f"mapfile 1 0 {64 * MIB} 0", f"unlink {name}")
        assert work.inside(1)
        assert sizes(place) == [64]
        work.ok("close 0", "unmap 1")
        work.eventually_sizes([])
        other = place.with_name("other")
        assert run(other, "true", options=("--mode", "644")).returncode == 0
    finally:
        os.write(writer, b"x")
        os.waitpid(pid, 0)


def test_somebody_elses_files_under_such_names_are_passed_by(place: Path) -> None:
    """Anybody may make a directory in /dev/shm that looks like a run's: it is not looked into, and
    nothing is made of it."""
    trap = SHM / f"{PREFIX}trap-{os.getpid()}"

    def make() -> None:
        trap.mkdir(0o777)
        (trap / "tables").write_bytes(b"\0" * 8192)
        with (trap / "tables").open("rb") as file:
            assert try_lock(file.fileno(), 0, shared=True)

    as_user(BOB, make)
    try:
        assert run(place, "true").returncode == 0
        assert (trap / "tables").exists()
    finally:
        (trap / "tables").unlink()
        trap.rmdir()


def test_two_users_run_side_by_side(mounted: Mount, start: Start, place: Path) -> None:
    """A run of root's and one of alice's on one mount know nothing of each other."""
    work = start(place)
    work.map(0, 64)
    alices = mounted.path / "alices"

    def go() -> object:
        return run_command.main(["--region", str(alices), "--", "true"], standalone_mode=False)

    assert as_user(ALICE, go) == 0
    assert not alices.exists()
    assert sizes(place) == [64]
    assert work.end() == (0, "")
