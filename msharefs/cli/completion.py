"""mshare completion: the script that makes a shell complete mshare's words."""

from __future__ import annotations

import click

SHELLS = ("bash", "zsh", "fish")
_VARIABLE = "_MSHARE_COMPLETE"


@click.command(short_help="Print a script for shell completion.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash  eval "$(mshare completion bash)" in ~/.bashrc
    zsh   eval "$(mshare completion zsh)" in ~/.zshrc
    fish  mshare completion fish > ~/.config/fish/completions/mshare.fish
    """
    print(script(ctx.find_root().command, shell))


def script(command: click.Command, shell: str) -> str:
    """The script of one of SHELLS for mshare, which is `command`."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    kind = get_completion_class(shell)
    assert kind is not None
    made = kind(command, {}, "mshare", _VARIABLE)
    # Not source(): for bash that runs a bash to see how old it is, and this one may not be it.
    return made.source_template % made.source_vars()
