"""The exceptions of the Python client: one family under OSError.

Owns the map from errno to exception class. Every class is an MshareError and
keeps the built-in class that Python programs catch for the same errno, so both
`except MshareError` and `except FileExistsError` work. Knows no file, no mount.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType

    StrOrBytesPath = str | bytes | os.PathLike[str] | os.PathLike[bytes]


class MshareError(OSError):
    """An operation on a region or a mount failed; `errno` says why, `filename` where."""


class InvalidArgument(MshareError, ValueError):
    """EINVAL: an offset, size or combination that the region or the mount does not allow."""


class SizeNotSet(InvalidArgument):
    """EINVAL: the region has no size yet, so nothing can be mapped or attached."""


class SizeAlreadySet(InvalidArgument):
    """EINVAL: a region's size is set once, and this region already has another one."""


class RegionExists(MshareError, FileExistsError):
    """EEXIST: the name is taken."""


class MappingExists(MshareError, FileExistsError):
    """EEXIST: map(replace=False) met bytes that are mapped already. Nothing has changed."""


class RegionNotFound(MshareError, FileNotFoundError):
    """ENOENT: no such name, or the name is another region's by now."""


class AccessDenied(MshareError, PermissionError):
    """EACCES, EPERM: the mode, the way of opening or a mapping's protection forbids it."""


class NotARegion(MshareError):
    """ENOTTY, EISDIR: the file is something else than a region."""


class NotMounted(MshareError):
    """ENODEV: the directory is not on a mounted msharefs."""


class NotMappable(MshareError):
    """ENODEV: the file is not one whose bytes can be mapped."""


class OutOfMemory(MshareError):
    """ENOMEM: no memory, over the mount's size=, or too many mappings. Nothing has changed."""


class OutOfInodes(MshareError):
    """ENOSPC: the mount holds as many names as its nr_inodes= allows, or as many mappings as its
    max_mappings_total= does."""


class QuotaExceeded(MshareError):
    """EDQUOT: whom the region belongs to, or would, has as much of the mount as its user_size=,
    user_inodes=, user_mappings= or user_files= allow. Nothing has changed."""


class RegionTooLarge(MshareError):
    """EFBIG: a size beyond the mount's max_region=."""


class MountGone(MshareError):
    """ENOTCONN: the file system that served the region has ended."""


_CLASS_OF: dict[int, type[MshareError]] = {
    errno.EINVAL: InvalidArgument,
    errno.EEXIST: RegionExists,
    errno.ENOENT: RegionNotFound,
    errno.EACCES: AccessDenied,
    errno.EPERM: AccessDenied,
    errno.ENOTTY: NotARegion,
    errno.EISDIR: NotARegion,
    errno.ENODEV: NotMounted,
    errno.ENOMEM: OutOfMemory,
    errno.ENOSPC: OutOfInodes,
    errno.EDQUOT: QuotaExceeded,
    errno.EFBIG: RegionTooLarge,
    errno.ENOTCONN: MountGone,
    errno.ECONNABORTED: MountGone,
}


def from_os_error(
    error: OSError, what: str, path: StrOrBytesPath | None = None, hint: str = ""
) -> MshareError:
    """The MshareError that says `what` could not be done, for the errno of `error`."""
    number = error.errno or errno.EIO
    kind = _CLASS_OF.get(number, MshareError)
    name = () if path is None else (os.fspath(path),)
    return kind(number, f"{what}: {os.strerror(number)}{hint}", *name)


class translated:  # noqa: N801 - used as a function is
    """Raise an OSError of the body as its MshareError; an MshareError passes as it is."""

    # Small blocks come and go by the thousand, and a generator takes longer than their requests'
    # system calls.
    __slots__ = ("_path", "_what")

    def __init__(self, what: str, path: StrOrBytesPath | None = None) -> None:
        self._what = what
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if isinstance(error, OSError) and not isinstance(error, MshareError):
            raise from_os_error(error, self._what, self._path) from error
