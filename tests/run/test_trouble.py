"""mshare run when something is in the way: no memory, threads, signals, sudden ends.

A program that is refused works on with memory of the kernel's, and nothing outlives a run.
"""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from msharefs import Region
from tests.helpers.background import Background
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount, processes_of
from tests.helpers.waiting import eventually
from tests.run.conftest import Start
from tests.run.programs import MIB, layout, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M"


def test_full_mount_falls_back_with_a_line(start: Start, place: Path) -> None:
    """What does not fit is the kernel's, with one line that says how much and why."""
    work = start(place)
    work.map(0, 200)
    work.map(1, 100)
    assert (work.inside(0), work.inside(1)) == (True, False)
    work.ok(f"put 1 {100 * MIB - 1} 4")
    pid = work.ask("pid")
    code, errors = work.end()
    assert code == 0
    assert errors == (
        f"mshare run: program[{pid}]: 100 MiB of shared anonymous memory stay outside of "
        f"{place}: the mount has not enough memory (ENOMEM)\n"
    )


def test_strict_ends_the_program(start: Start, place: Path) -> None:
    """With --strict the same line, and exit code 125."""
    work = start(place, "--strict")
    work.map(0, 200)
    work.tell(f"map 1 {100 * MIB} 0")
    code, errors = work.end()
    assert code == 125
    assert errors.count("\n") == 1
    assert "stay outside" in errors
    assert not place.exists()


def test_a_region_too_small_falls_back(start: Start, place: Path) -> None:
    """--size is rounded up to the alignment; what finds no free range is the kernel's."""
    work = start(place, "--size", "100M", "--min-size", "1M")
    work.map(0, 64)
    assert place.stat().st_size == 100 * MIB
    work.map(1, 64)
    assert (work.inside(0), work.inside(1)) == (True, False)
    code, errors = work.end()
    assert code == 0
    assert "no free range of that size (ENOSPC)" in errors


def test_a_region_whose_name_is_gone_falls_back(start: Start, place: Path) -> None:
    """Somebody removes the region: what is mapped stays, what comes is the kernel's."""
    work = start(place)
    work.map(0, 64)
    work.ok("put 0 0 7")
    place.unlink()
    work.map(1, 64)
    assert (work.inside(0), work.inside(1)) == (True, False)
    assert work.ask("get 0 0") == "7"
    code, errors = work.end()
    assert code == 0
    assert "the region is gone (ENOENT)" in errors


def test_another_region_of_that_name_is_not_used(start: Start, place: Path) -> None:
    """The name leads to somebody else's region by now: nothing is put there."""
    work = start(place)
    assert work.ask("pid").isdigit()
    place.unlink()
    with Region.create(place, 1 << 30) as other:
        work.map(0, 64)
        assert not work.inside(0)
        assert other.layout().mappings == ()
        code, errors = work.end()
        assert code == 0
        assert "the region is gone (ESTALE)" in errors
        assert place.exists()
        other.unlink()


def test_nothing_is_written_into_a_file_that_became_standard_error(
    start: Start, place: Path, program: Path, tmp_path: Path
) -> None:
    """A daemon closed descriptor 2 and has a data file there: the line is not put into it."""
    data = tmp_path / "data"
    script = f"printf 'map 0 {300 * MIB} 0\\nexit 3\\n' | {program} 2<>{data}"
    done = run(place, "sh", "-c", script)
    # The shell opened it before the library was loaded, so there it is the standard error.
    assert "stay outside" in data.read_text()
    assert done.returncode == 3


def test_threads_map_at_the_same_time(start: Start, place: Path) -> None:
    """Four threads, twelve times each: every mapping is its own, and all come back."""
    work = start(place, "--min-size", "1M")
    assert work.ask(f"threads 4 12 {2 * MIB}") == "0"
    assert layout(place) == []
    assert work.end() == (0, "")


def test_processes_map_at_the_same_time(start: Start, place: Path, program: Path) -> None:
    """Four programs of one run, which know nothing of each other, each with threads."""
    one = f"echo 'threads 2 5 {2 * MIB}' | {program}"
    done = run(
        place, "sh", "-c", f"{one} & {one} & {one} & {one} & wait", options=("--min-size", "1M")
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "0\n" * 4, "")


def test_a_signal_handler_may_map(start: Start, place: Path) -> None:
    """A handler maps and unmaps while its own thread is in the middle of doing so."""
    work = start(place, "--min-size", "1M")
    assert work.ask(f"signals 30 {2 * MIB}") == "0"
    work.eventually_sizes([])
    assert work.end() == (0, "")


def test_a_killed_program_leaves_nothing(start: Start, place: Path, mounted: Mount) -> None:
    """kill -9 of the program: mshare run says so as a shell does, the region is gone."""
    work = start(place)
    work.map(0, 200)
    os.kill(int(work.ask("pid")), signal.SIGKILL)
    code, errors = work.end()
    assert (code, errors) == (128 + signal.SIGKILL, "")
    assert not place.exists()
    mounted.wait_until_empty()


def test_signals_are_passed_on(start: Start, place: Path) -> None:
    """SIGTERM to mshare run is SIGTERM to the program."""
    work = start(place)
    work.map(0, 64)
    work.process.terminate()
    assert work.process.wait(20) == 128 + signal.SIGTERM
    assert not place.exists()


@pytest.mark.parametrize("size", ["256M", "24M"])
def test_no_process_loses_memory_that_it_has(make_mount: MakeMount, churn: Path, size: str) -> None:
    """Three seconds of mapping, forking, unmapping and killing, with memory enough and with
    too little: every process finds what it wrote, and in the end all is given back."""
    mount = make_mount(f"size={size}")
    done = run(mount.path / "region", str(churn), "3", options=("--min-size", "1M"))
    assert done.returncode == 0
    for line in done.stderr.splitlines():
        assert "stay outside of" in line
    mount.wait_until_empty()


def test_a_mount_whose_daemon_died_does_not_stop_the_program(
    start: Start, requires_fuse: None
) -> None:
    """Attached memory needs no daemon: the program works on and its exit code is told."""
    with ExitStack() as stack:
        dying = Background()
        stack.callback(dying.discard)
        assert dying.start("-o", "size=256M").returncode == 0
        work = start(dying.path / "region")
        work.map(0, 64)
        work.ok("put 0 3 8")
        os.kill(dying.supervisor_pid(), signal.SIGKILL)
        eventually(lambda: not processes_of(dying.marker), what="processes are left")
        assert work.ask("get 0 3") == "8"
        work.ok("unmap 0")
        work.map(1, 64)
        work.ok("put 1 0 1")
        work.tell("exit 5")
        assert work.process.wait(20) == 5


def test_the_paged_data_plane_serves_a_run(make_mount: MakeMount, start: Start) -> None:
    """The paged data plane, without passthrough, serves a run as well."""
    mount = make_mount("size=256M,data=paged")
    work = start(mount.path / "region")
    work.map(0, 64)
    assert work.inside(0)
    work.ok(f"put 0 {MIB} 6")
    assert work.ask(f"get 0 {MIB}") == "6"
    work.ok("unmap 0")
    assert layout(work.path) == []
    assert work.end() == (0, "")
