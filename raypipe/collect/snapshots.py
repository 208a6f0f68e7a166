"""Rows of `snapshots/`: posts as `collect` first read them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from raypipe.tables.schemas import POSTS

SNAPSHOTS = pa.schema([field for field in POSTS if field.name not in ("revisited_at", "deleted")])
"""Schema of `snapshots/`: posts as first seen. It has the columns of `posts/` except those of the revisit."""


def deleted_row(snapshot: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a post that its server no longer has as a row of `posts/`, with the likes and other values first seen."""
    return {**snapshot, "revisited_at": now, "deleted": True}


@dataclass
class TimelinePage:
    """One page of a timeline: rows of `snapshots/`, and the number of dropped statuses by reason."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    seen: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    def drop(self, reason: str) -> None:
        """Count one dropped status."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
