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


def ids_of_the_document() -> list[str]:
    """The ids in the first column of the tables, in order."""
    text = (ROOT / "docs" / "semantics.md").read_text()
    return re.findall(r"^\| ([A-Z]\d+) \|", text, flags=re.MULTILINE)


def rules_of_the_document() -> set[str]:
    """The same, each once."""
    return set(ids_of_the_document())


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


def test_no_two_rules_have_the_same_id() -> None:
    """A test that names it would keep the one and seem to keep the other."""
    ids = ids_of_the_document()
    assert sorted(ids) == sorted(set(ids))


def differences() -> Iterator[tuple[str, str]]:
    """Each row of the page of differences: its ids, and what it says."""
    text = (ROOT / "docs" / "differences.md").read_text()
    for ids, row in re.findall(r"^\| ([A-Z]\d+(?:, [A-Z]\d+)*) \|(.*)$", text, flags=re.MULTILINE):
        for rule in ids.split(", "):
            yield rule, row


def test_differences_are_marked_on_both_pages() -> None:
    """A rule that says *differs* has a row with the reason, and a row is of a rule that is there."""
    text = (ROOT / "docs" / "semantics.md").read_text()
    marked = set(re.findall(r"^\| ([A-Z]\d+) \|.*\*differs\*", text, flags=re.MULTILINE))
    explained = {rule for rule, _ in differences()}
    assert marked - explained == set()
    assert explained - rules_of_the_document() == set()


def test_every_rule_is_named_by_a_test() -> None:
    """A row of the document without a test is a promise that nobody keeps."""
    assert rules_of_the_document() - set(named_rules()) == set(UNTESTED)


def test_every_named_rule_exists() -> None:
    """A test that names a rule which the document does not have is out of date."""
    unknown = {rule: tests for rule, tests in named_rules().items() if RULE.fullmatch(rule)}
    for rule in rules_of_the_document():
        unknown.pop(rule, None)
    assert not unknown
