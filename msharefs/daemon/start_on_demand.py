"""The program of a process on demand: `python -I -S start_on_demand.py MODULE ARGUMENT...`.

Owns where its code comes from: the standard library, then the installation that this file is
part of, then what is installed beside it. Neither the environment nor a directory that somebody
else may write has a say (-I; the rest of the path is made here: -S). The module's `main` is given
the arguments, and returns the exit code.
"""

from __future__ import annotations

import os
import site
import sys
from importlib import import_module

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
site.main()

sys.exit(import_module(sys.argv[1]).main(sys.argv[2:]))
