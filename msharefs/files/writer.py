"""What a helper does that writes back: pages of a region into a file, as far as they were changed. It counts them, too.

Owns the order in which that loses nothing, whenever it ends: a page is looked at, copied to where nobody
changes it, compared with the file, stored in the file, and only then noted as in step. Which
pages go into the file is record.py's.

A page is stored through a mapping of the file, by a copy that the kernel makes (preadv): so the file never
becomes longer, whoever cuts it at that moment, and nothing is appended, whatever flags the descriptor has got meanwhile.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import select
import socket
import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from msharefs.files import wire
from msharefs.files.comparison import BATCH, counted, windows
from msharefs.files.record import DIGEST, PAGE, Record, judge, runs
from msharefs.linux import rights, syscalls

SIGN_OF_LIFE = 0.5
"""Seconds between words to the server."""
_DAMAGED = OSError(errno.EIO, "its record is damaged")
TRIES = 20
"""To store a page, in a file that others make shorter after each look at its length, and longer before the next."""

Step = TypeVar("Step")


def be_writer(conversation: socket.socket) -> None:
    """The whole life of a helper that writes: one record, whose rights it takes on. Raises OSError where the server
    has gone: it ends then, after the batch in hand."""
    syscalls.call_ourselves("msharefs-write")
    message, descriptors = wire.receive(conversation)
    if not message:
        return
    try:
        record = _take(descriptors[1])
    except (OSError, ValueError) as error:
        wire.send(conversation, wire.failure(error if isinstance(error, OSError) else _DAMAGED))
        return
    while message and not _is_gone(conversation):
        file, _record, *segment = descriptors
        try:
            answer = _work(conversation, file, record, segment, message)
        except OSError as error:
            answer = wire.failure(error)
        wire.send(conversation, answer)
        wire.close(descriptors)
        message, descriptors = wire.receive(conversation)


def _take(descriptor: int) -> Record:
    """The record, once no other helper writes by it, and the rights of whom it belongs to. Raises OSError, and ValueError
    for what is no record."""
    # Of an open file of our own, for as long as this process lives: the descriptor is shared with others.
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
    record = Record(own)
    fcntl.flock(own, fcntl.LOCK_EX)
    owner = record.owner
    rights.touch_files_as(owner.uid, owner.gid, owner.groups)
    rights.forbid_new_privileges()
    rights.keep_capabilities(frozenset())
    rights.forbid_dumps()
    return record


def _work(
    conversation: socket.socket,
    file: int,
    record: Record,
    segment: Sequence[int],
    message: dict[str, Any],
) -> dict[str, Any]:
    """What one message asks for. Returns the answer. Raises OSError."""
    if "sync" in message:
        os.fdatasync(file)
        return {"synced": True}
    if "count" in message:
        start, offset, size = message["count"]
        steps = counted(segment[0], record, start, offset, size, partial(_size_of, file))
        return {"done": sum(_while_wanted(conversation, steps))}
    writer = Writer(file, record, segment[0])
    for _ in _while_wanted(conversation, writer.write(*message["write"])):
        pass
    tally = writer.tally
    return {"done": [tally.written, tally.both, tally.unwritten, tally.error]}


def _while_wanted(conversation: socket.socket, steps: Iterator[Step]) -> Iterator[Step]:
    """The same steps, as long as the server is there; it hears now and again that they go on. Raises OSError."""
    told = time.monotonic()
    for step in steps:
        if _is_gone(conversation):
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
        if time.monotonic() - told > SIGN_OF_LIFE:
            told = time.monotonic()
            wire.send(conversation, {"busy": True})
        yield step


def _is_gone(conversation: socket.socket) -> bool:
    poll = select.poll()
    poll.register(conversation, 0)
    return bool(poll.poll(0))


def _size_of(file: int) -> int:
    return os.fstat(file).st_size


class Tally:
    """What has been done, in bytes; `both` were changed in the file as well. Why what is `unwritten`
    is not in the file says the first error, an errno, or 0."""

    def __init__(self) -> None:
        self.written = self.both = self.unwritten = self.error = 0

    def failed(self, error: int, size: int) -> None:
        """So much could not be written."""
        self.unwritten += size
        self.error = self.error or error


class Writer:
    """Writes parts of one segment into one file."""

    def __init__(self, file: int, record: Record, segment: int) -> None:
        """Descriptors, which stay the caller's. Raises OSError where no memory is left."""
        self.tally = Tally()
        self._file = file
        self._record = record
        self._segment = segment
        # A copy of what is being written: digest and file are made of the same bytes.
        self._own = os.memfd_create("copy")
        os.ftruncate(self._own, BATCH)
        self._copy = memoryview(mmap.mmap(self._own, BATCH))
        self._theirs = memoryview(mmap.mmap(-1, BATCH))

    def write(self, start: int, offset: int, size: int) -> Iterator[None]:
        """A piece of the segment from `start` on, whose place in the file is `offset`, of `size`
        bytes, in whole pages. After each batch the caller may end it. Raises OSError of the segment."""
        for window in windows(self._segment, self._record, start, offset, size):
            with _Target(self._file, window.offset, window.size) as target:
                for place, pages, inside, changed in window.changes(self._size):
                    target.ends_at(place + inside)
                    for at, length in runs(changed):
                        self._copy[at : at + length] = pages[at : at + length]
                        self._settle(at, length, target, place)
                    yield

    def _settle(self, start: int, size: int, target: _Target, place: int) -> None:
        """Bring the file in step with a part of the copy, which begins at `start`."""
        offset = target.offset + place + start
        ours = self._record.digests(self._copy[start : start + size])
        try:
            theirs = self._record.digests(self._read(offset, size))
        except OSError as error:
            self.tally.failed(error.errno or errno.EIO, size)
            return
        verdict = judge(self._record.noted(offset, size), ours, theirs)
        missing: set[int] = set()
        for at, length in runs(verdict.written):
            missing |= {at + page for page in self._store(start + at, length, target, place)}
        self.tally.both += PAGE * len(set(verdict.both) - missing)
        self.tally.written += PAGE * (len(verdict.written) - len(missing))
        stored = [at for at in range(0, size, PAGE) if at not in missing] if missing else None
        for at, length in [(0, size)] if stored is None else runs(stored):
            digests = ours[at // PAGE * DIGEST : (at + length) // PAGE * DIGEST]
            self._record.note(offset + at, digests)

    def _read(self, offset: int, size: int) -> memoryview:
        """What the file has there, and zeros behind its end."""
        view, done = self._theirs[:size], 0
        while done < size and (more := os.preadv(self._file, [view[done:]], offset + done)):
            done += more
        view[done:] = bytes(size - done)
        return view

    def _store(self, start: int, size: int, target: _Target, place: int) -> list[int]:
        """Bring a part of the copy into the file. Returns the pages that are not there now, counted from
        the part's start in bytes."""
        missing: list[int] = []
        done = self._copy_into(target, start, size, place)
        while done < size:
            error = self._insist(target, start + done, place)
            if error is None or target.offset + place + start + done >= self._size():
                # It has become shorter, if only for a moment: what was behind its end is lost there by a cut.
                return [*missing, *range(done, size, PAGE)]
            if error:
                self.tally.failed(error, PAGE)
                missing.append(done)
            done += PAGE
            done += self._copy_into(target, start + done, size - done, place)
        return missing

    def _copy_into(self, target: _Target, start: int, size: int, place: int) -> int:
        """Returns how many bytes of whole pages were copied; the last page of a file may be shorter."""
        try:
            view = target.part(place + start, size)
            done = os.preadv(self._own, [view], start) if view else 0
        except OSError:
            return 0
        return -(-done // PAGE) * PAGE if done == len(view) else done // PAGE * PAGE

    def _insist(self, target: _Target, start: int, place: int) -> int | None:
        """Store a page that could not be stored. Returns why it cannot be, 0 where it was, or None where the
        file was seen to end before it."""
        for _ in range(TRIES):
            target.renew()
            try:
                if not target.part(place + start, PAGE):
                    return None
                self._have_room(target.offset + place + start)
            except OSError as error:
                return error.errno or errno.EIO
            if self._copy_into(target, start, PAGE, place):
                return 0
        return errno.EIO

    def _have_room(self, offset: int) -> None:
        """For a page. Raises OSError where there is none; a file system that cannot be asked (ext2) shows
        it by the next try alone."""
        try:
            syscalls.have_room(self._file, offset, PAGE)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise

    def _size(self) -> int:
        return _size_of(self._file)


class _Target:
    """A part of the file as memory, which is had when it is needed and never touched but by the kernel."""

    def __init__(self, file: int, offset: int, size: int) -> None:
        self.offset = offset
        self._file = file
        self._size = size
        self._end = size
        self._memory: mmap.mmap | None = None

    def __enter__(self) -> _Target:
        return self

    def __exit__(self, *error: object) -> None:
        self.renew()

    def renew(self) -> None:
        """Its length is looked at anew with the next part."""
        self._memory = None

    def ends_at(self, end: int) -> None:
        """Nothing is stored from there on, though the file becomes longer meanwhile: what others append is theirs."""
        if self._memory is not None and len(self._memory) < end:
            self.renew()
        self._end = end

    def part(self, start: int, size: int) -> memoryview:
        """As much of it as the file had when it was mapped. Raises OSError, which says why nothing can be written: a seal,
        a file that may only be appended to."""
        if self._memory is None:
            left = os.fstat(self._file).st_size - self.offset
            if left <= start:
                return memoryview(b"")
            try:
                self._memory = mmap.mmap(self._file, min(left, self._size), offset=self.offset)
            except ValueError:
                # It was cut in this moment.
                return memoryview(b"")
        return memoryview(self._memory)[start : min(start + size, self._end)]
