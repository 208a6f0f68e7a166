"""What a training leaves: checkpoints, predictions, tables, comparisons."""
