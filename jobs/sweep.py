"""`raypipe sweep` as a Ray job: ``ray job submit --working-dir . -- python jobs/sweep.py --root URI …``."""

import sys

from raypipe.cli import main

sys.exit(main(["sweep", *sys.argv[1:]]))
