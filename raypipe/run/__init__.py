"""Stages in a row: ``raypipe run`` and ``raypipe demo``. The package itself can be called: ``raypipe.run(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
