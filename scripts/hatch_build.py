"""Part of the package build: compiles the library that mshare run preloads, and adds what
`mshare install` places.

It loads msharefs/preload/library.py by itself, because the package cannot be imported
before it is installed. A machine without a C compiler still gets the package: the library
is then built at the first mshare run, or that says what is missing.
"""

from __future__ import annotations

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

LIBRARY = Path("msharefs", "preload", "library.py")


class LibraryHook(BuildHookInterface[BuilderConfig]):
    """Adds the compiled library to a wheel, or puts it beside its sources."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Called before the wheel is made; `version` is "standard" or "editable"."""
        if version == "standard":
            build_data["force_include"].update(self._shared())
        library = _load(Path(self.root, LIBRARY))
        target = Path(self.root, LIBRARY).with_name(library.file_name())
        try:
            library.build(target)
        except library.LibraryError as error:
            self.app.display_warning(f"mshare run will have to build its library: {error}")
            return
        for old in target.parent.glob(f"{library.NAME}*.so"):
            if old != target:
                old.unlink()
        build_data["artifacts"].append(target.relative_to(self.root).as_posix())
        # A wheel for this kind of machine, but for every version of Python.
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"

    def _shared(self) -> dict[str, str]:
        """What `mshare install` places in the system, by where it is in a wheel. Man pages are there
        if they were built."""
        root = Path(self.root)
        found = {root / "packaging/msharefs@.service": "msharefs/share/msharefs@.service"}
        for example in sorted(root.glob("examples/*.[chp]*")):
            found[example] = f"msharefs/share/examples/{example.name}"
        for example in sorted(root.glob("packaging/monitoring/*")):
            found[example] = f"msharefs/share/monitoring/{example.name}"
        for page in sorted(root.glob("docs/_build/man/*.[1-9]")):
            found[page] = f"msharefs/share/man/{page.name}"
        return {str(path): place for path, place in found.items()}


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("msharefs_preload_library", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
