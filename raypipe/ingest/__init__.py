"""Checks posts, fetches pictures, counts faces. The package itself can be called: ``raypipe.ingest(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
