"""How far schemes agree: which posts are top in both?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from raypipe.judge.refit import Extremes, compare, label_extremes
from raypipe.label.schemes import halves


@dataclass(frozen=True)
class Overlap:
    """Two schemes on the same posts: of those that `first` labels, the shares that `second` labels same or opposite.

    `kappa` is Cohen's (1960), over the posts that both label; None where these are all of one class.
    """

    first: str
    second: str
    n_first: int
    same: float
    opposite: float
    kappa: float | None


def schemes(posts: pd.DataFrame, q: float, group: int) -> dict[str, Extremes]:
    """The extremes of posts with y and score under three schemes on this sample (the score, likes alone, Karpathy's
    groups), after those that `labels/` gives them (``labels``), where these are top and bottom.
    """
    table = pa.table(
        {
            "post_id": pa.array(posts["post_id"], pa.string()),
            "followers": posts["followers"].to_numpy(),
            "likes": posts["likes"].to_numpy(),
        }
    )
    codes = halves(table, group)
    given = {}
    if set(posts["label"].dropna()) == {"bottom", "top"}:
        given["labels"] = Extremes(posts["label"].eq("bottom").to_numpy(), posts["label"].eq("top").to_numpy())
    return given | {
        "residual": label_extremes(posts["score"].to_numpy(float), posts["post_id"], q),
        "likes": label_extremes(posts["y"].to_numpy(float), posts["post_id"], q),
        "karpathy": Extremes(codes == 0, codes == 1),
    }


def overlaps(found: dict[str, Extremes]) -> list[Overlap]:
    """Each ordered pair of schemes."""
    return [
        _overlap(first, a, second, b) for first, a in found.items() for second, b in found.items() if first != second
    ]


def _overlap(first: str, a: Extremes, second: str, b: Extremes) -> Overlap:
    n = int((a.top | a.bottom).sum())
    kept = compare(a, b)
    both = kept.same + kept.opposite
    kappa = None
    if both:
        shared = (a.top | a.bottom) & (b.top | b.bottom)
        p, r = float(np.mean(a.top[shared])), float(np.mean(b.top[shared]))
        chance = p * r + (1 - p) * (1 - r)
        kappa = (kept.same / both - chance) / (1 - chance) if chance < 1 else None
    return Overlap(first, second, n, kept.same, kept.opposite, kappa)
