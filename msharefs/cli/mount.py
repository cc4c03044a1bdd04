"""msharefs-mount SOURCE MOUNTPOINT [-o OPTIONS] [-f]: the mount(8) helper.

Owns the command line, the exit code and becoming a daemon. In the background it returns
when the mount answers, or says in one sentence why it does not.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from typing import NoReturn

from msharefs import __version__
from msharefs.daemon.options import TESTING, UsageError, parse_options, total_memory
from msharefs.daemon.startup import MountRequest, check_host, supervise
from msharefs.daemon.supervisor import EXIT_SYSTEM, EXIT_USAGE, MountError

PROGRAM = "msharefs-mount"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


def main() -> int:
    """The entry point. Returns the exit code."""
    logging.basicConfig(format=f"{PROGRAM}: %(message)s")
    try:
        request = parse_command_line(sys.argv[1:])
        check_host(request)
        if request.foreground:
            supervise(request, lambda: None)
        else:
            _serve_in_background(request)
    except UsageError as error:
        return _complain(str(error), EXIT_USAGE)
    except MountError as error:
        return _complain(str(error), error.code)
    return 0


def parse_command_line(arguments: list[str]) -> MountRequest:
    """What the arguments ask for. Raises UsageError; --help and --version exit."""
    parser = _Parser(prog=PROGRAM, description="Mount msharefs.", allow_abbrev=False)
    parser.add_argument("source", help="any word; shown as the mounted device")
    parser.add_argument("mountpoint", help="the directory to mount on")
    parser.add_argument(
        "-o", dest="options", action="append", default=[], help="options, separated by commas"
    )
    parser.add_argument("-f", "--foreground", action="store_true", help="stay in the foreground")
    parser.add_argument("-s", dest="sloppy", action="store_true", help="ignore unknown options")
    # What mount(8) hands to its helpers, and has done itself.
    parser.add_argument("-n", "-v", "--verbose", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("-t", "-N", dest="_ignored", help=argparse.SUPPRESS)
    parser.add_argument("-V", "--version", action="version", version=f"msharefs {__version__}")
    words = parser.parse_args(arguments)
    options = parse_options(
        ",".join(words.options),
        memory=total_memory(),
        sloppy=words.sloppy,
        testing=os.environ.get(TESTING) == "1",
    )
    # Links in the path of the mount point would make /proc/mounts show another one.
    mountpoint = os.path.realpath(words.mountpoint)
    return MountRequest(words.source, mountpoint, options, words.foreground)


def _serve_in_background(request: MountRequest) -> None:
    """Fork the supervisor, and wait for its word. Raises MountError with it."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os._exit(_become_daemon(request, writer))
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        word = pipe.read()
    if not word:
        raise MountError("the supervisor ended without a word", EXIT_SYSTEM)
    outcome = json.loads(word)
    if outcome["code"]:
        raise MountError(outcome["sentence"], outcome["code"])


def _become_daemon(request: MountRequest, writer: int) -> int:
    """The child: own session, no terminal, no directory, one report on `writer`."""
    os.setsid()
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(null, standard)

    def report(code: int, sentence: str = "") -> None:
        os.write(writer, json.dumps({"code": code, "sentence": sentence}).encode())
        os.close(writer)

    announced = False

    def announce() -> None:
        nonlocal announced
        announced = True
        report(0)

    try:
        supervise(request, announce)
    except MountError as error:
        if announced:
            logging.getLogger(PROGRAM).error("%s", error)
        else:
            report(error.code, str(error))
        return error.code
    except Exception as error:
        logging.getLogger(PROGRAM).exception("the supervisor failed")
        if not announced:
            report(EXIT_SYSTEM, f"the supervisor failed: {error!r}")
        return EXIT_SYSTEM
    return 0


def _complain(sentence: str, code: int) -> int:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
