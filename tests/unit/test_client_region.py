"""Region without a mount: what it checks itself, and the life of its descriptor.

A plain file that carries the layout attribute stands in for a region where only opening,
attaching and closing matter; ioctls need a mount (tests/mount/test_client.py).
"""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import msharefs
from msharefs import Region
from tests.helpers.descriptors import open_descriptors

PAGE = mmap.PAGESIZE
SIZE = 8 * PAGE


def write_layout(path: Path, mappings: list[tuple[int, int, str]]) -> None:
    """Give a plain file the attribute by which a region is known."""
    layout = {
        "version": 1,
        "size": path.stat().st_size,
        "mapped": 0,
        "reserved": 0,
        "mapping_count": len(mappings),
        "mappings": [
            {"offset": o * PAGE, "size": n * PAGE, "prot": p, "reserve": True, "huge": False}
            for o, n, p in mappings
        ],
        "next": None,
        "creator": {"pid": 1, "uid": 0, "gid": 0},
        "open_handles": 1,
        "counters": {"maps": 0, "unmaps": 0},
    }
    text = json.dumps(layout).encode()
    os.setxattr(path, "user.msharefs.layout", text)
    # Windows that begin further on ask from there; the answer may contain more.
    for page in range(1, 8):
        os.setxattr(path, f"user.msharefs.layout.{page * PAGE}", text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A sized stand-in for a region with nothing mapped."""
    file = tmp_path / "region"
    file.write_bytes(bytes(SIZE))
    write_layout(file, [])
    return file


def test_opening_something_else_is_refused(tmp_path: Path) -> None:
    """A plain file or a directory is NotARegion, a missing name RegionNotFound; no leak."""
    plain = tmp_path / "plain"
    plain.write_bytes(b"")
    before = open_descriptors()
    for writable in (True, False):
        for other in (plain, tmp_path):
            with pytest.raises(msharefs.NotARegion) as caught:
                Region.open(other, writable=writable)
            assert caught.value.filename == str(other)
        with pytest.raises(FileNotFoundError) as missing:
            Region.open(tmp_path / "missing", writable=writable)
        assert isinstance(missing.value, msharefs.RegionNotFound)
    assert open_descriptors() == before


@pytest.mark.parametrize("exist_ok", [True, False])
def test_creating_where_nothing_is_mounted_leaves_nothing(
    tmp_path: Path, *, exist_ok: bool
) -> None:
    """The usual mistake, a mount that is not there, is named, and no plain file stays behind."""
    before = open_descriptors()
    with pytest.raises(msharefs.NotMounted) as caught:
        Region.create(tmp_path / "region", 2 << 20, exist_ok=exist_ok)
    assert caught.value.errno == errno.ENODEV
    assert os.listdir(tmp_path) == []
    assert open_descriptors() == before


def test_creating_over_a_plain_file_leaves_it_alone(tmp_path: Path) -> None:
    """exist_ok does not turn something else into a region."""
    plain = tmp_path / "plain"
    plain.write_bytes(b"precious")
    with pytest.raises(msharefs.NotARegion):
        Region.create(plain, 2 << 20, exist_ok=True)
    with pytest.raises(msharefs.RegionExists):
        Region.create(plain, 2 << 20)
    assert plain.read_bytes() == b"precious"


@pytest.mark.parametrize("size", ["2M", 2.0, None, b"4096"])
def test_size_must_be_an_int(tmp_path: Path, size: Any) -> None:
    """A size in words or fractions is a TypeError that says bytes, before any file is made."""
    with pytest.raises(TypeError, match="size is a number of bytes"):
        Region.create(tmp_path / "region", size)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, -1, -(2 << 20), 1 << 64])
def test_size_out_of_range(tmp_path: Path, size: int) -> None:
    """No region has such a size: EINVAL, a ValueError too, before any file is made."""
    with pytest.raises(ValueError, match=r"range|at least") as caught:
        Region.create(tmp_path / "region", size)
    assert isinstance(caught.value, msharefs.InvalidArgument)
    assert caught.value.errno == errno.EINVAL
    assert os.listdir(tmp_path) == []


def test_size_beyond_every_file(tmp_path: Path) -> None:
    """A size that no file can have is EFBIG."""
    with pytest.raises(msharefs.RegionTooLarge) as caught:
        Region.create(tmp_path / "region", 1 << 63)
    assert caught.value.errno == errno.EFBIG


def test_closed_region_is_a_value_error(path: Path) -> None:
    """Every use after close is ValueError, as for Python's files; closing again does nothing."""
    region = Region.open(path)
    fd = region.fileno()
    region.close()
    region.close()
    assert region.closed
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    uses: list[Callable[[], object]] = [
        region.fileno,
        region.layout,
        region.attach,
        region.__enter__,
        lambda: region.size,
        lambda: region.map(0, PAGE),
        lambda: region.unmap(0, PAGE),
    ]
    for use in uses:
        with pytest.raises(ValueError, match="closed region") as caught:
            use()
        assert not isinstance(caught.value, OSError)
    assert repr(region) == f"<Region {str(path)!r} closed>"


def test_block_closes_and_keeps_the_name(path: Path) -> None:
    """Leaving the with statement closes; unlinking is a separate wish."""
    with Region.open(path) as region:
        assert repr(region) == f"<Region {str(path)!r} fd={region.fileno()}>"
    assert region.closed
    assert path.exists()


def test_forgotten_region_warns_and_closes(path: Path) -> None:
    """A region that is collected unclosed warns as a file does, and its descriptor is not lost."""
    before = open_descriptors()
    regions = [Region.open(path)]
    with pytest.warns(ResourceWarning, match="unclosed region"):
        regions.clear()
    assert open_descriptors() == before


def test_descriptor_is_not_inherited_by_programs(path: Path) -> None:
    """exec closes the region."""
    with Region.open(path) as region:
        assert fcntl.fcntl(region.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC


def test_unlink_removes_the_name_after_close_too(path: Path) -> None:
    """The order of the kernel's documentation: unmap, close, unlink. A second one is ENOENT."""
    with Region.open(path) as region:
        pass
    region.unlink()
    assert not path.exists()
    with pytest.raises(msharefs.RegionNotFound):
        region.unlink()


def test_unlink_spares_a_file_that_took_the_name(path: Path, tmp_path: Path) -> None:
    """If the name has become another file's, that one is not removed."""
    with Region.open(path) as region:
        path.rename(tmp_path / "moved")
        path.write_bytes(b"another")
        with pytest.raises(msharefs.RegionNotFound, match="another file"):
            region.unlink()
    assert path.read_bytes() == b"another"


def test_path_survives_a_change_of_directory(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative path is made absolute when the region is opened."""
    monkeypatch.chdir(tmp_path)
    with Region.open(path.name) as region:
        monkeypatch.chdir("/")
        assert region.path == str(path)
        region.unlink()
    assert not path.exists()


def test_path_may_be_bytes(path: Path) -> None:
    """A name that is not UTF-8 can be given as bytes."""
    with Region.open(os.fsencode(path)) as region:
        assert region.path == os.fsencode(path)


def test_attach_of_an_unsized_region_is_refused(tmp_path: Path) -> None:
    """Nothing can be attached before the size is set."""
    file = tmp_path / "unsized"
    file.write_bytes(b"")
    write_layout(file, [])
    with Region.open(file) as region:
        assert region.size == 0
        with pytest.raises(msharefs.SizeNotSet):
            region.attach()


@pytest.mark.parametrize(
    ("offset", "size", "reason"),
    [
        (1, PAGE, "no multiple"),
        (0, 0, "size is 0"),
        (SIZE, None, "size is 0"),
        (SIZE, PAGE, "ends at"),
        (0, SIZE + 1, "ends at"),
        (7 * PAGE, 2 * PAGE, "ends at"),
        (-PAGE, PAGE, "out of range"),
    ],
)
def test_attach_of_an_impossible_window(
    path: Path, offset: int, size: int | None, reason: str
) -> None:
    """EINVAL that says which number is wrong, a ValueError too."""
    with Region.open(path) as region, pytest.raises(ValueError, match=reason) as caught:
        region.attach(offset, size)
    assert isinstance(caught.value, msharefs.InvalidArgument)


def test_attach_gives_the_whole_region_or_a_window(path: Path) -> None:
    """Without a size the window reaches to the end."""
    with Region.open(path) as region:
        with region.attach() as whole, region.attach(5 * PAGE) as rest:
            assert (whole.size, rest.size) == (SIZE, 3 * PAGE)
            rest.buf[0] = 5
            assert whole.buf[5 * PAGE] == 5


def test_attachment_stays_when_the_region_is_closed(path: Path) -> None:
    """Closing the region leaves its attachments as they are."""
    with Region.open(path) as region:
        window = region.attach()
    window.buf[0] = 9
    assert path.read_bytes()[0] == 9
    window.close()


def test_region_opened_for_reading_attaches_for_reading(path: Path) -> None:
    """A read-only region gives read-only windows, and says why it gives no other."""
    with Region.open(path, writable=False) as region:
        assert not region.writable
        with region.attach() as window:
            assert window.readonly
        with pytest.raises(msharefs.AccessDenied, match="open for reading only"):
            region.attach(writable=True)


def test_protection_of_a_mapping_is_kept(path: Path) -> None:
    """A window with a read-only mapping in it is read-only, whoever asks for more is refused."""
    write_layout(path, [(0, 2, "rw-"), (4, 1, "r--")])
    with Region.open(path) as region:
        with region.attach(0, 4 * PAGE) as before, region.attach(5 * PAGE) as behind:
            assert not before.readonly
            assert not behind.readonly
        with region.attach() as whole, region.attach(4 * PAGE, 1) as touching:
            assert whole.readonly
            assert touching.readonly
        with pytest.raises(PermissionError, match="a mapping there is read-only"):
            region.attach(writable=True)


@pytest.mark.parametrize("prot", ["---", "--x"])
def test_mapping_without_read_is_not_attached(path: Path, prot: str) -> None:
    """PROT_NONE and execute-only memory cannot be read, so windows with it are refused."""
    write_layout(path, [(1, 1, prot)])
    with Region.open(path) as region:
        with pytest.raises(msharefs.AccessDenied, match="prot"):
            region.attach(writable=False)
        with region.attach(2 * PAGE) as window:
            assert not window.readonly


def test_attach_asks_for_no_more_than_wished(path: Path) -> None:
    """writable=False gives a read-only window of a writable region."""
    with Region.open(path) as region, region.attach(writable=False) as window:
        assert window.readonly


@pytest.mark.parametrize("prot", ["q", "rwz", "RW"])
def test_unknown_protection_letters(path: Path, prot: str) -> None:
    """Letters other than r, w and x are named."""
    with Region.open(path) as region, pytest.raises(msharefs.InvalidArgument, match=prot):
        region.map(0, PAGE, prot=prot)


@pytest.mark.parametrize("value", [-1, 1 << 64])
def test_map_and_unmap_out_of_range(path: Path, value: int) -> None:
    """What no ioctl can carry is EINVAL, never an error of packing."""
    with Region.open(path) as region:
        for use in (region.map, region.unmap):
            for arguments in ((value, PAGE), (0, value)):
                with pytest.raises(msharefs.InvalidArgument, match="out of range"):
                    use(*arguments)


@pytest.mark.parametrize("value", ["0", 1.5, None])
def test_map_and_unmap_want_ints(path: Path, value: Any) -> None:
    """Offsets and sizes are int bytes."""
    with Region.open(path) as region:
        for use in (region.map, region.unmap):
            for arguments in ((value, PAGE), (0, value)):
                with pytest.raises(TypeError, match="is a number of bytes"):
                    use(*arguments)


def test_map_of_a_file_that_knows_no_ioctl(path: Path) -> None:
    """ENOTTY of the kernel is NotARegion."""
    with Region.open(path) as region:
        with pytest.raises(msharefs.NotARegion):
            region.map(0, PAGE)
        with pytest.raises(msharefs.NotARegion):
            region.unmap(0, PAGE)


def test_interrupted_ioctl_is_repeated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal does not show: the request is made again until the mount has answered."""
    answers: list[Exception | None] = [InterruptedError(), InterruptedError(), None]
    asked = []

    def ioctl(fd: int, number: int, payload: bytes) -> int:
        asked.append((fd, number, payload))
        answer = answers.pop(0)
        if answer is not None:
            raise answer
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    with Region.open(path) as region:
        region.map(0, PAGE)
    assert answers == []
    assert len(set(asked)) == 1


def test_alignment_needs_a_mount(tmp_path: Path) -> None:
    """On a plain directory, or below a missing one, there is none to read."""
    with pytest.raises(msharefs.NotMounted):
        msharefs.alignment(tmp_path)
    with pytest.raises(msharefs.RegionNotFound):
        msharefs.alignment(tmp_path / "missing" / "deeper")
