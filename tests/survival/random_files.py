"""A client that does random things with regions and files on a real mount, beside the model of files.

After each step every page of every region and every byte of every file is compared. Now and then the server
is killed while a step is done.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.helpers import raw, windows
from tests.helpers.mount import Mount
from tests.helpers.raw import PAGE, opened
from tests.helpers.waiting import eventually
from tests.model.file_model import FileModel
from tests.survival import gap
from tests.survival.load import Figures

OPTIONS = "size=64M,align=4096"
PAGES = 40
"""Of a region."""
FILES = ("first", "second", "third")
REGIONS = ("one", "two")
LONGEST = 24 * PAGE + 77
"""Of a file, in bytes."""
LOUD = f"{gap.DEATHS}|had changed were written over"
"""What the log says of servers that are killed, and of pages that were changed on both sides."""


class Client:
    """Regions on a mount, and files in a directory, with the model of both."""

    def __init__(self, mounted: Mount, directory: Path, seed: int) -> None:
        """The directory is there and empty. Everything is made here."""
        self.kills = 0
        self.steps: list[str] = []
        self._mounted = mounted
        self._directory = directory
        self._random = random.Random(seed)
        files = {name: self._random.randbytes(self._length()) for name in FILES}
        for name, data in files.items():
            (directory / name).write_bytes(data)
        self._kind = windows.kind_for(mounted.path)
        self._model = FileModel(list(REGIONS), files)
        self._open = {name: self._attach(name, os.O_CREAT | os.O_EXCL) for name in REGIONS}

    def step(self, *, kill: bool) -> None:
        """One random step and the comparison; the server is killed during it if so asked."""
        kinds = (
            (self._store, 30),
            (self._map_file, 15),
            (self._change_file, 15),
            (self._fsync, 12),
            (self._unmap, 8),
            (self._map_memory, 6),
            (self._close, 6),
            (self._cut, 6),
        )
        act = self._random.choices([kind for kind, _ in kinds], [weight for _, weight in kinds])[0]
        with self._killed() if kill else _undisturbed():
            act()
        self.compare()

    def compare(self) -> None:
        """Regions and files are what the model says. Raises AssertionError."""
        for name, shared in self._model.regions.items():
            fd, window = self._open[name]
            assert raw.mapped_ranges(fd) == shared.ranges(), name
            for page, cell in shared.cells.items():
                found = window.view[page * PAGE : (page + 1) * PAGE]
                assert found == cell.data, f"page {page} of region {name}"
            files = [each["file"] for each in raw.layout(fd)["mappings"] if "file" in each]
            assert not any(file.get("error") for file in files), name
        for name, data in self._model.files.items():
            assert (self._directory / name).read_bytes() == data, f"file {name}"

    def end(self) -> None:
        """Regions go, one after the other, because what both have changed is the later one's; files have what they
        should have then."""
        for number, name in enumerate(REGIONS, 1):
            os.unlink(self._mounted.path / name)
            self._model.sync(name, 0, PAGES)
            self._let_go(name)
            self._await_end(len(REGIONS) - number)
            self._await_files()
        self._mounted.wait_until_empty()

    def discard(self) -> None:
        """Have nothing open any more."""
        for name in list(self._open):
            self._let_go(name)
            (self._mounted.path / name).unlink(missing_ok=True)

    # Steps

    def _map_file(self) -> None:
        region, page, count = self._range()
        file, file_page = self._random.choice(FILES), self._random.randrange(8)
        goes_back = self._random.random() < 0.8
        self._note(f"map {file} from page {file_page} at {page}+{count} of {region}: {goes_back}")
        with opened(self._directory / file) as fd:
            prot = raw.RW if goes_back else raw.PROT_READ
            where = (self._fd(region), page * PAGE, count * PAGE)
            raw.map_file(*where, fd, offset=file_page * PAGE, prot=prot)
        self._model.map_file(region, page, count, file, file_page, goes_back=goes_back)

    def _map_memory(self) -> None:
        region, page, count = self._range()
        self._note(f"map memory at {page}+{count} of {region}")
        raw.create_mapping(self._fd(region), page * PAGE, count * PAGE)
        self._model.map_memory(region, page, count)

    def _unmap(self) -> None:
        region, page, count = self._range()
        self._note(f"unmap {page}+{count} of {region}")
        raw.unmap(self._fd(region), page * PAGE, count * PAGE)
        self._model.unmap(region, page, count)

    def _store(self) -> None:
        region = self._random.choice(REGIONS)
        pages = sorted(self._model.regions[region].cells)
        for page in self._random.sample(pages, min(len(pages), self._random.randint(1, 6))):
            at, text = self._random.randrange(PAGE - 64), self._random.randbytes(64)
            self._note(f"store to page {page} of {region}")
            window = self._open[region][1].view
            window[page * PAGE + at : page * PAGE + at + len(text)] = text
            self._model.store(region, page, at, text)

    def _change_file(self) -> None:
        file = self._random.choice(FILES)
        size = len(self._model.files[file])
        text = self._random.randbytes(min(64, size))
        offset = self._random.randint(0, size - len(text))
        self._note(f"change {file} at {offset}")
        with opened(self._directory / file) as fd:
            os.pwrite(fd, text, offset)
        self._model.change_file(file, offset, text)

    def _cut(self) -> None:
        file, size = self._random.choice(FILES), self._length()
        self._note(f"cut {file} to {size}")
        os.truncate(self._directory / file, size)
        self._model.cut(file, size)

    def _fsync(self) -> None:
        region = self._random.choice(REGIONS)
        self._note(f"fsync {region}")
        os.fsync(self._fd(region))
        self._model.sync(region, 0, PAGES)

    def _close(self) -> None:
        """The last close, and open again. Files get what was changed soon after it."""
        region = self._random.choice(REGIONS)
        self._note(f"close {region}")
        self._let_go(region)
        self._model.sync(region, 0, PAGES)
        self._await_files()
        self._open[region] = self._attach(region)
        # Where nothing was changed the write after the close may not have begun, and would take what is stored next. It comes
        # before an fsync.
        os.fsync(self._fd(region))

    # Help

    def _await_end(self, left: int) -> None:
        eventually(
            lambda: self._mounted.status()["regions"] == left,
            what="a region goes when its files have all",
        )

    def _await_files(self) -> None:
        eventually(
            lambda: all(
                (self._directory / name).read_bytes() == data
                for name, data in self._model.files.items()
            ),
            what="files get what was changed",
        )

    def _let_go(self, region: str) -> None:
        fd, window = self._open.pop(region)
        window.close()
        os.close(fd)

    def _attach(self, region: str, flags: int = 0) -> tuple[int, windows.Window]:
        fd = os.open(self._mounted.path / region, os.O_RDWR | flags)
        if flags:
            os.ftruncate(fd, PAGES * PAGE)
        return fd, self._kind(fd, PAGES * PAGE)

    def _fd(self, region: str) -> int:
        return self._open[region][0]

    def _range(self) -> tuple[str, int, int]:
        page = self._random.randrange(PAGES)
        count = self._random.randint(1, min(12, PAGES - page))
        return self._random.choice(REGIONS), page, count

    def _length(self) -> int:
        """Of a file, whole pages as often as not, and seldom nothing."""
        size = self._random.randint(0, LONGEST)
        return size - size % PAGE if self._random.random() < 0.5 else size

    def _note(self, what: str) -> None:
        self.steps.append(what)

    @contextmanager
    def _killed(self) -> Iterator[None]:
        """The server is killed at some moment of the block, or just after it."""
        server = self._mounted.server_pid
        delay = self._random.expovariate(1000 / 3)

        def kill() -> None:
            time.sleep(delay)
            os.kill(server, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        self._note("kill the server:")
        killer.start()
        try:
            yield
        finally:
            killer.join()
        self.kills += 1


@contextmanager
def _undisturbed() -> Iterator[None]:
    yield


def soak(mounted: Mount, seconds: float, seed: int) -> Figures:
    """Random steps for so long, from new files every 300, with a kill in one of ten. Whatever is not as the
    model says is an error of the client, and the end."""
    figures = Figures()
    until = time.monotonic() + seconds
    for number in itertools.count(seed):
        with tempfile.TemporaryDirectory() as directory:
            try:
                client = run(mounted, Path(directory), number, 300, lambda step: step % 10 == 9)
            except AssertionError as error:
                figures.client_errors.append("\n".join([str(error), *error.__notes__]))
                break
        figures.kills += client.kills
        figures.operations += len(client.steps)
        if time.monotonic() > until:
            break
    return figures


def run(
    mounted: Mount, directory: Path, seed: int, steps: int, is_killed: Callable[[int], bool]
) -> Client:
    """So many steps; `is_killed` says at which the server dies. Raises AssertionError with the last steps."""
    mounted.expect_log(LOUD)
    client = Client(mounted, directory, seed)
    try:
        for number in range(steps):
            client.step(kill=is_killed(number))
        client.end()
    except BaseException as error:
        error.add_note(f"seed {seed}; the last of {len(client.steps)}: {client.steps[-25:]}")
        raise
    finally:
        client.discard()
    return client
