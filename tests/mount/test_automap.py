"""automap: a size comes with memory, so that the mount is a better /dev/shm for programs that know
files alone."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs import Region
from msharefs.shared_memory import SharedMemory
from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import HUGE, MIB, PAGE, opened, refused
from tests.helpers.users import ALICE, in_child
from tests.helpers.windows import Window

MOUNT_OPTIONS = "size=64M,automap"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)
LIBC = ctypes.CDLL(None, use_errno=True)
ATTRIBUTE = "user.msharefs.automap"


@pytest.fixture
def file(place: Path) -> Iterator[int]:
    """A new file, open; it has no size."""
    with opened(place, os.O_RDWR | os.O_CREAT) as fd:
        yield fd
    place.unlink(missing_ok=True)


def reserved(fd: int) -> int:
    """How many bytes of a region are reserved."""
    return sum(m["size"] for m in raw.layout(fd)["mappings"] if m["reserve"])


def test_truncate_gives_memory(
    file: int, attach: type[Window], *, paged: bool, direct: bool
) -> None:
    """G1: open, ftruncate, mmap is all that it takes; the size is rounded up to the alignment."""
    os.ftruncate(file, 3 * MIB)
    assert os.fstat(file).st_size == 2 * HUGE
    with attach(file, 3 * MIB) as window:
        window[0], window[-1] = 1, 2
    with attach(file) as window:
        assert (len(window), window[0], window[3 * MIB - 1], window[-1]) == (2 * HUGE, 1, 2, 0)
    assert raw.mapped_ranges(file) == [(0, 2 * HUGE)]
    assert reserved(file) == (0 if paged or direct else 2 * HUGE)


def test_truncate_by_a_path_gives_memory(file: int, place: Path, attach: type[Window]) -> None:
    """G1: truncate(2) is the same."""
    os.truncate(place, HUGE)
    with attach(file, HUGE) as window:
        window[HUGE - 1] = 1


@pytest.mark.parametrize("size", [1000, HUGE, 40 * MIB])
def test_fallocate_reserves(file: int, place: Path, attach: type[Window], size: int) -> None:
    """G2: the memory is there when the call returns, be it little or much."""
    free = raw.free_bytes(place)
    os.posix_fallocate(file, 0, size)
    whole = -(-size // HUGE) * HUGE
    assert (os.stat(place).st_size, os.stat(place).st_blocks * 512) == (whole, whole)
    assert raw.free_bytes(place) == free - whole
    assert reserved(file) == whole
    with attach(file, whole) as window:
        window[whole - 1] = 1


def test_fallocate_after_truncate_keeps_the_bytes(file: int, attach: type[Window]) -> None:
    """G9: as many libraries do it, in a window that is already there."""
    os.ftruncate(file, 2 * HUGE)
    with attach(file, 2 * HUGE) as window:
        window[PAGE] = 1
        os.posix_fallocate(file, 0, 2 * HUGE)
        window[HUGE] = 2
        assert (window[PAGE], window[HUGE]) == (1, 2)
    assert reserved(file) == 2 * HUGE


def test_no_memory_is_no_space(file: int, place: Path) -> None:
    """G3: what callers of fallocate expect; nothing has changed."""
    free = raw.free_bytes(place)
    with refused(errno.ENOSPC):
        os.posix_fallocate(file, 0, 66 * MIB)
    assert (os.fstat(file).st_size, raw.layout(file)["mappings"]) == (0, [])
    assert raw.free_bytes(place) == free
    os.posix_fallocate(file, 0, HUGE)


def test_truncate_of_more_than_there_is(
    file: int, attach: type[Window], *, paged: bool, direct: bool
) -> None:
    """G1, G3: memory that comes at first touch may be promised; where it cannot, it is ENOSPC and no
    SIGBUS later."""
    if paged or direct:
        os.ftruncate(file, 1 << 40)
        with attach(file, 1 << 40) as window:
            window[-1] = 1
    else:
        with refused(errno.ENOSPC):
            os.ftruncate(file, 1 << 40)
        assert os.fstat(file).st_size == 0


def test_the_same_size_again(file: int, place: Path, attach: type[Window]) -> None:
    """G4: success, whoever comes second."""
    os.ftruncate(file, 3 * MIB)
    with attach(file, 3 * MIB) as window:
        window[0] = 7
        for _ in range(2):
            os.ftruncate(file, 3 * MIB)
            os.posix_fallocate(file, 0, 3 * MIB)
            os.truncate(place, 2 * HUGE)
        assert window[0] == 7
    assert os.stat(place).st_size == 2 * HUGE


@pytest.mark.parametrize("size", [0, HUGE, 3 * HUGE])
def test_another_size(file: int, place: Path, attach: type[Window], size: int) -> None:
    """G5: EINVAL, for O_TRUNC as well; no byte is lost."""
    os.ftruncate(file, 2 * HUGE)
    with attach(file, 2 * HUGE) as window:
        window[-1] = 7
        with refused(errno.EINVAL):
            os.ftruncate(file, size)
        with refused(errno.EINVAL):
            os.open(place, os.O_RDWR | os.O_TRUNC)
        assert window[-1] == 7


def test_growth(file: int, place: Path, attach: type[Window]) -> None:
    """G5: with grow, by either call; old windows stay, and smaller is EINVAL still."""
    os.setxattr(place, ATTRIBUTE, b"grow")
    os.posix_fallocate(file, 0, HUGE)
    with attach(file, HUGE) as window:
        window[0] = 7
        os.ftruncate(file, 5 * MIB)
        os.posix_fallocate(file, 4 * HUGE, PAGE)
        assert os.fstat(file).st_size == 5 * HUGE
        with attach(file, 5 * HUGE) as larger:
            larger[-1] = 8
            window[1] = 9
            assert bytes(larger[:2]) == b"\x07\x09"
        with refused(errno.EINVAL):
            os.ftruncate(file, HUGE)
        with refused(errno.ENOSPC):
            os.posix_fallocate(file, 0, 66 * MIB)
        assert bytes(window[:2]) == b"\x07\x09"
    assert os.fstat(file).st_size == 5 * HUGE


def test_other_modes(file: int) -> None:
    """S7: nothing but to allocate."""
    assert LIBC.fallocate64(file, 1, ctypes.c_int64(0), ctypes.c_int64(HUGE)) == -1
    assert ctypes.get_errno() == errno.EOPNOTSUPP


def test_ioctls_work_as_ever(file: int, attach: type[Window]) -> None:
    """G8, G9: what is unmapped is a hole, until fallocate wants memory there."""
    os.ftruncate(file, 2 * HUGE)
    with attach(file, 2 * HUGE) as window:
        window[0], window[PAGE] = 1, 2
        raw.unmap(file, PAGE, HUGE)
        assert raw.mapped_ranges(file) == [(0, PAGE), (HUGE + PAGE, 2 * HUGE)]
        os.ftruncate(file, 2 * HUGE)
        assert len(raw.mapped_ranges(file)) == 2
        os.posix_fallocate(file, 0, 2 * HUGE)
        assert (window[0], window[PAGE]) == (1, 0)


def test_very_many_mappings_are_filled_in_parts(file: int) -> None:
    """G9: nobody waits for a range of hundreds of mappings; what is missing in it comes part by part."""
    count = 160
    os.ftruncate(file, HUGE)
    for page in range(0, 2 * count, 2):
        raw.unmap(file, page * PAGE, PAGE)
    before = raw.layout(file)
    with refused(errno.ENOSPC):
        os.posix_fallocate(file, 0, HUGE)
    assert raw.layout(file) == before
    for part in range(4):
        os.posix_fallocate(file, part * HUGE // 4, HUGE // 4)
    os.posix_fallocate(file, 0, HUGE)
    assert raw.mapped_ranges(file) == [(0, HUGE)]


def test_a_directory_says_it_for_what_is_made_in_it(place: Path) -> None:
    """G6: below it, too, and not for what is there; removed, the mount says it again."""
    place.mkdir()
    with opened(place / "before", os.O_RDWR | os.O_CREAT) as before:
        os.setxattr(place, ATTRIBUTE, b"off")
        (place / "below").mkdir()
        with opened(place / "below" / "after", os.O_RDWR | os.O_CREAT) as after:
            os.ftruncate(before, HUGE)
            os.ftruncate(after, HUGE)
            assert len(raw.mapped_ranges(before)) == 1
            assert raw.mapped_ranges(after) == []
            with refused(errno.EINVAL):
                os.ftruncate(after, HUGE)
            assert os.getxattr(after, ATTRIBUTE) == b"off"
            os.removexattr(after, ATTRIBUTE)
            assert os.getxattr(after, ATTRIBUTE) == b"on"
            os.ftruncate(after, HUGE)
    assert os.listxattr(place) == [ATTRIBUTE]
    for value in (b"yes", b"", b"\xff"):
        with refused(errno.EINVAL):
            os.setxattr(place, ATTRIBUTE, value)
    assert os.getxattr(place, ATTRIBUTE) == b"off"
    for name in ("before", "below/after"):
        (place / name).unlink()
    (place / "below").rmdir()
    place.rmdir()


@pytest.mark.root_only("becomes another user")
def test_only_who_may_write_says_it(mounted: mount.Mount, file: int, place: Path) -> None:
    """G6: of a sticky directory, such as the root of a mount, that is its owner."""
    with refused(errno.EOPNOTSUPP):
        os.setxattr(mounted.path / "mshare_info", ATTRIBUTE, b"on")

    def attempt() -> None:
        with refused(errno.EPERM):
            os.setxattr(mounted.path, ATTRIBUTE, b"off")
        with refused(errno.EACCES):
            os.setxattr(place, ATTRIBUTE, b"off")

    os.fchmod(file, 0o644)
    in_child(attempt, uid=ALICE)
    assert os.getxattr(place, ATTRIBUTE) == b"on"


def test_the_library_maps_by_hand(mounted: mount.Mount, place: Path) -> None:
    """G8: its regions begin with nothing mapped, and blocks have the size that was asked for."""
    with Region.create(place, HUGE) as region:
        assert region.layout().mappings == ()
        region.unlink()
    block = SharedMemory(create=True, size=5000, directory=mounted.path)
    try:
        again = SharedMemory(block.name, directory=mounted.path)
        assert (block.size, again.size) == (5000, 5000)
        again.close()
    finally:
        block.unlink()
        block.close()


@pytest.mark.root_only("only root may change the options of a mount")
def test_it_is_off_unless_asked_for(make_mount: MakeMount) -> None:
    """G6, S2: and comes with a remount, for what gets its size then."""
    plain = make_mount("size=16M")
    with raw.region(plain.path / "a") as fd:
        os.ftruncate(fd, HUGE)
        assert raw.mapped_ranges(fd) == []
    os.setxattr(plain.path, "trusted.msharefs.options", b"automap=grow")
    with raw.region(plain.path / "b") as fd:
        os.ftruncate(fd, HUGE)
        os.ftruncate(fd, 2 * HUGE)
        assert raw.mapped_ranges(fd) == [(0, 2 * HUGE)]


def test_it_outlives_the_server(make_mount: MakeMount) -> None:
    """G7: what a directory says, and what was mapped."""
    own = make_mount("size=16M")
    own.expect_log("the server ended with -9")
    os.mkdir(own.path / "d")
    os.setxattr(own.path / "d", ATTRIBUTE, b"grow")
    with opened(own.path / "d" / "r", os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, HUGE)
        with mmap.mmap(fd, HUGE) as window:
            window[0] = 7
            os.kill(own.server_pid, signal.SIGKILL)
            os.ftruncate(fd, 2 * HUGE)
            assert window[0] == 7
        assert raw.mapped_ranges(fd) == [(0, 2 * HUGE)]
        assert os.getxattr(own.path / "d", ATTRIBUTE) == b"grow"
    os.unlink(own.path / "d" / "r")
