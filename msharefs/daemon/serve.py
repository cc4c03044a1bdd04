"""The program of a server: `python -I -S serve.py STATE PROTOCOL DEVICE FILES SOCKET`.

Owns where its code comes from: the standard library, then the installation that this file is
part of, as its supervisor is, then what is installed beside it. Neither the environment nor a
directory that somebody else may write has a say (-I; the rest of the path is made here: -S).
"""

from __future__ import annotations

import os
import site
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
try:
    site.main()
    from msharefs.daemon.server import main  # the path is complete only now
except OSError as error:
    # No descriptor is left, say, for a module's file. The supervisor tries again.
    sys.exit(f"msharefs: a server cannot be loaded: {error}")

sys.exit(main())
