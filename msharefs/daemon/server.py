"""The server: builds the parts of a mount and runs them in one trio loop.

Owns the wiring and the life of the loop, nothing of what the parts do. It is started by
the supervisor with the state directory and two inherited descriptors: /dev/fuse, and the
leash, on which it reports and whose end means that the supervisor is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import sys
import time
from typing import Any

import pyfuse3
import trio

from msharefs import __version__
from msharefs.core import reports
from msharefs.core.manager import Limits, RegionManager
from msharefs.core.namespace import RootAttributes
from msharefs.core.region import Region
from msharefs.daemon import logs
from msharefs.daemon.home import open_arena, privileged
from msharefs.daemon.options import log_level
from msharefs.daemon.state import Config
from msharefs.fuse.attributes import AttributeHandlers
from msharefs.fuse.choice import choose_plane, without
from msharefs.fuse.control import Control
from msharefs.fuse.dataplane import DataPlane, PlaneError
from msharefs.fuse.files import FileHandlers
from msharefs.fuse.metrics import Metrics
from msharefs.fuse.notices import KernelNotices
from msharefs.fuse.operations import Operations
from msharefs.fuse.protocol import IN_HEADER_SIZE, InitOffer
from msharefs.fuse.switchboard import Switchboard

log = logging.getLogger(__name__)

INIT_ROOM = 1 << 20
"""Bytes; the kernel wants room for its largest request even where it sends a small one."""
SETTLE_INTERVAL = 5.0
"""Seconds between looks at memory that could not be had back at once."""


class Server:
    """The parts of one mount, wired."""

    def __init__(self, config: Config, device: int, leash: socket.socket, plane: DataPlane) -> None:
        """`device` and `leash` belong to the caller."""
        self._config = config
        self._leash = leash
        self._started = time.monotonic()
        self._plane = plane
        # Regions that die slowly, on their way to the undertaker.
        self._dying_in, self._dying_out = trio.open_memory_channel[Region](sys.maxsize)
        notices = KernelNotices(device, self._plane, self._dying_in.send_nowait)
        options = config.options
        self._manager = RegionManager(
            open_arena(config.arena, options),
            notices,
            Limits(
                align=options.align,
                max_region=options.max_region,
                max_mappings=options.max_mappings,
                nr_inodes=options.nr_inodes,
            ),
            RootAttributes(mode=options.mode, uid=options.uid, gid=options.gid),
            time.time_ns,
        )
        self._metrics = Metrics()
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._switchboard = Switchboard(
            device,
            self._ours,
            {
                **FileHandlers(self._manager, self._plane).handlers(),
                **AttributeHandlers(self._manager, self._status).handlers(),
                **Control(self._manager, self._plane).handlers(),
            },
            self._plane,
            self._metrics,
            self._ready,
        )

    async def run(self, init: bytes) -> None:
        """Serve until the mount or the supervisor is gone, beginning with INIT."""
        operations = Operations(self._manager)
        # libfuse takes an open descriptor for a mount point of this form, and owns it then.
        descriptor = os.dup(self._theirs.fileno())
        pyfuse3.init(operations, f"/dev/fd/{descriptor}", {"default_permissions"})
        try:
            async with trio.open_nursery() as nursery:
                # Handlers never wait, so one task serves all, and none is started and ended
                # for each request, which would cost more than the request.
                nursery.start_soon(pyfuse3.main, 1, 1)
                nursery.start_soon(self._undertake)
                nursery.start_soon(self._settle)
                nursery.start_soon(self._watch_leash, nursery.cancel_scope)
                await self._switchboard.run(init)
                log.info("the mount is gone")
                pyfuse3.terminate()
                nursery.cancel_scope.cancel()
        finally:
            pyfuse3.close(unmount=False)

    def _ready(self) -> None:
        log.info(
            "%s is mounted; data plane %s: %s",
            self._config.mountpoint,
            self._plane.name,
            self._plane.why,
        )
        report(self._leash, {"ready": True, "tuning": dict(self._plane.tuning)})

    async def _undertake(self) -> None:
        async for region in self._dying_out:
            if region.segment is not None:
                await trio.to_thread.run_sync(region.segment.destroy)
            self._manager.bury(region)

    async def _settle(self) -> None:
        while True:
            await trio.sleep(SETTLE_INTERVAL)
            try:
                self._manager.settle()
            except OSError:
                log.exception("cannot settle the arena's limit")

    async def _watch_leash(self, scope: trio.CancelScope) -> None:
        await trio.lowlevel.wait_readable(self._leash)
        log.error("the supervisor is gone; so is the mount")
        scope.cancel()

    def _status(self) -> dict[str, Any]:
        return {
            "version": __version__,
            "uptime": round(time.monotonic() - self._started, 3),
            "data_plane": {"name": self._plane.name, "why": self._plane.why},
            "mount": {"source": self._config.source, "mountpoint": self._config.mountpoint},
            **reports.status(self._manager),
            "operations": self._metrics.report(),
            "restarts": 0,
            "pids": {"supervisor": self._config.supervisor, "server": os.getpid()},
        }


async def serve(config: Config, device: int, leash: socket.socket) -> None:
    """Read INIT, choose the data plane by it, and serve. Raises PlaneError."""
    init = os.read(device, INIT_ROOM)
    offer = InitOffer.decode(memoryview(init)[IN_HEADER_SIZE:])
    plane = choose_plane(
        config.options.data,
        without(offer, config.options.without),
        device=device,
        privileged=privileged(),
    )
    await Server(config, device, leash, plane).run(init)


def report(leash: socket.socket, message: dict[str, Any]) -> None:
    """Tell the supervisor. If it is gone, the watch on the leash will see it."""
    try:
        leash.send(json.dumps(message).encode())
    except OSError as error:
        log.warning("cannot report to the supervisor: %s", error)


def main() -> int:
    """`python -m msharefs.daemon.server CONFIG LOG DEVICE LEASH`."""
    config = Config.load(sys.argv[1])
    device, leash = int(sys.argv[3]), socket.socket(fileno=int(sys.argv[4]))
    # The supervisor alone decides about the end; a terminal's Ctrl-C is for it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logs.configure(foreground=config.foreground, level=log_level(config.options), file=sys.argv[2])
    logging.getLogger("pyfuse3").setLevel(logging.WARNING)
    os.umask(0)
    failure: str | None = None
    try:
        trio.run(serve, config, device, leash)
    except* PlaneError as group:
        failure = str(group.exceptions[0])
    except* Exception as group:
        log.exception("the server ends")
        failure = f"the server failed: {group.exceptions[0]!r}"
    if failure is not None:
        report(leash, {"error": failure})
    return int(failure is not None)


if __name__ == "__main__":
    sys.exit(main())
