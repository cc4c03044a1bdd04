"""Names on a mount where they differ from other file systems, and names of regions.

What is ordinary is checked by tests/conformance, on tmpfs as well.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from tests.conformance.rename import rename2
from tests.helpers import mount, poke, raw
from tests.helpers.raw import opened, refused

MOUNT_OPTIONS = "size=64M"
PLANES = ("passthrough", "paged")
ATTACHED = ("direct",)


def test_symlinks_are_refused(place: Path) -> None:
    """N6: symlink is EPERM and leaves no name."""
    with refused(errno.EPERM):
        os.symlink("target", place)
    assert not os.path.lexists(place)


@pytest.mark.parametrize(
    "kind",
    [stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK],
    ids=["character-device", "block-device", "pipe", "socket"],
)
def test_special_files_are_refused(place: Path, kind: int) -> None:
    """N6: mknod of a device, pipe or socket is EPERM and leaves no name."""
    with refused(errno.EPERM):
        os.mknod(place, kind | 0o600, os.makedev(1, 3))
    assert not os.path.lexists(place)


@pytest.mark.parametrize("flags", [4, 5, 6, 7, 3, 8, 1 << 31])
def test_renames_of_other_kinds_are_refused(place: Path, flags: int) -> None:
    """N15: RENAME_WHITEOUT (4), both others at once, and what nobody knows: EINVAL."""
    with raw.region(place):
        before = sorted(os.listdir(place.parent))
        with refused(errno.EINVAL):
            rename2(place, place.with_name(place.name + "-moved"), flags)
        assert sorted(os.listdir(place.parent)) == before


def test_nameless_files_are_refused(mounted: mount.Mount) -> None:
    """N7: O_TMPFILE is EOPNOTSUPP."""
    with refused(errno.EOPNOTSUPP), opened(mounted.path, os.O_TMPFILE | os.O_RDWR):
        pass


def test_rename_keeps_the_region(place: Path, client: poke.Poke) -> None:
    """N1: a region that is renamed keeps size, mappings and contents."""
    with raw.region(place, raw.HUGE, mapped=True) as fd:
        client.put(client.attach(place, raw.HUGE), b"before")
        moved = place.with_name(place.name + "-moved")
        place.rename(moved)
        assert client.get(client.attach(moved, raw.HUGE), 6) == b"before"
        assert raw.layout(moved) == raw.layout(fd)
        assert moved.stat().st_size == raw.HUGE
        moved.unlink()


def test_hard_link_is_the_same_region(place: Path, client: poke.Poke) -> None:
    """N2: through either name the same memory, size and layout, also after one is gone."""
    second = place.with_name(place.name + "-second")
    with raw.region(place) as fd:
        os.link(place, second)
        os.ftruncate(fd, raw.HUGE)
        assert second.stat().st_size == raw.HUGE
        with opened(second) as other:
            raw.create_mapping(other, 0, raw.HUGE)
        assert raw.layout(place)["mappings"] == raw.layout(second)["mappings"]
        assert place.stat().st_blocks == second.stat().st_blocks == raw.HUGE // 512
        one, two = client.attach(place, raw.HUGE), client.attach(second, raw.HUGE)
        client.put(one + 5, b"shared")
        assert client.get(two + 5, 6) == b"shared"
        place.unlink()
        assert second.stat().st_nlink == 1
        assert client.get(client.attach(second, raw.HUGE) + 5, 6) == b"shared"
        second.unlink()


def test_name_of_an_unlinked_region_makes_a_new_one(place: Path, client: poke.Poke) -> None:
    """N10: the old region stays with who has it; the new one under its name is unsized and empty."""
    with raw.region(place, raw.HUGE, mapped=True) as old:
        address = client.attach(place, raw.HUGE)
        client.put(address, b"old")
        place.unlink()
        with raw.region(place) as new:
            assert os.fstat(new).st_size == 0
            os.ftruncate(new, raw.HUGE)
            raw.create_mapping(new, 0, raw.HUGE)
            assert client.get(client.attach(place, raw.HUGE), 3) == bytes(3)
            assert client.get(address, 3) == b"old"
            assert os.fstat(old).st_ino != os.fstat(new).st_ino


def test_unlinked_region_works_while_open(place: Path, client: poke.Poke) -> None:
    """N10: without a name it can still be sized, mapped, attached, unmapped and looked at."""
    fd = client.open(place, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    place.unlink()
    client.call("ftruncate", fd, raw.HUGE)
    client.create_mapping(fd, 0, raw.HUGE)
    address = client.window(fd, raw.HUGE)
    client.put(address, b"nameless")
    assert client.get(client.window(fd, raw.HUGE), 8) == b"nameless"
    layout = raw.layout(f"/proc/{client.pid}/fd/{fd}")
    assert (layout["size"], layout["mapped"]) == (raw.HUGE, raw.HUGE)
    client.unmap(fd, 0, raw.PAGE)
    with poke.faults():
        client.get(address)
    assert client.get(address + raw.PAGE) == b"\0"


def test_region_replaced_by_rename_lives_on(place: Path, client: poke.Poke) -> None:
    """N10: a rename onto a region takes its name, not its memory."""
    other = place.with_name(place.name + "-other")
    with raw.region(place, raw.HUGE, mapped=True), raw.region(other, raw.HUGE, mapped=True):
        address = client.attach(place, raw.HUGE)
        client.put(address, b"replaced")
        client.put(client.attach(other, raw.HUGE), b"replacer")
        other.rename(place)
        assert client.get(address, 8) == b"replaced"
        assert client.get(client.attach(place, raw.HUGE), 8) == b"replacer"


def test_regions_in_directories(place: Path, client: poke.Poke) -> None:
    """N1: a region in a directory works like one in the root, and moves between directories."""
    (place / "a" / "b").mkdir(parents=True)
    with raw.region(place / "a" / "b" / "region", raw.HUGE, mapped=True):
        client.put(client.attach(place / "a" / "b" / "region", raw.HUGE), b"deep")
        (place / "a").rename(place / "c")
        (place / "c" / "b" / "region").rename(place / "region")
        assert client.get(client.attach(place / "region", raw.HUGE), 4) == b"deep"
        (place / "region").unlink()
    (place / "c" / "b").rmdir()
    (place / "c").rmdir()
    place.rmdir()


def test_mknod_makes_a_region(place: Path) -> None:
    """N14: mknod of a regular file is another way to make a region (NFS servers use it)."""
    os.mknod(place, stat.S_IFREG | 0o640)
    assert place.stat().st_size == 0
    with refused(errno.EEXIST):
        os.mknod(place, stat.S_IFREG | 0o600)
    with opened(place) as fd:
        os.ftruncate(fd, raw.HUGE)
        raw.create_mapping(fd, 0, raw.HUGE)
        assert raw.layout(fd)["mapped"] == raw.HUGE
    assert stat.S_IMODE(place.stat().st_mode) == 0o640
    place.unlink()


def test_inode_numbers_are_not_used_again(place: Path) -> None:
    """N1: a program that remembers a region by its number is never shown another one."""
    seen = set()
    for _ in range(50):
        with raw.region(place) as fd:
            seen.add(os.fstat(fd).st_ino)
    assert len(seen) == 50
