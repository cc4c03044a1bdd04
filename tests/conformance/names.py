"""Making and removing names, on any directory that keeps to POSIX as Linux does.

Each check takes an empty directory and knows nothing of msharefs. The files stay empty.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from pathlib import Path

from tests.helpers.raw import opened, refused

_libc = ctypes.CDLL(None, use_errno=True)


def make(path: Path, mode: int = 0o644) -> Path:
    """An empty file that was not there."""
    with opened(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, mode):
        return path


def check_created_file_is_empty_and_ours(root: Path) -> None:
    """N1: a new file is regular, empty, has one link and belongs to its maker."""
    seen = make(root / "new").stat()
    assert stat.S_ISREG(seen.st_mode)
    assert (seen.st_size, seen.st_blocks, seen.st_nlink) == (0, 0, 1)
    assert (seen.st_uid, seen.st_gid) == (os.geteuid(), os.getegid())


def check_umask_is_taken_off_the_mode(root: Path) -> None:
    """N1: the mode of a new file or directory is what was asked for without the umask."""
    before = os.umask(0o027)
    try:
        make(root / "file", 0o666)
        (root / "directory").mkdir(0o777)
    finally:
        os.umask(before)
    assert stat.S_IMODE((root / "file").stat().st_mode) == 0o640
    assert stat.S_IMODE((root / "directory").stat().st_mode) == 0o750


def check_exclusive_create_refuses_a_taken_name(root: Path) -> None:
    """N1: O_EXCL on a file or directory is EEXIST; without it the file is opened."""
    inode = make(root / "file").stat().st_ino
    (root / "directory").mkdir()
    for name in ("file", "directory"):
        with refused(errno.EEXIST), opened(root / name, os.O_CREAT | os.O_EXCL | os.O_RDWR):
            pass
    with opened(root / "file", os.O_CREAT | os.O_RDWR) as fd:
        assert os.fstat(fd).st_ino == inode


def check_missing_names_are_enoent(root: Path) -> None:
    """N1: what is not there is ENOENT for every operation, before and after it was."""
    gone = root / "gone"
    for _ in range(2):
        with refused(errno.ENOENT), opened(gone):
            pass
        for operation in (os.stat, os.unlink, os.rmdir, os.listdir):
            with refused(errno.ENOENT):
                operation(gone)
        with refused(errno.ENOENT):
            os.rename(gone, root / "other")
        with refused(errno.ENOENT):
            os.link(gone, root / "other")
        with refused(errno.ENOENT):
            os.mkdir(gone / "below")
        make(gone).unlink()


def check_a_file_is_not_a_directory(root: Path) -> None:
    """N1: a path through a file is ENOTDIR, and so is O_DIRECTORY on it."""
    file = make(root / "file")
    with refused(errno.ENOTDIR):
        os.stat(file / "below")
    with refused(errno.ENOTDIR):
        os.mkdir(file / "below")
    with refused(errno.ENOTDIR), opened(file, os.O_RDONLY | os.O_DIRECTORY):
        pass
    with refused(errno.ENOTDIR):
        os.listdir(file)
    with refused(errno.ENOTDIR):
        os.rmdir(file)


def check_a_directory_is_not_a_file(root: Path) -> None:
    """N1: a directory is not written, read or unlinked: EISDIR."""
    directory = root / "directory"
    directory.mkdir()
    with refused(errno.EISDIR), opened(directory, os.O_WRONLY):
        pass
    with opened(directory, os.O_RDONLY) as fd, refused(errno.EISDIR):
        os.read(fd, 1)
    with refused(errno.EISDIR):
        os.unlink(directory)
    with refused(errno.EISDIR), opened(f"{root}/new/", os.O_CREAT | os.O_WRONLY):
        pass


def check_mkdir_and_rmdir(root: Path) -> None:
    """N1: a directory comes with two links, adds one to its parent and goes."""
    links = root.stat().st_nlink
    directory = root / "directory"
    directory.mkdir()
    assert stat.S_ISDIR(directory.stat().st_mode)
    assert directory.stat().st_nlink == 2
    assert root.stat().st_nlink == links + 1
    (directory / "below").mkdir()
    assert directory.stat().st_nlink == 3
    (directory / "below").rmdir()
    directory.rmdir()
    assert root.stat().st_nlink == links
    assert not os.listdir(root)


def check_mkdir_refuses_a_taken_name(root: Path) -> None:
    """N1: EEXIST on a file and on a directory."""
    make(root / "file")
    (root / "directory").mkdir()
    for name in ("file", "directory"):
        with refused(errno.EEXIST):
            os.mkdir(root / name)


def check_rmdir_wants_an_empty_directory(root: Path) -> None:
    """N1: ENOTEMPTY with a file or a directory in it; "." is EINVAL, ".." ENOTEMPTY."""
    directory = root / "directory"
    directory.mkdir()
    make(directory / "file")
    with refused(errno.ENOTEMPTY):
        directory.rmdir()
    (directory / "file").unlink()
    (directory / "below").mkdir()
    with refused(errno.ENOTEMPTY):
        directory.rmdir()
    (directory / "below").rmdir()
    with refused(errno.EINVAL):
        os.rmdir(f"{directory}/.")
    with refused(errno.ENOTEMPTY):
        os.rmdir(f"{directory}/..")
    directory.rmdir()


def check_a_removed_directory_takes_no_names(root: Path) -> None:
    """N1: one that is still open lists nothing, and nothing can be made in it: ENOENT."""
    directory = root / "directory"
    directory.mkdir()
    with opened(directory, os.O_RDONLY) as fd:
        directory.rmdir()
        assert os.fstat(fd).st_nlink == 0
        assert os.listdir(fd) == []
        with refused(errno.ENOENT):
            os.mkdir("below", dir_fd=fd)
        with refused(errno.ENOENT):
            os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))


def check_long_names(root: Path) -> None:
    """N8: 255 bytes are allowed, 256 are ENAMETOOLONG for every operation."""
    assert os.statvfs(root).f_namemax == 255
    longest, longer = root / ("n" * 255), root / ("n" * 256)
    make(longest)
    assert os.listdir(root) == ["n" * 255]
    with refused(errno.ENAMETOOLONG), opened(longer, os.O_CREAT | os.O_WRONLY):
        pass
    for operation in (os.stat, os.unlink, os.mkdir, os.rmdir):
        with refused(errno.ENAMETOOLONG):
            operation(longer)
    for operation_of_two in (os.rename, os.link):
        with refused(errno.ENAMETOOLONG):
            operation_of_two(longest, longer)
    longest.unlink()


def check_names_are_bytes(root: Path) -> None:
    """N9: all bytes but "/" and NUL may stand in a name, UTF-8 or not, and come back."""
    top = os.fsencode(root)
    names = [bytes([byte]) * 3 for byte in range(1, 256) if byte != ord("/")]
    names += ["name \u00e4\u4e2d".encode(), b"\xff\xfe\n", b" ", b"-rf"]
    for name in names:
        os.mkdir(top + b"/" + name)
    assert sorted(os.listdir(top)) == sorted(names)
    for name in names:
        assert stat.S_ISDIR(os.stat(top + b"/" + name).st_mode)
        os.rmdir(top + b"/" + name)
    assert os.listdir(top) == []


def check_names_differ_in_case(root: Path) -> None:
    """N9: upper and lower case are different names."""
    assert make(root / "name").stat().st_ino != make(root / "NAME").stat().st_ino


def check_dot_and_dot_dot(root: Path) -> None:
    """N1: "." is the directory itself and ".." its parent, also after a move."""
    inner = root / "outer" / "inner"
    inner.mkdir(parents=True)
    assert os.stat(f"{inner}/.").st_ino == inner.stat().st_ino
    assert os.stat(f"{inner}/..").st_ino == (root / "outer").stat().st_ino
    inner.rename(root / "moved")
    assert os.stat(f"{root}/moved/..").st_ino == root.stat().st_ino
    for name in (".", ".."):
        with refused(errno.EEXIST):
            os.mkdir(f"{root}/{name}")


def check_unlinked_file_lives_while_open(root: Path) -> None:
    """N10: the name goes at once, the file with its last descriptor."""
    file = make(root / "file")
    with opened(file) as fd:
        inode = os.fstat(fd).st_ino
        file.unlink()
        assert os.listdir(root) == []
        assert os.fstat(fd).st_nlink == 0
        os.fchmod(fd, 0o600)
        assert stat.S_IMODE(os.fstat(fd).st_mode) == 0o600
        assert make(file).stat().st_ino != inode
        here, follow = -100, 0x400
        source, goal = f"/proc/self/fd/{fd}".encode(), os.fsencode(root / "again")
        assert _libc.linkat(here, source, here, goal, follow) == -1
        assert ctypes.get_errno() == errno.ENOENT


def check_deep_paths(root: Path) -> None:
    """N1: fifty directories inside each other can be walked, moved and removed."""
    deepest = root.joinpath(*["d"] * 50)
    deepest.mkdir(parents=True)
    make(deepest / "file")
    (root / "d").rename(root / "top")
    assert root.joinpath("top", *["d"] * 49, "file").exists()
    for depth, _, files in list(os.walk(root, topdown=False)):
        for name in files:
            os.unlink(f"{depth}/{name}")
        if depth != str(root):
            os.rmdir(depth)
    assert os.listdir(root) == []
