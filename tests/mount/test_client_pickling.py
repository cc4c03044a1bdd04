"""A region on its way to child processes, with every start method of multiprocessing."""

from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import pytest

import msharefs
from msharefs import Region
from msharefs.shared_memory import SharedMemory
from tests.helpers.mount import ROOT
from tests.helpers.users import ALICE, become

pytestmark = pytest.mark.mount

PAGE = os.sysconf("SC_PAGESIZE")
UNIT = 2 << 20
SECONDS = 40


@pytest.fixture(params=["fork", "spawn", "forkserver"])
def context(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """One start method. What the children import stands beside the tests."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return multiprocessing.get_context(request.param)


@pytest.fixture
def region(place: Path) -> Iterator[Region]:
    """A region with one page, in which the parent has written."""
    with Region.create(place, UNIT) as made:
        made.map(0, PAGE)
        with made.attach(0, PAGE) as window:
            window.buf[:5] = b"hello"
        yield made
    place.unlink(missing_ok=True)


def answer(region: Region) -> None:
    """What a child does with the region that it got; its exit code tells."""
    with region, region.attach(0, PAGE) as window:
        assert bytes(window.buf[:5]) == b"hello"
        assert not os.get_inheritable(region.fileno())
        window.buf[:5] = b"world"


def answer_from_seven(region: Region) -> None:
    """The same where the position tells whose open file it is."""
    assert os.lseek(region.fileno(), 0, os.SEEK_CUR) == 7
    answer(region)


def answer_as_alice(region: Region) -> None:
    """The same in a process that has no right to the path."""
    become(ALICE)
    answer(region)


def greeting(region: Region) -> bytes:
    """What a worker of a pool does with it: it comes through a queue."""
    with region, region.attach(0, PAGE, writable=False) as window:
        return bytes(window.buf[:5])


def block_greeting(block: SharedMemory) -> tuple[str, int, bytes]:
    """The same for a block."""
    with block:
        return block.name, block.size, bytes(block.buf[:5])


def run_child(context: BaseContext, target: Any, region: Region) -> None:
    """Start a child with the region as its argument, and see it end well."""
    process = context.Process(target=target, args=(region,))  # type: ignore[attr-defined]
    process.start()
    process.join(SECONDS)
    assert process.exitcode == 0
    process.close()


@pytest.mark.parametrize("unlinked", [False, True])
def test_child_gets_the_region(context: Any, region: Region, *, unlinked: bool) -> None:
    """It reads what the parent wrote and the other way round, without a name as well."""
    if unlinked:
        region.unlink()
    run_child(context, answer, region)
    with region.attach(0, PAGE) as window:
        assert bytes(window.buf[:5]) == b"world"


def test_child_is_given_the_descriptor_itself(context: Any, region: Region) -> None:
    """What it gets is the parent's open file, position and all, and not the path opened anew."""
    os.lseek(region.fileno(), 7, os.SEEK_SET)
    run_child(context, answer_from_seven, region)


@pytest.mark.root_only("becomes another user")
def test_child_without_a_right_to_the_path(context: Any, region: Region) -> None:
    """What a child is started with is the descriptor: who hands it over has decided."""
    run_child(context, answer_as_alice, region)


@pytest.mark.parametrize("unlinked", [False, True])
def test_workers_get_the_region(context: Any, region: Region, *, unlinked: bool) -> None:
    """Through the queue of a pool it comes by its path, or without one as a descriptor."""
    block = SharedMemory(create=True, size=100, directory=os.path.dirname(str(region.path)))
    block.buf[:5] = b"block"
    if unlinked:
        region.unlink()
        block.unlink()
    with block, context.Pool(2) as pool:
        assert pool.map(greeting, [region] * 4) == [b"hello"] * 4
        assert pool.apply(block_greeting, (block,)) == (block.name, 100, b"block")
        pool.close()
        pool.join()
    if not unlinked:
        block.unlink()


def test_pickle_of_a_region_that_was_replaced(region: Region, place: Path) -> None:
    """Another region of the same name is not taken for the old one."""
    text = pickle.dumps(region)
    region.unlink()
    with Region.create(place, UNIT):
        with pytest.raises(msharefs.RegionNotFound, match="another region's by now"):
            pickle.loads(text)


def test_sender_that_has_ended(region: Region, place: Path) -> None:
    """A descriptor that nobody can give any more is RegionNotFound, with the reason."""
    reader, writer = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("fork")
    process = context.Process(target=send_and_end, args=(writer, str(place)))
    process.start()
    process.join(SECONDS)
    with reader, writer, pytest.raises(msharefs.RegionNotFound, match="has ended"):
        reader.recv()


def send_and_end(writer: Any, path: str) -> None:
    """Send a region without a name, and do not wait until it has arrived."""
    with Region.open(path) as region:
        region.unlink()
        writer.send(region)
        os._exit(0)
