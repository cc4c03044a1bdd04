"""Requests that are being served, in memory that outlives the server: none ends one again and again.

Owns the memory's layout, at how many servers' deaths a request was in service, and from when on it
is not served any more. Knows nothing of what requests ask. A server that is killed from outside
proves nothing against a request, unless it happens too often: what watches over memory (systemd-oomd,
for example) kills from outside, too.

The memory has two halves, of which one is in effect: a server that starts judges by the one,
writes the other, and then says that this is in effect, so that its own death at any moment
counts nothing twice.
"""

from __future__ import annotations

from enum import Enum
from itertools import islice
from typing import NamedTuple

from msharefs.fuse.kernel import FUSE_UNIQUE_RESEND

FAILURES = 2
"""A request that was in service when so many servers failed is not served again."""
DEATHS = 3
"""Nor one when so many ended in any way."""
WORKERS = 1024
SUSPECTS = 2048
"""Requests that are answered later, and suspects, as many as are remembered."""

_LOOP, _FORWARDED, _WORKERS = 0, 1, 2
_LEFT_OUT = _WORKERS + WORKERS
_SUSPECTS = _LEFT_OUT + 1
_HALF = _SUSPECTS + 2 * SUSPECTS
_WORD = 8
AREA_SIZE = _WORD * (1 + 2 * _HALF)


class Cause(Enum):
    """Why the server before has ended."""

    NONE = "none"  # There was none, or it made room for this one.
    KILLED = "killed"  # By somebody.
    MEMORY = "memory"  # By the kernel, for want of memory.
    FAILURE = "failure"  # By itself.


class Suspicion(NamedTuple):
    """What speaks against a request: servers that ended while it was in service, those of them
    that failed or ran out of memory, and whether one ran out of memory."""

    deaths: int
    failures: int
    memory: bool

    @property
    def proved(self) -> bool:
        """Whether it must not be served again."""
        return self.failures >= FAILURES or self.deaths >= DEATHS


NOTHING = Suspicion(0, 0, memory=False)


class InService:
    """What this server works on. A request has the same number with and without the mark that it
    is sent again."""

    def __init__(self, area: memoryview, cause: Cause) -> None:
        """`area` is AREA_SIZE bytes, mapped shared: zeros on a new connection, else what the
        server before left there, which ended for `cause`."""
        self._words = area.cast("Q")
        which = self._words[0] & 1
        found = self._suspects_in(1 + which * _HALF, cause)
        self._suspects = dict(islice(found.items(), SUSPECTS))
        self.expected = set(self._suspects)
        """Suspects that may come and have not come yet. Looked at for every request."""
        self._base = 1 + (1 - which) * _HALF
        self._write_half()
        self._words[0] = 1 - which
        self._loop = self._base + _LOOP
        self._free = list(range(self._base + _WORKERS, self._base + _LEFT_OUT))

    @property
    def careful(self) -> bool:
        """Whether there are suspects: what is answered later is served one by one then, so
        that the next death accuses only one of them."""
        return bool(self._suspects)

    def begin(self, unique: int) -> None:
        """The loop serves this one now; with the one before it is done. On the path of every
        request."""
        self._words[self._loop] = unique

    def forwarded(self, unique: int) -> None:
        """pyfuse3, which runs in the same loop, works on this request; 0 for none."""
        self._words[self._base + _FORWARDED] = unique

    def begin_later(self, unique: int) -> int:
        """A task or thread of its own works on this request from now on. Returns the place that
        `end_later` takes."""
        place = self._free.pop() if self._free else self._base + _LEFT_OUT
        self._words[place] = unique
        return place

    def end_later(self, place: int) -> None:
        """The work that `begin_later` gave this place to is done."""
        self._words[place] = 0
        if place != self._base + _LEFT_OUT:
            self._free.append(place)

    def suspicion(self, unique: int) -> Suspicion:
        """What speaks against a request that is sent again."""
        number = _unmarked(unique)
        self.expected.discard(number)
        return self._suspects.get(number, NOTHING)

    def all_came(self) -> None:
        """Something new has come, so all that is sent again has come before it: what is still
        expected was answered before the last server died, and is no suspect."""
        for number in self.expected:
            del self._suspects[number]
        self.expected.clear()

    def answered(self, unique: int) -> None:
        """The kernel has the answer."""
        self._suspects.pop(_unmarked(unique), None)

    def _suspects_in(self, base: int, cause: Cause) -> dict[int, Suspicion]:
        """Those of an earlier server, the most suspect first, after its death."""
        words = self._words
        suspects: dict[int, Suspicion] = {}
        for place in range(base + _SUSPECTS, base + _HALF, 2):
            if words[place]:
                suspects[words[place]] = _unpacked(words[place + 1])
        if cause is not Cause.NONE:
            for number in {_unmarked(word) for word in words[base : base + _LEFT_OUT]} - {0}:
                deaths, failures, memory = suspects.get(number, NOTHING)
                suspects[number] = Suspicion(
                    deaths + 1,
                    failures + (cause is not Cause.KILLED),
                    memory=memory or cause is Cause.MEMORY,
                )
        return dict(sorted(suspects.items(), key=lambda item: item[1], reverse=True))

    def _write_half(self) -> None:
        """Nothing in service, and these suspects."""
        end = self._base + _HALF
        self._words[self._base : end] = memoryview(bytes(_WORD * _HALF)).cast("Q")
        for place, (number, suspicion) in zip(
            range(self._base + _SUSPECTS, end, 2), self._suspects.items(), strict=False
        ):
            self._words[place] = number
            self._words[place + 1] = _packed(suspicion)


def _unmarked(unique: int) -> int:
    return unique & ~FUSE_UNIQUE_RESEND


def _packed(suspicion: Suspicion) -> int:
    return suspicion.deaths << 32 | suspicion.failures << 1 | suspicion.memory


def _unpacked(word: int) -> Suspicion:
    return Suspicion(word >> 32, word >> 1 & 0x7FFFFFFF, memory=bool(word & 1))
