"""What is told of requests: a line in the log for those that fail, and the counters.

Owns how a request is called in the log, in one line, whatever names users give. Which errno an
error has is core's.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable

from msharefs.core.errors import RefusedError
from msharefs.fuse.kernel import FUSE_UNIQUE_RESEND, Opcode
from msharefs.fuse.messages import Header, MalformedError
from msharefs.fuse.metrics import Metrics
from msharefs.linux import proc

log = logging.getLogger(__name__)


class Account:
    """Of one mount."""

    def __init__(self, metrics: Metrics, path_of: Callable[[int], bytes | None]) -> None:
        """`path_of` gives a path to an inode, if it has one."""
        self.metrics = metrics
        self._path_of = path_of

    def explain(self, error: Exception, header: Header) -> int:
        """Log why a request failed, and give the errno to answer."""
        if isinstance(error, RefusedError):
            # Clients are refused all the time, and to find out who it is costs something.
            if log.isEnabledFor(logging.DEBUG):
                log.debug("%s: %s: %s", self.described(header), error.code, error)
            return error.errno
        if isinstance(error, MalformedError):
            log.error("%s: %s", self.described(header), error)
            return errno.EIO
        log.error("%s failed", self.described(header), exc_info=error)
        return errno.EIO

    def described(self, header: Header) -> str:
        """All that is known of a request."""
        known = header.opcode in Opcode._value2member_map_
        name = Opcode(header.opcode).name if known else f"opcode {header.opcode}"
        path = self._path_of(header.nodeid)
        what = f"inode {header.nodeid}" + ("" if path is None else f" ({_printable(path)})")
        command = _command(header.pid)
        who = f"pid {header.pid}" + (f" ({_printable(command)})" if command else "")
        unique = header.unique & ~FUSE_UNIQUE_RESEND
        return f"{name} of {what} by {who} of uid {header.uid} (request {unique})"


def _command(pid: int) -> bytes:
    """What the process that asks calls itself; nothing if it cannot be seen."""
    try:
        return proc.name(pid)
    except OSError:
        return b""


def _printable(name: bytes) -> str:
    """Without what would be another line of the log, or a terminal's business."""
    return name.decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
