"""msharefs_attach.h: one program that maps a region directly where that is to be had, and as any file
everywhere else.

What may end a process, and whatever must leave no trace, is done in a child.
"""

from __future__ import annotations

import ctypes
import errno
import faulthandler
import mmap
import os
import resource
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from msharefs import abi
from tests.helpers import direct, raw
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import Mount
from tests.helpers.users import ChildKilledError, in_child
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=256M,data=direct"
INCLUDE = Path(abi.__file__).parent / "include"
SHIM = Path(__file__).with_name("attach_shim.c")
PAGE = mmap.PAGESIZE
UNIT = 2 << 20
SIZE = 2 * UNIT
HOLE = UNIT
"""The region's second half is one."""
READ, WRITE = mmap.PROT_READ, mmap.PROT_WRITE
DIRECT, FENCED = 1, 2
FAILED = ctypes.c_void_p(-1).value


class Attach:
    """The functions, with errors as exceptions."""

    def __init__(self, library: Path) -> None:
        self._library = ctypes.CDLL(str(library), use_errno=True)
        self._library.attach.argtypes = (ctypes.c_int, ctypes.c_size_t, ctypes.c_int)
        self._library.attach.restype = ctypes.c_void_p
        self._library.attached.argtypes = (ctypes.c_void_p,)
        self._library.detach.argtypes = (ctypes.c_void_p,)

    def attach(self, fd: int, size: int = SIZE, prot: int = READ | WRITE) -> int:
        """The address. Raises OSError."""
        address: int = self._library.attach(fd, size, prot)
        _check(address == FAILED)
        return address

    def how(self, address: int) -> int:
        """The bits of DIRECT and FENCED. Raises OSError."""
        bits: int = self._library.attached(address)
        _check(bits < 0)
        return bits

    def claim(self, fd: int) -> None:
        """Raises OSError."""
        _check(self._library.claim(fd) != 0)

    def detach(self, address: int) -> None:
        """Raises OSError."""
        _check(self._library.detach(address) != 0)


def _check(failed: bool) -> None:
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


@pytest.fixture(scope="module")
def attach(tmp_path_factory: pytest.TempPathFactory) -> Attach:
    """Compiled as the strictest program would have it."""
    library = tmp_path_factory.mktemp("attach") / "shim.so"
    flags = ["-std=c89", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O2", "-fPIC", "-shared"]
    command = ["gcc", *flags, f"-I{INCLUDE}", "-o", str(library), str(SHIM)]
    subprocess.run(command, check=True, timeout=60)
    return Attach(library)


@pytest.fixture
def region(place: Path) -> Iterator[int]:
    """A region of 4 MiB at `place`, its first half mapped, open for reading and writing."""
    with raw.region(place, SIZE) as fd:
        raw.create_mapping(fd, 0, HOLE)
        yield fd


def peek(address: int, size: int = 1) -> bytes:
    """What is there. A child dies of a hole without a report of its own."""
    faulthandler.disable()
    return ctypes.string_at(address, size)


def poke(address: int, data: bytes) -> None:
    """Store, the same."""
    faulthandler.disable()
    ctypes.memmove(address, data, len(data))


def descriptors() -> set[str]:
    """Those of this process, the one that looks apart."""
    return set(os.listdir("/proc/self/fd"))


def test_the_memory_itself_is_mapped(region: int, place: Path, attach: Attach) -> None:
    """At a multiple of 2 MiB, shared with every other client; the descriptor may be closed, and the
    region is in use until the end."""

    def work() -> tuple[int, int, bytes]:
        fd = os.open(place, os.O_RDWR)
        address = attach.attach(fd)
        os.close(fd)
        poke(address + 5, b"hello")
        with raw.opened(place) as other:
            with direct.attached(other, UNIT) as window:
                found = window[5:10]
            with raw.refused(errno.ENODEV):
                mmap.mmap(other, PAGE)
        how = attach.how(address)
        attach.detach(address)
        return address % UNIT, how, found

    assert in_child(work) == (0, DIRECT | FENCED, b"hello")


def test_nothing_is_left_of_it(place: Path, attach: Attach) -> None:
    """No descriptor and no mapping; plain clients have their turn then."""

    def work() -> None:
        with raw.opened(place) as fd:
            before, windows = descriptors(), Path("/proc/self/maps").read_text().count("\n")
            for _ in range(20):
                attach.detach(attach.attach(fd))
            assert descriptors() == before
            assert Path("/proc/self/maps").read_text().count("\n") <= windows + 2

    def can_be_mapped() -> bool:
        with raw.opened(place) as fd, suppress(OSError), mmap.mmap(fd, UNIT):
            return True
        return False

    with raw.opened(place, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, SIZE)
        raw.create_mapping(fd, 0, SIZE)
    in_child(work)
    # The end of the last handle is told a moment later.
    eventually(can_be_mapped)
    place.unlink()


def test_a_touch_of_a_hole_is_sigbus(region: int, attach: Attach) -> None:
    """And what is mapped later by somebody else is there at once, what is unmapped is not."""

    def touch_hole() -> None:
        peek(attach.attach(region) + HOLE)

    def follow() -> bytes:
        address = attach.attach(region)
        raw.create_mapping(region, HOLE, UNIT)
        poke(address + HOLE, b"x")
        return peek(address + HOLE)

    def touch_what_went() -> None:
        address = attach.attach(region)
        poke(address + HOLE, b"y")
        raw.unmap(region, HOLE, UNIT)
        peek(address + HOLE)

    with pytest.raises(ChildKilledError, match="SIGBUS"):
        in_child(touch_hole)
    assert in_child(follow) == b"x"
    with pytest.raises(ChildKilledError, match="SIGBUS"):
        in_child(touch_what_went)


def test_a_reader_reads(region: int, place: Path, attach: Attach) -> None:
    """Directly, and can do no more than read; he has no fence."""

    def work() -> tuple[int, bytes]:
        before = descriptors()
        with raw.opened(place, os.O_RDONLY) as fd:
            with raw.refused(errno.EACCES):
                attach.attach(fd)
            address = attach.attach(fd, prot=READ)
        found = attach.how(address), peek(address)
        attach.detach(address)
        assert descriptors() == before
        return found

    def store() -> None:
        with raw.opened(place, os.O_RDONLY) as fd:
            poke(attach.attach(fd, prot=READ), b"no")

    assert in_child(work) == (DIRECT, b"\0")
    with pytest.raises(ChildKilledError, match="SIGSEGV"):
        in_child(store)


def test_where_others_have_mapped_the_file_it_is_mapped_as_well(
    region: int, place: Path, attach: Attach
) -> None:
    """So that all see the same bytes."""

    def work() -> tuple[int, bytes]:
        with raw.opened(place) as fd, mmap.mmap(fd, UNIT) as plain:
            plain[7] = 9
            address = attach.attach(region)
            poke(address + 8, b"z")
            found = attach.how(address), peek(address + 7) + plain[8:9]
            attach.detach(address)
            return found

    assert in_child(work) == (FENCED, b"\x09z")


@pytest.mark.parametrize(
    "plane",
    ["paged", pytest.param("passthrough", marks=pytest.mark.root_only("the plane of his mounts"))],
)
def test_it_works_on_every_mount(make_mount: MakeMount, attach: Attach, plane: str) -> None:
    """As mmap(2) of the file does, at a multiple of 2 MiB."""
    other = make_mount(f"size=16M,data={plane}")
    path = other.path / "region"
    # A session of an ordinary user's may have another plane on all its mounts.
    direct_too = other.status()["data_plane"]["name"] == "direct"

    def work() -> tuple[int, int, bytes]:
        with raw.opened(path) as fd:
            address = attach.attach(fd)
        poke(address, b"all the same")
        found = attach.how(address), address % UNIT, peek(address, 12)
        attach.detach(address)
        return found

    def touch_hole() -> None:
        with raw.opened(path) as fd:
            peek(attach.attach(fd) + HOLE)

    with raw.region(path, SIZE) as fd:
        raw.create_mapping(fd, 0, HOLE)
        how = DIRECT | FENCED if direct_too else FENCED
        assert in_child(work) == (how, 0, b"all the same")
        with pytest.raises(ChildKilledError, match="SIGBUS"):
            in_child(touch_hole)


def test_a_region_is_claimed(make_mount: MakeMount, attach: Attach) -> None:
    """D11: It is the memory then, and else the file."""
    mounted = make_mount("size=16M,data=auto,x-msharefs.without=passthrough")
    path = mounted.path / "region"

    def work() -> tuple[int, bytes]:
        with raw.opened(path) as fd:
            attach.claim(fd)
            address = attach.attach(fd)
        poke(address, b"hello")
        with raw.opened(path) as other, direct.attached(other, UNIT) as window:
            return attach.how(address), window[:5]

    with raw.opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, SIZE)
        raw.create_mapping(fd, 0, HOLE)
        # A session of an ordinary user's may have another plane on all its mounts.
        if mounted.status()["direct_for"] == "claimants":
            with pytest.raises(OSError, match="Device or resource busy"), raw.opened(path):
                attach.claim(fd)
    eventually(lambda: raw.layout(path)["open_handles"] == 0, what="it is open")
    assert in_child(work) == (DIRECT | FENCED, b"hello")
    path.unlink()


def test_any_file_can_be_attached(tmp_path: Path, attach: Attach) -> None:
    """A program need not know what it has; a size that is no whole page is rounded up."""
    path = tmp_path / "file"
    path.write_bytes(b"a file")

    def work() -> bytes:
        with raw.opened(path) as fd:
            address = attach.attach(fd, 6)
        poke(address, b"A")
        found = peek(address, 6)
        attach.detach(address)
        return found

    assert in_child(work) == b"A file"
    assert path.read_bytes() == b"A file"


def test_what_is_wrong_is_refused(place: Path, attach: Attach) -> None:
    """With the errno of mmap(2), and nothing is left of the attempt."""
    before = descriptors()
    with raw.region(place) as unsized:
        with raw.refused(errno.EINVAL):
            attach.attach(unsized)
        os.ftruncate(unsized, SIZE)
        with raw.refused(errno.EINVAL):
            attach.attach(unsized, 0)
        with raw.refused(errno.ENOMEM):
            attach.attach(unsized, (1 << 64) - PAGE)
    with raw.refused(errno.EBADF):
        attach.attach(-1)
    with mmap.mmap(-1, 2 * UNIT) as elsewhere:
        at = ctypes.addressof(ctypes.c_char.from_buffer(elsewhere))
        for address in (at + PAGE, -(-(at + 1) // UNIT) * UNIT):
            with raw.refused(errno.EINVAL):
                attach.detach(address)
            with raw.refused(errno.EINVAL):
                attach.how(address)
    assert descriptors() == before


def test_a_server_that_ends_meanwhile(
    region: int, place: Path, mounted: Mount, attach: Attach
) -> None:
    """Who attaches waits for the next one, and who is attached goes on."""
    mounted.expect_log("the server ended with -9")
    server = mounted.server_pid

    def work() -> tuple[int, int, bytes]:
        first = attach.attach(region)
        poke(first, b"stays")
        os.kill(server, signal.SIGKILL)
        second = attach.attach(region)
        found = attach.how(first), attach.how(second), peek(second, 5)
        attach.detach(first)
        attach.detach(second)
        return found

    assert in_child(work) == (DIRECT | FENCED, DIRECT | FENCED, b"stays")
    eventually(lambda: mounted.server_pid != server)


def test_a_change_that_takes_its_time(make_mount: MakeMount, attach: Attach) -> None:
    """It is waited for; the file, which could be mapped at once, would be SIGBUS."""
    path = make_mount("size=256M,huge=never,data=direct").path / "region"
    size, ended = 256 << 20, threading.Event()

    def change() -> None:
        while not ended.is_set():
            raw.create_mapping(fd, 0, size)
            raw.unmap(fd, 0, size)

    def is_changing() -> bool:
        try:
            os.close(direct.segment(other))
        except OSError as error:
            return error.errno == errno.ESTALE
        return False

    with raw.region(path, size) as fd, raw.opened(path) as other:
        changes = threading.Thread(target=change)
        changes.start()
        try:
            eventually(is_changing)
            address = attach.attach(other)
        finally:
            ended.set()
            changes.join()
        how = attach.how(address)
        attach.detach(address)
    assert how == DIRECT | FENCED


def test_without_a_descriptor_left(region: int, attach: Attach) -> None:
    """EMFILE, not a mapping of the file, which would be SIGBUS; with two that are left it is attached."""

    def attempts() -> int:
        one, other = os.dup(region), os.dup(region)
        os.close(one)
        os.close(other)
        for limit in (one, one + 1):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, other + 1))
            with raw.refused(errno.EMFILE):
                attach.attach(region)
        resource.setrlimit(resource.RLIMIT_NOFILE, (other + 1, other + 1))
        return attach.how(attach.attach(region))

    assert in_child(attempts) == DIRECT | FENCED


def test_page_tables_become_small(place: Path, attach: Attach) -> None:
    """Those of a process that has touched every page before its memory was put into huge pages."""
    size = 32 << 20

    def page_tables() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmPTE"))

    def work() -> int:
        with raw.opened(place) as fd:
            address = attach.attach(fd, size)
        bare = page_tables()
        for start in range(0, size, 1 << 20):
            with raw.opened(place) as fd:
                raw.create_mapping(fd, start, 1 << 20)
        for offset in range(0, size, PAGE):
            peek(address + offset)
        eventually(lambda: raw.collapsed(place) == size, timeout=40)
        left = page_tables() - bare
        attach.detach(address)
        return left

    with raw.region(place, size):
        # KiB; small pages would take 4 for each 2 MiB.
        assert in_child(work) < size // UNIT * 4 // 2
