"""Child processes: one for an item that may crash it, or a pool of them."""
