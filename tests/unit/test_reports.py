"""The JSON of layout and status, and what `df` and `df -i` show."""

from __future__ import annotations

import errno
import json
from typing import Any

import pytest

from msharefs import abi
from msharefs.core import reports
from msharefs.core.inode import ROOT_INO, Caller
from msharefs.core.layout import Mapping
from msharefs.core.quotas import UNLIMITED, Share
from msharefs.core.region import Region
from tests.unit.support.worlds import ALICE, BOB, MIB, PAGE, World, make_world, refused

XATTR_SIZE_MAX = 65536
"""The kernel's limit on the value of an extended attribute (xattr(7))."""


@pytest.fixture
def world() -> World:
    """A mount of 64 MiB."""
    return make_world(nr_inodes=10)


def layout(region: Region, start: int = 0, room: int = XATTR_SIZE_MAX) -> dict[str, Any]:
    """The layout attribute, which must fit into an extended attribute."""
    text = reports.layout_json(region, start, room, collapsed=0)
    assert len(text) <= room
    document: dict[str, Any] = json.loads(text)
    return document


def all_mappings(region: Region, room: int = XATTR_SIZE_MAX) -> list[dict[str, Any]]:
    """The mappings of all parts, as a client reads them: "next" leads from one to the next."""
    found: list[dict[str, Any]] = []
    position: int | None = 0
    while position is not None:
        part = layout(region, position, room)
        found += part["mappings"]
        assert part["next"] is None or part["next"] > position
        position = part["next"]
    return found


def region_with(mappings: list[Mapping], size: int = 1 << 40) -> Region:
    """A sized region with these in its layout."""
    region = Region(3, 0o600, 0, 0, 1, ALICE)
    region.become_sized(size)
    for mapping in mappings:
        region.layout.insert(mapping)
    return region


def test_regions_that_everybody_may_list_are_told_of(world: World) -> None:
    """Each once, whatever names it has; what a closed directory hides stays hidden."""
    names = world.manager
    region = world.region(b"a", size=4 * MIB)
    world.map(region, 0, 2 * PAGE)
    names.link(None, region.ino, ROOT_INO, b"again")
    for name, mode in ((b"open", 0o755), (b"closed", 0o750), (b"searched", 0o711)):
        directory = names.mkdir(None, ROOT_INO, name, mode, ALICE)
        world.region(b"r", parent=directory.ino)
    told = reports.by_region(world.manager)
    assert [each["path"] for each in told] == [b"/a", b"/open/r"]
    assert told[0] == {
        "path": b"/a",
        "size": 4 * MIB,
        "mapped": 2 * PAGE,
        "reserved": 2 * PAGE,
        "mappings": 1,
        "open_handles": 1,
        "maps": 1,
        "unmaps": 0,
    }


def test_however_many_regions_a_bounded_number_is_told_of() -> None:
    """And a bounded number of names is looked at for them."""
    world = make_world(nr_inodes=1000)
    for number in range(20):
        world.region(b"%d" % number)
    assert [each["path"] for each in reports.by_region(world.manager, 3)] == [b"/0", b"/1", b"/2"]
    first = world.manager.names.find(ROOT_INO, b"0")
    assert first is not None
    for number in range(100):
        world.manager.link(None, first.ino, ROOT_INO, b"link%d" % number)
    world.region(b"last")
    assert len(reports.by_region(world.manager, 22)) == 20


def test_layout_of_a_region(world: World) -> None:
    """Every field, as documented."""
    region = world.region(b"a", size=4 * MIB)
    world.map(region, PAGE, 2 * PAGE)
    world.map(region, 2 * MIB, 1, flags=abi.MAP_HUGETLB | abi.MAP_NORESERVE, prot=abi.PROT_READ)
    world.unmap(region, PAGE, PAGE)
    assert layout(region) == {
        "version": 1,
        "size": 4 * MIB,
        "mapped": PAGE + 2 * MIB,
        "reserved": PAGE,
        "collapsed": 0,
        "mapping_count": 2,
        "mappings": [
            {"offset": 2 * PAGE, "size": PAGE, "prot": "rw-", "reserve": True, "huge": False},
            {"offset": 2 * MIB, "size": 2 * MIB, "prot": "r--", "reserve": False, "huge": True},
        ],
        "next": None,
        "creator": {"pid": ALICE.pid, "uid": ALICE.uid, "gid": ALICE.gid},
        "open_handles": 1,
        "counters": {"maps": 2, "unmaps": 1},
    }


def test_layout_of_a_region_without_a_size(world: World) -> None:
    """Zeros and no mappings."""
    document = layout(world.region(b"a", size=0))
    assert (document["size"], document["mapped"], document["mappings"]) == (0, 0, [])
    assert document["next"] is None


@pytest.mark.parametrize(("count", "parts"), [(499, 1), (500, 1), (501, 2), (1000, 2), (1001, 3)])
def test_a_long_layout_is_cut_at_500(count: int, parts: int) -> None:
    """Each part says where the next begins, the last one null; the count is of all."""
    region = region_with([Mapping(i * 2 * PAGE, (i * 2 + 1) * PAGE, 3) for i in range(count)])
    first = layout(region)
    assert first["mapping_count"] == count
    assert len(first["mappings"]) == min(count, 500)
    assert first["next"] == (None if parts == 1 else 500 * 2 * PAGE)
    offsets = [m["offset"] for m in all_mappings(region)]
    assert offsets == [i * 2 * PAGE for i in range(count)]


def test_a_layout_of_60000_mappings() -> None:
    """Following "next" gives each of them once, in order."""
    region = region_with([Mapping(i * PAGE, (i + 1) * PAGE, i % 8) for i in range(60_000)])
    found = all_mappings(region)
    assert [m["offset"] for m in found] == list(range(0, 60_000 * PAGE, PAGE))
    assert layout(region)["mapping_count"] == 60_000


def test_the_longest_part_fits_into_an_attribute() -> None:
    """500 mappings with numbers and words as long as they come."""
    top = abi.MAX_FILE_SIZE // PAGE * PAGE
    start = top - 1000 * PAGE
    mappings = [
        Mapping(start + i * PAGE, start + (i + 1) * PAGE, 7, reserve=False) for i in range(1000)
    ]
    region = region_with(mappings, size=top)
    region.maps = region.unmaps = 1 << 63
    assert len(layout(region)["mappings"]) == 500


@pytest.mark.parametrize("room", [500, 1000, 4096, 30_000])
def test_a_part_is_as_long_as_its_room_allows(room: int) -> None:
    """And no longer; following "next" gives each mapping once, whatever the room."""
    region = region_with([Mapping(i * PAGE, (i + 1) * PAGE, i % 8) for i in range(700)])
    offsets = [m["offset"] for m in all_mappings(region, room)]
    assert offsets == list(range(0, 700 * PAGE, PAGE))
    one = len(json.dumps(layout(region)["mappings"][-1]))
    assert len(reports.layout_json(region, 0, room, collapsed=0)) > room - 2 * one


def test_a_part_has_one_mapping_at_least() -> None:
    """Without one a reader of "next" would not come forward: it is for the caller to refuse."""
    region = region_with([Mapping(i * PAGE, (i + 1) * PAGE, 3) for i in range(3)])
    document = json.loads(reports.layout_json(region, PAGE, 10, collapsed=0))
    assert [m["offset"] for m in document["mappings"]] == [PAGE]
    assert document["next"] == 2 * PAGE


@pytest.mark.parametrize(
    ("start", "first"),
    [(0, 0), (1, 0), (4 * PAGE - 1, 0), (4 * PAGE, 8), (8 * PAGE, 8), (10 * PAGE, None)],
)
def test_a_part_begins_with_what_reaches_beyond_its_start(start: int, first: int | None) -> None:
    """Mappings that end at or before the offset are left out."""
    region = region_with([Mapping(0, 4 * PAGE, 3), Mapping(8 * PAGE, 10 * PAGE, 3)])
    offsets = [m["offset"] // PAGE for m in layout(region, start)["mappings"]]
    assert offsets[:1] == ([] if first is None else [first])


def test_status_counts_everything(world: World) -> None:
    """Core's part of the mount's status."""
    region = world.region(b"a", size=4 * MIB)
    world.region(b"b", size=0)
    world.map(region, 0, 3 * PAGE)
    world.map(region, MIB, PAGE, flags=abi.MAP_NORESERVE)
    assert reports.status(world.manager) == {
        "arena": {
            "size": 64 * MIB,
            "reserved": 3 * PAGE,
            "used": 3 * PAGE,
            "limit": 4 * PAGE,
            "huge": "never",
            "overcommit": True,
        },
        "huge_pages": {"collapsed": 0, "obstacle": None},
        "inodes": {"limit": 10, "used": 4},
        "regions": 2,
        "mappings": 2,
        "mappings_limit": UNLIMITED,
        "files": {"limit": UNLIMITED, "mapped": 0},
        "user_limits": {"size": None, "inodes": None, "mappings": None, "files": None},
        "users": {
            str(ALICE.uid): {"size": 4 * PAGE, "inodes": 2, "mappings": 2, "files": 0},
            "0": {"size": 0, "inodes": 2, "mappings": 0, "files": 0},
        },
        "open_handles": 2,
    }


def test_df_of_an_empty_mount(world: World) -> None:
    """All of -o size= is free; the root directory and mshare_info are inodes in use."""
    size = reports.file_system_size(world.manager, ALICE.uid)
    assert (size.pages, size.pages_free) == (64 * MIB // PAGE, 64 * MIB // PAGE)
    assert (size.inodes, size.inodes_free) == (10, 8)


def test_df_follows_mapping_and_unmapping(world: World) -> None:
    """Reserved memory is used memory, touched or not; afterwards it is free again."""
    region = world.region(b"a", size=4 * MIB)
    world.map(region, 0, MIB)
    assert reports.file_system_size(world.manager, ALICE.uid).pages_free == 63 * MIB // PAGE
    world.unmap(region, 0, MIB)
    assert reports.file_system_size(world.manager, ALICE.uid).pages_free == 64 * MIB // PAGE


def test_df_counts_memory_that_is_nobodys_any_more(world: World) -> None:
    """Such as that of an unlinked region which a process still has mapped."""
    world.memory.held = MIB
    assert reports.file_system_size(world.manager, ALICE.uid).pages_free == 63 * MIB // PAGE


def test_df_counts_a_promise_under_way(world: World) -> None:
    """What a worker is about to reserve is not free."""
    region = world.region(b"a", size=4 * MIB)
    plan = world.plan(region, abi.CreateMapping(0, MIB))
    assert reports.file_system_size(world.manager, ALICE.uid).pages_free == 63 * MIB // PAGE
    world.manager.mappings.perform(plan)
    assert reports.file_system_size(world.manager, ALICE.uid).pages_free == 63 * MIB // PAGE


def test_df_never_shows_less_than_nothing(world: World) -> None:
    """Whatever is in use beyond what should be."""
    world.memory.held = 65 * MIB
    assert reports.file_system_size(world.manager, ALICE.uid).pages_free == 0


def test_df_shows_what_who_asks_may_have() -> None:
    """The mount's size and what is free of it is the same for all; root may have all of that."""
    world = make_world(nr_inodes=10, user=Share(2 * MIB, 3, UNLIMITED, 7))
    world.map(world.region(b"a", size=4 * MIB), 0, MIB)
    for uid, pages in ((ALICE.uid, 256), (BOB.uid, 512), (0, 63 * 256)):
        size = reports.file_system_size(world.manager, uid)
        assert (size.pages, size.pages_free, size.inodes_free) == (64 * 256, 63 * 256, 7)
        assert size.pages_available == pages
    status = reports.status(world.manager)
    assert status["user_limits"] == {"size": 2 * MIB, "inodes": 3, "mappings": None, "files": 7}


def test_the_users_with_most_are_told() -> None:
    """And not all, of whom there may be very many."""
    world = make_world()
    for uid in range(1, 300):
        world.manager.mkdir(None, ROOT_INO, b"%d" % uid, 0o700, Caller(1, uid, uid))
    region = world.region(b"r")
    world.map(region, 0, PAGE)
    users = reports.status(world.manager)["users"]
    assert len(users) == 100
    assert next(iter(users)) == str(ALICE.uid)


def test_df_of_inodes_that_are_used_up() -> None:
    """None is free, and the next creation says ENOSPC."""
    world = make_world(nr_inodes=2)
    assert reports.file_system_size(world.manager, ALICE.uid).inodes_free == 0
    with refused(errno.ENOSPC):
        world.manager.mkdir(None, ROOT_INO, b"d", 0o700, ALICE)
