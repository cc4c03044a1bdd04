"""The size of a region: set once, by ftruncate or fallocate."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.times import stamps
from tests.helpers import poke, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import HUGE, PAGE, opened, refused
from tests.helpers.users import ChildKilledError, in_child

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")

FALLOC_FL_KEEP_SIZE = 0x1
FALLOC_FL_PUNCH_HOLE = 0x2
FALLOC_FL_COLLAPSE_RANGE = 0x8
FALLOC_FL_ZERO_RANGE = 0x10
FALLOC_FL_INSERT_RANGE = 0x20
FALLOC_FL_UNSHARE_RANGE = 0x40

SetSize = Callable[[int, int], None]
BOTH_WAYS = pytest.mark.parametrize(
    "set_size",
    [os.ftruncate, lambda fd, size: os.posix_fallocate(fd, 0, size)],
    ids=["ftruncate", "fallocate"],
)


@BOTH_WAYS
@pytest.mark.parametrize("size", [HUGE, 6 * raw.MIB, raw.GIB, 512 * raw.GIB])
def test_size_can_be_set_once(place: Path, set_size: SetSize, size: int) -> None:
    """S1, S2: any multiple of the alignment; it costs nothing, and stat shows it at once."""
    with raw.region(place) as fd:
        assert (os.fstat(fd).st_size, place.stat().st_size) == (0, 0)
        free = raw.free_bytes(place)
        set_size(fd, size)
        assert (os.fstat(fd).st_size, place.stat().st_size) == (size, size)
        assert os.fstat(fd).st_blocks == 0
        assert raw.free_bytes(place) == free
        assert raw.layout(fd)["size"] == size


@BOTH_WAYS
@pytest.mark.parametrize("size", [1, PAGE, raw.MIB, HUGE - 1, HUGE + 1, HUGE + PAGE, 3 * raw.MIB])
def test_size_must_fit_the_alignment(place: Path, set_size: SetSize, size: int) -> None:
    """S3: what is not a multiple is EINVAL; the region is still unsized and can be sized."""
    with raw.region(place) as fd:
        with refused(errno.EINVAL):
            set_size(fd, size)
        assert os.fstat(fd).st_size == 0
        set_size(fd, HUGE)
        assert os.fstat(fd).st_size == HUGE


@pytest.mark.parametrize(
    ("set_size", "expected"),
    [
        (os.ftruncate, ("mtime", "ctime")),
        (lambda fd, size: os.truncate(f"/proc/self/fd/{fd}", size), ("mtime", "ctime")),
        (lambda fd, size: os.posix_fallocate(fd, 0, size), ()),
    ],
    ids=["ftruncate", "truncate", "fallocate"],
)
def test_time_stamps_of_setting_the_size(
    place: Path, set_size: SetSize, expected: tuple[str, ...]
) -> None:
    """S12: ftruncate and truncate stamp mtime and ctime; fallocate leaves both."""
    with raw.region(place) as fd:
        with stamps(place, *expected):
            set_size(fd, HUGE)
        assert os.fstat(fd).st_size == HUGE


def test_truncate_to_0_changes_nothing(place: Path) -> None:
    """S4: ftruncate, truncate and O_TRUNC of an unsized region succeed and leave it unsized."""
    with raw.region(place) as fd:
        for _ in range(2):
            os.ftruncate(fd, 0)
            os.truncate(place, 0)
            with opened(place, os.O_RDWR | os.O_TRUNC):
                pass
            with opened(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC):
                pass
        assert os.fstat(fd).st_size == 0
        os.ftruncate(fd, HUGE)
        assert os.fstat(fd).st_size == HUGE


def test_create_with_truncate_makes_an_unsized_region(place: Path) -> None:
    """S4: O_CREAT with O_TRUNC, as fopen("w+") does, gives a region that can be sized."""
    with opened(place, os.O_RDWR | os.O_CREAT | os.O_TRUNC) as fd:
        os.ftruncate(fd, HUGE)
        assert os.fstat(fd).st_size == HUGE
    place.unlink()


@BOTH_WAYS
@pytest.mark.parametrize("size", [HUGE, 2 * HUGE, 4 * HUGE, PAGE])
def test_size_is_final(place: Path, set_size: SetSize, size: int) -> None:
    """S5: once set, smaller, larger and the same are EINVAL, also through the path."""
    with raw.region(place, 2 * HUGE, mapped=True) as fd:
        before = raw.layout(fd)
        with refused(errno.EINVAL):
            set_size(fd, size)
        with refused(errno.EINVAL):
            os.truncate(place, size)
        assert (os.fstat(fd).st_size, place.stat().st_size) == (2 * HUGE, 2 * HUGE)
        assert raw.layout(fd) == before


def test_sized_region_cannot_be_truncated_to_0(place: Path) -> None:
    """S5: 0 is EINVAL like any other size."""
    with raw.region(place, HUGE) as fd:
        with refused(errno.EINVAL):
            os.ftruncate(fd, 0)
        with refused(errno.EINVAL):
            os.truncate(place, 0)
        assert os.fstat(fd).st_size == HUGE


@pytest.mark.parametrize("access", [os.O_RDWR, os.O_WRONLY, os.O_RDONLY])
def test_open_with_truncate_of_a_sized_region(place: Path, client: poke.Poke, access: int) -> None:
    """S6: EINVAL, and neither the size nor the contents change."""
    with raw.region(place, HUGE, mapped=True):
        address = client.attach(place, HUGE)
        client.put(address, b"kept")
        with refused(errno.EINVAL), opened(place, access | os.O_TRUNC):
            pass
        with refused(errno.EINVAL), opened(place, access | os.O_TRUNC | os.O_CREAT):
            pass
        assert place.stat().st_size == HUGE
        assert client.get(address, 4) == b"kept"


def test_refused_open_leaves_no_handle(place: Path) -> None:
    """S6: an open that was refused does not count as an open handle."""
    with raw.region(place, HUGE) as fd:
        for _ in range(10):
            with refused(errno.EINVAL), opened(place, os.O_RDWR | os.O_TRUNC):
                pass
        assert raw.layout(fd)["open_handles"] == 1


@pytest.mark.parametrize(
    "mode",
    [
        FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_COLLAPSE_RANGE,
        FALLOC_FL_ZERO_RANGE,
        FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
        FALLOC_FL_INSERT_RANGE,
        FALLOC_FL_UNSHARE_RANGE,
        0x80,
        0x8000,
    ],
)
@pytest.mark.parametrize("sized", [False, True], ids=["unsized", "sized"])
def test_other_modes_of_fallocate(
    place: Path, client: poke.Poke, mode: int, *, sized: bool
) -> None:
    """S7: EOPNOTSUPP in any state, and nothing changes: no hole, no zeros, no size."""
    with raw.region(place, HUGE if sized else None, mapped=sized):
        fd = client.open(place)
        address = client.mmap(fd, HUGE)
        if sized:
            client.put(address, b"kept")
        with refused(errno.EOPNOTSUPP):
            client.call("fallocate", fd, mode, 0, HUGE)
        assert place.stat().st_size == (HUGE if sized else 0)
        if sized:
            assert client.get(address, 4) == b"kept"


@pytest.mark.parametrize("sized", [False, True], ids=["unsized", "sized"])
def test_fallocate_with_an_offset(place: Path, *, sized: bool) -> None:
    """S8: EINVAL in any state."""
    with raw.region(place, HUGE if sized else None) as fd:
        for offset in (1, PAGE, HUGE):
            with refused(errno.EINVAL):
                os.posix_fallocate(fd, offset, HUGE)
        assert os.fstat(fd).st_size == (HUGE if sized else 0)


def test_sizes_below_zero_and_of_nothing(place: Path, client: poke.Poke) -> None:
    """S10: a negative size is EINVAL for ftruncate, truncate and fallocate; so is fallocate of 0."""
    with raw.region(place) as fd:
        for size in (-1, -HUGE, -(2**63)):
            with refused(errno.EINVAL):
                os.ftruncate(fd, size)
            with refused(errno.EINVAL):
                os.truncate(place, size)
        mine = client.open(place)
        for offset, length in ((0, -HUGE), (-HUGE, HUGE), (0, 0)):
            with refused(errno.EINVAL):
                client.call("fallocate", mine, 0, offset, length)
        assert os.fstat(fd).st_size == 0


def test_size_beyond_what_the_kernel_can_address(place: Path, client: poke.Poke) -> None:
    """S9: offset and length of fallocate beyond 2**63 - 1 are EFBIG, before any other rule."""
    with raw.region(place) as fd:
        with refused(errno.EFBIG):
            client.call("fallocate", client.open(place), 0, HUGE, 2**63 - HUGE)
        assert os.fstat(fd).st_size == 0


def test_largest_size(place: Path, client: poke.Poke) -> None:
    """S2: the largest multiple of the alignment that fits into 63 bits works up to its last page."""
    size = 2**63 - HUGE
    with raw.region(place, size) as fd:
        assert os.fstat(fd).st_size == size
        raw.create_mapping(fd, size - HUGE, HUGE)
        address = client.mmap(client.open(place), HUGE, offset=size - HUGE)
        client.fill(address, HUGE, 1)
        assert client.get(address + HUGE - 1) == b"\1"
        with refused(errno.EINVAL):
            raw.create_mapping(fd, size - PAGE, 2 * PAGE)
        assert raw.mapped_ranges(fd) == [(size - HUGE, size)]


@BOTH_WAYS
def test_max_region(make_mount: MakeMount, set_size: SetSize) -> None:
    """S9: -o max_region= is the largest size; more is EFBIG, and the region is still unsized."""
    mounted = make_mount("size=16M,max_region=8M")
    with raw.region(mounted.path / "r") as fd:
        with refused(errno.EFBIG):
            set_size(fd, 10 * raw.MIB)
        assert os.fstat(fd).st_size == 0
        set_size(fd, 8 * raw.MIB)
        assert os.fstat(fd).st_size == 8 * raw.MIB


def test_descriptor_must_be_open_for_writing(place: Path) -> None:
    """S2: as everywhere, ftruncate of a read-only descriptor is EINVAL and fallocate EBADF."""
    with raw.region(place), opened(place, os.O_RDONLY) as fd:
        with refused(errno.EINVAL):
            os.ftruncate(fd, HUGE)
        with refused(errno.EBADF):
            os.posix_fallocate(fd, 0, HUGE)
        assert place.stat().st_size == 0


def test_write_only_descriptor_may_set_the_size(place: Path) -> None:
    """S2: O_WRONLY is enough."""
    with raw.region(place), opened(place, os.O_WRONLY) as fd:
        os.ftruncate(fd, HUGE)
        assert place.stat().st_size == HUGE


def test_truncate_by_path_sets_the_size(place: Path) -> None:
    """S2: truncate(2) without an open descriptor does the same as ftruncate(2)."""
    os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    os.truncate(place, HUGE)
    assert place.stat().st_size == HUGE
    with opened(place) as fd:
        raw.create_mapping(fd, 0, HUGE)
        assert raw.layout(fd)["mapped"] == HUGE
    place.unlink()


@BOTH_WAYS
def test_resource_limit_of_the_process(place: Path, set_size: SetSize) -> None:
    """S11: RLIMIT_FSIZE holds, as on any file system: EFBIG, and a signal that can be caught."""

    def attempt() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (HUGE, HUGE))
        set_size(fd, 2 * HUGE)

    def attempt_and_ignore() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        attempt()

    def attempt_and_die() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        attempt()

    with raw.region(place) as fd:
        with refused(errno.EFBIG):
            in_child(attempt_and_ignore)
        with pytest.raises(ChildKilledError) as killed:
            in_child(attempt_and_die)
        assert killed.value.signal == signal.SIGXFSZ
        assert os.fstat(fd).st_size == 0
        set_size(fd, 2 * HUGE)


def test_blocks_follow_the_mappings(place: Path) -> None:
    """S1: st_blocks is the reserved memory, right after each ioctl, by stat and by fstat."""
    with raw.region(place, 8 * HUGE) as fd:
        for start, end, blocks in ((0, HUGE, 1), (HUGE, 4 * HUGE, 4), (2 * HUGE, 6 * HUGE, 6)):
            raw.create_mapping(fd, start, end - start)
            assert os.fstat(fd).st_blocks == place.stat().st_blocks == blocks * HUGE // 512
        raw.unmap(fd, HUGE, 2 * HUGE)
        assert os.fstat(fd).st_blocks == place.stat().st_blocks == 4 * HUGE // 512
        raw.unmap(fd, 0, 8 * HUGE)
        assert os.fstat(fd).st_blocks == place.stat().st_blocks == 0
