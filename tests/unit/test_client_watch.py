"""Following a layout, on a clock that only moves when the watch sleeps.

The same on a mount, with changes of other processes, is tests/mount/test_client_watch.py.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from msharefs import Creator, Layout
from msharefs.client.watch import Clock, Source, layouts

EMPTY = Layout(4096, 0, 0, (), Creator(1, 2, 3), open_handles=1, maps=0, unmaps=0)


class Scene:
    """A region that changes when its time has come, and the clock."""

    def __init__(self, *changes: float) -> None:
        self.time = 0.0
        self.open = True
        self.asked_at: list[float] = []
        self._changes = changes
        self.clock = Clock(lambda: self.time, self._sleep)
        self.source = Source(self.layout, self.generation, lambda: not self.open)

    def _sleep(self, seconds: float) -> None:
        assert seconds >= 0
        self.time += seconds

    def layout(self) -> Layout:
        """The layout now: so many mappings were made."""
        if not self.open:
            raise ValueError("operation on a closed region")
        return replace(EMPTY, maps=sum(change <= self.time for change in self._changes))

    def generation(self, size: int) -> tuple[int, int, int]:
        """Which one it is."""
        assert size == EMPTY.size
        self.asked_at.append(self.time)
        return self.layout().generation

    def told(self, timeout: float | None = None) -> list[tuple[float, int]]:
        """When which layouts were told, until the watch ends."""
        return [
            (self.time, layout.maps)
            for layout in layouts(self.source, 1, timeout, clock=self.clock)
        ]


def test_quiet_region_is_asked_each_interval_until_the_timeout() -> None:
    """The last question is at the end of the time, not an interval before it."""
    scene = Scene()
    assert scene.told(timeout=2.5) == [(0, 0)]
    assert scene.asked_at == [0, 1, 2, 2.5]
    assert scene.time == 2.5


def test_each_change_begins_the_timeout_anew() -> None:
    """It is told at the next question, and the last one is followed by the whole time."""
    scene = Scene(0.5, 2.5)
    assert scene.told(timeout=2.0) == [(0, 0), (1, 1), (3, 2)]
    assert scene.time == 5


def test_changes_within_an_interval_are_one() -> None:
    """The last of them shows."""
    assert Scene(0.1, 0.2, 0.3).told(timeout=1) == [(0, 0), (1, 3)]


def test_without_a_timeout_only_closing_ends_it() -> None:
    """However long nothing changes; and the end is no error."""
    scene = Scene(1000.0)
    watch = layouts(scene.source, 1, None, clock=scene.clock)
    assert next(watch).maps == 0
    assert next(watch).maps == 1
    scene.open = False
    assert next(watch, None) is None


def test_errors_of_an_open_region_are_errors() -> None:
    """Only who has closed the region is spared them."""
    scene = Scene()

    def broken(size: int) -> tuple[int, int, int]:
        raise OSError(107, "the mount is gone")

    watch = layouts(replace(scene.source, generation=broken), 1, None, clock=scene.clock)
    next(watch)
    with pytest.raises(OSError, match="the mount is gone"):
        next(watch)
