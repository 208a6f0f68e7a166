"""From engagement to labels. The package itself is the stage: ``raypipe.label(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
