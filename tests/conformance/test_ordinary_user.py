"""The rules once more, as an ordinary user keeps them: on his own mounts, without root.

They are the same tests, run by him in sessions of their own; every result counts here.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.helpers import ordinary_user
from tests.helpers.mount import MORE_OPTIONS, ROOT

pytestmark = [
    pytest.mark.mount,
    pytest.mark.slow,
    pytest.mark.root_only("it is root who starts the user's sessions"),
    pytest.mark.usefixtures("requires_fuse"),
]

SUITE = ("tests/conformance", "tests/mount")
LEFT_OUT = {
    "tests/conformance/test_rules_have_tests.py": "is about the documents",
    "tests/mount/test_examples.py": "is about programs, which know nothing of planes and users",
    "tests/mount/test_leaks.py": "is about the daemon's housekeeping, which no client sees",
    "tests/mount/test_library_docs.py": "is about the documents",
    "tests/mount/test_usage.py": "is about the command line",
}
"""Modules that say nothing about a client's rules, and why."""

AUTO, DIRECT, ATTACHED = "auto", "direct", "attached"
PLANES = {AUTO: "data=auto", DIRECT: "data=direct", ATTACHED: "data=direct"}
CLAIMS = "tests/direct/test_claims.py"
SUITES = {
    AUTO: (*SUITE, CLAIMS),
    DIRECT: ("tests/direct", f"--ignore={CLAIMS}"),
    ATTACHED: tuple(
        f"tests/mount/test_{name}.py"
        for name in (
            *("access", "access_special", "accounting", "automap"),
            *("ioctl_map", "ioctl_unmap", "killed_clients", "names"),
        )
    ),
}
"""What is run on mounts of each kind. One with `auto` is paged but for what is claimed, so that all rules
of the paged plane hold; what the direct one gives is beside the rules of all, and those rules once more where
memory is attached by it."""
CHOICES = {AUTO: (), DIRECT: (), ATTACHED: ("-k", "[direct")}
"""Which of their tests."""
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider")
SECONDS = 480.0
SHOWN, TAIL = 20, 80
"""How many tests and how many lines of a session's output a failure shows."""


@dataclass(frozen=True)
class Session:
    """What a session of the user's did: how it ended, each test's result, what it wrote."""

    code: int | None
    results: dict[str, str]
    output: str

    def __repr__(self) -> str:
        """Short, because pytest shows it where an assertion fails."""
        return f"<session of {len(self.results)} tests that ended with {self.code}>"

    def tail(self) -> str:
        """The end of the output, for a failure's text."""
        return "\n".join(["the session wrote, at last:", *self.output.splitlines()[-TAIL:]])


def results_of(report: Path) -> dict[str, str]:
    """ "passed", "failed", "error" or "skipped" for each test of a JUnit file."""
    if not report.exists():
        return {}
    words = {"failure": "failed", "error": "error", "skipped": "skipped"}
    found = {}
    for case in ET.parse(report).getroot().iter("testcase"):
        troubles = [words[child.tag] for child in case if child.tag in words]
        found[f"{case.get('classname')}.{case.get('name')}"] = (*troubles, "passed")[0]
    return found


@pytest.fixture(scope="module")
def wanted() -> dict[str, dict[str, set[str]]]:
    """The tests that root collects of each kind without those that need root, by module."""
    return {kind: collected(kind, suite) for kind, suite in SUITES.items()}


def collected(kind: str, suite: tuple[str, ...]) -> dict[str, set[str]]:
    """Those of one kind."""
    ignored = [f"--ignore={module}" for module in LEFT_OUT]
    done = subprocess.run(
        [*PYTEST, "-q", "--collect-only", "-m", "not root_only", *CHOICES[kind], *ignored, *suite],
        cwd=ROOT,
        env={**os.environ, MORE_OPTIONS: PLANES[kind]},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, set[str]] = {}
    for module, name in re.findall(r"^(tests/\S+\.py)::(.+)$", done.stdout, flags=re.MULTILINE):
        words = [module.removesuffix(".py").replace("/", "."), name.replace("::", ".")]
        found.setdefault(module, set()).add(".".join(words))
    return found


def run_session(kind: str, modules: list[str], results: Path) -> Session:
    """The user's run of these modules on mounts of this kind, with its files in this directory."""
    # He writes here, and here alone outside his own world.
    results.chmod(0o777)
    report, log = results / "report.xml", results.with_suffix(".log")
    code = ordinary_user.run(
        [
            "/usr/bin/env",
            f"{MORE_OPTIONS}={PLANES[kind]}",
            *PYTEST,
            "--tb=short",
            f"--junitxml={report}",
            *CHOICES[kind],
            *modules,
        ],
        shown=[ROOT, Path(sys.prefix), Path(sys.base_prefix), results],
        log=log,
        seconds=SECONDS,
    )
    return Session(code, results_of(report), log.read_text(errors="replace"))


@pytest.fixture(scope="module")
def sessions(
    wanted: dict[str, dict[str, set[str]]], tmp_path_factory: pytest.TempPathFactory
) -> list[Session]:
    """The whole suite, in sessions side by side, because it waits a lot."""
    modules = sorted(wanted[AUTO], key=os.path.basename)
    half = len(modules) // 2
    parts = [modules[:half], modules[half:], sorted(wanted[DIRECT]), sorted(wanted[ATTACHED])]
    places = [tmp_path_factory.mktemp("ordinary") for _ in parts]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(run_session, (AUTO, AUTO, DIRECT, ATTACHED), parts, places))


def test_sessions_end_well_and_leave_nothing(sessions: list[Session]) -> None:
    """Exit code 0: no failure, no process, no mount, no segment, no state of his."""
    for session in sessions:
        assert session.code == 0, session.tail()


def test_every_test_that_does_not_need_root_passes(
    sessions: list[Session], wanted: dict[str, dict[str, set[str]]]
) -> None:
    """All that was collected ran there, without a skip, and passed; so did nothing else."""
    names = [name for modules in wanted.values() for tests in modules.values() for name in tests]
    results = dict.fromkeys(names, "did not run")
    assert results
    for session in sessions:
        assert set(session.results) <= set(results)
        results |= session.results
    bad = sorted(f"{name}: {result}" for name, result in results.items() if result != "passed")
    tails = [session.tail() for session in sessions if session.code != 0]
    assert not bad, "\n".join([f"{len(bad)} did not pass:", *bad[:SHOWN], *tails])
