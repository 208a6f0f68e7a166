"""Benchmarks of `raypipe label`."""
