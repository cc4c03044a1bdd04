"""mshare COMMAND ...: the command-line tool.

Owns the list of commands, and how a refusal becomes one sentence and an exit code. A command's
module is imported when the command is called.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys

import click

from msharefs import __version__
from msharefs.cli import errors
from msharefs.cli.watching import watched
from msharefs.inspect import mounts
from msharefs.inspect.errors import InspectError
from msharefs.inspect.probe import ANSWER_SECONDS, answers_of, silent

PROGRAM = "mshare"

COMMANDS = {
    "ls": "listing:ls",
    "stat": "region_stat:stat",
    "ps": "region_ps:ps",
    "top": "top:top",
    "create": "change:create",
    "map": "change:map_",
    "unmap": "change:unmap",
    "sync": "change:sync",
    "rm": "change:rm",
    "dump": "archive:dump",
    "load": "archive:load",
    "status": "mount_status:status",
    "set": "settings:set_",
    "restart": "restart:restart",
    "discard": "discard:discard",
    "doctor": "doctor:doctor",
    "run": "run:run",
    "completion": "completion:completion",
    "install": "install:install",
}
"""Every command in the order of the help: where it is, as "module:function" below msharefs.cli."""

UNWATCHED = frozenset({"run"})
"""It has a process of its own that passes signals on, and goes on as long as its program does."""
EXIT_RUN_FAILED = 125
CHANGE_SECONDS = 10.0
"""How long a mount may not answer while it is to change something. It may have much to do."""
SILENCE = dict.fromkeys(("ls", "stat", "ps", "top", "status"), ANSWER_SECONDS) | {"restart": 60.0}
"""And while it is looked at; and while its server is replaced."""


class LazyGroup(click.Group):
    """A group whose commands are imported when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        """The commands by name."""
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's
        cmd_name: str,
    ) -> click.Command | None:
        """Import one command."""
        place = COMMANDS.get(cmd_name)
        if place is None:
            return None
        module, _, function = place.partition(":")
        command = getattr(importlib.import_module(f"msharefs.cli.{module}"), function)
        assert isinstance(command, click.Command)
        return command


@click.group(
    cls=LazyGroup,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Sizes are bytes, or a number with K, M, G or T: 64M, 64MiB, 1.5G.",
)
@click.version_option(
    __version__, "-V", "--version", prog_name=PROGRAM, message="mshare %(version)s"
)
@click.pass_context
def cli(ctx: click.Context) -> None:
    """Look at and work with regions of shared memory on a mounted msharefs."""
    if ctx.invoked_subcommand is None:
        # As an error, because nothing was asked for, but to be read as it is.
        click.echo(ctx.get_help(), err=True)
        ctx.exit(errors.EXIT_USAGE)


def main() -> int:
    """The entry point. Returns the exit code, in a child of the process that was started too."""
    _start_as_expected()
    words = sys.argv[1:]
    command = next((word for word in words if word in COMMANDS), "")
    suspects = _suspects(command, words)
    try:
        if command in UNWATCHED:
            return _refusing_silence(suspects) or run()
        return watched(run, suspects, SILENCE.get(command, CHANGE_SECONDS))
    except TimeoutError as error:
        return _complain(errors.sentence(error), errors.EXIT_REFUSED)


def run() -> int:
    """Run the command that sys.argv says, in this process. Returns the exit code."""
    # As other filters do: `mshare ls | head -1` ends in silence.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    # Ended from outside, a command still takes away what it has half made.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(errors.EXIT_TERMINATED))
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a letter of a name gets an escape for it.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        outcome = cli.main(prog_name=PROGRAM, standalone_mode=False)
    except click.ClickException as error:
        return _complain(_usage_sentence(error), error.exit_code)
    except click.Abort:
        return errors.EXIT_INTERRUPTED
    except errors.CommandError as error:
        return _complain(str(error), error.code)
    except InspectError as error:
        refusal = errors.inspected(error)
        return _complain(str(refusal), refusal.code)
    except OSError as error:
        return _complain(errors.sentence(error), errors.EXIT_REFUSED)
    except KeyboardInterrupt:
        return errors.EXIT_INTERRUPTED
    return outcome if isinstance(outcome, int) else errors.EXIT_OK


def _start_as_expected() -> None:
    """Whoever starts us may have closed standard descriptors and ignore the end of children."""
    fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    while fd <= 2:
        os.set_inheritable(fd, True)
        fd = os.dup(fd)
    os.close(fd)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def _suspects(command: str, words: list[str]) -> list[str]:
    """The mount points that a command line is about, told without touching them."""
    if command in {"doctor", "completion", "install", ""}:
        return []
    after = words[words.index(command) + 1 :]
    paths = [word.rpartition("=")[2] if word.startswith("--") else word for word in after]
    named = {mounts.lead_to(path) for path in paths if path and not path.startswith("-")} - {None}
    if named or command not in {"top", "status"}:
        return sorted(path for path in named if path is not None)
    everything = [mount.path for mount in mounts.mounts()]
    return everything if len(everything) == 1 else []


def _refusing_silence(suspects: list[str]) -> int:
    """An exit code, if one of the mounts does not answer."""
    for path, answer in zip(suspects, answers_of(suspects), strict=True):
        if answer is None:
            return _complain(errors.sentence(silent(path)), EXIT_RUN_FAILED)
    return errors.EXIT_OK


def _complain(sentence: str, code: int) -> int:
    print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    return code


def _usage_sentence(error: click.ClickException) -> str:
    """click's message as one sentence, with the command to ask for more."""
    message = " ".join(error.format_message().split()).rstrip(".")
    message = message[:1].lower() + message[1:]
    context = error.ctx if isinstance(error, click.UsageError) else None
    if context is None:
        return message
    path = context.command_path.removeprefix(PROGRAM).strip()
    return f"{path + ': ' if path else ''}{message} ('{context.command_path} --help' tells more)"


if __name__ == "__main__":
    sys.exit(main())
