"""The switchboard: routes each request to its own handler or to pyfuse3, and each reply back.

Owns the reading and writing of /dev/fuse and our end of the socket pair that pyfuse3
takes for its /dev/fuse. It completes pyfuse3's INIT reply with what libfuse does not
know. It has no rule of the file system; handlers do.

Everything runs in one trio loop. A reply of pyfuse3 can appear only in a step of one of
its tasks, so they are collected after each step (as a trio Instrument) and never waited
for; a request costs one wake-up less that way (docs/design).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from time import perf_counter
from typing import Any

import trio

from msharefs.core.errors import RefusedError
from msharefs.fuse import kernel, messages
from msharefs.fuse.kernel import Opcode
from msharefs.fuse.messages import Header
from msharefs.fuse.metrics import Metrics
from msharefs.fuse.mounting import REQUEST_ROOM
from msharefs.fuse.outstanding import Outstanding
from msharefs.fuse.payload import Handler, Payload
from msharefs.fuse.planes.plane import Negotiation
from msharefs.fuse.replay import Replay

log = logging.getLogger(__name__)

LISTING_SIZE = 64 << 10
"""A reply of pyfuse3 has to fit into one message of the pair's default buffer."""
BURST = 16
"""Requests served in one go before other tasks get their turn."""
LOOK_AGAIN = 50e-6
"""Seconds. A client that was answered often asks again at once, and a look is cheaper than
to sleep and be woken; not so where client and daemon have to share one processor."""


class Switchboard(trio.abc.Instrument):
    """One mount's exchange between the kernel and those who answer."""

    def __init__(
        self,
        device: int,
        pair: socket.socket,
        handlers: Mapping[int, Handler],
        negotiation: Negotiation,
        metrics: Metrics,
        replay: Replay,
        outstanding: Outstanding,
        reached: Callable[[str], None],
    ) -> None:
        """`device` is the /dev/fuse descriptor and `pair` our end; neither is owned here.
        `reached` is told of each step, for tests that end the process there."""
        self._device = device
        self._pair = pair
        self._handlers = handlers
        self._negotiation = negotiation
        self._metrics = metrics
        self._replay = replay
        self._outstanding = outstanding
        self._reached = reached
        self._scope = trio.CancelScope()
        self._look_again = LOOK_AGAIN if len(os.sched_getaffinity(0)) > 1 else 0.0
        self._reply = bytearray(REQUEST_ROOM)
        self._forwarded: dict[int, tuple[int, float]] = {}
        os.set_blocking(device, False)
        pair.setblocking(False)

    async def run(self, init: bytes, *, again: bool, on_ready: Callable[[], None]) -> bool:
        """Answer INIT, call `on_ready`, and serve until the mount is gone or `stop`.

        With `again` an earlier process answered INIT: then only pyfuse3 sees it, and what
        that process read and did not answer is asked for. Returns whether the mount is gone.
        """
        async with trio.open_nursery() as nursery:
            trio.lowlevel.add_instrument(self)
            try:
                await self._greet(init, again=again)
                on_ready()
                if again:
                    for message in self._outstanding.recover():
                        # A copy that may be changed, as what is read from the kernel may be.
                        await self._route(memoryview(bytearray(message)), nursery)
                with self._scope:
                    await self._serve(nursery)
                while self._forwarded:
                    await trio.lowlevel.checkpoint()
            finally:
                trio.lowlevel.remove_instrument(self)
        return not self._scope.cancelled_caught

    def stop(self) -> None:
        """Read no more; finish what is in hand."""
        self._scope.cancel()

    async def _greet(self, init: bytes, *, again: bool) -> None:
        self._pair.send(init)
        await trio.lowlevel.wait_readable(self._pair)
        reply = self._pair.recv(REQUEST_ROOM)
        if again:
            return
        self._write(
            messages.complete_init(
                reply,
                flags=self._negotiation.flags,
                flags2=self._negotiation.flags2,
                stack_depth=self._negotiation.stack_depth,
            )
        )

    async def _serve(self, nursery: trio.Nursery) -> None:
        outstanding = self._outstanding
        buffer = outstanding.buffer
        burst = 0
        look_until = 0.0
        while True:
            outstanding.before_read()
            try:
                size = os.readv(self._device, [buffer])
            except BlockingIOError:
                if perf_counter() < look_until and not self._forwarded:
                    os.sched_yield()
                    continue
                burst = 0
                await trio.lowlevel.wait_readable(self._device)
                continue
            except OSError as error:
                if error.errno in (errno.ENODEV, errno.ECONNABORTED):
                    return
                # ENOENT: the request was taken back; EINTR: a signal came.
                if error.errno not in (errno.ENOENT, errno.EINTR):
                    raise
                continue
            await self._route(memoryview(buffer)[:size], nursery)
            look_until = perf_counter() + self._look_again
            burst += 1
            if burst == BURST:
                burst = 0
                await trio.lowlevel.checkpoint()

    async def _route(self, message: memoryview, nursery: trio.Nursery) -> None:
        header = messages.decode_header(message)
        self._reached("request read")
        body = message[messages.IN_HEADER_SIZE :]
        handler = self._handlers.get(header.opcode)
        known = self._replay.answer(header, body)
        if known is not None:
            self._finish(header, known, perf_counter())
        elif handler is not None:
            self._replay.begin(header.unique, header.opcode)
            self._handle(handler, header, message, nursery)
            self._announce_forwarded()
        elif header.opcode == Opcode.INTERRUPT:
            # All that can take long holds the promise of memory and is not cut short.
            return
        else:
            await self._forward(header, message)

    def _announce_forwarded(self) -> None:
        """pyfuse3's one task serves in order, so what it changes is for the oldest."""
        for unique, (opcode, _started) in self._forwarded.items():
            self._replay.begin(unique, opcode)
            return

    # Requests answered here

    def _handle(
        self, handler: Handler, header: Header, message: memoryview, nursery: trio.Nursery
    ) -> None:
        started = perf_counter()
        try:
            answer = handler(header, message[messages.IN_HEADER_SIZE :])
        except Exception as error:  # noqa: BLE001 - answered and logged in _finish
            self._finish(header, error, started)
            return
        if isinstance(answer, bytes | memoryview):
            self._finish(header, answer, started)
        else:
            self._outstanding.keep(message)
            nursery.start_soon(self._finish_later, header, answer, started)

    async def _finish_later(
        self, header: Header, answer: Awaitable[Payload], started: float
    ) -> None:
        try:
            payload = await answer
        except Exception as error:  # noqa: BLE001 - answered and logged in _finish
            self._finish(header, error, started)
        else:
            self._finish(header, payload, started)

    def _finish(self, header: Header, outcome: Payload | Exception, started: float) -> None:
        """Write the reply; an exception that is no refusal is our fault, and EIO."""
        if isinstance(outcome, Exception):
            self._write(messages.encode_error(header.unique, explain(outcome, header)))
        else:
            self._write(messages.encode_success(header.unique, len(outcome)), outcome)
        self._metrics.record(
            header.opcode,
            failed=isinstance(outcome, Exception),
            seconds=perf_counter() - started,
        )

    # Requests answered by pyfuse3

    async def _forward(self, header: Header, message: memoryview) -> None:
        if header.opcode in (Opcode.READDIR, Opcode.READDIRPLUS):
            messages.limit_listing(message, LISTING_SIZE)
        if header.opcode not in kernel.NO_REPLY:
            self._outstanding.keep(message)
            self._forwarded[header.unique] = (header.opcode, perf_counter())
            self._announce_forwarded()
        while True:
            try:
                self._pair.send(message)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._pair)
            else:
                return

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Our handlers say what they serve; pyfuse3's task cannot. Must not raise either."""
        self._announce_forwarded()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        """Collect the replies that the step wrote. Must not raise: trio would drop us."""
        while self._forwarded:
            try:
                size = self._pair.recv_into(self._reply)
            except BlockingIOError:
                return
            except OSError:
                log.exception("cannot read from pyfuse3")
                return
            try:
                self._complete(bytes(memoryview(self._reply)[:size]))
            except Exception:
                log.exception("cannot complete a reply")

    def _complete(self, reply: bytes) -> None:
        _length, error, unique = messages.decode_out_header(reply)
        opcode, started = self._forwarded.pop(unique)
        self._write(reply)
        self._metrics.record(opcode, failed=bool(error), seconds=perf_counter() - started)
        self._announce_forwarded()

    def _write(self, reply: bytes, payload: Payload = b"") -> None:
        self._reached("before reply")
        reply = self._outstanding.as_asked(reply)
        try:
            os.writev(self._device, (reply, payload))
        except OSError as error:
            # ENOENT: nobody waits for it any more; ENODEV: the mount is gone.
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                log.error("the kernel does not take a reply: %s", error)
                self._write_failure(reply)
        self._outstanding.answered(reply)
        self._reached("after reply")

    def _write_failure(self, reply: bytes) -> None:
        _length, _error, unique = messages.decode_out_header(reply)
        try:
            os.write(self._device, messages.encode_error(unique, errno.EIO))
        except OSError as error:
            log.error("nor the error instead: %s", error)


def explain(error: Exception, header: Header) -> int:
    """Log why a request failed, and the errno to answer."""
    if isinstance(error, RefusedError):
        log.debug(
            "%s of inode %d by pid %d: %s: %s",
            _opcode_name(header.opcode),
            header.nodeid,
            header.pid,
            error.code,
            error,
        )
        return error.errno
    log.error("%s of inode %d failed", _opcode_name(header.opcode), header.nodeid, exc_info=error)
    return errno.EIO


def _opcode_name(opcode: int) -> Any:
    return Opcode(opcode).name if opcode in Opcode._value2member_map_ else opcode
