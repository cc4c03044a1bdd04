"""INIT, the request that begins a connection: what the kernel offers, and what is asked for.

Owns the form of both (linux/fuse.h 7.45). No I/O, no state, standard library only. What is
asked for is the data plane's choice (planes/); the reply itself is libfuse's, completed here.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from msharefs.fuse.kernel import FUSE_INIT_EXT
from msharefs.fuse.messages import OUT_HEADER_SIZE

_INIT_IN = struct.Struct("=IIIII")
_U16 = struct.Struct("=H")
_U32 = struct.Struct("=I")
_INIT_OUT_FLAGS = slice(OUT_HEADER_SIZE + 12, OUT_HEADER_SIZE + 16)
_INIT_OUT_FLAGS2 = slice(OUT_HEADER_SIZE + 32, OUT_HEADER_SIZE + 36)
_INIT_OUT_STACK_DEPTH = slice(OUT_HEADER_SIZE + 36, OUT_HEADER_SIZE + 40)
_INIT_OUT_TIMEOUT = slice(OUT_HEADER_SIZE + 40, OUT_HEADER_SIZE + 42)


@dataclass(frozen=True, slots=True)
class InitOffer:
    """What the kernel says in INIT that we look at: its version, and flags to 31 and up."""

    major: int
    minor: int
    flags: int
    flags2: int

    @classmethod
    def decode(cls, body: bytes | memoryview) -> Self:
        """From the body of an INIT request."""
        major, minor, _readahead, flags, flags2 = _INIT_IN.unpack_from(
            bytes(body).ljust(_INIT_IN.size, b"\0")
        )
        return cls(major, minor, flags, flags2 if flags & FUSE_INIT_EXT else 0)


def complete_init(
    reply: bytes, *, flags: int, flags2: int, stack_depth: int, request_timeout: int = 0
) -> bytes:
    """libfuse's INIT reply with capabilities that it does not ask for by itself."""
    message = bytearray(reply)
    (own_flags,) = _U32.unpack(message[_INIT_OUT_FLAGS])
    message[_INIT_OUT_FLAGS] = _U32.pack(own_flags | flags | FUSE_INIT_EXT)
    (own_flags2,) = _U32.unpack(message[_INIT_OUT_FLAGS2])
    message[_INIT_OUT_FLAGS2] = _U32.pack(own_flags2 | flags2)
    message[_INIT_OUT_STACK_DEPTH] = _U32.pack(stack_depth)
    message[_INIT_OUT_TIMEOUT] = _U16.pack(request_timeout)
    return bytes(message)
