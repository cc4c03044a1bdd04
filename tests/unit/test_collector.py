"""What a run's collector gives back, and what it leaves alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from msharefs.client.region import Region
from msharefs.linux.events import FileEvents
from msharefs.preload.collector import Collector, give_all_back
from msharefs.preload.run_file import (
    HINTS_BYTE,
    HINTS_PUT,
    RANGE_FILLING,
    RANGE_SEGMENT,
    RANGE_TOLD,
    SEGMENTS_AT,
    SEGMENTS_LIVE,
    SEGMENTS_USED,
    WORD,
    RunFile,
    RunFileBusyError,
    open_existing,
)
from msharefs.preload.segments import POSIX, Segments
from tests.unit.test_run_file import Holder, header, run_file, tell_range, words

__all__ = ["run_file"]

MIB = 1 << 20


class FakeRegion:
    """What is mapped, as a mount would tell it."""

    def __init__(self) -> None:
        self.mapped: dict[int, int] = {}

    def unmap(self, offset: int, size: int) -> None:
        """Everything that begins there."""
        for start in list(self.mapped):
            if offset <= start < offset + size:
                del self.mapped[start]

    def layout(self) -> object:
        """Offsets and sizes."""
        mappings = [SimpleNamespace(offset=o, size=s) for o, s in self.mapped.items()]
        return SimpleNamespace(mappings=mappings)


@pytest.fixture
def region() -> FakeRegion:
    """A region with nothing in it."""
    return FakeRegion()


@pytest.fixture
def segments() -> Iterator[Segments]:
    """What the collector knows of segments."""
    events = FileEvents()
    made = Segments(events)
    yield made
    made.close()
    events.close()


@pytest.fixture
def collector(region: FakeRegion, run_file: RunFile, segments: Segments) -> Collector:
    """The collector of the run."""
    return Collector(cast(Region, region), run_file, segments)


def put(region: FakeRegion, run_file: RunFile, number: int, flags: int = 0) -> None:
    """A range of 1 MiB with memory."""
    offset = number * 4 * MIB
    tell_range(run_file, number, offset, MIB, flags)
    region.mapped[offset] = MIB


def test_what_nobody_has_is_given_back(
    collector: Collector, region: FakeRegion, run_file: RunFile
) -> None:
    """A range without a holder goes, one with a holder stays, and what is not the run's too."""
    put(region, run_file, 0)
    put(region, run_file, 1)
    region.mapped[900 * MIB] = MIB
    holder = Holder(run_file, 0, 1)
    collector.collect()
    assert region.mapped == {4 * MIB: MIB, 900 * MIB: MIB}
    assert [r.number for r in run_file.ranges()] == [1]
    assert run_file.peak == 2 * MIB
    holder.end()
    collector.collect()
    assert region.mapped == {900 * MIB: MIB}


def test_what_is_being_made_is_left_alone(
    collector: Collector,
    region: FakeRegion,
    run_file: RunFile,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A place that is told belongs to somebody soon. If nothing comes of it for a long time, it
    is free again, and what is mapped there is nobody's business."""
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    tell_range(run_file, 0, 0, MIB, RANGE_TOLD)
    region.mapped[0] = MIB
    for _ in range(2):
        collector.collect()
        assert [r.number for r in run_file.ranges()] == [0]
        now += 6
    tell_range(run_file, 1, 4 * MIB, MIB, RANGE_TOLD)
    collector.collect()
    assert [r.number for r in run_file.ranges()] == [1]
    assert region.mapped == {0: MIB}


def test_who_was_killed_while_it_mapped_leaves_its_memory_or_nothing(
    collector: Collector, region: FakeRegion, run_file: RunFile
) -> None:
    """Exactly its range is mapped: its memory. Anything else there is another program's."""
    put(region, run_file, 0, RANGE_FILLING)
    tell_range(run_file, 1, 4 * MIB, MIB, RANGE_FILLING)
    region.mapped[4 * MIB] = 2 * MIB
    collector.collect()
    assert region.mapped == {4 * MIB: 2 * MIB}
    assert run_file.ranges() == []


def test_hints_are_looked_at_alone(
    collector: Collector, region: FakeRegion, run_file: RunFile
) -> None:
    """What a process let go of last goes at once; the rest waits for a look at everything."""
    put(region, run_file, 0)
    put(region, run_file, 1)
    words(run_file, (HINTS_PUT * WORD, 1))
    os.pwrite(run_file.fileno(), (1).to_bytes(4, "little"), HINTS_BYTE)
    collector.collect_hinted()
    assert region.mapped == {0: MIB}
    collector.collect_hinted()
    assert region.mapped == {0: MIB}
    collector.collect()
    assert region.mapped == {}


def put_segment(region: FakeRegion, run_file: RunFile, segments: Segments, path: Path) -> int:
    """A segment with a name in range 0, and a descriptor of it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    status = os.fstat(fd)
    segments.hold(os.dup(fd))
    put(region, run_file, 0, RANGE_SEGMENT)
    base = header(run_file, SEGMENTS_AT)
    for place, value in enumerate((POSIX, status.st_dev, status.st_ino, 0, MIB)):
        words(run_file, (base + place * WORD, value))
    words(run_file, (SEGMENTS_USED * WORD, 1), (SEGMENTS_LIVE * WORD, 1))
    return fd


def test_a_segment_goes_with_its_file_and_its_windows(
    collector: Collector, region: FakeRegion, run_file: RunFile, segments: Segments
) -> None:
    """While it has a name, while it is open, while anybody has it attached it stays."""
    path = Path(f"/dev/shm/msharefs-unit-{os.getpid()}")
    fd = put_segment(region, run_file, segments, path)
    holder = Holder(run_file, 0, 0)
    path.unlink()
    os.close(fd)
    collector.collect()
    assert region.mapped == {0: MIB}
    holder.end()
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.close(fd)
    collector.collect()
    path.unlink()
    assert (region.mapped, run_file.segments(), run_file.ranges()) == ({}, [], [])


@pytest.mark.parametrize("question", ["held", "is_gone"])
def test_a_segment_that_is_attached_for_good_while_it_is_looked_stays(
    collector: Collector,
    region: FakeRegion,
    run_file: RunFile,
    segments: Segments,
    monkeypatch: pytest.MonkeyPatch,
    question: str,
) -> None:
    """Nobody has it attached, but it is open; then it is attached, and its name and its last
    descriptor go: between any two of the collector's questions."""
    path = Path(f"/dev/shm/msharefs-unit-{os.getpid()}")
    fd = put_segment(region, run_file, segments, path)
    asked = run_file if question == "held" else segments
    ask = getattr(asked, question)
    holders: list[Holder] = []

    def ask_and_attach(*arguments: object) -> object:
        answer = ask(*arguments)
        if not holders:
            holders.append(Holder(run_file, 0, 0))
            path.unlink()
            os.close(fd)
        return answer

    monkeypatch.setattr(asked, question, ask_and_attach)
    for _ in range(2):
        collector.collect()
        assert region.mapped == {0: MIB}
    holders[0].end()
    collector.collect()
    assert (region.mapped, run_file.segments(), run_file.ranges()) == ({}, [], [])


def test_a_segment_without_an_entry_is_given_back(
    collector: Collector, region: FakeRegion, run_file: RunFile
) -> None:
    """Its maker was killed between the two."""
    put(region, run_file, 0, RANGE_SEGMENT)
    collector.collect()
    assert region.mapped == {}


def test_nothing_is_given_back_while_others_do(
    collector: Collector, region: FakeRegion, run_file: RunFile
) -> None:
    """The run's lock is had by another process."""
    put(region, run_file, 0)
    with open_existing(run_file.directory).locked(), pytest.raises(RunFileBusyError):
        collector.collect()
    assert region.mapped == {0: MIB}


def test_everything_of_the_run_is_given_back_at_the_end(
    region: FakeRegion, run_file: RunFile
) -> None:
    """Whoever has it; what is told only is not the run's yet."""
    put(region, run_file, 0)
    put(region, run_file, 1, RANGE_SEGMENT)
    put(region, run_file, 2, RANGE_TOLD)
    put(region, run_file, 3, RANGE_FILLING)
    holder = Holder(run_file, 0, 0)
    give_all_back(cast(Region, region), run_file)
    assert region.mapped == {8 * MIB: MIB}
    holder.end()
