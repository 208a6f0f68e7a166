"""Benchmarks of the stage `ingest` against one nginx on the same machine."""
