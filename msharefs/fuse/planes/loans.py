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

REFUSALS = 8
"""So often a page is refused to a thread in a row. A touch, or a call that can fail, asks up to
three times for one, and ends; who populates asks again."""
REFUSALS_UNSEEN = 1000
"""The same of a thread whose system call we may not see: touches of one page in a row could look
like it, from a handler of SIGBUS that goes back."""
GRACE = 0.02
"""Seconds. An unseen thread that asks again within them is still in the same system call."""
THREADS = 1024
"""How many are remembered."""
LONGEST = 0.001
"""Seconds of a loan, and so much more each time that the same page is asked for again: it had
gone before the thread had run."""
LONGEST_AGAIN = 0.05
LOOK = 20e-6
"""Seconds between looks at whether a thread has gone on."""

UNSEEN = "unseen"
"""Stands for the system call of a thread whose call we may not see."""


@dataclass(slots=True)
class _Asked:
    """What a thread asked for last, how often in a row, and the system call, if it populates."""

    place: tuple[int, Range]
    times: int
    call: str
    at: float


@dataclass(frozen=True, slots=True)
class Loan:
    """Pages of zeros in a hole, lent to a thread in a system call, until `due` at the latest."""

    thread: int
    call: str
    ino: int
    part: Range
    due: float


class Loans:
    """Who populates, and what is lent.

    `call_of` gives the system call by which a thread makes pages present, "" if it does not,
    None where that cannot be seen.
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
        self._asked: OrderedDict[int, _Asked] = OrderedDict()
        self._out: list[Loan] = []

    def ask(self, thread: int, ino: int, wanted: Range, dropped: Range) -> bool:
        """A thread asks for what is in a hole of the region `ino`. Whether it is lent; `dropped`
        is what is to be taken back for it."""
        before = self._asked.pop(thread, None)
        asked = _Asked((ino, wanted), 1, "", self._now())
        if before is not None:
            if before.place == asked.place:
                asked.times += before.times
            asked.call = self._populating_call(thread, before, asked)
        self._asked[thread] = asked
        if len(self._asked) > THREADS:
            self._asked.popitem(last=False)
        if not asked.call:
            return False
        due = asked.at + min(LONGEST * asked.times, LONGEST_AGAIN)
        self._out.append(Loan(thread, asked.call, ino, dropped, due))
        return True

    def out(self, ino: int | None = None) -> list[Loan]:
        """What is lent, in a region or in all, the oldest first."""
        return [loan for loan in self._out if ino in (None, loan.ino)]

    def wait_for_end(self, loan: Loan) -> None:
        """Until its thread has left the system call, or the loan is due. In a worker thread."""
        while self._now() < loan.due and (
            loan.call == UNSEEN or self._call_of(loan.thread) == loan.call
        ):
            self._sleep(LOOK)

    def returned(self, loans: Sequence[Loan]) -> None:
        """The oldest of `out`, which were taken back."""
        del self._out[: len(loans)]

    def _populating_call(self, thread: int, before: _Asked, asked: _Asked) -> str:
        """The system call for which pages are lent, "" for none."""
        if not before.call and asked.times <= REFUSALS:
            return ""
        call = self._call_of(thread)
        if call is None:
            known = before.call == UNSEEN and asked.at - before.at < GRACE
            return UNSEEN if known or asked.times > REFUSALS_UNSEEN else ""
        return call if call == before.call or asked.times > REFUSALS else ""


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
