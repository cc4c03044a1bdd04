"""The kinds of shared memory that a program can choose between: the columns.

Each is a context manager that makes one object of a size, has every page of it written, says how it is
attached (what probes/share.c calls SPEC) and takes all of it away, settings of the machine too. To add one
is to write such a function and to name it in WAYS.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing import shared_memory
from pathlib import Path

from .frame import Column
from .processes import NotMeasured
from .site import SHM, Site

MIB = 1 << 20
HUGE = 2 * MIB
ROOM = 64 * MIB
"""What a mount has beside the object."""

USER = "nobody"
"""Who has the mounts of an ordinary user."""

POOL = Path("/proc/sys/vm/nr_hugepages")
OVERCOMMIT = Path("/proc/sys/vm/nr_overcommit_hugepages")


@dataclass(frozen=True)
class Attachable:
    """An object that is there: how probes attach it, and as whom they run (None: as root)."""

    spec: str
    user: str | None = None


Making = Callable[[Site, int], AbstractContextManager[Attachable]]


@contextlib.contextmanager
def _shm(site: Site, size: int) -> Iterator[Attachable]:
    with site.shm_file(size) as path:
        yield Attachable(f"file:{path}")


@contextlib.contextmanager
def _collapsed(site: Site, size: int) -> Iterator[Attachable]:
    with _shm(site, size) as made:
        site.probe("share", "collapse", made.spec, size)
        yield made


@contextlib.contextmanager
def _tmpfs(site: Site, size: int) -> Iterator[Attachable]:
    with site.tmpfs(f"size={size + ROOM},huge=always") as directory:
        yield _written(site, directory / "file", size)


def _written(site: Site, path: Path, size: int, user: str | None = None) -> Attachable:
    with path.open("xb") as file:
        file.truncate(size)
    made = Attachable(f"file:{path}", user)
    site.probe("share", "fill", made.spec, size)
    return made


@contextlib.contextmanager
def huge_pages(setting: Path, size: int) -> Iterator[None]:
    """So many bytes more of the pool (or of what it may grow by), given back afterwards."""
    before = setting.read_text(encoding="ascii")
    pages = int(before) + -(-size // HUGE)
    try:
        setting.write_text(str(pages), encoding="ascii")
        got = int(setting.read_text(encoding="ascii"))
        if got < pages:
            raise NotMeasured(f"the pool got {got} of {pages} huge pages")
        yield
    finally:
        setting.write_text(before, encoding="ascii")


@contextlib.contextmanager
def _hugetlb(site: Site, size: int, setting: Path) -> Iterator[Attachable]:
    with huge_pages(setting, size), site.mounted("hugetlbfs", f"size={size}") as directory:
        yield _written(site, directory / "file", size)


def _pool(site: Site, size: int) -> AbstractContextManager[Attachable]:
    return _hugetlb(site, size, POOL)


def _overcommit(site: Site, size: int) -> AbstractContextManager[Attachable]:
    return _hugetlb(site, size, OVERCOMMIT)


@contextlib.contextmanager
def _sysv(site: Site, size: int) -> Iterator[Attachable]:
    [[_, number]] = site.probe("share", "sysv", size)
    try:
        site.probe("share", "fill", f"sysv:{number}", size)
        yield Attachable(f"sysv:{number}")
    finally:
        site.probe("share", "drop", number)


@contextlib.contextmanager
def _memfd(site: Site, size: int) -> Iterator[Attachable]:
    fd = os.memfd_create("msharefs-bench")
    try:
        os.ftruncate(fd, size)
        spec = f"file:/proc/{os.getpid()}/fd/{fd}"
        site.probe("share", "fill", spec, size)
        yield Attachable(spec)
    finally:
        os.close(fd)


@contextlib.contextmanager
def _python(site: Site, size: int) -> Iterator[Attachable]:
    name = f"msharefs-bench-{secrets.token_hex(4)}"
    block = shared_memory.SharedMemory(name, create=True, size=size)
    try:
        site.probe("share", "fill", f"file:{SHM / name}", size)
        yield Attachable(f"file:{SHM / name}")
    finally:
        block.close()
        block.unlink()


@contextlib.contextmanager
def _region(site: Site, size: int, plane: str, user: str | None = None) -> Iterator[Attachable]:
    options = f"size={size + ROOM},data={plane}"
    with site.msharefs(options, placed=False, user=user) as mounted:
        path = mounted.path / "region"
        # It fills as well, which is done once: later writes find the pages there.
        site.probe("fill", "region", path, size, user=user)
        yield Attachable(f"file:{path}", user)


@contextlib.contextmanager
def _direct(site: Site, size: int) -> Iterator[Attachable]:
    """The memory itself, on a mount of an ordinary user's, as the library gets it."""
    options = f"size={size + ROOM},data=direct"
    with site.msharefs(options, placed=False, user=USER) as mounted:
        path = mounted.path / "region"
        site.probe("fill", "mapped", path, size, user=USER)
        spec = f"direct:{path}"
        site.probe("share", "fill", spec, size, user=USER)
        # The server puts it into huge pages in the background.
        site.probe("share", "settle", spec, size, user=USER)
        yield Attachable(spec, USER)


def _passthrough(site: Site, size: int) -> AbstractContextManager[Attachable]:
    return _region(site, size, "passthrough")


def _paged(site: Site, size: int) -> AbstractContextManager[Attachable]:
    return _region(site, size, "paged")


def _users(site: Site, size: int) -> AbstractContextManager[Attachable]:
    return _region(site, size, "paged", USER)


OURS, USUAL, KERNEL = "passthrough", "shm", "kernel"

WAYS: dict[Column, Making] = {
    Column(USUAL, "POSIX shm", rival=True): _shm,
    Column("collapse", "shm, COLLAPSE", rival=True): _collapsed,
    Column("tmpfs", "tmpfs huge", rival=True): _tmpfs,
    Column("pool", "hugetlb pool", rival=True): _pool,
    Column("overcommit", "hugetlb overcommit", rival=True): _overcommit,
    Column("sysv", "SysV", rival=True): _sysv,
    Column("memfd", "memfd", rival=True): _memfd,
    Column("python", "Python's SharedMemory", rival=True): _python,
    Column(OURS, "msharefs"): _passthrough,
    Column("paged", "msharefs paged, root"): _paged,
    Column("user", "msharefs paged, user"): _users,
    Column("direct", "msharefs direct, user"): _direct,
}

MSHARE = Column(KERNEL, "kernel mshare")
"""No kernel has it: its cells are computed from its definition."""
