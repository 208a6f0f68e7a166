"""Pictures and labels for those who train elsewhere. The package itself is the stage: ``raypipe.export(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
