"""Counts over `images/`: for its record, and as text for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

_HOSTS = 100


@dataclass
class ImageCounts:
    """Counts over rows of `images/`."""

    COLUMNS: ClassVar = ("status", "host", "n_bytes", "n_faces", "error")

    statuses: Counter[str] = field(default_factory=Counter)
    hosts: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    n_faces: Counter[str] = field(default_factory=Counter)
    n_bytes: int = 0
    first_errors: dict[str, str] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        """Add rows, which must have COLUMNS."""
        self.statuses.update(rows["status"].to_pylist())
        pairs = rows.select(["host", "status"]).group_by(["host", "status"]).aggregate([([], "count_all")])
        for pair in pairs.to_pylist():
            if pair["host"] is not None:
                self.hosts.setdefault(pair["host"], Counter())[pair["status"]] += pair["count_all"]
        self.n_faces.update("2+" if n > 1 else str(n) for n in rows["n_faces"].to_pylist() if n is not None)
        self.n_bytes += pc.sum(rows["n_bytes"]).as_py() or 0
        for status, error in zip(rows["status"].to_pylist(), rows["error"].to_pylist(), strict=True):
            if error is not None:
                self.first_errors.setdefault(status, error)

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add seconds of work, by step."""
        for step, value in seconds.items():
            self.seconds[step] = self.seconds.get(step, 0.0) + value

    @property
    def rows(self) -> int:
        """Number of rows counted."""
        return self.statuses.total()

    def funnel(self) -> dict[str, int | None]:
        """Return the paper's funnel (section 3): posts, present at the revisit, fetched, with a face, with exactly one.

        The last two are None if faces were not counted.
        """
        fetched = self.statuses["ok"]
        counted = bool(self.n_faces) or not fetched
        with_face = self.n_faces["1"] + self.n_faces["2+"]
        return {
            "posts": self.rows,
            "present": self.rows - self.statuses["deleted"],
            "fetched": fetched,
            "with_face": with_face if counted else None,
            "one_face": self.n_faces["1"] if counted else None,
        }

    def facts(self) -> dict[str, Any]:
        """Return the facts for the record of `images/`, with counts by status for the 100 most frequent hosts."""
        hosts = sorted(self.hosts, key=lambda host: (-self.hosts[host].total(), host))[:_HOSTS]
        return {
            "funnel": self.funnel(),
            "statuses": dict(self.statuses.most_common()),
            "n_faces": dict(sorted(self.n_faces.items())),
            "hosts": {host: dict(self.hosts[host].most_common()) for host in hosts},
            "n_hosts": len(self.hosts),
            "n_bytes": self.n_bytes,
        }


def funnel_text(facts: Mapping[str, Any]) -> str:
    """Return the funnel as one line of text, from the facts of the record of `images/`."""
    funnel = facts["funnel"]
    text = f"Pictures: {funnel['posts']:,} posts"
    gone = funnel["posts"] - funnel["present"]
    if gone:
        text += f", {funnel['present']:,} present at the revisit ({gone:,} deleted)"
    text += f", {funnel['fetched']:,} fetched"
    if funnel["with_face"] is None:
        return f"{text}; faces were not counted"
    return f"{text}, {funnel['with_face']:,} with a face, {funnel['one_face']:,} with exactly one"


def failure_lines(image_counts: ImageCounts) -> list[str]:
    """Return one line per status except ``ok`` and ``deleted``, with the first error of that status."""
    return [
        f"  {n:,} {status}: {image_counts.first_errors.get(status, 'no reason')}"
        for status, n in image_counts.statuses.most_common()
        if status not in ("ok", "deleted")
    ]
