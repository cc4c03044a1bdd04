"""Looks into the built wheel and source archive: what must be there, and what must not.

It knows file names only and imports nothing of the project.
"""

import sys
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path

WHEEL_HOLDS = (
    "msharefs/__init__.py",
    "msharefs/cli/mount.py",
    "msharefs/include/msharefs.h",
    "msharefs/include/msharefs_attach.h",
    "msharefs/py.typed",
    "msharefs/share/man/mshare.1",
    "msharefs/share/monitoring/alerts.yml",
    "msharefs/share/msharefs@.service",
)
SOURCE_HOLDS = (
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "PKG-INFO",
    "README.md",
    "docs/conf.py",
    "msharefs/include/msharefs.h",
    "msharefs/include/msharefs_attach.h",
    "pyproject.toml",
    "requirements.lock",
    "scripts/setup",
)
# Caches, build output and environments that a careless include would ship.
STRAY_PARTS = frozenset({"__pycache__", ".git", ".hypothesis", ".venv", "_build", "build", "dist"})
STRAY_ENDINGS = (".o", ".pyc", "_cache")


def complaints(archive: str, names: Iterable[str], wanted: tuple[str, ...]) -> Iterator[str]:
    held = set(names)
    for name in wanted:
        if name not in held:
            yield f"{archive}: {name} is missing"
    for name in sorted(held):
        if any(part in STRAY_PARTS or part.endswith(STRAY_ENDINGS) for part in name.split("/")):
            yield f"{archive}: {name} does not belong there"


def main() -> int:
    dist = Path(sys.argv[1])
    (wheel,) = dist.glob("*.whl")
    (source,) = dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = archive.namelist()
    with tarfile.open(source) as tar:
        # The first part of each name is the archive's own directory.
        in_source = [name.partition("/")[2] for name in tar.getnames()]
    found = [
        *complaints(wheel.name, in_wheel, WHEEL_HOLDS),
        *complaints(source.name, in_source, SOURCE_HOLDS),
        *(
            f"{wheel.name}: {name} is not of the package"
            for name in in_wheel
            if not name.startswith(("msharefs/", "msharefs-"))
        ),
    ]
    for line in found:
        print(line, file=sys.stderr)
    print(f"{wheel.name}: {len(in_wheel)} files; {source.name}: {len(in_source)} files")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
