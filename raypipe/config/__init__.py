"""The one typed configuration: sections of options, the command line, names."""

from __future__ import annotations

from raypipe.config.configuration import Config

__all__ = [
    "Config",
]
