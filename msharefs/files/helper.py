"""A helper: has files of one user, one after the other; tells what each is, and reads it.

Owns the order in which that is safe: the caller is held and compared with what the kernel said of
him, his descriptor is duplicated, all rights but his are put out of force, and only then is the
file looked at. Nothing is opened by a name. It may hang in any of the later steps; whoever wants
it ends it, and waits for it not.

The descriptor is the caller's own open file: its position, flags and locks are not touched.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import signal
import socket
import stat
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from msharefs.files import wire
from msharefs.files.recorder import Recorder
from msharefs.files.sparse import SparseFile
from msharefs.files.wire import Facts, Wanted
from msharefs.linux import descriptors, mountinfo, proc, rights, syscalls
from msharefs.linux.descriptors import Thread

WINDOW = 64 << 20
"""Bytes of memory that are mapped at a time."""
CHUNK = 4 << 20
"""Bytes that are read at a time, after which it is told that it goes on."""
PIECES = 10_000
"""Pieces of a file that are looked for at a time, after which it is told that it goes on."""
IDLE = 5.0
"""Seconds for which it waits for the next file of its user."""

_NEEDED = frozenset({rights.CAP_SETGID, rights.CAP_SETUID, rights.CAP_SYS_PTRACE})
"""To duplicate a descriptor and to touch files as its owner. While it has the file none is in force."""


class _Gone(Exception):
    """Nobody wants anything of this process any more."""


def be_helper(conversation: socket.socket, broker: int) -> None:
    """The whole life of a process that the broker with that number has forked for it. It ends with
    the first file that fails. Raises OSError where the server has gone."""
    syscalls.call_ourselves("msharefs-file")
    rights.forbid_new_privileges()
    rights.keep_capabilities(_NEEDED & rights.permitted())
    rights.forbid_dumps()
    kinds = _Kinds()
    try:
        while True:
            _serve_a_file(conversation, broker, kinds)
    except OSError as error:
        wire.send(conversation, wire.failure(error))
    except _Gone:
        return


def _serve_a_file(conversation: socket.socket, broker: int, kinds: _Kinds) -> None:
    """From "have" to "close". Raises OSError and _Gone."""
    wanted = Wanted(**_next(conversation, IDLE)[0]["have"])
    fd, has = _duplicate(wanted)
    _end_with(broker)
    recording = Recorder(has.uid, has.gid, has.groups)
    with rights.only(frozenset()), recording as recorder, SparseFile(fd) as sparse:
        wire.send(conversation, {"file": _look_at(fd, wanted.thread, kinds)._asdict()})
        while "close" not in (order := _next(conversation))[0]:
            for answer, given in _work(fd, sparse, recorder, *order):
                wire.send(conversation, answer, given)
            wire.close(order[1])
        os.close(fd)


def _next(
    conversation: socket.socket, patience: float | None = None
) -> tuple[dict[str, Any], list[int]]:
    """The next message and its descriptors. Raises _Gone where none comes within these seconds."""
    if not select.select([conversation], [], [], patience)[0]:
        raise _Gone
    message, targets = wire.receive(conversation)
    if not message:
        raise _Gone
    return message, targets


def _duplicate(wanted: Wanted) -> tuple[int, proc.FileRights]:
    """The caller's file, which is touched with his rights from now on, and those. Raises OSError."""
    with Thread(wanted.thread) as caller:
        # Held by now: who this number belongs to does not change any more.
        has = proc.file_rights(wanted.thread)
        if (has.uid, has.gid) != (wanted.uid, wanted.gid):
            raise OSError(errno.EBADF, "the caller is not there any more")
        try:
            fd = caller.duplicate(wanted.descriptor)
        except PermissionError as error:
            why = "the daemon may not look into this process: see mshare doctor"
            raise OSError(errno.EPERM, why) from error
    rights.touch_files_as(has.uid, has.gid, has.groups)
    return fd, has


def _end_with(broker: int) -> None:
    """One whose broker is gone is ended by nobody when it hangs. The kernel forgets that it was
    told when the user for files changes. Raises _Gone."""
    syscalls.die_with_parent(signal.SIGKILL)
    if os.getppid() != broker:
        raise _Gone


def _look_at(fd: int, thread: int, kinds: _Kinds) -> Facts:
    """Step by step, and no further than what it is allows."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    known = descriptors.identity(fd)
    file_system, seals = "", 0
    if stat.S_ISREG(known.mode) and not flags & os.O_PATH:
        file_system = kinds.of(known.device, thread) or descriptors.file_system(fd)
        seals = descriptors.seals(fd)
    path = os.readlink(f"/proc/self/fd/{fd}")
    return Facts(known.mode, flags, seals, file_system, known.device, known.inode, path)


class _Kinds:
    """Names of file systems by the device of a file that we have open, which cannot become another
    one's meanwhile. So the file system need not be asked, and any table that knows it will do."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._own = mountinfo.OpenTable()
        self._changes = select.poll()
        self._changes.register(self._own, select.POLLPRI)
        self._known: dict[int, str] = {}

    def of(self, device: int, thread: int) -> str:
        """By our own table of mounts, or the thread's; empty if both do not tell."""
        if not self._known or self._changes.poll(0):
            self._known = {mount.device: mount.kind for mount in self._own.read()}
        if (kind := self._known.get(device)) is not None:
            return kind
        with suppress(OSError):
            for mount in mountinfo.read(f"/proc/{thread}/mountinfo"):
                if mount.device == device:
                    return mount.kind
        return ""


def _work(
    fd: int, sparse: SparseFile, recorder: Recorder, message: dict[str, Any], targets: Sequence[int]
) -> Iterator[tuple[dict[str, Any], Sequence[int]]]:
    """What an order asks for. Gives the messages about it, and the descriptors that go with them. Raises OSError."""
    if "record" in message:
        yield {"done": True}, [fd, recorder.fileno()]
    elif "measure" in message:
        yield from _measure(sparse, *message["measure"])
    elif "remember" in message:
        recorder.begin(fd, *message["remember"])
        yield {"done": True}, []
    else:
        for done in _read_all(fd, message.get("read", ()), targets, recorder):
            yield {"read": done}, []
        for which, start, file_offset, size in message.get("fill", ()):
            for done in sparse.fill(targets[which], start, file_offset, size, recorder.note):
                yield {"read": done}, []
        yield {"done": True}, []


def _measure(
    sparse: SparseFile, offset: int, size: int
) -> Iterator[tuple[dict[str, Any], Sequence[int]]]:
    """How much of a part may be data. It may have very many pieces, so that it is told that it goes on."""
    data = 0
    for number, (start, end) in enumerate(sparse.pieces(offset, size)):
        data += end - start
        if number % PIECES == PIECES - 1:
            yield {"data": data}, []
    yield {"done": True, "data": data}, []


def _read_all(
    fd: int,
    pieces: Sequence[tuple[int, int, int, int]],
    targets: Sequence[int],
    recorder: Recorder,
) -> Iterator[int]:
    """Read pieces into memory, and record them; after each part it tells how much it was. Raises
    OSError."""
    for which, start, file_offset, size in pieces:
        for done in range(0, size, WINDOW):
            length = min(WINDOW, size - done)
            with mmap.mmap(targets[which], length, offset=start + done) as memory:
                yield from _read_into(memory, fd, file_offset + done)
                with memoryview(memory) as pages:
                    recorder.note(file_offset + done, pages)


def _read_into(memory: mmap.mmap, fd: int, offset: int) -> Iterator[int]:
    """Up to the end of the file, wherever that is by now."""
    position = 0
    with memoryview(memory) as view:
        while position < len(view):
            with view[position : position + CHUNK] as part:
                done = _pread(fd, part, offset + position)
            if not done:
                return
            position += done
            yield done


def _pread(fd: int, part: memoryview, offset: int) -> int:
    try:
        return os.preadv(fd, [part], offset)
    except OSError as error:
        if error.errno == errno.EFAULT:
            # What a store would get SIGBUS for.
            raise OSError(errno.ENOMEM, "no memory for the file's bytes") from error
        raise
