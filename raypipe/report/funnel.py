"""The funnel from collected posts to labelled pictures, and the rows that stages dropped, by reason."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from raypipe.statistics import paper
from raypipe.tables.root_tables import RootTables

_STATUS_MEANING = {
    "ok": "picture fetched",
    "gone": "no longer exists (404, 410)",
    "forbidden": "not allowed (401, 403, 451)",
    "rate_limited": "too many requests at each try (429)",
    "server_error": "the server failed (5xx)",
    "timeout": "no answer in time",
    "connection": "connection refused or broken",
    "dns": "host name not found",
    "blocked": "address or scheme not allowed",
    "redirects": "too many redirects",
    "too_large": "more bytes than allowed",
    "not_an_image": "the answer is not a picture",
    "truncated": "the picture is incomplete",
    "too_many_pixels": "more pixels than allowed",
    "invalid_url": "not a valid address",
    "deleted": "gone at the revisit, not requested",
}


@dataclass(frozen=True)
class FunnelStep:
    """One bar of the funnel. `share` is of the first bar, `kept` of the bar before it. `paper` is the paper's count."""

    name: str
    count: int
    share: float
    kept: float | None
    paper: int | None
    paper_share: float | None


@dataclass(frozen=True)
class DroppedRows:
    """The number of rows that a stage dropped for one reason."""

    stage: str
    reason: str
    rows: int


@dataclass(frozen=True)
class RowBalance:
    """Row counts of one stage: `rows_in` = `rows_out` + `dropped`."""

    stage: str
    rows_in: int
    rows_out: int
    dropped: int


@dataclass(frozen=True)
class StatusCount:
    """The number of pictures with one status of fetching."""

    name: str
    meaning: str
    count: int
    share: float


@dataclass(frozen=True)
class FunnelCounts:
    """All data of the funnel section. A list is empty if its table is missing."""

    steps: list[FunnelStep]
    splits: dict[str, int]
    dropped: list[DroppedRows]
    balances: list[RowBalance]
    statuses: list[StatusCount]
    requests: int | None
    fetched_bytes: int | None

    def count(self, name: str) -> int | None:
        """The count of a step by name. None if the run has no such step."""
        return next((step.count for step in self.steps if step.name == name), None)


COLLECTED, PRESENT, FETCHED = "Posts collected", "Still there at the revisit", "Picture fetched"
WITH_FACE, ONE_FACE = "With a face", "With exactly one face"
SCORED, LABELLED = "Took part in labelling", "Labelled"

# Tables of the generated world. They drop no rows of the run, so their dropped rows are not shown.
_WORLD_TABLES = ("truth", "pictures")

_PAPER = {
    COLLECTED: paper.COLLECTED,
    PRESENT: paper.PRESENT,
    WITH_FACE: paper.WITH_FACE,
    ONE_FACE: paper.ONE_FACE,
    LABELLED: paper.LABELLED,
}


def build(root_tables: RootTables) -> FunnelCounts:
    """Count the funnel from the tables. Collected posts, balances and dropped rows come from the records."""
    images = root_tables.images
    fetched = None if images is None else images[images["status"] == "ok"]
    return FunnelCounts(
        steps=_steps(_counts(root_tables)),
        splits=_splits(root_tables),
        dropped=_dropped(root_tables),
        balances=[
            RowBalance(name, record.rows_in, record.rows_out, sum(record.dropped.values()))
            for name, record in root_tables.records.items()
            if name in ("posts", "images", "labels")
        ],
        statuses=_statuses(root_tables),
        requests=None if images is None else int(images["attempts"].fillna(0).sum()),
        fetched_bytes=None if fetched is None else int(fetched["n_bytes"].fillna(0).sum()),
    )


def _counts(root_tables: RootTables) -> dict[str, int]:
    found: dict[str, int] = {}
    if root_tables.posts is not None:
        found[COLLECTED] = root_tables.records["posts"].rows_in
        found[PRESENT] = int((~root_tables.posts["deleted"].astype(bool)).sum())
    if root_tables.images is not None:
        fetched = root_tables.images[root_tables.images["status"] == "ok"]
        if fetched["n_bytes"].notna().any():
            found[FETCHED] = len(fetched)
        if fetched["n_faces"].notna().any():
            found[WITH_FACE] = int((fetched["n_faces"] >= 1).sum())
            found[ONE_FACE] = int((fetched["n_faces"] == 1).sum())
    if root_tables.labels is not None:
        found[SCORED] = len(root_tables.labels)
        found[LABELLED] = int(root_tables.labels["label"].notna().sum())
    return found


def _steps(counts: dict[str, int]) -> list[FunnelStep]:
    steps: list[FunnelStep] = []
    first = max(next(iter(counts.values()), 0), 1)
    before: int | None = None
    for name, count in counts.items():
        theirs = _PAPER.get(name)
        steps.append(
            FunnelStep(
                name=name,
                count=count,
                share=count / first,
                kept=count / before if before else None,
                paper=theirs,
                paper_share=theirs / paper.COLLECTED if theirs else None,
            )
        )
        before = count
    return steps


def _splits(root_tables: RootTables) -> dict[str, int]:
    if root_tables.labels is None:
        return {}
    found = root_tables.labels.loc[root_tables.labels["label"].notna(), "split"].value_counts()
    return {name: int(found[name]) for name in ("train", "val", "test") if name in found.index}


def _dropped(root_tables: RootTables) -> list[DroppedRows]:
    found = [
        DroppedRows(stage, reason, rows)
        for stage, record in root_tables.records.items()
        if stage not in _WORLD_TABLES
        for reason, rows in record.dropped.items()
        if rows
    ]
    return sorted(found, key=lambda item: (list(root_tables.records).index(item.stage), -item.rows))


def _statuses(root_tables: RootTables) -> list[StatusCount]:
    if root_tables.images is None:
        return []
    counts = root_tables.images["status"].value_counts()
    total = max(int(np.sum(counts.to_numpy())), 1)
    return [
        StatusCount(str(name), _STATUS_MEANING.get(str(name), ""), int(count), int(count) / total)
        for name, count in counts.items()
    ]
