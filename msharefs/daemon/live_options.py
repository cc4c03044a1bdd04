"""The options of a mount that can be changed while it is in use, and how they change.

Owns which those are, who may change them, and that all named ones change or none: the limits of
core, the level of the log, the endpoint for metrics, and the configuration from which the next
server starts. Nothing of it is journalled: a change that is asked for again is the same change.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import trio

from msharefs.core.errors import InvalidArgument, NotPermitted, RefusedError, StorageFailed
from msharefs.core.inode import Automap
from msharefs.core.manager import RegionManager
from msharefs.core.mapper import Limits
from msharefs.core.quotas import UNLIMITED, Share
from msharefs.daemon import metrics_endpoint
from msharefs.daemon.option_values import OFF, UsageError, shown_endpoint
from msharefs.daemon.options import MountOptions, log_level, parse_given, total_memory
from msharefs.daemon.state import Config
from msharefs.linux.host import is_privileged

log = logging.getLogger(__name__)

LIVE = (
    "size",
    "nr_inodes",
    "max_region",
    "max_mappings",
    "max_mappings_total",
    "max_files",
    "user_size",
    "user_inodes",
    "user_mappings",
    "user_files",
    "automap",
    "log_level",
    "metrics",
)
"""Names of options that can be changed."""


def limits_of(options: MountOptions, *, reserve_always: bool) -> Limits:
    """Those that core keeps; the size is the memory's capacity."""
    return Limits(
        align=options.align,
        max_region=options.max_region,
        max_mappings=options.max_mappings,
        max_mappings_total=options.max_mappings_total,
        max_files=options.max_files,
        nr_inodes=options.nr_inodes,
        user=Share(
            _limit(options.user_size),
            _limit(options.user_inodes),
            _limit(options.user_mappings),
            _limit(options.user_files),
        ),
        reserve_always=reserve_always,
        automap=Automap(options.automap),
    )


def _limit(value: int | None) -> int:
    return UNLIMITED if value is None else value


class LiveOptions:
    """The options of a mount as they are now."""

    def __init__(
        self, config: Config, path: str, manager: RegionManager, metrics_moved: Callable[[], None]
    ) -> None:
        """`path` is the configuration's file. `metrics_moved` is told that the endpoint is
        another now."""
        self.config = config
        self._path = path
        self._manager = manager
        self._metrics_moved = metrics_moved
        self._one_at_a_time = trio.Lock()

    def text(self) -> str:
        """Those that can be changed, as mount -o has them."""
        return ",".join(f"{name}={_shown(getattr(self.config.options, name))}" for name in LIVE)

    async def change(self, text: bytes, uid: int, *, proven: bool) -> None:
        """Change those that are named. `uid` asks for it; with `proven` the kernel has seen
        that he has CAP_SYS_ADMIN. Others are served meanwhile.

        Raises NotPermitted, InvalidArgument (unknown, out of range, or fixed while it is
        mounted), Busy (more is in use) and StorageFailed (the configuration cannot be written).
        """
        if not (proven or _is_ours(uid)):
            raise NotPermitted("only who mounted it, and root, may change its options")
        try:
            async with self._one_at_a_time:
                await self._change(text)
        except RefusedError as error:
            # He is told no more than the errno.
            log.info("options stay as they are: %s", error)
            raise

    async def _change(self, text: bytes) -> None:
        before = self.config.options
        wanted = self._wanted(before, text)
        if wanted == before:
            return
        if wanted.metrics != before.metrics:
            _check_endpoint(wanted.metrics)
        await self._let_hold(wanted)
        try:
            config = replace(self.config, options=wanted)
            config.save(self._path)
        except OSError as cause:
            with trio.CancelScope(shield=True):
                await self._let_hold(before)
            raise StorageFailed(cause) from cause
        self.config = config
        logging.getLogger().setLevel(log_level(wanted))
        if wanted.metrics != before.metrics:
            self._metrics_moved()
        log.info("options are now %s", self.text())

    def _wanted(self, options: MountOptions, text: bytes) -> MountOptions:
        try:
            given = parse_given(text.decode(), memory=total_memory()).values
        except (UsageError, UnicodeDecodeError) as error:
            raise InvalidArgument(str(error)) from error
        changed = {n: value for n, value in given.items() if value != getattr(options, n)}
        if fixed := sorted(changed.keys() - set(LIVE)):
            raise InvalidArgument(f"{', '.join(fixed)}: fixed while it is mounted")
        return replace(options, **changed)

    async def _let_hold(self, options: MountOptions) -> None:
        reserve_always = self._manager.limits.reserve_always
        limits = limits_of(options, reserve_always=reserve_always)
        with closing(self._manager.change_limits(limits, options.size)) as steps:
            for _ in steps:
                await trio.lowlevel.checkpoint()


def _is_ours(uid: int) -> bool:
    """Whether somebody is who mounted it. Root's name alone proves nothing where root is not
    confined to a user namespace of his own: a container's root has it as well."""
    return uid == os.geteuid() and not is_privileged()


def _check_endpoint(endpoint: tuple[str, int] | None) -> None:
    """Raises InvalidArgument where metrics cannot be served."""
    if endpoint is None:
        return
    try:
        metrics_endpoint.check(*endpoint)
    except OSError as error:
        raise InvalidArgument(f"metrics={_shown(endpoint)}: {error}") from error


def _shown(value: Any) -> str:
    if value is None:
        return OFF
    if isinstance(value, tuple):
        return shown_endpoint(value)
    return str(value)
