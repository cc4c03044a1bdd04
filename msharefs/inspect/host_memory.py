"""What a machine gives regions: huge pages, memory, limits, and who might take it away.

Owns those checks, each a sentence and what to do about it.
"""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Callable, Iterator

from msharefs import notation
from msharefs.abi import HUGE_PAGE_SIZE
from msharefs.inspect.host import Finding, Host, unseen
from msharefs.linux import cgroup, syscalls
from msharefs.linux.host import logind_removes_ipc
from msharefs.linux.proc import meminfo

_THP = "/sys/kernel/mm/transparent_hugepage"
_HUGE_ORDER = 9
_FEW_HUGE_PAGES = 64
_SMALL_SHM = 256 << 20
_SYS = "run it where /sys is mounted: in a container outside of it"


def _huge_pages(host: Host) -> Iterator[Finding]:
    words = host.read(f"{_THP}/shmem_enabled")
    size = host.read(f"{_THP}/hpage_pmd_size")
    if words is None and (host.is_closed(_THP) or not _has_entries(host.path("/sys"))):
        yield unseen("huge pages", "/sys is not mounted, or not for you", _SYS)
    elif words is None:
        yield Finding(
            "warn",
            "huge pages",
            "this kernel has no huge pages for shared memory, so page tables stay large",
            "take a kernel with CONFIG_TRANSPARENT_HUGEPAGE",
        )
    elif "[deny]" in words:
        yield Finding(
            "warn",
            "huge pages",
            "huge pages of shared memory are switched off, so page tables stay large",
            f"run 'echo never > {_THP}/shmem_enabled' as root: msharefs asks for them by itself",
        )
    elif size is not None and int(size) != HUGE_PAGE_SIZE:
        yield Finding(
            "warn",
            "huge pages",
            f"huge pages have {notation.size(int(size))} here, not 2 MiB, so few regions get any",
            "take a kernel with pages of 4 KiB",
        )
    else:
        yield from _free_blocks(host)


def _free_blocks(host: Host) -> Iterator[Finding]:
    free = 0
    blocks_of_zones = host.read("/proc/buddyinfo")
    if blocks_of_zones is None:
        yield Finding(
            "ok", "huge pages", "are allowed; whether there is room for them root can see"
        )
        return
    for line in blocks_of_zones.splitlines():
        blocks = line.split("zone", 1)[-1].split()[1:]
        for order, number in enumerate(blocks):
            free += int(number) << (order - _HUGE_ORDER) if order >= _HUGE_ORDER else 0
    memory = f"{notation.size(free * HUGE_PAGE_SIZE)} of free memory is in blocks of 2 MiB"
    if free < _FEW_HUGE_PAGES:
        yield Finding(
            "warn",
            "huge pages",
            f"only {memory}, so page tables may stay large",
            "run 'echo 1 > /proc/sys/vm/compact_memory' as root, or map early after the start",
        )
    else:
        yield Finding("ok", "huge pages", f"are allowed; {memory}")


def _collapse(host: Host) -> Iterator[Finding]:
    if host.is_root:
        return  # whether a mount of root's has what it wants, its status says
    about = "collapse"
    try:
        _try_to_collapse(host.path("/dev/shm"))
    except OSError as error:
        if error.errno in {errno.ENOMEM, errno.EBUSY, errno.EAGAIN}:
            yield Finding(
                "warn",
                about,
                f"no memory in a block of 2 MiB is free at this moment ({_name_of(error)})",
                "what is in small pages stays so until there is; mounts try again",
            )
        elif error.errno == errno.EINVAL:
            yield Finding(
                "warn",
                about,
                "this kernel puts no shared memory into huge pages on request (EINVAL), so page "
                "tables of your mounts stay large",
                f"take Linux 6.18, or run 'echo advise > {_THP}/shmem_enabled' as root",
            )
        else:
            yield unseen(about, f"{error.strerror}, where huge pages in /dev/shm were tried")
    else:
        yield Finding("ok", about, "memory of your mounts can be put into huge pages on request")


def _try_to_collapse(directory: str) -> None:
    """One huge page, of a file without a name. Raises OSError."""
    fd = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, HUGE_PAGE_SIZE)
        syscalls.collapse(fd, 0, HUGE_PAGE_SIZE, HUGE_PAGE_SIZE)
    finally:
        os.close(fd)


def _name_of(error: OSError) -> str:
    return errno.errorcode.get(error.errno or 0, str(error.errno))


def _memory(host: Host) -> Iterator[Finding]:
    try:
        facts = meminfo(host.root)
    except OSError as error:
        yield unseen("memory", f"/proc/meminfo: {error.strerror}", "mount /proc")
        return
    available, total = facts["MemAvailable"], facts["MemTotal"]
    swap = facts.get("SwapTotal", 0)
    swapping = (
        f"; regions may go to {notation.size(swap)} of swap, unless mounted with noswap"
        if swap
        else "; there is no swap"
    )
    words = f"{notation.size(available)} of {notation.size(total)} is available"
    if available * 20 < total:
        yield Finding("warn", "memory", words, "end something, or mount with a small size=")
    else:
        yield Finding("ok", "memory", words + swapping)


def _memory_groups(host: Host) -> Iterator[Finding]:
    groups = cgroup.memory_groups(host.root)
    if not groups:
        if host.read("/proc/self/cgroup") and not _has_entries(host.path("/sys/fs/cgroup")):
            yield unseen("memory group", "/sys/fs/cgroup is not mounted, or not for you", _SYS)
        return
    tightest = min(groups, key=lambda group: group.available)
    limit = min(group.limit for group in groups)
    words = (
        f"the control group {tightest.path} leaves your processes "
        f"{notation.size(tightest.available)}; mounts made here may use {notation.size(limit)} in all"
    )
    if tightest.available * 20 < limit:
        advice = "raise the group's limit (memory.max, or --memory of the container)"
        yield Finding("warn", "memory group", words, advice)
    else:
        yield Finding("ok", "memory group", words)


def _has_entries(directory: str) -> bool:
    try:
        return bool(os.listdir(directory))
    except OSError:
        return False


def _limits(host: Host) -> Iterator[Finding]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    counts = host.read("/proc/sys/vm/max_map_count")
    areas = int(counts) if counts else 65530
    few = 1024
    words = f"{soft:,} open files and {areas:,} memory areas a process"
    if soft < few or areas < few:
        yield Finding(
            "warn",
            "limits",
            f"only {words}",
            "raise 'ulimit -n' and the sysctl vm.max_map_count",
        )
    elif resource.getrlimit(resource.RLIMIT_AS)[0] != resource.RLIM_INFINITY:
        yield Finding(
            "warn",
            "limits",
            "the address space of your processes is limited, so large regions do not fit",
            "run 'ulimit -v unlimited'",
        )
    else:
        more = f" ({hard:,} files if asked for)" if hard > soft else ""
        yield Finding("ok", "limits", words + more)


def _shared_memory(host: Host) -> Iterator[Finding]:
    if host.is_root:
        return  # root's mounts bring a tmpfs of their own
    try:
        facts = os.statvfs(host.path("/dev/shm"))
    except OSError as error:
        yield Finding(
            "FAIL",
            "/dev/shm",
            f"your mounts keep their memory in /dev/shm, which fails: {error.strerror}",
            "mount a tmpfs there as root",
        )
        return
    size = facts.f_blocks * facts.f_frsize
    words = f"has {notation.size(size)} for all your mounts together"
    if size < _SMALL_SHM:
        yield Finding(
            "warn",
            "/dev/shm",
            f"{words}, which is little",
            "start the container with a larger --shm-size, or remount it with size= as root",
        )
    else:
        yield Finding("ok", "/dev/shm", words)


def _logind(host: Host) -> Iterator[Finding]:
    if host.is_root or not os.path.isdir(host.path("/run/systemd/seats")):
        return
    if logind_removes_ipc(host.euid, host.root):
        yield Finding(
            "warn",
            "logind",
            "systemd-logind takes away your mounts' memory when you log out",
            "set RemoveIPC=no in /etc/systemd/logind.conf as root, or mount as root",
        )
    else:
        yield Finding("ok", "logind", "leaves shared memory alone when you log out")


CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _huge_pages,
    _collapse,
    _memory,
    _memory_groups,
    _limits,
    _shared_memory,
    _logind,
)
