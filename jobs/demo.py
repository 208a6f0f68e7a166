"""`raypipe demo` as a Ray job: ``ray job submit --working-dir . -- python jobs/demo.py --root URI …``."""

import sys

from raypipe.cli import main

sys.exit(main(["demo", *sys.argv[1:]]))
