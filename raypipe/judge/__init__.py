"""What labels are worth before any GPU is spent. The package itself is the stage: ``raypipe.judge(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
