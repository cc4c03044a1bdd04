"""What `import msharefs` gives: the public names, all of them, and nothing of how they come."""

from __future__ import annotations

import pydoc
import re
import subprocess
import sys

import pytest

import msharefs


def test_every_public_name_is_there() -> None:
    """Each comes from its module when it is first used, and is of the library."""
    for name in msharefs.__all__:
        assert getattr(msharefs, name).__module__.startswith("msharefs.client.")
    with pytest.raises(AttributeError, match="has no attribute 'Regions'"):
        msharefs.Regions  # noqa: B018 - the look is the test


def test_dir_shows_public_names_alone() -> None:
    """And what Python itself wants to find."""
    shown = [name for name in dir(msharefs) if not name.startswith("__")]
    assert shown == sorted(msharefs.__all__)


@pytest.mark.parametrize("thing", [msharefs, msharefs.Region, msharefs.Attachment])
def test_help_shows_no_inner_words(thing: object) -> None:
    """Nobody reads of names that begin with an underscore, nor of modules that we import."""
    text = pydoc.plain(pydoc.render_doc(thing))
    words = set(re.findall(r"\w+", text))
    assert words.isdisjoint({"_MODULES", "import_module", "TYPE_CHECKING", "_fd", "_look", "_map"})


def test_import_takes_in_nothing_that_is_not_used() -> None:
    """Neither a module of the library, nor of the daemon, nor NumPy."""
    code = "import sys, msharefs; print([m for m in sys.modules if m.startswith('msharefs.')])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stdout.strip() == "[]"
