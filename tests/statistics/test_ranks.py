"""Ranks and areas, compared with scipy and plain counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from raypipe.statistics.ranks import average_ranks, roc_auc, roc_components

# Few distinct values, so that ties are common.
PAIRS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 1)), min_size=1, max_size=40)


@given(PAIRS)
def test_area_equals_pair_counting(pairs: list[tuple[int, int]]) -> None:
    values, labels = np.array([v / 7 for v, _ in pairs]), np.array([y for _, y in pairs])
    positive, negative = values[labels == 1], values[labels == 0]
    wins = np.array([[(p > n) + 0.5 * (p == n) for n in negative] for p in positive])
    assert roc_auc(values, labels) == (pytest.approx(np.mean(wins)) if wins.size else None)
    if wins.size:
        parts = roc_components(values, labels)
        np.testing.assert_allclose(parts[labels == 1], wins.mean(axis=1), atol=1e-12)
        np.testing.assert_allclose(parts[labels == 0], wins.mean(axis=0), atol=1e-12)


@given(st.lists(st.integers(-5, 5), min_size=1, max_size=40))
def test_ranks_equal_scipy_s(values: list[int]) -> None:
    np.testing.assert_array_equal(average_ranks(np.array(values)), stats.rankdata(values))
