"""What an ordinary user needs to run our programs here, for as long as he is measured.

Owns what is laid over the mounts of the bench's own namespace for that: /dev/fuse open to all, as udev
makes it, and a way to the interpreter and the checkout where they lie in somebody's closed home.
"""

from __future__ import annotations

import contextlib
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

FUSE = Path("/dev/fuse")


def become(user: str | None) -> list[str]:
    """The words before a command that is run as a user; none for root's. He has nothing of root's
    surroundings that says where root's things are."""
    if user is None:
        return []
    identity = ["setpriv", f"--reuid={user}", "--regid=nogroup", "--clear-groups"]
    return [*identity, "env", "-u", "XDG_RUNTIME_DIR", "HOME=/nonexistent"]


@contextlib.contextmanager
def let_in(paths: Sequence[Path], scratch: Path) -> Iterator[None]:
    """These paths can be reached by everybody, and so can FUSE. Needs a mount namespace of one's own
    and an empty directory; undone at the end."""
    with contextlib.ExitStack() as stack:
        if not stat.S_IMODE(FUSE.stat().st_mode) & stat.S_IWOTH:
            node = scratch / "fuse"
            os.mknod(node, stat.S_IFCHR, FUSE.stat().st_rdev)
            stack.callback(node.unlink)
            node.chmod(0o666)
            _mount(stack, FUSE, "--bind", node)
        held = {path: os.open(path, os.O_PATH) for path in map(Path.resolve, paths)}
        for fd in held.values():
            stack.callback(os.close, fd)
        covers = {place for place in map(_closed_part, held) if place is not None}
        for place in covers:
            _mount(stack, place, "-t", "tmpfs", "-o", "mode=0755", "none")
        for path, fd in held.items():
            if any(path.is_relative_to(place) for place in covers) and not path.exists():
                path.mkdir(parents=True)
                # The name is covered by now, only the descriptor leads there.
                _mount(
                    stack, path, "--no-canonicalize", "--rbind", f"/proc/self/fd/{fd}", fds=(fd,)
                )
        yield


def _closed_part(path: Path) -> Path | None:
    """The topmost directory on the way that others may not search."""
    for place in (path, *path.parents)[::-1]:
        if not place.stat().st_mode & stat.S_IXOTH:
            return place
    return None


def _mount(
    stack: contextlib.ExitStack, place: Path, *words: str | Path, fds: Sequence[int] = ()
) -> None:
    command = ["mount", *map(str, words), str(place)]
    subprocess.run(command, check=True, timeout=20, pass_fds=fds)
    stack.callback(subprocess.run, ["umount", "--lazy", str(place)], check=False, timeout=20)
