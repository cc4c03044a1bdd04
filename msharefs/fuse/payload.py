"""What a handler of requests is, for the switchboard and for those who write handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msharefs.core.journal import Request
from msharefs.fuse.kernel import FUSE_UNIQUE_RESEND
from msharefs.fuse.messages import Header

Payload = bytes | memoryview
Handler = Callable[[Header, memoryview], Payload | Awaitable[Payload]]
"""Answers a request with the reply's payload, now or later; refuses with RefusedError.
The memoryview that it is given is valid only until it returns, and so is one that it
returns until it is called again."""


def request_of(header: Header) -> Request:
    """What a change is remembered for. A request that is sent again has the same number, but
    for the mark."""
    return Request(header.unique & ~FUSE_UNIQUE_RESEND, header.opcode)
