"""Options of a mount, read and changed from outside while it is in use.

Owns the extended attributes for it (abi.py), and what each refusal of them means. Which options
there are is for the mount to say.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable

from msharefs.abi import OPTIONS_ATTRIBUTE, TRUSTED_OPTIONS_ATTRIBUTE

_READ = OPTIONS_ATTRIBUTE.decode("ascii")
_NAMES = (TRUSTED_OPTIONS_ATTRIBUTE.decode("ascii"), _READ)
"""In the order to try them: the kernel asks for CAP_SYS_ADMIN for the first, the mount for its
own user for the second."""

_REASONS = {
    errno.EBUSY: "more is in use than that; 'mshare status' and 'mshare ls' show what",
    errno.EINVAL: "not a possible value, or not to be changed while it is mounted",
    errno.EPERM: "only who mounted it, and root, may change its options",
    errno.EACCES: "only who mounted it, and root, may change its options",
    errno.EROFS: "it is mounted read-only: remount it rw, then change its options",
    errno.ENOSPC: "the file system of its state is full",
    errno.EOPNOTSUPP: "its daemon is of a version that cannot change options",
    errno.ENODATA: "its daemon is of a version that cannot change options",
}


def read_options(root: str) -> dict[str, str]:
    """What can be changed of the mount whose root directory this is, and what it is now.
    Raises OSError."""
    try:
        text = os.getxattr(root, _READ).decode("ascii")
    except OSError as error:
        raise _explained(error, root) from error
    return dict(word.split("=", 1) for word in text.strip().split(","))


def change_options(root: str, words: Iterable[str]) -> None:
    """Change options such as "size=2G", all of them or none. Raises OSError, with a sentence
    that says why."""
    value = ",".join(words).encode()
    if not value:
        return
    try:
        _set(root, value)
    except OSError as error:
        raise _explained(error, root) from error


def _set(root: str, value: bytes) -> None:
    for name in _NAMES:
        try:
            os.setxattr(root, name, value)
        except PermissionError:
            if name == _NAMES[-1]:
                raise
        else:
            return


def _explained(error: OSError, root: str) -> OSError:
    code = error.errno or errno.EIO
    return OSError(code, _REASONS.get(code) or os.strerror(code), root)
