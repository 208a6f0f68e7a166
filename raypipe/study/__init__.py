"""People classify pictures. The package itself is the stage: ``raypipe.study(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
