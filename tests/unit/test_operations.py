"""pyfuse3's handlers, called without a mount over a manager on fakes.

pyfuse3 makes its context itself; where a test needs other values than it gives, a
stand-in with the same fields serves.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest

from msharefs.core.inode import INFO_INO, ROOT_INO
from msharefs.fuse.operations import Operations
from tests.unit.support.worlds import ALICE, MIB, PAGE, World, make_world

CONTEXT: Any = SimpleNamespace(pid=ALICE.pid, uid=ALICE.uid, gid=ALICE.gid, umask=0)


@pytest.fixture
def world() -> World:
    """A mount with nothing in it."""
    return make_world(nr_inodes=20)


@pytest.fixture
def operations(world: World) -> Operations:
    """The handlers under test."""
    return Operations(world.manager)


@contextmanager
def answered_with(code: int) -> Iterator[None]:
    """The body must raise FUSEError with exactly this errno."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        yield
    assert errno.errorcode[caught.value.errno] == errno.errorcode[code]


def number(ino: int) -> pyfuse3.InodeT:
    """pyfuse3 has types of its own for the integers that it passes."""
    return pyfuse3.InodeT(ino)


ROOT = number(ROOT_INO)


# The file system and its attributes


async def test_statfs(world: World, operations: Operations) -> None:
    """What `df` and `df -i` show."""
    region = world.region(b"a", size=2 * MIB)
    world.map(region, 0, MIB)
    data = await operations.statfs(CONTEXT)
    assert (data.f_bsize, data.f_frsize, data.f_namemax) == (PAGE, PAGE, 255)
    assert (data.f_blocks, data.f_bfree) == (64 * MIB // PAGE, 63 * MIB // PAGE)
    assert data.f_bavail == data.f_bfree
    assert (data.f_files, data.f_ffree, data.f_favail) == (20, 17, 17)


async def test_attributes_by_name(world: World, operations: Operations) -> None:
    """A region lists its layout, the root directory its status, others nothing."""
    region = world.region(b"a")
    directory = world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
    listed = [
        list(await operations.listxattr(number(ino), CONTEXT))
        for ino in (region.ino, ROOT_INO, directory.ino, INFO_INO)
    ]
    assert listed == [[b"user.msharefs.layout"], [b"user.msharefs.status"], [], []]


async def test_requests_with_nothing_to_do(world: World, operations: Operations) -> None:
    """fsync of a directory succeeds; access is the kernel's."""
    region = world.region(b"a")
    before = world.snapshot()
    handle = pyfuse3.FileHandleT(region.ino)
    await operations.fsyncdir(handle, True)
    assert world.snapshot() == before
    assert await operations.access(number(region.ino), pyfuse3.ModeT(7), CONTEXT)


# Nothing escapes


async def test_a_refusal_becomes_its_errno(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """And the debug log says which request, and why."""
    caplog.set_level(logging.DEBUG)
    with answered_with(errno.ENOENT):
        await operations.listxattr(number(999), CONTEXT)
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert "LISTXATTR" in record.getMessage()
    assert "ENOENT" in record.getMessage()


async def test_any_other_exception_becomes_eio(
    operations: Operations, caplog: pytest.LogCaptureFixture
) -> None:
    """With a traceback in the log: what is no FUSEError would end the mount."""
    bad: Any = [ROOT_INO]
    with answered_with(errno.EIO):
        await operations.listxattr(bad, CONTEXT)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "Traceback" in caplog.text


def test_every_handler_is_guarded() -> None:
    """Each goes through the one guard."""
    own = {
        name: handler
        for name, handler in vars(Operations).items()
        if not name.startswith("_") and callable(handler)
    }
    unguarded = [name for name, handler in own.items() if not hasattr(handler, "__wrapped__")]
    assert unguarded == []
    assert own.keys() == {"statfs", "access", "fsyncdir", "listxattr"}
