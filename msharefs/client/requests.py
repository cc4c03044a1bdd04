"""What a region asks of its mount, and what it may ask for.

Owns the sending of the two ioctls, the words that they carry, and the reading of a mapping's
protection for a window that is attached without enforcing it. The answers' meaning for a caller
is client.py's business.
"""

from __future__ import annotations

import errno
import fcntl
from typing import TYPE_CHECKING

from msharefs import abi
from msharefs.client.arguments import prot_bits
from msharefs.client.errors import AccessDenied

if TYPE_CHECKING:
    from collections.abc import Iterable

    from msharefs.client.layout import Mapping


def send(fd: int, number: int, payload: bytes) -> None:
    """One ioctl on an open region. OSError if the mount refuses."""
    while True:
        try:
            fcntl.ioctl(fd, number, payload)
        except InterruptedError:
            # The fcntl module leaves it to the caller (PEP 475 is about the os module).
            continue
        return


def mapping_request(
    start: int, length: int, *, prot: str, huge: bool, reserve: bool, replace: bool
) -> abi.CreateMapping:
    """What the ioctl is told for the words that `Region.map` takes."""
    flags = abi.MAP_SHARED | abi.MAP_FIXED | abi.MAP_ANONYMOUS
    if huge:
        flags |= abi.MAP_HUGETLB | abi.MAP_HUGE_2MB
    if not reserve:
        flags |= abi.MAP_NORESERVE
    if not replace:
        flags |= abi.MAP_FIXED_NOREPLACE
    return abi.CreateMapping(start, length, prot=prot_bits(prot), flags=flags)


def may_write(mappings: Iterable[Mapping], path: str | bytes) -> bool:
    """Whether a window with these mappings may be written; AccessDenied if not even read."""
    allowed = True
    for mapping in mappings:
        # A processor that can write a page can read it.
        if not {"r", "w"} & set(mapping.prot):
            text = f"cannot attach: {mapping.size} bytes at {mapping.offset} have prot none"
            raise AccessDenied(errno.EACCES, text, path)
        allowed = allowed and "w" in mapping.prot
    return allowed
