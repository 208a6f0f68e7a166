"""Table 2: how people classified the pictures, one row per participant."""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.statistics.clustered import clustered_share_interval, number_users
from raypipe.tables.root_tables import RootTables


@dataclass(frozen=True)
class Participant:
    """One person's answers: the share that agrees with the labels. Its 95 % interval takes posts of a user together."""

    name: str
    pictures: int
    accuracy: float
    low: float
    high: float
    median_seconds: float


def build(root_tables: RootTables) -> list[Participant]:
    """All participants whose answers are complete, sorted by name."""
    found = []
    for table in sorted(root_tables.study_tables):
        answers = root_tables.frame(table)
        if answers is None or answers.empty:
            continue
        right = (answers["answer"] == answers["label"]).to_numpy()
        accuracy = float(right.mean())
        low, high = clustered_share_interval(
            accuracy, right, number_users(map(root_tables.users.get, answers["post_id"]))
        )
        found.append(
            Participant(
                name=str(answers["participant"].iloc[0]),
                pictures=len(answers),
                accuracy=accuracy,
                low=low,
                high=high,
                median_seconds=float(answers["seconds"].median()),
            )
        )
    return found
