"""Which mount an ordinary user's programs take where nobody names one, beside root's mount."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.helpers import ordinary_user
from tests.helpers.fixtures import MakeMount
from tests.helpers.mount import ROOT

pytestmark = [pytest.mark.mount, pytest.mark.root_only("mounts as root and becomes a user")]

SECONDS = 60.0

PROGRAM = """
set -e
directory_of_a_block() {
    "$PYTHON" -P -c '
from msharefs.shared_memory import SharedMemory
with SharedMemory(create=True, size=100) as block:
    print(block.directory)
    block.unlink()
'
}
mkdir "$HOME/own"
directory_of_a_block
"$PYTHON" -P -m msharefs.cli.mount msharefs "$HOME/own" -o size=16M 2>"$HOME/complaints"
directory_of_a_block
fusermount3 -u "$HOME/own"
directory_of_a_block
"""


def test_user_has_his_own_mount_or_roots(make_mount: MakeMount, tmp_path: Path) -> None:
    """Root's while it is the only one, his own as soon as there is one, though it is younger."""
    roots = make_mount("size=8M")
    log = tmp_path / "log"
    code = ordinary_user.run(
        ["/usr/bin/env", f"PYTHON={sys.executable}", f"PYTHONPATH={ROOT}", "sh", "-c", PROGRAM],
        shown=[ROOT, Path(sys.prefix), Path(sys.base_prefix), roots.path],
        log=log,
        seconds=SECONDS,
    )
    own = str(ordinary_user.HOME / "own")
    assert (code, log.read_text().split()) == (0, [str(roots.path), own, str(roots.path)])
