"""Throwing away what a mount has left, without mounting anything.

Owns the order: the lock first, so that nobody serves it or takes it up meanwhile, the dead mount,
the memory, the state.
"""

from __future__ import annotations

import os

from msharefs.daemon.backing import discard
from msharefs.daemon.place import mount_at
from msharefs.daemon.state import InUseError, StateDirectory, state_name
from msharefs.fuse import mounting
from msharefs.state_layout import state_base


class DiscardError(Exception):
    """What is left must stay: a sentence."""


def throw_away(mountpoint: str) -> bool:
    """Give back the memory and the regions that are left of the mount on an absolute path.

    Returns whether there was anything. Raises DiscardError if it is served, or if it is mounted
    and cannot be unmounted, and OSError.
    """
    base = state_base()
    if not os.path.isdir(os.path.join(base, state_name(mountpoint))):
        return False
    try:
        state = StateDirectory(mountpoint, base, fresh=True)
    except InUseError as error:
        raise DiscardError("it is served; 'umount' ends it") from error
    if mount_at(mountpoint):
        _unmount(mountpoint)
    # From here on nobody takes it up, even if we are killed.
    state.end()
    discard(state)
    state.remove()
    return True


def _unmount(mountpoint: str) -> None:
    try:
        mounting.detach(mountpoint)
    except mounting.ChannelError as error:
        raise DiscardError(f"it cannot be unmounted: {error}") from error
