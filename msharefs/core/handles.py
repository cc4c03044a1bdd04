"""How many handles each region has open, in memory that outlives the process; which way it is reached
while it has any; how often its mappings were changed, which is too often for the journal; and the last
inode number.

Owns the layout of that memory: a record of the last handle, the last inode number, then
the counts by slot. The record makes a change exactly once of a request that the kernel sends again: it is
written first, and finished when the counts are opened after a crash.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from msharefs.core.errors import NoRoom
from msharefs.core.ways import Way

_RECORD = struct.Struct("=QII")
_COUNT = struct.Struct("=I")
_CHANGES = struct.Struct("=II")
_COUNTS = struct.Struct("=III")
_SLOT = _COUNTS.size
_LAST_INO = struct.Struct("=Q")
_LAST_INO_PLACE = _RECORD.size
_FIRST = 32
_WAY_SHIFT = 30
"""The way is in the upper bits of the count, so that both change at once."""
_COUNT_MASK = (1 << _WAY_SHIFT) - 1
SLOTS_AT_FIRST = 1024


class HandleCounts:
    """Counts by slot, over a buffer that `resize` (bytes -> buffer, or OSError) gives and keeps."""

    def __init__(self, resize: Callable[[int], memoryview], size: int) -> None:
        """`size` is how many bytes there are already, 0 for none."""
        self._resize = resize
        self._buffer = resize(max(size, _FIRST + SLOTS_AT_FIRST * _SLOT))
        self._free: list[int] = []
        self._next = 0
        self._last_request, slot, count = _RECORD.unpack_from(self._buffer)
        if self._last_request:
            _COUNT.pack_into(self._buffer, _place(slot), count)

    def open(self, used: set[int]) -> None:
        """These slots belong to regions; all others are free."""
        self._next = max(used, default=-1) + 1
        self._free = [slot for slot in range(self._next) if slot not in used]
        self._grow(self._next)

    def have_room(self) -> None:
        """Let there be a slot more, if there is none that is free. Raises NoRoom."""
        if not self._free:
            self._grow(self._next + 1)

    def new_slot(self) -> int:
        """A slot with count 0. Raises NoRoom, but not after `have_room`."""
        self.have_room()
        if self._free:
            slot = self._free.pop()
        else:
            slot = self._next
            self._next += 1
        # The record may be of this slot and its earlier region; it must not bring that back.
        self.set(slot, 0, self._last_request)
        self.set_changes(slot, 0, 0)
        return slot

    def free_slot(self, slot: int) -> None:
        """The slot's region is gone."""
        self._free.append(slot)

    def counts(self) -> list[tuple[int, int, int]]:
        """By slot: how many handles its region has, and how many CREATE_MAPPINGs and UNMAPs it
        has seen."""
        return [(word & _COUNT_MASK, maps, unmaps) for word, maps, unmaps in self._slots()]

    def ways(self) -> dict[int, Way]:
        """By slot: how its region is reached, where that is not Way.OPEN."""
        words = enumerate(word >> _WAY_SHIFT for word, _maps, _unmaps in self._slots())
        return {slot: Way(way) for slot, way in words if way}

    def set(self, slot: int, count: int, unique: int, way: Way = Way.OPEN) -> None:
        """Set count and way on behalf of the request `unique`."""
        self._last_request = unique
        word = count | way << _WAY_SHIFT
        _RECORD.pack_into(self._buffer, 0, unique, slot, word)
        _COUNT.pack_into(self._buffer, _place(slot), word)

    def set_way(self, slot: int, way: Way) -> None:
        """Set the way alone, for no request. The record may be of this slot: it must not bring the
        way before back."""
        self.set(slot, self._word(slot) & _COUNT_MASK, self._last_request, way)

    def set_changes(self, slot: int, maps: int, unmaps: int) -> None:
        """Keep these two; they wrap at 32 bits."""
        mask = 0xFFFFFFFF
        _CHANGES.pack_into(self._buffer, _place(slot) + _COUNT.size, maps & mask, unmaps & mask)

    @property
    def last_ino(self) -> int:
        """The greatest inode number that was ever given, so that none is given twice."""
        last: int = _LAST_INO.unpack_from(self._buffer, _LAST_INO_PLACE)[0]
        return last

    @last_ino.setter
    def last_ino(self, ino: int) -> None:
        _LAST_INO.pack_into(self._buffer, _LAST_INO_PLACE, ino)

    def _slots(self) -> Iterator[tuple[int, ...]]:
        slots = (len(self._buffer) - _FIRST) // _SLOT
        return _COUNTS.iter_unpack(self._buffer[_FIRST : _place(slots)])

    def _word(self, slot: int) -> int:
        word: int = _COUNT.unpack_from(self._buffer, _place(slot))[0]
        return word

    def _grow(self, slots: int) -> None:
        """Until there is room for so many slots. Raises NoRoom."""
        size = len(self._buffer)
        while _place(slots) > size:
            size *= 2
        if size > len(self._buffer):
            try:
                self._buffer = self._resize(size)
            except OSError as cause:
                raise NoRoom(f"no room for the counts of handles: {cause}") from cause

    def was_applied(self, unique: int) -> bool:
        """Whether the request was the last that changed a count."""
        return unique != 0 and unique == self._last_request

    def forget_request(self) -> None:
        """The connection whose requests these were is gone."""
        self._last_request = 0
        _RECORD.pack_into(self._buffer, 0, 0, 0, 0)


def _place(slot: int) -> int:
    return _FIRST + slot * _SLOT
