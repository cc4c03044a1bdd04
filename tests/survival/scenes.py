"""Operations that change a mount's state, each set up so that one request is left to do.

A scene is a directory of its own; `Operation.prepare` fills it and `Operation.act` makes
the change. What came of it is told by `Scene.snapshot`, the same for an operation that
was disturbed and for one that was not.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import stat
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.helpers import raw
from tests.helpers.raw import PAGE, opened

PAGES = 16
LARGE = 32 * raw.MIB
"""More than the server changes in its loop: it goes to a worker thread."""
OLD_NS = 10**18
"""A time that only an operation sets: in 2001."""
AUTOMAP = "user.msharefs.automap"
NAMES = ("region", "other", "folder", "new")

_libc = ctypes.CDLL(None, use_errno=True)


class Scene:
    """A new directory, and the descriptors and windows that are kept on what is in it."""

    def __init__(self, path: Path, *, there: bool = False) -> None:
        self.path = path
        self._stack = ExitStack()
        self.fd = -1
        if not there:
            path.mkdir()

    @classmethod
    def at(cls, path: Path) -> Self:
        """A scene that another process or mount has made."""
        return cls(path, there=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        for path in sorted(self.path.rglob("*"), reverse=True):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
        self.path.rmdir()

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def keep(self, fd: int) -> int:
        """A descriptor that stays open to the end of the scene, unless it is let go."""
        self.fd = fd
        self._stack.callback(self._close, fd)
        return fd

    def let_go(self) -> None:
        """Close the descriptor that was kept last."""
        self._close(self.fd)

    def attach(self, name: str, size: int) -> mmap.mmap:
        """Hold a region attached."""
        with opened(self / name) as fd:
            return self._stack.enter_context(mmap.mmap(fd, size))

    def warm(self) -> None:
        """Let the kernel know all names and attributes, so that it need not ask."""
        os.stat(self.path)
        for name in NAMES:
            with suppress(FileNotFoundError):
                os.stat(self / name)
        if self.fd >= 0:
            os.fstat(self.fd)

    def snapshot(self, *, contents: bool = True) -> dict[str, Any]:
        """Everything below the directory that clients can see, but numbers of inodes and
        the time of day."""
        paths = [self.path, *self.path.rglob("*")]
        return {str(path.relative_to(self.path)): _seen(path, contents) for path in sorted(paths)}

    def changes(self) -> int:
        """How many mappings and unmappings were counted, in all regions together."""
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return sum(sum(raw.layout(path)["counters"].values()) for path in files)

    def _close(self, fd: int) -> None:
        if fd == self.fd:
            self.fd = -1
            os.close(fd)


def _seen(path: Path, contents: bool) -> dict[str, Any]:
    status = path.stat()
    seen: dict[str, Any] = {
        "mode": stat.filemode(status.st_mode),
        "owner": (status.st_uid, status.st_gid),
        "links": status.st_nlink,
        "size": status.st_size,
        "mtime": status.st_mtime_ns if status.st_mtime_ns <= OLD_NS else "now",
    }
    if AUTOMAP in os.listxattr(path):
        seen["automap"] = os.getxattr(path, AUTOMAP).decode()
    if stat.S_ISREG(status.st_mode):
        layout = raw.layout(path)
        seen["layout"] = {name: layout[name] for name in layout.keys() - {"creator", "counters"}}
        if contents:
            seen["blocks"] = status.st_blocks
            seen["contents"] = _contents(path, status.st_size)
    return seen


def _contents(path: Path, size: int) -> list[tuple[int, int, bytes]]:
    """Start, length and bytes of what is mapped; a page is told by its first and last byte."""
    ranges = raw.mapped_ranges(path)
    if not ranges:
        return []
    with opened(path, os.O_RDONLY) as fd, mmap.mmap(fd, size, prot=mmap.PROT_READ) as window:
        return [(start, end - start, _digest(window, start, end)) for start, end in ranges]


def _digest(window: mmap.mmap, start: int, end: int) -> bytes:
    return b"".join(
        window[page : page + 1] + window[page + PAGE - 1 : page + PAGE]
        for page in range(start, end, PAGE)
    )


def region(scene: Scene, name: str, *, pages: int = PAGES, mapped: int = PAGES // 2) -> None:
    """A region of which the first pages are mapped and filled with their number."""
    with opened(scene / name, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
        os.ftruncate(fd, pages * PAGE)
        if mapped:
            raw.create_mapping(fd, 0, mapped * PAGE)
            with mmap.mmap(fd, pages * PAGE) as window:
                for page in range(mapped):
                    window[page * PAGE : (page + 1) * PAGE] = bytes([page % 251 + 1]) * PAGE


def rename(old: Path, new: Path, flags: int) -> None:
    """renameat2(2), which Python does not have."""
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(old))


REQUEST = ("request_read", "before_reply", "after_reply")
COMMIT = ("request_read", "before_commit", "after_commit", "before_reply", "after_reply")
MEMORY = ("request_read", "cleared", *COMMIT[1:])
"""The steps on the way of a request: of one that is not journalled, that is, that changes memory."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One change. `steps` are those that its request comes to."""

    name: str
    prepare: Callable[[Scene], object]
    act: Callable[[Scene], object]
    steps: tuple[str, ...] = COMMIT


def _open_region(scene: Scene, **how: int) -> None:
    region(scene, "region", **how)
    scene.keep(os.open(scene / "region", os.O_RDWR))


def _open_without_size(scene: Scene) -> None:
    scene.keep(os.open(scene / "region", os.O_CREAT | os.O_RDWR))


def _open_growing(scene: Scene) -> None:
    _open_region(scene)
    os.setxattr(scene.fd, AUTOMAP, b"grow")


def _open_without_name(scene: Scene) -> None:
    _open_region(scene)
    os.unlink(scene / "region")


def _two_regions(scene: Scene) -> None:
    region(scene, "region")
    region(scene, "other", mapped=2)


def _two_names(scene: Scene) -> None:
    region(scene, "region")
    os.link(scene / "region", scene / "other")


def _folders(scene: Scene) -> None:
    os.mkdir(scene / "folder")
    os.mkdir(scene / "folder" / "inner")
    region(scene, "region")


def _nothing(scene: Scene) -> None:
    """The scene is empty."""


def _create(scene: Scene) -> int:
    return scene.keep(os.open(scene / "new", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o640))


def _open(scene: Scene) -> int:
    return scene.keep(os.open(scene / "region", os.O_RDWR))


def _mapper(first: int, count: int) -> Callable[[Scene], None]:
    return lambda scene: raw.create_mapping(scene.fd, first * PAGE, count * PAGE)


def _file_mapper(first: int, count: int) -> Callable[[Scene], None]:
    """Maps this very file."""

    def act(scene: Scene) -> None:
        with opened(__file__, os.O_RDONLY) as file:
            raw.map_file(scene.fd, first * PAGE, count * PAGE, file)

    return act


def _unmapper(first: int, count: int) -> Callable[[Scene], None]:
    return lambda scene: raw.unmap(scene.fd, first * PAGE, count * PAGE)


def _one_region(scene: Scene) -> None:
    region(scene, "region")


OPERATIONS = [
    Operation("create", _nothing, _create),
    Operation("mkdir", _nothing, lambda s: os.mkdir(s / "new", 0o750)),
    Operation("mknod", _nothing, lambda s: os.mknod(s / "new", stat.S_IFREG | 0o600)),
    Operation("link", _one_region, lambda s: os.link(s / "region", s / "new")),
    Operation("unlink", _one_region, lambda s: os.unlink(s / "region")),
    Operation("unlink_one_of_two", _two_names, lambda s: os.unlink(s / "region")),
    Operation("unlink_open", _open_region, lambda s: os.unlink(s / "region")),
    Operation("rmdir", _folders, lambda s: os.rmdir(s / "folder" / "inner")),
    Operation("rename", _one_region, lambda s: os.rename(s / "region", s / "new")),
    Operation("rename_over", _two_regions, lambda s: os.rename(s / "region", s / "other")),
    Operation("rename_noreplace", _one_region, lambda s: rename(s / "region", s / "new", flags=1)),
    Operation(
        "rename_exchange", _two_regions, lambda s: rename(s / "region", s / "other", flags=2)
    ),
    Operation("rename_folder", _folders, lambda s: os.rename(s / "folder", s / "new")),
    Operation("rename_into", _folders, lambda s: os.rename(s / "region", s / "folder" / "new")),
    Operation("chmod", _one_region, lambda s: os.chmod(s / "region", 0o751)),
    Operation("chown", _one_region, lambda s: os.chown(s / "region", 61001, 61002)),
    Operation("utimes", _one_region, lambda s: os.utime(s / "region", ns=(OLD_NS, OLD_NS))),
    Operation("ftruncate", _open_without_size, lambda s: os.ftruncate(s.fd, PAGES * PAGE)),
    Operation("fallocate", _open_without_size, lambda s: os.posix_fallocate(s.fd, 0, PAGE)),
    Operation(
        "ftruncate_automap", _open_growing, lambda s: os.ftruncate(s.fd, 2 * PAGES * PAGE), MEMORY
    ),
    Operation(
        "fallocate_automap",
        _open_growing,
        lambda s: os.posix_fallocate(s.fd, 0, PAGES * PAGE),
        MEMORY,
    ),
    Operation("map", _open_region, _mapper(PAGES // 2, 4), MEMORY),
    Operation("map_over", _open_region, _mapper(2, 3), MEMORY),
    Operation("map_file", _open_region, _file_mapper(PAGES // 2, 2), MEMORY),
    Operation("map_file_over", _open_region, _file_mapper(PAGES // 2 - 2, 4), MEMORY),
    Operation("unmap", _open_region, _unmapper(0, PAGES), MEMORY),
    Operation("unmap_middle", _open_region, _unmapper(2, 3), MEMORY),
    Operation(
        "map_large",
        lambda s: _open_region(s, pages=LARGE // PAGE, mapped=0),
        _mapper(0, LARGE // PAGE),
        MEMORY,
    ),
    Operation("open", _one_region, _open, REQUEST),
    Operation("open_first", lambda s: os.mknod(s / "region"), _open),
    Operation("close", _open_region, Scene.let_go, REQUEST),
    Operation("close_without_name", _open_without_name, Scene.let_go, REQUEST),
]
