"""mshare run --shm: segments of shm_open and shmget live in the region.

Name, size, owner and life of a segment stay the kernel's; only the memory is elsewhere.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.waiting import eventually
from tests.run.conftest import Start
from tests.run.programs import MIB, Run, layout, planes, run, sizes

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M"
PLANES = planes()
SIZE = 64 * MIB
NAME = f"/msharefs-test-run-{os.getpid()}"


@pytest.fixture
def work(start: Start, place: Path) -> Iterator[Run]:
    """A run with --shm; the name is gone before and after."""
    shm = Path("/dev/shm" + NAME)
    shm.unlink(missing_ok=True)
    yield start(place, "--shm")
    shm.unlink(missing_ok=True)


def segments(path: Path) -> list[int]:
    """The sizes in MiB of what is mapped."""
    return sizes(path)


def test_without_the_option_segments_are_the_kernels(start: Start, place: Path) -> None:
    """Only shared anonymous memory moves by itself."""
    work = start(place)
    work.ok(f"open 0 {NAME} create", f"truncate 0 {SIZE}", f"mapfile 0 0 {SIZE} 0")
    assert work.ask("where 0").startswith("/dev/shm")
    work.ok(f"unlink {NAME}")
    segment = work.ask(f"shmget {SIZE}")
    work.ok(f"shmat 1 {segment}", f"shmrm {segment}")
    assert not work.inside(1)
    assert layout(place) == []


def test_posix_segment_lives_in_the_region(work: Run) -> None:
    """Two processes that open the same name see the same bytes, and they are the region's;
    the file in /dev/shm has the size and no memory."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {SIZE + 5}", f"mapfile 0 0 {SIZE + 5} 0")
    assert work.inside(0)
    work.ask("fork")
    work.ok(f">open 5 {NAME}", f">mapfile 5 5 {SIZE} 0", "put 0 1000 8")
    assert work.ask(">get 5 1000") == "8"
    assert work.ask("stat 0") == f"{SIZE + 5} 0"
    assert segments(work.path) == [64]


def test_posix_segment_outlives_its_users(work: Run) -> None:
    """Nobody has it mapped or open: with its name it is there. Without its name it is not."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {SIZE}", f"mapfile 0 0 {SIZE} 0")
    work.ok("put 0 0 3", "unmap 0", "close 0")
    assert segments(work.path) == [64]
    work.ok(f"open 1 {NAME}", f"mapfile 1 1 {SIZE} 0")
    assert work.ask("get 1 0") == "3"
    work.ok(f"unlink {NAME}")
    assert work.ask("get 1 0") == "3"
    work.ok("close 1", "unmap 1")
    work.eventually_sizes([])


def test_an_unlinked_posix_segment_lives_while_it_is_open(work: Run) -> None:
    """A descriptor alone keeps it, as in /dev/shm."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {SIZE}", f"unlink {NAME}")
    work.ok(f"mapfile 0 0 {SIZE} 0", "put 0 4 4", "unmap 0", f"mapfile 1 0 {SIZE} 0")
    assert work.ask("get 1 4") == "4"
    work.ok("unmap 1", "close 0")
    # The close tells nobody; the next look finds it.
    work.map(2, 64)
    work.ok("unmap 2")
    work.eventually_sizes([])


def test_posix_segment_in_windows(work: Run) -> None:
    """A window of a part is that part, whatever its size. One that is longer than the segment has
    nothing beyond the end, until that is moved."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {SIZE}", f"mapfile 0 0 {SIZE} 0")
    work.ok(f"mapfile 1 0 4096 {MIB}", "put 1 5 6")
    assert work.inside(1)
    assert work.ask(f"get 0 {MIB + 5}") == "6"
    work.ok(f"mapfile 2 0 {2 * SIZE} 0")
    assert work.ask(f"get 2 {SIZE}") == "SIGBUS"
    work.ok(f"truncate 0 {SIZE + MIB}", f"put 2 {SIZE} 8")
    assert work.ask(f"get 2 {SIZE + MIB}") == "SIGBUS"


def test_read_only_descriptor_gives_read_only_windows(work: Run) -> None:
    """Writable windows are refused as ever, and no mprotect makes one of a readable one."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {SIZE}", f"open 1 {NAME} ro")
    assert work.ask(f"mapfile 0 1 {SIZE} 0") == "EACCES"
    work.ok(f"mapfile 0 1 {SIZE} 0 ro")
    assert work.inside(0)
    assert work.ask("protect 0") == "EACCES"


def test_posix_segment_grows_and_shrinks(work: Run) -> None:
    """More bytes are zeros behind the old ones; less takes them away; to nothing and back
    again gives zeros."""
    work.ok(f"open 0 {NAME} create", f"allocate 0 {SIZE}", f"mapfile 0 0 {SIZE} 0")
    work.ok("put 0 0 1", f"put 0 {SIZE - 1} 2", f"truncate 0 {SIZE + MIB}")
    work.ok(f"mapfile 1 0 {SIZE + MIB} 0")
    assert [work.ask(f"get 1 {at}") for at in (0, SIZE - 1, SIZE)] == ["1", "2", "0"]
    work.ok(f"truncate 0 {MIB}")
    assert work.ask("get 0 0") == "1"
    assert work.ask(f"get 0 {SIZE - 1}") == "SIGBUS"
    work.ok(f"open 1 {NAME} trunc")
    assert work.ask("get 0 0") == "SIGBUS"
    work.ok(f"truncate 1 {SIZE}")
    assert work.ask("get 0 0") == "0"


def test_small_and_used_posix_segments_are_the_kernels(work: Run) -> None:
    """Below the limit, or with bytes in it before it was mapped: in /dev/shm, for everybody and
    for ever."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {MIB}", f"mapfile 0 0 {MIB} 0")
    assert not work.inside(0)
    work.ok(f"truncate 0 {SIZE}", f"mapfile 0 0 {SIZE} 0")
    assert not work.inside(0)
    work.ok(f"unlink {NAME}", f"open 1 {NAME} create", "write 1 0 7", f"truncate 1 {SIZE}")
    work.ok(f"mapfile 2 1 {SIZE} 0")
    assert not work.inside(2)
    assert work.ask("get 2 0") == "7"


def test_posix_segment_that_is_mapped_before_it_has_a_size(work: Run) -> None:
    """As long as it is large enough then, it lives in the region."""
    work.ok(f"open 0 {NAME} create", f"mapfile 0 0 {SIZE} 0")
    assert work.ask("get 0 0") == "SIGBUS"
    work.ok(f"truncate 0 {SIZE}", "put 0 0 5", f"mapfile 1 0 {SIZE} 0")
    assert work.inside(1)
    assert work.ask("get 1 0") == "5"


def test_posix_segment_falls_back_on_a_full_mount(work: Run) -> None:
    """One line, and the memory is that of /dev/shm, for everybody who maps it."""
    work.ok(f"open 0 {NAME} create", f"truncate 0 {400 * MIB}", "mapfile 0 0 4096 0")
    work.ok(f"mapfile 1 0 {400 * MIB} 0", "put 0 0 1")
    assert work.ask("get 1 0") == "1"
    assert work.ask("where 1").startswith("/dev/shm")
    code, errors = work.end()
    assert code == 0
    assert errors.count("\n") == 1
    assert "400 MiB of POSIX shared memory stay outside" in errors


def test_system_v_segment_lives_in_the_region(work: Run) -> None:
    """Attached twice it is the same memory; the kernel counts who has it attached."""
    segment = work.ask(f"shmget {SIZE}")
    assert segments(work.path) == [64]
    work.ok(f"shmat 0 {segment}")
    work.ask("fork")
    work.ok(f">shmat 5 {segment}", "put 0 77 9")
    assert work.inside(0)
    assert work.ask(">get 5 77") == "9"
    assert work.ask(f"attached {segment}") == "3"
    work.ok(">shmdt 5", ">shmdt 0", "shmdt 0")
    assert work.ask(f"attached {segment}") == "0"
    assert work.ask("get 0 77") == "SIGSEGV"
    work.ok(f"shmat 1 {segment}")
    assert work.ask("get 1 77") == "9"
    work.ok(f"shmrm {segment}")
    assert work.ask("get 1 77") == "9"
    work.ok("shmdt 1")
    work.eventually_sizes([])


def test_system_v_segment_that_nobody_attached_goes_with_its_id(work: Run) -> None:
    """IPC_RMID alone gives the range back."""
    segment = work.ask(f"shmget {SIZE}")
    assert segments(work.path) == [64]
    work.ok(f"shmrm {segment}")
    work.eventually_sizes([])


def test_system_v_segment_for_reading(work: Run) -> None:
    """SHM_RDONLY: reads work, writes are SIGSEGV, and so they stay."""
    segment = work.ask(f"shmget {SIZE}")
    work.ok(f"shmat 0 {segment}", "put 0 0 1", f"shmat 1 {segment} ro", f"shmrm {segment}")
    assert work.ask("get 1 0") == "1"
    assert work.ask("put 1 0 2") == "SIGSEGV"


def test_a_killed_process_gives_its_segments_back(work: Run) -> None:
    """The child had it attached alone, after IPC_RMID."""
    work.ask("fork")
    segment = work.ask(f">shmget {SIZE}")
    work.ok(f">shmat 0 {segment}", f">shmrm {segment}")
    assert segments(work.path) == [64]
    work.ok("kill")
    work.eventually_sizes([])


def test_shared_memory_of_python_lives_in_the_region(place: Path) -> None:
    """multiprocessing.shared_memory, unchanged, between two interpreters."""
    child = (
        "from multiprocessing import shared_memory as s; import sys;"
        "m = s.SharedMemory(sys.argv[1]); m.buf[0] += 1; m.close()"
    )
    parent = (
        "from multiprocessing import shared_memory as s; import subprocess, sys;"
        f"m = s.SharedMemory(create=True, size={SIZE}); m.buf[0] = 41;"
        "subprocess.run([sys.executable, '-W', 'ignore', '-c', sys.argv[1], m.name], check=True,"
        " stderr=subprocess.DEVNULL);"
        f"print(m.buf[0], m.size, {str(place)!r} in open('/proc/self/maps').read());"
        "m.close(); m.unlink() if sys.version_info >= (3, 13) else None"
    )
    done = run(place, sys.executable, "-c", parent, child, options=("--shm",))
    assert (done.returncode, done.stdout) == (0, f"42 {SIZE} True\n")
    eventually(lambda: not place.exists())
