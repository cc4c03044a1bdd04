"""When a broker of files is there: from an order on, until nobody wants anything of it."""

from __future__ import annotations

import errno
import os
import select
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.daemon import on_demand
from msharefs.daemon.on_demand import PAUSE, OnDemand
from msharefs.files import broker, wire
from tests.helpers.waiting import eventually
from tests.unit.support.fakes import StillClock


@pytest.fixture
def clock() -> StillClock:
    """That of `process`."""
    return StillClock()


@pytest.fixture
def process(clock: StillClock) -> Iterator[OnDemand]:
    """As a supervisor has it."""
    made = OnDemand("broker of files", "msharefs.files.broker", clock=clock)
    yield made
    made.end()


def order(process: OnDemand, message: dict[str, int]) -> socket.socket:
    """What a server does. Returns its end of the conversation with the helper."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        with socket.socket(fileno=os.dup(process.orders)) as orders:
            wire.send(orders, message, [theirs.fileno()])
    return ours


def waits(process: OnDemand) -> bool:
    """Whether an order waits."""
    return bool(select.select([process], [], [], 0)[0])


def test_an_order_waits_for_a_broker(process: OnDemand) -> None:
    """It is taken by the one that is started for it."""
    assert process.is_missed()
    assert not waits(process)
    with order(process, {"uid": os.geteuid(), "writes": False}) as conversation:
        assert waits(process)
        process.start()
        assert not process.is_missed()
        message = {"have": {"thread": -1, "uid": 0, "gid": 0, "descriptor": 0}}
        wire.send(conversation, message)
        assert wire.receive(conversation)[0]["errno"] == errno.EBADF
    assert not waits(process)


def test_a_number_that_is_somebody_elses_by_now(process: OnDemand) -> None:
    """Whoever has it has not what the kernel said of the caller, and nothing of his is read; nobody
    at all may have it."""
    ended = os.fork()
    if ended == 0:
        os._exit(0)
    os.waitpid(ended, 0)
    uid, gid = os.geteuid(), os.getegid()
    for thread, user, group, code in (
        (os.getpid(), uid + 1, gid, errno.EBADF),
        (os.getpid(), uid, gid + 1, errno.EBADF),
        (ended, uid, gid, errno.ESRCH),
    ):
        with order(process, {"uid": user, "writes": False}) as conversation:
            if process.is_missed():
                process.start()
            message = {"thread": thread, "uid": user, "gid": group, "descriptor": 0}
            wire.send(conversation, {"have": message})
            assert wire.receive(conversation)[0]["errno"] == code


def test_a_broker_that_retires_takes_no_order(process: OnDemand) -> None:
    """The next one does, and the old one ends with its last helper."""
    with order(process, {"uid": 1, "writes": False}) as first:
        process.start()
        eventually(lambda: not waits(process))
        process.retire()
        assert process.is_missed()
        with order(process, {"uid": 1, "writes": False}) as second:
            process.start()
            wire.send(second, {"have": {"thread": 0, "uid": 1, "gid": 1, "descriptor": 0}})
            assert wire.receive(second)[0]["errno"] == errno.EBADF
            assert not select.select([first], [], [], 0)[0]


def test_a_program_that_fails_is_not_started_without_a_pause(
    process: OnDemand, clock: StillClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it would have it started again at once, and for ever."""
    program = tmp_path / "fails.py"
    program.write_text("raise SystemExit(3)")
    monkeypatch.setattr(on_demand, "_PROGRAM", str(program))
    process.start()
    eventually(lambda: process.is_missed() or process.pause() > 0)
    assert process.pause() == PAUSE
    assert not process.is_missed()
    clock.now += PAUSE
    assert process.is_missed()


def test_a_broker_without_work_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is started again when it is needed."""
    monkeypatch.setattr(broker, "IDLE", 0.0)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        broker.Broker(theirs).serve()


def test_a_broker_without_servers_ends() -> None:
    """Whoever held the other end is gone."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.close()
    with theirs:
        broker.Broker(theirs).serve()
