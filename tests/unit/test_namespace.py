"""Names, directories and links by themselves: no memory, no handles but their counts."""

from __future__ import annotations

import errno
import stat
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msharefs.core import namespace
from msharefs.core.inode import FIRST_FREE_INO, INFO_INO, ROOT_INO, Caller, Directory, Inode
from msharefs.core.namespace import (
    LEVELS_SHOWN,
    LINK_MAX,
    NAME_MAX,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    Namespace,
    RootAttributes,
)
from msharefs.core.quotas import NO_LIMITS, Quotas
from msharefs.core.region import Region
from tests.unit.support.fakes import FakeClock
from tests.unit.support.worlds import ALICE, BOB, inode_numbers, inode_state, refused

INFO = b"mshare_info"


def make_names(
    nr_inodes: int = 100,
) -> Namespace:
    """A tree with nothing in it but mshare_info."""
    root = RootAttributes(0o1777, 5, 6)
    return Namespace(
        root,
        info_name=INFO,
        info_text=b"2097152\n",
        nr_inodes=nr_inodes,
        quotas=Quotas(NO_LIMITS),
        clock=FakeClock(),
    )


@pytest.fixture
def names() -> Namespace:
    """A tree with nothing in it but mshare_info."""
    return make_names()


def add_region(names: Namespace, name: bytes, parent: int = ROOT_INO) -> Region:
    """A new region with this name."""
    region = names.new_region(parent, name, 0o640, ALICE)
    names.add(parent, name, region)
    return region


def add_directory(names: Namespace, name: bytes, parent: int = ROOT_INO) -> Directory:
    """A new directory with this name."""
    directory = names.new_directory(parent, name, 0o750, ALICE)
    names.add(parent, name, directory)
    return directory


def state(names: Namespace) -> dict[int, object]:
    """Everything that a refusal must not change."""
    return {ino: inode_state(names.get(ino)) for ino in inode_numbers(names)}


def listed(names: Namespace, ino: int = ROOT_INO) -> list[bytes]:
    """The names in a directory, in order."""
    return [entry.name for entry in names.directory(ino).listing(0, 1000)]


# What is there from the start


def test_the_root_has_the_mounts_mode_and_owner(names: Namespace) -> None:
    """Inode 1, a directory, its own parent."""
    root = names.directory(ROOT_INO)
    assert (root.ino, root.mode, root.uid, root.gid) == (1, stat.S_IFDIR | 0o1777, 5, 6)
    assert (root.parent, root.nlink, listed(names)) == (1, 2, [INFO])


def test_mshare_info_is_inode_2(names: Namespace) -> None:
    """A regular file that all may read, with the length of its text."""
    info = names.existing(ROOT_INO, INFO)
    assert (info.ino, info.mode, info.nlink) == (INFO_INO, stat.S_IFREG | 0o444, 1)
    assert (info.size, info.uid, info.gid) == (8, 5, 6)


# Making


def test_a_region_belongs_to_who_asks(names: Namespace) -> None:
    """Owner, group and permission bits as wanted, one name, no size."""
    region = add_region(names, b"a")
    assert (region.ino, region.mode) == (FIRST_FREE_INO, stat.S_IFREG | 0o640)
    assert (region.uid, region.gid, region.creator) == (ALICE.uid, ALICE.gid, ALICE)
    assert (region.nlink, region.size) == (1, 0)
    assert names.existing(ROOT_INO, b"a") is region


def test_regions_of_one_caller_share_what_is_known_of_him(names: Namespace) -> None:
    """There may be very many; one of another caller in between is his."""
    callers = (ALICE, Caller(*ALICE), Caller(*ALICE), BOB, Caller(*BOB))
    made = [names.new_region(ROOT_INO, b"%d" % n, 0, caller) for n, caller in enumerate(callers)]
    assert [region.creator for region in made] == [*callers]
    assert len({id(region.creator) for region in made}) == 2


def test_a_directory_has_two_links_and_one_for_each_child(names: Namespace) -> None:
    """Its name and ".", and the ".." of each directory in it."""
    top = add_directory(names, b"d")
    assert (top.nlink, top.mode) == (2, stat.S_IFDIR | 0o750)
    assert names.directory(ROOT_INO).nlink == 3
    add_directory(names, b"sub", top.ino)
    assert top.nlink == 3
    add_region(names, b"file", top.ino)
    assert top.nlink == 3


def test_set_group_id_directories_hand_their_group_on(names: Namespace) -> None:
    """A directory in it also inherits the bit (mkdir(2), open(2))."""
    shared = names.new_directory(ROOT_INO, b"s", 0o2770, BOB)
    names.add(ROOT_INO, b"s", shared)
    region = add_region(names, b"r", shared.ino)
    directory = add_directory(names, b"d", shared.ino)
    assert (region.uid, region.gid) == (ALICE.uid, BOB.gid)
    assert not region.mode & stat.S_ISGID
    assert (directory.gid, bool(directory.mode & stat.S_ISGID)) == (BOB.gid, True)


def test_names_are_bytes(names: Namespace) -> None:
    """Any but slash and zero, which cannot come: not UTF-8, spaces, newlines."""
    for name in (b"\xff\xfe", b" ", b"a\nb", "\N{SNOWMAN}".encode(), b"...", b"\\"):
        region = add_region(names, name)
        assert names.existing(ROOT_INO, name) is region


def test_a_name_has_255_bytes_at_most(names: Namespace) -> None:
    """255 is a name, 256 is ENAMETOOLONG in every operation, look-up included."""
    add_region(names, b"n" * NAME_MAX)
    too_long = b"n" * (NAME_MAX + 1)
    before = state(names)
    operations: list[Callable[[], object]] = [
        lambda: names.find(ROOT_INO, too_long),
        lambda: names.new_region(ROOT_INO, too_long, 0o600, ALICE),
        lambda: names.new_directory(ROOT_INO, too_long, 0o700, ALICE),
        lambda: names.unlink(ROOT_INO, too_long),
        lambda: names.rmdir(ROOT_INO, too_long),
        lambda: names.link(FIRST_FREE_INO, ROOT_INO, too_long),
        lambda: names.rename(ROOT_INO, b"n" * NAME_MAX, ROOT_INO, too_long, 0),
        lambda: names.rename(ROOT_INO, too_long, ROOT_INO, b"x", 0),
    ]
    for operation in operations:
        with refused(errno.ENAMETOOLONG):
            operation()
    assert state(names) == before


def test_a_taken_name_is_refused(names: Namespace) -> None:
    """EEXIST for every kind, mshare_info and "." and ".." included."""
    region = add_region(names, b"a")
    before = state(names)
    for name in (b"a", INFO, b".", b".."):
        with refused(errno.EEXIST):
            names.new_region(ROOT_INO, name, 0o600, ALICE)
        with refused(errno.EEXIST):
            names.new_directory(ROOT_INO, name, 0o700, ALICE)
        with refused(errno.EEXIST):
            names.link(region.ino, ROOT_INO, name)
    assert state(names) == before


def test_the_parent_must_be_a_directory(names: Namespace) -> None:
    """ENOTDIR below a region, ENOENT below a number that is not there."""
    region = add_region(names, b"a")
    with refused(errno.ENOTDIR):
        names.new_region(region.ino, b"b", 0o600, ALICE)
    with refused(errno.ENOENT):
        names.new_region(99, b"b", 0o600, ALICE)
    with refused(errno.ENOTDIR):
        names.find(INFO_INO, b"b")


def test_a_removed_directory_takes_no_names(names: Namespace) -> None:
    """ENOENT, although the kernel still holds it."""
    gone = add_directory(names, b"d")
    gone.lookups = 1
    names.rmdir(ROOT_INO, b"d")
    region = add_region(names, b"a")
    before = state(names)
    with refused(errno.ENOENT):
        names.new_region(gone.ino, b"b", 0o600, ALICE)
    with refused(errno.ENOENT):
        names.link(region.ino, gone.ino, b"b")
    with refused(errno.ENOENT):
        names.rename(ROOT_INO, b"a", gone.ino, b"b", 0)
    assert state(names) == before


def test_nr_inodes_is_the_limit(names: Namespace) -> None:
    """ENOSPC for the next one, and room again once one is gone; a further name counts, as on
    tmpfs, and a moved or replaced one does not."""
    names = make_names(nr_inodes=5)
    region = add_region(names, b"a")
    add_directory(names, b"d")
    names.link(region.ino, ROOT_INO, b"b")

    def nothing_can_be_added() -> bool:
        with refused(errno.ENOSPC):
            names.new_region(ROOT_INO, b"c", 0o600, ALICE)
        with refused(errno.ENOSPC):
            names.new_directory(ROOT_INO, b"c", 0o700, ALICE)
        with refused(errno.ENOSPC):
            names.link(region.ino, ROOT_INO, b"c")
        return len(names) == 5

    assert nothing_can_be_added()
    names.rename(ROOT_INO, b"b", ROOT_INO, b"e", 0)
    names.rename(ROOT_INO, b"a", ROOT_INO, b"d", RENAME_EXCHANGE)
    assert nothing_can_be_added()
    names.unlink(ROOT_INO, b"e")
    assert len(names) == 4
    names.link(region.ino, ROOT_INO, b"b")
    assert nothing_can_be_added()
    # The last name of an inode that is open: the inode counts until it is closed.
    region.opens = 1
    for name in (b"b", b"d"):
        names.unlink(ROOT_INO, name)
    assert len(names) == 4
    region.opens = region.lookups = 0
    names.drop_unreferenced(region)
    assert len(names) == 3


@pytest.mark.parametrize("name", [b"", b"a/b", b"/", b"a\0b"])
def test_what_is_no_name_is_refused(names: Namespace, name: bytes) -> None:
    """EINVAL, before anything changes; the kernel sends none."""
    region = add_region(names, b"a")
    before = state(names)
    attempts: list[Callable[[], object]] = [
        lambda: names.new_region(ROOT_INO, name, 0o600, ALICE),
        lambda: names.new_directory(ROOT_INO, name, 0o700, ALICE),
        lambda: names.link(region.ino, ROOT_INO, name),
        lambda: names.rename(ROOT_INO, b"a", ROOT_INO, name, 0),
        lambda: names.find(ROOT_INO, name),
    ]
    for attempt in attempts:
        with refused(errno.EINVAL):
            attempt()
    assert state(names) == before


@pytest.mark.parametrize("dots", [b".", b".."])
def test_dots_stay(names: Namespace, dots: bytes) -> None:
    """EINVAL for taking them away, moving or replacing them: they are in no table."""
    add_region(names, b"a")
    folder = add_directory(names, b"d")
    before = state(names)
    attempts: list[Callable[[], object]] = [
        lambda: names.unlink(folder.ino, dots),
        lambda: names.rmdir(folder.ino, dots),
        lambda: names.rename(folder.ino, dots, ROOT_INO, b"b", 0),
        lambda: names.rename(ROOT_INO, b"a", folder.ino, dots, 0),
        lambda: names.rename(ROOT_INO, b"a", folder.ino, dots, RENAME_EXCHANGE),
    ]
    for attempt in attempts:
        with refused(errno.EINVAL):
            attempt()
    assert state(names) == before


def test_further_names_are_counted_again() -> None:
    """By the next process, from the inodes that there are."""
    names = make_names(nr_inodes=5)
    region = add_region(names, b"a")
    names.link(region.ino, ROOT_INO, b"b")
    inodes = {ino: names.get(ino) for ino in (ROOT_INO, INFO_INO, region.ino)}
    names = make_names(nr_inodes=5)
    names.restore(inodes, last_ino=region.ino)
    assert len(names) == 4
    names.unlink(ROOT_INO, b"b")
    assert len(names) == 3


def test_inode_numbers_are_not_used_again(names: Namespace) -> None:
    """The kernel may still know the old one."""
    first = add_region(names, b"a")
    names.drop_unreferenced(names.unlink(ROOT_INO, b"a"))
    assert add_region(names, b"a").ino == first.ino + 1


def test_what_is_made_but_not_added_leaves_no_trace(names: Namespace) -> None:
    """The manager may fail between the two."""
    before = state(names)
    names.new_region(ROOT_INO, b"a", 0o600, ALICE)
    names.new_directory(ROOT_INO, b"a", 0o700, ALICE)
    assert state(names) == before
    assert add_region(names, b"a").ino == FIRST_FREE_INO


# Links and removal


def test_hard_links_count(names: Namespace) -> None:
    """st_nlink follows, ctime and the directory's times too."""
    region = add_region(names, b"a")
    before, root = region.ctime_ns, names.directory(ROOT_INO).mtime_ns
    assert names.link(region.ino, ROOT_INO, b"b") is region
    assert (region.nlink, names.existing(ROOT_INO, b"b")) == (2, region)
    assert region.ctime_ns > before
    assert names.directory(ROOT_INO).mtime_ns > root
    names.unlink(ROOT_INO, b"a")
    assert (region.nlink, listed(names)) == (1, [INFO, b"b"])


def test_what_cannot_be_linked(names: Namespace) -> None:
    """EPERM for directories and mshare_info, ENOENT without a name, EMLINK at the limit."""
    directory, region = add_directory(names, b"d"), add_region(names, b"a")
    for ino in (ROOT_INO, directory.ino, INFO_INO):
        with refused(errno.EPERM):
            names.link(ino, ROOT_INO, b"x")
    with refused(errno.ENOENT):
        names.link(99, ROOT_INO, b"x")
    region.nlink = LINK_MAX
    with refused(errno.EMLINK):
        names.link(region.ino, ROOT_INO, b"x")
    region.nlink, region.opens = 1, 1
    names.unlink(ROOT_INO, b"a")
    with refused(errno.ENOENT):
        names.link(region.ino, ROOT_INO, b"x")
    assert listed(names) == [INFO, b"d"]


def test_unlink_is_for_files(names: Namespace) -> None:
    """EISDIR for a directory, ENOENT for nothing, EPERM for mshare_info."""
    add_directory(names, b"d")
    before = state(names)
    for name, code in ((b"d", errno.EISDIR), (b"x", errno.ENOENT), (INFO, errno.EPERM)):
        with refused(code):
            names.unlink(ROOT_INO, name)
    assert state(names) == before


def test_rmdir_is_for_empty_directories(names: Namespace) -> None:
    """ENOTDIR for a file, ENOENT for nothing, ENOTEMPTY with names in it."""
    add_region(names, b"a", add_directory(names, b"d").ino)
    add_region(names, b"a")
    before = state(names)
    for name, code in (
        (b"d", errno.ENOTEMPTY),
        (b"a", errno.ENOTDIR),
        (INFO, errno.ENOTDIR),
        (b"x", errno.ENOENT),
    ):
        with refused(code):
            names.rmdir(ROOT_INO, name)
    assert state(names) == before


def test_a_removed_directory_has_no_links(names: Namespace) -> None:
    """And its parent one less."""
    directory = add_directory(names, b"d")
    assert names.rmdir(ROOT_INO, b"d") is directory
    assert (directory.nlink, names.directory(ROOT_INO).nlink) == (0, 2)


@pytest.mark.parametrize("count", ["nlink", "lookups", "opens"])
def test_an_inode_lives_while_anything_refers_to_it(names: Namespace, count: str) -> None:
    """A name, a look-up of the kernel or a handle is enough."""
    region = add_region(names, b"a")
    region.nlink = 0
    setattr(region, count, 1)
    assert not names.drop_unreferenced(region)
    assert names.get(region.ino) is region
    setattr(region, count, 0)
    assert names.drop_unreferenced(region)
    assert not names.drop_unreferenced(region)
    with refused(errno.ENOENT):
        names.get(region.ino)


# Rename


def test_rename_moves_a_name(names: Namespace) -> None:
    """The inode stays the same; ctime and both directories' times change."""
    region, directory = add_region(names, b"a"), add_directory(names, b"d")
    before = (region.ctime_ns, directory.mtime_ns, names.directory(ROOT_INO).mtime_ns)
    assert names.rename(ROOT_INO, b"a", directory.ino, b"b", 0) is None
    assert names.find(ROOT_INO, b"a") is None
    assert names.existing(directory.ino, b"b") is region
    assert region.nlink == 1
    after = (region.ctime_ns, directory.mtime_ns, names.directory(ROOT_INO).mtime_ns)
    assert all(new > old for new, old in zip(after, before, strict=True))


def test_rename_of_a_directory_moves_its_parent(names: Namespace) -> None:
    """ ".." and both link counts follow."""
    one, other = add_directory(names, b"one"), add_directory(names, b"other")
    moved = add_directory(names, b"d", one.ino)
    names.rename(one.ino, b"d", other.ino, b"d", 0)
    assert names.find(moved.ino, b"..") is other
    assert (one.nlink, other.nlink, moved.nlink) == (2, 3, 2)


def test_rename_replaces_a_file(names: Namespace) -> None:
    """What was there loses its name and is returned."""
    region, old = add_region(names, b"a"), add_region(names, b"b")
    assert names.rename(ROOT_INO, b"a", ROOT_INO, b"b", 0) is old
    assert (old.nlink, region.nlink) == (0, 1)
    assert names.existing(ROOT_INO, b"b") is region
    assert listed(names) == [INFO, b"b"]


def test_rename_replaces_an_empty_directory(names: Namespace) -> None:
    """It then has no links, as after rmdir."""
    moved, old = add_directory(names, b"a"), add_directory(names, b"b")
    assert names.rename(ROOT_INO, b"a", ROOT_INO, b"b", 0) is old
    assert (old.nlink, moved.nlink, names.directory(ROOT_INO).nlink) == (0, 2, 3)


def test_rename_between_names_of_one_inode_does_nothing(names: Namespace) -> None:
    """As rename(2) says: both names stay; the same for a name and itself."""
    region = add_region(names, b"a")
    names.link(region.ino, ROOT_INO, b"b")
    before = state(names)
    for flags in (0, RENAME_EXCHANGE):
        assert names.rename(ROOT_INO, b"a", ROOT_INO, b"b", flags) is None
        assert names.rename(ROOT_INO, b"a", ROOT_INO, b"a", flags) is None
    assert state(names) == before


def test_noreplace_replaces_nothing(names: Namespace) -> None:
    """EEXIST where the new name is there, be it another name of the same inode."""
    region = add_region(names, b"a")
    add_region(names, b"b")
    names.link(region.ino, ROOT_INO, b"c")
    before = state(names)
    for name in (b"a", b"b", b"c"):
        with refused(errno.EEXIST):
            names.rename(ROOT_INO, b"a", ROOT_INO, name, RENAME_NOREPLACE)
    assert state(names) == before
    names.rename(ROOT_INO, b"a", ROOT_INO, b"d", RENAME_NOREPLACE)
    assert names.existing(ROOT_INO, b"d") is region


def test_exchange_swaps_a_file_and_a_directory(names: Namespace) -> None:
    """Each has the other's place; link counts of the directories follow."""
    one, other = add_directory(names, b"one"), add_directory(names, b"other")
    region = add_region(names, b"a", one.ino)
    directory = add_directory(names, b"d", other.ino)
    assert names.rename(one.ino, b"a", other.ino, b"d", RENAME_EXCHANGE) is None
    assert names.existing(one.ino, b"a") is directory
    assert names.existing(other.ino, b"d") is region
    assert (one.nlink, other.nlink, region.nlink, directory.nlink) == (3, 2, 1, 2)
    assert names.find(directory.ino, b"..") is one


def test_exchange_within_a_directory(names: Namespace) -> None:
    """Two names swap their inodes."""
    a, b = add_region(names, b"a"), add_region(names, b"b")
    names.rename(ROOT_INO, b"a", ROOT_INO, b"b", RENAME_EXCHANGE)
    assert names.existing(ROOT_INO, b"a") is b
    assert names.existing(ROOT_INO, b"b") is a


def test_renames_that_are_refused(names: Namespace) -> None:
    """Each with its errno, and nothing has changed."""
    full = add_directory(names, b"full")
    empty = add_directory(names, b"empty")
    below = add_directory(names, b"below", full.ino)
    add_region(names, b"a")
    before = state(names)
    for source, parent, target, flags, code in (
        (b"x", ROOT_INO, b"y", 0, errno.ENOENT),
        (b"a", ROOT_INO, b"x", RENAME_EXCHANGE, errno.ENOENT),
        (b"a", ROOT_INO, b"b", 4, errno.EINVAL),  # RENAME_WHITEOUT
        (b"a", ROOT_INO, b"b", 8, errno.EINVAL),
        (b"a", ROOT_INO, b"b", RENAME_NOREPLACE | RENAME_EXCHANGE, errno.EINVAL),
        (b"a", ROOT_INO, b"empty", 0, errno.EISDIR),
        (b"empty", ROOT_INO, b"a", 0, errno.ENOTDIR),
        (b"empty", ROOT_INO, b"full", 0, errno.ENOTEMPTY),
        (b"full", full.ino, b"x", 0, errno.EINVAL),
        (b"empty", empty.ino, b"x", 0, errno.EINVAL),
        (b"full", below.ino, b"x", 0, errno.EINVAL),
        (b"full", full.ino, b"below", RENAME_EXCHANGE, errno.EINVAL),
        (INFO, ROOT_INO, b"x", 0, errno.EPERM),
        (b"a", ROOT_INO, INFO, 0, errno.EPERM),
        (b"a", ROOT_INO, INFO, RENAME_EXCHANGE, errno.EPERM),
        (INFO, ROOT_INO, b"a", RENAME_EXCHANGE, errno.EPERM),
        (b"a", 99, b"x", 0, errno.ENOENT),
        (b"a", INFO_INO, b"x", 0, errno.ENOTDIR),
    ):
        with refused(code):
            names.rename(ROOT_INO, source, parent, target, flags)
        assert state(names) == before, (source, target, flags)
    with refused(errno.EINVAL):
        names.rename(full.ino, b"below", ROOT_INO, b"full", RENAME_EXCHANGE)
    assert state(names) == before


class Looks(dict[int, Inode]):
    """A table of inodes that counts how often somebody looks into it."""

    count = 0

    def get(self, ino: int, default: Any = None) -> Any:
        """As of any dict."""
        self.count += 1
        return super().get(ino, default)


def test_renames_far_down_do_not_walk_up() -> None:
    """Of a region, within a directory, or of a directory that has none in it: such a one is above
    nothing, however deep the place is."""
    depth = 1000
    names = make_names(nr_inodes=2 * depth)
    parent = ROOT_INO
    for _ in range(depth):
        parent = add_directory(names, b"d", parent).ino
    far = add_directory(names, b"far", parent).ino
    add_region(names, b"region", parent)
    add_directory(names, b"plain", parent)
    add_directory(names, b"below", add_directory(names, b"full", parent).ino)
    names._inodes = looks = Looks(names._inodes)
    names.rename(parent, b"region", far, b"region", 0)
    names.rename(parent, b"plain", far, b"plain", 0)
    names.rename(parent, b"full", parent, b"moved", 0)
    names.rename(parent, b"moved", parent, b"far", RENAME_EXCHANGE)
    assert looks.count < 50
    with refused(errno.EINVAL):
        names.rename(ROOT_INO, b"d", parent, b"x", 0)


def test_a_walk_up_is_not_longer_than_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within it a loop is refused; beyond it the kernel has, before it asked."""
    monkeypatch.setattr(namespace, "LONGEST_WALK", 100)
    names = make_names(nr_inodes=2000)
    top = add_directory(names, b"top")
    add_directory(names, b"below", top.ino)
    parent, places = top.ino, []
    for _ in range(1000):
        parent = add_directory(names, b"d", parent).ino
        places.append(parent)
    other = add_directory(names, b"other")
    add_directory(names, b"below", other.ino)
    with refused(errno.EINVAL):
        names.rename(ROOT_INO, b"top", places[98], b"x", 0)
    names._inodes = looks = Looks(names._inodes)
    names.rename(ROOT_INO, b"other", parent, b"x", 0)
    assert looks.count < 120


# Looking up and listing


def test_dot_and_dot_dot(names: Namespace) -> None:
    """Ordinary, and the root is its own parent."""
    directory = add_directory(names, b"d")
    assert names.find(directory.ino, b".") is directory
    assert names.find(directory.ino, b"..") is names.get(ROOT_INO)
    assert names.find(ROOT_INO, b"..") is names.get(ROOT_INO)


def test_a_listing_goes_on_after_any_cookie(names: Namespace) -> None:
    """In order of making, none twice and none left out, while names come and go."""
    for number in range(10):
        add_region(names, b"%d" % number)
    entries = list(names.directory(ROOT_INO).listing(0, 1000))
    end = names.directory(ROOT_INO).end
    assert [entry.name for entry in entries] == [INFO, *(b"%d" % n for n in range(10))]
    names.unlink(ROOT_INO, b"3")
    names.unlink(ROOT_INO, b"5")
    add_region(names, b"late")
    # Entry 6 is the dropped name 5; a cookie serves although its name is gone.
    rest = list(names.directory(ROOT_INO).listing(entries[6].cookie, 1000))
    assert [entry.name for entry in rest] == [b"6", b"7", b"8", b"9", b"late"]
    # Up to the end that there was before the last one came.
    assert list(names.directory(ROOT_INO).listing(entries[6].cookie, end)) == rest[:-1]


def test_cookies_begin_after_those_of_the_dots(names: Namespace) -> None:
    """1 and 2 are "." and ".."."""
    assert [entry.cookie for entry in names.directory(ROOT_INO).listing(0, 1000)] == [3]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=300))
def test_directory_against_a_dict(steps: list[tuple[bool, int]]) -> None:
    """Names in the order of their making, whatever was dropped in between."""
    directory = Directory(9, 1, 0o700, 0, 0, 0)
    model: dict[bytes, int] = {}
    for put, number in steps:
        name = b"%d" % number
        if put and name not in model:
            directory.put(name, number + 100)
            model[name] = number + 100
        elif not put and name in model:
            directory.drop(name)
            del model[name]
    entries = list(directory.listing(0, directory.end))
    assert [(entry.name, entry.ino) for entry in entries] == list(model.items())
    assert len(directory) == len(model)
    assert [directory.find(name) for name in model] == list(model.values())
    assert directory.find(b"none") is None
    for position, entry in enumerate(entries):
        assert list(directory.listing(entry.cookie, directory.end)) == entries[position + 1 :]
        assert list(directory.listing(0, entry.cookie)) == entries[: position + 1]


def test_many_names_that_come_and_go_leave_nothing() -> None:
    """A directory that was busy for long is as small as a new one."""
    directory = Directory(9, 1, 0o700, 0, 0, 0)
    directory.put(b"first", 1)
    for number in range(10_000):
        directory.put(b"x", number)
        directory.drop(b"x")
    assert [entry.name for entry in directory.listing(0, directory.end)] == [b"first"]
    assert len(directory._cookies) < 100


def test_paths_for_messages(names: Namespace) -> None:
    """Of the latest name, where it is still there; never a wrong one, and never too long."""
    top = add_directory(names, b"top")
    region = add_region(names, b"a", parent=top.ino)
    assert [names.path_of(ino) for ino in (ROOT_INO, INFO_INO, top.ino, region.ino, 99)] == [
        b"/",
        b"/mshare_info",
        b"/top",
        b"/top/a",
        None,
    ]
    names.rename(top.ino, b"a", ROOT_INO, b"b", 0)
    names.rename(ROOT_INO, b"top", ROOT_INO, b"down", 0)
    assert (names.path_of(region.ino), names.path_of(top.ino)) == (b"/b", b"/down")
    names.link(region.ino, top.ino, b"c")
    assert names.path_of(region.ino) == b"/down/c"
    names.unlink(top.ino, b"c")
    assert names.path_of(region.ino) is None
    deep = top.ino
    for _ in range(LEVELS_SHOWN):
        deep = add_directory(names, b"d", parent=deep).ino
    assert names.path_of(deep) == b".../" + b"/".join([b"d"] * LEVELS_SHOWN)


def test_inode_defaults() -> None:
    """What an inode has before its kind says more."""
    inode = Inode(9, stat.S_IFREG, 1, 2, 3)
    assert (inode.size, inode.blocks, inode.cacheable, inode.referenced) == (0, 0, True, False)
    assert not inode.is_directory
    assert Directory(9, 1, stat.S_IFDIR, 0, 0, 0).is_directory
