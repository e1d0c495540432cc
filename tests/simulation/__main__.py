"""Runs nodes in virtual time. See `scripts/simulate`."""

import sys

from tests.simulation.command import main

if __name__ == "__main__":
    sys.exit(main())
