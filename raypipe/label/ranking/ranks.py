"""Exact order statistics: ranks with ties broken by post_id, and the bounds of classes in whole numbers."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from raypipe.label.formula.formula import Floats


def as_fraction(share: float) -> Fraction:
    """The decimal number that the user typed: 0.1 is 1/10, not the binary float nearest to it."""
    return Fraction(str(share))


def rank(values: Floats, post_ids: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Ranks 1…n of shape (n,) by (value, post_id); ids compare by code point."""
    order = pc.sort_indices(
        pa.table({"value": values, "post_id": post_ids}), [("value", "ascending"), ("post_id", "ascending")]
    ).to_numpy()
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.arange(1, len(values) + 1)
    return ranks


def extreme_ranks(n: int, q: float) -> tuple[int, int]:
    """⌊qn⌋ and ⌊(1−q)n⌋: bottom is rank ≤ the first, top is rank > the second."""
    return math.floor(as_fraction(q) * n), math.floor((1 - as_fraction(q)) * n)


def class_bounds(n: int, k: int) -> list[int]:
    """⌊jn/k⌋ for j = 1…k: class j holds the ranks above bound j−1 and up to bound j."""
    return [j * n // k for j in range(1, k + 1)]
