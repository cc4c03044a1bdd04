"""mshare completion: the script that makes a shell complete mshare's words."""

from __future__ import annotations

import click

_VARIABLE = "_MSHARE_COMPLETE"


@click.command(short_help="Print a script for shell completion.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash  eval "$(mshare completion bash)" in ~/.bashrc
    zsh   eval "$(mshare completion zsh)" in ~/.zshrc
    fish  mshare completion fish > ~/.config/fish/completions/mshare.fish
    """
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only here

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "mshare", _VARIABLE)
    # Not source(): for bash that runs a bash to see how old it is, and this one may not be it.
    print(script.source_template % script.source_vars())
