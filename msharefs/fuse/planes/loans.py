"""Zeros that are lent to who populates a hole: mlock, mlockall, MAP_POPULATE.

A touch of a hole is refused, and that is its end. Whoever makes all pages of a mapping present
cannot be refused: the kernel forgets the answer, because it let go of the address space for the
READ, and asks for the same page again, for ever (filemap_fault in mm/filemap.c gives
VM_FAULT_RETRY; __mm_populate in mm/gup.c begins anew). So it is lent zeros, which are taken back
as soon as it has gone on.

Owns how such a thread is told from one that touches, and what is lent to whom until when. It
knows neither the device nor regions.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from msharefs.core.layout import Range
from msharefs.linux.populate import RUNNING, UNSEEN

REFUSALS = 8
"""So often a page is refused to a thread in a row. A touch, or a call that can fail, asks up to
three times for one, and ends; who populates asks again."""
REFUSALS_CATCHING = 10_000
"""The same of a thread whose system call we may not see and which has a handler of SIGBUS: if that
goes back, its touches of one page look like it."""
REFUSALS_OF_A_TOUCH = 3
"""The same, of a page elsewhere, of an unseen thread that was lent one: it may have left its call."""
GRACE = 0.02
"""Seconds in which who is refused asks again at the latest, and in which an unseen thread is known."""
THREADS = 1024
"""How many are remembered."""
LONGEST = 0.001
"""Seconds of a loan, and so much more each time that the same page is asked for again: it had
gone before the thread had run."""
LONGEST_UNSEEN = 0.004
"""The same for a thread that cannot be seen waiting for a processor."""
LONGEST_AGAIN = 0.05
LOOK = 20e-6
"""Seconds between looks at whether a thread has gone on."""
RUNS = 0.2
"""The part of a loan that its thread may have been running at the looks. It maps what it was lent in a
few tens of microseconds, and then waits again or has left the call, which a running thread does not show."""


@dataclass(slots=True)
class Asked:
    """What a thread asked for last, how often in a row, the system call if it is known to populate,
    and whether it is lent this."""

    thread: int
    place: tuple[int, Range]
    times: int
    at: float
    call: str = ""
    lend: bool = False
    reached: int = -1
    """Where what was lent to it ends."""


@dataclass(frozen=True, slots=True)
class Loan:
    """Pages of zeros in a hole, lent to a thread in a system call, for so many `seconds` at most
    from `since` on."""

    thread: int
    call: str
    ino: int
    part: Range
    since: float
    seconds: float


class Loans:
    """Who populates, and what is lent.

    `call_of` gives the system call by which a thread makes pages present, "" if it does not,
    RUNNING if it does not wait; where that cannot be seen UNSEEN, or None for one that outlives SIGBUS.
    """

    def __init__(
        self,
        call_of: Callable[[int], str | None],
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._call_of = call_of
        self._now = now
        self._sleep = sleep
        self._asked: OrderedDict[int, Asked] = OrderedDict()
        self._out: list[Loan] = []

    def ask(self, thread: int, ino: int, wanted: Range) -> Asked | None:
        """A thread asks for what is in a hole of the region `ino`. With what it is lent, if it is
        to be lent; None if it is to be refused."""
        before = self._asked.pop(thread, None)
        asked = Asked(thread, (ino, wanted), 1, self._now())
        if before is not None:
            if before.place == asked.place and asked.at - before.at < GRACE:
                asked.times += before.times
            self._judge(before, asked)
            asked.reached = wanted.end if asked.lend else before.reached
        self._asked[thread] = asked
        if len(self._asked) > THREADS:
            self._asked.popitem(last=False)
        return asked if asked.lend else None

    def lend(self, asked: Asked, part: Range) -> None:
        """It is lent now; `part` is what is to be taken back."""
        longest = LONGEST_UNSEEN if asked.call == UNSEEN else LONGEST
        seconds = min(longest * asked.times, LONGEST_AGAIN)
        self._out.append(Loan(asked.thread, asked.call, asked.place[0], part, self._now(), seconds))

    def out(self, ino: int | None = None) -> list[Loan]:
        """What is lent, in a region or in all, the oldest first."""
        return [loan for loan in self._out if ino in (None, loan.ino)]

    def out_to(self, thread: int) -> list[Loan]:
        """What is lent to a thread."""
        return [loan for loan in self._out if loan.thread == thread]

    def wait_for_end(self, loan: Loan) -> None:
        """Until its thread has left the system call, or must have gone on, or it is due. In a worker
        thread."""
        seen_running = 0
        while self._now() < loan.since + loan.seconds:
            if loan.call != UNSEEN:
                call = self._call_of(loan.thread)
                seen_running += call == RUNNING
                if call not in (RUNNING, loan.call) or seen_running * LOOK > RUNS * loan.seconds:
                    return
            self._sleep(LOOK)

    def returned(self, loans: Sequence[Loan]) -> None:
        """These were taken back; some of them may have been before."""
        gone = set(map(id, loans))
        self._out = [loan for loan in self._out if id(loan) not in gone]

    def _goes_on(self, before: Asked, asked: Asked) -> bool:
        """Whether it asks for what follows on what it was lent: who has left the call and touches the
        hole hardly begins there."""
        ino, wanted = asked.place
        return (before.place[0], before.reached) == (ino, wanted.start)

    def _judge(self, before: Asked, asked: Asked) -> None:
        if not before.call and asked.times <= REFUSALS:
            return
        call = self._call_of(asked.thread)
        if call == RUNNING:
            # It reads ahead, and has not begun to wait for it.
            asked.call, asked.lend = before.call, bool(before.call)
        elif call is None or call == UNSEEN:
            known = before.call == UNSEEN and asked.at - before.at < GRACE
            most = REFUSALS if call == UNSEEN else REFUSALS_CATCHING
            if known:
                most = 0 if self._goes_on(before, asked) else REFUSALS_OF_A_TOUCH
            asked.lend = asked.times > most
            asked.call = UNSEEN if known or asked.lend else ""
        elif call and (call == before.call or asked.times > REFUSALS):
            asked.call, asked.lend = call, True


def merged(loans: Sequence[Loan]) -> list[tuple[int, Range]]:
    """What is lent, by inode number, in as few parts as there can be."""
    parts: list[tuple[int, Range]] = []
    for ino, start, end in sorted((loan.ino, loan.part.start, loan.part.end) for loan in loans):
        last_ino, last = parts[-1] if parts else (ino, Range(-1, -1))
        if last_ino == ino and start <= last.end:
            parts[-1] = (ino, Range(last.start, max(last.end, end)))
        else:
            parts.append((ino, Range(start, end)))
    return parts
