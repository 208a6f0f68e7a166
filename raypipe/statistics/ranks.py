"""Ranks, and the area under the ROC curve by ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def average_ranks(values: NDArray[Any]) -> Floats:
    """Ranks 1…n of `values` [n]. Equal values get the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place.reshape(-1)], np.float64)


def roc_auc(scores: NDArray[Any], labels: NDArray[Any]) -> float | None:
    """Area under the ROC curve: the share of pairs in which the picture with label 1 has the higher score.

    Ties count half. `scores` and `labels` are [n]. By ranks, as Mann & Whitney's U (1947). None if a label is absent.
    """
    positive = np.asarray(labels) > 0.5
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return None
    u = average_ranks(scores)[positive].sum() - n_positive * (n_positive + 1) / 2
    return float(u / (n_positive * n_negative))


def roc_components(scores: NDArray[Any], labels: NDArray[Any]) -> Floats:
    """Each picture's part of the area, [n]: the share of negatives below a positive, or of positives above a negative.

    The mean over the positives is the area, and so is the mean over the negatives (DeLong et al. 1988, equations 1 and
    4; by ranks: Sun & Xu 2014). Both labels must occur.
    """
    positive = np.asarray(labels) > 0.5
    values = np.asarray(scores)
    ranks, found = average_ranks(values), np.empty(len(values))
    found[positive] = (ranks[positive] - average_ranks(values[positive])) / np.sum(~positive)
    found[~positive] = 1 - (ranks[~positive] - average_ranks(values[~positive])) / np.sum(positive)
    return found
