"""What the page on administration says of containers, without a container engine.

A container is made of what engines make it of: a mount namespace, bind mounts and a set of
capabilities. The flags of the page say which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.docs import pages
from tests.docs.machine import Machine
from tests.helpers.mount import ROOT

pytestmark = [pytest.mark.mount, pytest.mark.root_only("makes a machine of its own: namespaces")]

# What Docker leaves to root in a container, and what --cap-add SYS_ADMIN adds.
CAPABILITIES = (
    "+chown,+dac_override,+fowner,+fsetid,+kill,+mknod,+net_bind_service,+setfcap,+setgid,"
    "+setpcap,+setuid,+sys_chroot,+audit_write,+net_raw,+sys_admin"
)
ABOVE, REGIONS = "/mnt/shared", "/mnt/shared/regions"
MOUNT = f"mount -t msharefs msharefs {REGIONS} -o size=64M"

Run = Callable[[str], str]
Boxed = Callable[[str], Run]


@pytest.fixture
def host(machine: Machine) -> Run:
    """Root's commands on a host with the commands; what they print if they succeed."""

    def run(command: str) -> str:
        code, output = machine.run(command, root=True)
        assert code == 0, f"{command}\nended with {code}:\n{output}"
        return output

    run(f"make -s -C {ROOT} install-helper; mkdir -p {REGIONS}; mount --make-shared /mnt")
    return run


@pytest.fixture
def boxed(host: Run) -> Iterator[Boxed]:
    """A host with a mount, and a container that is given a directory of the host as /run/box."""
    host(MOUNT)
    host(f"mshare create {REGIONS}/kept 2M --map")
    host("unshare --mount --propagation slave sleep infinity & BOX=$!")
    host('until [ "$(readlink /proc/$BOX/ns/mnt)" != "$(readlink /proc/$$/ns/mnt)" ]; do :; done')

    def make(handed_in: str) -> Run:
        def run(command: str) -> str:
            # A failure is something to look at, too.
            return host(f"nsenter --mount=/proc/$BOX/ns/mnt bash -c '{command}' 2>&1 || :")

        run(f"mkdir /run/box; mount --rbind {handed_in} /run/box; mount --make-rslave /run/box")
        # As engines do: what is not handed in is not there.
        arena = "umount /run/msharefs/*/shm"
        assert run(f"umount -l -R /mnt; {arena}; {arena}") == ""
        assert "kept" in run("ls -R /run/box")
        return run

    yield make
    host("kill $BOX; wait $BOX || rmdir /run/box")
    host(f"! mountpoint -q {REGIONS} || umount {REGIONS}")


def kill_supervisor_and_mount_again(host: Run) -> None:
    """The host loses the mount and brings it back with what was in it."""
    host(f"""kill -9 $({ROOT}/.venv/bin/python -c 'import json, os
print(json.loads(os.getxattr("{REGIONS}", "user.msharefs.status"))["pids"]["supervisor"])')""")
    host(f"while ls {REGIONS}; do :; done 2>/dev/null")
    host(MOUNT)
    assert "kept" in host(f"ls {REGIONS}")


def test_flags_are_those_of_the_page() -> None:
    """The page says rslave, /dev/fuse and SYS_ADMIN, and what follows tries just that."""
    shown = [each.text for each in pages.blocks("administration.md") if "docker" in each.text]
    assert f"-v {ABOVE}:{ABOVE}:rslave " in shown[0]
    assert "--device /dev/fuse --cap-add SYS_ADMIN " in shown[1]


@pytest.mark.parametrize("handed_in", [ABOVE, REGIONS])
def test_upgrade_goes_unnoticed(host: Run, boxed: Boxed, handed_in: str) -> None:
    """A new server answers the container as well."""
    box = boxed(handed_in)
    assert "has taken over" in host(f"mshare restart {REGIONS}")
    assert "kept" in box("ls -R /run/box")


def test_directory_above_follows_the_host(host: Run, boxed: Boxed) -> None:
    """A mount made again is there, one that is unmounted is gone."""
    box = boxed(ABOVE)
    kill_supervisor_and_mount_again(host)
    assert "kept" in box("ls /run/box/regions")
    host(f"umount {REGIONS}")
    assert box("ls /run/box/regions") == ""
    host(MOUNT)
    assert box("ls /run/box/regions") == "mshare_info\n"


def test_open_region_in_a_container_keeps_the_host_from_unmounting(
    host: Run, boxed: Boxed, machine: Machine
) -> None:
    """EBUSY while a program in the container has a region open."""
    box = boxed(ABOVE)
    # Open before it is in the background, and so before the umount.
    box("exec 3</run/box/regions/kept; sleep infinity >/dev/null 2>&1 & echo $! >/run/holder")
    code, output = machine.run(f"umount {REGIONS}", root=True)
    assert (code, "busy" in output) == (32, True), output
    host("kill $(cat /run/holder)")


def test_mount_itself_stays_dead(host: Run, boxed: Boxed) -> None:
    """A container that was given the mount does not see the next one."""
    box = boxed(REGIONS)
    kill_supervisor_and_mount_again(host)
    assert "Transport endpoint is not connected" in box("ls /run/box")


def test_mount_itself_outlives_umount(host: Run, boxed: Boxed, machine: Machine) -> None:
    """A container that was given the mount keeps it, and the host cannot mount the place."""
    box = boxed(REGIONS)
    host(f"umount {REGIONS}")
    assert "kept" in box("ls /run/box")
    code, output = machine.run(MOUNT, root=True)
    assert code == 32
    assert "is already served" in output


@pytest.mark.parametrize(
    ("namespace", "plane"),
    [
        (f"setpriv --bounding-set -all,{CAPABILITIES}", "passthrough"),
        # As rootless engines do: root in there is nobody in particular outside.
        ("unshare --user --map-root-user --mount", "paged"),
    ],
    ids=["rootful", "rootless"],
)
def test_mount_inside(host: Run, namespace: str, plane: str) -> None:
    """With the capabilities of the page a container mounts for itself, and on which plane."""
    inside = (
        "mount -t tmpfs tmpfs /run; mkdir /tmp/inside.$$; cd /tmp/inside.$$; mkdir mnt; "
        "msharefs-mount msharefs mnt -o size=64M && mshare create mnt/region 2M --map && "
        "mshare status mnt && mshare rm mnt/region; umount mnt; rm -r /tmp/inside.$$"
    )
    output = host(f"unshare --mount --propagation private {namespace} bash -c '{inside}'")
    assert f"Data plane  {plane}" in output
