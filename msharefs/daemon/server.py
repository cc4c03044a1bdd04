"""The server: builds the parts of a mount and runs them in one trio loop.

Owns the wiring and the life of the loop, nothing of what the parts do. It is started by
the supervisor with the state directory and four inherited descriptors: /dev/fuse, the sockets of
the broker of files and of the notifier, and the supervision socket, on which it reports and whose end means that the
supervisor is gone.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from contextlib import closing
from typing import Any

import pyfuse3
import trio

from msharefs import __version__
from msharefs.core import recovery, reports
from msharefs.core.errors import NoRoom
from msharefs.core.manager import RegionManager
from msharefs.core.namespace import RootAttributes
from msharefs.core.ports import Segment
from msharefs.core.schema import JournalError
from msharefs.core.ways import Giving
from msharefs.daemon import garbage, logs
from msharefs.daemon.backing import open_arena
from msharefs.daemon.confinement import filter_system_calls
from msharefs.daemon.door import Door
from msharefs.daemon.failpoint import Failpoint
from msharefs.daemon.inheritance import (
    Inheritance,
    UnmountedError,
    inherit,
    read_init,
    report,
)
from msharefs.daemon.live_options import LiveOptions, limits_of
from msharefs.daemon.metrics_endpoint import publish
from msharefs.daemon.options import log_level
from msharefs.daemon.progress import Progress
from msharefs.daemon.server_process import EXIT_RESTART, receive
from msharefs.daemon.state import (
    DEVICES,
    HANDLES,
    IN_SERVICE,
    JOURNAL,
    LOG,
    REQUESTS,
    Config,
    read_devices,
)
from msharefs.daemon.storage import StateError, open_handles, open_journal
from msharefs.files.callers import CallersFiles
from msharefs.fuse import in_service
from msharefs.fuse.account import Account
from msharefs.fuse.attributes import AttributeHandlers
from msharefs.fuse.changes import Changes
from msharefs.fuse.collapser import Collapser
from msharefs.fuse.control import Control
from msharefs.fuse.device import Device
from msharefs.fuse.directories import DirectoryHandlers
from msharefs.fuse.handles import HandleHandlers
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.in_service import InService
from msharefs.fuse.kernel import FUSE_HAS_RESEND
from msharefs.fuse.messages import IN_HEADER_SIZE
from msharefs.fuse.metrics import Metrics
from msharefs.fuse.names import NameHandlers
from msharefs.fuse.notifications import KernelPort
from msharefs.fuse.operations import Operations
from msharefs.fuse.outstanding import AREA_SIZE, KeptInFile, Outstanding, ResentByKernel
from msharefs.fuse.page_notices import PageNotices
from msharefs.fuse.planes.choice import choose_plane, without
from msharefs.fuse.planes.plane import (
    DataPlane,
    Negotiation,
    PlaneError,
    outliving_the_default,
)
from msharefs.fuse.replay import Replay
from msharefs.fuse.switchboard import Switchboard
from msharefs.fuse.tokens import Tokens
from msharefs.fuse.write_back import WriteBack
from msharefs.linux.host import fuse_request_timeout, is_privileged
from msharefs.linux.seccomp import FilterError
from msharefs.state_layout import CONFIG

log = logging.getLogger("msharefs.daemon.server")

EXIT_FAILED = 1
SWITCH_INTERVAL = 0.5e-3
"""Seconds that the loop waits for the interpreter at most, each time that it comes back from a
system call while a worker thread computes. Python's 5 ms would be 30 ms a request."""
SETTLE_INTERVAL = 5.0
"""Seconds between looks at memory that could not be had back at once."""


class Server:
    """The parts of one mount, wired."""

    def __init__(
        self,
        config: Config,
        given: Inheritance,
        device: Device,
        plane: DataPlane,
        negotiation: Negotiation,
    ) -> None:
        """Wire them; nothing is read or answered before `run`. Raises JournalError."""
        self._config = config
        self._given = given
        self._started = time.monotonic()
        self._gap = 0.0
        # How often this server was to be replaced and was not, and why at last.
        self._upgrades_failed: dict[str, Any] = {"count": 0, "last": None}
        self._plane = plane
        self._negotiation = negotiation
        # Where the pages are the regions' own, what attached them before lives on with them.
        lasting = plane.name == "passthrough"
        self._earlier = read_devices(given.path(DEVICES))[:-1] if lasting else []
        # Segments of regions that are gone, on their way to the worker that destroys them.
        self._to_reclaim, self._reclaimable = trio.open_memory_channel[tuple[int, Segment]](
            sys.maxsize
        )
        # Regions that go when their files have what was changed.
        self._to_end, self._ending = trio.open_memory_channel[int](sys.maxsize)
        options = config.options
        failpoint = Failpoint(options.crash, given.state, restarts=given.restarts)
        self._manager = RegionManager(
            open_arena(config.arena, options, given.readers),
            KernelPort(
                device,
                plane,
                lambda *gone: self._to_reclaim.send_nowait(gone),
                self._to_end.send_nowait,
            ),
            limits_of(options, reserve_always=not (plane.sees_touches or options.overcommit)),
            RootAttributes(mode=options.mode, uid=options.uid, gid=options.gid),
            time.time_ns,
            open_journal(given.path(JOURNAL), failpoint, _give_up),
            open_handles(given.path(HANDLES)),
        )
        self._live = LiveOptions(config, given.path(CONFIG), self._manager, self._move_endpoint)
        self._endpoint = trio.CancelScope()
        self._metrics = Metrics()
        changes = Changes(self._manager, plane)
        self._collapser = Collapser(self._manager.tables.collapsing, changes)
        tokens, self._door = None, None
        if plane.gives is not Giving.NOBODY:
            tokens = Tokens()
            self._door = Door(tokens, self._manager.attaching, failpoint)
            if given.readers is None and plane.gives is Giving.ANYBODY:
                log.warning(
                    "who may only read a region cannot attach it directly: no user namespace can be"
                    " made here"
                )
        self._files = CallersFiles(given.files, given.keeper)
        self._write_back = WriteBack(self._manager, changes, plane, self._files)
        self._replay = Replay(self._manager, plane)
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._switchboard = Switchboard(
            device,
            self._ours,
            {
                **NameHandlers(self._manager).handlers(),
                **HandleHandlers(self._manager, plane, self._write_back).handlers(),
                **self._write_back.handlers(),
                **DirectoryHandlers(self._manager).handlers(),
                **AttributeHandlers(
                    self._manager,
                    changes,
                    self._write_back,
                    self._status,
                    self._live,
                    plane.attach_advice,
                ).handlers(),
                **Control(self._manager, changes, self._files, self._write_back, tokens).handlers(),
            },
            Account(self._metrics, self._manager.names.path_of),
            self._replay,
            _outstanding(given, device, negotiation),
            _in_service(given),
            failpoint,
        )

    async def run(self, init: bytes) -> bool:
        """Serve until the mount is gone, or the supervisor is, or wants another server.
        Returns whether the mount is gone."""
        self._recover()
        # libfuse takes an open descriptor for a mount point of this form, and owns it then.
        descriptor = os.dup(self._theirs.fileno())
        pyfuse3.init(Operations(self._manager), f"/dev/fd/{descriptor}", {"default_permissions"})
        gone = False
        try:
            async with trio.open_nursery() as nursery:
                # Handlers never wait, so one task serves all, and none is started and ended
                # for each request, which would cost more than the request.
                nursery.start_soon(pyfuse3.main, 1, 1)
                nursery.start_soon(self._reclaim)
                nursery.start_soon(self._settle)
                nursery.start_soon(self._end_regions, nursery)
                nursery.start_soon(self._write_back.tend)
                nursery.start_soon(self._plane.tend)
                nursery.start_soon(self._collapser.run)
                if self._door is not None:
                    nursery.start_soon(self._door.serve)
                nursery.start_soon(self._watch_supervisor, nursery.cancel_scope)
                nursery.start_soon(self._publish)
                gone = await self._exchange(init)
                log.info("the mount is gone" if gone else "making room for another server")
                if gone:
                    await self._write_back.everything()
                pyfuse3.terminate()
                nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=False)
        return gone

    def _recover(self) -> None:
        with garbage.all_stays():
            self._take_up(
                Progress(lambda words: report(self._given.supervision, {"progress": words}))
            )

    def _take_up(self, progress: Progress) -> None:
        if self._given.restarts:
            lost = recovery.after_crash(self._manager.tables, progress)
            # The server before may have died while it removed them: the kernel asks again then.
            level = logging.INFO
        else:
            lost = recovery.on_new_mount(self._manager.tables, progress)
            level = logging.ERROR
        if lost:
            log.log(level, "without their memory, and so without mappings: regions %s", lost)
        write_back, kept = self._manager.write_back, set(self._given.kept)
        write_back.lose(kept)
        self._files.forget(sorted(kept - write_back.records()))

    async def _exchange(self, init: bytes) -> bool:
        if self._given.restarts:
            return await self._switchboard.go_on(init, self._ready)
        return await self._switchboard.begin(init, self._negotiation, self._ready)

    def _ready(self) -> None:
        if self._given.restarts:
            self._gap = time.monotonic() - self._given.gone_at
        log.info(
            "%s is mounted; data plane %s: %s",
            self._config.mountpoint,
            self._plane.name,
            self._plane.why,
        )
        report(self._given.supervision, {"ready": True, "tuning": dict(self._plane.tuning)})

    async def _reclaim(self) -> None:
        async for ino, segment in self._reclaimable:
            await trio.to_thread.run_sync(segment.destroy)
            self._manager.tables.reclaimed(ino)

    async def _end_regions(self, nursery: trio.Nursery) -> None:
        async for ino in self._ending:
            nursery.start_soon(self._write_back.at_end, ino)

    async def _settle(self) -> None:
        tables = self._manager.tables
        while True:
            await trio.sleep(SETTLE_INTERVAL)
            tables.look_again()
            for _swept in tables.sweep_direct():
                await trio.lowlevel.checkpoint()
            if not tables.settle():
                while tables.sweep_some():
                    await trio.lowlevel.checkpoint()
                tables.settle()
            garbage.freeze_what_stays()

    async def _publish(self) -> None:
        """Metrics, wherever they are to be served now."""
        while True:
            with trio.CancelScope() as self._endpoint:
                if (endpoint := self._live.config.options.metrics) is not None:
                    await publish(*endpoint, self._figures)
                await trio.sleep_forever()

    def _move_endpoint(self) -> None:
        self._endpoint.cancel()

    async def _watch_supervisor(self, scope: trio.CancelScope) -> None:
        supervision = self._given.supervision
        while True:
            await trio.lowlevel.wait_readable(supervision)
            message = receive(supervision)
            if message is None:
                log.error("the supervisor is gone; so is the mount")
                scope.cancel()
                return
            if "stop" in message:
                self._switchboard.stop()
            else:
                count = self._upgrades_failed["count"] + 1
                self._upgrades_failed = {"count": count, "last": message["not_replaced"]}

    def _figures(self) -> dict[str, Any]:
        """The status with what would be too much for an attribute."""
        return {**self._status(), "by_region": reports.by_region(self._manager)}

    def _status(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "uptime": round(time.monotonic() - self._started, 3),
            "data_plane": {"name": self._plane.name, "why": self._plane.why},
            "direct_for": self._plane.gives.value,
            "mount": {
                "source": self._config.source,
                "mountpoint": self._config.mountpoint,
                "earlier_devices": self._earlier,
            },
            **reports.status(self._manager),
            "operations": self._metrics.report(),
            "restarts": self._given.restarts,
            "resent_requests": self._replay.resent,
            "last_gap_seconds": round(self._gap, 3),
            "upgrades_failed": self._upgrades_failed,
            "pids": {"supervisor": self._config.supervisor, "server": os.getpid()},
        }


async def serve(config: Config, given: Inheritance) -> bool:
    """Choose the data plane by INIT, and serve. Raises PlaneError, JournalError and UnmountedError."""
    device = Device(given.device)
    with closing(PageNotices(given.notices, device)) as notices:
        return await _serve_on(config, given, device, notices)


async def _serve_on(
    config: Config, given: Inheritance, device: Device, notices: PageNotices
) -> bool:
    init = read_init(given, device)
    offer = InitOffer.decode(memoryview(init)[IN_HEADER_SIZE:])
    offer = without(offer, config.options.without)
    plane = choose_plane(
        config.options.data,
        offer,
        device=device,
        notify=notices.give,
        privileged=is_privileged(),
    )
    negotiation = outliving_the_default(
        plane.negotiate(offer), offer, fuse_request_timeout("default_request_timeout")
    )
    if capped := fuse_request_timeout("max_request_timeout"):
        log.warning(
            "fs.fuse.max_request_timeout is %d: the kernel ends this mount where the server is"
            " stopped for longer than that many seconds",
            capped,
        )
    return await Server(config, given, device, plane, negotiation).run(init)


def _outstanding(given: Inheritance, device: Device, negotiation: Negotiation) -> Outstanding:
    """By what the kernel can do."""
    if negotiation.flags2 & FUSE_HAS_RESEND:
        return ResentByKernel(device)
    return KeptInFile(given.area(REQUESTS, AREA_SIZE))


def _in_service(given: Inheritance) -> InService:
    return InService(given.area(IN_SERVICE, in_service.AREA_SIZE), given.cause)


def main() -> int:
    """The whole life of a server (serve.py)."""
    # The supervisor's mask, which waits for signals one by one, came with us.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    given = inherit()
    if given is None:
        return 0
    try:
        config = Config.load(given.path(CONFIG))
    except OSError as error:
        report(given.supervision, {"error": f"the server cannot serve: {error}"})
        return EXIT_FAILED
    # The supervisor alone decides about the end; a terminal's Ctrl-C is for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(
        foreground=config.foreground, level=log_level(config.options), file=given.path(LOG)
    )
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    os.umask(0o077)
    sys.setswitchinterval(SWITCH_INTERVAL)
    gone, failure = False, None
    try:
        filter_system_calls(config.options.seccomp)
        gone = trio.run(serve, config, given)
    except* (FilterError, PlaneError, JournalError, NoRoom, StateError, UnmountedError) as group:
        failure = str(group.exceptions[0])
    except* OSError as group:
        # No descriptors or no memory are left: not ours to explain, but to be tried again.
        failure = f"the server cannot serve: {group.exceptions[0]}"
        log.error("%s", failure)
        log.debug("where that was", exc_info=group)
    except* Exception as group:
        log.exception("the server ends")
        failure = f"the server failed: {group.exceptions[0]!r}"
    if failure is not None:
        report(given.supervision, {"error": failure})
        return EXIT_FAILED
    return 0 if gone else EXIT_RESTART


def _give_up() -> None:
    """The tables and the journal may differ: start again from the journal, at once, before
    an answer is given that only one of them knows."""
    log.critical("a change could not be recorded; the server starts again")
    logging.shutdown()
    os._exit(EXIT_FAILED)
