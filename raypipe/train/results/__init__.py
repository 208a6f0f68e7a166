"""Files that a training writes: checkpoints, predictions, tables, comparisons."""
