"""Posts checked, pictures fetched, faces counted. The package itself is the stage: ``raypipe.ingest(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
