"""Whose request is served next: a user's turn comes, however many another has waiting."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from msharefs.fuse import turns as turns_module
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import decode_header
from msharefs.fuse.outstanding import AREA_SIZE, SLOT_SIZE, KeptInFile, ResentByKernel
from msharefs.fuse.turns import Turns
from tests.unit.support.devices import KernelEnd, connected

ALICE, BOB, CAROL = 1001, 1002, 1003
ROOT = 0
RESENT = 1 << 63


@pytest.fixture
def kernel() -> Iterator[KernelEnd]:
    """The kernel's end of a device."""
    with connected() as end:
        end.device.set_blocking(False)
        yield end


@pytest.fixture
def turns(kernel: KernelEnd) -> Turns:
    """The requests of that device."""
    return Turns(kernel.device, ResentByKernel(kernel.device))


def ask(
    kernel: KernelEnd, user: int, *numbers: int, pid: int = 7, size: int = 0, op: int = Opcode.OPEN
) -> None:
    """Requests of a user, with these numbers; their length tells nothing else."""
    for number in numbers:
        header = struct.pack("<IIQQIIIHH", 40 + size, op, number, 1, user, user, pid, 0, 0)
        kernel.send(header + bytes(size))


def served(turns: Turns, most: int = 1000) -> list[int]:
    """The numbers of the next requests, in the order of their turns."""
    found: list[int] = []
    while len(found) < most and (message := turns.next()) is not None:
        found.append(decode_header(message).unique)
    return found


def test_one_user_is_served_in_order(kernel: KernelEnd, turns: Turns) -> None:
    """Of however many processes; then there is nothing more."""
    ask(kernel, ALICE, *range(2, 40, 2))
    assert served(turns) == [*range(2, 40, 2)]
    assert turns.next() is None
    ask(kernel, ALICE, 50)
    assert served(turns) == [50]


def test_who_comes_last_is_served_next(kernel: KernelEnd, turns: Turns) -> None:
    """The request that is being served is in front of his, and no other."""
    ask(kernel, ALICE, *range(10, 26))
    assert served(turns, 1) == [10]
    ask(kernel, BOB, 99)
    assert served(turns, 2) == [99, 11]


def test_users_take_turns(kernel: KernelEnd, turns: Turns) -> None:
    """And each keeps his own order; what one does not use the others have."""
    ask(kernel, ALICE, 10, 11, 12, 13)
    ask(kernel, BOB, 20, 21)
    ask(kernel, CAROL, 30)
    assert served(turns) == [10, 30, 20, 11, 21, 12, 13]


def test_nobody_who_asks_again_at_once_is_always_first(kernel: KernelEnd, turns: Turns) -> None:
    """Two who ask one by one leave a third, who has many, his turns."""
    ask(kernel, ALICE, *range(10, 20))
    order = served(turns, 1)
    for number in range(30):
        ask(kernel, (BOB, CAROL)[number % 2], 100 + number)
        order += served(turns, 1)
    assert sum(number < 100 for number in order) == 10
    assert [number for number in order if number < 100] == [*range(10, 20)]


def test_root_is_a_user_too(kernel: KernelEnd, turns: Turns) -> None:
    """Sixteen processes of root's hold up nobody, nor he them."""
    ask(kernel, ROOT, 10, 11, 12)
    ask(kernel, ALICE, 20, 21, 22)
    assert served(turns) == [10, 20, 11, 21, 12, 22]


def test_what_the_kernel_sends_on_its_own_waits_for_no_turn(
    kernel: KernelEnd, turns: Turns
) -> None:
    """What RELEASE and FORGET set free may be needed by the request behind them."""
    ask(kernel, ALICE, 10, 11, 12)
    ask(kernel, 0, 90, pid=0, op=Opcode.RELEASE)
    ask(kernel, ALICE, 13)
    assert served(turns) == [10, 90, 11, 12, 13]


def test_what_is_sent_again_waits_for_no_turn(kernel: KernelEnd, turns: Turns) -> None:
    """It comes before all that is new, and a server tells the two apart by their order."""
    ask(kernel, ALICE, RESENT | 10, RESENT | 11)
    ask(kernel, BOB, RESENT | 20)
    ask(kernel, BOB, 21)
    assert served(turns) == [RESENT | 10, RESENT | 11, RESENT | 20, 21]


def test_what_is_long_is_not_copied(kernel: KernelEnd, turns: Turns) -> None:
    """Nor has it room where requests are kept for the next server."""
    ask(kernel, ALICE, 10, 11)
    ask(kernel, ALICE, 12, size=SLOT_SIZE)
    ask(kernel, ALICE, 13)
    assert served(turns) == [10, 12, 11, 13]


def test_what_waits_is_each_request_whole(kernel: KernelEnd, turns: Turns) -> None:
    """The buffer is used for those behind it."""
    for number in range(5):
        ask(kernel, ALICE, number, size=number)
    assert [len(turns.next() or b"") for _ in range(5)] == [40, 41, 42, 43, 44]


def test_so_many_wait_here_and_no_more(
    kernel: KernelEnd, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest waits in the kernel, and nothing is lost."""
    monkeypatch.setattr(turns_module, "MOST", 4)
    ask(kernel, ALICE, *range(10, 20))
    order = served(turns, 2)
    assert len(turns) == 3
    ask(kernel, BOB, 99)
    order += served(turns)
    assert sorted(order) == [*range(10, 20), 99]
    assert len(turns) == 0


def test_who_is_alone_is_looked_for_once(kernel: KernelEnd, turns: Turns) -> None:
    """One read a request and one that finds nothing, as without turns; RELEASE changes nothing."""
    for number in range(10):
        ask(kernel, 0, 100 + number, pid=0, op=Opcode.RELEASE)
        ask(kernel, ALICE, number)
        before = kernel.device.looks
        assert served(turns, 2) == [100 + number, number]
        assert kernel.device.looks == before + 2
        assert turns.next() is None


def test_a_torn_request_waits_for_no_turn(kernel: KernelEnd, turns: Turns) -> None:
    """Nobody can be told from it."""
    ask(kernel, ALICE, 10, 11)
    kernel.send(b"torn")
    assert decode_header(turns.next() or b"").unique == 10
    assert bytes(turns.next() or b"") == b"torn"
    assert served(turns) == [11]


def test_the_next_server_finds_what_waited(kernel: KernelEnd) -> None:
    """Also where the kernel does not send it again; and it is forgotten once it is answered."""
    area = memoryview(bytearray(AREA_SIZE))
    kept = KeptInFile(area)
    turns = Turns(kernel.device, kept)
    ask(kernel, ALICE, 10, 11, 12)
    served(turns, 2)
    found = [decode_header(message).unique for message in KeptInFile(area).recover()]
    # The first one was answered before the next was read, or its handler has kept it.
    assert found == [RESENT | 11, RESENT | 12]
    kept.answered(struct.pack("<IiQ", 16, 0, 11))
    found = [decode_header(message).unique for message in KeptInFile(area).recover()]
    assert found == [RESENT | 12]
