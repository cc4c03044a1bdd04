"""A data plane that records what it is asked, and messages as the kernel would send them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from msharefs.core.layout import Range
from msharefs.core.plan import Plan
from msharefs.core.ports import OpenSegment
from msharefs.core.region import Region
from msharefs.core.ways import Giving
from msharefs.fuse.handshake import InitOffer
from msharefs.fuse.messages import Header, ReadIn, WriteIn
from msharefs.fuse.planes.plane import Negotiation
from tests.unit.support.fakes import FakeSegment
from tests.unit.support.worlds import ALICE

IN_HEADER_SIZE = 40
OUT_HEADER_SIZE = 16


class FakePlane:
    """Answers with numbers that a test can recognise; `stale` makes each change a slow one."""

    name = "fake"
    why = "a test asks for it"
    sees_touches = True
    maps_segments = True
    tuning: Mapping[str, int] = {}
    attach_advice = 0
    gives = Giving.NOBODY

    def __init__(self, flags2: int = 0x30) -> None:
        self.flags2 = flags2
        self.stale = False
        self.log: list[tuple[str, int]] = []

    def negotiate(self, offer: InitOffer) -> Negotiation:
        """Bits that are easy to find in a reply."""
        flags, flags2 = offer.flags & 0x80000, offer.flags2 & self.flags2
        return Negotiation(flags=flags, flags2=flags2, stack_depth=7)

    def open_flags(self, region: Region) -> int:
        """Those of passthrough."""
        return 0x81

    def register(self, segment: OpenSegment) -> int:
        """Recorded; a registration that tells the inode."""
        assert isinstance(segment, FakeSegment)
        assert not segment.destroyed
        self.log.append(("register", segment.ino))
        return 1000 + segment.ino

    def unregister(self, registration: int) -> None:
        """Recorded."""
        self.log.append(("unregister", registration))

    def read(self, region: Region, request: ReadIn, thread: int) -> memoryview:
        """Which bytes of which region were asked for, as text."""
        return memoryview(b"%d: %d+%d" % (region.ino, request.offset, request.size))

    def write(self, region: Region, request: WriteIn, data: memoryview) -> None:
        """Recorded."""
        self.log.append((f"write {bytes(data)!r} at {request.offset}", region.ino))

    def has_stale_pages(self, plan: Plan) -> bool:
        """As the test wishes, for a change that replaces something."""
        return self.stale and plan.stale is not None

    @contextmanager
    def changing(self, plan: Plan) -> Iterator[None]:
        """Recorded, its begin and its end."""
        self.log.append(("changing", plan.region.ino))
        yield
        self.log.append(("changed", plan.region.ino))

    def drop_stale_pages(self, plan: Plan) -> None:
        """Recorded."""
        self.log.append(("drop", plan.region.ino))

    async def collect(self, region: Region, part: Range) -> None:
        """Recorded."""
        self.log.append(("collect", region.ino))

    async def tend(self) -> None:
        """Nothing."""


def message(opcode: int, body: bytes = b"", *, unique: int = 2, nodeid: int = 1) -> bytes:
    """A request of Alice's."""
    length = IN_HEADER_SIZE + len(body)
    who = (ALICE.uid, ALICE.gid, ALICE.pid)
    return struct.pack("<IIQQIIIHH", length, opcode, unique, nodeid, *who, 0, 0) + body


def header(opcode: int, nodeid: int = 1) -> Header:
    """The header of such a request, for a handler that is called directly."""
    return Header(IN_HEADER_SIZE, opcode, 2, nodeid, ALICE.uid, ALICE.gid, ALICE.pid, 0, 0)


def reply(unique: int, payload: bytes = b"", error: int = 0) -> bytes:
    """A reply as libfuse writes it."""
    return struct.pack("<IiQ", OUT_HEADER_SIZE + len(payload), -error, unique) + payload


def init_message(unique: int = 1) -> bytes:
    """INIT of a kernel that offers everything."""
    body = struct.pack("<IIIII44x", 7, 45, 1 << 17, 1 << 30 | 0x80000, 0xB0)
    return message(26, body, unique=unique, nodeid=0)


def init_reply(unique: int = 1) -> bytes:
    """libfuse's answer to it, which knows of none of the newer things."""
    body = struct.pack("<IIIIHHIIHHII24x", 7, 38, 1 << 17, 1, 12, 9, 1 << 20, 1, 256, 0, 0, 0)
    return reply(unique, body)


def name(text: bytes) -> memoryview:
    """A body that is a name."""
    return memoryview(text + b"\0")


def entry(payload: bytes) -> dict[str, int]:
    """Of struct fuse_entry_out what these tests look at."""
    nodeid, _generation, valid, attr_valid = struct.unpack_from("<4Q", payload)
    ino, size, blocks = struct.unpack_from("<3Q", payload, 40)
    mode, nlink, uid, gid = struct.unpack_from("<4I", payload, 40 + 60)
    return {
        "nodeid": nodeid,
        "valid": valid,
        "attr_valid": attr_valid,
        "ino": ino,
        "size": size,
        "blocks": blocks,
        "mode": mode,
        "nlink": nlink,
        "uid": uid,
        "gid": gid,
    }
