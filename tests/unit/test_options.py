"""-o options: what each may be, what it is by default, and what is said about mistakes."""

from __future__ import annotations

import dataclasses
import grp
import logging
import os
import pwd
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from msharefs.daemon import options as options_module
from msharefs.daemon.option_values import UsageError, parse_size
from msharefs.daemon.options import MountOptions, log_level, parse_options, total_memory

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
MEMORY = 8 * GIB
LARGEST_FILE = (1 << 63) - 1

VALUED = [
    "size",
    "nr_inodes",
    "align",
    "max_region",
    "max_mappings",
    "mode",
    "uid",
    "gid",
    "huge",
    "mpol",
    "data",
    "log_level",
]
GENERIC = [
    *["rw", "ro", "suid", "nosuid", "dev", "nodev", "exec", "noexec", "sync", "async", "dirsync"],
    *["noatime", "nodiratime", "defaults", "atime", "diratime", "relatime", "norelatime"],
    *["strictatime", "nostrictatime", "lazytime", "nolazytime", "auto", "noauto", "nofail"],
    *["_netdev", "user", "nouser", "users", "owner", "group", "silent", "loud"],
    *["nousers", "noowner", "nogroup", "iversion", "noiversion", "mand", "nomand"],
    *["symfollow", "nosymfollow", "nonempty", "inode64", "subtype=msharefs"],
    *["user=ann", "uhelper=hal", "helper=fuse.msharefs", "user_id=0", "group_id=1000"],
    *["allow_other", "default_permissions"],
]


def parsed(text: str, *, testing: bool = False) -> MountOptions:
    """On a machine of 8 GiB."""
    return parse_options(text, memory=MEMORY, testing=testing)


def refusal(text: str, *, testing: bool = False) -> str:
    """The sentence about the mistake in `text`."""
    with pytest.raises(UsageError) as caught:
        parsed(text, testing=testing)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


def test_defaults() -> None:
    """Half of the memory, an inode for each page of it, and the rest as documented."""
    assert parsed("") == MountOptions(
        size=4 * GIB,
        nr_inodes=1 << 20,
        align=2 * MIB,
        max_region=LARGEST_FILE,
        max_mappings=65530,
        max_mappings_total=512 << 10,
        mode=0o1777,
        uid=os.getuid(),
        gid=os.getgid(),
        huge="always",
        mpol=None,
        noswap=False,
        overcommit=False,
        data="auto",
        log_level="info",
    )


@pytest.mark.parametrize(
    ("text", "field", "value"),
    [
        ("size=1G", "size", GIB),
        ("size=25%", "size", 2 * GIB),
        ("size=4095K", "size", 4092 * KIB),  # whole pages
        ("nr_inodes=100", "nr_inodes", 100),
        ("nr_inodes=1M", "nr_inodes", MIB),
        ("nr_inodes=1", "nr_inodes", 2),  # root and mshare_info are there in any case
        ("nr_inodes=0", "nr_inodes", (1 << 31) - 1),  # no limit, as on tmpfs
        ("align=4K", "align", 4096),
        ("align=2097152", "align", 2 * MIB),
        ("align=512G", "align", 512 * GIB),
        ("max_region=16M", "max_region", 16 * MIB),
        ("max_region=1T", "max_region", TIB),
        (f"max_region={LARGEST_FILE}", "max_region", LARGEST_FILE),
        ("max_mappings=1", "max_mappings", 1),
        ("max_mappings=2147483647", "max_mappings", (1 << 31) - 1),
        ("max_mappings_total=7", "max_mappings_total", 7),
        ("user_size=1G", "user_size", GIB),
        ("user_size=25%", "user_size", 2 * GIB),
        ("user_size=off", "user_size", None),
        ("user_inodes=5", "user_inodes", 5),
        ("user_mappings=off", "user_mappings", None),
        ("max_files=3", "max_files", 3),
        ("user_files=7", "user_files", 7),
        ("user_files=off", "user_files", None),
        ("mode=755", "mode", 0o755),
        ("mode=0755", "mode", 0o755),
        ("mode=0", "mode", 0),
        ("mode=7777", "mode", 0o7777),
        ("uid=1234", "uid", 1234),
        ("uid=4294967294", "uid", 4294967294),
        ("uid=root", "uid", 0),
        ("gid=1234", "gid", 1234),
        ("gid=root", "gid", 0),
        ("huge=always", "huge", "always"),
        ("huge=within_size", "huge", "within_size"),
        ("huge=advise", "huge", "advise"),
        ("huge=never", "huge", "never"),
        ("mpol=local", "mpol", "local"),
        ("mpol=bind:0", "mpol", "bind:0"),
        ("mpol=interleave=static:0,2-3", "mpol", "interleave=static:0,2-3"),
        ("noswap", "noswap", True),
        ("overcommit", "overcommit", True),
        ("data=auto", "data", "auto"),
        ("data=passthrough", "data", "passthrough"),
        ("data=paged", "data", "paged"),
        ("log_level=debug", "log_level", "debug"),
        ("log_level=error", "log_level", "error"),
        ("allow_other", "allow_other", True),
        ("fresh", "fresh", True),
        ("metrics=127.0.0.1:9100", "metrics", ("127.0.0.1", 9100)),
        ("metrics=:9100,metrics=off", "metrics", None),
        ("fsname=here", "fsname", "here"),
    ],
)
def test_each_option_sets_its_field(text: str, field: str, value: object) -> None:
    """And no other."""
    options = parsed(text)
    assert getattr(options, field) == value
    assert dataclasses.replace(options, **{field: getattr(parsed(""), field)}) == parsed("")


def test_options_together() -> None:
    """In any order; empty words between commas do not matter."""
    options = parsed(",size=1G,,mode=700,rw,noswap,")
    assert (options.size, options.mode, options.noswap) == (GIB, 0o700, True)


def test_the_last_one_counts() -> None:
    """As mount(8) does it."""
    assert parsed("size=1G,size=2G").size == 2 * GIB


@pytest.mark.parametrize(
    "text",
    [
        "size=0",
        "size=4095",
        "size=0%",
        "size=-1",
        "size=1X",
        "size=1GG",
        "size=G",
        "size=%",
        "size=1.5",
        "size=64MB",
        "size=1e9",
        "size=0x1000",
        "size=1_000_000",
        "size=\N{ARABIC-INDIC DIGIT ONE}G",
        f"size={1 << 63}",
        "size=9999999999T",
        f"size={'9' * 5000}",
        "nr_inodes=-1",
        "nr_inodes=many",
        "nr_inodes=2147483648",
        "align=0",
        "align=2048",
        "align=3M",
        "align=1T",
        "align=4097",
        "max_region=0",
        "max_region=4095",
        "max_region=9223372036854775808",
        "max_mappings=0",
        "max_mappings_total=off",
        "user_size=0",
        "user_size=never",
        "user_inodes=0",
        "user_mappings=-1",
        "max_files=off",
        "max_files=0",
        "user_files=0",
        "max_mappings=2147483648",
        "max_mappings=x",
        "mode=8",
        "mode=10000",
        "mode=-1",
        "mode=rwx",
        "mode=0x1ff",
        f"mode={'7' * 5000}",
        "uid=4294967295",
        "uid=-1",
        "uid=no-such-user-here",
        "uid=1.5",
        f"uid={'1' * 5000}",
        "gid=4294967295",
        "gid=no-such-group-here",
        "huge=yes",
        "huge=ALWAYS",
        "data=none",
        "log_level=loud",
        "log_level=INFO",
    ],
)
def test_values_out_of_range_are_refused(text: str) -> None:
    """One sentence that names the option."""
    assert f"'{text.partition('=')[0]}'" in refusal(text)


PRIVATE = [
    ("x-msharefs.without=passthrough:resend", "without", ("passthrough", "resend")),
    ("x-msharefs.crash=before_commit:3", "crash", "before_commit:3"),
]


@pytest.mark.parametrize(("text", "field", "value"), PRIVATE)
def test_private_options_while_testing(text: str, field: str, value: object) -> None:
    """With their prefix, and their values are checked as any."""
    assert getattr(parsed(text, testing=True), field) == value
    name = text.partition("=")[0]
    assert "needs a value" in refusal(name, testing=True)
    assert "everything" in refusal("x-msharefs.without=everything", testing=True)


@pytest.mark.parametrize(
    "word", [text for text, _field, _value in PRIVATE] + ["x-msharefs.", "x-msharefs.size=1G"]
)
def test_private_options_are_for_tests_alone(word: str) -> None:
    """Nobody's fstab kills a server; and the prefix makes no other option ours."""
    name = word.partition("=")[0]
    assert (
        refusal(word) == f"unknown option '{name}'; names with x-msharefs. are for the tests alone"
    )


@pytest.mark.parametrize("word", ["x-msharefs.crush=1", "x-msharefs.size=1G", "x-msharefs."])
def test_unknown_private_options(word: str) -> None:
    """Refused while testing as well: a test that misspells one would test nothing."""
    assert f"'{word.partition('=')[0]}'" in refusal(word, testing=True)


@pytest.mark.parametrize("word", ["crash=before_commit", "without=resend"])
@pytest.mark.parametrize("testing", [False, True])
def test_private_options_need_their_prefix(word: str, testing: bool) -> None:
    """Without it they are nobody's."""
    assert "unknown option" in refusal(word, testing=testing)


@pytest.mark.parametrize("name", VALUED)
def test_a_value_is_needed(name: str) -> None:
    """Neither the bare name nor an empty value."""
    for text in (name, f"{name}="):
        assert refusal(text) == f"option '{name}' needs a value: {name}=..."


@pytest.mark.parametrize("word", GENERIC)
def test_generic_options_are_accepted(word: str) -> None:
    """Those of mount(8) and systemd, done here or elsewhere."""
    parsed(word)


@pytest.mark.parametrize(
    "word",
    [
        "x-systemd.automount",
        "x-systemd.requires=/a",
        "X-mount.mkdir=0755",
        "comment=anything at all",
        "x-size=1G",
        "x-crash=request_read",
        "x-msharefs",
        "x-msharefs-size=1G",
        "X-msharefs.crash=request_read",
    ],
)
def test_options_of_others_are_accepted(word: str) -> None:
    """By their prefix; none of them is taken for ours, while testing neither."""
    assert parsed(word) == parsed("")
    assert parsed(word, testing=True) == parsed("")


def test_the_line_of_proc_mounts_can_be_copied() -> None:
    """As genfstab does: what the kernel shows of a mount is taken for another."""
    shown = "rw,nosuid,nodev,relatime,user_id=0,group_id=0,default_permissions,allow_other"
    options = parsed(shown)
    assert options.passed_on == ("rw", "nosuid", "nodev")
    assert options.allow_other


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("auto_unmount", "takes it up"),
        ("allow_root", "say allow_other"),
        ("setuid=ann", "uid="),
        ("drop_privileges", "by itself"),
        ("umask=022", "say mode="),
        ("debug", "log_level=debug"),
        ("kernel_cache", "libfuse"),
        ("max_read=4096", "libfuse"),
        ("fd=5", "fusermount3"),
        ("subtype=sshfs", "fuse.msharefs"),
        ("subtype", "fuse.msharefs"),
        ("inode32", "64 bits"),
        ("nr_blocks=100", "say size="),
        ("usrquota", "user_size="),
        ("context=a:b:c", "SELinux"),
        ("bind", "mount(8)"),
        ("rshared", "mount(8)"),
        ("loop=/dev/loop0", "image"),
    ],
)
def test_what_others_know_and_we_have_not_is_refused_by_name(word: str, reason: str) -> None:
    """With the reason, or what to say in its place."""
    sentence = refusal(word)
    assert sentence.startswith(f"option '{word.partition('=')[0]}' cannot be had: ")
    assert reason in sentence


def test_later_words_take_earlier_ones_back() -> None:
    """fusermount3 knows no atime, so it must not be told noatime either."""
    assert parsed("noatime,rw,atime,nodiratime,diratime,noexec").passed_on == ("rw", "noexec")
    assert parsed("atime,noatime").passed_on == ("noatime",)


def test_what_mount_must_do_is_passed_on() -> None:
    """In order, once for each word; what is done elsewhere is not."""
    words = "rw,nosuid,nodev,noexec,relatime,noauto,nofail,_netdev,user,x-a,size=1G,noatime"
    assert parsed(words).passed_on == ("rw", "nosuid", "nodev", "noexec", "noatime")


@pytest.mark.parametrize(
    ("word", "nearest"),
    [
        ("siz=1G", "size"),
        ("sizes=1G", "size"),
        ("SIZE=1G", "size"),
        ("nr_inode=5", "nr_inodes"),
        ("max_mapping=5", "max_mappings"),
        ("hugepages=always", "huge"),
        ("noswp", "noswap"),
        ("alow_other", "allow_other"),
        ("loglevel=info", "log_level"),
        ("nosuidd", "nosuid"),
    ],
)
def test_an_unknown_option_names_the_nearest(word: str, nearest: str) -> None:
    """With the word as it was written."""
    name = word.partition("=")[0]
    assert refusal(word) == f"unknown option '{name}'; the nearest known one is '{nearest}'"


@pytest.mark.parametrize("word", ["zzzzzz", "=", "=5", "%", "\n"])
def test_an_odd_option_is_refused_too(word: str) -> None:
    """There is always some nearest name."""
    with pytest.raises(UsageError, match="unknown option"):
        parsed(word)


@pytest.mark.parametrize("name", ["noswap", "allow_other", "ro", "atime", "nofail"])
def test_switches_take_no_value(name: str) -> None:
    """noswap=1 is not an option."""
    assert refusal(f"{name}=1") == f"option '{name}' takes no value"


def test_sloppy_ignores_unknown_options_alone() -> None:
    """mount -s: bad values are refused all the same."""
    options = parse_options("what=ever,size=1G,-", memory=MEMORY, sloppy=True)
    assert options.size == GIB
    with pytest.raises(UsageError):
        parse_options("size=what", memory=MEMORY, sloppy=True)


@pytest.mark.parametrize(
    ("text", "bytes_"),
    [
        ("1", 1),
        ("4096", 4096),
        ("64K", 64 * KIB),
        ("64k", 64 * KIB),
        ("2M", 2 * MIB),
        ("1g", GIB),
        ("3T", 3 * TIB),
        ("64MiB", 64 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("8 KiB", 8 * KIB),
        ("50%", 4 * GIB),
        ("100%", 8 * GIB),
        ("150%", 12 * GIB),
        (" 1M ", MIB),
        ("0", 0),
    ],
)
def test_sizes(text: str, bytes_: int) -> None:
    """Bytes, a power of 1024, or a part of the memory."""
    assert parse_size(text, MEMORY) == bytes_


def test_a_node_list_keeps_its_commas() -> None:
    """And ends where another option begins (tmpfs(5))."""
    options = parsed("size=1G,mpol=bind:0,2-3,5,mode=700")
    assert (options.mpol, options.mode) == ("bind:0,2-3,5", 0o700)


def test_names_of_users_and_groups() -> None:
    """As this machine has them."""
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    options = parsed(f"uid={user.pw_name},gid={group.gr_name}")
    assert (options.uid, options.gid) == (user.pw_uid, group.gr_gid)


def test_log_levels() -> None:
    """As the logging module has them."""
    levels = [log_level(parsed(f"log_level={word}")) for word in options_module.LOG_LEVELS]
    assert levels == [logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR]


@pytest.mark.parametrize("limit", [None, 1 << 50, 300 << 20])
def test_the_machines_memory(tmp_path: Path, limit: int | None) -> None:
    """As /proc/meminfo shows it, where no control group allows less."""
    with open("/proc/meminfo", encoding="ascii") as lines:
        kib = int(next(line for line in lines if line.startswith("MemTotal")).split()[1])
    if limit is not None:
        grouped(tmp_path, limit)
    expected = kib * KIB if limit is None else min(kib * KIB, limit)
    assert total_memory(str(tmp_path)) == expected


def grouped(root: Path, limit: int) -> None:
    """The files of a machine on which this process is in a group with a limit."""
    group = root / "sys/fs/cgroup/group"
    group.mkdir(parents=True)
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/meminfo").write_text("SwapFree: 0 kB\n")
    (root / "proc/self/cgroup").write_text("0::/group\n")
    (root / "proc/self/mountinfo").write_text(
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
    )
    (group / "memory.max").write_text(f"{limit}\n")
    (group / "memory.current").write_text("0\n")


words = st.one_of(
    st.sampled_from([*VALUED, *GENERIC, "noswap", "x-msharefs.without", "x-msharefs.crash"]),
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
)
values = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12),
    st.from_regex(r"\A-?[0-9]{1,25}[KMGTkmgt%]?\Z"),
    st.sampled_from(["always", "auto", "debug", "root", "bind:0,1", "", "0", "1777"]),
)
texts = st.lists(st.one_of(words, st.tuples(words, values).map("=".join)), max_size=4).map(",".join)


@given(texts)
@settings(max_examples=40)
def test_any_text_gives_options_or_a_usage_error(text: str) -> None:
    """Never another exception; and what is given lies in its range."""
    try:
        options = parsed(text, testing=True)
    except UsageError:
        options = parse_options("", memory=MEMORY)
    assert 4096 <= options.size <= LARGEST_FILE
    assert options.size % 4096 == 0 or options.size == LARGEST_FILE
    assert 2 <= options.nr_inodes < 1 << 31
    assert 4096 <= options.align <= 512 * GIB
    assert options.align.bit_count() == 1
    assert 4096 <= options.max_region <= LARGEST_FILE
    assert 1 <= options.max_mappings < 1 << 31
    assert 0 <= options.mode <= 0o7777
    assert 0 <= options.uid < (1 << 32) - 1
    assert 0 <= options.gid < (1 << 32) - 1
