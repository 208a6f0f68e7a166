"""How far schemes agree: which posts they label the same."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import pyarrow as pa

from raypipe.judge.label_stability import ExtremeLabels, compare_labels, label_extremes
from raypipe.label.schemes import label_group_halves


@dataclass(frozen=True)
class Overlap:
    """Two schemes on the same posts: of those that `first` labels, the shares that `second` labels same or opposite."""

    first: str
    second: str
    n_first: int
    same: float
    opposite: float


def labels_by_scheme(posts: pd.DataFrame, q: float, group: int) -> dict[str, ExtremeLabels]:
    """The extremes of posts with y and score on this sample, by scheme: score, likes alone, Karpathy's groups. Before
    these come the labels of `labels/` (``labels``), if they are top and bottom.
    """
    table = pa.table(
        {
            "post_id": pa.array(posts["post_id"], pa.string()),
            "followers": posts["followers"].to_numpy(),
            "likes": posts["likes"].to_numpy(),
        }
    )
    codes = label_group_halves(table, group)
    given = {}
    if are_top_and_bottom(posts["label"]):
        given["labels"] = ExtremeLabels(posts["label"].eq("bottom").to_numpy(), posts["label"].eq("top").to_numpy())
    return given | {
        "residual": label_extremes(posts["score"].to_numpy(float), posts["post_id"], q),
        "likes": label_extremes(posts["y"].to_numpy(float), posts["post_id"], q),
        "karpathy": ExtremeLabels(codes == 0, codes == 1),
    }


def are_top_and_bottom(labels: pd.Series) -> bool:
    """Whether labels are ``top`` and ``bottom``, so that they can be compared with the schemes that give these."""
    return set(labels.dropna().map(str)) == {"bottom", "top"}


def overlaps(found: dict[str, ExtremeLabels]) -> list[Overlap]:
    """The overlap of each ordered pair of schemes."""
    return [
        _overlap(first, a, second, b) for first, a in found.items() for second, b in found.items() if first != second
    ]


def _overlap(first: str, a: ExtremeLabels, second: str, b: ExtremeLabels) -> Overlap:
    n = int((a.top | a.bottom).sum())
    kept = compare_labels(a, b)
    return Overlap(first, second, n, kept.same, kept.opposite)
