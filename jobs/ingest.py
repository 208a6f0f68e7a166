"""`raypipe ingest` as a Ray job: ``ray job submit --working-dir . -- python jobs/ingest.py --root URI …``."""

import sys

from raypipe.cli import main

sys.exit(main(["ingest", *sys.argv[1:]]))
