"""Nobody gets more of a region than its mode and his handle gave: other users, readers, groups, and
descriptors that are handed on. By system calls alone."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.helpers import direct, raw
from tests.helpers.mount import PRIVILEGED, Mount
from tests.helpers.users import ALICE, BOB, as_user, in_child

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct" + (",allow_other" if PRIVILEGED else "")
PAGE = mmap.PAGESIZE
UNIT = 2 << 20
ANOTHER_USER = pytest.mark.root_only("another user is needed")


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A region of 2 MiB at `place`, mapped, with a 7 in it, open for reading and writing."""
    with raw.region(place, UNIT, mapped=True) as fd:
        with direct.attached(fd, UNIT) as window:
            window[0] = 7
        yield fd


def refusals(*attempts: Callable[[], object]) -> list[str]:
    """The errno's name of each, "" for one that succeeds."""
    found = []
    for attempt in attempts:
        try:
            attempt()
        except OSError as error:
            found.append(errno.errorcode[error.errno or 0])
        else:
            found.append("")
    return found


def first_byte(place: Path, flags: int) -> int:
    """As a client with a handle of its own sees it."""
    with raw.opened(place, flags) as fd, direct.attached(fd, PAGE, mmap.PROT_READ) as window:
        return window[0]


# What a reader has


def attempts_to_write(reader: int) -> list[Callable[[], object]]:
    """All that could be tried with a reader's descriptor of a segment."""
    own = f"/proc/self/fd/{reader}"
    elsewhere = f"/dev/shm/msharefs-test-{os.getpid()}"
    return [
        lambda: mmap.mmap(reader, PAGE),
        lambda: os.write(reader, b"x"),
        lambda: os.open(own, os.O_RDWR),
        lambda: os.open(own, os.O_WRONLY),
        lambda: os.open(own, os.O_RDONLY | os.O_TRUNC),
        lambda: os.truncate(own, 0),
        lambda: os.ftruncate(reader, 0),
        lambda: os.posix_fallocate(reader, 0, PAGE),
        lambda: os.fchmod(reader, 0o666),
        lambda: os.chmod(own, 0o666),
        lambda: os.fchown(reader, os.getuid(), os.getgid()),
        lambda: os.utime(reader),
        lambda: os.setxattr(reader, "user.x", b"1"),
        lambda: os.link(own, elsewhere, follow_symlinks=True),
        lambda: fcntl.ioctl(reader, raw.UNMAP, raw.unmap_payload(0, PAGE)),
    ]


def test_a_reader_cannot_write(region: int, place: Path) -> None:
    """D5: Nor open what he has for writing, nor change its mode and then open it, not even where the file
    is his own, or he is root."""

    def attempts() -> list[str]:
        return refusals(*attempts_to_write(direct.segment(handle)))

    with raw.opened(place, os.O_RDONLY) as handle:
        assert "" not in in_child(attempts)
        with direct.attached(handle, UNIT, mmap.PROT_READ) as window:
            assert window[0] == 7


def test_a_writer_can(region: int) -> None:
    """The same attempts are worth something: with a writer's descriptor they succeed."""
    results = in_child(lambda: refusals(*attempts_to_write(direct.segment(region))[:4]))
    assert results == ["", "", "", ""]


def test_a_mapping_for_reading_stays_one(region: int, place: Path) -> None:
    """mprotect(2) of it for writing is refused, as of any file that is open for reading."""
    script = (
        "import ctypes, mmap, sys\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "libc.mmap.restype = ctypes.c_void_p\n"
        "at = libc.mmap(None, 4096, 1, 1, int(sys.argv[1]), ctypes.c_long(0))\n"
        "done = libc.mprotect(ctypes.c_void_p(at), 4096, 3)\n"
        "sys.exit(ctypes.get_errno() if done else 0)\n"
    )
    with raw.opened(place, os.O_RDONLY) as handle:
        reader = direct.segment(handle)
    try:
        done = subprocess.run(
            [sys.executable, "-c", script, str(reader)], pass_fds=[reader], check=False, timeout=60
        )
    finally:
        os.close(reader)
    assert done.returncode == errno.EACCES


def test_a_handle_for_writing_alone_gets_nothing(region: int, place: Path) -> None:
    """EACCES, as mmap(2) of it."""
    with raw.opened(place, os.O_WRONLY) as fd, raw.refused(errno.EACCES):
        direct.ask(fd)


def test_what_is_no_region_has_no_segment(mounted: Mount) -> None:
    """mshare_info and directories: ENOTTY. A region without a size: EINVAL."""
    for name in ("mshare_info", "."):
        with raw.opened(mounted.path / name, os.O_RDONLY) as fd, raw.refused(errno.ENOTTY):
            direct.ask(fd)
    with raw.region(mounted.path / "unsized") as fd, raw.refused(errno.EINVAL):
        direct.ask(fd)


# Tokens


def test_a_token_serves_once(region: int) -> None:
    """D6: ESTALE for the second, for a guess, and for what is no token."""
    told = direct.ask(region)
    os.close(direct.redeem(told))
    for token in (told.token, bytes(16), told.token[:-1], told.token + b"\0"):
        with raw.refused(errno.ESTALE):
            direct.redeem(told._replace(token=token))


def test_a_token_is_of_its_handle(region: int, place: Path) -> None:
    """A reader's token gives a reader's descriptor, whoever else has the region open for writing."""
    with raw.opened(place, os.O_RDONLY) as handle:
        told = direct.ask(handle)
        os.close(direct.segment(region))
        reader = direct.redeem(told)
    assert fcntl.fcntl(reader, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY
    os.close(reader)


def test_a_token_of_a_region_that_is_gone(mounted: Mount) -> None:
    """ESTALE once the last handle is closed, with its name or without."""
    path = mounted.path / "gone"
    with raw.region(path, UNIT) as fd:
        told = direct.ask(fd)
    with raw.refused(errno.ESTALE):
        direct.redeem(told)


def test_the_uid_is_that_of_the_door(region: int) -> None:
    """By which a client knows that nobody else has bound the address."""
    told = direct.ask(region)
    assert told.uid == os.getuid()
    assert told.address.startswith(b"msharefs-")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        with raw.refused(errno.EADDRINUSE):
            other.bind(b"\0" + told.address)


def test_silent_clients_keep_nobody_waiting(region: int) -> None:
    """More than a user may have at a time, who say nothing: those that came first are let go."""
    told = direct.ask(region)
    with ExitStack() as stack:
        for _ in range(200):
            stack.enter_context(direct.connect(told))
        os.close(direct.segment(region))


# Other users


@ANOTHER_USER
@pytest.mark.parametrize(
    ("mode", "uid", "groups", "read", "write"),
    [
        (0o600, ALICE, (), False, False),
        (0o604, ALICE, (), True, False),
        (0o606, ALICE, (), True, True),
        (0o640, ALICE, (BOB,), True, False),
        (0o660, ALICE, (BOB,), True, True),
        (0o660, ALICE, (), False, False),
        (0o400, BOB, (), True, False),
        (0o600, BOB, (), True, True),
    ],
)
def test_what_the_mode_gives(
    region: int,
    place: Path,
    mode: int,
    uid: int,
    groups: tuple[int, ...],
    *,
    read: bool,
    write: bool,
) -> None:
    """The region is Bob's. Who may open it gets the segment, for what he may open it, and others
    nothing."""
    os.chown(place, BOB, BOB)
    place.chmod(mode)

    def attempts() -> list[str]:
        return refusals(
            lambda: first_byte(place, os.O_RDONLY), lambda: first_byte(place, os.O_RDWR)
        )

    expected = ["" if may else "EACCES" for may in (read, write)]
    assert as_user(uid, attempts, groups=groups) == expected


@ANOTHER_USER
def test_a_chmod_comes_too_late(region: int, place: Path) -> None:
    """For a handle that is open, as with any file; and not for the next open."""
    os.chmod(place, 0o604)

    def before_and_after() -> list[str]:
        with raw.opened(place, os.O_RDONLY) as fd:
            os.write(told, b"x")
            os.read(go_on, 1)
            return refusals(
                lambda: os.close(direct.segment(fd)), lambda: first_byte(place, os.O_RDONLY)
            )

    (hears, told), (go_on, tells) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        # A child of its own, which tells when it has opened the region.
        os.read(hears, 1)
        os.chmod(place, 0o600)
        os.write(tells, b"x")
        os._exit(0)
    assert as_user(ALICE, before_and_after) == ["", "EACCES"]
    os.waitpid(child, 0)
    for fd in (hears, told, go_on, tells):
        os.close(fd)


@ANOTHER_USER
def test_a_segment_has_no_other_door(region: int, mounted: Mount) -> None:
    """Another user finds no name that he may open, and may not look into who has it open."""
    writer = direct.segment(region)
    places = [
        f"/proc/{os.getpid()}/fd/{writer}",
        f"/proc/{os.getpid()}/fd/{region}",
        f"/proc/{mounted.server_pid}/root/dev/shm",
    ]

    def attempts() -> list[str]:
        found = refusals(*[lambda where=place: os.open(where, os.O_RDONLY) for place in places])
        for entry in os.scandir("/dev/shm"):
            if "mshare" in entry.name:
                with suppress(PermissionError):
                    found.append(f"opened {os.open(entry.path, os.O_RDONLY)}")
        return found

    found = as_user(ALICE, attempts)
    os.close(writer)
    assert found == ["EACCES"] * 3


@ANOTHER_USER
def test_what_was_handed_on(region: int, place: Path) -> None:
    """Whoever has the region's descriptor from somebody has what that gives, also where he could not
    open the region; and of a reader's no more than that."""
    with raw.opened(place, os.O_RDONLY) as reader:

        def attempts() -> list[str]:
            descriptor = direct.segment(reader)
            return refusals(
                lambda: os.open(place, os.O_RDONLY),
                lambda: os.close(direct.segment(region)),
                lambda: os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR),
                lambda: mmap.mmap(descriptor, PAGE),
                lambda: os.fchmod(descriptor, 0o666),
            )

        assert as_user(ALICE, attempts) == ["EACCES", "", "EACCES", "EACCES", "EROFS"]


@ANOTHER_USER
def test_a_handle_that_was_handed_on_is_opened_again(region: int, place: Path) -> None:
    """Through /proc/self/fd the region's mode decides, as by its name: a handle gives no second one."""
    os.chmod(place, 0o604)
    with raw.opened(place, os.O_RDONLY) as reader:
        own = Path(f"/proc/self/fd/{reader}")

        def attempts() -> list[str]:
            return refusals(
                lambda: first_byte(own, os.O_RDONLY), lambda: first_byte(own, os.O_RDWR)
            )

        assert as_user(ALICE, attempts) == ["", "EACCES"]
        os.chmod(place, 0o600)
        assert as_user(ALICE, attempts) == ["EACCES", "EACCES"]


@ANOTHER_USER
def test_after_the_name_is_gone(region: int, place: Path) -> None:
    """Whoever has it open has what his handle gives, and who comes to the name gets another region."""
    with raw.opened(place, os.O_RDONLY) as reader:
        place.unlink()

        def attempts() -> list[str]:
            descriptor = direct.segment(reader)
            with mmap.mmap(descriptor, PAGE, prot=mmap.PROT_READ) as window:
                assert window[0] == 7
            return refusals(
                lambda: mmap.mmap(descriptor, PAGE),
                lambda: os.open(f"/proc/self/fd/{reader}", os.O_RDWR),
            )

        assert as_user(ALICE, attempts) == ["EACCES", "EACCES"]
        with raw.region(place, UNIT, mapped=True):
            os.chmod(place, 0o606)
            assert as_user(ALICE, lambda: first_byte(place, os.O_RDWR)) == 0


@ANOTHER_USER
def test_a_stranger_at_an_old_address(region: int) -> None:
    """Somebody who binds what an earlier server had is seen by his uid before he is told anything."""
    name = f"msharefs-{os.getpid():030d}".encode()

    def bind_and_wait() -> tuple[int, int]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
            door.bind(b"\0" + name)
            door.listen(1)
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
                client.connect(b"\0" + name)
                credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        return int.from_bytes(credentials[4:8], sys.byteorder), os.getuid()

    seen, really = as_user(ALICE, bind_and_wait)
    assert seen == really != direct.ask(region).uid


def test_a_client_without_room_for_a_descriptor(region: int) -> None:
    """It gets none and begins again later; the mount serves on."""

    def attempt() -> str:
        told = direct.ask(region)
        with direct.connect(told) as door:
            os.close(lowest := os.dup(region))
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, lowest))
            door.send(told.token)
            message, descriptors, _flags, _address = socket.recv_fds(door, 4, 1)
        return f"{message.hex()} {len(descriptors)}"

    assert in_child(attempt) == "00000000 0"
    os.close(direct.segment(region))
