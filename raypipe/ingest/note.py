"""What stands behind the bar of `ingest`: shares by status, and the hosts that hold requests up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from raypipe.progress import Progress


class Note:
    """Keeps the counts, and shows them on `progress`."""

    def __init__(self, progress: Progress) -> None:
        self._statuses: Counter[str] = Counter()
        self._progress = progress
        self._waiting = 0

    def add(self, rows: int, statuses: Mapping[str, int], waiting: int | None = None) -> None:
        """Count rows that were staged, by status; `waiting` hosts hold requests up."""
        self._statuses.update(statuses)
        self._waiting = self._waiting if waiting is None else waiting
        self._progress.advance(rows, self.text())

    def hosts(self, waiting: int, _running: int) -> None:
        """Take the desk's totals, and show them; for any thread."""
        self._waiting = waiting
        self._progress.note(self.text())

    def text(self) -> str:
        """``97% ok · 2% gone · 3 hosts waiting``."""
        total = self._statuses.total()
        parts = [f"{n / total:.0%} {status}" for status, n in self._statuses.most_common(3)]
        if self._waiting:
            parts.append(f"{self._waiting} host{'s' * (self._waiting > 1)} waiting")
        return " · ".join(parts)
