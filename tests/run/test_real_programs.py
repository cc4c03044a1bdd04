"""Real programs that know nothing of mshare: under mshare run, and with the mount as a directory.

What each needs is in docs/run.md; PostgreSQL is in the tests of the tutorial. The programs are
installed by scripts/setup_tests.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import raw
from tests.helpers.mount import Mount
from tests.run import loader
from tests.run.programs import MIB, run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=512M"
SECONDS = 60
JAVA = ("java", "-Xint", "-XX:+UseSerialGC", "-Xms64m", "-Xmx64m", "-XX:+AlwaysPreTouch")
"""All of the heap is touched, and where that ends the process it leaves no file."""
QEMU = ("qemu-system-x86_64", "-display", "none", "-monitor", "stdio", "-nodefaults", "-S")
RESET = "xp /1xb 0xffff0"
"""A question to QEMU about the first byte that a processor executes, which is in its firmware."""
MEMORY = "xp /1xb 0x1000"
"""And about its memory."""

JOBLIB = """
import joblib, numpy
from joblib.externals import loky
def total(part, n):
    return float(part[n::4].sum()), type(part).__name__
if __name__ == "__main__":
    data = numpy.arange(1 << 20, dtype=numpy.float64)
    jobs = (joblib.delayed(total)(data, n) for n in range(4))
    with joblib.Parallel(n_jobs=2, max_nbytes="1M") as parallel:
        sums, kinds = zip(*parallel(jobs))
    print(sum(sums) == float(data.sum()), set(kinds))
    # Workers would wait for more, and have the region meanwhile.
    loky.get_reusable_executor().shutdown(wait=True)
"""
OPCACHE = 'echo opcache_get_status()["memory_usage"]["free_memory"] > 100 << 20 ? "ok\n" : "no\n";'


@pytest.fixture(params=["automap", "by hand"])
def directory(request: pytest.FixtureRequest, mounted: Mount) -> Iterator[Path]:
    """A directory of the mount, whose regions have memory with their size, or have not."""
    path = mounted.path / request.param.replace(" ", "-")
    path.mkdir()
    if request.param == "automap":
        os.setxattr(path, "user.msharefs.automap", b"on")
    yield path
    shutil.rmtree(path)
    mounted.wait_until_empty()


def outcome(*words: str, told: str = "") -> tuple[int, str]:
    """The exit code of a program, and what it says."""
    done = subprocess.run(
        words,
        input=told,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
        check=False,
        cwd="/",
    )
    return done.returncode, done.stdout


def test_java_has_its_heap_in_a_directory(directory: Path) -> None:
    """-XX:AllocateHeapAt, all of it touched. Without automap its first touch is SIGBUS."""
    code, text = outcome(
        *JAVA,
        "-XX:ErrorFile=/dev/null",
        f"-XX:AllocateHeapAt={directory}",
        "-Xlog:gc+heap=info",
        "-version",
    )
    assert f"Successfully allocated Java heap at location {directory}" in text
    assert (code == 0) is (directory.name == "automap"), text


@pytest.mark.parametrize("prealloc", ["on", "off"])
def test_a_machine_has_its_memory_in_a_directory(directory: Path, prealloc: str) -> None:
    """QEMU's mem-path=: what the machine has is in the region. Without automap it says why not, or ends
    with SIGBUS."""
    file = directory / "ram"
    memory = f"memory-backend-file,id=m,size=64M,mem-path={file},share=on,prealloc={prealloc}"
    told = f"{RESET}\n{MEMORY}\nquit\n"
    code, text = outcome(*QEMU, "-M", "pc,accel=tcg,memory-backend=m", "-object", memory, told=told)
    assert (code == 0) is (directory.name == "automap"), text
    if code == 0:
        assert re.search(r"ffff0: 0xea", text)
        assert raw.mapped_ranges(file) == [(0, 64 * MIB)]
    elif prealloc == "on":
        assert "preallocating memory failed" in text
    else:
        assert code == -signal.SIGBUS


def test_opcache_is_in_the_region(place: Path) -> None:
    """PHP loads it with RTLD_DEEPBIND, past libraries that are preloaded."""
    php = ("php", "-d", "opcache.enable_cli=1", "-d", "opcache.memory_consumption=128")
    done = run(place, *php, "-r", OPCACHE, options=("--strict", "-v"))
    assert done.stdout == "ok\n"
    assert "128 MiB of shared anonymous memory live in the region" in done.stderr


def test_batches_of_a_loader_are_in_the_region(place: Path) -> None:
    """Both strategies: every batch arrives, and lives in the region on its way."""
    done = run(place, sys.executable, loader.__file__, options=("--shm", "--min-size", "1M", "-v"))
    numbers = list(range(loader.BATCHES))
    assert done.stdout == f"({numbers}, {numbers})\n", done.stderr
    lines = done.stderr.count("8 MiB of POSIX shared memory live in the region")
    assert lines == 2 * loader.BATCHES


def test_joblib_works_and_stays_where_it_is(place: Path, mounted: Mount, tmp_path: Path) -> None:
    """Its arrays are written into files of /dev/shm before they are mapped: they are not moved."""
    program = tmp_path / "program.py"
    program.write_text(JOBLIB)
    done = run(place, sys.executable, str(program), options=("--shm", "--min-size", "1M", "-v"))
    assert done.stdout == "True {'memmap'}\n", done.stderr
    assert "live in the region" not in done.stderr
    mounted.wait_until_empty()
