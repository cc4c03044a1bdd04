"""What a server keeps of its rights, tried in child processes: there is no way back."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from msharefs.daemon import confinement
from msharefs.daemon.confinement import is_closed, needed
from msharefs.linux import host, rights
from msharefs.linux.proc import status_field
from tests.helpers.users import NOBODY, in_child

ALL = frozenset(range(64))
PR_GET_DUMPABLE, PR_SET_DUMPABLE = 3, 4
AS_ROOT = os.geteuid() == 0


def own_status(*names: bytes) -> list[int]:
    """Fields of /proc/thread-self/status that are numbers in hexadecimal."""
    text = Path("/proc/thread-self/status").read_bytes()
    return [int(status_field(text, name), 16) for name in names]


def is_dumpable() -> bool:
    """PR_GET_DUMPABLE of this process."""
    return bool(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("permitted", "kept"),
    [
        (ALL, {rights.CAP_SYS_ADMIN}),
        (ALL - {rights.CAP_SYS_ADMIN}, set()),
        ({rights.CAP_SETPCAP}, set()),
        (set(), set()),
    ],
)
def test_what_is_needed(permitted: set[int], kept: set[int]) -> None:
    """One capability at most, and none that we have not."""
    assert needed(frozenset(permitted)) == kept


def test_everything_else_is_given_up() -> None:
    """In all five sets, for good, and nobody may read our memory out of a core file."""

    def confined() -> tuple[frozenset[int], list[int], list[int], bool]:
        before = needed(rights.permitted())
        confinement.confine()
        sets = own_status(b"CapPrm", b"CapEff", b"CapBnd")
        others = own_status(b"CapInh", b"CapAmb", b"NoNewPrivs")
        return before, sets, others, is_dumpable()

    expected, (permitted, effective, bounding), others, dumpable = in_child(confined)
    bits = sum(1 << number for number in expected)
    assert (permitted, effective) == (bits, bits)
    assert others == [0, 0, 1]
    if AS_ROOT:
        assert bounding == bits
    assert dumpable is (not host.is_privileged())


def test_a_user_keeps_nothing_and_may_look_into_his_daemon() -> None:
    """He has nothing to give up but new privileges."""
    if not AS_ROOT:
        pytest.skip("the test above is about us")

    def confined() -> tuple[list[int], bool]:
        # Whoever changes his user id is not dumpable before he runs a program.
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
        confinement.confine()
        return own_status(b"CapPrm", b"CapEff", b"NoNewPrivs"), is_dumpable()

    assert in_child(confined, uid=NOBODY) == ([0, 0, 1], True)


def test_rights_for_a_while() -> None:
    """They count again afterwards, after an error too."""

    def used() -> tuple[list[int], list[int]]:
        before = own_status(b"CapPrm", b"CapEff")
        with rights.only(frozenset()):
            during = own_status(b"CapPrm", b"CapEff")
        assert own_status(b"CapPrm", b"CapEff") == before
        with pytest.raises(ZeroDivisionError), rights.only(frozenset()):
            raise ZeroDivisionError
        assert own_status(b"CapPrm", b"CapEff") == before
        return before, during

    (permitted, _), during = in_child(used)
    assert during == [permitted, 0]


def test_directories_of_code(tmp_path: Path) -> None:
    """One that is closed to us matters; one that is missing, and a file, do not."""
    (tmp_path / "zip").write_text("")
    (tmp_path / "open").mkdir()
    (tmp_path / "closed").mkdir(0)
    there = [str(tmp_path / name) for name in ("missing", "zip", "open")]

    def looked_for(directories: list[str]) -> bool:
        with rights.only(frozenset()):
            return is_closed(directories)

    assert not is_closed(there)
    assert not in_child(lambda: looked_for(there))
    if not AS_ROOT:
        assert is_closed([*there, str(tmp_path / "closed")])
        return
    # Root without capabilities is the owner still.
    os.chown(tmp_path / "closed", NOBODY, NOBODY)
    os.chmod(tmp_path / "closed", 0o700)
    assert in_child(lambda: looked_for([*there, str(tmp_path / "closed" / "lib")]))


@pytest.mark.skipif(not AS_ROOT, reason="gives a directory to somebody else")
def test_code_in_somebodys_home_can_be_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with `sudo msharefs-mount` out of an environment in a home directory of mode 0700."""
    home = tmp_path / "home"
    home.mkdir(0o700)
    (home / "module.py").write_text("")
    os.chown(home, NOBODY, NOBODY)
    monkeypatch.setattr("sys.path", [str(home)])

    def kept() -> frozenset[int]:
        confinement.confine()
        (home / "module.py").read_text()
        return rights.permitted()

    assert in_child(kept) == {*needed(rights.permitted()), rights.CAP_DAC_READ_SEARCH}
