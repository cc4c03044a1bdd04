"""rename(2) and renameat2(2), on any directory that keeps to POSIX as Linux does."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from tests.conformance.names import make
from tests.helpers.raw import opened, refused

NOREPLACE = 1
EXCHANGE = 2

_libc = ctypes.CDLL(None, use_errno=True)


def rename2(old: Path, new: Path, flags: int) -> None:
    """renameat2(2) with flags, which the standard library does not offer."""
    here = -100
    if _libc.renameat2(here, os.fsencode(old), here, os.fsencode(new), flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old))


def inode(path: Path) -> int:
    """The inode number."""
    return path.stat().st_ino


def check_rename_keeps_the_file(root: Path) -> None:
    """N1: the old name goes, the new one means the same file, open or not."""
    file = make(root / "old")
    with opened(file, os.O_RDONLY) as fd:
        file.rename(root / "new")
        assert os.listdir(root) == ["new"]
        assert os.fstat(fd).st_ino == inode(root / "new")
        assert os.fstat(fd).st_nlink == 1


def check_rename_replaces_a_file(root: Path) -> None:
    """N1: the target's name changes hands in one step; who has it open keeps it."""
    old, new = make(root / "old"), make(root / "new")
    number = inode(old)
    with opened(new, os.O_RDONLY) as fd:
        old.rename(new)
        assert os.fstat(fd).st_nlink == 0
        assert inode(new) == number
        assert os.listdir(root) == ["new"]


def check_rename_between_directories(root: Path) -> None:
    """N1: a directory that moves takes its link from one parent to the other."""
    (root / "a" / "moving" / "below").mkdir(parents=True)
    (root / "b").mkdir()
    (root / "a" / "moving").rename(root / "b" / "moved")
    assert (root / "a").stat().st_nlink == 2
    assert (root / "b").stat().st_nlink == 3
    assert (root / "b" / "moved" / "below").is_dir()
    assert inode(root / "b" / "moved" / "..") == inode(root / "b")


def check_rename_replaces_an_empty_directory(root: Path) -> None:
    """N1: a directory may take the place of an empty one, not of a full one."""
    old, new = root / "old", root / "new"
    (old / "inside").mkdir(parents=True)
    (new / "in the way").mkdir(parents=True)
    with refused(errno.ENOTEMPTY, errno.EEXIST):
        old.rename(new)
    (new / "in the way").rmdir()
    links = root.stat().st_nlink
    old.rename(new)
    assert os.listdir(root) == ["new"]
    assert os.listdir(new) == ["inside"]
    assert root.stat().st_nlink == links - 1


def check_rename_of_different_kinds(root: Path) -> None:
    """N1: a file never replaces a directory (EISDIR), nor the other way (ENOTDIR)."""
    make(root / "file")
    (root / "directory").mkdir()
    with refused(errno.EISDIR):
        os.rename(root / "file", root / "directory")
    with refused(errno.ENOTDIR):
        os.rename(root / "directory", root / "file")
    assert sorted(os.listdir(root)) == ["directory", "file"]


def check_rename_below_itself(root: Path) -> None:
    """N1: EINVAL for a directory into itself, ENOTEMPTY onto its own parent."""
    (root / "a" / "b" / "c").mkdir(parents=True)
    for goal in ("a/x", "a/b/x", "a/b/c/x"):
        with refused(errno.EINVAL):
            os.rename(root / "a", root / goal)
    with refused(errno.ENOTEMPTY):
        os.rename(root / "a" / "b", root / "a")
    assert (root / "a" / "b" / "c").is_dir()


def check_rename_onto_itself(root: Path) -> None:
    """N1: onto the same name, or another name of the same file, does nothing."""
    file = make(root / "first")
    os.link(file, root / "second")
    os.rename(file, file)
    os.rename(file, root / "second")
    assert sorted(os.listdir(root)) == ["first", "second"]
    assert file.stat().st_nlink == 2


def check_rename_of_one_of_two_links(root: Path) -> None:
    """N1: the file's other name and its link count stay."""
    file = make(root / "first")
    os.link(file, root / "second")
    (root / "second").rename(root / "third")
    assert inode(root / "third") == inode(file)
    assert file.stat().st_nlink == 2


def check_rename_into_nowhere(root: Path) -> None:
    """N1: ENOENT for a missing target directory; the source stays."""
    file = make(root / "file")
    with refused(errno.ENOENT):
        os.rename(file, root / "missing" / "file")
    assert os.listdir(root) == ["file"]


def check_noreplace(root: Path) -> None:
    """N1: EEXIST on a taken name, else an ordinary rename."""
    make(root / "old")
    make(root / "taken")
    (root / "directory").mkdir()
    for name in ("taken", "directory", "old"):
        with refused(errno.EEXIST):
            rename2(root / "old", root / name, NOREPLACE)
    rename2(root / "old", root / "new", NOREPLACE)
    assert sorted(os.listdir(root)) == ["directory", "new", "taken"]


def check_exchange_of_files(root: Path) -> None:
    """N1: two names swap what they mean."""
    one, two = make(root / "one"), make(root / "two")
    before = inode(one), inode(two)
    rename2(one, two, EXCHANGE)
    assert (inode(two), inode(one)) == before
    assert one.stat().st_nlink == two.stat().st_nlink == 1


def check_exchange_of_file_and_directory(root: Path) -> None:
    """N1: a file and a full directory swap places; the parents' links follow."""
    (root / "a" / "directory" / "inside").mkdir(parents=True)
    (root / "b").mkdir()
    make(root / "b" / "file")
    rename2(root / "a" / "directory", root / "b" / "file", EXCHANGE)
    assert (root / "a" / "directory").is_file()
    assert (root / "b" / "file" / "inside").is_dir()
    assert (root / "a").stat().st_nlink == 2
    assert (root / "b").stat().st_nlink == 3
    assert inode(root / "b" / "file" / "..") == inode(root / "b")


def check_exchange_refusals(root: Path) -> None:
    """N1: ENOENT without a partner, EINVAL with one of its own parents."""
    (root / "a" / "b").mkdir(parents=True)
    make(root / "file")
    with refused(errno.ENOENT):
        rename2(root / "file", root / "missing", EXCHANGE)
    with refused(errno.EINVAL):
        rename2(root / "a", root / "a" / "b", EXCHANGE)
    with refused(errno.ENOTEMPTY, errno.EINVAL):
        rename2(root / "a" / "b", root / "a", EXCHANGE)
    with refused(errno.EINVAL):
        rename2(root / "a", root / "file", NOREPLACE | EXCHANGE)
    assert (root / "a" / "b").is_dir()


def check_old_name_is_free_after_rename(root: Path) -> None:
    """N1: the old name can be made again at once, and is another file."""
    file = make(root / "old")
    number = inode(file)
    file.rename(root / "new")
    assert inode(make(root / "old")) != number
    assert inode(root / "new") == number
