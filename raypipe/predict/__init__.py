"""Predictions of a trained model for new pictures. The package itself is the stage: ``raypipe.predict(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
