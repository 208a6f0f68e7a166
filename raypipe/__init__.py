"""raypipe: from social posts to labels and a trained image classifier, on a laptop or a Ray cluster.

Every command is also a function of the configuration::

    import raypipe

    config = raypipe.load_config("configs/paper.yaml", root="run", posts="posts.csv")
    raypipe.ingest(config)
    raypipe.label(config)
    raypipe.sweep(config)
    raypipe.report(config)

Each returns the record of its table (`raypipe.tables.record.RunRecord`), and does nothing if the table is complete.
"""

from __future__ import annotations

import importlib
from typing import Any

from raypipe.config import Config
from raypipe.config.load import load_config
from raypipe.errors import ConfigError, InputError, RaypipeError, StageError
from raypipe.stages import STAGES

__all__ = ["Config", "ConfigError", "InputError", "RaypipeError", "StageError", "load_config", *STAGES]


def __getattr__(name: str) -> Any:
    if name not in STAGES:
        raise AttributeError(f"module 'raypipe' has no attribute {name!r}")
    # After its import, a package of this name replaces this attribute, so the package itself must be callable.
    if STAGES[name].target.startswith(f"raypipe.{name}."):
        return importlib.import_module(f"raypipe.{name}")
    return STAGES[name].load()
