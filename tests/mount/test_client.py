"""The Python client against a real mount: what it makes, sees and raises.

The rules themselves are tested with raw system calls elsewhere; here it is what reaches a
Python program: memory, exceptions with their reasons, and nothing left after a failure.
"""

from __future__ import annotations

import errno
import faulthandler
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import msharefs
from msharefs import Mapping, Region
from tests.helpers.descriptors import open_descriptors
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import ROOT, Mount
from tests.helpers.users import ALICE, ChildKilledError, as_user, in_child
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=1G,overcommit"
PLANES = ("passthrough", "paged", "direct")

PAGE = mmap.PAGESIZE
MIB = 1 << 20
UNIT = 2 * MIB


@pytest.fixture
def place(place: Path) -> Iterator[Path]:
    """A path for a test's region, which goes after the test, a failed one too."""
    yield place
    place.unlink(missing_ok=True)


def rw(offset: int, size: int) -> Mapping:
    """A plain mapping as a layout shows it."""
    return Mapping(offset, size, "rw-", reserve=True, huge=False)


def read_quietly(view: memoryview, offset: int) -> int:
    """A byte, in a child that may die of it without a report of its own."""
    faulthandler.disable()
    return view[offset]


def reserved(mount: Mount) -> int:
    """Bytes that the mount has set aside for mappings."""
    number: int = mount.status()["arena"]["reserved"]
    return number


def test_two_processes_share_memory(place: Path) -> None:
    """What one process writes, another that opened the path reads, and the other way round."""
    with Region.create(place, UNIT) as region:
        region.map(0, PAGE)
        with region.attach() as window:
            window.buf[:5] = b"hello"
            other = (
                "import sys, msharefs\n"
                "with msharefs.Region.open(sys.argv[1]) as region, region.attach() as window:\n"
                "    assert bytes(window.buf[:5]) == b'hello'\n"
                "    window.buf[:5] = b'world'\n"
            )
            subprocess.run([sys.executable, "-c", other, place], check=True, cwd=ROOT, timeout=30)
            assert bytes(window.buf[:5]) == b"world"


def test_created_region_is_a_file(place: Path) -> None:
    """Size, mode less the umask and owner are those of a file; its size costs no memory."""
    old = os.umask(0o027)
    try:
        region = Region.create(place, 1 << 40, mode=0o666)
    finally:
        os.umask(old)
    with region:
        status = place.stat()
        assert (status.st_size, status.st_mode & 0o7777, status.st_uid) == (
            1 << 40,
            0o640,
            os.geteuid(),
        )
        assert (region.size, status.st_blocks) == (1 << 40, 0)
        region.unlink()
    assert not place.exists()


def test_name_that_is_taken(place: Path) -> None:
    """Without exist_ok the second create is RegionExists and leaves the first as it is."""
    with Region.create(place, UNIT) as first:
        first.map(0, PAGE)
        with pytest.raises(FileExistsError) as caught:
            Region.create(place, UNIT)
        assert isinstance(caught.value, msharefs.RegionExists)
        assert first.layout().mappings == (rw(0, PAGE),)


def test_exist_ok_opens_what_is_there(place: Path) -> None:
    """With exist_ok the region is the same one if the size is; another size is SizeAlreadySet."""
    with Region.create(place, UNIT, exist_ok=True) as first:
        first.map(0, PAGE)
        with Region.create(place, UNIT, exist_ok=True) as second:
            assert second.layout().mappings == (rw(0, PAGE),)
        with pytest.raises(msharefs.SizeAlreadySet, match=f"has {UNIT} already") as caught:
            Region.create(place, 2 * UNIT, exist_ok=True)
        assert caught.value.errno == errno.EINVAL
        assert (first.size, place.exists()) == (UNIT, True)


def test_exist_ok_finishes_a_region_without_a_size(place: Path) -> None:
    """A creator that died between create and ftruncate is no obstacle."""
    os.close(os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    with Region.open(place) as unsized:
        for refused in (unsized.attach, lambda: unsized.map(0, PAGE), lambda: unsized.unmap(0, 1)):
            with pytest.raises(msharefs.SizeNotSet, match="no size yet"):
                refused()
        with pytest.raises(msharefs.InvalidArgument, match="multiple of"):
            Region.create(place, UNIT + PAGE, exist_ok=True)
        with Region.create(place, UNIT, exist_ok=True):
            assert unsized.size == UNIT


@pytest.mark.parametrize("exist_ok", [True, False])
def test_other_process_that_is_faster_with_the_size(
    place: Path, monkeypatch: pytest.MonkeyPatch, *, exist_ok: bool
) -> None:
    """Who opens a new region with exist_ok may size it before its creator comes to that.

    With the same size the creator is content; with another one it gives up and leaves the region
    to the one that uses it now.
    """
    real = os.ftruncate

    def second(fd: int, size: int) -> None:
        real(fd, first_size)
        real(fd, size)

    monkeypatch.setattr(os, "ftruncate", second)
    first_size = UNIT
    with Region.create(place, UNIT, exist_ok=exist_ok) as region:
        assert region.size == UNIT
    region.unlink()
    first_size = 2 * UNIT
    with pytest.raises(msharefs.SizeAlreadySet):
        Region.create(place, UNIT, exist_ok=exist_ok)
    assert place.stat().st_size == 2 * UNIT


def test_region_that_is_mapped_when_it_is_made(mounted: Mount, place: Path) -> None:
    """With map it can be used at once; without the memory for it nothing is left."""
    with Region.create(place, 2 * UNIT, map=True) as region, region.attach() as window:
        assert region.layout().mappings == (rw(0, 2 * UNIT),)
        window.as_array("u1", 2 * UNIT)[-1] = 7
        assert window.buf[-1] == 7
    region.unlink()
    free = f"free of the mount's|{mounted.path}"
    with pytest.raises(msharefs.OutOfMemory, match=free) as caught:
        Region.create(place, 1 << 40, map=True)
    assert caught.value.filename == str(place)
    assert not place.exists()


def test_map_and_exist_ok_fill_what_is_missing(place: Path) -> None:
    """Whichever process comes first: all is mapped, and nothing that was mapped has changed."""
    with Region.create(place, UNIT) as first:
        first.map(PAGE, PAGE)
        first.map(5 * PAGE, PAGE, reserve=False)
        with first.attach() as window:
            window.buf[PAGE : PAGE + 4] = b"kept"
            for _ in range(2):
                Region.create(place, UNIT, map=True, exist_ok=True).close()
            layout = first.layout()
            assert (layout.mapped, layout.reserved) == (UNIT, UNIT - PAGE)
            assert bytes(window.buf[PAGE : PAGE + 4]) == b"kept"


def test_many_processes_make_one_mapped_region(place: Path) -> None:
    """All of them start at once, and none meets a hole or makes another's memory anew."""

    def work(number: int) -> None:
        with Region.create(place, UNIT, map=True, exist_ok=True) as region:
            with region.attach(0, PAGE) as window:
                window.buf[number] = number

    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                work(number)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    with Region.open(place) as region, region.attach(0, PAGE) as window:
        assert bytes(window.buf[:8]) == bytes(range(8))


def test_mapped_region_where_nothing_is_mounted(tmp_path: Path) -> None:
    """NotMounted, and no plain file stays behind."""
    with pytest.raises(msharefs.NotMounted):
        Region.create(tmp_path / "region", UNIT, map=True)
    assert os.listdir(tmp_path) == []


def test_size_off_the_alignment(mounted: Mount, place: Path) -> None:
    """The message names the alignment and the next size; the name is gone again, deep down too."""
    place.mkdir()
    for directory in (mounted.path, place):
        path = directory / "odd"
        with pytest.raises(ValueError, match=f"multiple of {UNIT}.*next is {2 * UNIT}") as caught:
            Region.create(path, UNIT + 1)
        assert isinstance(caught.value, msharefs.InvalidArgument)
        assert not path.exists()
    place.rmdir()


def test_alignment_of_a_mount(mounted: Mount, place: Path, make_mount: MakeMount) -> None:
    """It is the mount's own, asked from any path on it, one that does not exist yet too."""
    place.mkdir()
    for path in (mounted.path, place, place / "new", str(place), os.fsencode(place)):
        assert msharefs.alignment(path) == UNIT
    place.rmdir()
    assert msharefs.alignment(make_mount("size=8M,align=4K").path) == 4096


def test_limits_of_a_mount(make_mount: MakeMount) -> None:
    """max_region, nr_inodes and size have an exception each; what fails leaves nothing behind."""
    mount = make_mount("size=8M,max_region=32M,nr_inodes=4")
    with pytest.raises(msharefs.RegionTooLarge) as too_large:
        Region.create(mount.path / "large", 64 * MIB)
    assert too_large.value.errno == errno.EFBIG
    assert os.listdir(mount.path) == ["mshare_info"]

    with Region.create(mount.path / "a", 32 * MIB) as region:
        region.map(0, 4 * MIB)
        before = (region.layout(), reserved(mount))
        with pytest.raises(msharefs.OutOfMemory) as no_memory:
            region.map(4 * MIB, 6 * MIB)
        assert no_memory.value.errno == errno.ENOMEM
        assert (region.layout(), reserved(mount)) == before

    free = os.statvfs(mount.path).f_ffree
    for number in range(free):
        Region.create(mount.path / f"b{number}", UNIT).close()
    with pytest.raises(msharefs.OutOfInodes) as no_inode:
        Region.create(mount.path / "one more", UNIT)
    assert no_inode.value.errno == errno.ENOSPC
    assert not (mount.path / "one more").exists()


def test_region_in_a_missing_directory(place: Path) -> None:
    """ENOENT, as for any file."""
    with pytest.raises(msharefs.RegionNotFound):
        Region.create(place / "r", UNIT)
    with pytest.raises(msharefs.RegionNotFound):
        Region.open(place / "r")


def test_mshare_info_is_no_region(mounted: Mount) -> None:
    """The file of the mount itself can be read, but not as a region, and never be written."""
    info = mounted.path / "mshare_info"
    with pytest.raises(msharefs.NotARegion):
        Region.open(info, writable=False)
    with pytest.raises(msharefs.AccessDenied):
        Region.open(info)
    with pytest.raises(msharefs.RegionExists):
        Region.create(info, UNIT)


@pytest.mark.root_only("becomes another user")
def test_mode_decides_who_may_open(place: Path) -> None:
    """Another user is kept out, may read only, or may do all, as the mode says."""

    def rights() -> list[str]:
        answers = []
        for writable in (True, False):
            try:
                Region.open(place, writable=writable).close()
                answers.append("granted")
            except msharefs.AccessDenied as error:
                answers.append(errno.errorcode[error.errno or 0])
        return answers

    with Region.create(place, UNIT):
        for mode, expected in (
            (0o600, ["EACCES", "EACCES"]),
            (0o644, ["EACCES", "granted"]),
            (0o666, ["granted", "granted"]),
        ):
            place.chmod(mode)
            assert as_user(ALICE, rights) == expected


def test_mappings_show_in_the_layout(place: Path) -> None:
    """Each choice of map() arrives at the mount, and every fact comes back."""
    with Region.create(place, 16 * MIB) as region:
        region.map(0, PAGE, prot="r")
        region.map(2 * PAGE, PAGE + 1, prot="rwx", reserve=False)
        region.map(4 * MIB, 2 * MIB, huge=True)
        region.map(8 * PAGE, PAGE, prot="")
        region.map(10 * PAGE, PAGE)
        region.unmap(10 * PAGE, PAGE)
        layout = region.layout()
        assert layout.mappings == (
            Mapping(0, PAGE, "r--", reserve=True, huge=False),
            Mapping(2 * PAGE, 2 * PAGE, "rwx", reserve=False, huge=False),
            Mapping(8 * PAGE, PAGE, "---", reserve=True, huge=False),
            Mapping(4 * MIB, 2 * MIB, "rw-", reserve=True, huge=True),
        )
        assert (layout.size, layout.mapped) == (16 * MIB, 4 * PAGE + 2 * MIB)
        assert layout.reserved == 2 * PAGE + 2 * MIB
        assert (layout.maps, layout.unmaps) == (5, 1)
        assert (layout.creator.pid, layout.creator.uid) == (os.getpid(), os.geteuid())
        assert layout.open_handles == 1
        with Region.open(place):
            assert region.layout().open_handles == 2


def test_layout_of_many_mappings_is_complete(place: Path) -> None:
    """A layout that no single attribute could hold comes whole and in order."""
    count = 1200
    with Region.create(place, 16 * MIB) as region:
        for number in range(count):
            region.map(2 * number * PAGE, PAGE)
        expected = tuple(rw(2 * number * PAGE, PAGE) for number in range(count))
        assert region.layout().mappings == expected
        region.map(2 * 700 * PAGE, PAGE, prot="r")
        with region.attach(0, 700 * 2 * PAGE) as left, region.attach(701 * 2 * PAGE) as right:
            assert (left.readonly, right.readonly) == (False, False)
        with region.attach() as whole:
            assert whole.readonly


def test_the_bytes_of_a_file(place: Path, tmp_path: Path) -> None:
    """All of it, or a part; the layout names it, and an attachment cannot write to it."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE) + b"bytes of the file")
    with Region.create(place, UNIT) as region:
        with path.open("rb") as file:
            region.map_file(0, file)
            region.map_file(4 * PAGE, file.fileno(), PAGE, file_offset=PAGE)
            with pytest.raises(msharefs.MappingExists):
                region.map_file(PAGE, file, replace=False)
        whole, part = region.layout().mappings
        assert (whole.offset, whole.size, part.offset, part.size) == (0, 2 * PAGE, 4 * PAGE, PAGE)
        assert (part.file and part.file.path, part.file and part.file.offset) == (str(path), PAGE)
        with region.attach(4 * PAGE, PAGE) as attachment:
            assert bytes(attachment.buf[:17]) == b"bytes of the file"
            assert attachment.buf.readonly


def test_what_is_changed_goes_back_to_a_file(place: Path, tmp_path: Path) -> None:
    """With "w" in prot: the layout says so, and sync does it."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes of the file")
    with Region.create(place, UNIT) as region:
        with path.open("r+b") as file:
            region.map_file(0, file, prot="rw")
        (mapping,) = region.layout().mappings
        assert mapping.file is not None
        assert (mapping.file.write_back, mapping.file.unwritten) == ("on", 0)
        with region.attach(0, PAGE) as attachment:
            attachment.buf[:5] = b"other"
            region.sync()
        assert path.read_bytes() == b"other of the file"


def test_files_that_cannot_be_mapped(place: Path, tmp_path: Path) -> None:
    """Each exception says why, and nothing is mapped."""
    path = tmp_path / "file"
    path.write_bytes(b"bytes")
    with Region.create(place, UNIT) as region, path.open("r+b") as file:
        with open("/dev/null", "rb") as null:
            with pytest.raises(msharefs.NotMappable, match="no regular file"):
                region.map_file(0, null, PAGE)
        with pytest.raises(msharefs.AccessDenied, match="the way it was opened"):
            region.map_file(0, file, prot="rx")
        with pytest.raises(msharefs.InvalidArgument, match="offset in the file"):
            region.map_file(0, file, PAGE, file_offset=1)
        with pytest.raises(msharefs.InvalidArgument, match="the region ends"):
            region.map_file(UNIT, file)
        with pytest.raises(msharefs.MshareError) as refused:
            region.map_file(0, 4321, PAGE)
        assert refused.value.errno == errno.EBADF
        assert region.layout().mappings == ()


def test_map_replaces_unless_it_must_not(place: Path) -> None:
    """A new mapping starts with zeros; replace=False is MappingExists and changes nothing."""
    with Region.create(place, UNIT) as region:
        region.map(0, 4 * PAGE)
        with region.attach(0, 4 * PAGE) as window:
            window.buf[:] = b"x" * (4 * PAGE)
            with pytest.raises(msharefs.MappingExists, match="something is mapped") as caught:
                region.map(3 * PAGE, 2 * PAGE, replace=False)
            assert caught.value.errno == errno.EEXIST
            assert region.layout().mappings == (rw(0, 4 * PAGE),)
            region.map(PAGE, PAGE)
            assert bytes(window.buf) == b"x" * PAGE + bytes(PAGE) + b"x" * (2 * PAGE)
            region.map(4 * PAGE, PAGE, replace=False)


@pytest.mark.parametrize(
    ("offset", "size", "reason"),
    [
        (1, PAGE, f"the offset is no multiple of {PAGE}"),
        (0, 0, "the size is 0"),
        (UNIT, PAGE, f"the region ends at {UNIT}"),
        (UNIT - PAGE, 2 * PAGE, f"the region ends at {UNIT}"),
        (PAGE, (1 << 64) - PAGE, f"the region ends at {UNIT}"),
    ],
)
def test_impossible_ranges_say_why(place: Path, offset: int, size: int, reason: str) -> None:
    """EINVAL of the ioctls comes with the reason, and nothing has changed."""
    with Region.create(place, UNIT) as region:
        for use in (region.map, region.unmap):
            with pytest.raises(msharefs.InvalidArgument, match=reason) as caught:
                use(offset, size)
            assert (caught.value.errno, caught.value.filename) == (errno.EINVAL, str(place))
        with pytest.raises(msharefs.InvalidArgument, match="multiple of 2097152"):
            region.map(PAGE, UNIT - PAGE, huge=True)
        assert region.layout().maps == 0


def test_region_opened_for_reading_changes_nothing(place: Path) -> None:
    """map and unmap are AccessDenied with the reason; reading works."""
    with Region.create(place, UNIT) as region:
        region.map(0, PAGE)
        with region.attach() as window:
            window.buf[:2] = b"ok"
        with Region.open(place, writable=False) as reader:
            for use in (reader.map, reader.unmap):
                with pytest.raises(msharefs.AccessDenied, match="open for reading only"):
                    use(0, PAGE)
            with reader.attach() as window:
                assert bytes(window.buf[:2]) == b"ok"


def test_unmapped_bytes_end_the_process(place: Path) -> None:
    """Bytes with nothing mapped are SIGBUS: those never mapped, and at once those unmapped."""
    with Region.create(place, UNIT) as region:
        region.map(0, 2 * PAGE)
        with region.attach() as window:
            assert in_child(lambda: window.buf[PAGE]) == 0
            region.unmap(PAGE, PAGE)
            assert in_child(lambda: window.buf[PAGE - 1]) == 0
            for offset in (PAGE, UNIT - 1):
                with pytest.raises(ChildKilledError) as caught:
                    in_child(partial(read_quietly, window.buf, offset))
                assert caught.value.signal == signal.SIGBUS


def test_memory_goes_with_the_last_attachment(make_mount: MakeMount) -> None:
    """After unlink and close an attachment still holds its memory; its end frees it."""
    mount = make_mount("size=8M")
    path = mount.path / "r"
    with Region.create(path, UNIT) as region:
        region.map(0, UNIT)
        window = region.attach()
    region.unlink()
    assert not path.exists()
    window.buf[UNIT - 1] = 1
    assert in_child(lambda: window.buf[UNIT - 1]) == 1
    assert mount.status()["arena"]["used"] >= UNIT
    window.close()
    eventually(lambda: mount.status()["arena"]["used"] < UNIT, what="memory is still used")


def test_forked_child_keeps_its_own(place: Path) -> None:
    """A child uses the region and the attachment it inherited, and closing them is its own."""
    with Region.create(place, UNIT) as region:
        region.map(0, PAGE)
        with region.attach() as window:

            def child() -> int:
                region.map(PAGE, PAGE)
                window.buf[PAGE] = 5
                window.close()
                region.close()
                return os.getpid()

            assert in_child(child) != os.getpid()
            assert window.buf[PAGE] == 5
            assert region.layout().mapped == 2 * PAGE


def test_array_is_shared_between_processes(place: Path) -> None:
    """A NumPy array on a region is the same memory in each process."""
    with Region.create(place, UNIT) as region:
        region.map(0, UNIT)
        with region.attach() as window:
            array = window.as_array(np.float64, (64, 128))

            def child() -> None:
                with Region.open(place) as mine, mine.attach() as own:
                    own.as_array(np.float64, (64, 128))[:] = np.arange(8192.0).reshape(64, 128)

            in_child(child)
            assert array.sum() == 8191 * 8192 / 2
            del array


def test_memmap_works_on_a_region_that_is_mapped(place: Path) -> None:
    """As the page says: "r+" and "r" are the shared memory, "c" is a private copy of it, and "w+"
    writes to the file, which no region takes."""
    with Region.create(place, UNIT, map=True):
        shared = np.memmap(place, np.float64, "r+")
        shared[7] = 1.5
        reader, copy = np.memmap(place, np.float64, "r"), np.memmap(place, np.float64, "c")
        assert shared.nbytes == UNIT
        copy[7] = 2.5
        assert (shared[7], reader[7], copy[7]) == (1.5, 1.5, 2.5)
        with pytest.raises(OSError, check=lambda error: error.errno == errno.EINVAL):
            np.memmap(place, np.float64, "w+", shape=(1,))
        del shared, reader, copy


def test_attached_window_is_aligned_for_huge_pages(place: Path) -> None:
    """The kernel places a region of 2 MiB or more where one page-table entry can map 2 MiB."""
    with Region.create(place, 2 * UNIT) as region, region.attach() as window:
        assert window.address % UNIT == 0


def test_nothing_is_leaked(mounted: Mount, place: Path) -> None:
    """After many rounds of everything, failures too, no descriptor, name or memory is left."""

    def state() -> tuple[object, ...]:
        status = mounted.status()
        return (
            open_descriptors(),
            sorted(os.listdir(mounted.path)),
            status["arena"]["reserved"],
            status["regions"],
        )

    before = state()
    for _ in range(20):
        with Region.create(place, UNIT) as region:
            region.map(0, UNIT)
            with region.attach() as window:
                window.buf[0] = 1
            with pytest.raises(msharefs.RegionExists):
                Region.create(place, UNIT)
            with pytest.raises(msharefs.SizeAlreadySet):
                Region.create(place, 2 * UNIT, exist_ok=True)
            region.unlink()
        with pytest.raises(msharefs.InvalidArgument):
            Region.create(place, UNIT + 1)
    eventually(lambda: state() == before, what=f"{state()} is not {before}")
