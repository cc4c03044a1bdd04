"""Who may do what, on any directory that keeps to POSIX as Linux does. Run as root.

Each check gives its directory to nobody in particular (mode 0755, root's) and lets other
users try. The users have no names; their numbers stand in helpers/users.py.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

from tests.conformance.names import make
from tests.helpers.raw import opened, refused
from tests.helpers.users import ALICE, BOB, as_user

STAFF = 61099


def owned(path: Path, uid: int, mode: int, gid: int | None = None) -> Path:
    """An empty file that belongs to a user."""
    make(path)
    os.chown(path, uid, uid if gid is None else gid)
    path.chmod(mode)
    return path


def shared(path: Path, mode: int = 0o777) -> Path:
    """A directory of root's that others may use."""
    path.mkdir()
    path.chmod(mode)
    return path


def may_open(path: Path, flags: int) -> Callable[[], bool]:
    """A piece for another user: whether open(2) succeeds. Any errno but EACCES is an error."""

    def attempt() -> bool:
        try:
            with opened(path, flags):
                return True
        except OSError as error:
            if error.errno != errno.EACCES:
                raise
            return False

    return attempt


def check_new_files_belong_to_their_maker(root: Path) -> None:
    """N12: user, group and mode of what another user makes."""
    place = shared(root / "place")

    def work() -> None:
        make(place / "file", 0o640)
        os.mkdir(place / "directory", 0o750)

    as_user(ALICE, work)
    for name, mode in (("file", 0o640), ("directory", 0o750)):
        seen = (place / name).stat()
        assert (seen.st_uid, seen.st_gid, stat.S_IMODE(seen.st_mode)) == (ALICE, ALICE, mode)


def check_mode_bits_decide_about_open(root: Path) -> None:
    """N12: owner, group and others each have their own bits, and only those count."""
    ways = {os.O_RDONLY: 4, os.O_WRONLY: 2, os.O_RDWR: 6}
    for mode in (0o000, 0o400, 0o200, 0o600, 0o040, 0o020, 0o060, 0o004, 0o002, 0o006, 0o077):
        file = owned(root / f"{mode:03o}", ALICE, mode, STAFF)
        for uid, groups, shift in ((ALICE, (), 6), (BOB, (STAFF,), 3), (BOB, (), 0)):
            for flags, wanted in ways.items():
                granted = (mode >> shift) & wanted == wanted
                seen = as_user(uid, may_open(file, flags), groups=groups)
                assert seen == granted, (f"{mode:03o}", uid, groups, flags)


def check_root_may_open_everything(root: Path) -> None:
    """N12: no bits are needed by root."""
    file = owned(root / "file", ALICE, 0)
    with opened(file, os.O_RDWR) as fd:
        assert os.fstat(fd).st_uid == ALICE


def check_search_needs_x(root: Path) -> None:
    """N12: without x nothing below is reached, and with x alone nothing is listed."""
    place = shared(root / "place")
    make(place / "file")
    place.chmod(0o744)
    assert as_user(ALICE, lambda: os.listdir(place)) == ["file"]
    with refused(errno.EACCES):
        as_user(ALICE, lambda: os.stat(place / "file"))
    place.chmod(0o711)
    assert as_user(ALICE, lambda: os.stat(place / "file").st_size) == 0
    with refused(errno.EACCES):
        as_user(ALICE, lambda: os.listdir(place))


def check_changing_names_needs_w(root: Path) -> None:
    """N12: every change of names in a directory without w is EACCES."""
    place = shared(root / "place")
    inside = owned(place / "inside", ALICE, 0o666)
    (place / "directory").mkdir()
    os.chown(place / "directory", ALICE, ALICE)
    outside = shared(root / "outside")
    own = owned(outside / "own", ALICE, 0o666)
    place.chmod(0o755)
    attempts: list[Callable[[], object]] = [
        lambda: make(place / "new"),
        lambda: os.mkdir(place / "new"),
        lambda: os.unlink(inside),
        lambda: os.rmdir(place / "directory"),
        lambda: os.link(own, place / "new"),
        lambda: os.rename(inside, outside / "moved"),
        lambda: os.rename(own, place / "new"),
        lambda: os.rename(inside, place / "renamed"),
    ]
    for attempt in attempts:
        with refused(errno.EACCES):
            as_user(ALICE, attempt)
    assert sorted(os.listdir(place)) == ["directory", "inside"]


def check_sticky_directory(root: Path) -> None:
    """N12: only the owner of a name, of the directory, or root takes it away."""
    place = shared(root / "place", 0o1777)
    file = owned(place / "file", ALICE, 0o666)
    attempts: list[Callable[[], object]] = [
        lambda: os.unlink(file),
        lambda: os.rename(file, place / "renamed"),
        lambda: os.rename(make(place / "bobs"), file),
    ]
    for attempt in attempts:
        with refused(errno.EPERM):
            as_user(BOB, attempt)
    as_user(ALICE, lambda: os.rename(file, place / "renamed"))
    as_user(ALICE, lambda: os.unlink(place / "renamed"))
    owned(file, ALICE, 0o666)
    os.chown(place, BOB, BOB)
    as_user(BOB, lambda: os.unlink(file))
    owned(file, ALICE, 0o666).unlink()


def check_sticky_directory_with_directories(root: Path) -> None:
    """N12: rmdir of another user's directory is EPERM, too."""
    place = shared(root / "place", 0o1777)
    as_user(ALICE, lambda: os.mkdir(place / "hers"))
    with refused(errno.EPERM):
        as_user(BOB, lambda: os.rmdir(place / "hers"))
    as_user(ALICE, lambda: os.rmdir(place / "hers"))


def check_chmod_is_the_owners(root: Path) -> None:
    """N12: the owner may, others get EPERM whatever the mode is."""
    file = owned(root / "file", ALICE, 0o666)
    with refused(errno.EPERM):
        as_user(BOB, lambda: os.chmod(file, 0o777))
    as_user(ALICE, lambda: os.chmod(file, 0o640))
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def check_chmod_takes_effect_at_once(root: Path) -> None:
    """N12: the next open of another user sees the new bits."""
    file = owned(root / "file", ALICE, 0o600)
    for mode in (0o644, 0o600, 0o644):
        file.chmod(mode)
        assert as_user(BOB, may_open(file, os.O_RDONLY)) == bool(mode & 4)


def check_special_mode_bits(root: Path) -> None:
    """N12: all twelve bits are kept; setgid only by a member of the group."""
    file = owned(root / "file", ALICE, 0o600, STAFF)
    for mode in (0o7777, 0o4755, 0o1644, 0o0000):
        file.chmod(mode)
        assert stat.S_IMODE(file.stat().st_mode) == mode
    as_user(ALICE, lambda: os.chmod(file, 0o2755))
    assert stat.S_IMODE(file.stat().st_mode) == 0o755
    as_user(ALICE, lambda: os.chmod(file, 0o2755), groups=(STAFF,))
    assert stat.S_IMODE(file.stat().st_mode) == 0o2755


def check_chown_is_roots(root: Path) -> None:
    """N12: nobody gives a file away, and nobody takes one: EPERM."""
    file = owned(root / "file", ALICE, 0o666)
    for uid in (ALICE, BOB):
        with refused(errno.EPERM):
            as_user(uid, lambda: os.chown(file, BOB, -1))
    with refused(errno.EPERM):
        as_user(BOB, lambda: os.chown(file, -1, BOB))
    os.chown(file, BOB, STAFF)
    assert (file.stat().st_uid, file.stat().st_gid) == (BOB, STAFF)


def check_owner_changes_to_own_groups(root: Path) -> None:
    """N12: the owner may set a group that is his, and no other."""
    file = owned(root / "file", ALICE, 0o666)
    as_user(ALICE, lambda: os.chown(file, -1, STAFF), groups=(STAFF,))
    assert file.stat().st_gid == STAFF
    with refused(errno.EPERM):
        as_user(ALICE, lambda: os.chown(file, -1, BOB), groups=(STAFF,))
    as_user(ALICE, lambda: os.chown(file, ALICE, ALICE))
    assert file.stat().st_gid == ALICE


def check_chown_clears_setuid(root: Path) -> None:
    """N12: a change of owner takes setuid and an executable setgid away."""
    file = owned(root / "file", ALICE, 0o6755)
    os.chown(file, BOB, BOB)
    assert stat.S_IMODE(file.stat().st_mode) == 0o755


def check_explicit_times_are_the_owners(root: Path) -> None:
    """N12: times of one's own choice need ownership, "now" the right to write."""
    file = owned(root / "file", ALICE, 0o646)
    as_user(ALICE, lambda: os.utime(file, ns=(1, 2)))
    with refused(errno.EPERM):
        as_user(BOB, lambda: os.utime(file, ns=(3, 4)))
    assert file.stat().st_mtime_ns == 2
    as_user(BOB, lambda: os.utime(file))
    assert file.stat().st_mtime_ns > 2
    file.chmod(0o644)
    with refused(errno.EACCES):
        as_user(BOB, lambda: os.utime(file))


def check_access(root: Path) -> None:
    """N12: access(2) says what open(2) would."""
    file = owned(root / "file", ALICE, 0o640, STAFF)
    for uid, groups, expected in ((ALICE, (), 6), (BOB, (STAFF,), 4), (BOB, (), 0)):
        seen = as_user(
            uid,
            lambda: sum(way for way in (os.R_OK, os.W_OK, os.X_OK) if os.access(file, way)),
            groups=groups,
        )
        assert seen == expected


def check_setgid_directory(root: Path) -> None:
    """N12: what is made in it has its group; directories its bit too."""
    place = shared(root / "place")
    os.chown(place, 0, STAFF)
    place.chmod(0o2777)

    def work() -> None:
        make(place / "file")
        os.mkdir(place / "directory", 0o755)
        make(place / "directory" / "below")

    as_user(ALICE, work)
    assert (place / "file").stat().st_gid == STAFF
    assert (place / "directory").stat().st_gid == STAFF
    assert (place / "directory").stat().st_mode & stat.S_ISGID
    assert (place / "directory" / "below").stat().st_gid == STAFF
    assert not (place / "file").stat().st_mode & stat.S_ISGID


def check_truncate_needs_w(root: Path) -> None:
    """N12: truncate(2) and O_TRUNC without the right to write are EACCES."""
    file = owned(root / "file", ALICE, 0o644)
    with refused(errno.EACCES):
        as_user(BOB, lambda: os.truncate(file, 0))
    with refused(errno.EACCES):
        as_user(BOB, lambda: os.open(file, os.O_RDONLY | os.O_TRUNC))
    as_user(ALICE, lambda: os.truncate(file, 0))
    assert file.stat().st_size == 0


def check_open_descriptor_outlives_the_right(root: Path) -> None:
    """N12: rights are asked at open(2) and not again."""
    place = shared(root / "place")

    def work() -> int:
        with opened(place / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600) as fd:
            os.fchmod(fd, 0)
            assert not may_open(place / "file", os.O_RDWR)()
            os.ftruncate(fd, 0)
            return stat.S_IMODE(os.fstat(fd).st_mode)

    assert as_user(ALICE, work) == 0


def check_create_with_mode_that_forbids_its_own_use(root: Path) -> None:
    """N12: a file made with mode 0 is open for its maker all the same."""
    place = shared(root / "place")

    def work() -> int:
        with opened(place / "file", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0) as fd:
            return os.fstat(fd).st_uid

    assert as_user(ALICE, work) == ALICE
