"""mshare install: the system's own directories get what they look for, and lose it again.

Owns writing and removing. What goes where is in system_files.py.
"""

from __future__ import annotations

import os
import posixpath

import click

from msharefs.cli import formatting, system_files
from msharefs.cli.completion import SHELLS, script
from msharefs.cli.errors import CommandError
from msharefs.cli.system_files import File, Link

_SYSTEM = "/"


@click.command(short_help="Place helpers, man pages, unit and header in the system.")
@click.option("--prefix", default="/usr/local", show_default=True, help="Below this directory.")
@click.option("--root", default=_SYSTEM, help="Of a system that is being put together here.")
@click.option("--remove", is_flag=True, help="Take it all away again.")
@click.option("--commands-only", is_flag=True, help="The commands and mount's helpers alone.")
@click.pass_context
def install(
    ctx: click.Context, *, prefix: str, root: str, remove: bool, commands_only: bool
) -> None:
    """Place what pip cannot: the commands for everybody, helpers for mount(8), man pages,
    completion, a unit for systemd, the C header with its pkg-config file, and examples.

    Commands and helpers are links into this installation, so it has to stay where it is, and only
    root should be able to change it.
    """
    if not prefix.startswith("/"):
        raise CommandError(f"--prefix {formatting.name(prefix)} is not an absolute path", code=2)
    prefix = posixpath.normpath(prefix)
    # A system that is put together here gets an interpreter of its own.
    closed = system_files.closed_to_others() if root == _SYSTEM else None
    found = list(system_files.programs(prefix, closed))
    if not commands_only:
        command = ctx.find_root().command
        found += system_files.files(prefix, {shell: script(command, shell) for shell in SHELLS})
    if remove:
        for each in found:
            _remove(root, each)
        return
    for each in found:
        _place(root, each)
    if not commands_only and not system_files.has_pages():
        _warn("this installation has no man pages; in a checkout run 'make docs' first")
    changeable = system_files.changeable_by_others() if root == _SYSTEM else None
    if changeable is not None:
        _warn(
            f"root will run what others can change: {formatting.name(changeable)}; "
            "install msharefs where only root may write"
        )
    if closed is not None:
        _warn(
            f"nobody but root can run msharefs: {formatting.name(closed)} is closed to others; "
            "install it where everybody may run it"
        )


def _place(root: str, each: File | Link) -> None:
    """Whole under its name, or not at all; OSError names it."""
    path = _below(root, each.path)
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    made = f"{path}.new"
    try:
        if isinstance(each, Link):
            os.symlink(each.target, made)
        else:
            with open(made, "xb") as file:
                file.write(each.content)
                os.fchmod(file.fileno(), each.mode)
        os.replace(made, path)
    except OSError as error:
        if not isinstance(error, FileExistsError) and os.path.lexists(made):
            os.unlink(made)
        raise OSError(error.errno, error.strerror, path) from error
    print(path if isinstance(each, File) else f"{path} -> {each.target}")


def _remove(root: str, each: File | Link) -> None:
    """What is somebody else's stays: another link, or a program in the place of ours."""
    path = _below(root, each.path)
    if isinstance(each, Link) and os.path.lexists(path) and not _leads_to(path, each.target):
        _warn(f"{formatting.name(path)} is not ours and stays")
        return
    try:
        os.unlink(path)
    except FileNotFoundError:
        return
    print(f"removed {path}")
    parent = os.path.dirname(path)
    # Directories that are ours alone.
    while "msharefs" in os.path.relpath(parent, root).split("/") and not os.listdir(parent):
        os.rmdir(parent)
        parent = os.path.dirname(parent)


def _leads_to(path: str, target: str) -> bool:
    return os.path.islink(path) and os.readlink(path) == target


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def _warn(sentence: str) -> None:
    click.echo(f"mshare: {sentence}", err=True)
