"""The layering rules hold, and the tools that say so see it when one is broken."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

LINTER = "from importlinter.cli import lint_imports_command; lint_imports_command()"

RINGS = """
import graphlib, sys, grimp
graph = grimp.build_graph("msharefs", cache_dir=None)
modules = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
try:
    graphlib.TopologicalSorter(modules).prepare()
except graphlib.CycleError as ring:
    sys.exit(" -> ".join(ring.args[1]))
"""
"""Ends with a ring of imports among all modules, packages too, if there is one."""

BREAKS = [
    ("abi", "abi.py", "import msharefs.core.errors"),
    ("linux", "linux/syscalls.py", "import msharefs.client.errors"),
    ("notation", "notation.py", "import msharefs.client.errors"),
    ("core", "core/ledger.py", "import trio"),
    ("core", "core/layout.py", "import msharefs.memory.segment"),
    ("core", "core/checks.py", "import msharefs.fuse.messages"),
    ("memory", "memory/segment.py", "import msharefs.core.layout"),
    ("files", "files/callers.py", "import msharefs.core.ports"),
    ("files-processes", "files/helper.py", "import trio"),
    ("fuse", "fuse/control.py", "import msharefs.memory.private"),
    ("protocol", "fuse/messages.py", "import msharefs.core.errors"),
    ("client", "client/region.py", "import msharefs.core.layout"),
    ("inspect", "inspect/listing.py", "import msharefs.cli.formatting"),
    ("inspect", "inspect/host_memory.py", "import rich.text"),
    ("preload", "preload/collector.py", "import msharefs.core.layout"),
    ("cli", "cli/listing.py", "import msharefs.memory.segment"),
    ("mshare", "cli/listing.py", "import msharefs.daemon.options"),
    ("floors", "client/errors.py", "import msharefs.inspect.mounts"),
    ("way", "fuse/names.py", "import msharefs.fuse.switchboard"),
    ("change", "core/tables.py", "import msharefs.core.manager"),
    ("circles", "client/errors.py", "import msharefs.client.region"),
    ("circles", "client/errors.py", "import msharefs.shared_memory"),
]
"""A contract, and an import too many that breaks it: contract, module, line."""


def contracts() -> dict[str, dict[str, Any]]:
    """The contracts of pyproject.toml by their ids."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["id"]: contract for contract in settings["contracts"]}


def run(directory: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A Python program that finds the package in this directory."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
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


def add_line(copy: Path, module: str, line: str) -> str:
    """Append a line to a module of the package; its dotted name."""
    path = copy / "msharefs" / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    return "msharefs." + module.removesuffix(".py").replace("/", ".")


def test_every_contract_is_kept(copy: Path) -> None:
    """All of those in pyproject.toml, and there are some."""
    result = run(copy, LINTER)
    assert result.returncode == 0, result.stdout + result.stderr
    kept = re.search(r"Contracts: (\d+) kept, 0 broken", result.stdout)
    assert kept is not None, result.stdout
    assert int(kept[1]) == len(contracts()) > 5


@pytest.mark.parametrize(("contract", "module", "line"), BREAKS)
def test_a_broken_contract_is_reported(copy: Path, contract: str, module: str, line: str) -> None:
    """One import too many: the tool fails, and names the contract."""
    add_line(copy, module, line)
    result = run(copy, LINTER, "--contract", contract)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Contracts: 0 kept, 1 broken" in result.stdout
    assert contracts()[contract]["name"] in " ".join(result.stdout.split())


def test_every_contract_is_broken_by_a_test() -> None:
    """Who adds a contract shows that it can be broken, and that the tool sees it."""
    assert {contract for contract, _, _ in BREAKS} == set(contracts())


def test_no_module_imports_itself_by_way_of_others(copy: Path) -> None:
    """No ring of imports, for types alone neither."""
    result = run(copy, RINGS)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("client/errors.py", "from msharefs.client.region import Region"),
        ("client/errors.py", "if TYPE_CHECKING:\n    from msharefs import Region"),
        ("inspect/copier.py", "def late():\n    import msharefs.cli.archive"),
    ],
)
def test_a_ring_of_imports_is_found(copy: Path, module: str, line: str) -> None:
    """Wherever in a module the import stands, and through a package's own names too."""
    dotted = add_line(copy, module, line)
    result = run(copy, RINGS)
    assert result.returncode == 1
    assert dotted in result.stderr


@pytest.mark.parametrize("room", ["core", "files", "fuse", "daemon"])
def test_the_page_has_every_module_of_a_room(room: str) -> None:
    """docs/design/index.md: a table for each of the large rooms, with nothing that is gone."""
    page = (ROOT / "docs" / "design" / "index.md").read_text()
    table = page.partition(f"### In {room}\n")[2].partition("\n#")[0]
    named = set(re.findall(r"`(\w+\.py)`", table))
    modules = (ROOT / "msharefs" / room).rglob("*.py")
    assert named == {module.name for module in modules if module.name != "__init__.py"}
