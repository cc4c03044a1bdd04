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
import math
import os
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from time import perf_counter

import trio

from msharefs.core.errors import Interrupted, ServersEnded, StorageFailed, Unanswered
from msharefs.fuse import handshake, messages
from msharefs.fuse.account import Account
from msharefs.fuse.device import ConnectionGone, Device
from msharefs.fuse.in_service import DEATHS, InService
from msharefs.fuse.interrupts import Interrupts
from msharefs.fuse.kernel import FUSE_UNIQUE_RESEND, NO_REPLY, Opcode
from msharefs.fuse.messages import Header, MalformedError
from msharefs.fuse.mounting import REQUEST_ROOM
from msharefs.fuse.outstanding import Outstanding
from msharefs.fuse.payload import Handler, Payload
from msharefs.fuse.planes.plane import Negotiation
from msharefs.fuse.replay import Replay
from msharefs.fuse.turns import Turns
from msharefs.fuse.waiting import Waiting
from msharefs.linux import proc

log = logging.getLogger(__name__)

LONGEST_FORWARDED = 64 << 10
"""Bytes of a request that goes over the pair, which takes three times as many in one message. What
pyfuse3 answers is a page at most: this is a kind of request that nobody knows."""
PAYLOADS = (bytes, memoryview)
"""The types of an answer that is there at once. `bytes | memoryview` would be made at each request."""
ITS_STEPS = 4
"""Rounds of the loop in which pyfuse3 should have answered; it takes two."""

Later = tuple[Header, Awaitable[Payload], float]
"""A request, what will give its answer, and when it was begun (perf_counter)."""


class Switchboard(trio.abc.Instrument):
    """One mount's exchange between the kernel and those who answer."""

    def __init__(
        self,
        device: Device,
        pair: socket.socket,
        handlers: Mapping[int, Handler],
        account: Account,
        replay: Replay,
        outstanding: Outstanding,
        in_service: InService,
        failpoint: Callable[[str], None],
    ) -> None:
        """`pair` is our end of the socket pair, not owned here. `failpoint` is
        called at each step, for tests that end the process there."""
        self._device = device
        self._pair = pair
        self._handlers = handlers
        self._account = account
        self._replay = replay
        self._outstanding = outstanding
        self._in_service = in_service
        self._interrupts = Interrupts(proc.is_told_to_stop)
        self._failpoint = failpoint
        self._turns = Turns(device, outstanding)
        self._scope = trio.CancelScope()
        self._waiting = Waiting(device.fd, alone=os.cpu_count() == 1)
        self._reply = bytearray(REQUEST_ROOM)
        self._forwarded: dict[int, tuple[int, float]] = {}
        # How many requests are answered later; their tasks and workers need the loop.
        self._later = 0
        # What is answered later while there are suspects, in the order of its handlers' calls.
        self._to_serve, self._in_turn = trio.open_memory_channel[Later](math.inf)
        device.set_blocking(False)
        pair.setblocking(False)

    async def begin(
        self, init: bytes, negotiation: Negotiation, on_ready: Callable[[], None]
    ) -> bool:
        """Answer the kernel's INIT with what is to be negotiated, call `on_ready`, and serve
        until the mount is gone or `stop`. Returns whether the mount is gone."""
        reply = await self._greet_pyfuse3(init)
        self._write(
            handshake.complete_init(
                reply,
                flags=negotiation.flags,
                flags2=negotiation.flags2,
                stack_depth=negotiation.stack_depth,
                request_timeout=negotiation.request_timeout,
            )
        )
        on_ready()
        return await self._run(())

    async def go_on(self, init: bytes, on_ready: Callable[[], None]) -> bool:
        """The same after an earlier server, which answered INIT: only pyfuse3 sees it, and
        what that server read and did not answer is asked for."""
        await self._greet_pyfuse3(init)
        on_ready()
        return await self._run(self._outstanding.recover())

    def stop(self) -> None:
        """Read no more; finish what is in hand."""
        self._scope.cancel()

    async def _greet_pyfuse3(self, init: bytes) -> bytes:
        self._pair.send(init)
        await trio.lowlevel.wait_readable(self._pair)
        return self._pair.recv(REQUEST_ROOM)

    async def _run(self, left: Sequence[bytes]) -> bool:
        gone = False
        async with trio.open_nursery() as nursery:
            trio.lowlevel.add_instrument(self)
            nursery.start_soon(self._serve_in_turn)
            try:
                for message in left:
                    # A copy that may be changed, as what is read from the kernel may be.
                    await self._route(memoryview(bytearray(message)), nursery)
                with self._scope:
                    await self._serve(nursery)
                gone = not self._scope.cancelled_caught
                await self._serve_what_was_read(nursery)
                while self._forwarded:
                    await trio.lowlevel.checkpoint()
            finally:
                self._interrupts.forget()
                trio.lowlevel.remove_instrument(self)
                self._to_serve.close()
        return gone

    async def _serve(self, nursery: trio.Nursery) -> None:
        """Until the connection has ended."""
        turns, waiting = self._turns, self._waiting
        while True:
            try:
                message = turns.next()
            except ConnectionGone:
                return
            if message is None:
                if not self._forwarded and waiting.look():
                    continue
                if not self._forwarded and not self._later and waiting.sleep():
                    continue
                await trio.lowlevel.wait_readable(self._device.fd)
                waiting.others_had_their_turn()
                continue
            waiting.end()
            theirs = self._serve_here(message, nursery)
            if theirs is not None:
                await self._forward(theirs, message)
            waiting.begin()
            if self._forwarded or waiting.is_others_turn():
                await self._let_others_run()
                waiting.others_had_their_turn()

    async def _let_others_run(self) -> None:
        """pyfuse3, until it has answered: it serves one after the other, in the order in which it
        was given them, so it gets the next when it is done, and whose that is can still be chosen."""
        for _ in range(ITS_STEPS):
            await trio.lowlevel.checkpoint()
            if not self._forwarded:
                return

    async def _serve_what_was_read(self, nursery: trio.Nursery) -> None:
        """What waits for its turn, when no more is read."""
        while (message := self._turns.take()) is not None:
            await self._route(message, nursery)

    async def _route(self, message: memoryview, nursery: trio.Nursery) -> None:
        theirs = self._serve_here(message, nursery)
        if theirs is not None:
            await self._forward(theirs, message)

    def _serve_here(self, message: memoryview, nursery: trio.Nursery) -> Header | None:
        """Answer a request, or have it answered later. Returns the header of one that is pyfuse3's. No
        coroutine, because it is on the path of every request."""
        try:
            header = messages.decode_header(message)
        except MalformedError as error:
            log.error("nobody can be answered: %s", error)
            return None
        self._in_service.begin(header.unique)
        if header.unique & FUSE_UNIQUE_RESEND:
            if self._answer_again(header, message):
                return None
        elif self._in_service.expected and header.opcode not in NO_REPLY:
            # What is sent again comes before all that is new.
            self._in_service.all_came()
        self._failpoint("request read")
        handler = self._handlers.get(header.opcode)
        if handler is not None:
            self._handle(handler, header, message, nursery)
        elif header.opcode == Opcode.INTERRUPT:
            self._handle(partial(self._interrupt, nursery), header, message, nursery)
        else:
            return header
        return None

    def _answer_again(self, header: Header, message: memoryview) -> bool:
        """Answer a request that is sent again, if it was applied before or must not be served
        any more. Returns whether that is so."""
        started = perf_counter()
        suspicion = self._in_service.suspicion(header.unique)
        outcome: Payload | Exception | None = None
        if suspicion.deaths <= DEATHS:
            try:
                outcome = self._replay.answer(header, message[messages.IN_HEADER_SIZE :])
            except Exception as error:  # noqa: BLE001 - answered and logged in _finish
                outcome = error
        if outcome is None and suspicion.proved:
            outcome = ServersEnded(suspicion.deaths, for_memory=suspicion.memory)
            log.error("not served again: %s: %s", self._account.described(header), outcome)
        if outcome is None:
            return False
        self._finish(header, outcome, started)
        return True

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
        if isinstance(answer, PAYLOADS):
            self._finish(header, answer, started)
        else:
            if header.opcode not in NO_REPLY:
                self._outstanding.keep(message)
            self._later += 1
            if self._in_service.careful:
                self._to_serve.send_nowait((header, answer, started))
            else:
                nursery.start_soon(self._finish_later, header, answer, started)

    def _interrupt(self, nursery: trio.Nursery, header: Header, body: memoryview) -> bytes:
        if self._interrupts.ask(messages.decode_interrupt(body)):
            nursery.start_soon(self._interrupts.watch)
        return b""

    async def _finish_later(
        self, header: Header, answer: Awaitable[Payload], started: float
    ) -> None:
        place = self._in_service.begin_later(header.unique)
        outcome: Payload | Exception = Interrupted("its caller is killed or told to stop")
        try:
            with self._interrupts.begin(header):
                outcome = await answer
        except Exception as error:  # noqa: BLE001 - answered and logged in _finish
            self._finish(header, error, started)
        else:
            self._finish(header, outcome, started)
        finally:
            self._interrupts.end(header.unique)
            self._in_service.end_later(place)
            self._later -= 1

    async def _serve_in_turn(self) -> None:
        """One by one, in the order in which the handlers were called: one that waits for another
        was called after it."""
        try:
            async for later in self._in_turn:
                await self._finish_later(*later)
        finally:
            with suppress(trio.WouldBlock, trio.EndOfChannel):
                while True:
                    _header, answer, _started = self._in_turn.receive_nowait()
                    if isinstance(answer, Coroutine):
                        answer.close()

    def _finish(self, header: Header, outcome: Payload | Exception, started: float) -> None:
        """Write the reply, if one is awaited; an exception that is no refusal is our fault,
        and EIO."""
        if header.unique & FUSE_UNIQUE_RESEND:
            self._in_service.answered(header.unique)
        self._interrupts.end(header.unique)
        error = self._account.explain(outcome, header) if isinstance(outcome, Exception) else 0
        if header.opcode not in NO_REPLY:
            if isinstance(outcome, Exception):
                self._write(messages.encode_error(header.unique, error))
            else:
                self._write(messages.encode_success(header.unique, len(outcome)), outcome)
        self._account.metrics.record(header.opcode, error=error, seconds=perf_counter() - started)

    # Requests answered by pyfuse3

    async def _forward(self, header: Header, message: memoryview) -> None:
        try:
            messages.check_forwarded(header.opcode, message[messages.IN_HEADER_SIZE :])
            if len(message) > LONGEST_FORWARDED:
                raise Unanswered(f"{len(message)} bytes")
        except (MalformedError, Unanswered) as error:
            self._finish(header, error, perf_counter())
            return
        self._outstanding.keep(message)
        if not self._forwarded:
            self._in_service.forwarded(header.unique)
        self._forwarded[header.unique] = (header.opcode, perf_counter())
        while True:
            try:
                self._pair.send(message)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._pair)
            except OSError as error:
                # The system has no memory for it, or it is longer than the pair takes.
                self._not_forwarded(header, error)
                return
            else:
                return

    def _not_forwarded(self, header: Header, error: OSError) -> None:
        log.error("%s cannot be handed on: %s", self._account.described(header), error)
        _opcode, started = self._forwarded.pop(header.unique)
        self._in_service.forwarded(next(iter(self._forwarded), 0))
        self._finish(header, StorageFailed(error), started)

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
        self._in_service.answered(unique)
        self._interrupts.end(unique)
        # It serves them one by one.
        self._in_service.forwarded(next(iter(self._forwarded), 0))
        self._write(reply)
        self._account.metrics.record(opcode, error=-error, seconds=perf_counter() - started)

    def _write(self, reply: bytes, payload: Payload = b"") -> None:
        self._failpoint("before reply")
        reply = self._outstanding.as_asked(reply)
        try:
            self._device.reply(reply, payload)
        except OSError as error:
            log.error("the kernel does not take a reply: %s", error)
            self._write_failure(reply)
        self._outstanding.answered(reply)
        self._failpoint("after reply")

    def _write_failure(self, reply: bytes) -> None:
        _length, _error, unique = messages.decode_out_header(reply)
        try:
            self._device.reply(messages.encode_error(unique, errno.EIO))
        except OSError as error:
            log.error("nor the error instead: %s", error)
