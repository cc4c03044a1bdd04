"""What /proc tells of processes, with names in it that look like something else."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.linux import proc
from msharefs.linux.proc import Area
from tests.helpers.waiting import eventually

DEVICE = os.makedev(0, 0x2A)
LINE = b"7f0000001000-7f0000003000 rw-s 00001000 00:2a 17        /mnt/m/r"
SMAPS = (
    LINE
    + b"""
Size:                  8 kB
Rss:                   4 kB
ShmemPmdMapped:     2048 kB
THPeligible:           0
VmFlags: rd wr sh
7f0000003000-7f0000004000 rw-s 00000000 00:2a 18        /mnt/m/other
Rss:                 400 kB
"""
)


def test_a_line_of_maps_is_taken_apart() -> None:
    """Addresses and offsets are in hexadecimal, inodes are not."""
    assert proc.areas_in(LINE + b"\n", DEVICE) == [
        Area(0x7F0000001000, 0x7F0000003000, 0x1000, "rw-s", 17)
    ]
    assert proc.areas_in(LINE + b"\n", DEVICE, 18) == []
    assert proc.areas_in(LINE + b"\n", os.makedev(0, 0x2B)) == []


@pytest.mark.parametrize(
    "path",
    [
        b"/tmp/a 00:2a 17 b",
        b"/tmp/a\r7f0000001000-7f0000003000 rw-s 00000000 00:2a 17 /mnt/m/r",
        b"/tmp/a\x0c7f0000001000-7f0000003000 rw-s 00000000 00:2a 17 /mnt/m/r",
    ],
)
def test_a_path_is_not_taken_for_a_line(path: bytes) -> None:
    """maps escapes line feeds alone."""
    line = b"7f0000005000-7f0000006000 r--p 00000000 fe:00 9 " + path + b"\n"
    assert proc.areas_in(line, DEVICE, 17) == []
    assert proc.areas_in(line + LINE, DEVICE) == proc.areas_in(LINE, DEVICE)
    (measured,) = proc.measured_areas_in(line + b"Rss: 4096 kB\n" + SMAPS, DEVICE, 17)
    assert measured.sizes[b"Rss"] == 4096


def test_smaps_measures_one_file() -> None:
    """In bytes; what has no unit is no size."""
    (measured,) = proc.measured_areas_in(SMAPS, DEVICE, 17)
    assert measured.area == proc.areas_in(LINE, DEVICE)[0]
    assert measured.sizes == {b"Size": 8192, b"Rss": 4096, b"ShmemPmdMapped": 2 << 20}


def test_our_own_areas_are_found(tmp_path: Path) -> None:
    """Of a real file, measured as well."""
    path = tmp_path / "00:2a 17 rw-s 0"
    path.write_bytes(b"x" * 2 * mmap.PAGESIZE)
    facts = path.stat()
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        assert memory[0] == ord("x")
        (area,) = proc.areas(os.getpid(), facts.st_dev, facts.st_ino)
        assert (area.size, area.offset, area.prot) == (2 * mmap.PAGESIZE, 0, "rw-s")
        smaps = proc.read_smaps(os.getpid())
        (measured,) = proc.measured_areas_in(smaps, facts.st_dev, facts.st_ino)
        assert measured.sizes[b"Rss"] >= mmap.PAGESIZE
        assert (facts.st_dev, facts.st_ino) in {
            (each.st_dev, each.st_ino) for each in proc.descriptors(os.getpid())
        }
    assert proc.areas(os.getpid(), facts.st_dev, facts.st_ino) == []


def test_a_name_with_parentheses_hides_nothing() -> None:
    """stat puts the name before the numbers, in parentheses."""
    code = "import sys; open('/proc/self/comm', 'w').write(') R 1 (');print(flush=True);input()"
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdout is not None
    child.stdout.readline()
    try:
        assert proc.stat(child.pid).parent == os.getpid()
        assert not proc.stat(child.pid).is_kernel_thread
        assert proc.name(child.pid) == b") R 1 ("
        assert proc.effective_uid(child.pid) == os.geteuid()
        assert proc.command_line(child.pid)[1:] == [b"-c", code.encode()]
    finally:
        child.communicate()


def test_who_has_ended_is_told_so() -> None:
    """The same error, whatever was asked."""
    child = subprocess.Popen(["true"])
    child.wait()
    for ask in (proc.stat, proc.effective_uid, proc.command_line, proc.name):
        with pytest.raises(ProcessLookupError):
            ask(child.pid)
    with pytest.raises(ProcessLookupError):
        proc.areas(child.pid, DEVICE)
    with pytest.raises(ProcessLookupError):
        list(proc.descriptors(child.pid))


def test_memory_is_told_in_bytes(tmp_path: Path) -> None:
    """Counts of huge pages have no unit there, and stay."""
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal:       16 kB\nHugePages_Total:       3\n")
    assert proc.meminfo(str(tmp_path)) == {"MemTotal": 16384, "HugePages_Total": 3}
    assert proc.meminfo()["MemTotal"] == os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE


@pytest.fixture
def stopped() -> Iterator[subprocess.Popen[bytes]]:
    """A process that sleeps and is stopped, so that a signal waits for it. SIGUSR1 would end it, and
    SIGHUP is blocked. A shell that starts the tests in the background has others ignored."""
    block = "import os, signal; signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})"
    heed = "; ".join(f"signal.signal({number:d}, 0)" for number in (signal.SIGINT, signal.SIGQUIT))
    run = f"{block}; {heed}; print(flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    process = subprocess.Popen([sys.executable, "-c", run], stdout=subprocess.PIPE)
    eventually(lambda: proc.stat(process.pid).state == "T")
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (signal.SIGTERM, True),
        (signal.SIGINT, True),
        (signal.SIGQUIT, True),
        (signal.SIGPROF, False),
        (signal.SIGALRM, False),
        (signal.SIGCHLD, False),
        (signal.SIGHUP, False),
    ],
)
def test_who_is_told_to_stop(
    stopped: subprocess.Popen[bytes], sent: signal.Signals, *, told: bool
) -> None:
    """By what ends something, and not by a timer, nor by what is blocked."""
    assert not proc.is_told_to_stop(stopped.pid)
    stopped.send_signal(sent)
    assert proc.is_told_to_stop(stopped.pid) == told


def test_who_cannot_be_looked_at_is_told() -> None:
    """In another PID namespace, for example: the kernel has asked, after all."""
    assert proc.is_told_to_stop(0)
