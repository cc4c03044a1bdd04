"""Handle counts in memory that outlives the process, and each change exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from msharefs.core.handles import SLOTS_AT_FIRST
from tests.unit.support.worlds import SharedBytes


def test_counts_outlive_the_process() -> None:
    """Those of several slots, as the last one to write left them."""
    memory = SharedBytes()
    counts = memory.open()
    one, other = counts.new_slot(), counts.new_slot()
    counts.set(one, 3, 10)
    counts.set(other, 5, 12)
    counts.set_changes(other, 7, 8)
    later = memory.open()
    later.open({one, other})
    assert (later.counts()[one], later.counts()[other]) == ((3, 0, 0), (5, 7, 8))


def test_slots_are_used_again() -> None:
    """With zeros in them; a slot that is in use is not given out."""
    counts = SharedBytes().open()
    one, other = counts.new_slot(), counts.new_slot()
    counts.set(one, 3, 10)
    counts.set_changes(one, 7, 8)
    counts.free_slot(one)
    again = counts.new_slot()
    assert again == one
    assert counts.counts()[again] == (0, 0, 0)
    assert counts.new_slot() not in (one, other)


def test_free_slots_are_found_after_a_restart() -> None:
    """Those that no region has."""
    memory = SharedBytes()
    counts = memory.open()
    for _ in range(5):
        counts.new_slot()
    later = memory.open()
    later.open({1, 4})
    assert {later.new_slot() for _ in range(4)} == {0, 2, 3, 5}


def test_more_slots_than_at_first() -> None:
    """The memory grows, and what was in it stays."""
    memory = SharedBytes()
    counts = memory.open()
    slots = [counts.new_slot() for _ in range(3 * SLOTS_AT_FIRST)]
    assert slots == list(range(3 * SLOTS_AT_FIRST))
    for slot in slots:
        counts.set(slot, slot + 1, 2)
    later = memory.open()
    assert [count for count, _, _ in later.counts()[: len(slots)]] == [slot + 1 for slot in slots]


def test_the_last_request_is_remembered() -> None:
    """After a restart too, so that one that comes again is not counted twice."""
    memory = SharedBytes()
    counts = memory.open()
    slot = counts.new_slot()
    assert not counts.was_applied(10)
    counts.set(slot, 1, 10)
    later = memory.open()
    assert later.was_applied(10)
    assert not later.was_applied(12)
    later.set(slot, 2, 12)
    assert not later.was_applied(10)


def test_no_request_is_never_the_last_one() -> None:
    """0 stands for a change that no request asked for."""
    counts = SharedBytes().open()
    counts.set(counts.new_slot(), 1, 0)
    assert not counts.was_applied(0)


def test_requests_of_another_connection_are_forgotten() -> None:
    """Its numbers begin anew; the counts stay."""
    memory = SharedBytes()
    counts = memory.open()
    slot = counts.new_slot()
    counts.set(slot, 4, 10)
    counts.forget_request()
    assert not counts.was_applied(10)
    later = memory.open()
    assert not later.was_applied(10)
    assert later.counts()[slot][0] == 4


def test_a_change_that_was_cut_short_is_finished() -> None:
    """The record is written first: a process that died between it and the count."""
    memory = SharedBytes()
    counts = memory.open()
    slot, other = counts.new_slot(), counts.new_slot()
    counts.set(other, 7, 8)
    counts.set(slot, 1, 10)
    counts.set(slot, 2, 12)
    view = memory.resize(len(memory))
    place = bytes(view).index(bytes([2, 0, 0, 0]), 32)
    view[place] = 1  # as if the process had died before this store
    later = memory.open()
    assert (later.counts()[slot][0], later.counts()[other][0]) == (2, 7)
    assert later.was_applied(12)


def test_a_slot_that_is_used_again_keeps_its_zero() -> None:
    """The record of its earlier region's last handle does not come back after a restart."""
    memory = SharedBytes()
    counts = memory.open()
    slot = counts.new_slot()
    counts.set(slot, 2, 10)
    counts.free_slot(slot)
    assert counts.new_slot() == slot
    later = memory.open()
    assert later.counts()[slot][0] == 0
    assert later.was_applied(10)


def test_the_last_inode_number_outlives_the_process() -> None:
    """Beside the counts, whatever happens to those."""
    memory = SharedBytes()
    counts = memory.open()
    assert counts.last_ino == 0
    counts.last_ino = (1 << 63) + 5
    for _ in range(2 * SLOTS_AT_FIRST):
        counts.set(counts.new_slot(), 9, 10)
    counts.forget_request()
    assert memory.open().last_ino == (1 << 63) + 5


def test_counters_of_changes_wrap() -> None:
    """They are for people; 32 bits are enough."""
    counts = SharedBytes().open()
    slot = counts.new_slot()
    counts.set_changes(slot, (1 << 32) + 5, 6)
    assert counts.counts()[slot] == (0, 5, 6)


def test_slots_for_which_there_is_no_memory_yet() -> None:
    """A journal may know more regions than the counts have room for: they get it, with nothing
    counted, and what is there stays."""
    memory = SharedBytes()
    counts = memory.open()
    counts.set(counts.new_slot(), 3, 9)
    counts = memory.open()
    far = 10 * SLOTS_AT_FIRST
    counts.open({0, far})
    assert (counts.counts()[0], counts.counts()[far]) == ((3, 0, 0), (0, 0, 0))
    counts.set(far, 2, 11)
    assert memory.open().counts()[far][0] == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["new", "free", "set", "changes", "restart"]),
            st.integers(0, 9),
            st.integers(0, 5),
        ),
        max_size=60,
    )
)
def test_slots_against_a_dict(steps: list[tuple[str, int, int]]) -> None:
    """Whatever comes, restarts in between included: the same counts in the same slots."""
    memory = SharedBytes()
    counts = memory.open()
    model: dict[int, tuple[int, int]] = {}
    for unique, (step, pick, number) in enumerate(steps, 1):
        slot = sorted(model)[pick % len(model)] if model else None
        if step == "new":
            made = counts.new_slot()
            assert made not in model
            model[made] = (0, 0)
        elif step == "restart":
            counts = memory.open()
            counts.open(set(model))
        elif slot is not None and step == "free":
            counts.free_slot(slot)
            del model[slot]
        elif slot is not None and step == "set":
            counts.set(slot, number, unique)
            model[slot] = (number, model[slot][1])
        elif slot is not None:
            counts.set_changes(slot, number, number)
            model[slot] = (model[slot][0], number)
        found = {each: counts.counts()[each][::2] for each in model}
        assert found == model
