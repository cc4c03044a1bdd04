"""The layering rules hold, and the tool that says so sees it when one is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

LINTER = "from importlinter.cli import lint_imports; raise SystemExit(lint_imports())"


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """import-linter with the contracts of the pyproject.toml there."""
    return subprocess.run(
        [sys.executable, "-c", LINTER],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, to be broken."""
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(ROOT / "msharefs", tmp_path / "msharefs", ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept(copy: Path) -> None:
    """All of those in pyproject.toml, and there are some."""
    result = lint(copy)
    assert result.returncode == 0, result.stdout + result.stderr
    kept = re.search(r"Contracts: (\d+) kept, 0 broken", result.stdout)
    assert kept is not None, result.stdout
    contracts = (ROOT / "pyproject.toml").read_text().count("[[tool.importlinter.contracts]]")
    assert int(kept[1]) == contracts > 5


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("core/ledger.py", "import trio"),
        ("core/layout.py", "import msharefs.memory.segment"),
        ("core/checks.py", "import msharefs.fuse.messages"),
        ("memory/segment.py", "import msharefs.core.layout"),
        ("fuse/control.py", "import msharefs.memory.private"),
        ("fuse/messages.py", "import msharefs.core.errors"),
        ("abi.py", "import msharefs.core.errors"),
        ("client/region.py", "import msharefs.core.layout"),
    ],
)
def test_a_broken_contract_is_reported(copy: Path, module: str, line: str) -> None:
    """One import too many: the tool fails, and names the module."""
    path = copy / "msharefs" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    result = lint(copy)
    assert result.returncode != 0
    dotted = "msharefs." + module.removesuffix(".py").replace("/", ".")
    assert "BROKEN" in result.stdout
    assert dotted in result.stdout
