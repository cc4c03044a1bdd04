"""The locks: what `make setup` installs, each thing in one version, by the hashes of its files."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "requirements-build.lock", "requirements-dev.lock")
PIN = re.compile(r"([a-z0-9.-]+)==(\S+)((?: --hash=sha256:[0-9a-f]{64})+)( ; .*)?")


def pins(name: str) -> dict[str, tuple[str, frozenset[str]]]:
    """The version and the hashes of each package in a lock."""
    text = (ROOT / name).read_text().replace(" \\\n   ", "")
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = PIN.fullmatch(line)
        assert match is not None, f"{name}: {line}"
        assert match[1] not in found
        found[match[1]] = (match[2], frozenset(match[3].split()))
    return found


def normal(requirement: str) -> str:
    """The name in "Name_Of>=1,<2", as locks write it."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


@pytest.mark.parametrize("name", LOCKS)
def test_every_line_has_hashes(name: str) -> None:
    """pip's --require-hashes takes nothing else."""
    assert pins(name)


def test_what_pyproject_asks_for_is_locked() -> None:
    """The daemon's libraries, the tools, and what builds."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    tools = [*groups["dev"], *groups["test"], *groups["docs"]]
    for wanted, name in (
        (project["project"]["dependencies"], "requirements.lock"),
        ([*project["project"]["dependencies"], *tools], "requirements-dev.lock"),
        (groups["build"], "requirements-build.lock"),
    ):
        names = {normal(each) for each in wanted if isinstance(each, str)}
        assert names - set(pins(name)) == set()


def test_one_version_everywhere() -> None:
    """What a user runs is what was tested, and the build changes nothing afterwards."""
    everything = pins("requirements-dev.lock")
    assert pins("requirements.lock").items() <= everything.items()
    building = pins("requirements-build.lock")
    for name in building.keys() & everything.keys():
        assert building[name] == everything[name]


def test_setup_insists_on_hashes() -> None:
    """Each install of the environment, and no build that downloads what is not locked."""
    text = (ROOT / "scripts" / "setup").read_text()
    installs = re.findall(r"pip install.*|\"\$\{pip\[@\]\}\".*", text)
    assert installs[0].startswith("pip install -qq --no-build-isolation --no-deps --editable")
    assert "--require-hashes" in installs[1]
    assert installs[2:] == [
        '"${pip[@]}" --requirement requirements-build.lock',
        '"${pip[@]}" --no-build-isolation --requirement requirements-dev.lock',
    ]
