"""`raypipe run` as a Ray job: ``ray job submit --working-dir . -- python jobs/run.py --root URI …``."""

import sys

from raypipe.cli import main

sys.exit(main(["run", *sys.argv[1:]]))
