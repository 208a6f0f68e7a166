"""The small root of `tests/training_root.py` for the tests of this folder."""

from tests.training_root import training

__all__ = ["training"]
