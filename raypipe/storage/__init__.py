"""Where a run lives: a local folder, S3, Google or Azure; whole writes, conditional writes, private scratch."""

from __future__ import annotations

from raypipe.storage.storage import Storage, explain, is_refusal

__all__ = [
    "Storage",
    "explain",
    "is_refusal",
]
