"""What `make demo` shows to who has neither root nor sudo."""

from __future__ import annotations

import re
import sys

import pytest

from tests.docs.machine import Machine
from tests.helpers.mount import ROOT

pytestmark = [pytest.mark.mount, pytest.mark.root_only("makes a machine of its own: namespaces")]


def test_an_ordinary_user_sees_what_is_saved(machine: Machine) -> None:
    """Page tables are smaller than plain memory's, or a line says why; nothing is left."""
    code, output = machine.run(f"{sys.executable} {ROOT}/scripts/demo.py --data direct")
    assert code == 0, output
    assert "nothing is left" in output
    weighed = re.findall(r"^ +(plain /dev/shm|msharefs) +([0-9,]+) KiB", output, re.MULTILINE)
    plain, region = (int(kib.replace(",", "")) for _, kib in weighed)
    assert region < plain / 8 or "not in pages of 2 MiB: " in output, output


def test_who_asks_for_what_takes_root_is_told(machine: Machine) -> None:
    """In a sentence, with what would work."""
    code, output = machine.run(f"{sys.executable} {ROOT}/scripts/demo.py --data passthrough")
    assert (code, output.count("\n")) == (1, 1)
    assert "make demo DATA=direct" in output
