"""Every rule of docs/semantics.md has a test that names it, and no test names a rule that is none."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RULE = re.compile(r"[A-Z]\d+")

UNTESTED = {
    "M12": "swap needs a swap device, which a test must not switch on for the whole machine",
    "P1": "needs a kernel before 6.6",
}


def rules_of_the_document() -> set[str]:
    """The ids in the first column of the tables."""
    text = (ROOT / "docs" / "semantics.md").read_text()
    return set(re.findall(r"^\| ([A-Z]\d+) \|", text, flags=re.MULTILINE))


def rules_of(docstring: str) -> Iterator[str]:
    """The ids before the colon: "C7, C9: ..." or "C1 to C4: ..."."""
    head, colon, _ = docstring.partition(": ")
    if not colon or not re.fullmatch(r"[A-Z]\d+((, | to )[A-Z]\d+)*", head):
        return
    for part in head.split(", "):
        first, _, last = part.partition(" to ")
        for number in range(int(first[1:]), int((last or first)[1:]) + 1):
            yield f"{first[0]}{number}"


def named_rules() -> dict[str, set[str]]:
    """For each id the functions in tests/ whose docstring names it."""
    found: dict[str, set[str]] = {}
    for path in (ROOT / "tests").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith(("test_", "check_")):
                for rule in rules_of(ast.get_docstring(node) or ""):
                    found.setdefault(rule, set()).add(f"{path.name}::{node.name}")
    return found


def test_every_rule_is_named_by_a_test() -> None:
    """A row of the document without a test is a promise that nobody keeps."""
    assert rules_of_the_document() - set(named_rules()) == set(UNTESTED)


def test_every_named_rule_exists() -> None:
    """A test that names a rule which the document does not have is out of date."""
    unknown = {rule: tests for rule, tests in named_rules().items() if RULE.fullmatch(rule)}
    for rule in rules_of_the_document():
        unknown.pop(rule, None)
    assert not unknown
