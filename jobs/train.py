"""`raypipe train` as a Ray job: ``ray job submit --working-dir . -- python jobs/train.py --root URI …``."""

import sys

from raypipe.cli import main

sys.exit(main(["train", *sys.argv[1:]]))
