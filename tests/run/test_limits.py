"""mshare run with many ranges and few descriptors, and a program killed at a bad moment."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.poke import compiled
from tests.run.conftest import Start
from tests.run.programs import MIB, command, environment, layout, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=512M"


def limited(descriptors: int, place: Path, *words: str, options: tuple[str, ...]) -> str:
    """What a program prints under a run that was started with so few descriptors."""
    done = subprocess.run(
        [*command(place, *options), *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment(),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
    )
    assert done.stderr == ""
    return done.stdout


MANY = """
import mmap, sys
l = []
for i in range(int(sys.argv[1])):
    m = mmap.mmap(-1, 65536); m[0] = i % 251; l.append(m)
print(sum(m[0] == i % 251 for i, m in enumerate(l)))
for m in l[1::2]: m.close()
x = mmap.mmap(-1, 1 << 20); x[5] = 1
print(sum(m[0] == i % 251 for i, m in enumerate(l) if not i % 2))
print(open('/proc/self/maps').read().count(sys.argv[2]))
"""


def test_more_ranges_than_a_table_of_descriptors_holds(place: Path) -> None:
    """1,300 mappings, half of them given up again."""
    words = (sys.executable, "-c", MANY, "1300", str(place))
    done = run(place, *words, options=("--min-size", "64K"))
    assert (done.stdout, done.stderr) == ("1300\n650\n651\n", "")
    assert not place.exists()


def test_ranges_need_no_descriptors(place: Path) -> None:
    """400 mappings where nobody may have more than 64 descriptors."""
    words = (sys.executable, "-c", MANY, "400", str(place))
    told = limited(64, place, *words, options=("--min-size", "64K"))
    assert told == "400\n200\n201\n"


SEGMENTS = """
import mmap, os, sys
n = int(sys.argv[1]); base = f"/dev/shm/msharefs-limits-{os.getpid()}-"; l = []
for i in range(n):
    fd = os.open(base + str(i), os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 65536)
    m = mmap.mmap(fd, 65536); m[7] = i % 251; l.append(m); os.close(fd)
for i in range(n):
    fd = os.open(base + str(i), os.O_RDWR); m = mmap.mmap(fd, 65536); os.close(fd)
    assert m[7] == i % 251; m.close(); os.unlink(base + str(i))
print(open('/proc/self/maps').read().count(sys.argv[2]))
"""


def test_more_segments_than_were_allowed_once(place: Path) -> None:
    """1,100 POSIX segments at one time, each with its own bytes."""
    words = (sys.executable, "-c", SEGMENTS, "1100", str(place))
    done = run(place, *words, options=("--shm", "--min-size", "64K"))
    assert (done.stdout, done.stderr) == ("1100\n", "")


SEGMENTS_WITHOUT_DESCRIPTORS = """
import ctypes, os, sys
n = int(sys.argv[1]); base = f"/dev/shm/msharefs-limits-{os.getpid()}-"
libc = ctypes.CDLL(None); libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_long)
def window(i):
    fd = os.open(base + str(i), os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 65536)
    at = libc.mmap(None, 65536, 3, 1, fd, 0); os.close(fd)
    return ctypes.c_char.from_address(at)
for i in range(n):
    window(i).value = bytes([i])
for i in range(n):
    assert window(i).value == bytes([i])
    os.unlink(base + str(i))
print(open('/proc/self/maps').read().count(sys.argv[2]))
"""


def test_a_run_with_few_descriptors_keeps_what_it_cannot_watch(place: Path) -> None:
    """100 segments, and the collector may open 40 files: the others live until the end."""
    words = (sys.executable, "-c", SEGMENTS_WITHOUT_DESCRIPTORS, "100", str(place))
    told = limited(40, place, *words, options=("--shm", "--min-size", "64K"))
    assert told == "200\n"
    assert not place.exists()


def test_a_process_killed_with_the_runs_lock_stops_nobody(
    start: Start, place: Path, tmp_path: Path
) -> None:
    """One thread makes segments while another forks children that live on; the process is killed
    at random moments. Whoever wants a segment then gets it."""
    with compiled(Path(__file__).with_name("lock_and_fork.c")) as program:
        done = run(place, str(program), "12", options=("--shm", "--min-size", "64K"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")


def test_threads_of_many_processes_take_and_give_back(start: Start, place: Path) -> None:
    """Ranges that are too small to wait for come back a moment later."""
    work = start(place, "--min-size", "64K")
    assert work.ask(f"threads 8 30 {64 * 1024}") == "0"
    work.eventually_sizes([])
    work.map(0, 1)
    assert layout(place)[0][1] == MIB
