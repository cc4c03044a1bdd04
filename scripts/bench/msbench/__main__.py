"""`python -m msbench`, which is how scripts/bench/run starts the bench."""

import sys

from .main import main

sys.exit(main(sys.argv[1:]))
