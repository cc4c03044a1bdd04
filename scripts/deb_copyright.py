"""Writes debian/copyright: msharefs, and each library that goes into the package with it.

Takes the directory that they were installed in. What a library says of itself is in its metadata;
the texts of the licenses stay beside it.
"""

import sys
from importlib.metadata import Distribution, distributions
from pathlib import Path

HEAD = """\
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: msharefs

Files: *
Copyright: 2026 The msharefs authors
License: Expat
"""


def license_of(library: Distribution) -> str:
    """In one line, as its authors say it."""
    facts = library.metadata.json
    words = str(facts.get("license_expression") or facts.get("license") or "").split("\n")[0]
    if not words or len(words) > 60:
        classifiers = library.metadata.get_all("Classifier") or []
        words = next((c.rpartition(" :: ")[2] for c in classifiers if c.startswith("License")), "")
    return words or "see its directory"


def main() -> int:
    site = Path(sys.argv[1])
    own = Path("LICENSE").read_text(encoding="utf-8").split("\n\n", 2)[2]
    print(HEAD + "".join(f" {line or '.'}\n" for line in own.strip().splitlines()))
    for library in sorted(distributions(path=[str(site)]), key=lambda each: each.name.lower()):
        if library.name == "msharefs":
            continue
        names = sorted({file.parts[0] for file in library.files or () if ".." not in file.parts})
        files = " ".join(f"usr/lib/msharefs/lib/*/{name}" for name in names)
        facts = library.metadata.json
        author = str(facts.get("author") or facts.get("author_email") or "its authors")
        print(f"Files: {files or library.name}")
        print(f"Copyright: {' '.join(author.split())}")
        print(f"License: {library.name}")
        print(f" {library.name} {library.version}: {license_of(library)}.")
        print(" The text is in its .dist-info directory below /usr/lib/msharefs.\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
