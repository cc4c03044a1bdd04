"""The filter of system calls, tried in child processes: what a server does passes, the rest not."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import logging
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from msharefs.daemon import confinement, system_calls
from msharefs.linux import rights, seccomp, syscalls
from tests.helpers.users import in_child

libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWUSER = 0x10000000
SYS_CLONE3 = 435
"""The same number everywhere."""


def filtered(piece: Callable[[], object]) -> object:
    """What `piece` returns or raises in a process that has the filter of a server."""

    def run() -> object:
        rights.forbid_new_privileges()
        confinement.filter_system_calls("on")
        return piece()

    return in_child(run)


def called(name: str, *arguments: object) -> None:
    """A function of the C library that returns -1 and sets errno."""
    if getattr(libc, name)(*arguments) == -1:
        raise OSError(ctypes.get_errno(), name)


def write_a_table(directory: Path) -> None:
    """As the journal does."""
    with sqlite3.connect(directory / "journal") as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE t (a)")
    connection.close()


def run_a_loop() -> None:
    """A trio loop with a worker thread, sockets and a pipe."""

    async def work() -> None:
        ours, theirs = trio.socket.socketpair()
        await ours.send(b"x")
        assert await theirs.recv(1) == b"x"
        assert await trio.to_thread.run_sync(threading.get_ident) != threading.get_ident()
        await trio.sleep(0.001)

    trio.run(work)


def listen() -> None:
    """As the endpoint for metrics does."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
        server.accept()[0].close()


@pytest.mark.parametrize(
    "work",
    [
        write_a_table,
        lambda directory: run_a_loop(),
        lambda directory: listen(),
        lambda directory: os.memfd_create("segment"),
        lambda directory: os.kill(os.getpid(), 0),
        lambda directory: resource.getrlimit(resource.RLIMIT_NOFILE),
        lambda directory: logging.FileHandler(directory / "log").emit(logging.makeLogRecord({})),
        lambda directory: Path("/proc/self/status").read_text(),
        lambda directory: (directory / "a").write_text("") or (directory / "a").rename("b"),
    ],
)
def test_what_a_server_does_passes(
    work: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same calls of Python, trio and sqlite, with the filter in effect."""
    monkeypatch.chdir(tmp_path)
    filtered(lambda: work(tmp_path) and None)


@pytest.mark.parametrize(
    "attempt",
    [
        os.fork,
        lambda: subprocess.run(["/bin/true"], check=False),
        lambda: os.execv("/bin/true", ["true"]),
        lambda: called("syscall", SYS_CLONE3, 0, 0),
        lambda: called("ptrace", 16, os.getppid(), 0, 0),
        lambda: called("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
        lambda: os.kill(os.getppid(), 0),
        lambda: os.kill(0, signal.SIGKILL),
        lambda: syscalls.mount("none", "/mnt", "tmpfs", 0),
        lambda: syscalls.mount("/", "/mnt", None, syscalls.MS_BIND),
        lambda: syscalls.mount("/", "/mnt", None, syscalls.MS_REMOUNT | syscalls.MS_BIND),
        lambda: syscalls.umount("/mnt"),
        lambda: syscalls.unshare(CLONE_NEWUSER),
        lambda: syscalls.setns(0, 0),
        lambda: os.chroot("/"),
        lambda: os.setuid(0),
        lambda: called("personality", 0),
        lambda: called("name_to_handle_at", -100, b"/", 0, 0, 0),
        lambda: called("open_by_handle_at", -1, 0, 0),
        lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
        lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        lambda: fcntl.ioctl(0, termios.TIOCSTI, b"x"),
        lambda: resource.prlimit(os.getppid(), resource.RLIMIT_CORE),
    ],
)
def test_what_a_server_never_does_is_not_there(attempt: Callable[[], object]) -> None:
    """No program, no process, no mount, nobody else's memory or signal; ENOSYS says so."""
    with pytest.raises(OSError) as caught:
        filtered(lambda: attempt() and None)
    assert caught.value.errno == errno.ENOSYS


def test_a_remount_passes_the_filter() -> None:
    """Whether it is allowed is the kernel's to say."""
    with pytest.raises(OSError) as caught:
        filtered(lambda: syscalls.mount("none", "/nowhere", None, syscalls.MS_REMOUNT))
    assert caught.value.errno in (errno.ENOENT, errno.EPERM)


def test_every_name_is_a_call_of_some_architecture() -> None:
    """libseccomp knows them all; a word that is misspelt would be passed over."""
    library = ctypes.CDLL(seccomp.LIBRARY)
    # __NR_SCMP_ERROR; calls of other architectures have numbers below it.
    unknown = [
        rule.name
        for rule in system_calls.rules()
        if library.seccomp_syscall_resolve_name(rule.name.encode()) == -1
    ]
    assert unknown == []


def test_off_filters_nothing() -> None:
    """The way out, should a library need what is not on the list."""

    def run() -> int:
        confinement.filter_system_calls("off")
        return subprocess.run([sys.executable, "-c", ""], check=False).returncode

    assert in_child(run) == 0


@pytest.mark.parametrize("wanted", ["auto", "on"])
def test_without_the_library(
    wanted: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server goes on without it, and says so, unless it is asked for by name."""
    monkeypatch.setattr(seccomp, "LIBRARY", "libno-such-library.so.7")
    with caplog.at_level(logging.INFO):
        if wanted == "on":
            with pytest.raises(seccomp.FilterError, match="seccomp=on cannot be had: there is no"):
                confinement.filter_system_calls(wanted)
        else:
            confinement.filter_system_calls(wanted)
            assert "system calls are not filtered: there is no libno" in caplog.text


def test_a_rule_that_makes_no_sense() -> None:
    """What the library refuses is one sentence, with the call in it."""
    with pytest.raises(seccomp.FilterError, match="no rule for read: Invalid argument"):
        seccomp.allow_only([seccomp.Rule("read", 9)])
