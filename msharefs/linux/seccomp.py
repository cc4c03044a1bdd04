"""A filter of system calls for this thread and those that it starts: libseccomp, by ctypes.

Owns the conversation with the library, which knows the numbers of each architecture, and the
form of a rule. Which calls are allowed is not decided here.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from dataclasses import dataclass

LIBRARY = "libseccomp.so.2"

# seccomp.h
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_MASKED_EQ = 7
_OPTIMIZE = 8
_BINARY_TREE = 2
_LARGEST_WORD = (1 << 64) - 1


class FilterError(Exception):
    """There is no filter; the text says why."""


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp."""

    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


@dataclass(frozen=True, slots=True)
class Rule:
    """A call that is allowed; with `argument` only if that argument has `value` in the bits of
    `mask`. Several rules for a call allow it each."""

    name: str
    argument: int | None = None
    value: int = 0
    mask: int = _LARGEST_WORD


def allow_only(rules: Iterable[Rule]) -> None:
    """From now on every other call fails with ENOSYS, as on a kernel that lacks it: libraries
    have another way then. There is no way back. This thread may have no new privileges
    (linux/rights.py). Raises FilterError.

    A name that this architecture does not have is passed over.
    """
    library = _library()
    context = library.seccomp_init(_ERRNO | errno.ENOSYS)
    if not context:
        raise FilterError("libseccomp makes no filter")
    try:
        # Older versions of the library know no trees; a filter is then a long list.
        library.seccomp_attr_set(context, _OPTIMIZE, _BINARY_TREE)
        for rule in rules:
            _add(library, context, rule)
        _check(library.seccomp_load(context), "the kernel takes no filter")
    finally:
        library.seccomp_release(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise FilterError(f"there is no {LIBRARY}") from error
    context = ctypes.c_void_p
    library.seccomp_init.argtypes = (ctypes.c_uint32,)
    library.seccomp_init.restype = context
    library.seccomp_attr_set.argtypes = (context, ctypes.c_int, ctypes.c_uint32)
    library.seccomp_syscall_resolve_name.argtypes = (ctypes.c_char_p,)
    library.seccomp_rule_add_array.argtypes = (
        context,
        ctypes.c_uint32,
        ctypes.c_int,
        ctypes.c_uint,
        ctypes.POINTER(_Comparison),
    )
    library.seccomp_load.argtypes = (context,)
    library.seccomp_release.argtypes = (context,)
    library.seccomp_release.restype = None
    return library


def _add(library: ctypes.CDLL, context: int, rule: Rule) -> None:
    number = library.seccomp_syscall_resolve_name(rule.name.encode())
    if number < 0:
        return
    if rule.argument is None:
        comparisons = (_Comparison * 0)()
    else:
        comparisons = (_Comparison * 1)(
            _Comparison(rule.argument, _MASKED_EQ, rule.mask, rule.value)
        )
    added = library.seccomp_rule_add_array(context, _ALLOW, number, len(comparisons), comparisons)
    _check(added, f"no rule for {rule.name}")


def _check(result: int, what: str) -> None:
    """libseccomp returns negative error numbers."""
    if result != 0:
        raise FilterError(f"{what}: {os.strerror(-result)}")
