"""What a command says when it cannot do what was asked: one sentence and an exit code.

Owns the exit codes and the wording of the system's refusals. It prints nothing.
"""

from __future__ import annotations

import errno
import os
import re

from msharefs import MshareError, OutOfInodes, OutOfMemory, QuotaExceeded, notation
from msharefs.cli import formatting
from msharefs.inspect.dumpfile import DamagedError
from msharefs.inspect.errors import InspectError

EXIT_OK = 0
EXIT_REFUSED = 1
"""The mount or the system said no; the sentence says why."""
EXIT_USAGE = 2
"""The command line is wrong."""
EXIT_DAMAGED = 3
"""A dump is torn or damaged."""
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143
"""Ctrl-C and SIGTERM, as shells have them."""

# What to do about it, where that is not plain from the reason itself.
_ADVICE: tuple[tuple[type[OSError], str], ...] = (
    (OutOfMemory, "'mshare status' shows what the mount may use, and 'free' what the machine has"),
    (OutOfInodes, "'mshare status' shows how many names and mappings the mount may hold"),
    (QuotaExceeded, "'mshare status' shows how much each user may have"),
)
_BYTES = re.compile(r"\b([0-9]{1,30})( bytes)?\b")
_DAEMON_HANGS = "'mshare doctor' says what to do about it"
_DAEMON_DIED = "its daemon has died; mount it again, which brings its regions back"


class CommandError(Exception):
    """A command cannot do what was asked: one sentence, without a full stop."""

    def __init__(self, sentence: str, code: int = EXIT_REFUSED) -> None:
        super().__init__(sentence)
        self.code = code


def inspected(error: InspectError) -> CommandError:
    """What could not be looked at, fit for a terminal, with its exit code."""
    code = EXIT_DAMAGED if isinstance(error, DamagedError) else EXIT_REFUSED
    return CommandError(formatting.name(str(error)), code)


def sentence(error: OSError) -> str:
    """What an OSError has to say, with the name it is about and, where it helps, advice."""
    reason = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    if isinstance(error, MshareError):
        # Every number in the sentences of the Python client is one of bytes.
        reason = _BYTES.sub(lambda match: notation.exact_size(int(match[1])), reason)
    text = reason if error.filename is None else f"{shown(error.filename)}: {reason}"
    if isinstance(error, TimeoutError):
        return f"{text}; {_DAEMON_HANGS}"
    if error.errno == errno.ENOTCONN:
        return f"{text}; {_DAEMON_DIED}"
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            return f"{text}; {advice}"
    return text


def shown(path: object) -> str:
    """A path of an OSError, which may be text, bytes or a descriptor."""
    if isinstance(path, (str, bytes)):
        return formatting.name(os.fsdecode(path))
    return str(path)
