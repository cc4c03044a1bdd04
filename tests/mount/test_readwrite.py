"""What a region is not: a file to read and write. And the calls that are allowed all the same."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.raw import HUGE, opened, refused

MOUNT_OPTIONS = "size=64M,overcommit"
PLANES = ("passthrough", "paged")

MS_ASYNC, MS_SYNC, MS_INVALIDATE = 1, 4, 2


@pytest.fixture(params=["unsized", "sized", "mapped"])
def descriptor(place: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    """An open region in each of its states."""
    size = None if request.param == "unsized" else HUGE
    with raw.region(place, size, mapped=request.param == "mapped") as fd:
        yield fd


@pytest.mark.parametrize(
    "attempt",
    [
        lambda fd: os.read(fd, 1),
        lambda fd: os.read(fd, 4096),
        lambda fd: os.read(fd, raw.MIB),
        lambda fd: os.pread(fd, 10, 100),
        lambda fd: os.pread(fd, 10, 4 * HUGE),
        lambda fd: os.preadv(fd, [bytearray(10), bytearray(5000)], 0),
        lambda fd: os.write(fd, b"x"),
        lambda fd: os.write(fd, bytes(raw.MIB)),
        lambda fd: os.pwrite(fd, b"x" * 10, 100),
        lambda fd: os.pwrite(fd, b"x", HUGE),
        lambda fd: os.pwritev(fd, [b"x", bytes(5000)], 0),
    ],
    ids=[
        "read-1",
        "read-page",
        "read-much",
        "pread",
        "pread-beyond",
        "preadv",
        "write-1",
        "write-much",
        "pwrite",
        "pwrite-beyond",
        "pwritev",
    ],
)
def test_read_and_write_are_refused(descriptor: int, attempt: Callable[[int], object]) -> None:
    """R1: EINVAL in every state of the region, and nothing about it changes."""
    before = os.fstat(descriptor)
    with refused(errno.EINVAL):
        attempt(descriptor)
    after = os.fstat(descriptor)
    assert (after.st_size, after.st_blocks) == (before.st_size, before.st_blocks)


@pytest.mark.parametrize("flags", [os.O_APPEND, os.O_DIRECT, os.O_SYNC, os.O_NONBLOCK])
def test_read_and_write_with_open_flags(place: Path, flags: int) -> None:
    """R1, R10: the flags of open are taken and make no difference."""
    with raw.region(place, HUGE, mapped=True), opened(place, os.O_RDWR | flags) as fd:
        with refused(errno.EINVAL):
            os.write(fd, b"x" * 512)
        with refused(errno.EINVAL):
            os.read(fd, 512)


def test_reading_nothing_never_reaches_the_file_system(descriptor: int) -> None:
    """R1: read and write of no bytes give 0, because the kernel does not ask."""
    assert os.read(descriptor, 0) == b""
    assert os.write(descriptor, b"") == 0


def test_write_through_a_mapping_only(place: Path, client: poke.Poke) -> None:
    """R1: a refused write leaves the contents alone."""
    with raw.region(place, HUGE, mapped=True) as fd:
        address = client.attach(place, HUGE)
        client.put(address, b"kept")
        with refused(errno.EINVAL):
            os.pwrite(fd, b"spoilt", 0)
        assert client.get(address, 6) == b"kept\0\0"


@pytest.mark.parametrize("mapped", [False, True], ids=["hole", "mapped"])
def test_sendfile_from_a_region(place: Path, *, mapped: bool, paged: bool) -> None:
    """R7: sendfile of a sized region is EINVAL.

    On the paged plane the kernel sends what it would give to a page fault: memory, or EIO.
    """
    with raw.region(place, HUGE, mapped=mapped) as fd, opened("/dev/null", os.O_WRONLY) as sink:
        if paged and mapped:
            assert os.sendfile(sink, fd, 0, 4096) == 4096
            return
        with refused(errno.EIO if paged else errno.EINVAL):
            os.sendfile(sink, fd, 0, 4096)


@pytest.mark.parametrize("size", [None, HUGE], ids=["unsized", "sized"])
def test_sendfile_and_splice_from_beyond_the_end(place: Path, size: int | None) -> None:
    """R8: 0, because the kernel sees the end of the file first; an unsized region is all end."""
    reader, writer = os.pipe()
    try:
        with raw.region(place, size) as fd:
            for offset in (size or 0, HUGE + 1, 4 * HUGE):
                assert os.sendfile(writer, fd, offset, 4096) == 0
                assert os.splice(fd, writer, 4096, offset_src=offset) == 0
    finally:
        os.close(reader)
        os.close(writer)


def test_sendfile_to_a_region(descriptor: int) -> None:
    """R1: EINVAL; a region is no target either."""
    with opened(__file__, os.O_RDONLY) as source, refused(errno.EINVAL):
        os.sendfile(descriptor, source, 0, 100)


def test_splice_from_a_region(place: Path, *, paged: bool) -> None:
    """R7: splice of a sized region into a pipe is EINVAL; the paged plane is as with sendfile."""
    reader, writer = os.pipe()
    try:
        with raw.region(place, HUGE, mapped=True) as fd:
            if paged:
                assert os.splice(fd, writer, 4096, offset_src=0) == 4096
                return
            with refused(errno.EINVAL):
                os.splice(fd, writer, 4096, offset_src=0)
    finally:
        os.close(reader)
        os.close(writer)


def test_splice_to_a_region(descriptor: int) -> None:
    """R1: splice out of a pipe into a region is EINVAL."""
    reader, writer = os.pipe()
    try:
        os.write(writer, b"data")
        with refused(errno.EINVAL):
            os.splice(reader, descriptor, 4, offset_dst=0)
    finally:
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize("size", [None, HUGE], ids=["to-unsized", "to-sized"])
def test_copy_file_range_between_regions(place: Path, size: int | None) -> None:
    """R7, R9: EINVAL between two regions of a mount; from an unsized one there is nothing: 0."""
    other = place.with_name(place.name + "-other")
    empty = place.with_name(place.name + "-empty")
    with raw.region(place, HUGE, mapped=True) as one, raw.region(other, size) as two:
        with refused(errno.EINVAL):
            os.copy_file_range(one, two, 4096)
        with raw.region(empty) as three:
            assert os.copy_file_range(three, two, 4096) == 0


@pytest.mark.parametrize("size", [None, HUGE], ids=["unsized", "sized"])
def test_copy_file_range_out_of_and_into_a_region(
    place: Path, tmp_path: Path, size: int | None
) -> None:
    """R9: to and from another file system it is EXDEV, as between any two."""
    file = tmp_path / "file"
    file.write_bytes(bytes(8192))
    with raw.region(place, size) as fd, opened(file) as other:
        with refused(errno.EXDEV):
            os.copy_file_range(fd, other, 4096)
        with refused(errno.EXDEV):
            os.copy_file_range(other, fd, 4096)


def test_lseek_is_harmless(descriptor: int) -> None:
    """R2: allowed, to any place; it changes nothing."""
    size = os.fstat(descriptor).st_size
    assert os.lseek(descriptor, 0, os.SEEK_CUR) == 0
    assert os.lseek(descriptor, 12345, os.SEEK_SET) == 12345
    assert os.lseek(descriptor, 0, os.SEEK_END) == size
    with refused(errno.EINVAL):
        os.lseek(descriptor, -1, os.SEEK_SET)


def test_fsync(descriptor: int) -> None:
    """R3: fsync and fdatasync give 0 in every state, and leave the region as it was."""
    before = raw.layout(descriptor)
    os.fsync(descriptor)
    os.fdatasync(descriptor)
    assert raw.layout(descriptor) == before


def test_msync(place: Path, client: poke.Poke) -> None:
    """R3: msync gives 0, and what was written is still there."""
    with raw.region(place, HUGE, mapped=True):
        address = client.attach(place, HUGE)
        client.put(address, b"kept")
        for flags in (MS_SYNC, MS_ASYNC, MS_SYNC | MS_INVALIDATE):
            assert client.call("msync", address, HUGE, flags) == 0
        assert client.get(address, 4) == b"kept"


def test_syncfs(mounted: mount.Mount) -> None:
    """R3: sync of the whole mount works, as "sync -f" and every shutdown do it."""
    os.sync()
    assert mounted.status()["regions"] == 0


def test_layout_of_an_unsized_region(place: Path) -> None:
    """R5: the attribute is there from the start and names the creator."""
    with raw.region(place) as fd:
        layout = raw.layout(fd)
    assert (layout["version"], layout["size"], layout["mapping_count"]) == (1, 0, 0)
    assert layout["creator"] == {"pid": os.getpid(), "uid": os.geteuid(), "gid": os.getegid()}
    assert layout["mappings"] == []
    assert layout["open_handles"] == 1


def test_layout_counts(place: Path) -> None:
    """R5: mappings, reserved bytes, handles and counters are those of what was done."""
    with raw.region(place, 4 * HUGE) as fd, opened(place, os.O_RDONLY):
        raw.create_mapping(fd, 0, HUGE, prot=raw.PROT_READ)
        raw.create_mapping(fd, 2 * HUGE, HUGE, flags=raw.ANONYMOUS | raw.MAP_NORESERVE)
        raw.unmap(fd, 0, raw.PAGE)
        with refused(errno.EINVAL):
            raw.unmap(fd, 1, raw.PAGE)
        layout = raw.layout(place)
    assert layout["mappings"] == [
        {
            "offset": raw.PAGE,
            "size": HUGE - raw.PAGE,
            "prot": "r--",
            "reserve": True,
            "huge": False,
        },
        {"offset": 2 * HUGE, "size": HUGE, "prot": "rw-", "reserve": False, "huge": False},
    ]
    assert (layout["mapped"], layout["reserved"]) == (2 * HUGE - raw.PAGE, HUGE - raw.PAGE)
    assert layout["mapping_count"] == 2
    assert layout["open_handles"] == 2
    assert layout["counters"] == {"maps": 2, "unmaps": 1}
    assert layout["next"] is None


def test_layout_is_listed(place: Path) -> None:
    """R5: listxattr names it, and an attribute that is not there is ENODATA."""
    with raw.region(place, HUGE):
        assert "user.msharefs.layout" in os.listxattr(place)
        with refused(errno.ENODATA):
            os.getxattr(place, "user.other")


@pytest.mark.parametrize(
    "name", ["security.selinux", "security.capability", "system.posix_acl_access"]
)
def test_there_are_no_lists_and_labels(mounted: mount.Mount, place: Path, name: str) -> None:
    """R12: EOPNOTSUPP, of whatever it is asked."""
    with raw.region(place, HUGE):
        for path in (place, mounted.path, mounted.path / "mshare_info"):
            with refused(errno.EOPNOTSUPP):
                os.getxattr(path, name)


def test_a_long_listing_asks_for_no_attribute_of_each(mounted: mount.Mount, place: Path) -> None:
    """R12: ls -l is told once that there are none."""
    place.mkdir()
    for number in range(100):
        os.mknod(place / f"{number}")
    before = mounted.requests("GETXATTR")
    done = subprocess.run(["ls", "-l", place], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 101
    # Those that ask for the counters are of that kind, too.
    assert mounted.requests("GETXATTR") - before < 20
    shutil.rmtree(place)


def test_status_is_on_the_root_alone(mounted: mount.Mount, place: Path) -> None:
    """R5: the root has the status and no layout, a region the other way round."""
    assert json.loads(os.getxattr(mounted.path, "user.msharefs.status"))["version"]
    with refused(errno.ENODATA):
        os.getxattr(mounted.path, "user.msharefs.layout")
    with raw.region(place), refused(errno.ENODATA):
        os.getxattr(place, "user.msharefs.status")


def test_short_buffer_for_the_layout(place: Path, client: poke.Poke) -> None:
    """R5: a buffer that is too small is ERANGE, and one that is large enough is filled."""
    with raw.region(place, HUGE):
        fd = client.open(place)
        name = "user.msharefs.layout"
        length = len(os.getxattr(place, name)) + len("1")  # open_handles has a digit more
        with refused(errno.ERANGE):
            client.call("fgetxattr", fd, name, bytes(100), 100)
        value, buffers = client.order(poke.command("fgetxattr", fd, name, bytes(length), length))
        assert value == length
        assert json.loads(buffers[0])["size"] == HUGE


def test_the_announced_size_of_the_status_is_enough(mounted: mount.Mount) -> None:
    """R5: however many requests come between the question and the reading."""
    names = (mounted.path / str(number) for number in itertools.count())
    for _ in range(300):
        value = raw.read_as_announced(
            mounted.path, "user.msharefs.status", lambda: next(names).exists()
        )
        assert json.loads(value)["regions"] == 0


def test_the_announced_size_of_a_layout_is_enough(place: Path) -> None:
    """R5: however many mappings come meanwhile; those without room are in the next part."""
    with raw.region(place, HUGE) as fd:

        def map_many() -> None:
            for page in range(0, 200, 2):
                raw.create_mapping(fd, page * raw.PAGE, raw.PAGE)

        first = json.loads(raw.read_as_announced(place, "user.msharefs.layout", map_many))
        assert first["mapping_count"] == 100
        assert first["next"] == first["mappings"][-1]["offset"] + 2 * raw.PAGE


@pytest.mark.parametrize("name", ["user.msharefs.layout", "user.msharefs.status"])
def test_reports_cannot_be_written(mounted: mount.Mount, place: Path, name: str) -> None:
    """R6: setxattr and removexattr of them are EPERM."""
    with raw.region(place, HUGE):
        for path in (place, mounted.path):
            with refused(errno.EPERM):
                os.setxattr(path, name, b"{}")
            with refused(errno.EPERM, errno.ENODATA):
                os.removexattr(path, name)
        assert raw.layout(place)["size"] == HUGE
