"""Requests of any kind, well-formed and torn, as a kernel with many clients would send them.

Owns what a request looks like and which numbers are worth trying. Each choice is made by `choose`,
so that hypothesis can make a sequence shorter, and a long run make a million.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import TypeVar

from msharefs.fuse.kernel import Opcode
from tests.helpers import raw
from tests.unit.support.planes import IN_HEADER_SIZE

T = TypeVar("T")

Choose = Callable[[int], int]
"""A number from 0 to less than this."""

NAMES = (b"a", b"b", b"c", b"mshare_info", b".", b"..", b"", b"n" * 255, b"n" * 256, b"\xff\x01/")
WIDE = (
    *(0, 1, 2, 4095, 4096, 8192, 1 << 20, 1 << 21, 1 << 22, 1 << 31, (1 << 32) - 1, 1 << 32),
    *((1 << 62), (1 << 63) - 4096, (1 << 63) - 1, 1 << 63, (1 << 64) - 4096, (1 << 64) - 1),
)
NARROW = (0, 1, 2, 3, 4, 0x200, 0x8000, 1 << 20, 1 << 31, (1 << 32) - 1)
SIZES = (0, 4096, 8192, 1 << 21, 1 << 22)
MODES = (0o100600, 0o040700, 0o020600, 0, 0o177777, (1 << 32) - 1)
ATTRIBUTES = (
    *(b"user.msharefs.layout", b"user.msharefs.layout.4096", b"user.msharefs.layout.x"),
    *(b"user.msharefs.status", b"user.msharefs.options", b"security.capability", b""),
)
IOCTLS = (raw.CREATE_MAPPING, raw.CREATE_MAPPING_X86_32, raw.UNMAP, 0x5401, 0, (1 << 32) - 1)
FLAGS = (
    *(raw.ANONYMOUS, raw.ANONYMOUS | raw.MAP_NORESERVE, raw.ANONYMOUS | raw.MAP_HUGETLB),
    *(raw.ANONYMOUS | raw.MAP_FIXED_NOREPLACE, raw.FROM_FILE, 0, (1 << 32) - 1),
)
RESENT = 1 << 63

FORMS: dict[int, str] = {
    Opcode.LOOKUP: "n",
    Opcode.FORGET: "k",
    Opcode.GETATTR: "zzQ",
    Opcode.SETATTR: "vzQSQTTTIIIMIuuI",
    Opcode.SYMLINK: "nn",
    Opcode.MKNOD: "MIIIn",
    Opcode.MKDIR: "MIn",
    Opcode.UNLINK: "n",
    Opcode.RMDIR: "n",
    Opcode.RENAME: "inn",
    Opcode.RENAME2: "izznn",
    Opcode.LINK: "in",
    Opcode.OPEN: "fz",
    Opcode.READ: "hSIzQzz",
    Opcode.WRITE: "hSIfQzzd",
    Opcode.RELEASE: "hfzQ",
    Opcode.FSYNC: "hzz",
    Opcode.SETXATTR: "Izxd",
    Opcode.GETXATTR: "Izx",
    Opcode.LISTXATTR: "Iz",
    Opcode.REMOVEXATTR: "x",
    Opcode.FLUSH: "hzzQ",
    Opcode.OPENDIR: "fz",
    Opcode.READDIR: "hQIzQzz",
    Opcode.READDIRPLUS: "hQIzQzz",
    Opcode.RELEASEDIR: "hfzQ",
    Opcode.CREATE: "fMzzn",
    Opcode.INTERRUPT: "Q",
    Opcode.BATCH_FORGET: "b",
    Opcode.FALLOCATE: "hOSzz",
    Opcode.IOCTL: "p",
    Opcode.COPY_FILE_RANGE: "hQihQQQ",
}
"""The parts of a body, by the letters of PARTS; i an inode's number, n a name, x an attribute's, d
data, b a batch of FORGETs, p all of an ioctl."""
PARTS: dict[str, tuple[str, Sequence[int], Sequence[int]]] = {
    "Q": ("<Q", (0, 1, 4096), WIDE),
    "S": ("<Q", SIZES, WIDE),
    "O": ("<Q", (0,), WIDE),
    "T": ("<Q", (0, 10**9), WIDE),
    "h": ("<Q", (2,), WIDE),
    "k": ("<Q", (0, 1), WIDE),
    "I": ("<I", (0, 4096, 65536), NARROW),
    "M": ("<I", (0o100600, 0o040700), MODES),
    "z": ("<I", (0,), NARROW),
    "f": ("<I", (2, 2 | 0x8000), NARROW),
    "u": ("<I", (0, 1001), NARROW),
    "v": ("<I", (8, 8 | 1, 1, 6, 0x30, 0x180), NARROW),
}
"""How a number is packed; what it usually is, and what it may be besides."""
NOT_FOR_US = frozenset({Opcode.INIT, Opcode.DESTROY})
"""Sent once by a kernel, at the beginning and at the end."""
OPCODES = (*(int(opcode) for opcode in Opcode if opcode not in NOT_FOR_US), 7, 54, 4096)


class Requests:
    """Makes one request after the other. `inodes` are those that there are now."""

    def __init__(self, choose: Choose, inodes: Callable[[], Sequence[int]]) -> None:
        self._choose = choose
        self._inodes = inodes
        self._last = 0

    def next(self) -> bytes:
        """A request: most of them whole, some cut off, made longer, or of any bytes."""
        opcode = self._usually(tuple(FORMS), OPCODES)
        body = b"".join(map(self._part, FORMS.get(opcode, "QQ")))
        match self._choose(20):
            case 0:
                body = body[: self._choose(len(body) + 1)]
            case 1:
                body += bytes([self._choose(256)]) * self._choose(70)
            case 2:
                body = bytes(self._choose(256) for _ in range(self._choose(24)))
        return self._header(opcode, len(body)) + body

    def _header(self, opcode: int, length: int) -> bytes:
        self._last += 2
        # One that comes again is one of those before; nobody knows which of them was applied.
        again = self._choose(20) == 0
        unique = RESENT | (2 + 2 * self._choose(self._last // 2)) if again else self._last
        who = (self._one_of((0, 1001)), self._one_of((0, 2001)), self._choose(3))
        size = IN_HEADER_SIZE + length
        return struct.pack("<IIQQIIIHH", size, opcode, unique, self._inode(), *who, 0, 0)

    def _part(self, kind: str) -> bytes:
        if kind in PARTS:
            form, usual, odd = PARTS[kind]
            return struct.pack(form, self._usually(usual, odd))
        if kind == "n":
            return self._usually(NAMES[:3], NAMES) + b"\0"
        if kind == "x":
            return self._one_of(ATTRIBUTES) + b"\0"
        if kind == "i":
            return struct.pack("<Q", self._inode())
        if kind == "d":
            return bytes(self._one_of((0, 1, 4096)))
        return self._batch() if kind == "b" else self._ioctl()

    def _batch(self) -> bytes:
        count = self._choose(4)
        pairs = [(self._inode(), self._usually((0, 1), WIDE)) for _ in range(count)]
        said = self._usually((count,), NARROW)
        return struct.pack("<II", said, 0) + b"".join(struct.pack("<QQ", *pair) for pair in pairs)

    def _ioctl(self) -> bytes:
        start, size = self._usually(SIZES, WIDE), self._usually(SIZES, WIDE)
        whole = raw.create_payload(start, size, flags=self._usually(FLAGS[:3], FLAGS))
        command, payload = self._one_of(
            (
                (raw.CREATE_MAPPING, whole),
                (raw.CREATE_MAPPING_X86_32, whole[:36]),
                (raw.UNMAP, raw.unmap_payload(start, size)),
            )
        )
        command = self._usually((command,), IOCTLS)
        length = self._usually((len(payload),), NARROW)
        handle, flags = self._usually((2,), WIDE), self._usually((0,), NARROW)
        return struct.pack("<QIIQII", handle, flags, command, 0, length, 0) + payload

    def _inode(self) -> int:
        return self._usually(self._inodes(), (0, 1, 2, 3, 1 << 32, (1 << 64) - 1))

    def _usually(self, usual: Sequence[T], odd: Sequence[T]) -> T:
        """Nine times of ten one of the first."""
        return self._one_of(odd if self._choose(10) == 9 else usual)

    def _one_of(self, things: Sequence[T]) -> T:
        return things[self._choose(len(things))]
