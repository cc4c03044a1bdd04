"""mshare set: options of a mount, changed while it is in use.

Owns the command line; which options there are, and who may change them, is for the mount to say.
"""

from __future__ import annotations

import click

from msharefs.cli import formatting
from msharefs.cli.errors import EXIT_USAGE, CommandError
from msharefs.cli.params import DIRECTORY
from msharefs.client.options import change_options, read_options
from msharefs.inspect import mounts


@click.command(name="set", short_help="Change a mount's options while it is in use.")
@click.argument("directory", metavar="MOUNTPOINT", type=DIRECTORY)
@click.argument("words", metavar="[NAME=VALUE]...", nargs=-1)
def set_(directory: str, words: tuple[str, ...]) -> None:
    """Change options of a mount without unmounting it, all of them or none.

    They are in effect at once and until it is unmounted, as with 'mount -o remount'. Without
    NAME=VALUE the options that can be changed are printed, as they are now. Shrinking a limit
    below what is in use is refused. Only who mounted it, and root, may change options.
    """
    root = mounts.only(directory).path
    options = read_options(root)
    for word in words:
        name, has_value, value = word.partition("=")
        if name not in options:
            raise CommandError(
                f"'{formatting.name(name)}' cannot be changed while it is mounted; these can: "
                f"{', '.join(options)}",
                EXIT_USAGE,
            )
        if not has_value or not value or "," in value:
            raise CommandError(f"'{formatting.name(word)}' is not NAME=VALUE", EXIT_USAGE)
    if words:
        change_options(root, words)
        return
    for name, value in options.items():
        print(f"{name}={value}")
