"""Options that are not msharefs' own: those of mount(8), systemd, libfuse and tmpfs(5).

Owns which of them go on to the kernel, which are taken because they change nothing here,
and the reason for each that cannot be had. Knows nothing of msharefs' own options.
"""

from __future__ import annotations

PASSED_ON = frozenset(
    [
        *("rw", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec"),
        *("sync", "async", "dirsync", "noatime", "nodiratime"),
    ]
)
"""Generic options that fusermount3 hands to mount(2)."""

TAKEN_BACK = {"atime": "noatime", "diratime": "nodiratime"}
"""fusermount3 does not know these: they take an earlier word away."""

_MOUNT_WORDS = [
    *("defaults", "auto", "noauto", "nofail", "_netdev", "silent", "loud"),
    *("user", "nouser", "users", "nousers", "owner", "noowner", "group", "nogroup"),
    *("relatime", "norelatime", "strictatime", "nostrictatime", "lazytime", "nolazytime"),
    *("iversion", "noiversion", "mand", "nomand"),
    # There are no symbolic links to follow, and some fusermount3 do not know the words.
    *("symfollow", "nosymfollow"),
]
# Always so: permissions are checked by the kernel, the mount point may hold files, and inode
# numbers have 64 bits.
_ALWAYS_SO = ["default_permissions", "nonempty", "inode64"]
SILENT = frozenset([*_MOUNT_WORDS, *_ALWAYS_SO, "subtype=msharefs"])

SILENT_PREFIXES = ("x-", "X-", "comment=", "user=", "uhelper=", "helper=", "user_id=", "group_id=")
"""Besides mount(8)'s own, what /proc/mounts shows of a mount, so that its line can be copied."""

_LIBFUSE_TUNING = [
    *("kernel_cache", "auto_cache", "noauto_cache", "direct_io", "no_rofd_flush"),
    *("entry_timeout", "attr_timeout", "ac_attr_timeout", "negative_timeout"),
    *("noforget", "remember", "modules", "parallel_direct_write", "parallel_direct_writes"),
    *("hard_remove", "use_ino", "readdir_ino", "intr", "intr_signal", "nopath", "nullpath_ok"),
    *("max_read", "max_write", "max_readahead", "max_background", "congestion_threshold"),
    *("async_read", "sync_read", "async_dio", "sync_dio", "atomic_o_trunc", "big_writes"),
    *("large_read", "writeback_cache", "readdirplus", "clone_fd", "io_uring", "io_uring_q_depth"),
    *("no_remote_lock", "no_remote_flock", "no_remote_posix_lock"),
    *("splice_read", "splice_write", "splice_move"),
    *("no_splice_read", "no_splice_write", "no_splice_move"),
    *("max_threads", "max_idle_threads"),
]
_PROPAGATION = [
    f"{recursive}{kind}"
    for recursive in ("", "r")
    for kind in ("bind", "private", "shared", "slave", "unbindable")
]
_IMAGES = ["loop", "offset", "sizelimit", "encryption", "blkdev", "blksize"]
_CONTEXTS = ["context", "fscontext", "defcontext", "rootcontext"]
_QUOTAS = ["quota", "usrquota", "grpquota"]

_OBSTACLES: dict[str, str] = {
    **dict.fromkeys(_LIBFUSE_TUNING, "it tunes libfuse's own loop, which does not run here"),
    **dict.fromkeys(_PROPAGATION, "it concerns a mount that is there, and mount(8) does it alone"),
    "move": "it concerns a mount that is there, and mount(8) does it alone",
    **dict.fromkeys(_IMAGES, "no device or image is mounted"),
    **dict.fromkeys(_CONTEXTS, "fusermount3 hands no SELinux contexts on"),
    **dict.fromkeys(
        _QUOTAS,
        "user_size=, user_inodes=, user_mappings= and user_files= limit what each user may have",
    ),
    **dict.fromkeys(("fd", "rootmode"), "fusermount3 sets it"),
    "allow_root": "say allow_other, and mode= and uid= for who may enter",
    "auto_unmount": "a mount outlives its daemon, and the next mount of the place takes it up",
    "debug": "say log_level=debug",
    "drop_privileges": "the daemon gives up by itself what it does not need",
    "pass_fuse_fd": "the daemon asks fusermount3 itself",
    "setuid": "mount as that user, or give him the root directory with uid=",
    **dict.fromkeys(("umask", "fmask", "dmask"), "say mode= for the root directory"),
    "inode32": "inode numbers have 64 bits",
    "nr_blocks": "say size=",
    "subtype": "the type is always fuse.msharefs",
}


def is_taken_silently(word: str) -> bool:
    """Whether a word (a name, or NAME=VALUE) concerns others or is always so here."""
    return word in SILENT or word.startswith(SILENT_PREFIXES)


def obstacle(name: str) -> str | None:
    """Why a known option of others cannot be had, or None if it is unknown."""
    return _OBSTACLES.get(name)
