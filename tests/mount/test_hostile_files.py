"""CREATE_MAPPING of files by callers who mean no good, and of what only looks like a file."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import pty
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from msharefs.linux import mountinfo
from tests.helpers import mount, raw
from tests.helpers.file_processes import helpers_of
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import HUGE, PAGE, map_file, opened, refused
from tests.helpers.users import ALICE, BOB, as_user, in_child
from tests.helpers.waiting import eventually

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096"

SIZE = 2 * HUGE
PR_SET_DUMPABLE = 4
MFD_HUGETLB = 4
CALLERS, ROUNDS = 4, 8

libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture
def region(mounted: mount.Mount, place: Path) -> Iterator[int]:
    """A region of 4 MiB with nothing in it, open."""
    with raw.region(place, SIZE) as fd:
        yield fd


def attached(fd: int) -> mmap.mmap:
    """A window on a region, to read from."""
    return mmap.mmap(fd, SIZE, prot=mmap.PROT_READ)


@contextmanager
def nothing_changes(region: int, *codes: int) -> Iterator[None]:
    """The call is refused with one of these errnos, and the layout is what it was."""
    before = raw.layout(region)
    with refused(*codes):
        yield
    assert raw.layout(region) == before


def _timer() -> int:
    fd: int = libc.timerfd_create(1, 0)
    return fd


def _watch() -> int:
    fd: int = libc.inotify_init1(0)
    return fd


def _terminal() -> int:
    main, other = pty.openpty()
    os.close(main)
    return other


@pytest.mark.parametrize(
    "make",
    [
        lambda: int(libc.epoll_create1(0)),
        lambda: os.eventfd(0),
        lambda: os.pidfd_open(os.getpid()),
        _timer,
        _watch,
        _terminal,
        lambda: os.memfd_create("huge", MFD_HUGETLB),
        lambda: os.open("/proc/self/pagemap", os.O_RDONLY),
        lambda: os.open("/proc/self/ns/mnt", os.O_RDONLY),
        lambda: os.open("/dev/fuse", os.O_RDWR),
        lambda: os.open("/dev/shm", os.O_RDONLY),
        lambda: os.open("/dev/shm", os.O_RDWR | os.O_PATH),
    ],
)
def test_descriptors_that_are_no_files(region: int, make: Callable[[], int]) -> None:
    """C21: the kernel's own objects, terminals, devices, directories."""
    fd = make()
    assert fd >= 0
    with nothing_changes(region, errno.ENODEV, errno.EBADF):
        map_file(region, 0, PAGE, fd)
    os.close(fd)


def test_a_control_file_of_the_kernel(region: int) -> None:
    """C21: of whatever file systems are mounted here whose files are requests to the kernel."""
    tried = 0
    for each in mountinfo.own_mounts():
        if each.kind not in ("cgroup", "cgroup2", "sysfs", "proc", "tracefs", "debugfs"):
            continue
        for path in Path(each.path).glob("*"):
            if path.is_file() and os.access(path, os.R_OK):
                with opened(path, os.O_RDONLY) as fd, nothing_changes(region, errno.ENODEV):
                    map_file(region, 0, PAGE, fd)
                tried += 1
                break
    assert tried


def test_numbers_of_no_descriptor(region: int) -> None:
    """C16: any number at all."""
    numbers = [
        -1,
        -2,
        1 << 30,
        (1 << 31) - 1,
        -(1 << 31),
        *random.Random(7).sample(range(1000, 1 << 31), 6),
    ]
    for number in numbers:
        with nothing_changes(region, errno.EBADF):
            map_file(region, 0, PAGE, number)


def test_a_caller_who_hides(region: int, place: Path, mounted: mount.Mount, tmp_path: Path) -> None:
    """C26: nobody but root looks into a program that made itself undumpable; a user's daemon says so
    once, and names who can tell more."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")

    def hide() -> None:
        libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
        with opened(place) as fd, opened(path, os.O_RDONLY) as file:
            map_file(fd, 0, PAGE, file)

    if mount.PRIVILEGED:
        in_child(hide)
        return
    mounted.expect_log("mshare doctor")
    for _ in range(2):
        with nothing_changes(region, errno.EPERM):
            in_child(hide)
    assert mounted.log().count("may not look into this process: see mshare doctor") == 1


@pytest.mark.root_only("becomes other users")
def test_users_get_their_own_files_alone(
    region: int, place: Path, mounted: mount.Mount, tmp_path: Path
) -> None:
    """C17: however many map at a time, with the same numbers."""
    os.chmod(place, 0o666)

    def work(uid: int, caller: int) -> list[bytes]:
        seen = []
        for turn in range(ROUNDS):
            file = os.memfd_create("own")
            os.write(file, b"%d %d %d" % (uid, caller, turn))
            start = (caller * ROUNDS + turn) * PAGE
            with opened(place) as fd:
                map_file(fd, start, PAGE, file)
                with attached(fd) as window:
                    seen.append(bytes(window[start : start + PAGE]).rstrip(b"\0"))
            os.close(file)
        return seen

    results: dict[tuple[int, int], list[bytes]] = {}

    def call(uid: int, caller: int) -> None:
        results[uid, caller] = as_user(uid, lambda: work(uid, caller))

    pairs = [(ALICE if caller % 2 else BOB, caller) for caller in range(CALLERS)]
    threads = [threading.Thread(target=call, args=pair) for pair in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for uid, caller in pairs:
        expected = [b"%d %d %d" % (uid, caller, turn) for turn in range(ROUNDS)]
        assert results[uid, caller] == expected


@pytest.mark.root_only("becomes other users")
def test_no_process_has_files_of_two_users(
    place: Path, region: int, mounted: mount.Mount, tmp_path: Path
) -> None:
    """C17: whoever of them asks next."""
    os.chmod(place, 0o666)
    users: dict[int, int] = {}

    def work() -> None:
        with opened(place) as fd, opened("/etc/passwd", os.O_RDONLY) as file:
            map_file(fd, 0, PAGE, file)

    for uid in (ALICE, BOB, ALICE, BOB, ALICE):
        as_user(uid, work)
        for helper in helpers_of(mounted):
            user = _user_for_files(helper)
            assert not user or users.setdefault(helper, user) == user
    assert {ALICE, BOB} <= set(users.values())


def _user_for_files(pid: int) -> int | None:
    """Of a process; None if it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.split("\nUid:")[1].split()[3])


@pytest.mark.root_only("mounts in a namespace of its own")
def test_a_file_in_a_place_that_nobody_else_sees(region: int, tmp_path: Path) -> None:
    """C17, C21: a file system of the caller's own mount namespace, and one that is in no table of
    mounts any more: what they are is asked of the file."""

    def piece() -> None:
        assert libc.unshare(0x00020000) == 0
        assert libc.mount(b"none", b"/", None, 0x44000, None) == 0
        place = os.fsencode(tmp_path)
        assert libc.mount(b"own", place, b"tmpfs", 0, None) == 0
        with opened(tmp_path / "file", os.O_RDWR | os.O_CREAT) as fd:
            os.write(fd, b"of its own")
            map_file(region, 0, PAGE, fd)
            assert libc.umount2(place, 2) == 0
            map_file(region, PAGE, PAGE, fd)

    in_child(piece)
    with attached(region) as window:
        for start in (0, PAGE):
            assert window[start : start + PAGE] == b"of its own".ljust(PAGE, b"\0")


def test_a_file_that_is_written_and_renamed_meanwhile(region: int, tmp_path: Path) -> None:
    """C17, C22: each page is one of those that the file had, whatever becomes of its name."""
    path = tmp_path / "file"
    path.write_bytes(b"a" * SIZE)
    stop = threading.Event()

    def disturb() -> None:
        with opened(path) as fd:
            while not stop.is_set():
                for letter in (b"b", b"a"):
                    os.pwrite(fd, letter * PAGE, 0)
                    os.rename(path, path.with_suffix("." + letter.decode()))
                    path.touch()

    disturber = threading.Thread(target=disturb)
    with opened(path, os.O_RDONLY) as fd:
        disturber.start()
        try:
            for _ in range(5):
                map_file(region, 0, SIZE, fd)
                with attached(region) as window:
                    assert set(window[:]) <= {ord("a"), ord("b")}
        finally:
            stop.set()
            disturber.join()


def test_a_caller_who_is_killed_at_any_moment(
    region: int, place: Path, mounted: mount.Mount, tmp_path: Path
) -> None:
    """C26, C27: all of the file is there or nothing, and nobody's memory is lost."""
    path = tmp_path / "file"
    path.write_bytes(b"x" * SIZE)
    chance = random.Random(11)
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                with opened(place) as fd, opened(path, os.O_RDONLY) as file:
                    while True:
                        map_file(fd, 0, SIZE, file)
                        raw.unmap(fd, 0, SIZE)
            finally:
                os._exit(1)
        threading.Event().wait(chance.uniform(0, 0.05))
        os.kill(child, 9)
        os.waitpid(child, 0)
        eventually(lambda: raw.mapped_ranges(region) in ([], [(0, SIZE)]))
        if raw.mapped_ranges(region):
            with attached(region) as window:
                assert window[:] == b"x" * SIZE
            raw.unmap(region, 0, SIZE)
    eventually(lambda: mounted.status()["arena"]["reserved"] == 0)


def test_a_line_in_the_log_for_each_file(make_mount: MakeMount, tmp_path: Path) -> None:
    """C17: who, which file and where; however strange its name is, it stays one line."""
    mounted = make_mount("size=16M,align=4096,log_level=info")
    path = tmp_path / "odd\nERROR name"
    path.write_bytes(b"bytes")
    with raw.region(mounted.path / "r", SIZE) as fd, opened(path, os.O_RDONLY) as file:
        map_file(fd, PAGE, 2 * PAGE, file, offset=PAGE)
        device, inode = os.fstat(file).st_dev, os.fstat(file).st_ino
    (line,) = [line for line in mounted.log().splitlines() if "mapped a file" in line]
    assert f"user {os.geteuid()} (process {os.getpid()})" in line
    assert f"{2 * PAGE} bytes from {PAGE} of '{tmp_path}/odd\\nERROR name'" in line
    assert f"device {os.major(device)}:{os.minor(device)}, inode {inode}" in line
    assert "('/r')" in line
