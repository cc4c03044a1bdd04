"""Hard links, on any directory that keeps to POSIX as Linux does."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from tests.conformance.names import make
from tests.helpers.raw import opened, refused


def check_link_is_the_same_file(root: Path) -> None:
    """N2: a second name has the same inode, and both count."""
    file = make(root / "first")
    os.link(file, root / "second")
    assert (root / "second").stat().st_ino == file.stat().st_ino
    assert file.stat().st_nlink == (root / "second").stat().st_nlink == 2


def check_attributes_are_shared_by_all_names(root: Path) -> None:
    """N2: a change through one name shows at once through the other and in fstat."""
    file = make(root / "first")
    os.link(file, root / "second")
    with opened(root / "second", os.O_RDONLY) as fd:
        file.chmod(0o640)
        assert stat.S_IMODE((root / "second").stat().st_mode) == 0o640
        os.utime(root / "second", ns=(1, 2))
        assert (file.stat().st_mtime_ns, os.fstat(fd).st_mtime_ns) == (2, 2)


def check_each_unlink_takes_one_link(root: Path) -> None:
    """N2: the count falls with each name, and an open file sees 0 at the end."""
    make(root / "0")
    for number in range(1, 5):
        os.link(root / "0", root / str(number))
    with opened(root / "0", os.O_RDONLY) as fd:
        for left in (4, 3, 2, 1, 0):
            os.unlink(root / str(left))
            assert os.fstat(fd).st_nlink == left


def check_link_between_directories(root: Path) -> None:
    """N2: the second name may be in another directory; the first may go before it."""
    (root / "a").mkdir()
    (root / "b").mkdir()
    inode = make(root / "a" / "name").stat().st_ino
    os.link(root / "a" / "name", root / "b" / "name")
    (root / "a" / "name").unlink()
    assert (root / "b" / "name").stat().st_ino == inode
    assert (root / "b" / "name").stat().st_nlink == 1


def check_link_refuses_a_taken_name(root: Path) -> None:
    """N2: EEXIST, on the file itself too, and the counts stay."""
    file = make(root / "first")
    make(root / "second")
    (root / "directory").mkdir()
    for taken in ("first", "second", "directory"):
        with refused(errno.EEXIST):
            os.link(file, root / taken)
    assert file.stat().st_nlink == 1


def check_directories_have_no_links(root: Path) -> None:
    """N2: a second name for a directory is EPERM."""
    (root / "directory").mkdir()
    with refused(errno.EPERM):
        os.link(root / "directory", root / "second")
    assert os.listdir(root) == ["directory"]


def check_link_into_a_missing_directory(root: Path) -> None:
    """N2: ENOENT for a missing directory, ENOTDIR for a file in its place."""
    file = make(root / "file")
    make(root / "other")
    with refused(errno.ENOENT):
        os.link(file, root / "missing" / "name")
    with refused(errno.ENOTDIR):
        os.link(file, root / "other" / "name")
    assert file.stat().st_nlink == 1


def check_open_through_a_second_name(root: Path) -> None:
    """N2: descriptors opened through two names are the same file."""
    file = make(root / "first")
    os.link(file, root / "second")
    with opened(file) as one, opened(root / "second") as two:
        assert os.path.sameopenfile(one, two)
        os.fchmod(one, 0o600)
        assert stat.S_IMODE(os.fstat(two).st_mode) == 0o600


def check_hundreds_of_links(root: Path) -> None:
    """N2: three hundred names of one file count right, up and down."""
    file = make(root / "file")
    for number in range(300):
        os.link(file, root / f"link{number}")
    assert file.stat().st_nlink == 301
    for number in range(300):
        os.unlink(root / f"link{number}")
    assert file.stat().st_nlink == 1
