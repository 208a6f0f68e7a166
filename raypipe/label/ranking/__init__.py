"""Exact ranks of any number of posts."""
