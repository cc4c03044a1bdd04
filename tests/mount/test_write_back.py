"""What is changed in the mapping of a file goes back to the file: when, which pages, and what fails."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import resource
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.file_processes import broker_of, end, helpers_of, links_of
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import HUGE, PAGE, map_file, opened, refused
from tests.helpers.users import ALICE, as_user
from tests.helpers.waiting import eventually

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096,log_level=debug"
SIZE = 4 * HUGE
PAGES = 9
"""Of the file, with a part of a tenth."""
MAPPED = 12 * PAGE
AT = 2 * PAGE
"""Where in the region."""
LOUD = "bytes are not written to|had changed were written over|do not go back|are lost"
"""What the log says of a file that cannot be written, and of one that others have changed."""


LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *(ctypes.c_int,) * 3, ctypes.c_int64)


@dataclass
class Pair:
    """A file, and a region that it is mapped into with PROT_WRITE, attached."""

    region: int
    path: Path
    window: mmap.mmap
    data: bytearray = field(repr=False)
    """What should be in the file."""

    def change(self, page: int, text: bytes, *, at: int = 7) -> None:
        """In a page of the region."""
        start = page * PAGE + at
        self.window[AT + start : AT + start + len(text)] = text
        if start < len(self.data):
            text = text[: len(self.data) - start]
            self.data[start : start + len(text)] = text

    def change_file(self, page: int, text: bytes, *, at: int = 7) -> None:
        """In a page of the file, by its name, as somebody else would."""
        with opened(self.path) as fd:
            os.pwrite(fd, text, page * PAGE + at)
        self.data[page * PAGE + at : page * PAGE + at + len(text)] = text

    def shown(self) -> list[dict[str, object]]:
        """What the layout says of the mapped files."""
        return [mapping["file"] for mapping in raw.layout(self.region)["mappings"]]

    def is_in_step(self) -> bool:
        """Whether the file has what it should have."""
        return self.path.read_bytes() == self.data


@contextmanager
def paired(place: Path, path: Path, *, size: int = PAGES * PAGE + 1234) -> Iterator[Pair]:
    """A region at `place`, and a file of so many bytes mapped into it."""
    data = bytearray(os.urandom(size))
    path.write_bytes(data)
    with raw.region(place, SIZE) as region:
        with opened(path) as file:
            map_file(region, AT, MAPPED, file, prot=raw.RW)
        with mmap.mmap(region, SIZE) as window:
            yield Pair(region, path, window, data)


@pytest.fixture
def pair(mounted: mount.Mount, place: Path, tmp_path: Path) -> Iterator[Pair]:
    """One whose descriptor is closed, as the caller may."""
    with paired(place, tmp_path / "file") as made:
        yield made


@contextmanager
def noisy(mounted: mount.Mount, words: str = LOUD) -> Iterator[None]:
    """The log says so, once at least."""
    mounted.expect_log(words)
    before = len(mounted.log())
    yield
    eventually(lambda: any(word in mounted.log()[before:] for word in words.split("|")))


# When


def test_fsync_writes_what_was_changed(pair: Pair) -> None:
    """C28: pages that were changed, the last one as far as the file goes; its length stays."""
    pair.change(0, b"first")
    pair.change(4, b"fifth")
    pair.change(9, b"x" * 4000)
    pair.change(11, b"behind the end")
    os.fsync(pair.region)
    assert pair.is_in_step()
    pair.change(4, b"again")
    os.fsync(pair.region)
    assert pair.is_in_step()


def test_msync_writes(pair: Pair, paged: bool) -> None:
    """R3, C28: in the paged plane, and by fsync in the other, whose msync goes to the segment."""
    pair.change(3, b"by msync")
    pair.window.flush()
    if not paged:
        os.fsync(pair.region)
    assert pair.is_in_step()


def test_unmap_writes(pair: Pair) -> None:
    """C28: the part that goes, when it returns; the rest goes on."""
    pair.change(1, b"in the first part")
    pair.change(8, b"in the last part")
    raw.unmap(pair.region, AT, 2 * PAGE)
    with opened(pair.path, os.O_RDONLY) as fd:
        assert os.pread(fd, 24, PAGE)[7:] == b"in the first part"
    raw.unmap(pair.region, AT + 4 * PAGE, PAGE)
    os.fsync(pair.region)
    assert pair.is_in_step()
    raw.unmap(pair.region, 0, SIZE)
    assert pair.is_in_step()
    assert raw.mapped_ranges(pair.region) == []


@pytest.mark.parametrize("by_file", [False, True])
def test_a_mapping_that_is_replaced_is_written(pair: Pair, tmp_path: Path, by_file: bool) -> None:
    """C7, C28: its file has what was changed, whatever takes its place."""
    pair.change(2, b"before it goes")
    if by_file:
        other = tmp_path / "other"
        other.write_bytes(b"other" * PAGE)
        with opened(other) as fd:
            map_file(pair.region, AT, MAPPED, fd, prot=raw.RW)
        assert pair.window[AT : AT + 5] == b"other"
    else:
        raw.create_mapping(pair.region, AT, MAPPED)
        assert pair.window[AT : AT + PAGE] == bytes(PAGE)
    assert pair.is_in_step()
    pair.window[AT : AT + 3] = b"new"
    os.fsync(pair.region)
    assert pair.is_in_step()


def test_the_last_close_writes(
    mounted: mount.Mount, place: Path, tmp_path: Path, paged: bool
) -> None:
    """C28: soon after it; what is stored by who has it mapped still goes with the region. In the
    paged plane who has it mapped has it open."""
    with paired(place, tmp_path / "file") as pair:
        pair.change(1, b"before close")
        kept = attached_alone(pair.region)
    if not paged:
        eventually(pair.is_in_step)
    ctypes.memmove(kept + AT + 3 * PAGE, b"after", 5)
    pair.data[3 * PAGE : 3 * PAGE + 5] = b"after"
    assert LIBC.munmap(ctypes.c_void_p(kept), ctypes.c_size_t(SIZE)) == 0
    eventually(pair.is_in_step)
    mounted.wait_until_empty()


def attached_alone(region: int) -> int:
    """The address of a window that, unlike Python's own, has no descriptor."""
    address = LIBC.mmap(None, SIZE, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, region, 0)
    assert address != ctypes.c_void_p(-1).value
    return int(address)


@pytest.mark.parametrize("plane", mount.planes())
def test_umount_writes(make_mount: MakeMount, tmp_path: Path, plane: str) -> None:
    """C28: all regions, and before the command returns that waits for the daemon."""
    mounted = make_mount(f"size=64M,align=4096,data={plane}")
    files = []
    for number in range(3):
        path = tmp_path / str(number)
        path.write_bytes(bytes(PAGE))
        with opened(mounted.path / str(number), os.O_RDWR | os.O_CREAT) as region:
            os.ftruncate(region, SIZE)
            with opened(path) as file:
                map_file(region, 0, PAGE, file, prot=raw.RW)
            with mmap.mmap(region, SIZE) as window:
                window[:5] = b"first"
        eventually(lambda path=path: path.read_bytes()[:5] == b"first")  # type: ignore[misc]
        files.append(path)
    keepers = [os.open(mounted.path / str(number), os.O_RDWR) for number in range(3)]
    for fd in keepers:
        with mmap.mmap(fd, SIZE) as window:
            window[:5] = b"again"
    for fd in keepers:
        os.close(fd)
    assert mount.unmount(mounted.path).returncode == 0
    mounted.wait_for_end()
    assert [path.read_bytes()[:5] for path in files] == [b"again"] * 3


def test_a_file_that_others_write_anew(pair: Pair, mounted: mount.Mount) -> None:
    """C28: cut in a page that nobody has changed in the region, it stays as they wrote it."""
    os.truncate(pair.path, 0)
    pair.path.write_bytes(b"anew" * 100)
    pair.data = bytearray(b"anew" * 100)
    os.fsync(pair.region)
    assert pair.is_in_step()
    with noisy(mounted, "had changed were written over"):
        pair.change(0, b"changed here")
        os.fsync(pair.region)
    assert pair.path.read_bytes()[7:19] == b"changed here"
    assert pair.path.stat().st_size == 400


def test_two_regions_over_one_file(pair: Pair, mounted: mount.Mount, tmp_path: Path) -> None:
    """Each page has what was changed last; who maps it afterwards sees that."""
    other = mounted.path / "second"
    with raw.region(other, SIZE) as region:
        with opened(pair.path) as file:
            map_file(region, 0, MAPPED, file, prot=raw.RW)
        with mmap.mmap(region, SIZE) as window:
            pair.change(1, b"by the first")
            window[2 * PAGE : 2 * PAGE + 13] = b"by the second"
            pair.data[2 * PAGE : 2 * PAGE + 13] = b"by the second"
            os.fsync(pair.region)
            os.fsync(region)
    assert pair.is_in_step()
    with opened(pair.path) as file:
        map_file(pair.region, AT, MAPPED, file, prot=raw.RW)
    assert pair.window[AT : AT + len(pair.data)] == pair.data


# Which pages


def test_what_others_change_in_the_file_stays(pair: Pair) -> None:
    """C28: a page that nobody has changed in the region keeps what is in the file."""
    pair.change(0, b"by the region")
    pair.change_file(1, b"by somebody else")
    pair.change_file(9, b"and in the last page")
    os.fsync(pair.region)
    raw.unmap(pair.region, AT, MAPPED)
    assert pair.is_in_step()


def test_the_region_wins_what_both_have_changed(pair: Pair, mounted: mount.Mount) -> None:
    """C28: and the log says how much that is; once."""
    pair.change_file(1, b"by somebody else", at=100)
    pair.change(1, b"by the region")
    with noisy(mounted, "8192 bytes that somebody else had changed were written over"):
        pair.change_file(9, b"by somebody else", at=100)
        pair.change(9, b"by the region")
        os.fsync(pair.region)
    for page in (1, 9):
        noted = pair.window[AT + page * PAGE : AT + (page + 1) * PAGE]
        pair.data[page * PAGE : (page + 1) * PAGE] = noted
    assert pair.path.read_bytes() == pair.data[: PAGES * PAGE + 1234]
    before = mounted.log().count("were written over")
    pair.data = bytearray(pair.path.read_bytes())
    pair.change(1, b"once more")
    os.fsync(pair.region)
    assert pair.is_in_step()
    assert mounted.log().count("were written over") == before


def test_the_same_change_on_both_sides(pair: Pair, mounted: mount.Mount) -> None:
    """Is nobody's loss, and no line in the log."""
    pair.change(1, b"the same")
    pair.change_file(1, b"the same")
    before = mounted.log().count("were written over")
    os.fsync(pair.region)
    pair.change(1, b"and on")
    os.fsync(pair.region)
    assert pair.is_in_step()
    assert mounted.log().count("were written over") == before


def test_a_large_file(mounted: mount.Mount, place: Path, tmp_path: Path) -> None:
    """Changed pages here and there, runs longer than a batch, and all of it."""
    path = tmp_path / "large"
    data = bytearray(os.urandom(SIZE))
    path.write_bytes(data)
    with raw.region(place, SIZE) as region, opened(path) as file:
        map_file(region, 0, SIZE, file, prot=raw.RW)
        with mmap.mmap(region, SIZE) as window:
            for start, size in ((0, 1), (5 * PAGE - 1, 2), (HUGE + 17, 3 << 20), (SIZE - 1, 1)):
                fresh = os.urandom(size)
                window[start : start + size] = data[start : start + size] = fresh
            os.fsync(region)
            assert path.read_bytes() == data
            window[:] = fresh = os.urandom(SIZE)
            os.fsync(region)
            assert path.read_bytes() == fresh


def test_only_what_was_asked_for_writing(mounted: mount.Mount, place: Path, tmp_path: Path) -> None:
    """C28: without PROT_WRITE nothing goes back, however it was opened."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    with raw.region(place, SIZE) as region:
        with opened(path) as file:
            map_file(region, 0, PAGE, file, prot=raw.PROT_READ)
        with mmap.mmap(region, SIZE) as window:
            window[:3] = b"new"
        os.fsync(region)
        raw.unmap(region, 0, PAGE)
    assert path.read_bytes() == bytes(PAGE)


# How many


def counted(region: int, behind: str = "") -> int:
    """What the mount counts now, of all or of the mapping at an offset."""
    raw.hand_over(region)
    return int(os.getxattr(region, f"user.msharefs.changed{behind}"))


def test_what_was_changed_and_is_not_written_is_counted(pair: Pair) -> None:
    """R13: pages, as far as the file reaches; not what others change in it. The file hears nothing of it."""
    assert counted(pair.region) == 0
    before = pair.path.read_bytes()
    for page in (0, 4, 9):
        pair.change(page, b"new")
    pair.change(11, b"behind the end")
    assert counted(pair.region) == 3 * PAGE
    assert pair.path.read_bytes() == before
    pair.change_file(1, b"by others")
    assert counted(pair.region) == 3 * PAGE
    raw.create_mapping(pair.region, AT + 2 * PAGE, 2 * PAGE)
    parts = [counted(pair.region, f".{AT + page * PAGE}") for page in (1, 2, 4, 10)]
    assert parts == [PAGE, 0, 2 * PAGE, 2 * PAGE]
    os.fsync(pair.region)
    assert counted(pair.region) == 0


def test_counted_by_name_for_who_may_read(mounted: mount.Mount, pair: Pair) -> None:
    """R13: by the kernel's rules for attributes; nobody needs to have the region open, nor rights to the file."""
    path = f"/proc/self/fd/{pair.region}"
    name = "user.msharefs.changed"
    pair.change(3, b"new")
    raw.hand_over(pair.region)
    assert int(os.getxattr(path, name)) == PAGE
    if mount.PRIVILEGED:
        os.chmod(pair.path, 0o600)
        os.fchmod(pair.region, 0o644)
        place = os.readlink(path)
        assert as_user(ALICE, lambda: int(os.getxattr(place, name))) == PAGE
        os.fchmod(pair.region, 0o600)
        with refused(errno.EACCES):
            as_user(ALICE, lambda: os.getxattr(place, name))
    with refused(errno.EPERM):
        os.setxattr(path, name, b"0")


def test_many_count_and_write_at_once(pair: Pair) -> None:
    """R13: each is served in the region's turn, and each number is one that there was."""
    numbers: list[int] = []

    def count() -> None:
        found = [os.getxattr(pair.region, "user.msharefs.changed") for _ in range(5)]
        numbers.extend(map(int, found))

    threads = [threading.Thread(target=count) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(5):
        pair.change(number, b"new")
        os.fsync(pair.region)
    for thread in threads:
        thread.join()
    assert len(numbers) == 15
    assert set(numbers) <= {0, PAGE}
    assert pair.is_in_step()


# The length of the file


def test_a_file_that_is_cut(pair: Pair, mounted: mount.Mount) -> None:
    """C22: what is behind its end now is not written; when it grows again it is, where it was changed."""
    mounted.expect_log(LOUD)
    os.truncate(pair.path, 3 * PAGE + 10)
    pair.change(1, b"inside")
    pair.change(3, b"over the end")
    pair.change(5, b"behind the end")
    os.fsync(pair.region)
    assert pair.path.read_bytes() == pair.data[: 3 * PAGE + 10]
    assert pair.shown()[0]["error"] is None
    os.truncate(pair.path, PAGES * PAGE)
    os.fsync(pair.region)
    with opened(pair.path, os.O_RDONLY) as fd:
        assert os.pread(fd, PAGE, 5 * PAGE) == pair.data[5 * PAGE : 6 * PAGE]


def test_a_file_that_is_cut_again_and_again(
    mounted: mount.Mount, place: Path, tmp_path: Path
) -> None:
    """C22: while it is written. It never becomes longer than whoever cuts it has made it."""
    path = tmp_path / "cut"
    path.write_bytes(bytes(HUGE))
    mounted.expect_log(LOUD)
    stop = threading.Event()
    wrong: list[int] = []

    def cut() -> None:
        with opened(path) as fd:
            while not stop.is_set():
                os.ftruncate(fd, 3 * PAGE + 5)
                if (size := os.fstat(fd).st_size) != 3 * PAGE + 5:
                    wrong.append(size)
                os.ftruncate(fd, HUGE)
                os.ftruncate(fd, 3 * PAGE + 5)
                sizes = {os.fstat(fd).st_size for _ in range(20)}
                wrong.extend(sizes - {3 * PAGE + 5})
                os.ftruncate(fd, HUGE)

    with raw.region(place, SIZE) as region, mmap.mmap(region, SIZE) as window:
        with opened(path) as file:
            map_file(region, 0, HUGE, file, prot=raw.RW)
        cutter = threading.Thread(target=cut)
        cutter.start()
        try:
            for number in range(15):
                window[:HUGE] = bytes([number + 1]) * HUGE
                os.fsync(region)
        finally:
            stop.set()
            cutter.join()
        assert wrong == []
        os.truncate(path, HUGE)
        window[:HUGE] = b"z" * HUGE
        os.fsync(region)
        assert path.read_bytes() == b"z" * HUGE


def test_a_descriptor_that_was_set_to_append(
    mounted: mount.Mount, place: Path, tmp_path: Path
) -> None:
    """C23: afterwards, by its owner: nothing is appended."""
    path = tmp_path / "file"
    path.write_bytes(bytes(2 * PAGE))
    with raw.region(place, SIZE) as region, opened(path) as file:
        map_file(region, 0, 2 * PAGE, file, prot=raw.RW)
        fcntl.fcntl(file, fcntl.F_SETFL, os.O_APPEND)
        with mmap.mmap(region, SIZE) as window:
            window[:3] = b"new"
        os.fsync(region)
    assert path.read_bytes() == b"new".ljust(2 * PAGE, b"\0")


# What fails


@pytest.mark.root_only("mounts a file system")
def test_a_full_file_system(
    mounted: mount.Mount, place: Path, tmp_path: Path, small_disk: Path
) -> None:
    """C29: ENOSPC for fsync and UNMAP, which changes nothing then; nothing is lost, and all of it
    goes when there is room."""
    mounted.expect_log(LOUD)
    path = small_disk / "sparse"
    with opened(path, os.O_RDWR | os.O_CREAT) as file:
        os.ftruncate(file, 16 * PAGE)
        os.pwrite(file, b"there", 0)
        with raw.region(place, SIZE) as region, mmap.mmap(region, SIZE) as window:
            map_file(region, 0, 16 * PAGE, file, prot=raw.RW)
            before = raw.mapped_ranges(region)
            filler = small_disk / "filler"
            fill(filler)
            window[: 16 * PAGE] = wanted = os.urandom(16 * PAGE)
            with noisy(mounted, f"{15 * PAGE} bytes are not written"):
                with refused(errno.ENOSPC):
                    os.fsync(region)
            assert os.pread(file, PAGE, 0) == wanted[:PAGE]
            shown = raw.layout(region)["mappings"][0]["file"]
            assert (shown["write_back"], shown["unwritten"]) == ("failed", 15 * PAGE)
            assert shown["error"] == os.strerror(errno.ENOSPC)
            with refused(errno.ENOSPC):
                raw.unmap(region, 0, 4 * PAGE)
            with refused(errno.ENOSPC):
                raw.create_mapping(region, PAGE, PAGE)
            assert raw.mapped_ranges(region) == before
            assert window[: 16 * PAGE] == wanted
            filler.unlink()
            os.fsync(region)
            shown = raw.layout(region)["mappings"][0]["file"]
            assert (shown["write_back"], shown["unwritten"], shown["error"]) == ("on", 0, None)
            assert path.read_bytes() == wanted
            raw.unmap(region, 0, 16 * PAGE)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    with mounted_disk(tmp_path / "disk", ["-t", "tmpfs", "-o", "size=1M", "tmpfs"]) as disk:
        yield disk


@contextmanager
def mounted_disk(place: Path, words: Sequence[str]) -> Iterator[Path]:
    """A file system for a test."""
    place.mkdir()
    subprocess.run(["mount", *words, str(place)], check=True, timeout=20)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True, timeout=20)


def fill(path: Path) -> None:
    """Take all the room that there is."""
    with opened(path, os.O_WRONLY | os.O_CREAT) as fd:
        for size in (1 << 16, PAGE):
            try:
                while True:
                    os.write(fd, bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@pytest.mark.root_only("mounts a file system")
def test_what_ext4_forbids(mounted: mount.Mount, place: Path, tmp_path: Path) -> None:
    """C24, C29: an append-only file is EACCES, also where it was made one afterwards; an immutable one
    EPERM, while it is; a full one ENOSPC."""
    image = tmp_path / "image"
    with opened(image, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, 8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", image], check=True, timeout=20)
    with mounted_disk(tmp_path / "ext4", ["-o", "loop", str(image)]) as disk:
        path = disk / "file"
        path.write_bytes(bytes(4 * PAGE))
        with raw.region(place, SIZE) as region, opened(path) as file:
            with mmap.mmap(region, SIZE) as window:
                map_file(region, 0, 4 * PAGE, file, prot=raw.RW)
                for attribute, code in (("i", errno.EPERM), ("a", errno.EACCES)):
                    window[:1] = attribute.encode()
                    subprocess.run(["chattr", f"+{attribute}", path], check=True, timeout=20)
                    try:
                        with noisy(mounted), refused(code):
                            os.fsync(region)
                        if attribute == "a":
                            with refused(errno.EACCES):
                                map_file(region, HUGE, PAGE, file, prot=raw.RW)
                    finally:
                        subprocess.run(["chattr", f"-{attribute}", path], check=True, timeout=20)
                    os.fsync(region)
                    assert path.read_bytes()[:1] == attribute.encode()
                raw.unmap(region, 0, 4 * PAGE)
        sparse = disk / "sparse"
        with raw.region(place, SIZE) as region, opened(sparse, os.O_RDWR | os.O_CREAT) as file:
            os.ftruncate(file, 64 * PAGE)
            with mmap.mmap(region, SIZE) as window:
                map_file(region, 0, 64 * PAGE, file, prot=raw.RW)
                fill(disk / "filler")
                window[: 64 * PAGE] = b"x" * (64 * PAGE)
                with noisy(mounted), refused(errno.ENOSPC):
                    os.fsync(region)
                (disk / "filler").unlink()
                os.fsync(region)
                raw.unmap(region, 0, 64 * PAGE)
        assert sparse.read_bytes() == b"x" * (64 * PAGE)


@pytest.mark.parametrize("seal", [fcntl.F_SEAL_WRITE, 0x10], ids=["WRITE", "FUTURE_WRITE"])
def test_a_file_that_is_sealed_afterwards(pair: Pair, mounted: mount.Mount, seal: int) -> None:
    """C24, C29: EPERM, and what was changed stays in the region; clean pages can be unmapped."""
    fd = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.write(fd, bytes(4 * PAGE))
    start = AT + MAPPED
    map_file(pair.region, start, 4 * PAGE, fd, prot=raw.RW)
    pair.window[start : start + 5] = b"early"
    os.fsync(pair.region)
    assert os.pread(fd, 5, 0) == b"early"
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seal)
    pair.window[start : start + 4] = b"late"
    pair.change(2, b"another file")
    with noisy(mounted), refused(errno.EPERM):
        os.fsync(pair.region)
    assert pair.is_in_step()
    with noisy(mounted), refused(errno.EPERM):
        raw.unmap(pair.region, start, PAGE)
    raw.unmap(pair.region, start + PAGE, PAGE)
    assert pair.window[start : start + 5] == b"latey"
    assert os.pread(fd, 5, 0) == b"early"
    os.close(fd)


def test_the_limit_of_file_sizes_is_not_the_daemons(mounted: mount.Mount, tmp_path: Path) -> None:
    """C28: a mapping that is there is written, whatever RLIMIT_FSIZE somebody has, as mmap(2) does."""
    with paired(mounted.path / "first", tmp_path / "first"):
        # The processes that have files are there by now.
        broker = broker_of(mounted)
        assert broker is not None
        resource.prlimit(broker, resource.RLIMIT_FSIZE, (PAGE, resource.RLIM_INFINITY))
        for helper in helpers_of(mounted):
            end(helper)
    with paired(mounted.path / "limited", tmp_path / "file") as pair:
        pair.change(8, b"far behind")
        os.fsync(pair.region)
        assert pair.is_in_step()
    resource.prlimit(broker, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)


def test_more_files_than_may_be_kept(make_mount: MakeMount, tmp_path: Path) -> None:
    """C30: ENFILE, and nothing is changed; one that is unmapped makes room."""
    mounted = make_mount("size=64M,align=4096")
    paths = [tmp_path / "first", tmp_path / "second"]
    for path in paths:
        path.write_bytes(bytes(PAGE))
    resource.prlimit(mounted.pid, resource.RLIMIT_NOFILE, (130, 4096))
    with raw.region(mounted.path / "r", SIZE) as region, opened(paths[0]) as first:
        map_file(region, 0, PAGE, first, prot=raw.RW)
        with opened(paths[1]) as second, refused(errno.ENFILE):
            map_file(region, 0, 2 * PAGE, second, prot=raw.RW)
        assert raw.mapped_ranges(region) == [(0, PAGE)]
        with mmap.mmap(region, SIZE) as window:
            window[:5] = b"still"
        os.fsync(region)
        assert paths[0].read_bytes()[:5] == b"still"
        raw.unmap(region, 0, PAGE)
        with opened(paths[1]) as second:
            map_file(region, 0, 2 * PAGE, second, prot=raw.RW)


# Who


@pytest.mark.root_only("becomes another user")
def test_written_with_the_rights_of_who_mapped_it(
    mounted: mount.Mount, place: Path, tmp_path: Path
) -> None:
    """C28: whoever asks for it. The file need not be open to him by its name any more."""
    path = tmp_path / "hers"
    path.write_bytes(bytes(2 * PAGE))
    os.chown(path, ALICE, ALICE)
    with raw.region(place, SIZE) as region, mmap.mmap(region, SIZE) as window:
        os.chmod(place, 0o666)
        with opened(path) as file:

            def map_it() -> None:
                with opened(place) as theirs:
                    map_file(theirs, 0, 2 * PAGE, file, prot=raw.RW)

            as_user(ALICE, map_it)
        path.chmod(0o400)
        window[PAGE : PAGE + 5] = b"by us"
        os.fsync(region)
        assert path.read_bytes()[PAGE : PAGE + 5] == b"by us"
        assert raw.layout(region)["mappings"][0]["file"]["uid"] == ALICE


def test_a_caller_that_is_gone(mounted: mount.Mount, place: Path, tmp_path: Path) -> None:
    """C28: its mapping goes on being written, when its name is gone as well."""
    path = tmp_path / "file"
    path.write_bytes(bytes(PAGE))
    kept = os.open(path, os.O_RDONLY)
    with raw.region(place, SIZE) as region, mmap.mmap(region, SIZE) as window:
        child = os.fork()
        if child == 0:
            try:
                map_file(region, 0, PAGE, os.open(path, os.O_RDWR), prot=raw.RW)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        path.unlink()
        window[:4] = b"late"
        os.fsync(region)
        assert os.pread(kept, 4, 0) == b"late"
    os.close(kept)


def test_what_is_kept_is_let_go(pair: Pair, mounted: mount.Mount) -> None:
    """The supervisor has the file open as long as a part of it is mapped, and no longer."""

    def is_kept() -> bool:
        links = links_of(mounted.pid)
        return str(pair.path) in links

    assert is_kept()
    raw.unmap(pair.region, AT, 3 * PAGE)
    assert is_kept()
    raw.unmap(pair.region, AT, MAPPED)
    eventually(lambda: not is_kept())
