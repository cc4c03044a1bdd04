"""What `msharefs-mount --help` says of the mount options, in groups.

Owns the words alone. What an option means in full is in msharefs.5 and docs/options.md.
"""

from __future__ import annotations

GROUPS: tuple[tuple[str, tuple[tuple[str, str], ...]], ...] = (
    (
        "how much there may be",
        (
            ("size=SIZE", "memory of all regions together [50%]"),
            ("nr_inodes=N", "names; 0 is no limit [half the machine's pages]"),
            ("max_region=SIZE", "size of a region [no limit]"),
            ("max_mappings=N", "mappings of a region [65530]"),
            ("max_mappings_total=N", "of all regions [one for each 16K of memory]"),
            ("max_files=N", "mappings of files in all regions [16384]"),
            ("user_size=SIZE", "memory of one user's regions, or off [off]"),
            ("user_inodes=N", "names of one user, or off [off]"),
            ("user_mappings=N", "mappings of one user's regions, or off [off]"),
            ("user_files=N", "mappings of files in one user's regions, or off [off]"),
            ("automap, automap=grow", "the size of a region maps all of it"),
            ("overcommit", "MAP_NORESERVE takes memory at the first touch"),
            ("align=SIZE", "what sizes are multiples of, 4K to 512G [2M]"),
        ),
    ),
    (
        "who may use it",
        (
            ("mode=MODE", "of the root directory, in octal [1777]"),
            ("uid=USER, gid=GROUP", "its owner and group [who mounts]"),
            ("allow_other", "everybody, as far as mode bits allow [root's mounts]"),
        ),
    ),
    (
        "what the memory is",
        (
            ("huge=POLICY", "always, within_size, advise or never [always]"),
            ("mpol=POLICY", "NUMA policy, such as interleave or bind:0,2-3"),
            ("noswap", "it is never swapped out"),
            ("data=PLANE", "passthrough, direct, paged or auto [auto]"),
        ),
    ),
    (
        "running it",
        (
            ("fresh", "throw away what a dead mount left here"),
            ("metrics=ADDRESS:PORT", "serve Prometheus metrics there, or off [off]"),
            ("log_level=LEVEL", "debug, info, warning or error [info]"),
            ("seccomp=WORD", "filter system calls: auto, on or off [auto]"),
            ("remount", "change a mount that is there"),
        ),
    ),
    (
        "shown by /proc/mounts",
        (
            ("fsname=NAME", "in the place of the source"),
            ("ro, nosuid, noexec, ...", "what mount(8) has for every file system"),
        ),
    ),
)
"""Each group: its title, and options with what they say and, in brackets, their default."""

_GAP = 2


def text() -> str:
    """The end of the help."""
    lines = ["mount options, with their defaults in brackets:"]
    for title, options in GROUPS:
        width = max(len(name) for name, _words in options) + _GAP
        lines += ["", f"  {title}:"]
        lines += [f"    {name.ljust(width)}{words}" for name, words in options]
    lines += [
        "",
        "Sizes are bytes, or a number with K, M, G or T, or a percentage of the memory.",
        "Example: msharefs-mount msharefs /mnt/mshare -o size=4G,mode=750",
        "All of it: man msharefs-mount, man 5 msharefs.",
    ]
    return "\n".join(lines)
