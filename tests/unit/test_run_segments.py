"""Segments with names: when nobody can reach one any more, by the kernel's word."""

from __future__ import annotations

import mmap
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from msharefs.linux.events import FileEvents
from msharefs.preload.run_file import SegmentEntry
from msharefs.preload.segments import POSIX, SYSTEM_V, Segments


@pytest.fixture
def segments() -> Iterator[Segments]:
    """What a collector knows of segments."""
    events = FileEvents()
    made = Segments(events)
    yield made
    made.close()
    events.close()


@pytest.fixture
def path() -> Iterator[Path]:
    """A place for a segment."""
    made = Path(f"/dev/shm/msharefs-unit-{os.getpid()}")
    yield made
    made.unlink(missing_ok=True)


def held(segments: Segments, fd: int) -> SegmentEntry:
    """An entry for the open file, which the collector holds."""
    status = os.fstat(fd)
    segments.hold(os.dup(fd))
    return SegmentEntry(0, POSIX, status.st_dev, status.st_ino, 0, 0)


def created(path: Path) -> int:
    """A new file, open."""
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def descriptors_of(path: Path) -> list[str]:
    """Those of this process that stand for the file, also without its name. (How many there are
    in all says nothing: some are closed whenever garbage is collected.)"""
    found = []
    for number in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{number}"))
    return [each for each in found if each.startswith(str(path))]


def test_a_name_keeps_a_segment(segments: Segments, path: Path) -> None:
    """Nobody has it open or attached; only without the name it is gone."""
    fd = created(path)
    entry = held(segments, fd)
    os.close(fd)
    assert not segments.is_gone(entry)
    path.unlink()
    assert segments.is_gone(entry)


def test_a_second_name_keeps_a_segment(segments: Segments, path: Path) -> None:
    """Whatever it is called now."""
    fd = created(path)
    entry = held(segments, fd)
    os.close(fd)
    other = path.with_name(f"{path.name}-other")
    path.rename(other)
    assert not segments.is_gone(entry)
    other.unlink()
    assert segments.is_gone(entry)


def test_a_descriptor_keeps_a_segment(segments: Segments, path: Path) -> None:
    """Of a reader, of a writer, or on its way through a socket that nobody has read."""
    fd = created(path)
    entry = held(segments, fd)
    path.unlink()
    assert not segments.is_gone(entry)
    reading = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY)
    os.close(fd)
    assert not segments.is_gone(entry)
    ours, theirs = socket.socketpair()
    socket.send_fds(ours, [b"x"], [reading])
    os.close(reading)
    assert not segments.is_gone(entry)
    ours.close()
    theirs.close()
    assert segments.is_gone(entry)


def test_an_area_of_memory_keeps_a_segment(segments: Segments, path: Path) -> None:
    """Mapped as the kernel's own, without a descriptor."""
    fd = created(path)
    os.truncate(fd, mmap.PAGESIZE)
    entry = held(segments, fd)
    path.unlink()
    area = mmap.mmap(fd, mmap.PAGESIZE)
    os.close(fd)
    assert not segments.is_gone(entry)
    area.close()
    assert segments.is_gone(entry)


def test_what_is_not_held_is_never_gone(segments: Segments) -> None:
    """What the collector has not seen open it cannot judge."""
    assert not segments.is_gone(SegmentEntry(0, POSIX, 1, 2, 0, 0))


def test_holding_twice_is_holding_once(segments: Segments, path: Path) -> None:
    """Two processes may make the same file a segment: one of them does."""
    fd = created(path)
    entry = held(segments, fd)
    held(segments, fd)
    os.close(fd)
    path.unlink()
    assert segments.is_gone(entry)
    segments.release(entry)
    assert not descriptors_of(path)


def test_files_that_became_no_segments_are_let_go(segments: Segments, path: Path) -> None:
    """After two looks without an entry: the first may come between the two steps."""
    fd = created(path)
    entry = held(segments, fd)
    os.close(fd)
    segments.release_unused([])
    segments.release_unused([entry])
    segments.release_unused([])
    assert len(descriptors_of(path)) == 1
    segments.release_unused([])
    assert not descriptors_of(path)


def test_system_v_segments_are_gone_with_their_id(segments: Segments) -> None:
    """An id that nobody has given out."""
    assert segments.is_gone(SegmentEntry(0, SYSTEM_V, 0, 0x7FFFFFF0, 0, 0))
