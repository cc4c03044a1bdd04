"""How Sphinx builds these pages: MyST Markdown, the theme that comes with Sphinx, no network."""

import re
from pathlib import Path

_package = Path(__file__).parent.parent / "msharefs" / "__init__.py"
_version = re.search(r'__version__ = "([^"]+)"', _package.read_text(encoding="utf-8"))
if _version is None:
    raise RuntimeError(f"{_package} has no __version__")

project = "msharefs"
author = "The msharefs authors"
copyright = "2026, The msharefs authors"
version = release = _version.group(1)

extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]

html_theme = "alabaster"
html_theme_options = {
    "description": "Shared memory with small page tables, as files",
    "fixed_sidebar": True,
    "page_width": "1180px",
    "body_max_width": "880px",
}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["wide.css"]

# sphinx-build -b man docs docs/_build/man
man_pages = [
    ("man/msharefs-mount.8", "msharefs-mount", "mount shared memory as files", [author], 8),
    ("man/mshare.1", "mshare", "look at and work with regions of shared memory", [author], 1),
    ("man/msharefs.5", "msharefs", "files that are regions of shared memory", [author], 5),
]
