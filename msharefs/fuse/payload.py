"""What a handler of requests is, for the switchboard and for those who write handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from msharefs.fuse.messages import Header

Payload = bytes | memoryview
Handler = Callable[[Header, memoryview], Payload | Awaitable[Payload]]
"""Answers a request with the reply's payload, now or later; refuses with RefusedError.
The memoryview that it is given is valid only until it returns, and so is one that it
returns until it is called again."""
