"""Tokens: what a handle on a region is good for elsewhere, once and for some seconds.

Owns what has been promised to whom. Only an ioctl tells with which access a region is open, and only a
socket can carry a descriptor, so the one gives a token that the other takes. A server that ends takes its
tokens with it. Whether a region may be attached is core's to say.
"""

from __future__ import annotations

import os
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from msharefs import abi
from msharefs.core.errors import Unsettled

LIFETIME = 10.0
"""Seconds."""
MOST = 4096
"""Tokens that are not redeemed; more let the oldest go, whose client asks again."""


class Promise(NamedTuple):
    """Whose holder may have the segment of the region `ino`, for an access of that mode
    (O_RDONLY, ...), until a moment (time.monotonic); and whether he claims it."""

    ino: int
    access: int
    claims: bool
    until: float


class Tokens:
    """Those that one server has given."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._promises: OrderedDict[bytes, Promise] = OrderedDict()
        self.address = f"msharefs-{secrets.token_hex(15)}".encode("ascii")
        """Where they are taken, as an abstract name. Nobody can bind it before us."""

    def give(self, ino: int, access: int, *, claims: bool = False) -> abi.Attach:
        """A token for who has the region `ino` open with this access mode, and may claim it."""
        token = secrets.token_bytes(abi.TOKEN_SIZE)
        self._promises[token] = Promise(ino, access, claims, self._now() + LIFETIME)
        if len(self._promises) > MOST:
            self._promises.popitem(last=False)
        return abi.Attach(token, os.geteuid(), self.address)

    def take(self, token: bytes) -> Promise:
        """What it was given for; it is not good for anything then. Raises Unsettled."""
        promise = self._promises.pop(token, None)
        if promise is None or promise.until < self._now():
            raise Unsettled("a token that is not known, or not any more")
        return promise
