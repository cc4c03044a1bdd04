"""The collector's process: it outlives mshare run, as long as anything of the run lives.

Owns what is waited for and when it is looked. It starts the program, so that all that descends
from it ends up as a child of this process, whoever ends in between; and it has no part in the
program's process group, so that signals for that do not reach it.
"""

from __future__ import annotations

import enum
import json
import os
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from msharefs.client.errors import MshareError
from msharefs.client.region import Region
from msharefs.linux.events import IN_CLOSE, FileEvents, Signals
from msharefs.linux.sockets import said
from msharefs.linux.syscalls import adopt_orphans
from msharefs.preload import regions
from msharefs.preload.collector import Collector, give_all_back
from msharefs.preload.run_file import RunFile, RunFileBusyError
from msharefs.preload.segments import Segments

LOOK_SECONDS = 10.0
"""How often everything is looked at by itself."""
QUIET_SECONDS = 0.02
"""Events come in swarms; after one the next ones are left alone for so long."""
BUSY_SECONDS = 0.01
"""When to try again while a process of the run changes the tables."""

QUESTION_BYTES = 16
FILE_BYTES = 4

IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGALRM,
    signal.SIGIO,
    signal.SIGTSTP,
    signal.SIGTTOU,
    signal.SIGTTIN,
)


class Question(enum.IntEnum):
    """What a process of the run may ask (collector.c)."""

    COLLECT = ord("c")
    HOLD = ord("h")


@dataclass(frozen=True, slots=True)
class Command:
    """What to start, and in which surroundings."""

    arguments: Sequence[str]
    environment: dict[str, str]
    group: int
    """The process group that it belongs to."""
    signal_mask: set[int]
    default_signals: Sequence[signal.Signals]


@dataclass(frozen=True, slots=True)
class Task:
    """What a collector works on."""

    region: Region
    run_file: RunFile
    socket: socket.socket
    """Where it is asked."""
    keep: bool
    """Nothing is given back but what processes have let go of, and the region stays."""


class CollectorProcess:
    """The loop."""

    def __init__(self, task: Task, channel: socket.socket) -> None:
        """`channel` leads to mshare run, and is at its end when that is gone."""
        self._task = task
        self._channel = channel
        self._events = FileEvents()
        self._run_file_events = self._events.watch(str(task.run_file.path), IN_CLOSE)
        self._segments = Segments(self._events)
        self._collector = Collector(task.region, task.run_file, self._segments)
        self._children = Signals({signal.SIGCHLD})
        self._command = 0
        self._command_ended = False
        self._status: int | None = None
        self._reported = False
        self._has_children = False
        # When to look at everything, and until when events are left alone.
        self._next = time.monotonic() + LOOK_SECONDS
        self._quiet = 0.0
        self._waiting: list[str] = []

    @property
    def descriptors(self) -> set[int]:
        """Those that the loop needs."""
        files = (
            self._task.region,
            self._task.run_file,
            self._task.socket,
            self._channel,
            self._events,
            self._children,
        )
        return {file.fileno() for file in files}

    def start(self, command: Command) -> None:
        """Start the program. mshare run is told its number, or why there is none."""
        adopt_orphans()
        try:
            self._command = os.posix_spawnp(
                command.arguments[0],
                list(command.arguments),
                command.environment,
                setpgroup=command.group,
                setsigmask=command.signal_mask,
                setsigdef=command.default_signals,
            )
        except OSError as error:
            self._command_ended = True
            self._tell(failed=error.errno)
            return
        self._has_children = True
        self._tell(started=self._command)

    def work(self) -> None:
        """Give back what nobody has, until the program and all that it left behind has ended."""
        while not self._is_over():
            if self._command_ended and not self._reported:
                # What the program has left goes on without mshare run.
                self._report(left=True)
            self._step()

    def finish(self) -> None:
        """Leave the region as it shall be left, and nothing else."""
        with suppress(MshareError, OSError, RunFileBusyError):
            self._leave_region()
        self._segments.close()
        self._task.run_file.remove()
        # Whoever waits for the end may want to unmount.
        self._collector.region.close()
        if not self._reported:
            self._report(left=False)

    def _leave_region(self) -> None:
        if self._task.keep:
            return
        if self._task.run_file.story.made:
            regions.remove(self._task.run_file)
        else:
            give_all_back(self._collector.region, self._task.run_file)

    def _is_over(self) -> bool:
        if not self._command_ended or self._has_children:
            return False
        return not self._task.run_file.has_holders()

    def _step(self) -> None:
        now = time.monotonic()
        waiting = select.poll()
        for each in (self._task.socket, self._children, self._channel):
            if each.fileno() >= 0:
                waiting.register(each, select.POLLIN)
        if now >= self._quiet:
            waiting.register(self._events, select.POLLIN)
        until = min(self._next, self._quiet) if now < self._quiet else self._next
        ready = {fd for fd, _ in waiting.poll(max(0.0, until - now) * 1000)}
        if self._children.fileno() in ready:
            self._reap()
        if self._events.fileno() in ready:
            self._note_events()
        if self._task.socket.fileno() in ready:
            self._read_questions()
        if self._channel.fileno() in ready:
            self._hear()
        if time.monotonic() >= self._next:
            self._look()

    def _note_events(self) -> None:
        """Somebody has let go of something: give back what is told, and look at the rest soon."""
        self._events.read()
        now = time.monotonic()
        self._quiet = now + QUIET_SECONDS
        self._next = min(self._next, self._quiet)
        self._try(self._collector.collect_hinted)

    def _look(self) -> None:
        began = time.monotonic()
        collect = self._collector.collect_hinted if self._task.keep else self._collector.collect
        if not self._try(collect):
            self._next = began + BUSY_SECONDS
            return
        # However much there is to look at, most of the time is others'.
        self._quiet = max(self._quiet, time.monotonic() + 10 * (time.monotonic() - began))
        self._next = time.monotonic() + LOOK_SECONDS
        for address in self._waiting:
            with suppress(OSError):
                self._task.socket.sendto(b"\0", address)
        self._waiting.clear()

    def _try(self, collect: Callable[[], None]) -> bool:
        """False: to be tried again soon."""
        try:
            collect()
        except RunFileBusyError:
            return False
        except MshareError:
            # The mount's daemon is dead. Perhaps the place is mounted again one day.
            self._take_up_region()
        return True

    def _take_up_region(self) -> None:
        region = regions.open_again(self._task.run_file)
        if region is not None:
            self._collector.replace_region(region)

    def _read_questions(self) -> None:
        while True:
            try:
                data, control, _, address = self._task.socket.recvmsg(
                    QUESTION_BYTES, socket.CMSG_SPACE(FILE_BYTES)
                )
            except BlockingIOError:
                return
            self._answer(data, _files(control), address)

    def _answer(self, data: bytes, files: list[int], address: Any) -> None:
        question = data[0] if data else 0
        if question == Question.HOLD and files:
            with suppress(OSError):
                self._segments.hold(files.pop())
        elif question == Question.COLLECT:
            self._next = 0.0
            if address:
                self._waiting.append(address)
        for fd in files:
            os.close(fd)

    def _reap(self) -> None:
        """Take leave of every child that has ended: the program, and orphans of it."""
        self._children.read()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                self._has_children = False
                break
            if pid == 0:
                break
            if pid == self._command:
                self._command_ended = True
                self._status = status
                self._look()
        self._next = min(self._next, time.monotonic() + QUIET_SECONDS)

    def _report(self, *, left: bool) -> None:
        self._reported = True
        self._tell(ended=self._status, left=left, peak=self._task.run_file.peak)

    def _hear(self) -> None:
        """mshare run says that the program has ended, which is its child now; or is gone."""
        if not said(self._channel, QUESTION_BYTES):
            self._channel.close()
        if not self._command:
            self._command_ended = True
            self._next = 0.0

    def _tell(self, **news: object) -> None:
        with suppress(OSError):
            self._channel.send(json.dumps(news).encode())


def _files(control: list[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors that came with a message."""
    found: list[int] = []
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found += memoryview(data[: len(data) // 4 * 4]).cast("i").tolist()
    return found


def begin(task: Task, channel: socket.socket, command: Command | None) -> None:
    """The life of the process, in a fresh child of mshare run. Without a command: in place of a
    collector that has died, while the program runs."""
    os.setpgid(0, 0)
    process = CollectorProcess(task, channel)
    if command is not None:
        process.start(command)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    _close_all_but(process.descriptors)
    os.chdir("/")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    process.work()
    process.finish()


def _close_all_but(descriptors: set[int]) -> None:
    """Nobody shall wait for the end of a pipe or for a lock because of this process."""
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in descriptors:
            with suppress(OSError):
                os.close(int(name))
