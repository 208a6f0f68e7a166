"""Generated posts and portraits whose truth is known. The package itself is the stage: ``raypipe.world(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
