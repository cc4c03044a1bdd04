"""mshare run: nothing is given back that anybody can still reach, and nothing else is kept.

Who holds a segment may have it in a place where nobody can look: a message that is not read yet, a
directory, a process of another user.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from msharefs import Region
from tests.helpers.mount import Mount
from tests.helpers.users import ALICE
from tests.helpers.waiting import eventually
from tests.run.conftest import Start
from tests.run.programs import MIB, name_of_memory, planes, run, sizes

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=512M"
PLANES = planes()
SIZE = 64 * MIB

START = f"""
import array, ctypes, mmap, os, socket, sys, time
n = {SIZE}
base = f"/dev/shm/msharefs-life-{{os.getpid()}}"
def put(fd):
    os.ftruncate(fd, n)
    m = mmap.mmap(fd, n); m[4096:4104] = b"precious"; m.close()
def get(fd):
    m = mmap.mmap(fd, n); print(bytes(m[4096:4104]))
    print("/region" in open("/proc/self/maps").read())
def stir():
    # What a program does meanwhile, and long enough for a look at everything.
    for _ in range(3):
        m = mmap.mmap(-1, n); m[0] = 1; m.close(); time.sleep(0.1)
"""

PLACES = {
    "a file in a directory": """
os.mkdir(base); fd = os.open(base + "/f", os.O_RDWR | os.O_CREAT); put(fd); os.close(fd); stir()
get(os.open(base + "/f", os.O_RDWR)); os.unlink(base + "/f"); os.rmdir(base)
""",
    "a name": """
fd = os.open(base, os.O_RDWR | os.O_CREAT); put(fd); os.close(fd); stir()
get(os.open(base, os.O_RDWR)); os.unlink(base)
""",
    "another name": """
fd = os.open(base, os.O_RDWR | os.O_CREAT); put(fd); os.close(fd)
os.link(base, base + "-2"); os.unlink(base); stir()
get(os.open(base + "-2", os.O_RDWR)); os.unlink(base + "-2")
""",
    "a descriptor": """
fd = os.open(base, os.O_RDWR | os.O_CREAT); os.unlink(base); put(fd); stir(); get(fd)
""",
    "two names once, one descriptor of each": """
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR); put(fd)
os.link(f"/proc/self/fd/{fd}", base, src_dir_fd=os.open("/", os.O_PATH))
other = os.open(base, os.O_RDONLY); os.unlink(base); os.close(fd); stir()
m = mmap.mmap(other, n, prot=mmap.PROT_READ); print(bytes(m[4096:4104])); print(True)
""",
    "a message": """
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR); put(fd)
a, b = socket.socketpair(); socket.send_fds(a, [b"x"], [fd]); os.close(fd); stir()
get(socket.recv_fds(b, 1, 1)[1][0])
""",
    "a message in a message": """
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR); put(fd)
a, b = socket.socketpair(); c, d = socket.socketpair()
socket.send_fds(a, [b"x"], [fd]); os.close(fd)
socket.send_fds(c, [b"x"], [b.fileno()]); b.close(); stir()
b = socket.socket(fileno=socket.recv_fds(d, 1, 1)[1][0]); get(socket.recv_fds(b, 1, 1)[1][0])
""",
    "a process that waits": """
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR); put(fd); r, w = os.pipe()
if not os.fork():
    os.read(r, 1); get(fd); sys.stdout.flush(); os._exit(0)
os.close(fd); stir(); os.write(w, b"x"); os.wait()
""",
}


@pytest.mark.parametrize("place", PLACES)
def test_a_segment_lives_as_long_as_it_can_be_reached(mounted: Mount, place: str) -> None:
    """Nobody has it attached for a moment, and the bytes are still there."""
    script = START + PLACES[place]
    done = run(mounted.path / "region", sys.executable, "-c", script, options=("--shm",))
    assert (done.stdout, done.stderr) == ("b'precious'\nTrue\n", "")
    mounted.wait_until_empty()


def test_a_segment_goes_with_its_last_descriptor(start: Start, place: Path) -> None:
    """A close tells nobody, and yet the memory comes back at once."""
    work = start(place, "--shm")
    work.ok("openat 0", f"truncate 0 {SIZE}", f"mapfile 0 0 {SIZE} 0", "unmap 0")
    assert sizes(place) == [64]
    work.ask("fork")
    work.ok("close 0")
    assert sizes(place) == [64]
    work.ok(">close 0")
    work.eventually_sizes([])


HELD_UP = """
import errno, struct, threading
FAN_CLASS_CONTENT, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD = 4, 1, 0x10000, -100
libc = ctypes.CDLL(None, use_errno=True)
libc.fanotify_mark.argtypes = [ctypes.c_int, ctypes.c_uint, ctypes.c_uint64, ctypes.c_int,
                               ctypes.c_char_p]
fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR); put(fd)
watch = libc.fanotify_init(FAN_CLASS_CONTENT, os.O_RDONLY)
def gone():
    return b'"mappings": []' in os.getxattr(os.environ["MSHAREFS_REGION"], "user.msharefs.layout")
"""
CLOSED_MEANWHILE = (
    HELD_UP
    + """
libc.mmap.restype = ctypes.c_ssize_t
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
def map_it():
    at = libc.mmap(None, n, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    print(errno.errorcode[ctypes.get_errno()] if at == -1 else "mapped", flush=True)
run_file = os.environ["MSHAREFS_RUN"].encode()
print(libc.fanotify_mark(watch, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, run_file), flush=True)
thread = threading.Thread(target=map_it); thread.start()
os.read(watch, 4096); os.close(fd)
while not gone():
    time.sleep(0.01)
os.close(watch); thread.join()
"""
)
READ_MEANWHILE = (
    HELD_UP
    + """
def read_it():
    try:
        print(os.pread(fd, 8, 4096), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno], flush=True)
region = os.environ["MSHAREFS_REGION"].encode()
print(libc.fanotify_mark(watch, FAN_MARK_ADD, FAN_OPEN_PERM, AT_FDCWD, region), flush=True)
thread = threading.Thread(target=read_it); thread.start()
def one_opens():
    about, _, opened, pid = struct.unpack("=8sQii", os.read(watch, 24))
    return opened, pid
opened, pid = one_opens(); os.close(fd)
def let_others():
    while True:
        other, pid = one_opens()
        os.write(watch, struct.pack("=iI", other, 1)); os.close(other)
threading.Thread(target=let_others, daemon=True).start()
while not gone():
    time.sleep(0.01)
os.write(watch, struct.pack("=iI", opened, 1)); thread.join()
"""
)


@pytest.mark.root_only("holds up a thread that opens a file")
def test_a_descriptor_that_is_closed_while_it_is_mapped(place: Path) -> None:
    """One thread is in mmap and about to tell what it will have, for which the run's file is
    opened; another one closes the last descriptor, and the segment goes. It is not mapped then."""
    script = START + CLOSED_MEANWHILE
    done = run(place, sys.executable, "-c", script, options=("--shm",))
    assert (done.stdout, done.stderr) == ("0\nEBADF\n", "")


@pytest.mark.root_only("holds up a thread that opens a file")
def test_a_descriptor_that_is_closed_while_it_is_read(place: Path) -> None:
    """One thread reads, and is about to open the region for it; another one closes the last
    descriptor, and the segment goes. The close came first then."""
    script = START + READ_MEANWHILE
    done = run(place, sys.executable, "-c", script, options=("--shm",))
    assert (done.stdout, done.stderr) == ("0\nEBADF\n", "")


def test_memory_of_another_users_process_stays(place: Path) -> None:
    """A child becomes another user, whom nobody can look into, and is all that has a range."""
    script = (
        "import mmap, os, time\n"
        f"m = mmap.mmap(-1, {SIZE}); m[5] = 1; r, w = os.pipe(); pid = os.fork()\n"
        "if not pid:\n"
        f"    os.setuid({ALICE}); os.read(r, 1); print(m[5], flush=True); os._exit(0)\n"
        "m.close()\n"
        f"for _ in range(3): x = mmap.mmap(-1, {SIZE}); x.close(); time.sleep(0.1)\n"
        "os.write(w, b'x'); os.wait()"
    )
    done = run(place, sys.executable, "-c", script)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_memory_of_a_process_in_a_pid_namespace_of_its_own_stays(place: Path) -> None:
    """Where process numbers are others, and the child has no /proc at all."""
    script = (
        "import ctypes, mmap, os, time\n"
        f"m = mmap.mmap(-1, {SIZE}); m[5] = 1; r, w = os.pipe()\n"
        "assert ctypes.CDLL(None).unshare(0x20000000 | 0x00020000) == 0; pid = os.fork()\n"
        "if not pid:\n"
        "    os.read(r, 1); print(m[5], flush=True)\n"
        f"    x = mmap.mmap(-1, {SIZE}); x[0] = 2; print(x[0], flush=True); os._exit(0)\n"
        "m.close(); time.sleep(0.2); os.write(w, b'x'); os.waitpid(pid, 0)"
    )
    done = run(place, sys.executable, "-c", script)
    assert (done.stdout, done.stderr) == ("1\n2\n", "")


def test_a_range_that_a_clone_has_stays(place: Path) -> None:
    """A child that was made by a system call, without the C library's knowing."""
    script = (
        "import ctypes, mmap, os, time\n"
        f"m = mmap.mmap(-1, {SIZE}); m[5] = 1; r, w = os.pipe()\n"
        "pid = ctypes.CDLL(None).syscall(56, 17, 0, 0, 0, 0)\n"
        "if not pid:\n"
        "    os.read(r, 1); print(m[5], flush=True); os._exit(0)\n"
        f"m.close(); x = mmap.mmap(-1, {SIZE}); x.close(); time.sleep(0.2)\n"
        "os.write(w, b'x'); os.waitpid(pid, 0)"
    )
    done = run(place, sys.executable, "-c", script)
    assert (done.stdout, done.stderr) == ("1\n", "")


def test_pages_in_a_pipe_stay_as_they_were(place: Path) -> None:
    """What was put into a pipe without a copy (vmsplice) is unmapped, and the memory is mapped anew and
    written to: the pipe has the old bytes, and the new mapping began with zeros."""
    script = (
        "import ctypes, mmap, os, struct\n"
        f"libc = ctypes.CDLL(None); m = mmap.mmap(-1, {SIZE}); m[4096:4099] = b'old'\n"
        "at = ctypes.addressof(ctypes.c_char.from_buffer(m)); r, w = os.pipe()\n"
        "assert libc.vmsplice(w, struct.pack('PN', at + 4096, 4096), ctypes.c_size_t(1), 0) == 4096\n"
        f"assert libc.munmap(ctypes.c_void_p(at), ctypes.c_size_t({SIZE})) == 0\n"
        f"x = mmap.mmap(-1, {SIZE}); found = x[4096:4099]; x[4096:4099] = b'new'\n"
        "print(os.read(r, 4096)[:3], found, flush=True); os._exit(0)"
    )
    done = run(place, sys.executable, "-c", script)
    assert (done.stdout, done.stderr) == ("b'old' b'\\x00\\x00\\x00'\n", "")


def test_memory_comes_back_while_many_processes_live(start: Start, place: Path) -> None:
    """Two hundred children share older memory: what the parent maps and unmaps after that is
    nobody else's, and is given back."""
    work = start(place)
    work.map(0, 64)
    assert work.ask("children 200") == "200"
    for _ in range(3):
        work.map(1, 65)
        work.ok("unmap 1")
        assert sizes(place) == [64]
    work.ok("unmap 0")
    assert sizes(place) == [64]


def test_the_kernel_may_refuse_the_witness(place: Path) -> None:
    """No descriptor is left for a moment: the program gets the kernel's memory and keeps it."""
    script = (
        "import mmap, os, resource\n"
        f"a = mmap.mmap(-1, {SIZE}); a[1] = 1\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n"
        f"b = mmap.mmap(-1, {SIZE}); b[1] = 2; a.close()\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); print(b[1])"
    )
    done = run(place, sys.executable, "-c", script)
    assert done.stdout == "2\n"
    assert "no descriptor is left (EMFILE)" in done.stderr
    eventually(lambda: not place.exists())


def test_a_shell_keeps_nothing_that_its_children_had(place: Path, program: Path) -> None:
    """Ten programs one after the other, each with 400 MiB of a mount of 512."""
    one = f"printf 'map 0 {400 * MIB} 0\\nput 0 5 1\\nwhere 0\\n' | {program} | tail -1"
    with Region.create(place, 1024 * MIB) as region:
        memory = name_of_memory(place)
        done = run(place, "sh", "-c", "; ".join([one] * 10))
        assert (done.stdout, done.stderr) == (f"{memory}\n" * 10, "")
        assert region.layout().mapped == 0
