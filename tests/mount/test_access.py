"""Attached memory: mmap of a region and every way to touch it."""

from __future__ import annotations

import errno
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers import poke, raw
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.mount import PRIVILEGED, Mount
from tests.helpers.poke import faults
from tests.helpers.raw import HUGE, PAGE, create_mapping, refused
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)

SIZE = 4 * HUGE
MAP_FIXED = raw.MAP_SHARED | raw.MAP_FIXED


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A descriptor of a region with its first half mapped."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, 2 * HUGE)
        yield fd


@pytest.mark.parametrize("prot", [raw.PROT_READ, raw.RW])
def test_address_is_aligned(place: Path, client: poke.Poke, prot: int) -> None:
    """M1: mmap without a hint gives a multiple of 2 MiB, time after time, for any length."""
    with raw.region(place, SIZE, mapped=True):
        fd = client.open(place)
        for length in (SIZE, HUGE, SIZE, HUGE, 3 * HUGE):
            assert client.window(fd, length, prot=prot) % HUGE == 0


def test_huge_pages_are_mapped_as_such(place: Path, client: poke.Poke, *, paged: bool) -> None:
    """M1: whole 2 MiB take one page table entry each (ShmemPmdMapped), which is what all is for.

    Nothing is saved on the paged plane. On a user's mount they are made in the background.
    """

    def saved() -> int:
        client.fill(address, SIZE, 1)
        return poke.smaps(client.pid, address, SIZE)["ShmemPmdMapped"]

    with raw.region(place, SIZE, mapped=True):
        address = client.attach(place, SIZE)
        wanted = 0 if paged else SIZE // 1024
        eventually(lambda: saved() == wanted, timeout=40, what="small pages")


@pytest.mark.by_mmap("the library chooses the address")
def test_hint_and_fixed_address(place: Path, region: int, client: poke.Poke) -> None:
    """M2: a hint that is free and MAP_FIXED are obeyed, aligned or not."""
    fd = client.open(place)
    free = client.mmap(fd, SIZE)
    client.munmap(free, SIZE)
    assert client.mmap(fd, HUGE, address=free + PAGE) == free + PAGE
    for address in (free + HUGE, free + HUGE + PAGE):
        assert client.mmap(fd, HUGE, address=address, flags=MAP_FIXED) == address
        client.put(address, b"same")
        assert client.get(free + PAGE, 4) == b"same"
        client.put(address, bytes(4))


def test_several_windows_in_a_process(place: Path, region: int, client: poke.Poke) -> None:
    """M2: the same bytes show through all of them."""
    windows = [client.attach(place, SIZE) for _ in range(5)]
    for number, window in enumerate(windows):
        client.put(window + number, bytes([number + 1]))
    for window in windows:
        assert client.get(window, 5) == bytes([1, 2, 3, 4, 5])


@pytest.mark.by_mmap("the header attaches from the start on")
def test_window_on_a_part(place: Path, region: int, client: poke.Poke) -> None:
    """M3: a part of the region, at an offset, shows the bytes that are there."""
    fd = client.open(place)
    whole = client.mmap(fd, SIZE)
    part = client.mmap(fd, PAGE, offset=HUGE + PAGE)
    client.put(part, b"part")
    assert client.get(whole + HUGE + PAGE, 4) == b"part"


@pytest.mark.by_mmap("the header attaches from the start on")
def test_whole_length_at_an_offset(place: Path, region: int, client: poke.Poke) -> None:
    """M3: an offset counts: the window shows the bytes from there on, and ends with the region."""
    fd = client.open(place)
    whole, shifted = client.mmap(fd, SIZE), client.mmap(fd, SIZE, offset=HUGE)
    client.put(whole + HUGE, b"here")
    assert client.get(shifted, 4) == b"here"
    assert client.probe(shifted, SIZE, step=HUGE) == "1000"


@pytest.mark.by_mmap("what lies beyond the end is told apart by the file alone")
def test_window_beyond_the_end(place: Path, region: int, client: poke.Poke) -> None:
    """M3: mmap beyond the size is allowed; a touch there is SIGBUS."""
    window = client.mmap(client.open(place), 2 * SIZE)
    client.put(window, b"x")
    with faults():
        client.get(window + SIZE)
    with faults():
        client.put(window + SIZE, b"x")


@pytest.mark.by_mmap("memory is attached to be shared")
def test_private_window(place: Path, region: int, client: poke.Poke) -> None:
    """M3: MAP_PRIVATE sees what is there and keeps its own writes to itself."""
    shared = client.attach(place, SIZE)
    client.put(shared, b"shared")
    private = client.mmap(client.open(place), SIZE, flags=raw.MAP_PRIVATE)
    assert client.get(private, 6) == b"shared"
    client.put(private, b"mine")
    assert client.get(shared, 6) == b"shared"
    with faults():
        client.get(private + 3 * HUGE)


@pytest.mark.by_mmap("there is no memory yet")
def test_before_the_size_is_set(place: Path, client: poke.Poke) -> None:
    """M3: mmap works and a touch is SIGBUS; once the size is set and mapped it is memory."""
    with raw.region(place) as fd:
        address = client.attach(place, HUGE)
        with faults():
            client.get(address)
        with faults():
            client.put(address, b"x")
        os.ftruncate(fd, HUGE)
        with faults():
            client.get(address)
        create_mapping(fd, 0, HUGE)
        client.put(address, b"x")
        assert client.get(address) == b"x"


@pytest.mark.parametrize(
    ("flags", "prot"),
    [(os.O_RDONLY, raw.RW), (os.O_RDONLY, raw.PROT_WRITE), (os.O_WRONLY, raw.PROT_READ)],
)
def test_more_than_the_descriptor_allows(
    place: Path, region: int, client: poke.Poke, flags: int, prot: int
) -> None:
    """M4: PROT_WRITE on O_RDONLY, and any mmap on O_WRONLY, are EACCES."""
    fd = client.open(place, flags)
    with refused(errno.EACCES):
        client.window(fd, HUGE, prot=prot)


def test_read_only_window(place: Path, region: int, client: poke.Poke) -> None:
    """M4: reads what others write, faults on writing, and mprotect gives no more: EACCES."""
    writer = client.attach(place, SIZE)
    reader = client.attach(place, SIZE, writable=False)
    client.put(writer, b"seen")
    assert client.get(reader, 4) == b"seen"
    with faults(signal.SIGSEGV):
        client.put(reader, b"x")
    with refused(errno.EACCES):
        client.call("mprotect", reader, PAGE, raw.RW)


def test_two_processes_share(place: Path, region: int, make_poke: MakePoke) -> None:
    """M5: what one writes the other reads, both ways, at different addresses."""
    one, two = make_poke(), make_poke()
    two.attach(place, HUGE)
    first, second = one.attach(place, SIZE), two.attach(place, SIZE)
    one.put(first + 5, b"ping")
    assert two.get(second + 5, 4) == b"ping"
    two.put(second + HUGE + 5, b"pong")
    assert one.get(first + HUGE + 5, 4) == b"pong"


def test_mapping_made_after_the_attach(place: Path, client: poke.Poke) -> None:
    """M5: memory that is mapped later appears in windows that are there already."""
    with raw.region(place, SIZE) as fd:
        address = client.attach(place, SIZE)
        create_mapping(fd, 3 * HUGE, HUGE)
        client.put(address + 3 * HUGE, b"late")
        assert client.get(address + 3 * HUGE, 4) == b"late"


@pytest.mark.parametrize("writing", [False, True], ids=["read", "write"])
def test_hole(place: Path, region: int, client: poke.Poke, *, writing: bool) -> None:
    """M6: every page of a hole faults, none of the mapped ones does, and no memory is taken."""
    free = raw.free_bytes(place)
    address = client.attach(place, SIZE)
    seen = client.probe(address, SIZE, writing=writing)
    pages = HUGE // PAGE
    assert seen == "1" * 2 * pages + "0" * 2 * pages
    assert raw.free_bytes(place) == free
    assert place.stat().st_blocks == 2 * HUGE // 512


def test_hole_beside_a_small_mapping(place: Path, client: poke.Poke) -> None:
    """M6: the pages right before and right after a mapping of a few pages are holes."""
    with raw.region(place, SIZE) as fd:
        address = client.attach(place, SIZE)
        for first, count in ((1, 1), (5, 3), (17, 16), (100, 33), (512 + 7, 512)):
            create_mapping(fd, first * PAGE, count * PAGE)
            seen = client.probe(address + (first - 1) * PAGE, (count + 2) * PAGE)
            assert seen == "0" + "1" * count + "0", (first, count)


def test_hole_is_a_hole_for_system_calls(place: Path, region: int, client: poke.Poke) -> None:
    """M6: where the kernel itself touches a hole for a program, the answer is EFAULT."""
    address = client.attach(place, SIZE)
    fd = client.open("/dev/zero", os.O_RDONLY)
    assert client.call("read", fd, address, PAGE) == PAGE
    with refused(errno.EFAULT):
        client.call("read", fd, address + 3 * HUGE, PAGE)


def test_munmap_of_a_part(place: Path, region: int, make_poke: MakePoke) -> None:
    """M7: takes the part from this process alone."""
    one, two = make_poke(), make_poke()
    first, second = one.attach(place, SIZE), two.attach(place, SIZE)
    one.put(first + HUGE, b"x")
    one.munmap(first + HUGE, PAGE)
    with faults(signal.SIGSEGV):
        one.get(first + HUGE)
    assert one.get(first + HUGE + PAGE) == b"\0"
    assert two.get(second + HUGE) == b"x"


def test_mprotect(place: Path, region: int, make_poke: MakePoke) -> None:
    """M7: a change of rights is this process's own, for a page inside a huge page, too."""
    one, two = make_poke(), make_poke()
    first, second = one.attach(place, SIZE), two.attach(place, SIZE)
    one.fill(first, HUGE, 1)
    one.call("mprotect", first + PAGE, PAGE, raw.PROT_READ)
    with faults(signal.SIGSEGV):
        one.put(first + PAGE, b"x")
    one.put(first + 2 * PAGE, b"x")
    two.put(second + PAGE, b"y")
    assert one.get(first + PAGE) == b"y"


def test_mremap(place: Path, region: int, client: poke.Poke) -> None:
    """M7: a window can be moved and grown; it shows the same bytes."""
    address = client.window(client.open(place), HUGE)
    client.put(address, b"moved")
    grown = client.call("mremap", address, HUGE, 2 * HUGE, 1)
    assert client.get(grown, 5) == b"moved"
    client.put(grown + HUGE, b"x")
    assert client.get(client.attach(place, SIZE) + HUGE) == b"x"


def test_madvise(place: Path, region: int, client: poke.Poke) -> None:
    """M7: DONTNEED and the others that are advice alone keep the bytes."""
    address = client.attach(place, SIZE)
    client.fill(address, HUGE, 8)
    normal, dontneed, willneed, hugepage, nohugepage = 0, 4, 3, 14, 15
    for advice in (normal, willneed, dontneed, hugepage, nohugepage):
        assert client.call("madvise", address, HUGE, advice) == 0
    assert client.get(address, HUGE) == b"\x08" * HUGE


def test_madvise_remove(
    place: Path, region: int, client: poke.Poke, *, paged: bool, direct: bool
) -> None:
    """M7, P5: MADV_REMOVE by who may write gives zeros, as on tmpfs; a touch brings the page back.

    On the paged plane it is fallocate with a mode (S7), and nothing is changed. A fence takes it for a hole,
    until something is mapped there anew.
    """
    address = client.attach(place, SIZE)
    client.fill(address, HUGE, 8)
    remove = 9
    if paged:
        with refused(errno.EOPNOTSUPP):
            client.call("madvise", address + PAGE, PAGE, remove)
        assert client.holds(address, HUGE, 8)
        return
    assert client.call("madvise", address + PAGE, PAGE, remove) == 0
    if direct:
        with faults():
            client.get(address + PAGE)
        create_mapping(region, PAGE, PAGE)
    assert client.get(address + PAGE, PAGE) == bytes(PAGE)
    assert client.get(address, PAGE) + client.get(address + 2 * PAGE, PAGE) == b"\x08" * 2 * PAGE
    client.put(address + PAGE, b"back")
    assert client.get(address + PAGE, 4) == b"back"


def test_madvise_remove_needs_the_right_to_write(
    place: Path, region: int, client: poke.Poke
) -> None:
    """M7: who attached for reading cannot take memory away with MADV_REMOVE: EACCES."""
    writer = client.attach(place, SIZE)
    client.put(writer, b"kept")
    reader = client.attach(place, SIZE, writable=False)
    remove = 9
    with refused(errno.EACCES):
        client.call("madvise", reader, PAGE, remove)
    assert client.get(writer, 4) == b"kept"


def test_mlock(mounted: Mount, place: Path, region: int, client: poke.Poke, *, paged: bool) -> None:
    """M7: locks what is mapped; over a hole it fails, as over any missing page. P6: on the paged
    plane, where it cannot fail, see test_populate.py."""
    address = client.attach(place, SIZE)
    assert client.call("mlock", address, 2 * HUGE) == 0
    assert poke.smaps(client.pid, address, SIZE)["Locked"] > 0
    if not paged:
        with refused(errno.ENOMEM, errno.EFAULT, errno.EAGAIN):
            client.call("mlock", address + 2 * HUGE, HUGE)
    assert client.call("munlock", address, 2 * HUGE) == 0


def test_mbind(place: Path, region: int, client: poke.Poke) -> None:
    """M7: a memory policy can be set on a window, where the kernel has policies at all."""
    address = client.attach(place, SIZE)
    try:
        assert client.call("mbind", address, HUGE, 0, 0, 0, 0) == 0
    except OSError as error:
        if error.errno == errno.ENOSYS:
            pytest.skip("this kernel has no memory policies")
        raise
    client.put(address, b"x")
    assert client.get(address) == b"x"


@pytest.mark.by_mmap("the memory has a name of its own, see tests/direct/test_seen.py")
def test_maps_shows_the_path(place: Path, region: int, client: poke.Poke) -> None:
    """M9: /proc/PID/maps names the region's path on the mount, with "(deleted)" after unlink."""
    client.attach(place, SIZE)
    (line,) = poke.mapping_of(client.pid, place)
    assert line.split()[1] == "rw-s"
    place.unlink()
    assert not poke.mapping_of(client.pid, place)
    assert poke.mapping_of(client.pid, f"{place} (deleted)")


def test_resident_size_is_true(place: Path, region: int, client: poke.Poke) -> None:
    """M9: Rss in smaps is what the process touched; Size the whole window."""
    address = client.attach(place, SIZE)
    client.fill(address, HUGE, 1)
    numbers = poke.smaps(client.pid, address, SIZE)
    assert (numbers["Rss"], numbers["Size"]) == (HUGE // 1024, SIZE // 1024)


def test_fork(place: Path, region: int, client: poke.Poke, *, direct: bool) -> None:
    """M10: a child has the same memory, sees what was written and is seen; holes stay holes, but for D7."""
    address = client.attach(place, SIZE)
    client.put(address, b"parent")
    assert client.forked(f"get {address} 6")[1][0] == b"parent"
    client.forked(f"put {address} {b'child!'.hex()}")
    assert client.get(address, 6) == b"child!"
    touch = f"get {address + 3 * HUGE} 1"
    if direct and not PRIVILEGED:
        assert client.forked(touch)[1][0] == b"\0"
        return
    with faults():
        client.forked(touch)


def test_child_may_map_and_unmap(place: Path, region: int, client: poke.Poke) -> None:
    """M10: the inherited descriptor works in a child; the parent sees the effect."""
    fd = client.open(place)
    address = client.window(fd, SIZE)
    payload = raw.unmap_payload(0, HUGE)
    client.forked(poke.command("ioctl", fd, raw.UNMAP, payload))
    assert client.probe(address, SIZE, step=HUGE) == "0100"


def test_creator_exits(place: Path, make_poke: MakePoke) -> None:
    """M11: size, mappings and contents stay when the process that made them is gone."""
    creator, other = make_poke(), make_poke()
    fd = creator.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    creator.call("ftruncate", fd, HUGE)
    creator.create_mapping(fd, 0, HUGE)
    creator.put(creator.window(fd, HUGE), b"legacy")
    pid = creator.pid
    creator.kill()
    assert other.get(other.attach(place, HUGE), 6) == b"legacy"
    layout = raw.layout(place)
    assert (layout["mapped"], layout["creator"]["pid"]) == (HUGE, pid)
    place.unlink()


def test_creating_thread_exits(place: Path, client: poke.Poke) -> None:
    """M11: the end of the thread that created a region is nothing to its process or to others."""
    opened_by_thread: list[int] = []

    def create() -> None:
        opened_by_thread.append(os.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        os.ftruncate(opened_by_thread[0], SIZE)
        create_mapping(opened_by_thread[0], 0, HUGE)

    thread = threading.Thread(target=create)
    thread.start()
    thread.join()
    create_mapping(opened_by_thread[0], HUGE, HUGE)
    os.close(opened_by_thread[0])
    address = client.attach(place, SIZE)
    client.fill(address, 2 * HUGE, 1)
    assert raw.layout(place)["mapped"] == 2 * HUGE
    place.unlink()


def test_attached_memory_outlives_close(place: Path, region: int, client: poke.Poke) -> None:
    """M5: after close of every descriptor the window still is the region."""
    address = client.attach(place, SIZE)
    create_mapping(region, 0, HUGE)
    client.put(address, b"x")
    raw.unmap(region, 0, HUGE)
    with faults():
        client.get(address)


def test_alignment_of_small_regions(make_mount: MakeMount, make_poke: MakePoke) -> None:
    """M1, M6: with align=4096 a region of a few pages works as well, without huge pages."""
    path = make_mount("size=16M,align=4096").path / "r"
    with raw.region(path, 5 * PAGE) as fd:
        create_mapping(fd, PAGE, 3 * PAGE)
        client = make_poke()
        address = client.attach(path, 5 * PAGE)
        assert client.probe(address, 5 * PAGE) == "01110"
        client.kill()
