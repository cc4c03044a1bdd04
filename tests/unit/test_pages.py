"""What the pages promise without a mount: links, names of metrics, and who runs their commands."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from msharefs.prometheus import exposition
from tests.docs.pages import blocks
from tests.docs.test_pages import PAGES
from tests.helpers.mount import ROOT
from tests.unit.test_prometheus import STATUS

MONITORING = ROOT / "packaging" / "monitoring"
REGION = dict.fromkeys(
    ("size", "mapped", "reserved", "mappings", "open_handles", "maps", "unmaps"), 1
)
LINK = re.compile(r"\]\(([^)#]+)(?:#([^)]*))?\)")
HEADING = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)
PICTURE = re.compile(r'(?:src|srcset)="([^"]+)"')

# Commands of the other pages, by the first line of their block, and who runs them.
RUN_BY = {
    "make deb": "scripts/try_packages",
    "python3 -m venv /opt/msharefs": "scripts/try_packages",
    "make setup                   # system packages that are missing, and an environment in .venv": (
        "tests/docs/test_pages.py, from the tutorial"
    ),
    "getfattr --only-values -n user.msharefs.status /mnt/mshare": "needs the package attr",
    "grep VmPTE /proc/PID/status                    # all page tables of a process": (
        "PID is the reader's"
    ),
    "pip install --require-hashes -r requirements-build.lock": ".ci/run",
}


def links(page: Path) -> Iterator[tuple[str, str]]:
    """What a page of Markdown refers to in this tree, and to which heading there."""
    for target, anchor in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            yield target, anchor


def anchors(page: Path) -> set[str]:
    """What can follow a page's name after "#": its headings, as Sphinx and GitHub make them."""
    headings = HEADING.findall(page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("page", ["README.md", "CHANGELOG.md"])
def test_links_of_pages_outside_of_the_documents_lead_somewhere(page: str) -> None:
    """Sphinx looks at the others."""
    found = list(links(ROOT / page))
    missing = [target for target, _ in found if not (ROOT / target).exists()]
    assert missing == []
    nowhere = [link for link in found if link[1] and link[1] not in anchors(ROOT / link[0])]
    assert nowhere == []


def test_pictures_of_the_pages_are_there() -> None:
    """Sphinx does not look into what is HTML already."""
    docs = ROOT / "docs"
    found = [
        (page.name, name)
        for page in sorted(docs.glob("*.md"))
        for name in PICTURE.findall(page.read_text(encoding="utf-8"))
    ]
    assert len(found) > 10
    assert [name for _, name in found if not (docs / name).is_file()] == []


def test_the_readme_is_one_screen() -> None:
    """Who wants more follows a link."""
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 45


def test_commands_of_pages_are_run_by_somebody() -> None:
    """A page whose commands no test types says where they are run instead."""
    found = []
    for page in sorted((ROOT / "docs").glob("*.md")):
        if page.name not in PAGES:
            found += [
                block.text.partition("\n")[0]
                for block in blocks(page.name)
                if block.language in {"sh", "console"}
            ]
    assert sorted(found) == sorted(RUN_BY)


def published() -> set[str]:
    """Every name that a mount publishes, with what a histogram makes of it."""
    counter = {"count": 1, "errors": 0, "seconds": 0.5, "buckets": {"0.1": 1}}
    status: dict[str, Any] = {
        **STATUS,
        "user_limits": dict.fromkeys(STATUS["user_limits"], 1),
        "operations": {"OPEN": counter},
        "by_region": [{"path": b"/r", **REGION}],
    }
    return {line.partition("{")[0] for line in exposition(status).splitlines()}


@pytest.mark.parametrize("file", ["alerts.yml", "dashboard.json"])
def test_files_for_monitoring_name_metrics_that_there_are(file: str) -> None:
    """A rule about a name that nobody publishes never fires."""
    names = set(re.findall(r"msharefs_[a-z_]+", (MONITORING / file).read_text(encoding="utf-8")))
    assert len(names) > 5
    assert names - published() == set()


def test_the_dashboard_is_json_without_two_panels_of_one_number() -> None:
    """Else the one that is imported lacks some."""
    panels = json.loads((MONITORING / "dashboard.json").read_text(encoding="utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 5
    assert all(target["expr"] for panel in panels for target in panel["targets"])


def names_in_table(page: str) -> set[str]:
    """Names of metrics in the tables of a page. `_used_bytes` after `msharefs_memory_size_bytes` is
    whatever begins as the latter and ends so, beyond the prefix that all have."""
    found = set()
    for line in (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines():
        first = ""
        for word in re.findall(r"`((?:msharefs)?_[a-z_]+)`", line if line[0:1] == "|" else ""):
            first = first if word[0] == "_" else word
            steps = [first[: end.start()] for end in re.finditer("_", first)][1:]
            found |= {step + word for step in steps} if word[0] == "_" else {word}
    return found


def test_every_metric_is_on_the_page() -> None:
    """In full, or by its end where several in a row begin alike."""
    parts = ("_bucket", "_sum", "_count", "_created")
    names = {name for name in published() if name[0] != "#" and not name.endswith(parts)}
    assert len(names) > 30
    assert names - names_in_table("monitoring.md") == set()


@pytest.mark.parametrize("page", ["monitoring.md", "administration.md"])
def test_pages_name_metrics_that_there_are(page: str) -> None:
    """Those that stand there in full."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    names = {name for name in re.findall(r"\bmsharefs_[a-z_]+", text) if name != "msharefs_attach"}
    histogram = {"msharefs_operation_duration_seconds"}
    assert len(names) > 5
    assert names - published() - histogram == set()
