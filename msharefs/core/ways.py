"""Which way a region is reached: by plain mmap of its file, or by its segment itself.

Owns the table of that. A plain mmap is a copy in the kernel's page cache, so that a region which is
reached both ways would have contents of two kinds. First come, region by region: the first touch
makes it plain, the first client that attaches the segment makes it direct, and the last handle ends both,
because either client has the region's file open. And to whom a mount gives segments at all. It knows
neither regions nor where a way is kept.
"""

from __future__ import annotations

from enum import Enum, IntEnum


class Giving(Enum):
    """Who of those that have a region open may make it direct, in the words of the status."""

    NOBODY = "nobody"
    CLAIMANTS = "claimants"
    """Who claims the region for this way, and has it for himself so far. Nobody else on such a mount need
    know that there is one: all that he does with plain mmap works as if there were none."""
    ANYBODY = "anybody"


class Way(IntEnum):
    """How a region is reached now. The numbers are kept beside the counts of handles."""

    OPEN = 0
    """Nobody has reached it since it was opened."""
    PLAIN = 1
    DIRECT = 2
    LEFT = 3
    """Direct for good: an earlier mount has ended under its clients, which may have the segment
    mapped for as long as they live, and no handle tells of them."""

    @property
    def is_direct(self) -> bool:
        """Whether clients may have the segment itself."""
        return self in (Way.DIRECT, Way.LEFT)

    @property
    def when_touched(self) -> Way:
        """After a page fault was answered; a direct one must not be."""
        return Way.PLAIN if self is Way.OPEN else self

    @property
    def when_attached(self) -> Way:
        """After a client has got the segment; that of a plain one must not be given."""
        return Way.DIRECT if self is Way.OPEN else self

    @property
    def when_closed(self) -> Way:
        """After the last handle."""
        return Way.LEFT if self is Way.LEFT else Way.OPEN

    @property
    def when_mounted_again(self) -> Way:
        """After the end of a connection whose handles were not closed."""
        return Way.LEFT if self.is_direct else Way.OPEN
