"""Whether a mount answers, asked without waiting for one that does not.

Owns the child that asks. A process that waits for a mount that hangs cannot even be killed, so
whoever must not wait sends another one.
"""

from __future__ import annotations

import errno
import os
import select

ANSWER_SECONDS = 2.0
"""A mount that has not answered by then hangs."""


def answer_of(path: str, seconds: float = ANSWER_SECONDS) -> int | None:
    """The errno of looking at a mount, 0 if it is well, None if it does not answer in time."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            # Whoever reads our output must not wait for a child that waits.
            null = os.open(os.devnull, os.O_RDWR)
            for standard in (0, 1, 2):
                os.dup2(null, standard)
            os.statvfs(path)
        except OSError as error:
            os.write(writer, bytes([min(error.errno or errno.EIO, 255)]))
        else:
            os.write(writer, b"\0")
        finally:
            os._exit(0)
    os.close(writer)
    try:
        if not select.select([reader], [], [], seconds)[0]:
            return None
        answer = os.read(reader, 1)
        os.waitpid(child, 0)
    finally:
        os.close(reader)
    return answer[0] if answer else None
