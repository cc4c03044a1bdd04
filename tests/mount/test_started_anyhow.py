"""Started by anybody, anyhow: the mount is the same one, and nothing of its starter is kept."""

from __future__ import annotations

import fcntl
import os
import pty
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers import mount, raw
from tests.helpers.background import Background
from tests.helpers.file_processes import links_of
from tests.helpers.waiting import eventually

pytestmark = pytest.mark.usefixtures("requires_fuse")


def python(code: str) -> list[str]:
    """Words before a command: Python does something, and then becomes it."""
    return [
        sys.executable,
        "-c",
        f"import os, signal, sys\n{code}\nos.execvp(sys.argv[1], sys.argv[1:])",
    ]


def shell(code: str, redirections: str = "") -> list[str]:
    """Words before a command: a shell does something, and then becomes it."""
    return ["sh", "-c", f'{code} exec "$@" {redirections}', "sh"]


def started(
    background: Background, before: Sequence[str], *options: str
) -> subprocess.CompletedProcess[str]:
    """Run the mount command with words before it, until it returns."""
    return subprocess.run(
        [*before, *mount.command(), "msharefs", str(background.path), "-o", "size=16M", *options],
        env=mount.environment(background.marker),
        cwd="/",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


WAYS = {
    "descriptors 0 and 1 closed": shell("", "<&- >&-"),
    "descriptor 1 closed": shell("", ">&-"),
    "all three descriptors closed": shell("", "<&- >&- 2>&-"),
    "SIGCHLD ignored": python("signal.signal(signal.SIGCHLD, signal.SIG_IGN)"),
    "every signal ignored": python(
        "for each in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    if each < 32: signal.signal(each, signal.SIG_IGN)"
    ),
    "every signal blocked": python(
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())"
    ),
    "umask 777": shell("umask 777;"),
    "umask 0": shell("umask 0;"),
    "files of no size": shell("ulimit -S -f 0;"),
    "a directory that is gone": shell('d=$(mktemp -d); cd "$d"; rmdir "$d";'),
    "to die with its parent": ["setpriv", "--pdeathsig", "KILL"],
}


@pytest.mark.parametrize("way", WAYS)
def test_the_mount_is_the_same(background: Background, way: str) -> None:
    """M14: it is there, keeps regions, outlives its server, and ends as a whole."""
    done = started(background, WAYS[way])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    pids = mount.read_status(background.path)["pids"]
    with raw.region(background.path / "r", raw.HUGE, mapped=True) as fd:
        os.kill(pids["server"], signal.SIGKILL)
        assert raw.layout(fd)["mapped"] == raw.HUGE
    background.unmount_and_check()


def test_with_an_empty_environment(background: Background) -> None:
    """M14: not even a PATH is needed. (The marker is the tests' own.)"""
    kept = [f"{mount.MARKER}={background.marker}"]
    if not mount.PRIVILEGED:
        # Where the state directory is, for the helpers of the tests.
        kept.append(f"XDG_RUNTIME_DIR={os.environ['XDG_RUNTIME_DIR']}")
    assert started(background, ["env", "-i", *kept]).returncode == 0
    background.unmount_and_check()


def test_a_lock_and_a_pipe_are_free_when_the_command_returns(
    background: Background, tmp_path: Path
) -> None:
    """M14: descriptors above 2 that the caller passes on are not kept."""
    lock = os.open(tmp_path / "lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    words = [*mount.command(), "msharefs", str(background.path), "-o", "size=16M"]
    subprocess.run(
        words,
        env=mount.environment(background.marker),
        pass_fds=[lock, writer],
        timeout=30,
        check=True,
    )
    os.close(lock)
    os.close(writer)
    with open(tmp_path / "lock", "rb") as again:
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_blocking(reader, False)
    assert os.read(reader, 1) == b""
    os.close(reader)
    background.unmount_and_check()


@pytest.mark.parametrize("foreground", [False, True], ids=["background", "foreground"])
def test_nothing_of_the_caller_is_kept(
    background: Background, tmp_path: Path, *, foreground: bool
) -> None:
    """M14: no descriptor, no directory, no word of its environment in the server. In the
    foreground the standard descriptors are what the log goes to."""
    secret = os.open(tmp_path / "secret", os.O_CREAT | os.O_RDWR)
    words = [*mount.command(), "msharefs", str(background.path), "-o", "size=16M"]
    process = subprocess.Popen(
        [*words, *(["-f"] if foreground else [])],
        env={**mount.environment(background.marker), "SECRET": "word", "LD_PRELOAD": ""},
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
        pass_fds=[secret],
    )
    os.close(secret)
    eventually(lambda: mount.mount_lines(background.path), what="a mount")
    pids = mount.read_status(background.path)["pids"]
    for pid in pids.values():
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert [each for each in links_of(pid) if str(tmp_path) in each] == []
    names = {
        word.partition(b"=")[0]
        for word in Path(f"/proc/{pids['server']}/environ").read_bytes().split(b"\0")
    }
    assert b"PATH" in names
    assert not names & {b"SECRET", b"LD_PRELOAD"}
    background.unmount_and_check()
    assert process.wait(mount.STOP_SECONDS) == 0


@pytest.mark.parametrize("mask", ["000", "022", "777"])
def test_state_is_its_owners_alone(background: Background, mask: str) -> None:
    """M14: files of mode 0600 in a directory of mode 0700, whatever the umask."""
    assert started(background, shell(f"umask {mask};")).returncode == 0
    (state,) = mount.states_of(background.base)
    assert state.stat().st_mode & 0o777 == 0o700
    modes = {
        path.name: oct(path.stat().st_mode & 0o777) for path in state.iterdir() if path.is_file()
    }
    assert modes
    assert set(modes.values()) == {"0o600"}, modes
    background.unmount_and_check()


def test_a_group_that_is_killed_leaves_the_mount(background: Background) -> None:
    """M14: as a shell or a CI job ends all that it has started."""
    job = subprocess.Popen(
        [
            "sh",
            "-c",
            f"{shlex.join([*mount.command(), 'msharefs', str(background.path)])} -o size=16M; sleep 60",
        ],
        env=mount.environment(background.marker),
        start_new_session=True,
    )
    eventually(lambda: mount.mount_lines(background.path), what="a mount")
    supervisor = background.supervisor_pid()
    os.killpg(job.pid, signal.SIGKILL)
    job.wait()
    assert background.supervisor_pid() == supervisor
    background.unmount_and_check()


def slow_helper(background: Background) -> str:
    """A PATH whose fusermount3 mounts, and then takes its time."""
    directory = background.base / "bin"
    directory.mkdir()
    program = directory / "fusermount3"
    program.write_text(
        "#!/bin/sh\n"
        'PATH=${PATH#*:}; fusermount3 "$@"; code=$?\n'
        f'[ "$1" != -o ] || {{ : >{background.base}/mounted; read wait <{background.base}/go; }}\n'
        "exit $code\n"
    )
    program.chmod(0o755)
    os.mkfifo(background.base / "go")
    return f"{directory}:{os.environ['PATH']}"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_ended_while_it_mounts(background: Background, how: signal.Signals) -> None:
    """M14: Ctrl-C ends with a sentence and code 8; however it ends, no mount comes later."""
    variables = mount.environment(background.marker)
    variables["PATH"] = slow_helper(background)
    command = subprocess.Popen(
        [*mount.command(), "msharefs", str(background.path), "-o", "size=16M"],
        env=variables,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever runs the tests in the background of a shell ignores it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - as said
    )
    eventually((background.base / "mounted").exists, what="the helper has mounted")
    command.send_signal(how)
    if how != signal.SIGINT:
        command.wait()
    (background.base / "go").write_text("now\n")
    _out, complaint = command.communicate(timeout=30)
    if how == signal.SIGINT:
        assert complaint == "msharefs-mount: interrupted; nothing is mounted\n"
        assert command.returncode == 8
    background.check_nothing_left()


def test_an_empty_mount_point(background: Background) -> None:
    """M14: as mount(8) refuses it, and not the current directory."""
    done = background.start(place="", cwd=background.path)
    assert done.returncode == 1
    assert mount.only_sentence(done) == "the mount point is an empty word"
    background.check_nothing_left()


def test_relative_to_a_directory_that_is_gone(background: Background) -> None:
    """M14: a sentence that says what to do."""
    words = ["msharefs", "mnt", "-o", "size=16M"]
    done = subprocess.run(
        [*shell('d=$(mktemp -d); cd "$d"; rmdir "$d";'), *mount.command(), *words],
        env=mount.environment(background.marker),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "has been removed; give the whole path" in mount.only_sentence(done)
    background.check_nothing_left()


def test_in_a_user_namespace_of_ones_own(background: Background) -> None:
    """M14: as root of it, who is nobody on the machine: a mount that is seen in there, paged,
    with state where its user may write."""
    script = f"""
        {shlex.join(mount.command())} msharefs {background.path} -o size=16M || exit
        stat -f -c %T {background.path}
        touch {background.path}/r; ls {background.path}
        umount {background.path}
    """
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", script],
        env=mount.environment(background.marker),
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout.split()) == (0, ["fuseblk", "mshare_info", "r"]), done
    background.check_nothing_left()


@pytest.mark.parametrize("name", [b"m\xc3\xa4rz", b"m\xe4rz"], ids=["UTF-8", "Latin-1"])
def test_a_path_that_the_locale_cannot_write(background: Background, name: bytes) -> None:
    """M14: is a path like any other."""
    background.path = background.base / os.fsdecode(name)
    background.path.mkdir()
    ascii_only = ["env", "LC_ALL=C", "PYTHONUTF8=0", "PYTHONCOERCECLOCALE=0"]
    done = started(background, ascii_only)
    assert (done.returncode, done.stderr) == (0, "")
    assert os.listdir(background.path) == ["mshare_info"]
    done = started(background, ascii_only)
    assert done.returncode == 32
    assert "is already mounted" in mount.only_sentence(done)
    os.kill(background.supervisor_pid(), signal.SIGTERM)
    background.check_nothing_left()


def in_a_terminal(background: Background) -> tuple[subprocess.Popen[bytes], int]:
    """The mount command in the foreground of a terminal of its own, and the other side of that."""
    ours, theirs = pty.openpty()
    words = [*mount.command(), "msharefs", str(background.path), "-o", "size=16M", "-f"]
    command = subprocess.Popen(
        ["setsid", "--ctty", *words],
        env=mount.environment(background.marker),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    eventually(lambda: mount.mount_lines(background.path), what="a mount")
    # It answers, so the supervisor has seen its terminal.
    mount.read_status(background.path)
    return command, ours


def test_a_terminal_that_is_closed(background: Background) -> None:
    """M14: unmounts what ran in its foreground, as Ctrl-C does."""
    command, terminal = in_a_terminal(background)
    os.close(terminal)
    assert command.wait(mount.STOP_SECONDS) == 0
    background.check_nothing_left()


def test_a_terminal_that_is_closed_while_the_mount_is_in_use(background: Background) -> None:
    """M14: it goes on, without anybody to log to, until it is unmounted."""
    command, terminal = in_a_terminal(background)
    with raw.region(background.path / "r", raw.HUGE, mapped=True) as fd:
        os.close(terminal)
        os.kill(mount.read_status(background.path)["pids"]["server"], signal.SIGKILL)
        assert raw.layout(fd)["mapped"] == raw.HUGE
    background.unmount_and_check()
    assert command.wait(mount.STOP_SECONDS) == 0


def test_hang_up_at_a_terminal_that_is_there(background: Background) -> None:
    """M14: kill -HUP is for another server, there as well; Ctrl-C unmounts."""
    command, terminal = in_a_terminal(background)
    command.send_signal(signal.SIGHUP)
    eventually(lambda: mount.read_status(background.path)["restarts"] == 1, what="another server")
    os.write(terminal, b"\x03")
    assert command.wait(mount.STOP_SECONDS) == 0
    background.check_nothing_left()
    os.close(terminal)
