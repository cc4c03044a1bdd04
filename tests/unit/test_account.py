"""How requests are called in the log."""

from __future__ import annotations

import errno
import logging
import os

import pytest

from msharefs.core.errors import NotPermitted
from msharefs.fuse.account import Account
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.metrics import Metrics
from msharefs.linux import proc

PATHS = {7: b"/tables/a\nb\x1b[31m\xff"}


def header(nodeid: int, pid: int) -> Header:
    """Of an ioctl."""
    return Header(
        **dict.fromkeys(Header._fields, 0)
        | {"opcode": Opcode.IOCTL, "unique": 6, "nodeid": nodeid, "uid": 5, "pid": pid}
    )


def test_a_refusal_names_path_and_command(caplog: pytest.LogCaptureFixture) -> None:
    """In one line, whatever the names are."""
    caplog.set_level(logging.DEBUG)
    account = Account(Metrics(), PATHS.get)
    assert account.explain(NotPermitted("no"), header(7, os.getpid())) == errno.EPERM
    me = proc.name(os.getpid()).decode()
    (line,) = caplog.messages
    assert line == (
        f"IOCTL of inode 7 (/tables/a\\nb\\x1b[31m\\\\xff) by pid {os.getpid()} ({me}) of uid 5"
        " (request 6): EPERM: no"
    )


def test_what_has_no_name_is_known_by_its_number() -> None:
    """A region that was removed; a process that has ended, or of another PID namespace."""
    account = Account(Metrics(), PATHS.get)
    assert account.described(header(8, 0)) == "IOCTL of inode 8 by pid 0 of uid 5 (request 6)"


def test_refusals_cost_nothing_where_nobody_reads_them(caplog: pytest.LogCaptureFixture) -> None:
    """Clients are refused all the time."""
    caplog.set_level(logging.INFO)

    def forbidden(_ino: int) -> bytes | None:
        raise AssertionError("the path was asked for")

    account = Account(Metrics(), forbidden)
    assert account.explain(NotPermitted("no"), header(7, 1)) == errno.EPERM
    assert not caplog.messages
