"""Functions applied in child processes, one or a pool of them, so that a crash loses one item only."""
