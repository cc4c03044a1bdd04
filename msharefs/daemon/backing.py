"""Where a mount keeps its memory: a private tmpfs for root, the system's /dev/shm else.

Owns making either, entering it, and taking it down, so that the supervisor need not know
which it is. How segments are made and counted is memory's.
"""

from __future__ import annotations

import os
from typing import Protocol

from msharefs.core.ports import Memory
from msharefs.daemon import namespace
from msharefs.daemon.options import MountOptions
from msharefs.daemon.state import Config, StateDirectory
from msharefs.linux.host import is_privileged
from msharefs.memory import private, shared
from msharefs.state_layout import PRIVATE


class Backing(Protocol):
    """A place for segments, made by the supervisor and used by its server."""

    @property
    def namespace(self) -> int | None:
        """A descriptor of the mount namespace that users see; None where we are in it."""

    @property
    def address(self) -> str:
        """What `open_arena` needs to find it."""

    def leave(self) -> None:
        """Go, and leave what is in it."""

    def destroy(self) -> None:
        """After `leave`: what is in it goes, now or with the state directory."""


class PrivateBacking:
    """A tmpfs of its own in the state directory, over /dev/shm in a private namespace."""

    address = PRIVATE

    def __init__(self, state: StateDirectory, options: MountOptions) -> None:
        """Make it, or enter the one that is there. Raises OSError."""
        os.makedirs(state.arena, mode=0o700, exist_ok=True)
        # Whoever made the directory may have been killed before the mount.
        if not os.path.ismount(state.arena):
            private.mount_arena(
                state.arena,
                private.ArenaOptions(options.size, options.huge, options.mpol, options.noswap),
            )
        self._original = namespace.enter_private(state.arena, os.path.dirname(state.path))

    @property
    def namespace(self) -> int:
        """The namespace that we came from."""
        return self._original

    def leave(self) -> None:
        """Back to where we came from."""
        namespace.leave(self._original)

    def destroy(self) -> None:
        """The state directory unmounts the tmpfs."""


class SharedBacking:
    """Names in the system's /dev/shm that nobody can guess."""

    namespace = None

    def __init__(self, left: Config | None) -> None:
        """With the names that an earlier mount `left`, or new ones."""
        self.address = shared.new_prefix() if left is None else left.arena

    def leave(self) -> None:
        """We never went anywhere."""

    def destroy(self) -> None:
        """Unlink all segments, also those of a server that was killed."""
        shared.remove_segments(self.address)


def discard(state: StateDirectory) -> None:
    """Throw away what an earlier mount left, its memory first. Raises OSError."""
    if state.discarded is not None and state.discarded.arena != PRIVATE:
        shared.remove_segments(state.discarded.arena)
    state.clear()


def make_backing(state: StateDirectory, options: MountOptions) -> Backing:
    """The best backing that we may have. Raises OSError."""
    return PrivateBacking(state, options) if is_privileged() else SharedBacking(state.left)


def open_arena(address: str, options: MountOptions) -> Memory:
    """The memory of a backing, for the server."""
    if address == PRIVATE:
        return private.Arena(private.ArenaOptions(options.size, options.huge))
    return shared.SharedArena(options.size, address)
