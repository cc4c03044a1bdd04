"""Files in a region that many processes use, while servers and a client are killed."""

from __future__ import annotations

import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.raw import MIB, PAGE, map_file, opened
from tests.helpers.users import ALICE, as_user, open_the_way
from tests.helpers.waiting import eventually
from tests.survival import gap

pytestmark = [pytest.mark.mount, pytest.mark.root_only("becomes another user")]

PLANES = mount.planes()
MOUNT_OPTIONS = "size=128M,align=4096"
DEATHS = 2
"""One more, and a request that was in service each time would be refused."""
READERS = 8
LARGE = 32 * MIB
"""What a client maps that does not live to see it."""
SIZE = 64 * MIB


@dataclass(frozen=True)
class Part:
    """What is in a range of the region."""

    start: int
    data: bytes
    path: Path | None = None
    """None for memory that a client has filled."""


def parts_of(directory: Path) -> list[Part]:
    """Four files, each a page longer than the last, and two pieces of memory between them."""
    parts = []
    for number in range(6):
        data = os.urandom((number + 2) * PAGE)
        path = None if number % 3 == 2 else directory / str(number)
        if path is not None:
            path.write_bytes(data)
        parts.append(Part(number * MIB, data, path))
    return parts


def put(region: int, part: Part) -> None:
    """Have it in the region."""
    if part.path is not None:
        with opened(part.path, os.O_RDONLY) as file:
            map_file(region, part.start, len(part.data), file)
        return
    raw.create_mapping(region, part.start, len(part.data))
    with mmap.mmap(region, SIZE) as window:
        window[part.start : part.start + len(part.data)] = part.data


def child(piece: Callable[[], bool]) -> int:
    """A process that ends with 0 if the piece says so; its number."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        code = 0 if piece() else 1
    finally:
        os._exit(code)


def is_right(place: Path, parts: Sequence[Part]) -> bool:
    """Whether all of them are in the region."""
    with opened(place, os.O_RDONLY) as fd, mmap.mmap(fd, SIZE, prot=mmap.PROT_READ) as window:
        return all(window[p.start : p.start + len(p.data)] == p.data for p in parts)


@contextmanager
def servers_that_die(mounted: mount.Mount) -> Iterator[None]:
    """One after the other, as soon as it serves; all of them by the end of the block."""

    def kill() -> None:
        for _ in range(DEATHS):
            server = mounted.server_pid
            os.kill(server, signal.SIGKILL)
            eventually(lambda server=server: mounted.server_pid != server)  # type: ignore[misc]

    mounted.expect_log(gap.DEATHS)
    killer = threading.Thread(target=kill)
    killer.start()
    try:
        yield
    finally:
        killer.join()


def test_files_in_many_processes(mounted: mount.Mount, place: Path, tmp_path: Path) -> None:
    """An ordinary user maps four files and two pieces of memory while servers die: in eight
    processes all of it is right. Of what a client mapped that was killed, all is there or nothing."""
    large = tmp_path / "large"
    large.write_bytes(b"large" * (LARGE // 5 + 1))
    parts = parts_of(tmp_path)
    open_the_way(tmp_path)
    for path in tmp_path.iterdir():
        path.chmod(0o644)

    def work() -> list[bool]:
        fd = os.open(place, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, SIZE)
        for part in parts:
            put(fd, part)

        def map_large() -> bool:
            with opened(large, os.O_RDONLY) as file:
                map_file(fd, SIZE - LARGE, LARGE, file)
            return True

        short_lived = child(map_large)
        readers = [child(lambda: is_right(place, parts)) for _ in range(READERS)]
        os.kill(short_lived, signal.SIGKILL)
        return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0 for pid in readers]

    with servers_that_die(mounted):
        seen = as_user(ALICE, work)
    assert seen == [True] * READERS
    assert is_right(place, parts)
    whole = (SIZE - LARGE, SIZE)
    ranges = [(part.start, part.start + len(part.data)) for part in parts]

    def settled() -> bool:
        return raw.mapped_ranges(place) in (ranges, [*ranges, whole])

    eventually(settled)
    if whole in raw.mapped_ranges(place):
        with opened(place) as fd, mmap.mmap(fd, SIZE) as window:
            assert window[whole[0] :] == large.read_bytes()[:LARGE]
    os.unlink(place)
