"""mshare run --shm: the same answers as /dev/shm gives.

The same program runs plainly and under the run, and what it prints is compared: short habits of
real programs, and thousands of random calls.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.run.comparison import differences
from tests.run.programs import run

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=2G"

START = """
import ctypes, mmap, os, socket, sys
n = 80 << 20
name = f"/dev/shm/msharefs-answers-{os.getpid()}"
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = (ctypes.c_void_p, *(ctypes.c_size_t,), *(ctypes.c_int,) * 3, ctypes.c_long)
libc.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long)
fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL)
def make(size=n):
    os.ftruncate(fd, size)
    return mmap.mmap(fd, size)
def where():
    return "run" if "/region" in open("/proc/self/maps").read() else "plain"
def code(result):
    return result if result >= 0 else os.strerror(ctypes.get_errno())
"""
END = "\nos.unlink(name)\nprint(where(), file=sys.stderr)\n"

HABITS = {
    "an old segment opened with O_TRUNC": (
        """
m = make(); m[5] = 65; m.close(); os.close(fd)
fd = os.open(name, os.O_RDWR | os.O_TRUNC); m = make(); print(m[5])
""",
        "0",
    ),
    "truncate by the path, down and up": (
        """
m = make(); m[5] = m[4097] = 65; os.truncate(name, 7); os.truncate(name, n)
print(m[5], m[4097])
""",
        "65 0",
    ),
    "truncate by the path, down within a page and up": (
        """
m = make(); m[100] = m[200] = 65; os.truncate(name, 300); os.truncate(name, 150)
os.truncate(name, n); print(m[100], m[200])
""",
        "65 0",
    ),
    "ftruncate down and up, into a page": (
        """
m = make(); m[100] = m[200] = 65; os.ftruncate(fd, 150); os.ftruncate(fd, n)
print(m[100], m[200])
""",
        "65 0",
    ),
    "behind the end, within the last page": (
        """
os.ftruncate(fd, n); m = mmap.mmap(fd, n); end = n - 4000; reader = os.open(name, os.O_RDONLY)
def fill():
    os.ftruncate(fd, end); m[end + 8] = 65
fill(); print(code(libc.ftruncate(reader, n + 4096)), m[end + 8], os.fstat(fd).st_size == end)
fill(); print(code(libc.ftruncate(reader, end)), m[end + 8])
fill(); os.ftruncate(fd, end); print(m[end + 8])
fill(); os.truncate(name, end); print(m[end + 8])
""",
        "Invalid argument 65 True\nInvalid argument 65\n0\n0",
    ),
    "opened for writing by the C library": (
        """
m = make(); m[5] = 65; libc.fopen.restype = ctypes.c_void_p
libc.fopen(name.encode(), b'w'); os.ftruncate(fd, n); print(m[5])
""",
        "0",
    ),
    "grown, and the window with it": (
        """
m = make(); m[0] = 1; m.resize(3 * n); m[3 * n - 1] = 2; print(m[0], len(m))
""",
        "1 251658240",
    ),
    "a window for what is to come": (
        """
os.ftruncate(fd, n); p = libc.mmap(None, 16 * n, 3, 1, fd, 0)
os.ftruncate(fd, 4 * n); ctypes.memset(p + 4 * n - 1, 7, 1)
print(os.pread(fd, 1, 4 * n - 1))
""",
        "b'\\x07'",
    ),
    "sized by its path": (
        """
os.truncate(name, n); m = mmap.mmap(fd, n); m[n - 1] = 1; print(m[n - 1])
""",
        "1",
    ),
    "read and written by descriptor": (
        """
m = make(); m[100] = 77; print(os.pread(fd, 1, 100), os.pwrite(fd, b'W', 200), m[200])
os.lseek(fd, -3, os.SEEK_END); print(os.write(fd, b'abcdef'), os.fstat(fd).st_size - n)
os.lseek(fd, -6, os.SEEK_END); print(os.read(fd, 9), bytes(m[n - 3:]))
""",
        "b'M' 1 87\n6 3\nb'abcdef' b'abc'",
    ),
    "copied by another file": (
        """
m = make(); m[4 << 20] = 9; import shutil; other = name + '-copy'
shutil.copyfile(name, other); data = open(other, 'rb').read(); os.unlink(other)
print(len(data), data[4 << 20], sum(data))
""",
        "83886080 9 9",
    ),
    "holes punched": (
        """
m = make(); m[5] = m[n - 1] = m[4100] = 1
print(code(libc.fallocate(fd, 3, 0, 4098)), m[5], m[4100], m[n - 1])
m[5] = 2; m.madvise(mmap.MADV_REMOVE, 4096, 4096); print(m[5], m[4100], m[n - 1])
""",
        "0 0 1 1\n2 0 1",
    ),
    "modes that tmpfs does not know": (
        """
m = make(); print(*(code(libc.fallocate(fd, mode, 0, 4096)) for mode in (16, 17, 8, 32, 2)))
""",
        "Operation not supported Operation not supported Operation not supported Operation not supported Operation not supported",
    ),
    "an object store: no name, allocated, passed on": (
        """
os.close(fd); fd = os.open('/dev/shm', os.O_TMPFILE | os.O_RDWR)
os.posix_fallocate(fd, 0, n); m = mmap.mmap(fd, n); m[1000] = 3
a, b = socket.socketpair(); pid = os.fork()
if not pid:
    m.close(); os.close(fd); got = socket.recv_fds(b, 1, 1)[1][0]
    w = mmap.mmap(got, n); w[2000] = w[1000] + 6; os._exit(0)
socket.send_fds(a, [b'x'], [fd]); os.waitpid(pid, 0); print(m[2000])
""",
        "9",
    ),
    "only to be read, through another descriptor": (
        """
m = make(); m[n - 1] = 8; r = os.open(f'/proc/self/fd/{fd}', os.O_RDONLY)
w = mmap.mmap(r, n, prot=mmap.PROT_READ); print(w[n - 1])
try: os.pwrite(r, b'x', 0)
except OSError as error: print(error.strerror)
""",
        "8\nBad file descriptor",
    ),
    "an odd size": (
        """
m = make(n + 12345); m[n + 12344] = 1; print(os.fstat(fd).st_size - n, m[n + 12344])
""",
        "12345 1",
    ),
    "mapped before it has a size": (
        """
p = libc.mmap(None, n, 3, 1, fd, 0); os.ftruncate(fd, n)
ctypes.memset(p, 6, 1); print(mmap.mmap(fd, n)[0])
""",
        "6",
    ),
    "all of it is data": (
        """
m = make(); m[n - 1] = 1; print(os.lseek(fd, n - 1, os.SEEK_DATA) - n, os.lseek(fd, n - 1, os.SEEK_HOLE) - n)
""",
        "-1 0",
    ),
    "private windows": (
        """
m = make(); m[7] = 3; w = mmap.mmap(fd, n, flags=mmap.MAP_PRIVATE); w[7] = 9
print(m[7], w[7])
""",
        "3 9",
    ),
    "written to before it is mapped": (
        """
os.write(fd, b'early'); m = make(); print(bytes(m[:5]), where() * 0)
""",
        "b'early' ",
    ),
}


@pytest.mark.parametrize("habit", HABITS)
def test_habits_of_programs(mounted: Mount, habit: str) -> None:
    """Each gives what it gives on /dev/shm, and its memory is the region's, but where bytes were
    in the file before."""
    body, expected = HABITS[habit]
    command = [sys.executable, "-c", START + body + END]
    plain = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (plain.stdout, plain.stderr) == (expected + "\n", "plain\n")
    region = mounted.path / "region"
    under = run(region, *command, options=("--shm",))
    assert under.stdout == expected + "\n", under.stderr
    where = "plain" if habit == "written to before it is mapped" else "run"
    assert under.stderr == where + "\n"


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_random_calls(mounted: Mount, answers: Path, seed: int) -> None:
    """Two processes and 1,500 calls: every answer and every byte is the same."""
    assert differences(answers, mounted.path / "region", seed, 1500, "within") == []


@pytest.mark.parametrize("seed", [4, 5])
def test_random_calls_with_exact_holes(make_mount: MakeMount, answers: Path, seed: int) -> None:
    """On the paged data plane also what lies beyond the ends of segments."""
    mount = make_mount("size=1G,data=paged")
    assert differences(answers, mount.path / "region", seed, 800, "beyond") == []
