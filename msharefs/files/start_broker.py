"""The program of the broker: `python -I -S start_broker.py SOCKET`.

Owns where its code comes from: the standard library, then the installation that this file is
part of, then what is installed beside it. Neither the environment nor a directory that somebody
else may write has a say (-I; the rest of the path is made here: -S).
"""

from __future__ import annotations

import os
import site
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
site.main()

from msharefs.files.broker import main  # noqa: E402 - the path is complete only now

sys.exit(main())
