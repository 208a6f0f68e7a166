"""Intervals and tests with numpy and scipy only. All stages use these functions for the uncertainty of a number."""
