"""Measures what labels are worth before training. The package itself is callable: ``raypipe.judge(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
