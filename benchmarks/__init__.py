"""Benchmarks of raypipe's speed and memory, one script per claim. The results are in results/."""
