"""Checks of this machine and this root. The package itself is the stage: ``raypipe.doctor(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
