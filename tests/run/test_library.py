"""The preloaded library: how it is built, where it is found, and what it leaves alone."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from msharefs.preload import library
from tests.helpers.mount import ROOT
from tests.helpers.users import open_the_way

HOOKS = {
    "__open64_2",
    "__open_2",
    "__openat64_2",
    "__openat_2",
    "__pread64_chk",
    "__pread_chk",
    "__read_chk",
    "copy_file_range",
    "creat",
    "creat64",
    "dlopen",
    "execl",
    "execle",
    "execlp",
    "execv",
    "execve",
    "execvp",
    "execvpe",
    "fallocate",
    "fallocate64",
    "fopen",
    "fopen64",
    "ftruncate",
    "ftruncate64",
    "lseek",
    "lseek64",
    "madvise",
    "mmap",
    "mmap64",
    "mremap",
    "msharefs_out_of_reach",
    "munmap",
    "open",
    "open64",
    "openat",
    "openat64",
    "posix_fallocate",
    "posix_fallocate64",
    "posix_spawn",
    "posix_spawnp",
    "pread",
    "pread64",
    "preadv",
    "preadv2",
    "preadv64",
    "preadv64v2",
    "pwrite",
    "pwrite64",
    "pwritev",
    "pwritev2",
    "pwritev64",
    "pwritev64v2",
    "read",
    "readv",
    "sendfile",
    "sendfile64",
    "shm_open",
    "shmat",
    "shmdt",
    "shmget",
    "splice",
    "truncate",
    "truncate64",
    "write",
    "writev",
}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and sources that nobody has built a library of."""
    sources = tmp_path / "preload"
    shutil.copytree(library.HERE, sources, ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    monkeypatch.setattr(library, "HERE", sources)
    monkeypatch.setattr(library, "SOURCES", sources / "lib")
    monkeypatch.setattr(library, "cache_directory", lambda: tmp_path / "cache")
    monkeypatch.delenv(library.VARIABLE)
    return tmp_path / "cache"


@pytest.mark.parametrize("optimize", ["-O0", "-O3"])
def test_sources_compile_without_a_warning(tmp_path: Path, optimize: str) -> None:
    """Every warning an error, without optimization and with much of it."""
    sources = [str(path) for path in sorted(library.SOURCES.glob("*.c"))]
    include = f"-I{library.INCLUDE}"
    done = subprocess.run(
        ["gcc", *library.FLAGS, optimize, "-Werror", include, *sources, "-o", tmp_path / "x.so"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_library_shows_only_its_hooks(built_library: Path) -> None:
    """No name of the library's own gets in the way of a program's."""
    listed = subprocess.run(
        ["nm", "-D", "--defined-only", built_library], capture_output=True, text=True, check=True
    )
    assert {line.split()[-1] for line in listed.stdout.splitlines()} == HOOKS


def test_library_without_a_run_changes_nothing(built_library: Path) -> None:
    """Loaded without the environment of a run, it lets every call through."""
    code = (
        "import mmap; m = mmap.mmap(-1, 128 << 20); m[5] = 1; m.resize(256 << 20);"
        "print(m[5], 'dev/zero' in open('/proc/self/maps').read()); m.close()"
    )
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MSHAREFS_")}
    done = subprocess.run(
        ["/usr/bin/env", "python3", "-c", code],
        env={**clean, "LD_PRELOAD": str(built_library)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 True\n", "")


def test_library_is_built_once(own_cache: Path) -> None:
    """The first look builds it, the second finds it; other sources want another one."""
    first = library.find_library()
    assert first.parent == own_cache
    stamp = first.stat().st_mtime_ns
    assert library.find_library() == first
    assert first.stat().st_mtime_ns == stamp
    with (library.SOURCES / "say.c").open("a") as source:
        source.write("/* another */\n")
    assert library.file_name() != first.name


def test_installed_library_is_taken(own_cache: Path, built_library: Path) -> None:
    """One beside the sources, as the package build puts it there, comes first. Root's
    programs may become another user: what others cannot read will not do for root."""
    open_the_way(library.HERE)
    installed = library.HERE / library.file_name()
    shutil.copy(built_library, installed)
    assert library.find_library() == installed
    own_cache.mkdir(mode=0o755)
    shutil.copy(built_library, own_cache / installed.name)
    installed.parent.chmod(0o700)
    others = own_cache if os.geteuid() == 0 else installed.parent
    assert library.find_library() == others / installed.name


def test_library_that_others_can_write_is_not_taken(own_cache: Path) -> None:
    """It is built anew."""
    own_cache.mkdir(mode=0o755)
    path = own_cache / library.file_name()
    path.write_bytes(b"something else")
    path.chmod(0o666)
    assert library.find_library() == path
    assert path.read_bytes()[:4] == b"\x7fELF"
    assert path.stat().st_mode & 0o022 == 0


def test_missing_compiler_is_said(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence that names what is missing."""
    monkeypatch.setenv("PATH", str(own_cache))
    monkeypatch.delenv("CC", raising=False)
    with pytest.raises(library.LibraryError, match="there is no C compiler"):
        library.find_library()


def test_sources_that_do_not_compile_are_said(own_cache: Path) -> None:
    """One line of the compiler's, with the place."""
    with (library.SOURCES / "say.c").open("a") as source:
        source.write("#error broken\n")
    with pytest.raises(library.LibraryError, match=r"say\.c.*broken"):
        library.find_library()
    assert os.listdir(own_cache) == []


def test_wheel_holds_the_library(tmp_path: Path) -> None:
    """The package build compiles it: a wheel for this kind of machine and every Python."""
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for name in ("msharefs", "packaging", "scripts"):
        ignored = shutil.ignore_patterns("*.so", "__pycache__", ".*_cache")
        shutil.copytree(ROOT / name, tree / name, ignore=ignored)
    built = subprocess.run(
        [shutil.which("hatchling") or ROOT / ".venv/bin/hatchling", "build", "-t", "wheel"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tree / "dist").iterdir()
    assert "-py3-none-linux_" in wheel.name
    listed = subprocess.run(
        ["python3", "-m", "zipfile", "-l", wheel], capture_output=True, text=True, check=True
    )
    assert f"msharefs/preload/{library.file_name()} " in listed.stdout
