"""One client of the stress test: random operations on a mount, each compared with a model.

The client has a directory of its own, where the model is exact, its own pages of a region
that all clients share, and names that all fight for, where only the errno is checked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import raw, windows
from tests.helpers.raw import PAGE, opened, refused
from tests.helpers.waiting import eventually

CLIENTS = 64
SHARED_PAGES = 16
SHARED_NAMES = 6
MOST_FILES = 6
SIZES = (1, 2, 5, 16, 64)


@dataclass(eq=False)
class ModelFile:
    """What a region must be: its size in pages, and the byte that fills each mapped page."""

    size: int | None = None
    pages: dict[int, int] = field(default_factory=dict)
    names: int = 1


@dataclass
class Report:
    """A client's model at its end, as plain data: files by number, names, directories."""

    files: list[ModelFile]
    names: dict[str, int]
    directories: set[str]
    shared: dict[int, int]
    operations: int
    out_of_memory: int
    refused: int


class Held:
    """A region that the client holds attached."""

    def __init__(self, path: Path, size: int, attach: type[windows.Window]) -> None:
        self.fd = os.open(path, os.O_RDWR)
        try:
            self._window = attach(self.fd, size * PAGE)
        except BaseException:
            os.close(self.fd)
            raise
        self.bytes = self._window.view

    def close(self) -> None:
        """Detach."""
        self._window.close()
        os.close(self.fd)

    def is_hole(self, page: int) -> bool:
        """Whether a touch of the page would be SIGBUS, asked without dying of it."""
        with opened("/proc/self/mem", os.O_RDONLY) as memory:
            try:
                os.pread(memory, 1, self._window.address + page * PAGE)
            except OSError:
                return True
        return False


class RandomClient:
    """The loop and its operations. Raises AssertionError where mount and model differ.

    With one of the errnos in `refusals` any operation may fail, and then has changed nothing.
    """

    def __init__(
        self, root: Path, number: int, seed: int, refusals: frozenset[int] = frozenset()
    ) -> None:
        self.refusals = refusals
        self.refused = 0
        self.chance = random.Random(f"{seed}-{number}")
        self.number = number
        self.home = root / f"client{number}"
        self.arena = root / "shared"
        self.names: dict[str, ModelFile] = {}
        self.directories: set[str] = {""}
        self.attach = windows.kind_for(root)
        self.gives_memory = self.attach is windows.LibraryWindow
        self.windows: dict[ModelFile, Held] = {}
        self.shared: dict[int, int] = {}
        self.out_of_memory = 0
        self.history: deque[str] = deque(maxlen=12)
        self.home.mkdir()
        self.common = Held(self.arena / "region", CLIENTS * SHARED_PAGES, self.attach)

    def run(self, deadline: float) -> Report:
        """Random operations until the deadline (time.monotonic)."""
        return self.run_while(lambda: time.monotonic() < deadline)

    def run_while(self, going_on: Callable[[], bool]) -> Report:
        """Random operations for as long as that is true."""
        operations = 0
        steps = [getattr(self, name) for name in dir(self) if name.startswith("op_")]
        while going_on():
            step: Callable[[], None] = self.chance.choice(steps)
            self.history.append(step.__name__)
            try:
                step()
            except Exception as error:
                if not isinstance(error, OSError) or error.errno not in self.refusals:
                    raise AssertionError(
                        f"client {self.number} after {operations}: {error!r}, {list(self.history)}"
                    ) from error
                self.refused += 1
            operations += 1
        return self._finish(operations)

    def _finish(self, operations: int) -> Report:
        for window in [*self.windows.values(), self.common]:
            window.close()
        files = list(dict.fromkeys(self.names.values()))
        names = {name: files.index(file) for name, file in self.names.items()}
        counts = operations, self.out_of_memory, self.refused
        return Report(files, names, self.directories, self.shared, *counts)

    # Names of one's own

    def _free_name(self) -> str:
        directory = self.chance.choice(sorted(self.directories))
        return f"{directory}{'/' if directory else ''}n{self.chance.randrange(10**9)}"

    def _some_name(self) -> str | None:
        return self.chance.choice(sorted(self.names)) if self.names else None

    def op_create(self) -> None:
        """A new region, sized or not."""
        if len(self.names) >= MOST_FILES:
            return
        name, file = self._free_name(), ModelFile()
        with opened(self.home / name, os.O_CREAT | os.O_EXCL | os.O_RDWR) as fd:
            self.names[name] = file
            if self.chance.random() < 0.8:
                size = self.chance.choice(SIZES)
                os.ftruncate(fd, size * PAGE)
                file.size = size

    def op_create_again(self) -> None:
        """O_EXCL on a taken name."""
        name = self._some_name()
        if name is not None:
            with refused(errno.EEXIST):
                os.open(self.home / name, os.O_CREAT | os.O_EXCL | os.O_RDWR)

    def op_unlink(self) -> None:
        """One name less; what is attached stays attached."""
        name = self._some_name()
        if name is not None:
            os.unlink(self.home / name)
            self._lost_name(name)

    def op_link(self) -> None:
        """A second name."""
        name = self._some_name()
        if name is not None and len(self.names) < MOST_FILES:
            second = self._free_name()
            os.link(self.home / name, self.home / second)
            self.names[second] = self.names[name]
            self.names[name].names += 1

    def op_rename(self) -> None:
        """To a free name, or over another."""
        name = self._some_name()
        if name is None:
            return
        goal = self._free_name() if self.chance.random() < 0.5 else self._some_name()
        assert goal is not None
        os.rename(self.home / name, self.home / goal)
        if self.names.get(goal) is self.names[name]:
            return
        if goal in self.names:
            self._lost_name(goal)
        self.names[goal] = self.names.pop(name)

    def op_mkdir(self) -> None:
        """A directory, one below the other."""
        if len(self.directories) < 4:
            name = self._free_name()
            os.mkdir(self.home / name)
            self.directories.add(name)

    def op_rmdir(self) -> None:
        """Allowed exactly when nothing is in it."""
        name = self.chance.choice(sorted(self.directories))
        if not name:
            return
        inside = [n for n in [*self.names, *self.directories] if n.startswith(f"{name}/")]
        if inside:
            with refused(errno.ENOTEMPTY):
                os.rmdir(self.home / name)
        else:
            os.rmdir(self.home / name)
            self.directories.remove(name)

    def op_list(self) -> None:
        """A listing shows what the model has."""
        directory = self.chance.choice(sorted(self.directories))
        seen = {f"{directory}/{name}".lstrip("/") for name in os.listdir(self.home / directory)}
        known = [*self.names, *self.directories - {""}]
        assert seen == {name for name in known if name.rpartition("/")[0] == directory}

    def op_stat(self) -> None:
        """Size, blocks and links are the model's."""
        name = self._some_name()
        if name is not None:
            seen, file = os.stat(self.home / name), self.names[name]
            assert seen.st_size == (file.size or 0) * PAGE
            assert seen.st_blocks == len(file.pages) * PAGE // 512
            assert seen.st_nlink == file.names

    def _lost_name(self, name: str) -> None:
        file = self.names.pop(name)
        file.names -= 1
        # Sometimes the client lets go of a nameless region, sometimes it keeps it for a while.
        if not file.names and file in self.windows and self.chance.random() < 0.7:
            self.windows.pop(file).close()

    # Size, mappings and contents

    def _sized(self) -> tuple[str, ModelFile, int] | None:
        name = self._some_name()
        if name is None or self.names[name].size is None:
            return None
        return name, self.names[name], self.names[name].size or 0

    def _mapped(self) -> tuple[str, ModelFile, int] | None:
        chosen = self._sized()
        if chosen is None or not chosen[1].pages:
            return None
        return chosen[0], chosen[1], self.chance.choice(list(chosen[1].pages))

    def _range(self, size: int) -> tuple[int, int]:
        first = self.chance.randrange(size)
        return first, self.chance.randint(1, size - first)

    def op_size(self) -> None:
        """Once it works, again it does not."""
        name = self._some_name()
        if name is None:
            return
        file, size = self.names[name], self.chance.choice(SIZES)
        if file.size is None:
            os.truncate(self.home / name, size * PAGE)
            file.size = size
        else:
            with refused(errno.EINVAL):
                os.truncate(self.home / name, size * PAGE)

    def op_map(self) -> None:
        """Fresh zeros in a range, or ENOMEM and nothing changed."""
        chosen = self._sized()
        if chosen is None:
            return
        name, file, size = chosen
        first, count = self._range(size)
        with opened(self.home / name) as fd:
            if self._map(fd, first, count):
                file.pages.update(dict.fromkeys(range(first, first + count), 0))

    def _map(self, fd: int, first: int, count: int) -> bool:
        try:
            raw.create_mapping(fd, first * PAGE, count * PAGE)
        except OSError as error:
            if error.errno != errno.ENOMEM:
                raise
            self.out_of_memory += 1
            return False
        return True

    def op_map_noreplace(self) -> None:
        """EEXIST exactly where something is mapped."""
        chosen = self._sized()
        if chosen is None:
            return
        name, file, size = chosen
        first, count = self._range(size)
        taken = any(page in file.pages for page in range(first, first + count))
        flags = raw.ANONYMOUS | raw.MAP_FIXED_NOREPLACE
        with opened(self.home / name) as fd:
            try:
                raw.create_mapping(fd, first * PAGE, count * PAGE, flags=flags)
            except OSError as error:
                wanted = {errno.EEXIST} if taken else {errno.ENOMEM}
                assert error.errno in wanted | self.refusals  # noqa: PT017 - several are right here
                return
        assert not taken
        file.pages.update(dict.fromkeys(range(first, first + count), 0))

    def op_unmap(self) -> None:
        """A range is gone, whatever was in it."""
        chosen = self._sized()
        if chosen is None:
            return
        name, file, size = chosen
        first, count = self._range(size)
        with opened(self.home / name) as fd:
            raw.unmap(fd, first * PAGE, count * PAGE)
        for page in range(first, first + count):
            file.pages.pop(page, None)

    def op_refused(self) -> None:
        """What must not work, does not."""
        chosen = self._sized()
        if chosen is None:
            return
        name, _, size = chosen
        with opened(self.home / name) as fd:
            with refused(errno.EINVAL):
                raw.create_mapping(fd, size * PAGE, PAGE)
            with refused(errno.EINVAL):
                os.write(fd, b"x")
            with refused(errno.ENOTTY):
                fcntl.ioctl(fd, raw.ioctl_number("x", 9, 16), bytes(16))
        with opened(self.home / name, os.O_RDONLY) as fd, refused(errno.EACCES):
            raw.unmap(fd, 0, PAGE)

    def op_attach(self) -> None:
        """Hold a region, at most four at a time."""
        chosen = self._sized()
        if chosen is None or chosen[1] in self.windows:
            return
        name, file, size = chosen
        if len(self.windows) >= 4:
            self.windows.pop(self.chance.choice(list(self.windows))).close()
        self.windows[file] = Held(self.home / name, size, self.attach)

    def op_detach(self) -> None:
        """Let go of one, after a last store, so that whoever maps it by its file next has to see that."""
        if self.windows:
            self.op_write()
            self.windows.pop(self.chance.choice(list(self.windows))).close()

    def op_read_file(self) -> None:
        """read(2) is refused, or gives what is there, where mounts give the memory itself and nobody has it."""
        chosen = self._mapped()
        if chosen is None:
            return
        name, file, page = chosen
        with opened(self.home / name, os.O_RDONLY) as fd:
            try:
                found = os.pread(fd, 1, page * PAGE)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                return
        assert self.gives_memory
        assert found[0] == file.pages[page]

    def op_map_file(self) -> None:
        """mmap(2) shows and stores what all see, or is refused, where somebody has the memory itself."""
        chosen = self._mapped()
        if chosen is None:
            return
        name, file, page = chosen
        start, byte = page * PAGE, self.chance.randrange(256)
        with opened(self.home / name) as fd:
            try:
                window = windows.Window(fd, (file.size or 0) * PAGE)
            except OSError as error:
                if error.errno != errno.ENODEV or not self.gives_memory:
                    raise
                return
            with window as view:
                assert {each: view[each * PAGE] for each in file.pages} == file.pages
                view[start : start + PAGE] = bytes([byte]) * PAGE
                file.pages[page] = byte

    def op_write(self) -> None:
        """Fill a mapped page of something that is attached."""
        for file, window in self.windows.items():
            if file.pages:
                page, byte = self.chance.choice(list(file.pages)), self.chance.randrange(256)
                window.bytes[page * PAGE : (page + 1) * PAGE] = bytes([byte]) * PAGE
                file.pages[page] = byte

    def op_read(self) -> None:
        """All that is attached holds what the model says; a hole is a hole."""
        for file, window in self.windows.items():
            for page, byte in file.pages.items():
                assert window.bytes[page * PAGE] == byte
                assert window.bytes[(page + 1) * PAGE - 1] == byte
            holes = [page for page in range(file.size or 0) if page not in file.pages]
            if holes:
                self._check_hole(window, self.chance.choice(holes))

    def _check_hole(self, window: Held, page: int) -> None:
        """A touch while somebody maps or unmaps may find a free page, which is swept later."""
        eventually(lambda: window.is_hole(page), what=f"page {page} is a hole")

    # What all share

    def op_shared_map(self) -> None:
        """Map, unmap and fill one's own pages of the common region."""
        page = self.number * SHARED_PAGES + self.chance.randrange(SHARED_PAGES)
        start = page * PAGE
        if page not in self.shared:
            if self._map(self.common.fd, page, 1):
                self.shared[page] = 0
        elif self.chance.random() < 0.5:
            self.shared[page] = self.chance.randrange(256)
            self.common.bytes[start : start + PAGE] = bytes([self.shared[page]]) * PAGE
        else:
            raw.unmap(self.common.fd, start, PAGE)
            del self.shared[page]

    def op_shared_read(self) -> None:
        """Nobody else changes one's own pages."""
        for page, byte in self.shared.items():
            assert self.common.bytes[page * PAGE] == byte

    def op_shared_names(self) -> None:
        """Create, link, rename and remove names that others use at the same time."""
        one, two = (self.arena / f"name{self.chance.randrange(SHARED_NAMES)}" for _ in range(2))
        attempts: list[Callable[[], object]] = [
            lambda: os.close(os.open(one, os.O_CREAT | os.O_EXCL | os.O_RDWR)),
            lambda: os.close(os.open(one, os.O_CREAT | os.O_RDWR)),
            lambda: os.link(one, two),
            lambda: os.rename(one, two),
            lambda: os.unlink(one),
            lambda: os.stat(one),
        ]
        try:
            self.chance.choice(attempts)()
        except OSError as error:
            if error.errno not in {errno.EEXIST, errno.ENOENT}:
                raise
