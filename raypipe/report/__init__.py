"""One HTML page about a whole run. The package itself is the stage: ``raypipe.report(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
