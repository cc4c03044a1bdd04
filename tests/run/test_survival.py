"""mshare run when parts of it are killed, and programs that outlive it.

Three processes belong to a run beside the program's own: mshare run, its collector, and the
mount's. Whichever of them dies, the program goes on with its memory, and in the end nothing is
left.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from functools import partial
from pathlib import Path

import pytest

from msharefs import Region
from msharefs.preload.run_file import PREFIX
from tests.helpers.mount import Mount
from tests.helpers.waiting import eventually
from tests.run.conftest import Start
from tests.run.programs import MIB, Run, command, environment, layout, planes, run, sizes

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M"
PLANES = planes()
SHM = Path("/dev/shm")


def files_of_runs() -> set[str]:
    """The directories of runs, whoever's."""
    return {name for name in os.listdir(SHM) if name.startswith(PREFIX)}


def gone(pid: int) -> bool:
    """Whether a process has ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def has_another_collector(work: Run, before: int) -> bool:
    """Whether a collector has taken the place of one that was killed."""
    return len(work.collectors) == 1 and before not in work.collectors


def test_a_killed_run_is_not_missed(start: Start, place: Path, mounted: Mount) -> None:
    """kill -9 of mshare run itself: the program keeps what it has and gets more. The name goes
    with the program's end, and so does the memory."""
    work = start(place)
    work.map(0, 64)
    work.ok("put 0 0 5")
    program = int(work.ask("pid"))
    collector = work.collector
    work.process.kill()
    work.process.wait(20)
    assert work.ask("get 0 0") == "5"
    work.ok("unmap 0")
    assert layout(place) == []
    work.map(1, 64)
    assert work.inside(1)
    os.kill(program, signal.SIGKILL)
    eventually(lambda: not place.exists(), what="the name is still there")
    eventually(lambda: gone(collector), what="the collector is still there")
    mounted.wait_until_empty()


def test_mshare_run_is_killed_before_it_hears_of_the_end(
    start: Start, place: Path, mounted: Mount
) -> None:
    """The program ends while mshare run is stopped, which is then killed with the news unread: the
    collector goes on for the child that is left."""
    work = start(place)
    work.map(0, 64)
    work.ask("fork")
    child = int(work.ask(">pid"))
    work.ok(">put 0 0 6", ">alone 0")
    work.map(1, 65)
    program = int(work.ask("pid"))
    work.process.send_signal(signal.SIGSTOP)
    os.kill(program, signal.SIGKILL)
    work.eventually_sizes([64])
    eventually(lambda: gone(program), what="the program is still there")
    work.process.kill()
    work.process.wait(20)
    os.kill(child, signal.SIGUSR1)
    eventually(lambda: sizes(place) == [64, 64], what="the child got nothing")
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not place.exists(), what="the name is still there")
    mounted.wait_until_empty()


def test_a_killed_collector_is_replaced(start: Start, place: Path) -> None:
    """kill -9 of the collector, twice: the program keeps what it has and gets more, and what a
    killed child had comes back. The exit code is told."""
    work = start(place)
    work.map(0, 64)
    work.ok("put 0 0 5")
    for _ in range(2):
        before = work.collector
        os.kill(before, signal.SIGKILL)
        eventually(partial(has_another_collector, work, before), what="no other collector")
    work.ask("fork")
    assert work.ask(f">map 1 {65 * MIB} 0").startswith("0x")
    assert sizes(place) == [64, 65]
    work.ok("kill")
    work.eventually_sizes([64])
    assert work.ask("get 0 0") == "5"
    work.tell("exit 7")
    code, errors = work.end()
    assert (code, errors) == (7, "")
    eventually(lambda: not place.exists(), what="the name is still there")


def test_the_next_run_takes_away_what_nobody_could(
    start: Start, place: Path, mounted: Mount
) -> None:
    """kill -9 of mshare run and of its collector: the program goes on. When that has ended as well,
    the next run of the same user takes the region away, whatever its own is."""
    before = files_of_runs()
    work = start(place)
    work.map(0, 64)
    program = int(work.ask("pid"))
    collector = work.collector
    os.kill(work.process.pid, signal.SIGSTOP)
    os.kill(collector, signal.SIGKILL)
    work.process.kill()
    work.process.wait(20)
    work.map(1, 32 * 2)
    assert work.inside(1)
    other = mounted.path / "other"
    assert run(other, "true").returncode == 0
    assert sizes(place) == [64, 64]
    os.kill(program, signal.SIGKILL)
    eventually(lambda: gone(program), what="the program is still there")
    assert run(other, "true").returncode == 0
    assert not place.exists()
    assert files_of_runs() <= before
    mounted.wait_until_empty()


def test_ranges_of_a_dead_run_leave_a_region_that_stays(
    start: Start, place: Path, mounted: Mount
) -> None:
    """The same with a region that was there before: it stays, and only what others have in it."""
    with Region.create(place, 1 << 30) as region:
        region.map(0, MIB)
        work = start(place)
        work.map(0, 64)
        collector = work.collector
        os.kill(work.process.pid, signal.SIGSTOP)
        os.kill(collector, signal.SIGKILL)
        os.killpg(work.process.pid, signal.SIGKILL)
        eventually(lambda: len(work.members()) <= 1, what="processes are left")
        assert run(mounted.path / "other", "true").returncode == 0
        assert layout(place) == [(0, MIB)]
        region.unlink()


def test_killed_at_any_moment_nothing_is_left(place: Path, program: Path, mounted: Mount) -> None:
    """Everything of a run is killed at once, at a random moment: the next run finds no trace of
    it, be it half made or half taken away."""
    before = files_of_runs()
    dice = random.Random(11)
    script = f"printf 'map 0 {MIB} 0\\nfork\\n>map 1 {MIB} 0\\n' | {program}"
    for _ in range(12):
        process = subprocess.Popen(
            [*command(place, "--min-size", "1M"), "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=environment(),
            start_new_session=True,
        )
        time.sleep(dice.uniform(0.1, 0.7))
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.getsid(int(pid)) == process.pid:
                    os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait(20)
    assert run(mounted.path / "other", "true").returncode == 0
    assert sorted(os.listdir(mounted.path)) == ["mshare_info"]
    assert files_of_runs() <= before
    mounted.wait_until_empty()


def test_a_killed_group_leaves_nothing(start: Start, place: Path, mounted: Mount) -> None:
    """kill -9 of mshare run and the program together, as a shell's kill does."""
    work = start(place)
    work.map(0, 200)
    os.killpg(work.process.pid, signal.SIGKILL)
    eventually(lambda: not place.exists(), what="the name is still there")
    mounted.wait_until_empty()


def test_a_program_that_goes_to_the_background_returns(
    start: Start, place: Path, mounted: Mount
) -> None:
    """The program ends and leaves a child that uses the region: mshare run ends with the
    program's exit code, and nobody waits for the end of its output. The child keeps the region,
    gets more memory, and takes the region with it when it ends."""
    work = start(place)
    work.map(0, 64)
    work.ask("fork")
    child = int(work.ask(">pid"))
    # The child has its own way to the test, which the program's end does not close.
    work.ok(">put 0 0 6", ">alone 0")
    work.tell("exit 3")
    assert work.process.wait(20) == 3
    assert sizes(place) == [64]
    os.kill(child, signal.SIGUSR1)
    eventually(lambda: sizes(place) == [64, 64], what="the child got nothing")
    os.kill(child, signal.SIGKILL)
    eventually(lambda: not place.exists(), what="the name is still there")
    mounted.wait_until_empty()


def test_output_of_a_run_ends_with_the_programs(place: Path) -> None:
    """$(mshare run ... COMMAND &) comes back: no process of the run holds the pipe open. The
    region stays until what is in the background has ended."""
    script = "sleep 30 >/dev/null 2>&1 & echo $!"
    done = run(place, "sh", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    sleeper = int(done.stdout)
    assert place.exists()
    os.kill(sleeper, signal.SIGKILL)
    eventually(lambda: not place.exists(), what="the name is still there")


def test_children_that_are_ignored_are_waited_for(place: Path) -> None:
    """Many services start programs with SIGCHLD ignored: the exit code is known all the same."""
    done = subprocess.run(
        ["sh", "-c", 'trap "" CHLD; exec "$@"', "sh", *command(place), "sh", "-c", "exit 9"],
        env=environment(),
        timeout=20,
        check=False,
    )
    assert done.returncode == 9
    assert not place.exists()


def test_closed_standard_descriptors_are_nobodys(place: Path) -> None:
    """Started with 0 to 2 closed the program finds them closed."""
    script = "ls -l /proc/self/fd | grep -c -e ' [012] ->' >$OUT"
    out = place.parent.parent / "out"
    shell = 'exec 0<&- 1>&- 2>&-; exec "$@"'
    done = subprocess.run(
        [
            "sh",
            "-c",
            shell,
            "sh",
            *command(place),
            "sh",
            "-c",
            f"exec 9>{out}; [ ! -e /proc/$$/fd/0 ]",
        ],
        env={**environment(), "OUT": str(out)},
        timeout=20,
        check=False,
    )
    out.unlink(missing_ok=True)
    assert done.returncode == 0, script
