"""Picture files: formats, checks, and decoding in a child process."""
