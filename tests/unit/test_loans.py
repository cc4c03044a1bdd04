"""Who populates a hole, told from who touches it, and how long zeros are lent."""

from __future__ import annotations

import pytest

from msharefs.core.layout import Range
from msharefs.fuse.planes.loans import (
    GRACE,
    LONGEST,
    LOOK,
    REFUSALS,
    REFUSALS_CATCHING,
    REFUSALS_OF_A_TOUCH,
    RUNS,
    THREADS,
    Loan,
    Loans,
    merged,
)
from msharefs.linux.populate import RUNNING, UNSEEN

PAGE = 4096
THREAD, INO = 7, 3
MLOCK = "149 0x7f0000000000 0x200000"
FIRST, SECOND = Range(0, PAGE), Range(PAGE, 2 * PAGE)
HOLE = Range(0, 16 * PAGE)


class World:
    """The system calls that threads are in, and the time."""

    def __init__(self) -> None:
        self.call: str | None = MLOCK
        self.time = 100.0
        self.slept = 0
        self.leaves_after = 10**9
        self.loans = Loans(self.call_of, lambda: self.time, self.sleep)

    def call_of(self, thread: int) -> str | None:
        """As /proc tells it."""
        return self.call

    def sleep(self, seconds: float) -> None:
        """Time passes, and the thread may leave its call."""
        self.time += seconds
        self.slept += 1
        if self.slept >= self.leaves_after:
            self.call = ""

    def ask(self, wanted: Range = FIRST, *, thread: int = THREAD) -> bool:
        """The kernel asks for a part of the hole."""
        asked = self.loans.ask(thread, INO, wanted)
        if asked is not None:
            self.loans.lend(asked, wanted)
        return asked is not None

    def until_lent(self, wanted: Range = FIRST, most: int = 2 * REFUSALS_CATCHING) -> int:
        """How often it is refused before it is lent."""
        for times in range(most):
            if self.ask(wanted):
                return times
        return most


@pytest.fixture
def world() -> World:
    """A thread in mlock."""
    return World()


def test_who_populates_is_refused_a_few_times_and_then_lent(world: World) -> None:
    """A touch or a call that can fail has ended by then; further pages are lent at once."""
    assert world.until_lent() == REFUSALS
    assert world.ask(SECOND)
    assert [loan.part for loan in world.loans.out(INO)] == [FIRST, SECOND]
    assert world.loans.out(INO + 1) == []


def test_who_touches_now_and_then_is_refused(world: World) -> None:
    """As one that waits until something is mapped there; even if nobody may look at it."""
    world.call = UNSEEN
    for _ in range(3 * REFUSALS):
        assert not world.ask()
        world.time += 2 * GRACE


def test_who_touches_is_always_refused(world: World) -> None:
    """However often: it is in no system call, or in one that can fail."""
    world.call = ""
    assert world.until_lent(most=50) == 50


def test_the_next_call_is_refused_first_again(world: World) -> None:
    """The same thread in another call has to show that it cannot fail."""
    world.until_lent()
    world.call = MLOCK.replace("149", "28")
    assert not world.ask(SECOND)
    assert world.until_lent(SECOND) == REFUSALS - 1


def test_other_pages_in_between_begin_anew(world: World) -> None:
    """Who is refused one page after another is touching them."""
    for _ in range(3 * REFUSALS):
        assert not world.ask(FIRST)
        assert not world.ask(SECOND)


def test_an_unseen_thread_is_known_by_its_patience(world: World) -> None:
    """SIGBUS would have ended it if it had touched. If it has a handler, only many times tell."""
    world.call = UNSEEN
    assert world.until_lent() == REFUSALS
    world.call = None
    assert world.until_lent(SECOND) == 0
    assert world.until_lent(Range(8 * PAGE, 9 * PAGE)) == REFUSALS_OF_A_TOUCH
    world.time += 2 * GRACE
    assert world.until_lent(FIRST) == REFUSALS_CATCHING


def test_a_touch_of_an_unseen_thread_after_its_call_is_refused(world: World) -> None:
    """It may have left its call, so that a page elsewhere is refused as often as a touch asks."""
    world.call = UNSEEN
    world.until_lent()
    for page in range(2, 10):
        for _ in range(REFUSALS_OF_A_TOUCH):
            assert not world.ask(Range(page * PAGE, (page + 1) * PAGE))


def test_a_loan_ends_with_the_call(world: World) -> None:
    """And at the latest when it is due; each further one of the same page takes longer."""
    world.until_lent()
    world.ask(SECOND)
    first, second = world.loans.out()
    assert second.seconds == pytest.approx(LONGEST)
    assert first.seconds == pytest.approx(LONGEST * (REFUSALS + 1))
    world.leaves_after = 3
    world.loans.wait_for_end(first)
    assert world.slept == 3
    world.call, world.leaves_after = MLOCK, 10**9
    world.loans.wait_for_end(first)
    due = first.since + first.seconds
    assert due <= world.time < due + 2 * LOOK


def test_a_running_thread_has_its_loan_for_a_while(world: World) -> None:
    """It maps what it was lent, or has left the call: that cannot be seen."""
    world.until_lent()
    (loan,) = world.loans.out()
    world.call = RUNNING
    world.loans.wait_for_end(loan)
    assert world.time - loan.since == pytest.approx(RUNS * loan.seconds, abs=2 * LOOK)


def test_what_is_read_ahead_is_lent_to_a_running_thread(world: World) -> None:
    """It has not begun to wait; one that is not known to populate is refused."""
    world.call = RUNNING
    assert world.until_lent(most=50) == 50
    world.call = MLOCK
    assert world.ask(FIRST)
    world.call = RUNNING
    assert world.ask(SECOND)


def test_an_unseen_thread_has_its_loan_until_it_is_due(world: World) -> None:
    """That it has left its call cannot be seen."""
    world.call = UNSEEN
    world.until_lent()
    (loan,) = world.loans.out()
    world.loans.wait_for_end(loan)
    assert world.time >= loan.since + loan.seconds


def test_what_was_lent_meanwhile_stays_lent(world: World) -> None:
    """Only the loans that were taken back are returned."""
    world.until_lent()
    taken = world.loans.out()
    world.ask(SECOND)
    world.loans.returned(taken)
    assert [loan.part for loan in world.loans.out()] == [SECOND]


def test_no_more_threads_are_remembered_than_need_be(world: World) -> None:
    """The one that asked longest ago is forgotten."""
    for _ in range(REFUSALS):
        world.ask()
    for thread in range(100, 100 + THREADS):
        world.ask(thread=thread)
    assert not world.ask()


def test_parts_that_touch_are_dropped_in_one_go() -> None:
    """Of each region apart."""
    parts = [(2, 0, 4), (1, 4, 8), (1, 0, 4), (1, 16, 20), (1, 2, 6)]
    loans = [Loan(THREAD, MLOCK, ino, Range(start, end), 0.0, LONGEST) for ino, start, end in parts]
    assert merged(loans) == [(1, Range(0, 8)), (1, Range(16, 20)), (2, Range(0, 4))]
