"""What a machine needs so that msharefs can be mounted: kernel, device, helper, rights.

Owns those checks, each a sentence and what to do about it.
"""

from __future__ import annotations

import errno
import gzip
import os
import re
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator

from msharefs import notation
from msharefs.abi import PAGE_SIZE
from msharefs.inspect.host import Finding, Host, unseen
from msharefs.linux import host as host_facts
from msharefs.linux import mountinfo, rights

PASSTHROUGH_KERNEL = (6, 9)
DIRECT_MMAP_KERNEL = (6, 6)
_IMPORTS = "import posix_ipc, pyfuse3, trio"
_IMPORT_SECONDS = 30
_ELSE = "for memory at full speed; programs of the library and mshare run have it with data=direct"


def _kernel(host: Host) -> Iterator[Finding]:
    words = f"Linux {host.release}"
    if host.kernel < PASSTHROUGH_KERNEL:
        slower = (
            "each page's first touch asks the daemon"
            if host.kernel >= DIRECT_MMAP_KERNEL
            else "each page's first touch asks the daemon, and read(2) is not refused"
        )
        yield Finding(
            "warn",
            "kernel",
            f"{words} has no FUSE passthrough: {slower}",
            f"boot Linux 6.9 or newer {_ELSE}",
        )
        return
    option = _kernel_option(host, "CONFIG_FUSE_PASSTHROUGH")
    if option == "n":
        yield Finding(
            "warn",
            "kernel",
            f"{words} was built without CONFIG_FUSE_PASSTHROUGH",
            f"take a kernel that has it {_ELSE}",
        )
    else:
        sure = "has" if option else "should have"
        yield Finding("ok", "kernel", f"{words} {sure} FUSE passthrough")


def _pages(_host: Host) -> Iterator[Finding]:
    size = os.sysconf("SC_PAGESIZE")
    if size != PAGE_SIZE:
        yield Finding(
            "FAIL",
            "pages",
            f"this kernel has pages of {notation.size(size)}",
            "msharefs needs a kernel with pages of 4 KiB",
        )


def _device(host: Host) -> Iterator[Finding]:
    path = host.path("/dev/fuse")
    try:
        # Opening it starts nothing; a mount would.
        os.close(os.open(path, os.O_RDWR | os.O_CLOEXEC))
    except FileNotFoundError:
        yield Finding(
            "FAIL",
            "/dev/fuse",
            "there is no /dev/fuse",
            "run 'modprobe fuse'; in a container pass it in, as with --device /dev/fuse",
        )
    except OSError as error:
        yield Finding("FAIL", "/dev/fuse", *_refused_device(path, error))
    else:
        yield Finding("ok", "/dev/fuse", "is there and can be opened")


def _refused_device(path: str, error: OSError) -> tuple[str, str]:
    why = error.strerror or str(error)
    if error.errno == errno.EACCES:
        mode = stat.S_IMODE(os.stat(path).st_mode)
        advice = "run 'chmod 666 /dev/fuse' as root, the usual mode, or mount as root"
        return f"cannot be opened by you: its mode is {mode:04o}", advice
    if error.errno == errno.EPERM:
        return (
            "cannot be opened: the container does not allow the device",
            "start it with --device /dev/fuse",
        )
    if error.errno in {errno.ENODEV, errno.ENXIO}:
        return "is there without its kernel module", "run 'modprobe fuse'"
    return f"cannot be opened: {why}", "see the kernel's log"


def _helper(host: Host) -> Iterator[Finding]:
    path = shutil.which("fusermount3")
    if path is None:
        yield Finding(
            "FAIL",
            "fusermount3",
            "there is no fusermount3 in the PATH",
            "install the package fuse3",
        )
    elif not host.is_root and _gains_no_rights(host):
        yield Finding(
            "FAIL",
            "fusermount3",
            f"{path} gets no rights of root's here: no_new_privs is set",
            "start your session without it, as outside of the container or service, or mount as root",
        )
    elif not host.is_root and not os.stat(path).st_mode & stat.S_ISUID:
        yield Finding(
            "FAIL",
            "fusermount3",
            f"{path} is not set-uid root, so only root can mount",
            f"run 'chmod u+s {path}' as root, or mount as root",
        )
    else:
        yield Finding("ok", "fusermount3", f"is {path}")


def _gains_no_rights(host: Host) -> bool:
    return "\nNoNewPrivs:\t1\n" in (host.read("/proc/self/status") or "")


def check_libraries(_host: Host) -> Iterator[Finding]:
    """The one check that takes a while: it starts an interpreter."""
    problem = _import_problem()
    if problem is None:
        yield Finding("ok", "libraries", "pyfuse3, trio and posix_ipc can be imported")
    else:
        yield Finding(
            "FAIL",
            "libraries",
            f"the daemon's libraries cannot be imported ({problem})",
            "install msharefs again with pip, and libfuse 3 from the system's packages",
        )


def _import_problem() -> str | None:
    # Not imported here: this tool uses none of them, and a broken one may end the process.
    try:
        done = subprocess.run(
            [sys.executable, "-c", _IMPORTS],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_IMPORT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]


def _rights(host: Host) -> Iterator[Finding]:
    if not host.is_root:
        yield Finding(
            "warn",
            "rights",
            "you are not root, and only root's mounts have passthrough",
            f"mount as root {_ELSE}",
        )
        return
    if not host_facts.has_capability(host_facts.CAP_SYS_ADMIN, host.root):
        yield Finding(
            "FAIL",
            "rights",
            "you are root without CAP_SYS_ADMIN, as in most containers",
            "start the container with --cap-add SYS_ADMIN, or mount outside of it",
        )
    elif not host_facts.is_first_user_namespace(host.root):
        yield Finding(
            "warn",
            "rights",
            "you are root of a user namespace only, and passthrough needs the machine's root",
            f"mount outside of it {_ELSE}",
        )
    else:
        yield Finding("ok", "rights", "you are root, so mounts have passthrough")


def _fuse_conf(host: Host) -> Iterator[Finding]:
    if host.is_root:
        return  # it says what ordinary users may do
    if host.is_closed("/etc/fuse.conf"):
        yield unseen("fuse.conf", "/etc/fuse.conf may not be read by you")
        return
    words = {line.strip() for line in (host.read("/etc/fuse.conf") or "").splitlines()}
    if "user_allow_other" in words:
        yield Finding("ok", "fuse.conf", "your mounts may be opened to other users (allow_other)")
    else:
        yield Finding(
            "warn",
            "fuse.conf",
            "only you can use your mounts: /etc/fuse.conf does not have user_allow_other",
            "write that line into it as root, and mount with -o allow_other",
        )


def _files(host: Host) -> Iterator[Finding]:
    """Whether the daemon could take the files of programs that map them into a region."""
    scope = (host.read("/proc/sys/kernel/yama/ptrace_scope") or "0").strip()
    if scope == "3" or (scope != "0" and not host.is_root):
        yield Finding(
            "warn",
            "files",
            f"a mount of yours cannot map files of programs: kernel.yama.ptrace_scope is {scope}",
            "mount as root; only 'sysctl kernel.yama.ptrace_scope=0' lets a user's daemon do it"
            if scope != "3"
            else "it can be changed at boot alone",
        )
    elif not host.is_root:
        yield Finding("ok", "files", "a mount of yours can map files of your own programs")
    elif not host_facts.has_capability(rights.CAP_SYS_PTRACE, host.root):
        yield Finding(
            "warn",
            "files",
            "you are root without CAP_SYS_PTRACE: files of other users' programs cannot be mapped",
            "start the container with --cap-add SYS_PTRACE",
        )
    else:
        yield Finding("ok", "files", "files of everybody's programs can be mapped")


def _control(host: Host) -> Iterator[Finding]:
    if os.path.exists(host.path("/sys/fs/fuse/connections")) and not _is_mounted(
        host, "/sys/fs/fuse/connections"
    ):
        yield Finding(
            "warn",
            "fusectl",
            "FUSE's control files are not mounted, so a hanging mount could not be ended",
            "run 'mount -t fusectl none /sys/fs/fuse/connections' as root",
        )


def _is_mounted(host: Host, place: str) -> bool:
    table = mountinfo.read(host.path(mountinfo.OWN))
    return any(mount.path == place for mount in table)


def _kernel_option(host: Host, name: str) -> str | None:
    """ "y", "m" or "n"; None if the kernel's configuration is not to be found."""
    texts = [host.read(f"/boot/config-{host.release}")]
    try:
        with gzip.open(host.path("/proc/config.gz"), "rt", encoding="utf-8") as file:
            texts.insert(0, file.read())
    except OSError:
        pass
    for text in texts:
        if text:
            match = re.search(rf"^{name}=(\w)", text, re.MULTILINE)
            return match[1] if match else "n"
    return None


CHECKS: tuple[Callable[[Host], Iterator[Finding]], ...] = (
    _kernel,
    _pages,
    _device,
    _helper,
    check_libraries,
    _rights,
    _fuse_conf,
    _files,
    _control,
)
