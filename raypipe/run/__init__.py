"""Stages in a row: ``raypipe run`` and ``raypipe demo``. The package itself is the stage: ``raypipe.run(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
