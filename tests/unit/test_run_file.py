"""The file that the processes of a run share: who has what, and who is alive, by the kernel's word."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.linux.locks import try_lock
from msharefs.preload import run_file as module
from msharefs.preload.run_file import (
    HOLDER_LOCKS,
    HOLDERS_AT,
    HOLDERS_USED,
    MOVES,
    RANGE_FILLING,
    RANGE_SEGMENT,
    RANGE_TOLD,
    RANGES_AT,
    RANGES_USED,
    RECORD_SIZE,
    RECORDS_AT,
    SEGMENTS_AT,
    SEGMENTS_LIVE,
    SEGMENTS_USED,
    WORD,
    RangeState,
    RunFile,
    RunFileBusyError,
    SegmentEntry,
    Story,
    create,
    open_existing,
)

MIB = 1 << 20
STORY = Story("/mnt/r", made=True, creator=77)


@pytest.fixture
def run_file(tmp_path: Path) -> Iterator[RunFile]:
    """A run's file for a region of 1 GiB."""
    made = create(tmp_path)
    made.describe(STORY, 1 << 30, 0o600)
    yield made
    made.remove()


def words(run_file: RunFile, *changes: tuple[int, int]) -> None:
    """Write words of the file as a process of the run would: byte offsets and values."""
    for offset, value in changes:
        os.pwrite(run_file.fileno(), struct.pack("=Q", value), offset)


def header(run_file: RunFile, index: int) -> int:
    """A word of the header."""
    found: int = struct.unpack("=Q", os.pread(run_file.fileno(), WORD, index * WORD))[0]
    return found


class Holder:
    """A process with some ranges: what holdings.c makes, in this process."""

    def __init__(self, run_file: RunFile, number: int, *ranges: int) -> None:
        base = header(run_file, HOLDERS_AT)
        record = header(run_file, RECORDS_AT) + number * header(run_file, RECORD_SIZE)
        bits = sum(1 << number for number in ranges)
        fd = os.open(run_file.path, os.O_RDWR)
        assert try_lock(fd, HOLDER_LOCKS + number, shared=True)
        words(
            run_file,
            (base + number * WORD, 1),
            (record, bits),
            (HOLDERS_USED * WORD, max(number + 1, header(run_file, HOLDERS_USED))),
        )
        self.witness = mmap.mmap(fd, mmap.PAGESIZE, prot=mmap.PROT_READ)
        os.close(fd)

    def end(self) -> None:
        """What exec and exit do."""
        self.witness.close()


def tell_range(run_file: RunFile, number: int, offset: int, size: int, flags: int = 0) -> None:
    """An entry of the table of ranges."""
    base = header(run_file, RANGES_AT) + number * module.RANGE_BYTES
    words(run_file, (base, offset | 1 | flags), (base + WORD, size))
    words(run_file, (RANGES_USED * WORD, max(number + 1, header(run_file, RANGES_USED))))


def test_a_run_tells_its_story(run_file: RunFile, tmp_path: Path) -> None:
    """Who finds the file later learns which region it is about."""
    run_file.region_identity = 5, 6
    found = open_existing(run_file.directory)
    assert (found.story, found.region_identity) == (STORY, (5, 6))
    found.close()
    unknown = create(tmp_path)
    assert unknown.story.region == ""
    unknown.remove()


def test_a_path_that_is_too_long_is_refused(run_file: RunFile) -> None:
    """ENAMETOOLONG, not half a path."""
    with pytest.raises(OSError, match="name too long") as caught:
        run_file.describe(Story("/" + "x" * 9000, made=True, creator=0), 1 << 30, 0o600)
    assert caught.value.filename is not None


@pytest.mark.parametrize(
    ("region", "file", "directory"),
    [(0o600, 0o600, 0o700), (0o644, 0o600, 0o700), (0o666, 0o666, 0o711), (0o660, 0o660, 0o710)],
)
def test_who_may_write_to_the_region_may_use_the_file(
    run_file: RunFile, region: int, file: int, directory: int
) -> None:
    """And nobody else, not even a reader of the region."""
    run_file.describe(STORY, 1 << 30, region)
    assert run_file.path.stat().st_mode & 0o777 == file
    assert run_file.directory.stat().st_mode & 0o777 == directory


def test_a_file_that_is_no_runs_is_refused(tmp_path: Path) -> None:
    """Something else under such a name, or an empty file of a run that is just being made."""
    directory = tmp_path / f"{module.PREFIX}x"
    directory.mkdir()
    path = directory / module.FILE
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="no run's"):
        open_existing(directory)
    path.write_bytes(b"\0" * 8192)
    with pytest.raises(ValueError, match="no run's"):
        open_existing(directory)
    path.unlink()
    path.symlink_to("/etc/passwd")
    with pytest.raises(OSError):
        open_existing(directory)


def test_what_is_removed_leaves_nothing(tmp_path: Path) -> None:
    """Neither file nor directory; twice is no error."""
    made = create(tmp_path)
    made.remove()
    made.remove()
    assert list(tmp_path.iterdir()) == []


def test_holders_live_as_long_as_their_address_spaces(run_file: RunFile) -> None:
    """Descriptors do not count, a forked child does; with the last of them the record is free."""
    assert not run_file.has_holders()
    one, other = Holder(run_file, 0, 1, 5), Holder(run_file, 3, 5, 9)
    assert run_file.held() == 1 << 1 | 1 << 5 | 1 << 9
    child = os.fork()
    if child == 0:
        signal.pause()
        os._exit(0)
    one.end()
    other.end()
    run_file.clear_dead_holders()
    # The child has inherited both.
    assert run_file.held() == 1 << 1 | 1 << 5 | 1 << 9
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not run_file.has_holders()
    run_file.clear_dead_holders()
    assert run_file.held() == 0


def test_who_moves_during_a_look_is_not_missed(
    run_file: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process goes from a record that is still to be read to one that was read already."""
    Holder(run_file, 0)
    Holder(run_file, 1, 5)
    read = RunFile._record
    moved = False

    def move(run: RunFile, number: int) -> tuple[int, int]:
        nonlocal moved
        if number == 1 and not moved:
            moved = True
            words(run_file, (read(run, 0)[0], 1 << 5), (read(run, 1)[0], 0))
            words(run_file, (MOVES * WORD, 1))
        return read(run, number)

    monkeypatch.setattr(RunFile, "_record", move)
    assert run_file.held() == 1 << 5


def test_a_look_gives_up_where_too_much_moves(
    run_file: RunFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not sure, and says so."""
    Holder(run_file, 0, 1)
    read = RunFile._record

    def move(run: RunFile, number: int) -> tuple[int, int]:
        words(run_file, (MOVES * WORD, header(run_file, MOVES) + 1))
        return read(run, number)

    monkeypatch.setattr(RunFile, "_record", move)
    with pytest.raises(RunFileBusyError):
        run_file.held()


def test_a_holder_in_the_making_is_not_cleared(run_file: RunFile) -> None:
    """Its lock is there before its bits are."""
    holder = Holder(run_file, 0)
    run_file.clear_dead_holders()
    assert header(run_file, HOLDERS_AT)
    base = header(run_file, HOLDERS_AT)
    assert struct.unpack("=Q", os.pread(run_file.fileno(), WORD, base))[0] == 1
    holder.end()


def test_ranges_have_states(run_file: RunFile) -> None:
    """As the library tells them; an entry may be free again."""
    tell_range(run_file, 0, 0, MIB)
    tell_range(run_file, 2, 4 * MIB, MIB, RANGE_TOLD)
    tell_range(run_file, 3, 8 * MIB, 2 * MIB, RANGE_FILLING)
    tell_range(run_file, 4, 512 * MIB, 256 * MIB, RANGE_SEGMENT)
    assert [(r.number, r.offset, r.size, r.state) for r in run_file.ranges()] == [
        (0, 0, MIB, RangeState.FILLED),
        (2, 4 * MIB, MIB, RangeState.TOLD),
        (3, 8 * MIB, 2 * MIB, RangeState.FILLING),
        (4, 512 * MIB, 256 * MIB, RangeState.SEGMENT),
    ]
    run_file.free_range(0)
    assert [r.number for r in run_file.ranges()] == [2, 3, 4]


def test_hints_are_given_once(run_file: RunFile) -> None:
    """In the order of their numbers; of too many it is only said that they were too many."""
    put = module.HINTS_PUT * WORD
    os.pwrite(run_file.fileno(), struct.pack("=3I", 7, 9, 7), module.HINTS_BYTE)
    words(run_file, (put, 3))
    assert run_file.take_hints(0) == (3, {7, 9})
    assert run_file.take_hints(3) == (3, set())
    words(run_file, (put, 3 + module.HINTS + 1))
    assert run_file.take_hints(3) == (3 + module.HINTS + 1, None)


def test_segments_are_read_and_removed(run_file: RunFile) -> None:
    """An entry counts from the moment on at which its kind is there."""
    base = header(run_file, SEGMENTS_AT)
    for offset, value in enumerate((1, 55, 66, 4, 8 * MIB)):
        words(run_file, (base + module.SEGMENT_BYTES + offset * WORD, value))
    words(run_file, (SEGMENTS_USED * WORD, 2), (SEGMENTS_LIVE * WORD, 1))
    (entry,) = run_file.segments()
    assert entry == SegmentEntry(1, 1, 55, 66, 4, 8 * MIB)
    run_file.remove_segment(entry)
    assert run_file.segments() == []
    assert run_file.segments_live == 0


def test_the_floor_rises_to_the_lowest_segment(run_file: RunFile) -> None:
    """Or to the end of the region, if there is none; it never falls here."""
    floor = module.FLOOR * WORD
    words(run_file, (floor, 10))
    tell_range(run_file, 0, 512 * MIB, 256 * MIB, RANGE_SEGMENT)
    run_file.raise_floor()
    assert header(run_file, module.FLOOR) == 255
    run_file.free_range(0)
    run_file.raise_floor()
    assert header(run_file, module.FLOOR) == 512
    tell_range(run_file, 0, 512 * MIB, 256 * MIB, RANGE_SEGMENT)
    run_file.raise_floor()
    assert header(run_file, module.FLOOR) == 512


def test_the_lock_survives_its_owner(run_file: RunFile) -> None:
    """Somebody has it: busy. Who had it is killed: free, and not its child's."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with open_existing(run_file.directory).locked():
            grandchild = os.fork()
            if grandchild == 0:
                signal.pause()
                os._exit(0)
            os.write(writer, struct.pack("=i", grandchild))
            signal.pause()
    (grandchild,) = struct.unpack("=i", os.read(reader, 4))
    with pytest.raises(RunFileBusyError), run_file.locked():
        pass
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with run_file.locked():
        pass
    os.kill(grandchild, signal.SIGKILL)
    os.close(reader)
    os.close(writer)


def test_a_run_lives_while_anybody_of_it_lives(run_file: RunFile) -> None:
    """mshare run, its collector, or a process with memory. Seen by others; alone then."""
    other = open_existing(run_file.directory)
    assert other.is_alive()
    assert not other.claim_alone()
    assert not other.is_settled()
    run_file.claim_region()
    assert other.is_settled()
    fcntl.fcntl(run_file.fileno(), fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", 2, 0, 0, 0, 0))
    assert not other.is_alive()
    holder = Holder(run_file, 2)
    assert other.is_alive()
    holder.end()
    assert other.claim_alone()
    other.close()
