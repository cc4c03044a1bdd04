"""Whose request is served next: users take turns, however many processes one of them has.

Owns the reading of requests and what was read and waits for its turn. The kernel hands requests
out in the order in which they came, so that a user with sixteen busy processes would be served
sixteen times before anybody else. So while more than one request waits, all of them are read and
put into a lane for each user; each lane keeps its order, and the lanes are served in rotation. Who
is alone is served as he is read. It does not know what requests ask, nor how they are answered.
"""

from __future__ import annotations

import struct
from collections import OrderedDict, deque

from msharefs.fuse.device import Device
from msharefs.fuse.kernel import FUSE_UNIQUE_RESEND
from msharefs.fuse.outstanding import SLOT_SIZE, SLOTS, Outstanding

MOST = SLOTS // 2
"""Requests that wait here; more wait in the kernel, in its order. The slots of what is outstanding
have room for them and for as many that are answered later."""

_ASKER = struct.Struct("=8xQ8xI4xI")
"""Of a request: its number, and the user and process that it is for."""


class Turns:
    """The requests of a device, one after the other."""

    def __init__(self, device: Device, outstanding: Outstanding) -> None:
        self._device = device
        self._outstanding = outstanding
        # By user, the next one first. One whose requests have all been served keeps his place
        # until it comes round: a new lane goes first, and he must not have one each time.
        self._lanes: OrderedDict[int, deque[memoryview]] = OrderedDict()
        self._waiting = 0
        # Whether nothing else waited when the last request was read.
        self._quiet = True

    def __len__(self) -> int:
        """How many were read and wait."""
        return self._waiting

    def next(self) -> memoryview | None:
        """The request whose turn it is, None where there is none. Valid until the next call.
        Raises ConnectionGone, or OSError."""
        while self._waiting < MOST:
            self._outstanding.before_read()
            size = self._device.read_into(self._outstanding.buffer)
            if not size:
                self._quiet = True
                break
            message = memoryview(self._outstanding.buffer)[:size]
            user = _user_in_turn(message)
            if user is None:
                return message
            if self._quiet and not self._waiting:
                self._quiet = False
                return message
            self._put(user, message)
        return self.take()

    def take(self) -> memoryview | None:
        """Of those that wait the one whose turn it is; None where none waits."""
        lanes = self._lanes
        while lanes:
            user, lane = lanes.popitem(last=False)
            if lane:
                lanes[user] = lane
                self._waiting -= 1
                return lane.popleft()
        return None

    def _put(self, user: int, message: memoryview) -> None:
        """Keep a request that was read; the buffer is used for the next one."""
        self._outstanding.keep(message)
        lane = self._lanes.get(user)
        if lane is None:
            lane = self._lanes[user] = deque()
            self._lanes.move_to_end(user, last=False)
        lane.append(memoryview(bytearray(message)))
        self._waiting += 1


def _user_in_turn(message: memoryview) -> int | None:
    """Whose turn a request takes; None where it is served as soon as it is read.

    That is what the kernel sends on its own, such as FORGET and RELEASE: nobody waits for it, and what
    it sets free may be needed by the next. What is sent again comes before all that is new. And what is long
    is not copied.
    """
    if not _ASKER.size <= len(message) <= SLOT_SIZE:
        return None
    unique, user, process = _ASKER.unpack_from(message)
    if unique & FUSE_UNIQUE_RESEND or not (user or process):
        return None
    asker: int = user
    return asker
