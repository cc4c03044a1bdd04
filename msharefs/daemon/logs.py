"""Where log lines go: stderr in the foreground, else syslog, else a file of the mount.

Owns the handlers of the root logger, set up once a process.
"""

from __future__ import annotations

import logging
import logging.handlers
import os
from contextlib import suppress

SYSLOG = "/dev/log"
FILE_SIZE = 1 << 20
STDERR = 2
FORMAT = "%(levelname)s %(name)s: %(message)s"


class Foreground(logging.Handler):
    """Stderr of the foreground. A line is written or it is lost: one that were kept for later, as
    buffered streams do, would be in the way of the exit code once the terminal is closed."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it, at once."""
        line = (self.format(record) + "\n").encode(errors="backslashreplace")
        with suppress(OSError):
            os.write(STDERR, line)


def configure(*, foreground: bool, level: int, file: str) -> None:
    """Set logging up; `file` serves machines without syslog."""
    handler: logging.Handler
    if foreground:
        handler = Foreground()
        handler.setFormatter(logging.Formatter("msharefs: " + FORMAT))
    elif os.path.exists(SYSLOG):
        handler = logging.handlers.SysLogHandler(
            SYSLOG, facility=logging.handlers.SysLogHandler.LOG_DAEMON
        )
        handler.setFormatter(logging.Formatter(f"msharefs[{os.getpid()}]: " + FORMAT))
    else:
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=FILE_SIZE, backupCount=1)
        handler.setFormatter(logging.Formatter("%(asctime)s " + FORMAT))
    logging.basicConfig(level=level, handlers=[handler], force=True)
