"""Kinds of command-line arguments that several commands take.

Owns how a word becomes a value; a wrong one is a click.UsageError with one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from msharefs import notation

if TYPE_CHECKING:
    _IntType = click.ParamType[int]
    _StrType = click.ParamType[str]
else:
    # Older versions of click know no such brackets.
    _IntType = _StrType = click.ParamType


class NumberType(_IntType):
    """A number in a notation of its own."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        """`parse` reads a word, or raises ValueError with the sentence for the user."""
        self.name = name
        self._parse = parse

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        """Read a word; a number, as a default may be, passes."""
        if isinstance(value, int):
            return value
        try:
            return self._parse(str(value))
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


SIZE = NumberType("size", notation.parse_size)
"""A number of bytes, with or without a unit."""
MODE = NumberType("mode", notation.parse_mode)
"""Permission bits, in octal."""
PROT = ProtType()

# Completed by shells as files and directories. Whether they exist and may be read is for the mount
# to say, in its own words.
REGION = click.Path(path_type=str, readable=False)
FILE = click.Path(path_type=str, readable=False, dir_okay=False, allow_dash=True)
DIRECTORY = click.Path(path_type=str, readable=False, file_okay=False)

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON; sizes in bytes.")
