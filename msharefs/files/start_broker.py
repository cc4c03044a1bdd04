"""The program of the broker: `python -I -S start_broker.py SOCKET`.

Owns where its code comes from: the standard library, then the installation that this file is
part of. Nothing that is installed beside it is needed (-S), and the environment has no say (-I).
"""

from __future__ import annotations

import os
import sys

sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from msharefs.files.broker import main

sys.exit(main())
