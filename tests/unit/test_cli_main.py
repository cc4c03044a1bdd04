"""The command as a whole: help, mistakes, exit codes, how fast it starts."""

from __future__ import annotations

import os
import subprocess
import sys

import click
import pytest

from msharefs import __version__
from msharefs.cli.main import COMMANDS, cli
from tests.cli.tool import Result, command, drawn, environment, mshare
from tests.helpers.mount import ROOT


def test_version() -> None:
    """The package's."""
    assert mshare("--version").ok().out == f"mshare {__version__}\n"


def test_help_names_every_command() -> None:
    """With a short help for each, in 80 columns."""
    text = drawn("--help")
    for name in COMMANDS:
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [name])
        assert len(line.split()) > 1
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str) -> None:
    """It describes itself and all its options, and listings have --json."""
    found = cli.get_command(click.Context(cli), name)
    assert found is not None
    assert found.help
    assert found.get_short_help_str(60)
    for parameter in found.params:
        assert (
            isinstance(parameter, click.Argument) or parameter.help or parameter.name == "interval"
        )
    if name in {"ls", "stat", "ps", "top", "status", "doctor"}:
        assert any(parameter.name == "as_json" for parameter in found.params)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["craete"], "no such command 'craete'"),
        (["create", "x"], "missing argument 'SIZE'"),
        (["create", "x", "64MB"], "'64MB' is not clear"),
        (["create", "x", "many"], "'many' is not a size"),
        (["create", "x", "2M", "--mode", "9"], "'9' is not an octal mode"),
        (["map", "x", "0", "4K", "--prot", "rq"], "'rq' is not a protection"),
        (["ls", "--jsno"], "--jsno"),
        (["ls", "--watch=0"], "0.0"),
        (["completion", "ksh"], "'ksh'"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(arguments: list[str], words: str) -> None:
    """Never a traceback, never a page of usage, and it says where to learn more."""
    sentence = mshare(*arguments).refused(2)
    assert words in sentence
    assert "--help" in sentence


def test_without_a_command_it_shows_the_help() -> None:
    """As an error, because nothing was done."""
    result = mshare()
    assert (result.code, result.out) == (2, "")
    assert result.err == mshare("--help").ok().out


def test_an_unexpected_end_of_a_name_is_shown_safely() -> None:
    """A sentence about an odd path is one line, too."""
    result = mshare("stat", "/no\nsuch\x1b[31m")
    assert result.refused() == "/no\\nsuch\\x1b[31m: No such file or directory"


def imported_by(*arguments: str) -> set[str]:
    """The modules that a run imports."""
    code = f"import sys; sys.argv = ['mshare', *{arguments!r}]; from msharefs.cli import main; main.run(); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        cwd=ROOT,
        timeout=20,
        check=True,
    )
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("arguments", [["--version"], ["rm", "/none"], ["completion", "bash"]])
def test_commands_that_draw_nothing_import_no_drawing(arguments: list[str]) -> None:
    """rich is most of the time that a command takes to start; other commands stay out as well."""
    modules = imported_by(*arguments)
    assert "click" in modules
    assert not {name for name in modules if name.split(".")[0] in {"rich", "pyfuse3", "trio"}}
    assert "msharefs.cli.doctor" not in modules


def test_the_module_and_the_installed_command_are_the_same() -> None:
    """Whichever of them the tests run, it is this source tree's."""
    result = Result(0, "", "")
    assert result.ok() is result
    assert command()[0].endswith("mshare") or command()[-1] == "msharefs.cli.main"


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_whoever_starts_it_may_have_closed_descriptors(closed: str) -> None:
    """The exit code is right all the same."""
    script = f'"$@" --version {closed}; echo $? >&3'
    reader, writer = os.pipe()
    subprocess.run(
        ["bash", "-c", f"exec 3>&{writer}; {script}", "bash", *command()],
        pass_fds=[writer],
        env=environment(),
        capture_output=True,
        timeout=20,
        check=True,
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as codes:
        assert codes.read() == b"0\n"


def test_whoever_starts_it_may_ignore_the_end_of_children() -> None:
    """As many service managers do, and what they start inherits it."""
    done = subprocess.run(
        ["env", "--ignore-signal=CHLD", *command(), "--version"],
        env=environment(),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_what_it_writes_comes_whole_and_in_order() -> None:
    """Through pipes: output and remarks in one of them, and a lot of it."""
    text = mshare("--help").ok().out
    assert text.endswith("\n")
    done = subprocess.run(
        ["bash", "-c", '"$@" rm /a /b 2>&1 | cat; exit ${PIPESTATUS[0]}', "bash", *command()],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert [line.split(":")[1] for line in done.stdout.splitlines()] == [" /a", " /b"]


ENCODINGS = [
    {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    {"LC_ALL": "C", "PYTHONIOENCODING": "latin-1", "PYTHONUTF8": "0"},
    {"LC_ALL": "C.UTF-8"},
]


@pytest.mark.parametrize("variables", ENCODINGS)
@pytest.mark.parametrize("command_name", ["rm", "status"])
def test_a_name_of_any_bytes_ends_in_a_sentence(
    command_name: str, variables: dict[str, str]
) -> None:
    """Whatever the terminal can show, and whatever the locale takes the bytes for."""
    names = ["gr\u00fcn", "\u20ac", "\udcff", "\udce4\r\x1b[31m"]
    paths = [f"/nowhere/{name}" for name in names]
    done = subprocess.run(
        [*command(), command_name, *(paths if command_name == "rm" else paths[-1:])],
        env=environment(**variables),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    lines = done.stderr.split(b"\n")
    assert len(lines) == (5 if command_name == "rm" else 2)
    assert all(line.startswith(b"mshare: /nowhere/") for line in lines[:-1])
    assert b"\x1b" not in done.stderr
