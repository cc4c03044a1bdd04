"""mshare completion: the scripts, and bash really completing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from msharefs.cli.main import COMMANDS
from tests.cli.tool import command, environment, mshare


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_accepted_by_their_shells(shell: str) -> None:
    """Where the shell is there it checks the syntax; the script is about mshare in any case."""
    script = mshare("completion", shell).ok().out
    assert "_MSHARE_COMPLETE" in script
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=script.encode(), timeout=20, check=True)


def completed(directory: Path, *words: str) -> list[str]:
    """What bash offers for the last word."""
    program = directory / "mshare"
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(mshare completion bash)"
        compopt() { :; }
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _mshare_completion mshare
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", *words],
        capture_output=True,
        text=True,
        env=environment(PATH=f"{directory}:/usr/bin:/bin"),
        timeout=20,
        check=True,
    )
    return done.stdout.split()


def test_bash_completes_commands_options_and_choices(tmp_path: Path) -> None:
    """As far as the words that are there allow."""
    assert completed(tmp_path, "mshare", "st") == ["stat", "status"]
    assert set(completed(tmp_path, "mshare", "")) == set(COMMANDS)
    assert completed(tmp_path, "mshare", "ls", "--j") == ["--json"]
    assert completed(tmp_path, "mshare", "completion", "") == ["bash", "zsh", "fish"]
