"""The tail of the journal: its last changes, one behind the other in memory that outlives the process.

Owns that memory's layout, and that a record is there as a whole or not at all, whenever the process
is killed. To add one costs a copy, where a transaction of sqlite costs several system calls; so
changes gather here and sqlite gets many at once. What is in a record is not known here.

The memory begins with two words, the mark of a tail and the number of the journal that it is
of. The records follow, each a word with its length and its checksum, and then its bytes, up to the next
word. A word of 0 is the end. The word is written last, when the bytes and the 0 behind them are there.
"""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

SIZE = 64 << 10
"""Bytes. A longer one would be moved to sqlite less often, and hold up requests for longer then."""
_WORD = 8
_MARK = int.from_bytes(b"mshrTail", "little")
_FIRST = 2
_LENGTH = (1 << 32) - 1


class TailError(Exception):
    """It is torn, or of another journal; the text says which."""


class Tail:
    """The records since the last `clear`."""

    def __init__(self, memory: memoryview, journal: int) -> None:
        """`memory` is SIZE bytes, zeros for a new one, `journal` the number of the journal, not 0. Raises
        TailError."""
        self._bytes = memory
        self._words = memory.cast("Q")
        if self._words[0] == 0:
            self._words[1] = journal
            self._words[0] = _MARK
        if self._words[0] != _MARK:
            raise TailError("no tail of a journal")
        if self._words[1] != journal:
            raise TailError("the tail of another journal")
        self._end = _FIRST
        for record in self._read():
            self._end += 1 + _words_of(len(record))

    def append(self, record: bytes | bytearray) -> bool:
        """Add a record, which is not lost from here on. Returns False where it has no room."""
        start, length = self._end + 1, len(record)
        end = start + _words_of(length)
        if end >= len(self._words):
            return False
        self._bytes[start * _WORD : start * _WORD + length] = record
        self._words[end] = 0
        # One store of the processor.
        self._words[self._end] = crc32(record) << 32 | length
        self._end = end
        return True

    def records(self) -> Iterator[bytes]:
        """In the order in which they were added."""
        return self._read()

    def clear(self) -> None:
        """Somebody else has them."""
        self._words[_FIRST] = 0
        self._end = _FIRST

    def _read(self) -> Iterator[bytes]:
        place = _FIRST
        while word := self._words[place]:
            length, start = word & _LENGTH, (place + 1) * _WORD
            place += 1 + _words_of(length)
            record = bytes(self._bytes[start : start + length])
            if place >= len(self._words) or crc32(record) != word >> 32:
                raise TailError("a torn tail of a journal")
            yield record


def _words_of(length: int) -> int:
    return -(-length // _WORD)
