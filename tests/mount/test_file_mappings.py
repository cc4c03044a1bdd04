"""CREATE_MAPPING of files: the bytes that come, the files that may be mapped, and hostile callers."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.file_processes import broker_of, end, helpers_of, kill_broker
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import HUGE, PAGE, map_file, opened, refused
from tests.helpers.users import ALICE, as_user, in_child
from tests.helpers.waiting import eventually

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096,log_level=debug"

SIZE = 4 * HUGE
DEATHS = "the server ended with -9"
SEALS = {
    "SEAL": fcntl.F_SEAL_SEAL,
    "SHRINK": fcntl.F_SEAL_SHRINK,
    "GROW": fcntl.F_SEAL_GROW,
    "WRITE": fcntl.F_SEAL_WRITE,
    "FUTURE_WRITE": 0x10,
}


@pytest.fixture
def region(mounted: mount.Mount, place: Path) -> Iterator[int]:
    """A region of 8 MiB with nothing in it, open."""
    with raw.region(place, SIZE) as fd:
        yield fd


@pytest.fixture
def data() -> bytes:
    """A file's worth of bytes, some pages and a part."""
    return os.urandom(9 * PAGE + 1234)


@pytest.fixture
def file(tmp_path: Path, data: bytes) -> Iterator[int]:
    """A file with these bytes, open for reading."""
    path = tmp_path / "file"
    path.write_bytes(data)
    with opened(path, os.O_RDONLY) as fd:
        yield fd


@contextmanager
def attached(fd: int, size: int = SIZE) -> Iterator[mmap.mmap]:
    """A window on a region, to read from."""
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as window:
        yield window


@contextmanager
def nothing_changes(region: int, code: int) -> Iterator[None]:
    """The call is refused with this errno, and the layout is what it was."""
    before = raw.layout(region)
    with refused(code):
        yield
    assert raw.layout(region) == before


# Bytes


def test_the_bytes_of_a_file(region: int, file: int, data: bytes) -> None:
    """C17: they are there when the ioctl returns, zeros behind the end; nothing is beside them."""
    with attached(region) as window:
        map_file(region, 2 * PAGE, 12 * PAGE, file)
        assert window[2 * PAGE : 14 * PAGE] == data.ljust(12 * PAGE, b"\0")
    assert raw.mapped_ranges(region) == [(2 * PAGE, 14 * PAGE)]
    assert os.fstat(region).st_blocks * 512 == 12 * PAGE


def test_the_descriptor_may_be_closed(region: int, tmp_path: Path, data: bytes) -> None:
    """C17: it is not needed any more, and neither is the file; its position is where it was."""
    path = tmp_path / "gone"
    path.write_bytes(data)
    with opened(path) as fd:
        os.lseek(fd, 17, os.SEEK_SET)
        map_file(region, 0, 9 * PAGE, fd)
        assert os.lseek(fd, 0, os.SEEK_CUR) == 17
        os.pwrite(fd, bytes(PAGE), 0)
    path.unlink()
    with attached(region) as window:
        assert window[: 9 * PAGE] == data[: 9 * PAGE]


def test_a_file_takes_the_place_of_what_is_mapped(region: int, file: int, data: bytes) -> None:
    """C7, C17: mappings in the range go, the rest of them stays; holes are filled."""
    raw.create_mapping(region, 0, 4 * PAGE)
    raw.create_mapping(region, 6 * PAGE, 4 * PAGE)
    with mmap.mmap(region, SIZE) as window:
        window[: 4 * PAGE] = b"a" * (4 * PAGE)
        window[6 * PAGE : 10 * PAGE] = b"b" * (4 * PAGE)
        map_file(region, 2 * PAGE, 6 * PAGE, file, offset=PAGE)
        expected = b"a" * (2 * PAGE) + data[PAGE : 7 * PAGE] + b"b" * (2 * PAGE)
        assert window[: 10 * PAGE] == expected
    assert raw.mapped_ranges(region) == [(0, 10 * PAGE)]


def test_a_large_file_in_huge_pages_and_pieces(region: int, tmp_path: Path) -> None:
    """C17: also over what lies in many pieces."""
    data = os.urandom(SIZE)
    path = tmp_path / "large"
    path.write_bytes(data)
    for page in range(0, SIZE // PAGE, 2):
        raw.create_mapping(region, page * PAGE, PAGE)
    with opened(path, os.O_RDONLY) as fd:
        map_file(region, 0, SIZE, fd)
    with attached(region) as window:
        assert window[:] == data


def test_beyond_the_end_of_a_file(region: int, file: int) -> None:
    """C22: zeros, however far; an empty file too."""
    map_file(region, 0, 2 * PAGE, file, offset=1 << 40)
    empty = os.memfd_create("empty")
    map_file(region, 2 * PAGE, 2 * PAGE, empty)
    os.close(empty)
    with attached(region) as window:
        assert not any(window[: 4 * PAGE])


def test_layout_names_the_file(region: int, file: int, tmp_path: Path) -> None:
    """C17: device, inode, offset, who mapped it and its name; of each part of it, too."""
    map_file(region, 0, 4 * PAGE, file, offset=2 * PAGE)
    raw.unmap(region, PAGE, PAGE)
    facts = os.fstat(file)
    names = {"device": facts.st_dev, "inode": facts.st_ino, "path": str(tmp_path / "file")}
    found = [mapping["file"] for mapping in raw.layout(region)["mappings"]]
    uid = os.geteuid()
    assert found == [
        {**names, "offset": 2 * PAGE, "uid": uid},
        {**names, "offset": 4 * PAGE, "uid": uid},
    ]


def test_memory_is_not_there(region: int, mounted: mount.Mount, file: int) -> None:
    """C9: over the size of the mount is ENOMEM, before a byte is read."""
    with opened(mounted.path / "other", os.O_RDWR | os.O_CREAT) as other:
        os.ftruncate(other, 1 << 30)
        with nothing_changes(other, errno.ENOMEM):
            map_file(other, 0, 1 << 30, file)
        os.unlink(mounted.path / "other")


# What may be mapped


@pytest.mark.parametrize(
    ("path", "flags", "code"),
    [
        ("/tmp", os.O_RDONLY, errno.ENODEV),
        ("/dev/zero", os.O_RDWR, errno.ENODEV),
        ("/dev/null", os.O_RDWR, errno.ENODEV),
        ("/proc/self/mem", os.O_RDONLY, errno.ENODEV),
        ("/proc/version", os.O_RDONLY, errno.ENODEV),
        ("/sys/kernel/mm/transparent_hugepage/enabled", os.O_RDONLY, errno.ENODEV),
        ("/etc/passwd", os.O_PATH, errno.EBADF),
        ("/etc", os.O_PATH, errno.EBADF),
    ],
)
def test_what_is_no_file_of_a_disk(region: int, path: str, flags: int, code: int) -> None:
    """C21: refused before a byte of it is read."""
    with opened(path, flags) as fd, nothing_changes(region, code):
        map_file(region, 0, PAGE, fd)


def test_memory_of_the_machine(region: int, tmp_path: Path) -> None:
    """C21: a device node that stands for it."""
    if not mount.PRIVILEGED:
        with opened("/dev/full", os.O_RDONLY) as fd, nothing_changes(region, errno.ENODEV):
            map_file(region, 0, PAGE, fd)
        return
    node = tmp_path / "mem"
    os.mknod(node, 0o600 | 0o020000, os.makedev(1, 1))
    try:
        fd = os.open(node, os.O_RDONLY)
    except OSError:
        # A kernel without it; the next best is /dev/port's neighbour.
        fd = os.open("/dev/full", os.O_RDONLY)
    with nothing_changes(region, errno.ENODEV):
        map_file(region, 0, PAGE, fd)
    os.close(fd)


def test_pipes_and_sockets(region: int, tmp_path: Path) -> None:
    """C21: a FIFO that nobody writes to, a pipe, a socket, an epoll descriptor."""
    os.mkfifo(tmp_path / "fifo")
    fifo = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    reader, writer = os.pipe()
    here, there = socket.socketpair()
    for fd in (fifo, reader, writer, here.fileno()):
        with nothing_changes(region, errno.ENODEV):
            map_file(region, 0, PAGE, fd)
    for fd in (fifo, reader, writer):
        os.close(fd)
    here.close()
    there.close()


def test_files_of_msharefs(
    region: int, mounted: mount.Mount, place: Path, make_mount: MakeMount
) -> None:
    """C21: a region, of this mount or another, and mshare_info: EINVAL, and nobody waits."""
    other = make_mount("size=16M,align=4096")
    with raw.region(other.path / "r", HUGE, mapped=True) as foreign:
        for fd in (region, foreign):
            with nothing_changes(region, errno.EINVAL):
                map_file(region, 0, PAGE, fd)
    with opened(mounted.path / "mshare_info", os.O_RDONLY) as fd:
        with nothing_changes(region, errno.EINVAL):
            map_file(region, 0, PAGE, fd)


@pytest.mark.parametrize("seal", SEALS)
def test_sealed_memory(region: int, seal: str) -> None:
    """C17, C24: any seal may be read; those against writing are EPERM with PROT_WRITE."""
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, b"sealed bytes")
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS[seal])
    if seal.endswith("WRITE"):
        with nothing_changes(region, errno.EPERM):
            map_file(region, 0, PAGE, fd, prot=raw.RW)
    else:
        map_file(region, 0, PAGE, fd, prot=raw.RW)
    map_file(region, 0, PAGE, fd)
    os.close(fd)
    with attached(region) as window:
        assert window[:12] == b"sealed bytes"


def test_secret_memory(region: int) -> None:
    """C21: memfd_secret(2) has nothing to be read; where the kernel has none, a closed number."""
    fd = ctypes.CDLL(None).syscall(447, 0)
    with nothing_changes(region, errno.ENODEV if fd >= 0 else errno.EBADF):
        map_file(region, 0, PAGE, fd if fd >= 0 else 4321)
    if fd >= 0:
        os.close(fd)


@pytest.mark.parametrize(
    ("flags", "prot", "code"),
    [
        (os.O_WRONLY, raw.PROT_READ, errno.EACCES),
        (os.O_WRONLY, 0, errno.EACCES),
        (os.O_RDONLY, raw.RW, errno.EACCES),
        (os.O_RDWR | os.O_APPEND, raw.RW, errno.EACCES),
        (os.O_RDONLY, raw.PROT_READ | raw.PROT_EXEC, errno.EPERM),
        (os.O_RDONLY | os.O_DIRECT, raw.PROT_READ, errno.EINVAL),
    ],
)
def test_how_it_was_opened(region: int, tmp_path: Path, flags: int, prot: int, code: int) -> None:
    """C23, C24: the way in which the caller has it open is all that counts."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    with opened(path, flags) as fd, nothing_changes(region, code):
        map_file(region, 0, PAGE, fd, prot=prot)


@pytest.mark.parametrize("offset", [1, 512, PAGE + 1, (1 << 63) - PAGE, (1 << 64) - PAGE])
def test_where_it_begins(region: int, file: int, offset: int) -> None:
    """C25: an offset that is not page aligned, or beyond any file."""
    with nothing_changes(region, errno.EINVAL):
        map_file(region, 0, PAGE, file, offset=offset)


def test_overlap_comes_before_the_file(region: int) -> None:
    """C8: EEXIST also where the descriptor would not do."""
    raw.create_mapping(region, 0, PAGE)
    flags = raw.FROM_FILE | raw.MAP_FIXED_NOREPLACE
    with nothing_changes(region, errno.EEXIST):
        raw.create_mapping(region, 0, PAGE, prot=raw.PROT_READ, flags=flags, file=4321)


# How many


def test_how_many_the_mount_may_have(make_mount: MakeMount, file: int) -> None:
    """Q3, Q6: ENFILE, also for an UNMAP that makes two of one; what replaces one is none more. The
    limit is changed while it is in use, not below what is there, and status and metrics tell. The
    next server counts what is there."""
    command = [sys.executable, "-P", "-m", "msharefs.cli.main"]
    limited = make_mount("size=16M,align=4096,max_files=2")
    limited.expect_log(DEATHS)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*command, *words], capture_output=True, text=True, check=False)

    with raw.region(limited.path / "r", SIZE) as fd:
        for page in (0, 4):
            map_file(fd, page * PAGE, 3 * PAGE, file)
        with nothing_changes(fd, errno.ENFILE):
            map_file(fd, 8 * PAGE, PAGE, file)
        with nothing_changes(fd, errno.ENFILE):
            raw.unmap(fd, PAGE, PAGE)
        map_file(fd, 0, 3 * PAGE, file, offset=PAGE)
        raw.create_mapping(fd, 8 * PAGE, PAGE)
        os.kill(limited.server_pid, signal.SIGKILL)
        with nothing_changes(fd, errno.ENFILE):
            map_file(fd, 9 * PAGE, PAGE, file)
        assert limited.status()["files"] == {"limit": 2, "mapped": 2}
        assert "(2 of files)" in run("status", str(limited.path)).stdout
        assert "msharefs_mapped_files{" in run("status", "--prometheus", str(limited.path)).stdout
        assert run("set", str(limited.path), "max_files=1").returncode != 0
        assert run("set", str(limited.path), "max_files=3").returncode == 0
        map_file(fd, 9 * PAGE, PAGE, file)
        raw.unmap(fd, 0, 8 * PAGE)
        assert limited.status()["files"] == {"limit": 3, "mapped": 1}
    eventually(lambda: limited.status()["files"]["mapped"] == 0)


@pytest.mark.root_only("becomes another user")
def test_how_many_a_user_may_have(make_mount: MakeMount, file: int) -> None:
    """Q3: EDQUOT beyond user_files=, in all his regions; memory he may map still."""
    limited = make_mount("size=16M,align=4096,max_files=2,user_files=1")

    def use_up() -> None:
        with (
            raw.region(limited.path / "a", SIZE) as one,
            raw.region(limited.path / "b", SIZE) as two,
        ):
            map_file(one, 0, PAGE, file)
            for fd in (one, two):
                with nothing_changes(fd, errno.EDQUOT):
                    map_file(fd, 4 * PAGE, PAGE, file)
                raw.create_mapping(fd, 4 * PAGE, PAGE)
            raw.unmap(one, 0, PAGE)
            map_file(two, 0, PAGE, file)

    as_user(ALICE, use_up)


# Callers


@pytest.mark.root_only("becomes another user")
def test_a_caller_without_rights_to_the_path(
    region: int, place: Path, tmp_path: Path, data: bytes
) -> None:
    """C17: who was given an open file may map it, as he may read it; by its name he may not."""
    path = tmp_path / "private"
    path.write_bytes(data)
    path.chmod(0o600)
    os.chmod(place, 0o666)
    with opened(path, os.O_RDONLY) as fd:

        def map_it() -> None:
            with opened(place) as theirs:
                map_file(theirs, 0, 9 * PAGE, fd)

        as_user(ALICE, map_it)
    with attached(region) as window:
        assert window[: 9 * PAGE] == data[: 9 * PAGE]
    assert raw.layout(region)["mappings"][0]["file"]["uid"] == ALICE


def test_a_thread_maps_a_file(region: int, file: int, data: bytes) -> None:
    """C16, C17: the caller is a thread, and has what its process has."""
    worker = threading.Thread(target=map_file, args=(region, 0, PAGE, file))
    worker.start()
    worker.join()
    with attached(region) as window:
        assert window[:PAGE] == data[:PAGE]


@pytest.mark.root_only("unshare(2) in a thread of a process that others watch")
def test_a_thread_with_descriptors_of_its_own(
    region: int, place: Path, file: int, data: bytes
) -> None:
    """C16, C17: what it alone has open is its own, and what the process opened since is not."""

    def piece() -> tuple[bytes, int]:
        codes: list[int] = []

        def work() -> None:
            if ctypes.CDLL(None).unshare(0x400):
                raise OSError("unshare")
            own = os.memfd_create("own")
            os.write(own, b"own bytes")
            map_file(region, 0, PAGE, own)
            os.dup2(file, own)
            with opened(place) as fd:
                map_file(fd, PAGE, PAGE, own)
            try:
                map_file(region, 0, PAGE, late[0])
            except OSError as error:
                codes.append(error.errno or 0)

        late: list[int] = [900]
        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        with attached(region) as window:
            return bytes(window[: 2 * PAGE]), codes[0]

    seen, code = in_child(piece)
    assert seen == b"own bytes".ljust(PAGE, b"\0") + data[:PAGE]
    assert code == errno.EBADF


def test_a_descriptor_that_changes_all_the_time(region: int, file: int, data: bytes) -> None:
    """C17, C21: whatever the number means when it is looked at, it is that file that is read,
    or nothing."""
    reader, writer = os.pipe()
    number = os.dup(file)
    stop = threading.Event()

    def swap() -> None:
        with opened("/proc/self/mem", os.O_RDONLY) as memory:
            while not stop.is_set():
                for fd in (file, reader, memory):
                    os.dup2(fd, number)

    swapper = threading.Thread(target=swap)
    swapper.start()
    outcomes = set()
    try:
        for _ in range(40):
            try:
                map_file(region, 0, 2 * PAGE, number)
            except OSError as error:
                outcomes.add(error.errno)
                continue
            outcomes.add(0)
            with attached(region) as window:
                assert window[: 2 * PAGE] == data[: 2 * PAGE]
            raw.unmap(region, 0, 2 * PAGE)
    finally:
        stop.set()
        swapper.join()
        for fd in (reader, writer, number):
            os.close(fd)
    assert outcomes <= {0, errno.ENODEV}
    assert 0 in outcomes


def test_a_file_that_is_cut_meanwhile(region: int, tmp_path: Path) -> None:
    """C22: its bytes or zeros, and never a signal or a stale byte."""
    path = tmp_path / "cut"
    stop = threading.Event()
    whole = b"x" * (64 * PAGE)

    def cut() -> None:
        with opened(path, os.O_RDWR | os.O_CREAT) as fd:
            while not stop.is_set():
                os.pwrite(fd, whole, 0)
                os.ftruncate(fd, 3 * PAGE + 5)

    cutter = threading.Thread(target=cut)
    cutter.start()
    try:
        eventually(path.exists)
        with opened(path, os.O_RDONLY) as fd:
            for _ in range(15):
                map_file(region, 0, 64 * PAGE, fd)
                with attached(region) as window:
                    assert set(window[: 64 * PAGE]) <= {0, ord("x")}
                raw.unmap(region, 0, 64 * PAGE)
    finally:
        stop.set()
        cutter.join()


def test_a_broker_that_was_killed(make_mount: MakeMount, file: int, data: bytes) -> None:
    """C26: another one has the next file, however often; and a mount that maps none has none."""
    mounted = make_mount("size=16M,align=4096")
    mounted.expect_log("the broker of files ended with -9")
    with raw.region(mounted.path / "r", SIZE) as fd, attached(fd) as window:
        assert broker_of(mounted) is None
        for page in range(3):
            map_file(fd, page * PAGE, PAGE, file, offset=page * PAGE)
            kill_broker(mounted)
        assert window[: 3 * PAGE] == data[: 3 * PAGE]


def test_a_broker_outlives_its_server(make_mount: MakeMount, file: int, data: bytes) -> None:
    """C26: and is replaced with it when other code is installed."""
    mounted = make_mount("size=16M,align=4096")
    mounted.expect_log(DEATHS)
    with raw.region(mounted.path / "r", SIZE) as fd, attached(fd) as window:
        map_file(fd, 0, PAGE, file)
        first, server = broker_of(mounted), mounted.server_pid
        os.kill(server, signal.SIGKILL)
        map_file(fd, PAGE, PAGE, file, offset=PAGE)
        assert broker_of(mounted) == first
        server = mounted.server_pid
        os.kill(mounted.pid, signal.SIGHUP)
        eventually(lambda: mounted.server_pid != server, what="another server")
        map_file(fd, 2 * PAGE, PAGE, file, offset=2 * PAGE)
        eventually(lambda: broker_of(mounted) not in (first, None), what="another broker")
        assert window[: 3 * PAGE] == data[: 3 * PAGE]


def test_a_helper_has_the_next_file_of_its_user(
    mounted: mount.Mount, region: int, file: int, data: bytes
) -> None:
    """C17: also one that has ended meanwhile is not missed."""
    map_file(region, 0, PAGE, file)
    before = set(helpers_of(mounted))
    map_file(region, PAGE, PAGE, file, offset=PAGE)
    assert set(helpers_of(mounted)) <= before
    for helper in helpers_of(mounted):
        end(helper)
    map_file(region, 2 * PAGE, PAGE, file, offset=2 * PAGE)
    with attached(region) as window:
        assert window[: 3 * PAGE] == data[: 3 * PAGE]
