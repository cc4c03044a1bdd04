"""mshare_info and the root directory: what a program finds right after the mount."""

from __future__ import annotations

import errno
import mmap
import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conformance.rename import EXCHANGE, NOREPLACE, rename2
from tests.helpers import mount, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import opened, refused
from tests.helpers.users import NOBODY, as_user

MOUNT_OPTIONS = "size=16M"
PLANES = ("passthrough", "paged")


def test_info_holds_the_alignment(mounted: mount.Mount) -> None:
    """A6, A7: inode 2, a regular file of mode 0444 with "2097152" and a newline in it."""
    info = mounted.path / "mshare_info"
    seen = info.stat()
    assert info.read_bytes() == b"2097152\n"
    assert stat.S_ISREG(seen.st_mode)
    assert stat.S_IMODE(seen.st_mode) == 0o444
    assert (seen.st_ino, seen.st_size, seen.st_nlink) == (2, 8, 1)
    assert "mshare_info" in os.listdir(mounted.path)


def test_info_can_be_read_in_parts(mounted: mount.Mount) -> None:
    """A6: pread at every offset gives the rest; at and beyond the end it gives nothing."""
    with opened(mounted.path / "mshare_info", os.O_RDONLY) as fd:
        for offset in range(12):
            assert os.pread(fd, 100, offset) == b"2097152\n"[offset:]
        assert os.pread(fd, 3, 2) == b"971"
        assert os.read(fd, 4) + os.read(fd, 4) + os.read(fd, 4) == b"2097152\n"


def test_info_can_be_mapped_for_reading(mounted: mount.Mount) -> None:
    """A6: mmap shows the text and zeros to the end of the page; nobody can write through it."""
    with opened(mounted.path / "mshare_info", os.O_RDONLY) as fd:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as window:
            assert window[:] == b"2097152\n"
        with mmap.mmap(fd, 8, mmap.MAP_PRIVATE) as window:
            window[0] = ord("9")
        with refused(errno.EACCES):
            mmap.mmap(fd, 8, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    assert (mounted.path / "mshare_info").read_bytes() == b"2097152\n"


@pytest.mark.root_only("becomes another user")
def test_info_can_be_read_by_everybody(mounted: mount.Mount) -> None:
    """A6: any user can read it."""
    info = mounted.path / "mshare_info"
    assert as_user(NOBODY, info.read_text) == "2097152\n"


@pytest.mark.parametrize(
    ("option", "text"),
    [("4096", "4096\n"), ("64K", "65536\n"), ("1G", "1073741824\n"), ("512G", "549755813888\n")],
)
def test_alignment_can_be_chosen(make_mount: MakeMount, option: str, text: str) -> None:
    """A7: -o align= sets what mshare_info says and what a size must be a multiple of."""
    mounted = make_mount(f"size=16M,align={option}")
    assert (mounted.path / "mshare_info").read_text() == text
    align = int(text)
    for size in (align // 2, align + align // 2, align - 1, align + 1):
        with raw.region(mounted.path / "r") as fd, refused(errno.EINVAL):
            os.ftruncate(fd, size)
    for size in (align, 2 * align):
        with raw.region(mounted.path / "r") as fd:
            os.ftruncate(fd, size)
            assert os.fstat(fd).st_size == size
            raw.create_mapping(fd, size - raw.PAGE, raw.PAGE)
            assert raw.mapped_ranges(fd) == [(size - raw.PAGE, size)]


def test_unlink_and_rename_of_info_are_refused(mounted: mount.Mount) -> None:
    """N3: unlink, rename of it, onto it, and in exchange with it: EPERM; it stays as it was."""
    info = mounted.path / "mshare_info"
    before = info.stat()
    with raw.region(mounted.path / "other"):
        attempts: list[Callable[[], object]] = [
            lambda: os.unlink(info),
            lambda: os.rename(info, mounted.path / "moved"),
            lambda: os.rename(mounted.path / "other", info),
            lambda: rename2(info, mounted.path / "moved", NOREPLACE),
            lambda: rename2(info, mounted.path / "other", EXCHANGE),
            lambda: rename2(mounted.path / "other", info, EXCHANGE),
        ]
        for attempt in attempts:
            with refused(errno.EPERM):
                attempt()
        assert sorted(os.listdir(mounted.path)) == ["mshare_info", "other"]
    assert info.stat() == before
    assert info.read_text() == "2097152\n"


def test_second_info_cannot_be_made(mounted: mount.Mount) -> None:
    """N4: create, mkdir, link and mknod of the name in the root: EEXIST."""
    info = mounted.path / "mshare_info"
    with raw.region(mounted.path / "other"):
        attempts: list[Callable[[], object]] = [
            lambda: os.open(info, os.O_CREAT | os.O_EXCL | os.O_RDWR),
            lambda: os.mkdir(info),
            lambda: os.link(mounted.path / "other", info),
            lambda: os.mknod(info),
        ]
        for attempt in attempts:
            with refused(errno.EEXIST):
                attempt()


@pytest.mark.parametrize(
    "attempt",
    [
        lambda info: os.open(info, os.O_WRONLY),
        lambda info: os.open(info, os.O_RDWR),
        lambda info: os.open(info, os.O_RDWR | os.O_CREAT),
        lambda info: os.open(info, os.O_RDONLY | os.O_TRUNC),
        lambda info: os.open(info, os.O_WRONLY | os.O_APPEND),
        lambda info: os.chmod(info, 0o666),
        lambda info: os.chown(info, 1, 1),
        lambda info: os.truncate(info, 0),
        lambda info: os.truncate(info, raw.HUGE),
        lambda info: os.utime(info, ns=(1, 1)),
        lambda info: os.link(info, info.with_name("second")),
        lambda info: os.setxattr(info, "user.comment", b"x"),
    ],
    ids=[
        "write-open",
        "read-write-open",
        "open-or-create",
        "open-and-truncate",
        "append",
        "chmod",
        "chown",
        "truncate-0",
        "truncate",
        "utimes",
        "link",
        "setxattr",
    ],
)
def test_info_is_never_changed(mounted: mount.Mount, attempt: Callable[[Path], object]) -> None:
    """N5: whatever would change it is EPERM or EACCES, for root too, and nothing changes."""
    info = mounted.path / "mshare_info"
    before = info.stat()
    with refused(errno.EPERM, errno.EACCES, errno.EOPNOTSUPP):
        attempt(info)
    assert info.stat() == before
    assert info.read_text() == "2097152\n"


def test_name_is_ordinary_elsewhere(mounted: mount.Mount) -> None:
    """A6: only the root has a mshare_info; in a directory the name is like any other."""
    directory = mounted.path / "directory"
    directory.mkdir()
    with raw.region(directory / "mshare_info", raw.HUGE) as fd:
        os.rename(directory / "mshare_info", directory / "other")
        os.rename(directory / "other", directory / "mshare_info")
        assert os.fstat(fd).st_size == raw.HUGE
    directory.rmdir()


def test_root_directory(mounted: mount.Mount) -> None:
    """A8: inode 1, mode 1777; it belongs to who has mounted it."""
    seen = mounted.path.stat()
    assert seen.st_ino == 1
    assert stat.S_IMODE(seen.st_mode) == 0o1777
    assert (seen.st_uid, seen.st_gid) == (os.geteuid(), os.getegid())


@pytest.mark.root_only("becomes another user")
def test_root_directory_as_asked(make_mount: MakeMount) -> None:
    """A8: -o mode=, uid= and gid= decide who may make regions."""
    mounted = make_mount("size=16M,mode=0750,uid=61001,gid=61002")
    seen = mounted.path.stat()
    assert (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o750, 61001, 61002)
    as_user(61001, lambda: os.mkdir(mounted.path / "directory"))
    with refused(errno.EACCES):
        as_user(NOBODY, lambda: os.listdir(mounted.path))


def test_type_and_source_are_shown(mounted: mount.Mount, make_mount: MakeMount) -> None:
    """A9: /proc/self/mountinfo shows fuse.msharefs and the source that was given."""
    assert mount.file_system_type(mounted.path) == "fuse.msharefs"
    second = make_mount(source="none")
    kind, source, _ = mount.mount_lines(second.path)[-1].split(" - ")[1].split()
    assert (kind, source) == ("fuse.msharefs", "none")


def test_statfs_type_is_that_of_fuse(mounted: mount.Mount) -> None:
    """A9: f_type is FUSE_SUPER_MAGIC (linux/magic.h)."""
    command = ["stat", "--file-system", "--format=%t", str(mounted.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    assert int(done.stdout, 16) == 0x65735546
