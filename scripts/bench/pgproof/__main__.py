"""`python -m pgproof`, which is how scripts/bench/postgres starts."""

import sys

from .main import main

sys.exit(main(sys.argv[1:]))
