"""The program of a server: `python -I -S serve.py STATE DEVICE FILES SOCKET`.

Owns where its code comes from: the standard library, then the installation that this file is
part of, as its supervisor is, then what is installed beside it. Neither the environment nor a
directory that somebody else may write has a say (-I; the rest of the path is made here: -S).
"""

from __future__ import annotations

import os
import site
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
site.main()

from msharefs.daemon.server import main  # noqa: E402 - the path is complete only now

sys.exit(main())
