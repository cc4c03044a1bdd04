"""What the pages tell people to type is typed, on a machine of its own, as an ordinary user.

Each block of these pages is run, or saved as the file that it is, or it is one of ELSEWHERE
with its reason. A new block that is none of this fails.
"""

from __future__ import annotations

import pytest

from tests.docs import pages
from tests.docs.machine import HOME, Machine
from tests.docs.pages import Block
from tests.helpers.mount import ROOT

pytestmark = [pytest.mark.mount, pytest.mark.root_only("makes a machine of its own: namespaces")]

TUTORIAL, ADMINISTRATION, PORTING = "tutorial.md", "administration.md", "porting.md"
PAGES = (TUTORIAL, ADMINISTRATION, PORTING)

# What is typed for a command of a page, and why not the command itself.
STAND_INS = {
    # The reader's URL is not known here; this tree is what he would get.
    "git clone URL msharefs": f"ln -s {ROOT} msharefs",
}
# Blocks that are lines for a file, by their first line, with the file.
APPENDED = dict.fromkeys(
    [
        "msharefs  /mnt/mshare  msharefs  size=512M,mode=1777  0  0",
        "msharefs  /home/ann/regions  fuse.msharefs  user,noauto,size=64M  0  0",
    ],
    "/etc/fstab",
)
# Blocks that cannot be typed here, by their first line: why, and who looks at them instead.
ELSEWHERE = {
    "cp packaging/msharefs@.service /etc/systemd/system/": "no systemd runs; test_units.py",
    "MSHAREFS_OPTIONS=size=64G,mode=0755": "a line for the unit; test_units.py",
    "# systemctl edit msharefs@mnt-mshare.service": "a file for systemd; test_units.py",
    "# a drop-in of the same unit": "the same",
    "docker run -v /mnt/shared:/mnt/shared:rslave IMAGE": "no engine; test_containers.py",
    "docker run --device /dev/fuse --cap-add SYS_ADMIN --security-opt apparmor=unconfined IMAGE": (
        "no engine; test_containers.py"
    ),
}


class Reader:
    """Goes through a page from top to bottom, and does not go on after a failure."""

    def __init__(self, machine: Machine, before: str) -> None:
        """`before` is done first, by root: what the page takes for granted."""
        self._machine = machine
        self._before = before
        self.stuck: Block | None = None

    def follow(self, block: Block) -> None:
        """Do what the block says."""
        if self.stuck is not None:
            pytest.fail(f"not reached: {self.stuck} failed", pytrace=False)
        self.stuck = block
        if self._before:
            assert self._machine.run(self._before, root=True)[0] == 0
            self._before = ""
        first = first_line(block)
        if block.language in ("c", "python"):
            self._machine.save(block.file, block.text)
        elif first in APPENDED:
            words = f"cat >>{APPENDED[first]} <<'END'\n{block.text}END"
            assert self._machine.run(words, root=True) == (0, "")
        elif block.language == "console":
            for step in pages.steps(block):
                self._type(step)
        self.stuck = None

    def _type(self, step: pages.Step) -> None:
        words = STAND_INS.get(step.command, step.command)
        code, output = self._machine.run(words, root=step.root)
        assert code == 0, f"{step.command}\nended with {code}:\n{output}"
        missing = pages.first_missing(step.shown, output)
        assert missing is None, f"{step.command}\ndoes not print {missing!r}:\n{output}"


@pytest.fixture(scope="module")
def readers(machine: Machine) -> dict[str, Reader]:
    """Who has read how far."""
    install = f"make -s -C {ROOT} install-helper"
    # Who ports a program has done the tutorial.
    done = f"{install}; ln -sfn {ROOT} {HOME}/msharefs; umount -q /mnt/mshare; true"
    return {
        TUTORIAL: Reader(machine, ""),
        ADMINISTRATION: Reader(machine, install),
        PORTING: Reader(machine, done),
    }


def first_line(block: Block) -> str:
    """By which exceptions are named."""
    return block.text.partition("\n")[0]


ALL = [block for page in PAGES for block in pages.blocks(page)]


@pytest.mark.parametrize("block", ALL, ids=str)
def test_block_does_what_the_page_says(readers: dict[str, Reader], block: Block) -> None:
    """Commands end with 0 and print what is shown."""
    first = first_line(block)
    if first in ELSEWHERE:
        assert block.language != "console", "what can be typed is typed"
        return
    known = block.language in ("c", "python", "console") or first in APPENDED
    assert known, f"nothing runs {block}, a block of {block.language or 'no language'}"
    readers[block.page].follow(block)


def test_files_that_are_saved_are_used() -> None:
    """Programs have a name, and a command further down has it as well."""
    for number, block in enumerate(ALL):
        if block.language in ("c", "python"):
            assert block.file, f"nothing says how {block} is to be saved"
            later = [other.text for other in ALL[number:] if other.language == "console"]
            assert any(block.file in text for text in later), f"{block.file} is never used"


def test_exceptions_are_of_these_pages() -> None:
    """No exception is left for what is not there any more."""
    lines = {line.removeprefix("$ ") for block in ALL for line in block.text.splitlines()}
    assert [line for line in (*STAND_INS, *APPENDED, *ELSEWHERE) if line not in lines] == []


@pytest.mark.parametrize(
    ("shown", "seen", "same"),
    [
        ("a   64 MiB", "a 64 MiB", True),
        ("a 64 MiB", "b 64 MiB", False),
        ("a 64 MiB", "a 64 KiB", False),
        ("64 MiB", "6 MiB", False),
        ("76 MiB touched", "100 MiB touched", True),
        ("after 8 ms", "after 80 ms", True),
        ("8,235 7f6dd5600000", "417 7f00aa600000", True),
        ("2097152", "4096", False),
        ("2097152", "2097153", False),
        ("version 0.1.0", "version 1.12.3", True),
        ("one two", "one", False),
    ],
)
def test_numbers_have_some_room(shown: str, seen: str, *, same: bool) -> None:
    """Words are exact, sizes in bytes are exact, other numbers are near."""
    assert pages.alike(shown, seen) is same


def test_shown_lines_come_in_order() -> None:
    """Lines between them do not matter, missing and swapped ones do."""
    output = "one\ntwo\nthree\n"
    assert pages.first_missing(["one", "three"], output) is None
    assert pages.first_missing(["...", "two"], output) is None
    assert pages.first_missing(["three", "one"], output) == "one"
    assert pages.first_missing(["four"], output) == "four"
