"""Intervals and tests, by numpy and scipy alone: the same functions for every stage that says how sure a number is."""
