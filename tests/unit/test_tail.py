"""The tail of a journal: records that are there as a whole or not at all."""

from __future__ import annotations

import pytest

from msharefs.core.tail import SIZE, Tail, TailError

JOURNAL = 7
HEAD = 16
"""Bytes before the first record."""


@pytest.fixture
def memory() -> memoryview:
    """What outlives the process."""
    return memoryview(bytearray(SIZE))


def found(memory: memoryview) -> list[bytes]:
    """What the next process finds."""
    return list(Tail(memory, JOURNAL).records())


def test_records_come_back_in_order(memory: memoryview) -> None:
    """Of any length, in the process that wrote them and in the next one."""
    tail = Tail(memory, JOURNAL)
    assert found(memory) == []
    records = [b"a", b"12345678", bytes(1000), b"123456789", b"\0" * 8]
    for record in records:
        assert tail.append(record)
    assert list(tail.records()) == records
    assert found(memory) == records
    assert Tail(memory, JOURNAL).append(b"later")
    assert found(memory) == [*records, b"later"]


def test_a_cleared_tail_is_empty(memory: memoryview) -> None:
    """And what was there does not come back behind shorter records."""
    tail = Tail(memory, JOURNAL)
    for number in range(100):
        tail.append(b"%08d" % number)
    tail.clear()
    assert found(memory) == []
    tail.append(b"new")
    assert found(memory) == [b"new"]


def test_a_record_that_has_no_room_changes_nothing(memory: memoryview) -> None:
    """All that was added before is there."""
    tail = Tail(memory, JOURNAL)
    count = 0
    while tail.append(b"%01000d" % count):
        count += 1
    assert SIZE - 2000 < count * 1008 < SIZE
    assert len(found(memory)) == count
    assert not tail.append(bytes(SIZE))
    tail.clear()
    assert tail.append(bytes(SIZE - HEAD - 16))
    assert found(memory) == [bytes(SIZE - HEAD - 16)]


def test_a_process_that_is_killed_while_it_adds_a_record(memory: memoryview) -> None:
    """Until the word before the record is written there is none, whatever part of the bytes is."""
    Tail(memory, JOURNAL).append(b"first")
    before = bytes(memory)
    tail = Tail(memory, JOURNAL)
    tail.append(b"x" * 100)
    after = bytes(memory)
    word = HEAD + 16
    changed = [place for place in range(SIZE) if before[place] != after[place]]
    for place in [*changed, SIZE]:
        memory[:] = before
        memory[word + 8 : place] = after[word + 8 : place]
        assert found(memory) == [b"first"]
    memory[:] = after
    assert found(memory) == [b"first", b"x" * 100]


def test_a_process_that_is_killed_while_it_makes_a_tail(memory: memoryview) -> None:
    """The next one makes it."""
    memory[8:16] = JOURNAL.to_bytes(8, "little")
    assert found(memory) == []


@pytest.mark.parametrize("place", [HEAD, HEAD + 4, HEAD + 8, HEAD + 20])
@pytest.mark.parametrize("value", [0x55, 0xFF])
def test_a_torn_tail_is_refused(memory: memoryview, place: int, value: int) -> None:
    """A length that leads nowhere, or bytes that are not what was written."""
    Tail(memory, JOURNAL).append(b"x" * 100)
    memory[place] = value
    with pytest.raises(TailError, match="torn"):
        Tail(memory, JOURNAL)


def test_a_length_beyond_the_end_is_torn(memory: memoryview) -> None:
    """However long."""
    for length in (SIZE, (1 << 32) - 1):
        Tail(memory, JOURNAL).clear()
        memory[HEAD : HEAD + 8] = length.to_bytes(8, "little")
        with pytest.raises(TailError, match="torn"):
            Tail(memory, JOURNAL)
        memory[HEAD : HEAD + 8] = bytes(8)


def test_another_journals_tail_is_refused(memory: memoryview) -> None:
    """Its records would be put into this one."""
    Tail(memory, JOURNAL).append(b"record")
    with pytest.raises(TailError, match="another journal"):
        Tail(memory, JOURNAL + 1)


def test_what_is_no_tail_is_refused(memory: memoryview) -> None:
    """Whatever it is."""
    memory[:12] = b"Dear diary, "
    with pytest.raises(TailError, match="no tail"):
        Tail(memory, JOURNAL)
