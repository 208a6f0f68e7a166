"""NIST's reference problems in any partition: as many correct digits as statsmodels' QR fit."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import statsmodels.api as sm

from raypipe.label.formula.formula import Floats
from raypipe.label.regression.fit_statistics import compute_statistics
from raypipe.label.regression.least_squares import merge_factors, qr_factor, solve
from raypipe.label.regression.residuals import refine_solution, residual_sums
from tests.label.nist import PROBLEMS, Problem, exact

ROUNDING = 0.5
# Beyond 12 digits, the processor's order of summation decides who has more: 1e-12 is 9,000 roundings of 2^-53, and a
# sum in these problems has thousands of terms.
ENOUGH = 12
MOST_DIGITS = 15.0


def digits(found: Floats, true: list[float]) -> float:
    """Correct decimal digits of the worst coefficient (NIST's log relative error)."""
    error = max(abs(a - b) / abs(b) for a, b in zip(found.tolist(), true, strict=True))
    return min(MOST_DIGITS, -np.log10(max(error, 1e-16)))


def partitions(n: int) -> list[list[int]]:
    """Cuts of n rows: none, single rows, halves, thirds, and ten random ones."""
    rng = random.Random(0)
    drawn = [sorted(rng.sample(range(1, n), rng.randint(1, n - 1))) for _ in range(10)]
    return [[], list(range(1, n)), [n // 2], [n // 3, 2 * n // 3], *drawn]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_exact_solution_equals_certified_values(problem: Problem) -> None:
    which, value = problem.certified
    assert float(exact(problem).params[which]) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_digits_match_statsmodels_in_any_partition(problem: Problem) -> None:
    X, y = problem.floats
    n = len(y)
    true = exact(problem)
    params, bse = [float(value) for value in true.params], true.bse(n)
    reference = sm.OLS(y, X).fit(method="qr")
    terms = tuple(f"b{j}" for j in range(X.shape[1]))
    for cuts in partitions(n):
        blocks = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, n])]
        first = solve(merge_factors([qr_factor(X[block], y[block]) for block in blocks]), terms)
        sums = [residual_sums(X[block], y[block], None, first) for block in blocks]
        found = compute_statistics(refine_solution(first, sums), "nonrobust")
        assert digits(found.params, params) >= min(digits(reference.params, params), ENOUGH) - ROUNDING, cuts
        assert found.df_resid == n - len(terms)
        if true.ssr:
            # Residuals are as precise as y: 1e-16 of the largest y. So are the standard errors.
            noise = n * (1e-13 * max(abs(y))) ** 2
            assert found.ssr == pytest.approx(float(true.ssr), rel=1e-6, abs=noise)
            assert digits(found.bse, bse) >= min(digits(reference.bse, bse), ENOUGH) - ROUNDING, cuts
        assert 1 - found.rsquared == pytest.approx(true.unexplained, rel=1e-6, abs=1e-13)
