"""Which requests were in service at how many deaths, over memory that outlives the servers."""

from __future__ import annotations

import errno

import pytest

from msharefs.core.errors import ServersEnded
from msharefs.fuse.in_service import (
    AREA_SIZE,
    NOTHING,
    SUSPECTS,
    WORKERS,
    Cause,
    InService,
    Suspicion,
)

RESENT = 1 << 63
FAILED, KILLED, MEMORY = Cause.FAILURE, Cause.KILLED, Cause.MEMORY


@pytest.fixture
def area() -> memoryview:
    """What outlives a server."""
    return memoryview(bytearray(AREA_SIZE))


def first(area: memoryview) -> InService:
    """The first server of a connection."""
    return InService(area, Cause.NONE)


def after(area: memoryview, cause: Cause = FAILED) -> InService:
    """The next server, the last having ended for a `cause`."""
    return InService(area, cause)


def suspects(server: InService, *uniques: int) -> list[int]:
    """At how many deaths each of these was in service."""
    return [server.suspicion(unique).deaths for unique in uniques]


def test_what_the_loop_serves_is_suspect(area: memoryview) -> None:
    """The one that was begun last, marked or not; nobody else."""
    server = first(area)
    server.begin(2)
    server.begin(4)
    assert not server.careful
    server = after(area)
    assert server.careful
    assert suspects(server, 2, 4, 6, RESENT | 4) == [0, 1, 0, 1]


def test_what_is_worked_on_besides_is_suspect(area: memoryview) -> None:
    """Several at once, until each has ended; and the one that was forwarded."""
    server = first(area)
    places = {unique: server.begin_later(unique) for unique in (2, 4, 6)}
    server.end_later(places[4])
    server.begin_later(8)
    server.forwarded(10)
    server.forwarded(12)
    assert suspects(after(area), 2, 4, 6, 8, 10, 12) == [1, 0, 1, 1, 0, 1]


def test_a_server_that_makes_room_accuses_nobody(area: memoryview) -> None:
    """It had answered all."""
    first(area).begin(2)
    assert suspects(after(area, Cause.NONE), 2) == [0]


@pytest.mark.parametrize(
    ("causes", "proved"),
    [
        ([FAILED], False),
        ([MEMORY], False),
        ([KILLED], False),
        ([KILLED, KILLED], False),
        ([FAILED, KILLED], False),
        ([FAILED, FAILED], True),
        ([FAILED, MEMORY], True),
        ([KILLED, FAILED, KILLED], True),
        ([KILLED, KILLED, KILLED], True),
    ],
)
def test_when_it_is_proved(area: memoryview, causes: list[Cause], proved: bool) -> None:
    """Two servers that failed, or three that ended: who kills from outside accuses less."""
    server = first(area)
    for cause in causes:
        server.begin(RESENT | 2)
        server = after(area, cause)
    assert server.suspicion(2).proved is proved


def test_memory_is_remembered(area: memoryview) -> None:
    """One death for want of memory says what the reason is."""
    server = first(area)
    for cause in (MEMORY, FAILED):
        server.begin(2)
        server = after(area, cause)
    assert server.suspicion(2) == Suspicion(2, 2, memory=True)


def test_one_that_waits_is_not_accused_any_more(area: memoryview) -> None:
    """It was in service at one death, and has not had its turn at the next ones."""
    server = first(area)
    server.begin_later(2)
    server.begin_later(4)
    for deaths in (1, 2, 3):
        server = after(area)
        assert suspects(server, 2, 4) == [deaths, 1]
        server.begin_later(2)


def test_a_server_that_dies_at_once_counts_nothing_twice(area: memoryview) -> None:
    """However many start in between."""
    first(area).begin(2)
    servers = [after(area) for _ in range(4)]
    assert [suspects(server, 2) for server in servers] == [[1]] * 4


@pytest.mark.parametrize("torn", [0, 1])
def test_a_server_that_dies_while_it_judges_counts_nothing(area: memoryview, torn: int) -> None:
    """Its half is not in effect yet."""
    first(area).begin(2)
    before = bytes(area)
    after(area)
    # All but the word that says which half counts; with `torn` not even all of it.
    written = bytes(area)
    area[8:] = written[8:] if not torn else written[8 : AREA_SIZE // 2] + before[AREA_SIZE // 2 :]
    area[:8] = before[:8]
    assert suspects(after(area), 2) == [1]


def test_it_is_careful_until_all_suspects_are_answered(area: memoryview) -> None:
    """Also of those that do not come, because they had been answered."""
    server = first(area)
    for unique in (2, 4, 6):
        server.begin_later(unique)
    server = after(area)
    states = [(bool(server.expected), server.careful)]
    suspects(server, 2, 4)
    server.all_came()
    for unique in (400, RESENT | 2, 4):
        server.answered(unique)
        states.append((bool(server.expected), server.careful))
    assert states == [(True, True), (False, True), (False, True), (False, False)]
    assert server.suspicion(6) is NOTHING


def test_more_than_there_is_room_for(area: memoryview) -> None:
    """Some are not remembered; none takes another's place."""
    server = first(area)
    places = [server.begin_later(unique) for unique in range(2, 2 + WORKERS + 10)]
    server.end_later(places[-1])
    server.end_later(places[0])
    server.begin_later(7000)
    server = after(area)
    assert suspects(server, 2, 3, 1 + WORKERS, 7000) == [0, 1, 1, 1]


def test_there_is_room_again(area: memoryview) -> None:
    """Once those are over that were too many."""
    server = first(area)
    for place in [server.begin_later(unique) for unique in range(2, 2 + WORKERS + 10)]:
        server.end_later(place)
    for unique in range(5000, 5020):
        server.begin_later(unique)
    assert suspects(after(area), *range(5000, 5020)) == [1] * 20


def test_the_most_suspect_are_remembered(area: memoryview) -> None:
    """Where there are more than room is for."""
    server = first(area)
    server.begin(2)
    server = after(area)
    for start in (10_000, 20_000, 30_000):
        server.begin(2)
        for unique in range(start, start + WORKERS):
            server.begin_later(unique)
        server = after(area)
    assert suspects(server, 2) == [4]
    known = [unique for unique in range(10_000, 31_024) if server.suspicion(unique).deaths]
    assert len(known) == SUSPECTS - 1


def test_the_errno_says_why() -> None:
    """ENOMEM where memory is the reason, else EIO; the sentence says how many."""
    for memory, code in ((True, errno.ENOMEM), (False, errno.EIO)):
        error = ServersEnded(2, for_memory=memory)
        assert error.errno == code
        assert "2 servers" in str(error)
        assert ("memory" in str(error)) is memory
