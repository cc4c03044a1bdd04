"""What the processes of a mount may do, looked at from outside, and what a server then still can."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from msharefs.linux import mountinfo, rights
from msharefs.linux.proc import status_field
from tests.helpers import mount, raw
from tests.helpers.file_processes import broker_of, children, links_of, name_of
from tests.helpers.fixtures import MakeMount, MakePoke
from tests.helpers.raw import PAGE, create_mapping, opened, refused
from tests.helpers.users import ALICE
from tests.helpers.waiting import eventually

PLANES = mount.planes()
MOUNT_OPTIONS = "size=64M,align=4096"

DEATHS = "the server ended with -9"
NEEDED = 1 << rights.CAP_SYS_ADMIN
ON_DEMAND = ("msharefs-files", "msharefs-pages")
OF_A_BROKER = (
    rights.CAP_KILL,
    rights.CAP_SETGID,
    rights.CAP_SETPCAP,
    rights.CAP_SETUID,
    rights.CAP_SYS_PTRACE,
)


def servers(mounted: mount.Mount) -> list[int]:
    """The process that serves, and the one that stands by."""
    children = Path(f"/proc/{mounted.pid}/task/{mounted.pid}/children")

    def found() -> list[int]:
        pids = [int(word) for word in children.read_text().split()]
        return [pid for pid in pids if name_of(pid) not in ON_DEMAND]

    eventually(lambda: len(found()) == 2, what="a standby server")
    return found()


def statuses(pid: int) -> list[bytes]:
    """/proc/PID/task/*/status."""
    return [path.read_bytes() for path in Path(f"/proc/{pid}/task").glob("*/status")]


def wait_until_confined(pid: int) -> None:
    """A server that stands by may be loading its code still. It gets its name when it has given up
    all that it does not need."""
    name = Path(f"/proc/{pid}/comm")
    names = ("mshare-standby\n", "msharefs-server\n")
    eventually(lambda: name.read_text() in names, what="a confined server")


def test_rights_of_a_server(mounted: mount.Mount, place: Path) -> None:
    """Each thread of it, and of the one that stands by, has what it needs and no more."""
    # A large reservation is worked on in a thread.
    with raw.region(place, 32 * raw.MIB) as fd:
        create_mapping(fd, 0, 32 * raw.MIB)
        for pid in servers(mounted):
            wait_until_confined(pid)
            for status in statuses(pid):
                assert int(status_field(status, b"NoNewPrivs")) == 1
                expected = NEEDED if mount.PRIVILEGED else 0
                for name in (b"CapPrm", b"CapEff"):
                    assert int(status_field(status, name), 16) == expected
                for name in (b"CapInh", b"CapAmb"):
                    assert int(status_field(status, name), 16) == 0
                if mount.PRIVILEGED:
                    assert int(status_field(status, b"CapBnd"), 16) == expected


@pytest.mark.root_only("a user's has no rights to begin with")
def test_rights_of_a_broker(mounted: mount.Mount, place: Path) -> None:
    """What starts the processes that have callers' files keeps what it takes to look into callers and
    to become one; and of descriptors its socket and its signals."""
    with raw.region(place, PAGE) as fd, opened("/etc/passwd", os.O_RDONLY) as file:
        raw.map_file(fd, 0, PAGE, file)
    broker = broker_of(mounted)
    assert broker is not None
    expected = sum(1 << each for each in OF_A_BROKER)
    (status,) = statuses(broker)
    assert int(status_field(status, b"NoNewPrivs")) == 1
    for name in (b"CapEff", b"CapPrm", b"CapBnd"):
        assert int(status_field(status, name), 16) == expected
    kinds = {link.partition(":")[0] for link in links_of(broker)}
    assert kinds == {"/dev/null", "socket", "anon_inode"}


def test_rights_of_who_drops_pages(make_mount: MakeMount) -> None:
    """It has no rights at all but /dev/fuse, which was opened for it."""
    mounted = make_mount(f"{MOUNT_OPTIONS},data=paged,seccomp=on")
    with raw.region(mounted.path / "r", PAGE) as fd:
        create_mapping(fd, 0, PAGE)
        raw.unmap(fd, 0, PAGE)
    (dropper,) = [each for each in children(mounted.pid) if name_of(each) == "msharefs-pages"]
    found = statuses(dropper)
    assert len(found) > 1
    for status in found:
        assert int(status_field(status, b"NoNewPrivs")) == 1
        assert int(status_field(status, b"Seccomp")) == 2
        for name in (b"CapEff", b"CapPrm", b"CapInh", b"CapAmb"):
            assert int(status_field(status, name), 16) == 0
    places = {link for link in links_of(dropper) if link.startswith("/")}
    assert places <= {"/dev/null", "/dev/fuse", *links_of(mounted.pid)}


@pytest.mark.parametrize(
    ("option", "mode"), [("seccomp=auto", 2), ("seccomp=on", 2), ("seccomp=off", 0)]
)
def test_system_calls_are_filtered(make_mount: MakeMount, option: str, mode: int) -> None:
    """In each thread of a server, and of the one that takes over; off is off."""
    mounted = make_mount(f"size=64M,{option}")
    mounted.expect_log(DEATHS)
    for _ in range(2):
        servers(mounted)
        with raw.region(mounted.path / "r", 32 * raw.MIB) as fd:
            create_mapping(fd, 0, 32 * raw.MIB)
            found = statuses(mounted.server_pid)
        assert len(found) > 1
        assert [int(status_field(status, b"Seccomp")) for status in found] == [mode] * len(found)
        os.kill(mounted.server_pid, signal.SIGKILL)


def test_nothing_of_the_environment_is_loaded(
    make_mount: MakeMount, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the caller's Python is told to load, a server's is not."""
    loaded = tmp_path / "loaded"
    loaded.touch(0o666)
    text = f"import sys\nwith open({str(loaded)!r}, 'a') as f: print(sys.orig_argv, file=f)\n"
    (tmp_path / "sitecustomize.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    servers(make_mount("size=16M"))
    (line,) = loaded.read_text().splitlines()
    assert "msharefs-mount" in line


@pytest.mark.root_only("a user's servers stay where he is")
def test_the_machine_is_read_only_for_a_server(mounted: mount.Mount) -> None:
    """But for its state and the memory; /proc too, through which root writes into others."""
    assert mounted.state is not None
    for pid in servers(mounted):
        wait_until_confined(pid)
        mounts = mountinfo.read(f"/proc/{pid}/mountinfo")
        writable = {each.path for each in mounts if "ro" not in each.options}
        assert writable == {str(mounted.state), "/dev/shm"}
        assert {"/", "/proc"} <= {each.path for each in mounts}


@pytest.mark.root_only("becomes another user")
def test_a_server_sees_the_descriptors_of_every_caller(
    mounted: mount.Mount, place: Path, make_poke: MakePoke
) -> None:
    """C16, C17: without the right to pass by modes it still knows what others have open."""
    other = make_poke(uid=ALICE)
    with raw.region(place, PAGE):
        os.chmod(place, 0o666)
        fd, file = other.open(place), other.open("/etc/passwd", os.O_RDONLY)
        payload = raw.create_payload(0, PAGE, prot=1, flags=raw.FROM_FILE, fd=file)
        other.call("ioctl", fd, raw.CREATE_MAPPING, payload)
        payload = raw.create_payload(0, PAGE, prot=1, flags=raw.FROM_FILE, fd=999)
        with refused(errno.EBADF):
            other.call("ioctl", fd, raw.CREATE_MAPPING, payload)
        other.close(fd)
