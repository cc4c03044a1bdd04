"""What this process may do, and what services of the machine will do to its memory.

Owns the reading of capabilities, of the user namespace, of sysctls and of logind's settings. It judges
nothing; `root` is the directory in which the machine's files are, for tests of other machines.
"""

from __future__ import annotations

import os

from msharefs.linux.proc import status_field

CAP_SYS_ADMIN = 21
_WHOLE_ID_SPACE = [0, 0, (1 << 32) - 1]
_LAST_SYSTEM_UID = 999
"""As in Debian's login.defs."""
_CONFIGURATION = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
"""Where systemd looks, the strongest first (logind.conf(5))."""
_TRUE = frozenset({"1", "yes", "y", "true", "t", "on"})
_FALSE = frozenset({"0", "no", "n", "false", "f", "off"})


def has_capability(number: int, root: str = "/") -> bool:
    """Whether this process has a capability in effect, in its own user namespace."""
    status = _read(root, "proc/self/status") or b"CapEff: 0"
    return bool(int(status_field(status, b"CapEff"), 16) >> number & 1)


def is_first_user_namespace(root: str = "/") -> bool:
    """Whether user ids mean here what they mean to the kernel."""
    mapped = _read(root, "proc/self/uid_map")
    return mapped is None or list(map(int, mapped.split())) == _WHOLE_ID_SPACE


def uid_outside(uid: int, root: str = "/") -> int:
    """Who a user of our user namespace is in the one that it was made in; himself in the first."""
    for line in (_read(root, "proc/self/uid_map") or b"").splitlines():
        inside, outside, count = map(int, line.split())
        if inside <= uid < inside + count:
            return outside + uid - inside
    return uid


def is_privileged(root: str = "/") -> bool:
    """Whether we have CAP_SYS_ADMIN in the first user namespace: for mounting a tmpfs, and for
    passthrough, whose ioctl checks just that."""
    return is_first_user_namespace(root) and has_capability(CAP_SYS_ADMIN, root)


def fuse_request_timeout(name: str, root: str = "/") -> int:
    """Seconds of the sysctl fs.fuse.NAME (default_request_timeout or max_request_timeout,
    Documentation/admin-guide/sysctl/fs.rst); 0 where there is none."""
    return int(_read(root, f"proc/sys/fs/fuse/{name}") or 0)


def logind_removes_ipc(uid: int, root: str = "/") -> bool:
    """Whether systemd-logind deletes that user's POSIX segments when he logs out (RemoveIPC in
    logind.conf(5)). It spares system users, and does not where it does not run."""
    if uid <= _LAST_SYSTEM_UID or not os.path.isdir(os.path.join(root, "run/systemd/seats")):
        return False
    removes = True
    for text in _configuration(root, "logind.conf"):
        for word in _values(text, "Login", "RemoveIPC"):
            # What systemd cannot read it passes over.
            removes = (removes or word in _TRUE) and word not in _FALSE
    return removes


def _configuration(root: str, name: str) -> list[str]:
    """The texts of a configuration of systemd, in the order in which later ones win: the main
    file of the strongest directory that has one, then drop-ins by name, of which the strongest
    directory's hides those of the same name."""
    drop_ins: dict[str, str] = {}
    main = ""
    for directory in reversed(_CONFIGURATION):
        if os.path.exists(os.path.join(root, directory, name)):
            main = f"{directory}/{name}"
        folder = f"{directory}/{name}.d"
        try:
            entries = os.listdir(os.path.join(root, folder))
        except OSError:
            continue
        drop_ins.update({each: f"{folder}/{each}" for each in entries if each.endswith(".conf")})
    paths = [main, *(path for _, path in sorted(drop_ins.items()))]
    return [(_read(root, path) or b"").decode("utf-8", "replace") for path in paths]


def _values(text: str, section: str, key: str) -> list[str]:
    """The values that a text in systemd's form gives to a key, in lower case."""
    found: list[str] = []
    current = ""
    for line in text.replace("\\\n", " ").split("\n"):
        words = line.strip()
        if words.startswith("[") and words.endswith("]"):
            current = words[1:-1]
            continue
        name, is_assignment, value = words.partition("=")
        if current == section and is_assignment and name.strip() == key:
            found.append(value.strip().lower())
    return found


def _read(root: str, path: str) -> bytes | None:
    """A file, or None if it cannot be read."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.read()
    except OSError:
        return None
