"""CREATE_MAPPING of a file that never answers: who waits, for how long, and who does not."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from msharefs.linux import rights
from msharefs.linux.proc import status_field
from tests.helpers import mount, raw
from tests.helpers.file_processes import helpers_of, links_of
from tests.helpers.fixtures import MakeMount
from tests.helpers.raw import HUGE, PAGE, map_file, opened
from tests.helpers.users import ALICE, as_user, become
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.mount

MOUNT_OPTIONS = "size=64M,align=4096,log_level=debug"
SIZE = 4 * HUGE
OF_A_HELPER = (rights.CAP_SETGID, rights.CAP_SETUID, rights.CAP_SYS_PTRACE)


@pytest.fixture
def region(mounted: mount.Mount, place: Path) -> Iterator[int]:
    """A region of 8 MiB with nothing in it, open."""
    with raw.region(place, SIZE) as fd:
        yield fd


class Silent:
    """A file on a file system that does not answer any more, and is in no table of mounts."""

    def __init__(self, mounted: mount.Mount) -> None:
        # The first close tells the kernel that this file system wants to hear of none, so that
        # nobody who ends with the descriptor open waits.
        os.close(os.open(mounted.path / "mshare_info", os.O_RDONLY))
        self.fd = os.open(mounted.path / "mshare_info", os.O_RDONLY)
        self._mounted = mounted
        self._stopped = (mounted.pid, mounted.server_pid)
        mounted.expect_log("was unmounted, but is still in use")
        mount.unmount(mounted.path, lazy=True)
        for pid in self._stopped:
            os.kill(pid, signal.SIGSTOP)

    def speak(self) -> None:
        """It answers again, and so it ends."""
        for pid in reversed(self._stopped):
            os.kill(pid, signal.SIGCONT)
        os.close(self.fd)
        self._mounted.wait_for_end()


@pytest.fixture
def silent(make_mount: MakeMount) -> Iterator[Silent]:
    """A descriptor of a FUSE file whose server is stopped."""
    file = Silent(make_mount("size=16M,data=paged"))
    yield file
    file.speak()


def test_who_maps_a_file_that_does_not_answer(
    mounted: mount.Mount, region: int, place: Path, silent: Silent
) -> None:
    """C26: it is ETIMEDOUT for him, after a while in which everybody else is served; who is
    killed waits no longer; and nothing is left of it when the file answers again."""
    mounted.expect_log("a file of user")
    killed, patient = (_child_that_maps(region, silent.fd) for _ in range(2))
    with opened(place) as fd:
        raw.create_mapping(fd, HUGE, 32 * PAGE)
        large = os.open(mounted.path / "large", os.O_RDWR | os.O_CREAT)
        os.ftruncate(large, 32 << 20)
        raw.create_mapping(large, 0, 32 << 20)
        os.close(large)
        os.unlink(mounted.path / "large")
    assert os.waitpid(-1, os.WNOHANG) == (0, 0), "somebody did not wait"
    os.kill(killed, signal.SIGKILL)
    os.waitpid(killed, 0)
    eventually(lambda: "EINTR" in mounted.log())
    assert os.waitstatus_to_exitcode(os.waitpid(patient, 0)[1]) == errno.ETIMEDOUT
    assert raw.mapped_ranges(region) == [(HUGE, HUGE + 32 * PAGE)]


@pytest.mark.root_only("becomes another user")
def test_what_a_helper_may_do(
    mounted: mount.Mount, region: int, place: Path, silent: Silent
) -> None:
    """C26: it is the caller for files alone, none of its capabilities is in force, and nothing is
    open but the file and the table of mounts; it ends with who wants the file."""
    mounted.expect_log("a file of user")
    os.chmod(place, 0o666)
    with opened(place) as fd:
        child = _child_that_maps(fd, silent.fd, uid=ALICE)
        eventually(lambda: helpers_of(mounted) and links_of(helpers_of(mounted)[0]) != set())
        (helper,) = helpers_of(mounted)
        eventually(lambda: has(helper, b"CapEff", b"0000000000000000"))
        assert has(helper, b"Uid", b"0\t0\t0\t%d" % ALICE)
        assert has(helper, b"Gid", b"0\t0\t0\t%d" % ALICE)
        assert has(helper, b"Groups", b"")
        for name in (b"CapInh", b"CapAmb"):
            assert has(helper, name, b"0000000000000000")
        for name in (b"CapPrm", b"CapBnd"):
            assert has(helper, name, b"%016x" % sum(1 << each for each in OF_A_HELPER))
        assert has(helper, b"NoNewPrivs", b"1")
        kinds = sorted(link.partition(":")[0] for link in links_of(helper) - {"/dev/null"})
        assert kinds == ["/mshare_info", f"/proc/{helper}/mountinfo", "socket"]
        # He can neither look into it nor end it.
        with pytest.raises(PermissionError):
            as_user(ALICE, lambda: os.listdir(f"/proc/{helper}/fd"))
        with pytest.raises(PermissionError):
            as_user(ALICE, lambda: os.kill(helper, signal.SIGKILL))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        eventually(lambda: helpers_of(mounted) == [])


def has(pid: int, field: bytes, value: bytes) -> bool:
    """Whether a field of its status says so."""
    return status_field(Path(f"/proc/{pid}/status").read_bytes(), field) == value


def _child_that_maps(region: int, fd: int, *, uid: int = 0) -> int:
    """A process that maps a file and ends with the errno; its number. It closes nothing."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        if uid:
            become(uid)
        map_file(region, 0, PAGE, fd)
        code = 0
    except OSError as error:
        code = error.errno or 1
    finally:
        os._exit(code)
