"""What this thread may do, and giving it up: capabilities, new privileges, being dumped.

Owns the system calls for it (capabilities(7), prctl(2)). Rights belong to a thread: what is
given up here is given up by threads that are started afterwards as well, and by no others.
Which rights somebody needs is not decided here.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from msharefs.linux import syscalls

CAP_DAC_READ_SEARCH = 2
CAP_KILL = 5
CAP_SETGID = 6
CAP_SETUID = 7
CAP_SETPCAP = 8
CAP_SYS_PTRACE = 19
CAP_SYS_ADMIN = 21

_PR_SET_DUMPABLE = 4
_PR_CAPBSET_READ = 23
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_WORD_BITS = 32
_WORD = (1 << _WORD_BITS) - 1
_NOBODY = -1
"""No user's number: who asks for it changes nothing."""


class _Header(ctypes.Structure):
    """struct __user_cap_header_struct; pid 0 is the calling thread."""

    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Words(ctypes.Structure):
    """struct __user_cap_data_struct: 32 capabilities of each set."""

    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


_HEADER = _Header(_CAPABILITY_VERSION_3, 0)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.prctl.argtypes = (ctypes.c_int, *(ctypes.c_ulong,) * 4)
_libc.capget.argtypes = (ctypes.POINTER(_Header), ctypes.POINTER(_Words))
_libc.capset.argtypes = (ctypes.POINTER(_Header), ctypes.POINTER(_Words))


def permitted() -> frozenset[int]:
    """The numbers of the capabilities that we have, in our own user namespace."""
    words = (_Words * 2)()
    syscalls.check(_libc.capget(_HEADER, words), "capget")
    bits = words[0].permitted | words[1].permitted << _WORD_BITS
    return frozenset(number for number in range(2 * _WORD_BITS) if bits >> number & 1)


@contextmanager
def only(numbers: frozenset[int]) -> Iterator[None]:
    """For a while no other capability counts. Those must be permitted. Raises OSError."""
    everything = permitted()
    _set(effective=numbers, permitted=everything)
    try:
        yield
    finally:
        _set(effective=everything, permitted=everything)


def keep_capabilities(numbers: frozenset[int]) -> None:
    """Give up all other capabilities, in every set: no program that is run can have them
    again. Those to keep must be permitted. Raises OSError.

    Without CAP_SETPCAP, as an ordinary user, the bounding set stays: it gives nothing to
    whoever may have no new privileges.
    """
    _prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    if CAP_SETPCAP in permitted():
        for number in range(2 * _WORD_BITS):
            if number not in numbers and _libc.prctl(_PR_CAPBSET_READ, number, 0, 0, 0) == 1:
                _prctl(_PR_CAPBSET_DROP, number)
    _set(effective=numbers, permitted=numbers)


def touch_files_as(uid: int, gid: int, groups: Sequence[int]) -> None:
    """From now on files are touched as that user with these groups does (setfsuid(2)); all else
    stays, so that he can neither signal this process nor look into it. OSError (EPERM) where
    that may not be."""
    if CAP_SETGID in permitted():
        os.setgroups(groups)
    for change, number in ((_libc.setfsgid, gid), (_libc.setfsuid, uid)):
        change(number)
        # It returns what it was before, and that alone.
        if change(_NOBODY) != number:
            raise OSError(errno.EPERM, f"cannot touch files as user {uid}")


def forbid_new_privileges() -> None:
    """From now on no set-user-ID program, and none with capabilities, gives us its rights."""
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def forbid_dumps() -> None:
    """No core file of this process is written, and only CAP_SYS_PTRACE looks into it."""
    _prctl(_PR_SET_DUMPABLE, 0)


def _set(*, effective: frozenset[int], permitted: frozenset[int]) -> None:
    """Nothing is inherited by programs that are run."""
    in_force, kept = (sum(1 << number for number in each) for each in (effective, permitted))
    words = (_Words * 2)(
        _Words(in_force & _WORD, kept & _WORD, 0),
        _Words(in_force >> _WORD_BITS, kept >> _WORD_BITS, 0),
    )
    syscalls.check(_libc.capset(_HEADER, words), "capset")


def _prctl(option: int, value: int) -> None:
    syscalls.check(_libc.prctl(option, value, 0, 0, 0), "prctl")
