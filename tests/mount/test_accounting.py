"""df, df -i, st_blocks, layout and status: they tell the truth, and always the same one."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from tests.helpers import mount, poke, raw
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.raw import HUGE, PAGE, create_mapping, opened, unmap
from tests.helpers.waiting import eventually

MOUNT_OPTIONS = "size=64M,align=4096"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)

CAPACITY = 64 * raw.MIB
SIZE = 8 * HUGE


def test_empty_mount(mounted: mount.Mount) -> None:
    """N11: df shows the whole size= as free, df -i two inodes (the root and mshare_info)."""
    mounted.wait_until_empty()
    numbers = os.statvfs(mounted.path)
    assert numbers.f_frsize == PAGE
    assert numbers.f_blocks * PAGE == CAPACITY
    assert numbers.f_bfree == numbers.f_bavail == numbers.f_blocks
    assert raw.used_inodes(mounted.path) == 2


def test_df_follows_every_change(place: Path) -> None:
    """N11: free blocks fall and rise by exactly what is mapped and unmapped, overlaps once."""
    with raw.region(place, SIZE) as fd:
        steps = [
            (create_mapping, 0, PAGE, PAGE),
            (create_mapping, HUGE, HUGE, HUGE + PAGE),
            (create_mapping, HUGE + PAGE, HUGE, HUGE + 2 * PAGE),
            (unmap, HUGE + 2 * PAGE, 5 * PAGE, HUGE - 3 * PAGE),
            (create_mapping, 0, 4 * HUGE, 4 * HUGE),
            (unmap, 4 * HUGE, HUGE, 4 * HUGE),
            (unmap, PAGE, SIZE - PAGE, PAGE),
            (unmap, 0, SIZE, 0),
        ]
        for change, offset, size, expected in steps:
            change(fd, offset, size)
            assert CAPACITY - raw.free_bytes(place) == expected, (change, offset, size)
            assert place.stat().st_blocks * 512 == expected
            assert raw.layout(fd)["reserved"] == expected


def test_df_command(place: Path) -> None:
    """N11: what df(1) prints in kibibytes."""
    with raw.region(place, SIZE) as fd:
        create_mapping(fd, 0, 3 * HUGE)
        output = subprocess.run(
            ["df", "--output=size,used,avail", "-k", str(place.parent)],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout
    assert [int(word) for word in output.split("\n")[1].split()] == [65536, 6144, 59392]


def test_inodes_are_counted(place: Path) -> None:
    """N11: each region and directory counts, and each further name, as on tmpfs; removing frees it."""
    base = raw.used_inodes(place.parent)
    place.mkdir()
    with raw.region(place / "a"), raw.region(place / "b"):
        os.link(place / "a", place / "c")
        assert raw.used_inodes(place) == base + 4
        os.unlink(place / "c")
        assert raw.used_inodes(place) == base + 3
    place.rmdir()
    eventually(lambda: raw.used_inodes(place.parent) == base, what="inodes of what was removed")


def test_status_adds_up(mounted: mount.Mount, place: Path) -> None:
    """R5: the sums in the status are those of all layouts."""
    place.mkdir()
    with raw.region(place / "a", SIZE) as a, raw.region(place / "b", SIZE) as b:
        create_mapping(a, 0, HUGE)
        create_mapping(a, 2 * HUGE, PAGE)
        create_mapping(b, 0, 3 * PAGE)
        status = mounted.status()
        layouts = [raw.layout(a), raw.layout(b)]
    assert status["regions"] == 2
    assert status["mappings"] == sum(each["mapping_count"] for each in layouts) == 3
    arena = status["arena"]
    assert arena["reserved"] == sum(each["reserved"] for each in layouts) == HUGE + 4 * PAGE
    assert arena["used"] == arena["limit"] == arena["reserved"]
    assert (arena["size"], arena["huge"]) == (CAPACITY, "always")
    assert status["open_handles"] == 2
    place.rmdir()


def test_handles_are_counted(
    mounted: mount.Mount, place: Path, client: poke.Poke, *, paged: bool, direct: bool
) -> None:
    """R5: each open is a handle until its close; a mapping is none; a dup is the same handle.

    On the paged plane a mapping keeps its handle, with which the kernel asks for pages; and so does who has
    the memory itself.
    """
    with raw.region(place, HUGE) as fd:
        first = client.open(place)
        second = client.open(place, os.O_RDONLY)
        client.call("dup", second)
        address = client.window(first, HUGE)
        assert raw.layout(fd)["open_handles"] == mounted.status()["open_handles"] == 3
        client.close(first)
        if paged or direct:
            assert raw.layout(fd)["open_handles"] == 3
            client.detach(address, HUGE)
        eventually(lambda: raw.layout(fd)["open_handles"] == 2)
        client.close(second)
        assert raw.layout(fd)["open_handles"] == 2
        client.kill()
        eventually(lambda: raw.layout(fd)["open_handles"] == 1)


def test_operations_are_counted(mounted: mount.Mount, place: Path) -> None:
    """R5: the status counts requests by kind, and the refused ones among them."""
    with raw.region(place, HUGE) as fd:
        before = mounted.status()["operations"].get("IOCTL", {"count": 0, "errors": 0})
        create_mapping(fd, 0, HUGE)
        with raw.refused(errno.EINVAL):
            create_mapping(fd, 1, HUGE)
        after = mounted.status()["operations"]["IOCTL"]
    assert after["count"] == before["count"] + 2
    assert after["errors"] == before["errors"] + 1
    assert after["seconds"] > 0


def test_long_layout(place: Path) -> None:
    """R5: a layout that does not fit one attribute goes on in others, and nothing is missing."""
    count = 2500
    with raw.region(place, 2 * count * PAGE) as fd:
        for number in range(count):
            create_mapping(fd, 2 * number * PAGE, PAGE)
        first = os.getxattr(place, "user.msharefs.layout")
        assert len(first) <= 65536
        layout = raw.layout(place)
        assert layout["mapping_count"] == count
        assert [m["offset"] for m in layout["mappings"]] == [2 * n * PAGE for n in range(count)]
        middle = os.getxattr(place, f"user.msharefs.layout.{count * PAGE}")
        assert f'"offset": {count * PAGE},'.encode() in middle
        with raw.refused(errno.ENODATA):
            os.getxattr(place, "user.msharefs.layout.x")


def test_unlinked_but_mapped_memory(place: Path, make_poke: MakePoke) -> None:
    """N10: df shows it used until the last munmap, exit or kill, then at once as free."""
    one, two = make_poke(), make_poke()
    with raw.region(place, SIZE, mapped=True):
        first, second = one.attach(place, SIZE), two.attach(place, SIZE)
        one.put(first, b"alive")
    assert two.get(second, 5) == b"alive"
    assert CAPACITY - raw.free_bytes(place.parent) == SIZE
    one.detach(first, SIZE)
    assert two.get(second, 5) == b"alive"
    assert CAPACITY - raw.free_bytes(place.parent) == SIZE
    two.kill()
    eventually(lambda: raw.free_bytes(place.parent) == CAPACITY)


def test_unlinked_but_mapped_memory_can_be_mapped_again_after(
    place: Path, client: poke.Poke
) -> None:
    """N10, C9: a full mount of which an unlinked region holds half takes no more until it goes."""
    with raw.region(place, CAPACITY // 2, mapped=True):
        address = client.attach(place, CAPACITY // 2)
    with raw.region(place, CAPACITY) as fd:
        with raw.refused(errno.ENOMEM):
            create_mapping(fd, 0, CAPACITY)
        create_mapping(fd, 0, CAPACITY // 2)
        client.detach(address, CAPACITY // 2)

        def fits() -> bool:
            try:
                create_mapping(fd, CAPACITY // 2, CAPACITY // 2)
            except OSError as error:
                if error.errno != errno.ENOMEM:
                    raise
                return False
            return True

        eventually(fits)
        assert raw.free_bytes(place) == 0


@pytest.mark.by_mmap("the header takes all of an attachment away, or nothing")
def test_part_of_an_unlinked_region_stays_mapped(place: Path, client: poke.Poke) -> None:
    """N10: a window of one page keeps the whole region's memory, as any file system does."""
    with raw.region(place, HUGE, mapped=True):
        address = client.attach(place, HUGE)
    client.munmap(address + PAGE, HUGE - PAGE)
    assert CAPACITY - raw.free_bytes(place.parent) == HUGE
    client.munmap(address, PAGE)
    eventually(lambda: raw.free_bytes(place.parent) == CAPACITY)


def test_removed_region_is_free_at_once(place: Path) -> None:
    """N10: close and unlink of what nobody has mapped give the memory back without delay."""
    for _ in range(20):
        with raw.region(place, CAPACITY // 2, mapped=True):
            pass
        eventually(lambda: raw.free_bytes(place.parent) == CAPACITY, timeout=2)


@pytest.mark.parametrize(("share", "rounds"), [(2, 50), (32, 500)], ids=["half", "small"])
def test_removed_region_can_be_replaced_at_once(place: Path, share: int, rounds: int) -> None:
    """N10, C9: a region that is mapped, unlinked and closed over and over is never ENOMEM."""
    for _ in range(rounds):
        with raw.region(place, CAPACITY // share, mapped=True) as fd:
            os.unlink(place)
            assert os.fstat(fd).st_nlink == 0


def test_touches_of_holes_do_not_starve_mappings(place: Path, make_poke: MakePoke) -> None:
    """C9, M6: a process that touches holes all the time costs nobody else an ENOMEM."""
    other = place.with_name(place.name + "-other")
    toucher = make_poke()
    with raw.region(place, SIZE) as fd, raw.region(other, SIZE) as second:
        address = toucher.attach(other, SIZE)
        toucher.forever(f"probe {address} {SIZE} {PAGE} r")
        for count in (1, 16, 512) * 100:
            create_mapping(fd, 0, count * PAGE)
            unmap(fd, 0, count * PAGE)
        toucher.kill()
        # What it found while the budget was free never becomes data, and is given back.
        create_mapping(second, 0, SIZE)
        reader = make_poke()
        assert reader.holds(reader.attach(other, SIZE), SIZE, 0)
        unmap(second, 0, SIZE)
        eventually(lambda: raw.free_bytes(place) == CAPACITY)


@pytest.mark.parametrize("policy", ["always", "within_size", "advise", "never"])
def test_huge_policies(make_mount: MakeMount, make_poke: MakePoke, policy: str) -> None:
    """N11: accounting and holes are exact with every huge= policy."""
    mounted = make_mount(f"size=16M,huge={policy}")
    path = mounted.path / "r"
    assert mounted.status()["arena"]["huge"] == policy
    with raw.region(path, 4 * HUGE) as fd:
        create_mapping(fd, 0, HUGE)
        create_mapping(fd, HUGE + 3 * PAGE, 7 * PAGE)
        client = make_poke()
        address = client.attach(path, 4 * HUGE)
        pages = HUGE // PAGE
        expected = "1" * pages + "000" + "1" * 7 + "0" * (3 * pages - 10)
        assert client.probe(address, 4 * HUGE, writing=True) == expected
        assert 16 * raw.MIB - raw.free_bytes(path) == HUGE + 7 * PAGE
        client.kill()


def test_memory_of_the_machine_is_the_limit_of_last_resort(make_mount: MakeMount) -> None:
    """C9: size= may be more than there is; what the machine does not have is ENOMEM, not a crash."""
    mounted = make_mount("size=100T")
    with raw.region(mounted.path / "r", 50 << 40) as fd:
        with raw.refused(errno.ENOMEM):
            create_mapping(fd, 0, 50 << 40)
        assert raw.layout(fd)["mappings"] == []
        create_mapping(fd, 0, HUGE)
        assert 100 * 2**40 - raw.free_bytes(mounted.path) == HUGE


def test_descriptor_is_not_needed_for_the_layout(place: Path) -> None:
    """R5: the path, a descriptor and /proc/self/fd give the same report."""
    with raw.region(place, HUGE, mapped=True) as fd, opened(place, os.O_RDONLY) as second:
        assert raw.layout(place) == raw.layout(fd) == raw.layout(second)
        assert raw.layout(f"/proc/self/fd/{fd}") == raw.layout(fd)
