"""`raypipe label` as a Ray job: ``ray job submit --working-dir . -- python jobs/label.py --root URI …``."""

import sys

from raypipe.cli import main

sys.exit(main(["label", *sys.argv[1:]]))
