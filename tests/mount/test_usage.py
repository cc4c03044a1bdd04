"""Mistakes on the command line, and hosts that lack something: code, sentence, nothing left."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.background import Background

pytestmark = pytest.mark.usefixtures("requires_fuse")


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ("siez=1M", "size"),
        ("nr_inode=5", "nr_inodes"),
        ("aling=4096", "align"),
        ("max_regions=1G", "max_region"),
        ("maxmappings=5", "max_mappings"),
        ("hugh=never", "huge"),
        ("noswop", "noswap"),
        ("nodevs", "nodev"),
        ("allow-other", "allow_other"),
        ("loglevel=debug", "log_level"),
    ],
)
def test_unknown_option(background: Background, wrong: str, nearest: str) -> None:
    """M14: code 1, the option and the nearest known one are named, and nothing is mounted."""
    done = background.start("-o", f"size=16M,{wrong}")
    assert done.returncode == 1
    sentence = mount.only_sentence(done)
    assert f"'{wrong.partition('=')[0]}'" in sentence
    assert f"'{nearest}'" in sentence
    background.check_nothing_left()


def test_unknown_option_is_ignored_when_sloppy(background: Background) -> None:
    """M14: mount -s, "tolerate sloppy options", is obeyed."""
    assert background.start("-s", "-o", "size=16M,nonsense=1").returncode == 0
    background.unmount_and_check()


@pytest.mark.parametrize(
    "wrong",
    [
        "size",
        "size=",
        "size=0",
        "size=-1M",
        "size=12Q",
        "size=1.5",
        "size=64MB",
        "size=many",
        "size=0%",
        "size=9999999999T",
        "align=0",
        "align=2048",
        "align=3M",
        "align=1024G",
        "max_region=0",
        "nr_inodes=x",
        "max_mappings=0",
        "max_mappings=-5",
        "mode=rwx",
        "mode=99",
        "mode=17777",
        "uid=-1",
        "uid=nobody-knows-him",
        "gid=4294967295",
        "huge=sometimes",
        "data=magic",
        "log_level=loud",
        "noswap=1",
    ],
)
def test_bad_value(background: Background, wrong: str) -> None:
    """M14: code 1 and one sentence that names the option; nothing is mounted."""
    done = background.start("-o", wrong)
    assert done.returncode == 1
    assert wrong.partition("=")[0] in mount.only_sentence(done)
    background.check_nothing_left()


@pytest.mark.parametrize(
    "option",
    ["noswap", "mpol=default", "huge=never", "data=auto", "data=passthrough", "log_level=error"],
)
def test_option_is_taken(background: Background, option: str) -> None:
    """M14: each option by itself gives a mount that works, and says how it reaches the bytes.

    What needs root is refused to others in a sentence that says so.
    """
    done = background.start("-o", f"size=16M,{option}")
    if not mount.PRIVILEGED and option in {"noswap", "mpol=default", "data=passthrough"}:
        assert done.returncode == 2
        assert "root" in mount.only_sentence(done)
        background.check_nothing_left()
        return
    assert done.returncode == 0, done.stderr
    plane = mount.read_status(background.path)["data_plane"]
    assert plane["name"] == ("passthrough" if mount.PRIVILEGED else "paged")
    assert plane["why"]
    with raw.region(background.path / "r", raw.HUGE, mapped=True) as fd:
        assert raw.layout(fd)["mapped"] == raw.HUGE
    background.unmount_and_check()


def test_memory_policy_that_this_kernel_has(background: Background) -> None:
    """M14: mpol= with a list of nodes, whose commas are its own, is taken or refused as a whole."""
    done = background.start("-o", "mpol=bind:0,0,size=16M")
    if done.returncode == 0:
        assert raw.free_bytes(background.path) == 16 * raw.MIB
        background.unmount_and_check()
    else:
        assert "mpol" in mount.only_sentence(done)
        background.check_nothing_left()


def test_sizes_are_read_in_every_unit(background: Background) -> None:
    """N11: bytes, K, M, G and per cent of the memory, in df as they were asked for."""
    for text, size in (("8388608", 8), ("8192K", 8), ("16m", 16), ("16MiB", 16), ("1.5G", 1536)):
        assert background.start("-o", f"size={text}").returncode == 0
        assert raw.free_bytes(background.path) == size * raw.MIB
        background.unmount_and_check()
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for options, percent in ((["-o", "size=10%"], 10), ([], 50)):
        assert background.start(*options).returncode == 0
        assert abs(raw.free_bytes(background.path) - memory * percent // 100) <= raw.PAGE
        background.unmount_and_check()


@pytest.mark.parametrize(
    "arguments",
    [[], ["msharefs"], ["msharefs", "/tmp", "surplus"], ["--nonsense", "a", "/tmp"], ["-o"]],
)
def test_wrong_arguments(background: Background, arguments: list[str]) -> None:
    """M14: code 1 and one sentence."""
    done = mount.run_command(*arguments, marker=background.marker)
    assert done.returncode == 1
    assert mount.only_sentence(done)
    background.check_nothing_left()


def test_help_and_version() -> None:
    """M14: both are printed to stdout with code 0, whoever asks and without a mount."""
    done = mount.run_command("--help")
    assert done.returncode == 0
    assert "mountpoint" in done.stdout
    assert not done.stderr
    done = mount.run_command("--version")
    assert done.returncode == 0
    assert done.stdout.split() == ["msharefs", "0.1.0"]


def test_mount_point_that_is_none(background: Background) -> None:
    """M14: a missing directory and a file are code 32."""
    file = background.base / "file"
    file.write_text("")
    for path in (background.base / "missing", file, file / "below"):
        done = mount.run_command("msharefs", path, marker=background.marker)
        assert done.returncode == 32
        assert str(path) in mount.only_sentence(done)
    background.check_nothing_left()


@pytest.mark.parametrize("foreground", [False, True], ids=["background", "foreground"])
def test_no_fusermount(background: Background, *, foreground: bool) -> None:
    """M14: where fusermount3 is missing: code 2, and the sentence says what to install."""
    options = ["-f"] if foreground else []
    done = background.start(*options, path=str(background.base))
    assert done.returncode == 2
    assert "fuse3" in mount.only_sentence(done)
    background.check_nothing_left()


def helper(background: Background, script: str) -> str:
    """A PATH whose fusermount3 is this shell script."""
    directory = background.base / "bin"
    directory.mkdir()
    program = directory / "fusermount3"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return f"{directory}:{os.environ['PATH']}"


@pytest.mark.parametrize("foreground", [False, True], ids=["background", "foreground"])
@pytest.mark.parametrize(
    "script",
    ["echo 'fusermount3: no luck today' >&2; exit 1", "exit 0", "kill -9 $$"],
    ids=["fails", "gives-no-descriptor", "is-killed"],
)
def test_fusermount_that_fails(background: Background, script: str, *, foreground: bool) -> None:
    """M14: code 32 and one sentence; arena, namespace, state and processes are gone again."""
    options = ["-f"] if foreground else []
    done = background.start(*options, "-o", "size=16M", path=helper(background, script))
    assert done.returncode == 32
    # A user's daemon warns of logind before, where there is one.
    (sentence,) = [line for line in done.stderr.splitlines() if "RemoveIPC" not in line]
    assert sentence.startswith("msharefs-mount: ")
    assert "Traceback" not in done.stderr
    if "luck" in script:
        assert "no luck today" in done.stderr
    background.check_nothing_left()


def test_option_that_the_kernel_refuses(background: Background) -> None:
    """M14: a memory policy for nodes that are not there fails in one sentence that names it."""
    done = background.start("-o", "size=16M,mpol=bind:999")
    assert done.returncode == (1 if mount.PRIVILEGED else 2)
    assert "mpol" in mount.only_sentence(done)
    background.check_nothing_left()


def test_metrics_that_cannot_be_served_fail_the_mount(background: Background) -> None:
    """M14: at an address that is taken, or not this machine's; nothing is left."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for where in (f"127.0.0.1:{taken.getsockname()[1]}", "192.0.2.1:9100"):
            done = background.start("-o", f"size=16M,metrics={where}")
            assert done.returncode == 2
            sentence = mount.only_sentence(done)
            assert sentence.startswith(f"option 'metrics': {where} cannot be had: ")
            background.check_nothing_left()


def in_private_namespace(background: Background, script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where /sbin has the links that `make install-helper` makes, and
    msharefs-mount.

    All exist in a private mount namespace only; nothing of the machine is changed.
    """
    (command,) = mount.command()
    real = background.base / "sbin"
    real.mkdir()
    prologue = f"""
        set -e
        mount --make-rprivate /
        sbin=$(readlink -f /sbin)
        mount --bind "$sbin" {real}
        mount -t tmpfs none "$sbin"
        ln -s {real}/* "$sbin"
        make -s -C {mount.ROOT} -o setup install-helper PREFIX={background.base} SUDO= >{background.base}/links 2>&1
        ln -s {command} "$sbin/msharefs-mount"
    """
    (background.base / "bin").mkdir()
    return subprocess.run(
        ["unshare", "--mount", "sh", "-c", prologue + script],
        env=mount.environment(background.marker),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


FORMS = {
    "kernel-document": "mount -t msharefs msharefs {path}",
    "fuse-helper": "mount -t fuse.msharefs-mount none {path}",
    "type-of-proc-mounts": "mount -t fuse.msharefs none {path}",
    "with-options": "mount -t msharefs -o size=16M,nosuid,x-systemd.automount none {path}",
    "options-of-others": (
        "mount -t msharefs -o nonempty,fsname=f,nosymfollow,inode64,nr_inodes=0,uhelper=u,strictatime"
        " none {path}"
    ),
    "sloppy": "mount -s -t msharefs -o auto_unmount,what=ever none {path}",
    "fstab": (
        "echo 'msharefs {path} msharefs size=16M,nofail,noauto 0 0' > {base}/fstab\n"
        "mount --fstab {base}/fstab {path}"
    ),
    "line-of-proc-mounts": (
        "mount -t msharefs msharefs {path}; grep ' {path} ' /proc/mounts >{base}/fstab; umount {path}\n"
        "mount --fstab {base}/fstab {path}"
    ),
}


@pytest.mark.root_only("makes a mount namespace")
@pytest.mark.parametrize("form", FORMS)
def test_mount_command(background: Background, form: str) -> None:
    """A9, M14: mount(8) mounts by type, by FUSE's helper and by an fstab line; umount ends it."""
    if shutil.which("unshare") is None:
        pytest.skip("no unshare(1)")
    line = FORMS[form].format(path=background.path, base=background.base)
    done = in_private_namespace(
        background,
        f"""
        {line}
        cat {background.path}/mshare_info
        findmnt --noheadings --output FSTYPE {background.path}
        umount {background.path}
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["2097152", "fuse.msharefs"]
    background.check_nothing_left()


@pytest.mark.root_only("makes a mount namespace")
@pytest.mark.parametrize("kind", ["msharefs", "fuse.msharefs"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("-o siez=1M", "'size'"),
        ("-o auto_unmount", "'auto_unmount' cannot be had"),
        ("-s -o size=what", "'size'"),
        ("-f -o siez=1M", "'size'"),
    ],
)
def test_mount_command_reports_mistakes(
    background: Background, kind: str, words: str, said: str
) -> None:
    """M14: mount(8) passes the sentence and the code of the helper on."""
    done = in_private_namespace(background, f"mount -t {kind} {words} none {background.path}")
    assert done.returncode == 1
    assert said in done.stderr
    background.check_nothing_left()


@pytest.mark.root_only("makes a mount namespace")
@pytest.mark.parametrize("fstab", [False, True], ids=["by-hand", "fstab"])
def test_mount_command_remounts(background: Background, fstab: bool) -> None:
    """M14: mount -o remount, with what mount(8) adds from fstab or from what is mounted."""
    how = f"--fstab {background.base}/fstab" if fstab else "-t msharefs -o size=16M,mode=755 none"
    done = in_private_namespace(
        background,
        f"""
        echo 'none {background.path} msharefs size=16M,mode=755,nofail 0 0' >{background.base}/fstab
        {"" if fstab else f": >{background.base}/fstab"}
        size() {{ df -k --output=size {background.path} | tail -1; }}
        again="mount --fstab {background.base}/fstab -o"
        mount {how} {background.path}; size
        $again remount,size=32M {background.path}; size
        $again remount,ro {background.path}; ! touch {background.path}/r; size
        $again remount,rw,size=64M {background.path}; touch {background.path}/r; size
        ! $again remount,mode=700 {background.path}
        ! $again remount,size=banana {background.path}
        umount {background.path}
        """,
    )
    assert done.returncode == 0, done.stderr
    # What fstab says counts where the command line says nothing.
    expected = ["16384", "32768", "16384" if fstab else "32768", "65536"]
    assert done.stdout.split() == expected
    assert "unmount it to give another value to: mode" in done.stderr
    assert "'banana' is not a size" in done.stderr
    background.check_nothing_left()


@pytest.mark.root_only("makes a mount namespace")
@pytest.mark.parametrize("kind", ["msharefs", "fuse.msharefs"])
def test_mount_command_that_pretends(background: Background, kind: str) -> None:
    """M14: mount --fake checks everything and mounts nothing; it does not wait in the foreground."""
    done = in_private_namespace(
        background,
        f"""
        mount --fake -v -t {kind} none {background.path}
        ! mountpoint -q {background.path}
        ! mount --fake -t {kind} none {background.path}/missing
        """,
    )
    assert done.returncode == 0, done.stderr
    assert "missing is not a directory" in done.stderr
    background.check_nothing_left()


@pytest.mark.root_only("makes a mount namespace")
@pytest.mark.parametrize(
    "hide",
    [
        "mount -t tmpfs none /dev",
        # In a user namespace without a mapping we are nobody, yet reach our own interpreter.
        """
        touch {base}/device; chmod 0 {base}/device; mount --bind {base}/device /dev/fuse
        exec='unshare --user'
        """,
    ],
    ids=["missing", "closed"],
)
def test_no_fuse_device(background: Background, hide: str) -> None:
    """M14: code 2, and the sentence names /dev/fuse, where there is none or it is not for us."""
    done = in_private_namespace(
        background,
        f"""
        exec=
        {hide.format(base=background.base)}
        $exec {background.base}/bin/msharefs-mount msharefs {background.path}
        """,
    )
    assert done.returncode == 2
    assert "/dev/fuse" in mount.only_sentence(done)
    background.check_nothing_left()


HIDE_LIBSECCOMP = """
    for library in $(ldconfig -p | awk '/libseccomp.so.2/ {print $NF}'); do
        mount --bind /dev/null $(readlink -f $library)
    done
"""


@pytest.mark.root_only("makes a mount namespace")
def test_no_filter_of_system_calls(background: Background) -> None:
    """M14: a machine without libseccomp mounts without it, and the log says so; where seccomp=on
    asks for it: code 2, and the sentence says what is missing."""
    command = f"{background.base}/bin/msharefs-mount msharefs {background.path} -o size=16M"
    done = in_private_namespace(
        background,
        f"""
        {HIDE_LIBSECCOMP}
        code=0; {command},seccomp=on || code=$?
        {command}
        echo $code $(cat {background.path}/mshare_info)
        umount {background.path}
        """,
    )
    assert (done.returncode, done.stdout) == (0, "2 2097152\n"), done.stderr
    (sentence,) = done.stderr.splitlines()
    assert "seccomp=on cannot be had: there is no libseccomp" in sentence
    background.check_nothing_left()


def test_state_directories_have_readable_names(background: Background) -> None:
    """M14: /run/msharefs/NAME tells an administrator which mount it belongs to."""
    before = mount.state_directories()
    assert background.start("-o", "size=16M").returncode == 0
    (fresh,) = {
        each for each in mount.state_directories() - before if _is_of(each, background.path)
    }
    assert fresh.stat().st_mode & 0o777 == 0o700
    background.unmount_and_check()
    assert not fresh.exists()


def _is_of(state: Path, path: Path) -> bool:
    return path.name in state.name and path.parent.name.rpartition("-")[2] in state.name
