"""The contract with client programs: ioctl numbers, payload layouts and limits.

The same contract stands in C in ``include/msharefs.h``; a test compiles that
header and compares every number with this module. It follows the kernel patch
series "Add support for shared PTEs across processes", v3.

Bytes to frozen objects and back, nothing else: this module imports nothing of
the package and does no I/O. Which values make sense is core's business.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import ClassVar, Self

PAGE_SIZE = 4096
"""Unit of a mapping's offset and size, in bytes (x86-64 and arm64 with 4 KiB pages)."""

HUGE_PAGE_SIZE = 2 << 20
"""The unit in which page tables are saved: what one PMD entry maps, in bytes."""

DEFAULT_ALIGN = HUGE_PAGE_SIZE
"""Default alignment of a region's size, in bytes; mshare_info shows the mount's own."""

MAX_ALIGN = 512 << 30
"""The kernel's alignment (one PGD entry), the largest that a mount may choose, in bytes."""

MAX_FILE_SIZE = (1 << 63) - 1
"""s_maxbytes of a FUSE mount on 64 bit (MAX_LFS_FILESIZE), in bytes."""

INFO_NAME = b"mshare_info"
"""The file in the root directory that holds the alignment in decimal and a newline."""

# include/uapi/asm-generic/mman-common.h
PROT_READ = 0x1
PROT_WRITE = 0x2
PROT_EXEC = 0x4
PROT_ALL = PROT_READ | PROT_WRITE | PROT_EXEC

MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_TYPE = 0x0F
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_GROWSDOWN = 0x100
MAP_NORESERVE = 0x4000
MAP_POPULATE = 0x8000
MAP_HUGETLB = 0x40000
MAP_FIXED_NOREPLACE = 0x100000
MAP_HUGE_SHIFT = 26
MAP_HUGE_MASK = 0x3F << MAP_HUGE_SHIFT
MAP_HUGE_2MB = 21 << MAP_HUGE_SHIFT

NO_FD = 0xFFFFFFFF
"""The value of mshare_create.fd that means "no file" (-1 as u32)."""

_IOC_WRITE = 1
_IOC_READ = 2
_IOC_TYPE = ord("x")


def _iow(number: int, size: int) -> int:
    """_IOW of asm-generic/ioctl.h: direction, payload size, type and number in one u32."""
    return _IOC_WRITE << 30 | size << 16 | _IOC_TYPE << 8 | number


def _ior(number: int, size: int) -> int:
    """_IOR of the same."""
    return _IOC_READ << 30 | size << 16 | _IOC_TYPE << 8 | number


class PayloadError(ValueError):
    """A payload has another length than its ioctl number promises."""


@dataclass(frozen=True, slots=True)
class CreateMapping:
    """struct mshare_create: map `size` bytes at `region_offset` of the region.

    `offset` is the offset in the file named by `fd`; all three are bytes.
    """

    region_offset: int
    size: int
    offset: int = 0
    prot: int = PROT_READ | PROT_WRITE
    flags: int = MAP_SHARED | MAP_FIXED | MAP_ANONYMOUS
    fd: int = NO_FD

    # The last four bytes on 64 bit are padding, which is not looked at.
    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QQQIII4x")
    # i386 aligns u64 to four bytes, so its struct has no padding.
    FORMAT_X86_32: ClassVar[struct.Struct] = struct.Struct("=QQQIII")

    def pack(self) -> bytes:
        """The 40 bytes that a 64-bit program passes; fields beyond their width raise struct.error."""
        return self.FORMAT.pack(
            self.region_offset, self.size, self.offset, self.prot, self.flags, self.fd & NO_FD
        )

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Self:
        """Read 40 bytes, or the 36 of a 32-bit x86 program. PayloadError for any other length."""
        for form in (cls.FORMAT, cls.FORMAT_X86_32):
            if len(payload) == form.size:
                return cls(*form.unpack(payload))
        raise PayloadError(f"mshare_create has 40 or 36 bytes, not {len(payload)}")


@dataclass(frozen=True, slots=True)
class Unmap:
    """struct mshare_unmap: remove what is mapped in `size` bytes at `region_offset`."""

    region_offset: int
    size: int

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=QQ")

    def pack(self) -> bytes:
        """The 16 bytes that a program passes; fields beyond 64 bits raise struct.error."""
        return self.FORMAT.pack(self.region_offset, self.size)

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Self:
        """Read 16 bytes. PayloadError for any other length."""
        if len(payload) != cls.FORMAT.size:
            raise PayloadError(f"mshare_unmap has 16 bytes, not {len(payload)}")
        return cls(*cls.FORMAT.unpack(payload))


@dataclass(frozen=True, slots=True)
class Attach:
    """struct mshare_attach: where a client gets the segment of a region that it has open.

    `token` serves once and for some seconds; `address` is the abstract name of a socket, whose owner
    must be the user `uid`.
    """

    token: bytes
    uid: int
    address: bytes

    FORMAT: ClassVar[struct.Struct] = struct.Struct("=16sI4x40s")

    def pack(self) -> bytes:
        """The 64 bytes of the answer."""
        return self.FORMAT.pack(self.token, self.uid, self.address)

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Self:
        """Read 64 bytes. PayloadError for any other length."""
        if len(payload) != cls.FORMAT.size:
            raise PayloadError(f"mshare_attach has 64 bytes, not {len(payload)}")
        token, uid, address = cls.FORMAT.unpack(payload)
        return cls(token, uid, address.partition(b"\0")[0])


TOKEN_SIZE = 16
"""Bytes of a token."""
ADDRESS_SIZE = 39
"""Bytes of an address, at most."""

CREATE_MAPPING = _iow(0, CreateMapping.FORMAT.size)
CREATE_MAPPING_X86_32 = _iow(0, CreateMapping.FORMAT_X86_32.size)
UNMAP = _iow(1, Unmap.FORMAT.size)
ATTACH = _ior(2, Attach.FORMAT.size)
CLAIM = _ior(3, Attach.FORMAT.size)

LAYOUT_ATTRIBUTE = b"user.msharefs.layout"
"""Extended attribute of a region: its size, mappings, creator and counters as JSON."""

CHANGED_ATTRIBUTE = b"user.msharefs.changed"
"""Extended attribute of a region, counted when it is read: bytes of pages that were changed and are not in
their files yet, in decimal. With an offset behind it, `.4096`, of the mapping there alone."""

ADVICE_ATTRIBUTE = b"user.msharefs.advice"
"""Extended attribute of a region, where it helps: the number of the madvise(2) advice with which
first touches of a large attachment read far ahead, in decimal."""

AUTOMAP_ATTRIBUTE = b"user.msharefs.automap"
"""Extended attribute of a directory or region: off, on or grow. The mount's, where nobody has set it."""

STATUS_ATTRIBUTE = b"user.msharefs.status"
"""Extended attribute of the root directory: the state of the mount as JSON."""

OPTIONS_ATTRIBUTE = b"user.msharefs.options"
"""Extended attribute of the root directory: the options that can be changed while it is mounted,
as mount -o has them. To set it changes those that are named, for who may."""

TRUSTED_OPTIONS_ATTRIBUTE = b"trusted.msharefs.options"
"""The same to be set by CAP_SYS_ADMIN, which the kernel asks for by this name, as for a remount."""
