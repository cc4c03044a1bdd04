"""What a server leaves of the requests that it has read, where the kernel keeps nothing."""

from __future__ import annotations

import pytest

from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import decode_header
from msharefs.fuse.outstanding import AREA_SIZE, SLOT_SIZE, SLOTS, KeptInFile
from tests.unit.support.planes import message, reply

RESENT = 1 << 63


@pytest.fixture
def area() -> memoryview:
    """Memory that outlives a process, with nothing in it."""
    return memoryview(bytearray(AREA_SIZE))


def left(area: memoryview) -> list[int]:
    """The numbers of the requests that the next process would find."""
    found = KeptInFile(area).recover()
    assert all(decode_header(request).unique & RESENT for request in found)
    return [decode_header(request).unique & ~RESENT for request in found]


def read(kept: KeptInFile, request: bytes) -> memoryview:
    """As the switchboard reads."""
    kept.before_read()
    kept.buffer[: len(request)] = request
    return memoryview(kept.buffer)[: len(request)]


def test_what_was_just_read_is_there(area: memoryview) -> None:
    """Until its answer, or the next read."""
    kept = KeptInFile(area)
    read(kept, message(Opcode.OPEN, unique=6))
    assert left(area) == [6]
    kept.before_read()
    assert left(area) == []
    read(kept, message(Opcode.WRITE, unique=8))
    kept.answered(reply(6))
    assert left(area) == [8]
    kept.answered(reply(8))
    assert left(area) == []


def test_what_is_kept_is_there_until_it_is_answered(area: memoryview) -> None:
    """Once, though the buffer holds it, too; the oldest first."""
    kept = KeptInFile(area)
    for unique in (8, 6):
        kept.keep(read(kept, message(Opcode.IOCTL, b"body", unique=unique)))
    assert left(area) == [6, 8]
    kept.answered(reply(6))
    kept.before_read()
    assert left(area) == [8]
    assert KeptInFile(area).recover() == (message(Opcode.IOCTL, b"body", unique=RESENT | 8),)


def test_the_next_process_keeps_it_in_its_place(area: memoryview) -> None:
    """It may die as well, before and after it keeps the request again."""
    kept = KeptInFile(area)
    kept.keep(read(kept, message(Opcode.IOCTL, unique=6)))
    kept.before_read()
    for _ in range(2 * SLOTS):
        kept = KeptInFile(area)
        (request,) = kept.recover()
        kept.keep(memoryview(request))
        assert left(area) == [6]
    assert kept.as_asked(reply(RESENT | 6, b"x")) == reply(6, b"x")
    kept.answered(reply(6))
    assert left(area) == []


def test_what_needs_no_answer_is_not_done_again(area: memoryview) -> None:
    """A FORGET that was taken twice would count twice."""
    read(KeptInFile(area), message(Opcode.FORGET, unique=6))
    assert left(area) == []


def test_what_fits_nowhere_is_not_kept(area: memoryview) -> None:
    """More than there are slots, or larger than one; the others are whole."""
    kept = KeptInFile(area)
    kept.keep(read(kept, message(Opcode.SETXATTR, bytes(SLOT_SIZE), unique=2)))
    for unique in range(4, 4 + 2 * (SLOTS + 10), 2):
        kept.keep(read(kept, message(Opcode.IOCTL, unique=unique)))
    kept.before_read()
    assert left(area) == list(range(4, 4 + 2 * SLOTS, 2))
