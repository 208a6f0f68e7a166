"""Exports pictures and labels, or a trained model. The package itself is the stage: ``raypipe.export(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
