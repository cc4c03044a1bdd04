"""The life of a region: every state with every event, and which sizes it takes."""

from __future__ import annotations

import errno
from itertools import product

import pytest

from msharefs.core.errors import RefusedError, SizeAlreadySet, SizeNotSet
from msharefs.core.layout import Mapping
from msharefs.core.region import TRANSITIONS, Event, Region, State
from tests.unit.support.fakes import FakeMemory
from tests.unit.support.worlds import ALICE, ALIGN, BOB, PAGE, refused

LARGEST = 1 << 40

# The rules of the semantics page, written once more.
LIFE: dict[tuple[State, Event], State | type[RefusedError]] = {
    (State.UNSIZED, Event.SIZE_ZERO): State.UNSIZED,
    (State.UNSIZED, Event.SIZE): State.SIZED,
    (State.UNSIZED, Event.MAP): SizeNotSet,
    (State.SIZED, Event.SIZE_ZERO): SizeAlreadySet,
    (State.SIZED, Event.SIZE): SizeAlreadySet,
    (State.SIZED, Event.MAP): State.SIZED,
}


def new_region(size: int = 0) -> Region:
    """A region, of this size if it is not 0."""
    region = Region(3, 0o640, BOB.uid, BOB.gid, 1, ALICE)
    if size:
        region.become_sized(size)
    return region


def test_the_table_is_complete() -> None:
    """No pair of state and event is left to a KeyError."""
    assert set(TRANSITIONS) == set(product(State, Event))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("event", Event)
def test_each_transition(state: State, event: Event) -> None:
    """The state that follows, or EINVAL and nothing has changed."""
    region = new_region(ALIGN if state is State.SIZED else 0)
    following = LIFE[state, event]
    if isinstance(following, State):
        assert region.next_state(event) is following
    else:
        with pytest.raises(following) as caught:
            region.next_state(event)
        assert caught.value.errno == errno.EINVAL
    assert region.state is state


@pytest.mark.parametrize("size", [ALIGN, 3 * ALIGN, LARGEST])
def test_a_multiple_of_the_alignment_is_a_size(size: int) -> None:
    """Up to the largest that the mount allows."""
    region = new_region()
    assert region.check_size(size, align=ALIGN, largest=LARGEST) is Event.SIZE
    region.become_sized(size)
    assert (region.size, region.state) == (size, State.SIZED)


@pytest.mark.parametrize("size", [1, PAGE, ALIGN - 1, ALIGN + 1, ALIGN + PAGE, -ALIGN, -1])
def test_other_sizes_are_invalid(size: int) -> None:
    """EINVAL: not a multiple, or negative."""
    with refused(errno.EINVAL):
        new_region().check_size(size, align=ALIGN, largest=LARGEST)


@pytest.mark.parametrize("size", [LARGEST + ALIGN, 1 << 62, 1 << 63])
def test_a_size_beyond_the_largest_is_too_large(size: int) -> None:
    """EFBIG."""
    with refused(errno.EFBIG):
        new_region().check_size(size, align=ALIGN, largest=LARGEST)


def test_size_0_changes_nothing() -> None:
    """It is allowed while there is no size, and means nothing (O_TRUNC of a new file)."""
    region = new_region()
    assert region.check_size(0, align=ALIGN, largest=LARGEST) is Event.SIZE_ZERO
    assert region.state is State.UNSIZED


@pytest.mark.parametrize("size", [0, ALIGN, 2 * ALIGN, 1, -1, LARGEST + ALIGN])
def test_a_sized_region_takes_no_size(size: int) -> None:
    """EINVAL for each, the same size and bad ones included."""
    with refused(errno.EINVAL):
        new_region(ALIGN).check_size(size, align=ALIGN, largest=LARGEST)


def test_a_size_is_recorded_once() -> None:
    """A second time is refused, and the first stays."""
    region = new_region(ALIGN)
    with pytest.raises(RefusedError):
        region.become_sized(2 * ALIGN)
    assert region.size == ALIGN


def test_blocks_are_the_reserved_memory() -> None:
    """In units of 512 bytes, whatever the segment says."""
    region = new_region(ALIGN)
    region.layout.insert(Mapping(0, 3 * PAGE, 3))
    assert region.blocks == 24
    assert region.cacheable


def test_blocks_without_reservation_are_what_was_touched() -> None:
    """MAP_NORESERVE pages count once they are there, and attributes may not be cached."""
    memory = FakeMemory(ALIGN)
    memory.set_limit(ALIGN)
    region = new_region(ALIGN)
    region.segment = segment = memory.create(3)
    segment.set_size(ALIGN)
    region.layout.insert(Mapping(0, 3 * PAGE, 3, reserve=False))
    assert (region.blocks, region.cacheable) == (0, False)
    segment.poke(PAGE, b"x")
    assert region.blocks == 8


def test_blocks_do_not_count_more_than_is_mapped() -> None:
    """A page touched in a hole will be taken back; it is nobody's."""
    memory = FakeMemory(ALIGN)
    memory.set_limit(ALIGN)
    region = new_region(ALIGN)
    region.segment = segment = memory.create(3)
    segment.set_size(ALIGN)
    region.layout.insert(Mapping(0, PAGE, 3, reserve=False))
    segment.poke(0, bytes(4 * PAGE))
    assert region.blocks == 8
