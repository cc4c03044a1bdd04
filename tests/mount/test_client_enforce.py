"""attach(enforce=True) on a real mount: the layout decides about every single access."""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import mmap
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import msharefs
from msharefs import Attachment, Region
from msharefs.client import protection
from msharefs.client.protection import Run
from tests.helpers.fixtures import MakeMount
from tests.helpers.users import ChildKilledError, in_child

pytestmark = pytest.mark.mount

PLANES = ("passthrough", "paged", "direct")

PAGE = mmap.PAGESIZE
UNIT = 2 << 20


@pytest.fixture
def region(place: Path) -> Iterator[Region]:
    """Pages 1 and 2 of it can be written, page 3 only read, page 5 neither."""
    with Region.create(place, UNIT) as made:
        made.map(PAGE, 2 * PAGE)
        made.map(3 * PAGE, PAGE, prot="r")
        made.map(5 * PAGE, PAGE, prot="")
        yield made
    place.unlink(missing_ok=True)


def fate(window: Attachment, offset: int, *, write: bool = False) -> str:
    """What becomes of a process that touches the byte: "lives", or the signal that ends it."""

    def touch() -> str:
        faulthandler.disable()
        if write:
            window.buf[offset] = 1
        else:
            assert window.buf[offset] in {0, 1}
        return "lives"

    try:
        return in_child(touch)
    except ChildKilledError as error:
        return error.signal.name


def fates(window: Attachment, pages: int = 7) -> list[tuple[str, str]]:
    """Reading and writing of each of the first pages; an R or W that is missing is SIGSEGV."""
    return [
        (fate(window, page * PAGE), fate(window, page * PAGE, write=True)) for page in range(pages)
    ]


DIES, LIVES = "SIGSEGV", "lives"
FREE, READABLE, SHUT = (LIVES, LIVES), (LIVES, DIES), (DIES, DIES)


def test_every_mapping_has_its_own_protection(region: Region) -> None:
    """Holes and prot none give SIGSEGV, a read-only mapping may be read, others are free."""
    with region.attach(enforce=True) as window:
        assert (window.enforced, window.readonly) == (True, False)
        assert fates(window) == [SHUT, FREE, FREE, READABLE, SHUT, SHUT, SHUT]


def test_without_enforce_a_hole_is_a_bus_error(region: Region) -> None:
    """The mount's own rule, which enforce replaces by the kernel's."""
    with region.attach(0, 2 * PAGE) as window:
        assert not window.enforced
        assert fate(window, 0) == signal.SIGBUS.name
        assert not window.refresh()


def test_window_has_the_protections_of_its_own_part(region: Region) -> None:
    """A window further on, which ends inside a page, is cut at the same pages."""
    with region.attach(2 * PAGE, 2 * PAGE - 1, enforce=True) as window:
        assert fates(window, 1) == [FREE]
        assert fate(window, 2 * PAGE - 2) == LIVES
        assert fate(window, 2 * PAGE - 2, write=True) == DIES


def test_window_for_reading_only(region: Region, place: Path) -> None:
    """No byte may be written, wished so or because the region was opened so."""
    with Region.open(place, writable=False) as reader:
        for window in (region.attach(enforce=True, writable=False), reader.attach(enforce=True)):
            with window:
                assert window.readonly
                assert [read for read, _ in fates_of_reading(window)] == [
                    DIES, LIVES, LIVES, LIVES, DIES, DIES, DIES,
                ]  # fmt: skip
        with pytest.raises(msharefs.AccessDenied):
            reader.attach(enforce=True, writable=True)


def fates_of_reading(window: Attachment) -> list[tuple[str, int]]:
    """Reading of each of the first pages, and the page."""
    return [(fate(window, page * PAGE), page) for page in range(7)]


def test_system_calls_see_the_protections_too(region: Region) -> None:
    """A read into, or a write out of, what is shut is EFAULT and no signal."""
    with region.attach(enforce=True) as window, open("/dev/zero", "rb", buffering=0) as zeros:
        assert zeros.readinto(window.buf[PAGE : 3 * PAGE]) == 2 * PAGE
        for page in (0, 3, 4, 5):
            with pytest.raises(OSError) as caught:
                zeros.readinto(window.buf[page * PAGE : (page + 1) * PAGE])
            assert caught.value.errno == errno.EFAULT


def test_refresh_follows_the_layout(region: Region) -> None:
    """Maps, unmaps and other protections count from refresh on, in a window that stays in use."""
    with region.attach(enforce=True) as window:
        window.buf[PAGE] = 1
        region.map(0, PAGE)
        region.unmap(2 * PAGE, PAGE)
        region.map(3 * PAGE, PAGE, prot="rw")
        assert window.refresh()
        assert fates(window, 5) == [FREE, FREE, SHUT, FREE, SHUT]
        assert window.buf[PAGE] == 1
        assert not window.refresh()


@pytest.mark.parametrize(
    ("change", "page", "expected"),
    [
        (lambda region: region.unmap(PAGE, PAGE), 1, ("SIGBUS", "SIGBUS")),
        (lambda region: region.map(0, PAGE), 0, SHUT),
        (lambda region: region.map(3 * PAGE, PAGE), 3, READABLE),
        (lambda region: region.map(PAGE, PAGE, prot="r"), 1, FREE),
    ],
    ids=["unmapped", "mapped in a hole", "more allowed", "less allowed"],
)
def test_change_before_refresh(
    region: Region, change: Callable[[Region], None], page: int, expected: tuple[str, str]
) -> None:
    """Until refresh the old protection counts, but what is gone is gone: SIGBUS."""
    with region.attach(enforce=True) as window:
        change(region)
        assert (fate(window, page * PAGE), fate(window, page * PAGE, write=True)) == expected


def test_refresh_follows_another_process(region: Region, place: Path) -> None:
    """Whoever changed the layout."""

    def elsewhere() -> None:
        with Region.open(place) as same:
            same.map(0, PAGE)

    with region.attach(enforce=True) as window:
        in_child(elsewhere)
        assert window.refresh()
        window.buf[0] = 1


def test_refresh_of_a_closed_region(region: Region) -> None:
    """The window stays as it is protected; refresh has nobody to ask and says so."""
    with region.attach(enforce=True) as window:
        region.close()
        with pytest.raises(ValueError, match="closed region"):
            window.refresh()
        window.buf[PAGE] = 1
        assert fate(window, 0) == DIES
    with pytest.raises(ValueError, match="closed attachment"):
        window.refresh()


def test_too_many_areas(region: Region, place: Path) -> None:
    """In a process that has its fill of areas it is OutOfMemory, and the window is gone again."""

    def with_room_for_three() -> bool:
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        with mmap.mmap(-1, (limit + 2) * PAGE) as filler:
            address = ctypes.addressof(ctypes.c_char.from_buffer(filler))
            pages = [Run(page * PAGE, PAGE, (1, 3)[page % 2]) for page in range(limit + 2)]
            with pytest.raises(OSError, match="allocate"):
                protection.apply(address, pages)
            protection.apply(address, [Run(PAGE, 3 * PAGE, 3)])
            with pytest.raises(msharefs.OutOfMemory, match="cannot protect"):
                region.attach(enforce=True)
        return str(place) in Path("/proc/self/maps").read_text()

    assert not in_child(with_room_for_three)


def test_huge_pages_stay_where_they_are_whole(region: Region, place: Path, *, paged: bool) -> None:
    """A mapping of 2 MiB keeps its one entry under enforce: the edges of the protection fit it.

    The paged plane has no such entries.
    """
    with Region.create(place.with_suffix(".huge"), 3 * UNIT) as huge:
        huge.unlink()
        huge.map(UNIT, UNIT, huge=True)
        with huge.attach(enforce=True) as window:
            window.buf[UNIT] = 1
            smaps = Path("/proc/self/smaps").read_text().split(f"{window.address + UNIT:x}-")[1]
            (mapped,) = [
                line for line in smaps.splitlines() if "PmdMapped" in line and "S" in line
            ][:1]
            assert mapped.split()[1] == str(0 if paged else UNIT >> 10)


def test_threads_that_refresh_at_once(region: Region) -> None:
    """Whatever the order, the last layout is what counts in the end."""
    with region.attach(enforce=True) as window:
        stop = threading.Event()

        def follow() -> None:
            while not stop.is_set():
                window.refresh()

        threads = [threading.Thread(target=follow) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(50):
            region.map(0, PAGE)
            region.unmap(0, PAGE)
        region.map(0, PAGE)
        stop.set()
        for thread in threads:
            thread.join()
        window.refresh()
        window.buf[0] = 1
        assert fate(window, 4 * PAGE) == DIES


def test_executable_mapping(region: Region, make_mount: MakeMount) -> None:
    """prot "x" is given where the mount allows it, and refused by name where it has noexec."""
    region.map(6 * PAGE, PAGE, prot="rx")
    with region.attach(enforce=True) as window:
        start = f"{window.address + 6 * PAGE:x}-"
        (line,) = [x for x in Path("/proc/self/maps").read_text().splitlines() if start in x]
        assert line.split()[1] == "r-xs"
    other = make_mount("size=8M,noexec").path / "region"
    with Region.create(other, UNIT) as strict:
        strict.map(0, PAGE, prot="rx")
        with pytest.raises(msharefs.AccessDenied):
            strict.attach(enforce=True)
        assert str(other) not in Path("/proc/self/maps").read_text()
    os.unlink(other)
