"""Collects posts by hashtag from a public feed, and revisits each after seven days (paper, section 3)."""

from raypipe.stages import make_callable

make_callable(__name__)
