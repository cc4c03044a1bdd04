"""The man pages say all that there is, and nothing that is not there."""

from __future__ import annotations

import re

import click
import pytest

from msharefs.cli import errors
from msharefs.cli.main import COMMANDS, cli
from tests.helpers.mount import ROOT

MANUAL = (ROOT / "docs/man/mshare.1.md").read_text()
MOUNT_MANUAL = (ROOT / "docs/man/msharefs-mount.8.md").read_text()
# In Markdown two dashes would become one long one.
OPTION = re.compile(r"\*\*\\?(--?[a-z-]+)\*\*")


def section(name: str) -> str:
    """What the manual says of a command."""
    found = re.search(rf"^### {name}\n(.*?)(?=^##|\Z)", MANUAL, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name} has no section"
    return found[1].replace("\\", "")


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_option_of_every_command_is_explained(name: str) -> None:
    """In the section of the command, with no option that it does not have."""
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = [each for each in command.params if isinstance(each, click.Option)]
    told = set(OPTION.findall(section(name))) - {"--"}
    there = {spelling for option in options for spelling in option.opts}
    assert told == there


def test_the_exit_codes_are_those_of_the_code() -> None:
    """Each number, and no other."""
    listed = MANUAL.partition("## Exit status")[2].partition("\n## ")[0]
    told = {
        int(number)
        for line in re.findall(r"^[0-9, ]+$", listed, re.MULTILINE)
        for number in line.split(",")
    }
    there = {value for name, value in vars(errors).items() if name.startswith("EXIT_")}
    assert told == there


def test_every_mount_option_is_explained() -> None:
    """Those of the options page, where the defaults stand in a table."""
    page = (ROOT / "docs/options.md").read_text().partition("## Mount options")[2]
    table = page.partition("Options of others")[0]
    names = re.findall(r"`([a-z_]+)=?`", "".join(re.findall(r"^\|([^|]+)\|", table, re.MULTILINE)))
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"\*\*{name}=?\*\*", MOUNT_MANUAL)] == []
