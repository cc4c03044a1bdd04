"""Region.watch on a real mount: every change is told, to whoever watches."""

from __future__ import annotations

import mmap
import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

import msharefs
from msharefs import Layout, Region
from tests.helpers.fixtures import MakeMount
from tests.helpers.users import in_child

pytestmark = pytest.mark.mount

PAGE = mmap.PAGESIZE
UNIT = 2 << 20
QUICK = 0.005


@pytest.fixture
def region(place: Path) -> Iterator[Region]:
    """A region with one page mapped."""
    with Region.create(place, UNIT) as made:
        made.map(0, PAGE)
        yield made
    place.unlink(missing_ok=True)


def offsets(layout: Layout) -> list[int]:
    """Where its mappings begin, in pages."""
    return [mapping.offset // PAGE for mapping in layout.mappings]


def test_watch_begins_with_the_layout_of_now(region: Region) -> None:
    """No change can get lost between a look and the start of the watch."""
    watch = region.watch(interval=QUICK, timeout=0)
    assert next(watch) == region.layout()
    assert next(watch, None) is None


def test_every_change_is_told(region: Region, place: Path) -> None:
    """Maps and unmaps, of this process and of others, and a replacement of the same by the same."""
    watch = region.watch(interval=QUICK, timeout=20)
    assert offsets(next(watch)) == [0]
    region.map(4 * PAGE, PAGE)
    assert offsets(next(watch)) == [0, 4]

    def elsewhere() -> None:
        with Region.open(place) as same:
            same.unmap(0, PAGE)

    in_child(elsewhere)
    assert offsets(next(watch)) == [4]
    region.map(4 * PAGE, PAGE)
    assert next(watch).maps == 3


def test_changes_in_between_are_one(region: Region) -> None:
    """Who looks late sees the last of several changes, once."""
    watch = region.watch(interval=QUICK, timeout=0)
    next(watch)
    for page in range(2, 7):
        region.map(page * PAGE, PAGE)
    assert offsets(next(watch)) == [0, 2, 3, 4, 5, 6] or region.layout().mapped == 6 * PAGE
    assert next(watch, None) is None


def test_size_of_a_new_region_is_a_change(place: Path) -> None:
    """A region can be watched before it has a size."""
    place.touch()
    with Region.open(place) as region:
        watch = region.watch(interval=QUICK, timeout=20)
        assert next(watch).size == 0
        Region.create(place, UNIT, exist_ok=True).close()
        assert next(watch).size == UNIT
        region.unlink()


def test_watch_waits_for_a_change_that_comes_later(region: Region) -> None:
    """Whoever waits is told of it; a watch without a timeout ends by nothing else."""
    watch = region.watch(interval=QUICK)
    next(watch)
    changer = threading.Timer(0.05, region.map, (PAGE, PAGE))
    changer.start()
    assert next(watch).mapped == 2 * PAGE
    changer.join()


def test_timeout_ends_the_watch(region: Region) -> None:
    """Without a change the loop is over by itself."""
    assert len(list(region.watch(interval=QUICK, timeout=0.1))) == 1


@pytest.mark.parametrize("pages", [1, 300])
def test_closing_the_region_ends_the_watch(region: Region, pages: int) -> None:
    """The other thread's loop is over, without an exception."""
    seen: list[Layout] = []
    began = threading.Event()

    def follow() -> None:
        for layout in region.watch(interval=QUICK):
            seen.append(layout)
            began.set()

    thread = threading.Thread(target=follow)
    thread.start()
    assert began.wait(20)
    region.close()
    thread.join(20)
    assert not thread.is_alive()
    assert len(seen) == 1
    with pytest.raises(ValueError, match="closed region"):
        region.watch()


def abort(connection: str, place: Path) -> None:
    """End a FUSE connection; fusectl is not mounted on bare machines."""
    control = place / "fusectl"
    control.mkdir()
    subprocess.run(["mount", "-t", "fusectl", "none", control], check=True)
    try:
        (control / connection / "abort").write_text("1")
    finally:
        subprocess.run(["umount", control], check=True)


@pytest.mark.root_only("mounts fusectl")
def test_watch_of_a_mount_that_ends(make_mount: MakeMount, tmp_path: Path) -> None:
    """The file system's end is an error: nobody may take it for a quiet region."""
    mount = make_mount("size=8M")
    region = Region.create(mount.path / "region", UNIT)
    watch = region.watch(interval=QUICK, timeout=20)
    next(watch)
    mount.expect_abort()
    abort(mount.connection, tmp_path)
    with pytest.raises(msharefs.MountGone):
        next(watch)
    # close(2) fails only if the kernel had not yet learned that there is nothing to flush.
    with suppress(msharefs.MountGone):
        region.close()


ASYNC_WATCH = """
import sys, anyio, msharefs

async def main():
    with msharefs.Region.open(sys.argv[1]) as region:
        ticks = 0

        async def tick():
            nonlocal ticks
            while True:
                await anyio.sleep(0.001)
                ticks += 1

        async with anyio.create_task_group() as group:
            group.start_soon(tick)
            seen = []
            async for layout in region.watch_async(interval=0.005):
                seen.append(layout.mapped)
                if len(seen) == 1:
                    print("watching", flush=True)
                if len(seen) == 3:
                    region.close()
            print(seen, ticks > 0, flush=True)
            group.cancel_scope.cancel()

anyio.run(main, backend=sys.argv[2])
"""


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_program_with_an_event_loop_follows_too(region: Region, backend: str) -> None:
    """Its other tasks run meanwhile, and the watch ends when the region is closed."""
    with subprocess.Popen(
        [sys.executable, "-c", ASYNC_WATCH, os.fsdecode(region.path), backend],
        stdout=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "watching\n"
        # Changes until it has seen two: of several at once the last one shows.
        while program.poll() is None and not select.select([program.stdout], [], [], 0.05)[0]:
            region.map(4 * PAGE, PAGE)
        line = program.stdout.readline()
    assert line.startswith(f"[{PAGE}, ")
    assert line.endswith("True\n")
    assert program.returncode == 0


async def test_a_watch_that_nothing_changes_ends_after_its_time(region: Region) -> None:
    """As the other one does."""
    layouts = [layout async for layout in region.watch_async(interval=QUICK, timeout=4 * QUICK)]
    assert [layout.mapped for layout in layouts] == [PAGE]


@pytest.mark.root_only("mounts fusectl")
async def test_async_watch_of_a_mount_that_ends(make_mount: MakeMount, tmp_path: Path) -> None:
    """An error there, too."""
    mount = make_mount("size=8M")
    region = Region.create(mount.path / "region", UNIT)
    watch = region.watch_async(interval=QUICK, timeout=20)
    await anext(watch)
    mount.expect_abort()
    abort(mount.connection, tmp_path)
    with pytest.raises(msharefs.MountGone):
        await anext(watch)
    with suppress(msharefs.MountGone):
        region.close()
