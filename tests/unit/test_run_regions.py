"""The region of a run, known again after its mount came up anew."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from msharefs.client.region import Region
from msharefs.preload import regions
from msharefs.preload.run_file import RunFile, Story

CREATOR = 4711


class FakeRegion:
    """An open file that stands for it."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.closed = False

    def fileno(self) -> int:
        """The descriptor."""
        return self._fd

    def close(self) -> None:
        """Let go of it."""
        os.close(self._fd)
        self.closed = True


class FakeRunFile:
    """What a run tells of its region."""

    def __init__(self, path: Path) -> None:
        self.story = Story(str(path), made=True, creator=CREATOR)
        self.region_identity = 1, path.stat().st_ino
        self.direct: bool | None = None

    def tell_how_it_is_had(self, *, direct: bool) -> None:
        """Kept."""
        self.direct = direct


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeRegion]:
    """The run's own."""
    path = tmp_path / "region"
    path.touch()
    found = FakeRegion(path)
    monkeypatch.setattr(Region, "open", lambda _path: found)
    monkeypatch.setattr(regions, "creator_of", lambda _region: CREATOR)
    yield found
    if not found.closed:
        found.close()


def test_a_region_that_is_there_again(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is told where it is now, and how it is had."""
    monkeypatch.setattr(regions, "segment_of", lambda _fd: None)
    run_file = FakeRunFile(tmp_path / "region")
    assert regions.open_again(cast("RunFile", run_file)) is cast("Region", region)
    assert run_file.region_identity[0] == (tmp_path / "region").stat().st_dev
    assert run_file.direct is False


def test_a_mount_that_gives_no_memory_now(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no descriptor left, or does not answer: as if it were not there yet, and it is tried again."""

    def refuse(_fd: int) -> int:
        raise OSError(errno.ENFILE, os.strerror(errno.ENFILE))

    monkeypatch.setattr(regions, "segment_of", refuse)
    run_file = FakeRunFile(tmp_path / "region")
    before = run_file.region_identity
    assert regions.open_again(cast("RunFile", run_file)) is None
    assert region.closed
    assert run_file.region_identity == before
