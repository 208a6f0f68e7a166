"""Fine-tuning VGG-16. The package itself is the stage: ``raypipe.train(config)``."""

from raypipe.stages import make_callable

make_callable(__name__)
