"""Kinds of command-line arguments that several commands take.

Owns how a word becomes a value; a wrong one is a click.UsageError with one sentence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from msharefs import notation

if TYPE_CHECKING:
    _IntType = click.ParamType[int]
    _StrType = click.ParamType[str]
else:
    # Older versions of click know no such brackets.
    _IntType = _StrType = click.ParamType


class SizeType(_IntType):
    """A number of bytes, written with or without a unit."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read "64M"; a number passes."""
        if isinstance(value, int):
            return value
        try:
            return notation.parse_size(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ModeType(_IntType):
    """Permission bits, in octal."""

    name = "mode"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read "0660"; a number passes."""
        if isinstance(value, int):
            return value
        try:
            return notation.parse_mode(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ProtType(_StrType):
    """A protection: letters of "rwx", or "none"."""

    name = "prot"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> str:
        """Read "rw"; "none" becomes the empty protection."""
        text = str(value)
        if text == "none":
            return ""
        try:
            notation.prot_bits(text)
        except ValueError:
            self.fail(f"'{text}' is not a protection such as r, rw, rwx or none", param, ctx)
        return text


SIZE = SizeType()
MODE = ModeType()
PROT = ProtType()

# Completed by shells as files and directories. Whether they exist and may be read is for the mount
# to say, in its own words.
REGION = click.Path(path_type=str, readable=False)
FILE = click.Path(path_type=str, readable=False, dir_okay=False, allow_dash=True)
DIRECTORY = click.Path(path_type=str, readable=False, file_okay=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes in bytes.")
