"""Storage of a run: local folder, S3, Google or Azure, with whole and conditional writes, and private scratch."""

from __future__ import annotations

from raypipe.storage.storage import Storage, explain, is_access_error

__all__ = [
    "Storage",
    "explain",
    "is_access_error",
]
