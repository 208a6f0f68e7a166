"""Plain intervals, compared with statsmodels and their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.proportion import proportion_confint

from raypipe.statistics.intervals import auc_interval, spearman_interval, wilson_interval


@given(n=st.integers(1, 20_000), share=st.floats(0, 1), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_wilson_equals_statsmodels(n: int, share: float, confidence: float) -> None:
    successes = round(share * n)
    expected = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    low, high = wilson_interval(successes, n, confidence)
    assert (low, high) == pytest.approx(expected, abs=1e-9)
    assert 0 <= low <= successes / n <= high <= 1


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_invalid_shares(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match="no interval"):
        wilson_interval(successes, n, confidence)


@given(auc=st.floats(0, 1), m=st.integers(1, 300), n=st.integers(1, 300))
def test_area_interval_ends_are_z_standard_errors_away(auc: float, m: int, n: int) -> None:
    low, high = auc_interval(auc, m, n)
    assert 0 <= low <= auc <= high <= 1
    for end in (low, high):
        star = (m + n) / 2 - 1
        q1, q2 = end / (2 - end) - end**2, 2 * end**2 / (1 + end) - end**2
        error = math.sqrt(max((end * (1 - end) + star * q1 + star * q2) / (m * n), 0))
        if 1e-6 < end < 1 - 1e-6:
            assert abs(auc - end) == pytest.approx(1.959964 * error, abs=1e-5)


def test_few_pictures_give_wide_interval() -> None:
    assert auc_interval(1.0, 2, 2)[0] < 0.5 < auc_interval(1.0, 40, 40)[0]
    with pytest.raises(ValueError, match="0 positive"):
        auc_interval(0.5, 0, 3)
    assert spearman_interval(0.9, 3) == (-1.0, 1.0)


@pytest.mark.parametrize("rho", [0.0, 0.6])
def test_rank_correlation_interval_covers_95_percent(rho: float) -> None:
    rng = np.random.default_rng(1)
    truth = 6 / math.pi * math.asin(rho / 2)  # of a bivariate normal
    held = 0
    for _ in range(400):
        x = rng.normal(size=60)
        y = rho * x + math.sqrt(1 - rho * rho) * rng.normal(size=60)
        low, high = spearman_interval(stats.spearmanr(x, y).statistic, 60)
        held += low <= truth <= high
    assert 0.91 < held / 400 < 0.985
