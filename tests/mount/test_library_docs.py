"""The programs that the reference pages show run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.mount import ROOT, Mount

pytestmark = pytest.mark.mount

SHOWN = "/mnt/mshare"


def blocks(page: str, language: str) -> list[str]:
    """The blocks of a page in one language, in order."""
    text = (ROOT / "docs" / page).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert found, f"{page} shows no {language}"
    return found


def run(program: str, mounted: Mount) -> None:
    """Run a Python program as a page shows it, on the tests' mount."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program.replace(SHOWN, str(mounted.path))],
        env={**os.environ, "MSHAREFS_DIR": str(mounted.path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_first_program_of_the_python_reference(mounted: Mount) -> None:
    """It makes a region, uses it and takes it away again."""
    run(blocks("python.md", "python")[0], mounted)
    assert os.listdir(mounted.path) == ["mshare_info"]


def test_following_thread_of_the_python_reference(mounted: Mount) -> None:
    """The function that follows all changes makes what is mapped usable."""
    (follow,) = [block for block in blocks("python.md", "python") if "def follow" in block]
    use = (
        "import msharefs, threading, time\n"
        f"region = msharefs.Region.create({SHOWN + '/followed'!r}, 2 << 20)\n"
        "region.unlink()\n"
        "window = region.attach(enforce=True)\n"
        f"{follow}"
        "thread = threading.Thread(target=follow, args=(region, window))\n"
        "thread.start()\n"
        "region.map(0, 4096)\n"
        "zeros, deadline = open('/dev/zero', 'rb', 0), time.monotonic() + 20\n"
        "while time.monotonic() < deadline:\n"
        "    try: zeros.readinto(window.buf[:1]); break\n"
        "    except OSError: time.sleep(0.01)\n"
        "else: raise SystemExit('never followed')\n"
        "region.close(); thread.join(); window.close(); zeros.close()\n"
    )
    run(use, mounted)


def test_first_program_of_the_shared_memory_page(mounted: Mount) -> None:
    """It makes a block, uses it and takes it away again."""
    run(blocks("shared_memory.md", "python")[0], mounted)
    assert os.listdir(mounted.path) == ["mshare_info"]


def test_program_of_the_c_reference(mounted: Mount, tmp_path: Path) -> None:
    """With a main around it, it compiles without a warning, runs and leaves nothing."""
    (body,) = (block for block in blocks("api-c.md", "c") if "int main(" not in block)
    names = ("fcntl.h", "msharefs.h", "string.h", "sys/mman.h", "unistd.h")
    includes = "".join(f"#include <{name}>\n" for name in names)
    shown = body.replace(SHOWN, str(mounted.path))
    # What is mapped at the start can be written before it is unmapped.
    body = shown.replace("memory[0] = 1;", 'memory[0] = 1;\nstrcpy(memory, "hello");', 1)
    assert body != shown
    source, program = tmp_path / "shown.c", tmp_path / "shown"
    source.write_text(f"{includes}int main(void) {{\n{body}\nreturn 0; }}\n")
    words = ["cc", "-Wall", "-Wextra", "-Werror", "-Wno-unused-result"]
    include = ROOT / "msharefs" / "include"
    subprocess.run([*words, f"-I{include}", "-o", program, source], check=True, timeout=40)
    subprocess.run([program], check=True, timeout=40)
    assert os.listdir(mounted.path) == ["mshare_info"]


def test_whole_program_of_the_c_reference_says_why_it_fails(mounted: Mount, tmp_path: Path) -> None:
    """The first time it works; the second time the region is there, and it says so."""
    (shown,) = (block for block in blocks("api-c.md", "c") if "#define NAME" in block)
    source, program = tmp_path / "table.c", tmp_path / "table"
    source.write_text(shown.replace(SHOWN, str(mounted.path)).replace("1UL << 30", "2UL << 20"))
    include = ROOT / "msharefs" / "include"
    subprocess.run(["cc", f"-I{include}", "-o", program, source], check=True, timeout=40)
    subprocess.run([program], check=True, timeout=40)
    done = subprocess.run([program], capture_output=True, text=True, timeout=40, check=False)
    (mounted.path / "table").unlink()
    assert (done.returncode, done.stderr) == (1, f"{mounted.path}/table: File exists\n")
