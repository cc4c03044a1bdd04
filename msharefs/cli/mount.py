"""msharefs-mount SOURCE MOUNTPOINT [-o OPTIONS] [-f]: the mount(8) helper.

Owns the command line, the exit code and the word from the daemon in the background: the
command returns when the mount answers, or says in one sentence why it does not. A command
that is interrupted or killed before leaves no mount behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from dataclasses import dataclass, replace
from typing import NoReturn

from msharefs import __version__
from msharefs.cli import mount_help
from msharefs.daemon import caller
from msharefs.daemon.option_values import UsageError
from msharefs.daemon.options import TESTING, parse_given, parse_options, total_memory
from msharefs.daemon.remount import WORD as REMOUNT
from msharefs.daemon.remount import remount
from msharefs.daemon.startup import MountRequest, check_host, supervise
from msharefs.daemon.supervisor import (
    EXIT_INTERRUPTED,
    EXIT_MOUNT,
    EXIT_SYSTEM,
    EXIT_USAGE,
    MountError,
)
from msharefs.linux import namespaces

PROGRAM = "msharefs-mount"
HELPER_PREFIX = "mount."
"""Of the names under which mount(8) calls its helpers (/sbin/mount.msharefs)."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


@dataclass(frozen=True, slots=True)
class CommandLine:
    """What the words say. `options` is the text of all -o."""

    source: str
    mountpoint: str
    options: str
    sloppy: bool
    foreground: bool
    dry_run: bool
    namespace: str | None

    @property
    def is_remount(self) -> bool:
        """Whether it is about a mount that is there."""
        return REMOUNT in self.options.split(",")


def main() -> int:
    """The entry point. Returns the exit code."""
    caller.ready_to_start()
    logging.basicConfig(format=f"{PROGRAM}: %(message)s")
    try:
        line = parse_command_line(sys.argv[1:], program=sys.argv[0])
        origin = _join(line.namespace)
        if line.is_remount:
            return _remount(line)
        request = replace(mount_request(line), servers_in=origin)
        check_host(request)
        if line.dry_run:
            return 0
        if request.foreground:
            caller.let_go(keep=_descriptors(request))
            supervise(request, lambda: None)
        else:
            _serve_in_background(request)
    except UsageError as error:
        return _complain(str(error), EXIT_USAGE)
    except MountError as error:
        return _complain(str(error), error.code)
    except KeyboardInterrupt:
        return _complain("interrupted; nothing is mounted", EXIT_INTERRUPTED)
    return 0


def parse_command_line(arguments: list[str], *, program: str = PROGRAM) -> CommandLine:
    """What the arguments of `program` ask for. Raises UsageError; --help and --version exit."""
    parser = _Parser(
        prog=PROGRAM,
        description="Mount msharefs.",
        epilog=mount_help.text(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", help="any word; shown as the mounted device")
    parser.add_argument("mountpoint", help="the directory to mount on")
    parser.add_argument(
        "-o",
        dest="options",
        metavar="OPTION,...",
        action="append",
        default=[],
        help="mount options, see below",
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    # What mount(8) hands to its helpers: the first three it has done itself.
    parser.add_argument("-n", "-v", "--verbose", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-t", dest="_type", help=argparse.SUPPRESS)
    parser.add_argument(
        "-N", dest="namespace", help="mount in this mount namespace (/proc/PID/ns/mnt)"
    )
    parser.add_argument("-V", "--version", action="version", version=f"msharefs {__version__}")
    words = parser.parse_args(arguments)
    # To a helper -f says --fake: do everything but the mount itself.
    is_helper = os.path.basename(program).startswith(HELPER_PREFIX)
    return CommandLine(
        source=words.source,
        mountpoint=words.mountpoint,
        options=",".join(words.options),
        sloppy=words.sloppy,
        foreground=words.foreground and not is_helper,
        dry_run=words.foreground and is_helper,
        namespace=words.namespace,
    )


def _join(namespace: str | None) -> int | None:
    """Go where the mount is to be made. Returns a descriptor of where we came from: servers
    stay there. Raises MountError."""
    if namespace is None:
        return None
    try:
        return namespaces.join(namespace)
    except OSError as error:
        raise MountError(f"-N {namespace}: {error.strerror}", EXIT_SYSTEM) from error


def _descriptors(request: MountRequest) -> list[int]:
    """Those that the supervisor needs of the command."""
    return [] if request.servers_in is None else [request.servers_in]


def _remount(line: CommandLine) -> int:
    """Change a mount that is there. Raises UsageError and MountError."""
    words = [word for word in line.options.split(",") if word != REMOUNT]
    given = parse_given(",".join(words), memory=total_memory(), sloppy=line.sloppy)
    if not line.dry_run:
        remount(_resolved(line.mountpoint), given)
    return 0


def mount_request(line: CommandLine) -> MountRequest:
    """The mount that a command line asks for. Raises UsageError."""
    options = parse_options(
        line.options,
        memory=total_memory(),
        sloppy=line.sloppy,
        testing=os.environ.get(TESTING) == "1",
    )
    source = options.fsname or line.source
    return MountRequest(source, _resolved(line.mountpoint), options, line.foreground)


def _resolved(mountpoint: str) -> str:
    """Absolute, and without links, with which /proc/mounts would show another path."""
    if not mountpoint:
        raise UsageError("the mount point is an empty word")
    try:
        return os.path.realpath(mountpoint)
    except FileNotFoundError:
        raise UsageError(
            f"{mountpoint} is relative to a directory that has been removed; give the whole path"
        ) from None


def _serve_in_background(request: MountRequest) -> None:
    """Fork the supervisor, and wait for its word. Raises MountError with it, and
    KeyboardInterrupt when the supervisor has taken back what it had made."""
    reader, writer = os.pipe()
    # A Ctrl-C between fork and the child's own session would be its own, too.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    supervisor = os.fork()
    if supervisor == 0:
        os.close(reader)
        os._exit(_become_daemon(request, writer))
    os.close(writer)
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        word = _read_all(reader)
    except KeyboardInterrupt:
        os.kill(supervisor, signal.SIGTERM)
        os.close(reader)
        os.waitpid(supervisor, 0)
        raise
    if not word:
        raise MountError("the supervisor ended without a word", EXIT_SYSTEM)
    outcome = json.loads(word)
    if outcome["code"]:
        raise MountError(outcome["sentence"], outcome["code"])


def _read_all(pipe: int) -> bytes:
    """Until all writers have closed it."""
    text = b""
    while piece := os.read(pipe, 4096):
        text += piece
    return text


def _become_daemon(request: MountRequest, writer: int) -> int:
    """The child: a supervisor with nothing of the caller's, and one report on `writer`."""
    caller.detach()
    caller.let_go(keep=[writer, *_descriptors(request)])
    word = _Word(writer)
    try:
        supervise(request, word.announce)
    except MountError as error:
        return word.fail(str(error), error.code)
    except Exception as error:
        logging.getLogger(PROGRAM).exception("the supervisor failed")
        return word.fail(f"the supervisor failed: {error!r}", EXIT_SYSTEM)
    return 0


class _Word:
    """What the command is told of its mount, once."""

    def __init__(self, pipe: int) -> None:
        """The pipe belongs to this object."""
        self._pipe: int | None = pipe

    def announce(self) -> None:
        """The mount answers. Raises MountError where the command does not wait for it any
        more: who had it killed takes the mount for failed."""
        if not self._say(0, ""):
            raise MountError("the command ended before the mount answered", EXIT_MOUNT)

    def fail(self, sentence: str, code: int) -> int:
        """The mount cannot be made, or is lost. Returns the code."""
        if self._pipe is None or not self._say(code, sentence):
            logging.getLogger(PROGRAM).error("%s", sentence)
        return code

    def _say(self, code: int, sentence: str) -> bool:
        """Whether somebody was there to hear it."""
        assert self._pipe is not None
        pipe, self._pipe = self._pipe, None
        try:
            os.write(pipe, json.dumps({"code": code, "sentence": sentence}).encode())
        except BrokenPipeError:
            return False
        finally:
            os.close(pipe)
        return True


def _complain(sentence: str, code: int) -> int:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
