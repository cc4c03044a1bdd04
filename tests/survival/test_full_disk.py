"""The file system of the state directory is full: ENOSPC for who asks for more, and nothing else.

Each scene (full_disk.py) runs in a mount namespace of its own, where /run is a small tmpfs that
nobody else uses.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.helpers import mount
from tests.survival.full_disk import SCENES

pytestmark = [
    pytest.mark.mount,
    pytest.mark.root_only("only root has a mount namespace in which /run is small"),
]
SIZES = {"passthrough": "3M", "paged,x-msharefs.without=passthrough:resend": "8M"}
"""What /run holds. Without resend requests are kept there, too."""


@pytest.mark.parametrize("options", SIZES, ids=["passthrough", "without resend"])
@pytest.mark.parametrize("scene", SCENES)
def test_a_full_disk_hurts_only_who_asks(requires_fuse: None, scene: str, options: str) -> None:
    """See the scene."""
    script = f'mount -t tmpfs -o size={SIZES[options]} none /run && exec "$@"'
    done = subprocess.run(
        [
            *("unshare", "-m", "sh", "-c", script, "sh"),
            *(sys.executable, "-m", "tests.survival.full_disk", scene, f"data={options}"),
        ],
        cwd=mount.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
