"""Turns engagement into labels. The package itself is callable: ``raypipe.label(config)`` runs the stage."""

from raypipe.stages import make_callable

make_callable(__name__)
