"""A client that does the same random operations on names twice: on a mount, and on tmpfs.

Owns the operations and the comparison of their answers: each must be the same on both sides,
value or errno, whatever becomes of the server meanwhile. What the trees are in the end is
compared by `picture`, which knows nothing of clients. Everything is plain system calls.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import stat
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conformance.rename import rename2

OLD_NS = 10**18
"""A time that only utimes sets: in 2001. Later ones are the time of day."""
NAMES = (*"abcde", b"\xff\xfe", "n" * 255)
RARE_NAMES = ("n" * 256, "a/.", "b/..")
"""None of them leads out of the client's own directory."""
DEPTHS = (1, 1, 1, 2, 2, 2, 3, 3)
MODES = (0o644, 0o600, 0o755, 0o700, 0o777, 0o1777, 0o2775, 0o000)
RENAMES = (0, 0, 0, 1, 2, 2, 3)
"""Flags: none, RENAME_NOREPLACE, RENAME_EXCHANGE, and both, which nobody can have."""
MOST_HANDLES = 8
COMPARED_EVERY = 250

Step = Callable[[int], Any]
"""One operation on one side (0 the mount, 1 tmpfs); what it returns must be the same."""


@dataclass(frozen=True, slots=True)
class Twins:
    """A directory on the mount and one on tmpfs that are to be the same. With `lock`, a file,
    several clients share them, and each operation is done on both sides before the next."""

    mount: Path
    tmpfs: Path
    lock: Path | None = None

    def path(self, side: int, *parts: bytes) -> bytes:
        """A path below the one or the other."""
        return b"/".join((os.fsencode(self.tmpfs if side else self.mount), *parts))


class TwinClient:
    """The loop and its operations. Raises AssertionError where the two sides differ."""

    def __init__(self, own: Twins, shared: Twins, number: int, seed: int) -> None:
        self.chance = random.Random(f"{seed}-{number}")
        self.number = number
        self.own, self.shared = own, shared
        self.twins = own
        self.handles: dict[Twins, list[tuple[int, int]]] = {own: [], shared: []}
        self.history: deque[str] = deque(maxlen=8)
        self._tokens = 0

    def run_while(self, going_on: Callable[[], bool]) -> int:
        """Random operations for as long as that is true. Returns how many."""
        steps = [getattr(self, name) for name in dir(self) if name.startswith("op_")]
        done = 0
        while going_on():
            self.twins = self.shared if self.chance.random() < 0.3 else self.own
            with self._alone():
                self._do(self.chance.choice(steps))
                if done % COMPARED_EVERY == 0:
                    different = difference(self.twins)
                    assert not different, f"client {self.number}: {different}, {[*self.history]}"
            done += 1
        return done

    def _do(self, operation: Callable[[], Step]) -> None:
        step = operation()
        self._compare(self.history[-1], step)

    def _compare(self, what: str, step: Step) -> None:
        one, other = outcome(step, 0), outcome(step, 1)
        assert one == other, (
            f"client {self.number}, {what} in {self.twins.mount.name}: "
            f"{one!r} on the mount, {other!r} on tmpfs, after {list(self.history)}"
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else is at work in these directories."""
        if self.twins.lock is None:
            yield
            return
        fd = os.open(self.twins.lock, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    # Choices

    def _path(self) -> bytes:
        depth = self.chance.choice(DEPTHS)
        parts = [self._name() for _ in range(depth)]
        return b"/".join(parts) + (b"/" if self.chance.random() < 0.03 else b"")

    def _name(self) -> bytes:
        names = RARE_NAMES if self.chance.random() < 0.02 else NAMES
        return os.fsencode(self.chance.choice(names))

    def _say(self, *words: object) -> None:
        self.history.append(" ".join(str(word)[:40] for word in words))

    # Names

    def op_create(self) -> Step:
        """open with O_CREAT and perhaps O_EXCL or O_TRUNC."""
        path, mode = self._path(), _bits(self.chance.choice(MODES), directory=False)
        flags = os.O_CREAT | self.chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
        for more in (os.O_EXCL, os.O_TRUNC):
            flags |= more if self.chance.random() < 0.3 else 0
        self._say("create", path, oct(flags), oct(mode))
        return lambda side: os.close(os.open(self.twins.path(side, path), flags, mode))

    def op_open(self) -> Step:
        """open without O_CREAT."""
        path = self._path()
        flags = self.chance.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR))
        for more in (os.O_TRUNC, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_APPEND):
            flags |= more if self.chance.random() < 0.2 else 0
        self._say("open", path, oct(flags))
        return lambda side: os.close(os.open(self.twins.path(side, path), flags))

    def op_mkdir(self) -> Step:
        """mkdir."""
        path, mode = self._path(), self.chance.choice(MODES)
        self._say("mkdir", path, oct(mode))
        return lambda side: os.mkdir(self.twins.path(side, path), mode)

    op_mkdir_again = op_mkdir

    def op_mknod(self) -> Step:
        """mknod of a regular file."""
        path, mode = self._path(), _bits(self.chance.choice(MODES), directory=False)
        self._say("mknod", path, oct(mode))
        return lambda side: os.mknod(self.twins.path(side, path), stat.S_IFREG | mode)

    def op_unlink(self) -> Step:
        """unlink."""
        path = self._path()
        self._say("unlink", path)
        return lambda side: os.unlink(self.twins.path(side, path))

    def op_rmdir(self) -> Step:
        """rmdir."""
        path = self._path()
        self._say("rmdir", path)
        return lambda side: os.rmdir(self.twins.path(side, path))

    def op_link(self) -> Step:
        """link."""
        path, other = self._path(), self._path()
        self._say("link", path, other)
        return lambda side: os.link(self.twins.path(side, path), self.twins.path(side, other))

    def op_rename(self) -> Step:
        """renameat2 with all flags that both sides have."""
        path, other, flags = self._path(), self._path(), self.chance.choice(RENAMES)
        self._say("rename", path, other, flags)

        def step(side: int) -> None:
            old, new = self.twins.path(side, path), self.twins.path(side, other)
            rename2(Path(os.fsdecode(old)), Path(os.fsdecode(new)), flags)

        return step

    op_rename_again = op_rename

    # Attributes

    def op_chmod(self) -> Step:
        """chmod."""
        path, mode = self._path(), self.chance.choice(MODES)
        self._say("chmod", path, oct(mode))

        def step(side: int) -> None:
            found = self.twins.path(side, path)
            os.chmod(found, _bits(mode, directory=os.path.isdir(found)))

        return step

    def op_chown(self) -> Step:
        """chown, or of the group alone."""
        path = self._path()
        uid, gid = self.chance.choice((-1, 0, 61001)), self.chance.choice((-1, 0, 61001))
        self._say("chown", path, uid, gid)
        return lambda side: os.chown(self.twins.path(side, path), uid, gid)

    def op_utimes(self) -> Step:
        """utimes to a moment in 2001, or before 1970."""
        path, time_ns = self._path(), self.chance.choice((OLD_NS, 1, -5, OLD_NS - 7))
        self._say("utimes", path, time_ns)
        return lambda side: os.utime(self.twins.path(side, path), ns=(time_ns, time_ns))

    def op_stat(self) -> Step:
        """stat."""
        path = self._path()
        self._say("stat", path)
        return lambda side: facts(os.stat(self.twins.path(side, path)))

    def op_access(self) -> Step:
        """access."""
        path, mode = self._path(), self.chance.choice((os.F_OK, os.R_OK, os.W_OK, os.X_OK))
        self._say("access", path, mode)
        return lambda side: os.access(self.twins.path(side, path), mode)

    # Listings

    def op_list(self) -> Step:
        """What is in a directory, with kinds."""
        path = self._path()
        self._say("list", path)

        def step(side: int) -> list[tuple[bytes, bool]]:
            with os.scandir(self.twins.path(side, path)) as entries:
                return sorted((entry.name, entry.is_dir()) for entry in entries)

        return step

    def op_walk_and_rename(self) -> Step:
        """Rename all that a walk meets: each name once, in whatever order."""
        path = b"/".join(
            os.fsencode(self.chance.choice(NAMES)) for _ in range(self.chance.choice((1, 1, 2)))
        )
        self._tokens += 1
        mark = b"%d-%d-" % (self.number, self._tokens)
        self._say("walk and rename", path, mark)

        def step(side: int) -> list[tuple[bytes, object]]:
            directory = self.twins.path(side, path)

            def moved(name: bytes) -> object:
                # A name that no other becomes, so that the order does not matter.
                goal = mark + b"%x" % zlib.crc32(name)
                return outcome(
                    lambda _: os.rename(b"%s/%s" % (directory, name), b"%s/%s" % (directory, goal)),
                    side,
                )

            with os.scandir(directory) as entries:
                return sorted((entry.name, moved(entry.name)) for entry in entries)

        return step

    def op_remove_tree(self) -> Step:
        """All that can be removed below a name, as rm -rf does."""
        path = self._path()
        self._say("remove tree", path)
        return lambda side: shutil.rmtree(self.twins.path(side, path), ignore_errors=True)

    # Handles

    def op_keep_open(self) -> Step:
        """Open a file or directory and keep it so, whatever becomes of its name."""
        path = self._path()
        self._say("keep open", path)
        if len(self.handles[self.twins]) == MOST_HANDLES:
            self._close()
        opened: dict[int, int] = {}

        def step(side: int) -> None:
            opened[side] = os.open(self.twins.path(side, path), os.O_RDONLY)
            if len(opened) == 2:
                self.handles[self.twins].append((opened[0], opened[1]))

        return step

    def op_close(self) -> Step:
        """Close what was kept open longest."""
        self._say("close")
        if self.handles[self.twins]:
            self._close()
        return lambda side: None

    def op_fstat(self) -> Step:
        """fstat of what is open."""
        return self._with_handle("fstat", lambda fd, _: facts(os.fstat(fd)))

    def op_fchmod(self) -> Step:
        """fchmod of what is open."""
        mode = self.chance.choice(MODES)
        return self._with_handle(
            f"fchmod {mode:o}",
            lambda fd, _: os.fchmod(fd, _bits(mode, directory=stat.S_ISDIR(os.fstat(fd).st_mode))),
        )

    def op_make_below(self) -> Step:
        """mkdir relative to what is open, which may have been removed, or be no directory."""
        name, mode = self._name(), self.chance.choice(MODES)
        return self._with_handle("mkdir in", lambda fd, _: os.mkdir(name, mode, dir_fd=fd))

    def op_list_open(self) -> Step:
        """A listing of what is open, from its beginning."""
        return self._with_handle("list open", lambda fd, _: sorted(os.listdir(fd)))

    def op_link_open(self) -> Step:
        """A name for what is open, which may have lost its last."""
        path = self._path()

        def link(fd: int, side: int) -> None:
            os.link(f"/proc/self/fd/{fd}", self.twins.path(side, path), follow_symlinks=True)

        return self._with_handle(f"link open {path!r}", link)

    def _with_handle(self, what: str, work: Callable[[int, int], Any]) -> Step:
        """The work, of a descriptor and its side, on something that is open, if anything is."""
        handles = self.handles[self.twins]
        handle = self.chance.choice(handles) if handles else None
        self._say(what, handle)
        return lambda side: None if handle is None else work(handle[side], side)

    def _close(self) -> None:
        for fd in self.handles[self.twins].pop(0):
            os.close(fd)


def outcome(step: Step, side: int) -> object:
    """What comes of it: a value, or the errno's name."""
    try:
        return step(side)
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def _bits(mode: int, *, directory: bool) -> int:
    """Set-group-ID is for directories alone: what takes it from a file depends on the
    privileges of who changes the file, which a FUSE file system is not told."""
    return mode if directory else mode & ~stat.S_ISGID


def facts(status: os.stat_result) -> tuple[object, ...]:
    """What stat shows that two file systems have in common. The size of a directory is its
    own affair, and the time of day nobody's."""
    return (
        stat.filemode(status.st_mode),
        status.st_uid,
        status.st_gid,
        status.st_nlink,
        None if stat.S_ISDIR(status.st_mode) else status.st_size,
        status.st_mtime_ns if status.st_mtime_ns <= OLD_NS else "now",
    )


def difference(twins: Twins) -> dict[bytes, tuple[object, object]]:
    """What of the two trees is not the same: what it is on the mount, and on tmpfs."""
    one, other = picture(twins.path(0)), picture(twins.path(1))
    names = [name for name in {**one, **other} if one.get(name) != other.get(name)]
    return {name: (one.get(name), other.get(name)) for name in names}


def picture(root: bytes) -> dict[bytes, Any]:
    """Everything below a directory: facts, and which names are one file."""
    seen: dict[bytes, Any] = {}
    first: dict[int, bytes] = {}
    for where, directories, files in os.walk(root):
        directories.sort()
        for name in sorted((*directories, *files)):
            path = where + b"/" + name
            # A client whose directory may not be entered cannot look into it either.
            with suppress(PermissionError):
                status = os.stat(path)
                seen[path[len(root) :]] = facts(status)
                if stat.S_ISREG(status.st_mode):
                    link = first.setdefault(status.st_ino, path[len(root) :])
                    seen[path[len(root) :]] += (link,)
    return seen
