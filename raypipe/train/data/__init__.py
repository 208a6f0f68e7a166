"""Pictures for the network: decoded once, kept in files, read by row."""
