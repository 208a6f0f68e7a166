"""NIST's reference problems, in any partition: as many correct digits as statsmodels' QR fit."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import statsmodels.api as sm

from raypipe.label.formula import Floats
from raypipe.label.inference import infer
from raypipe.label.lstsq import factor, merge, solve
from raypipe.label.residuals import corrected, residual_sums
from tests.label.nist import PROBLEMS, Problem, exact

ROUNDING = 0.5
MOST_DIGITS = 15.0


def digits(found: Floats, true: list[float]) -> float:
    """Correct decimal digits of the worst coefficient (NIST's log relative error)."""
    error = max(abs(a - b) / abs(b) for a, b in zip(found.tolist(), true, strict=True))
    return min(MOST_DIGITS, -np.log10(max(error, 1e-16)))


def partitions(n: int) -> list[list[int]]:
    """Cuts of n rows: none, single rows, halves, thirds, and ten at random."""
    rng = random.Random(0)
    drawn = [sorted(rng.sample(range(1, n), rng.randint(1, n - 1))) for _ in range(10)]
    return [[], list(range(1, n)), [n // 2], [n // 3, 2 * n // 3], *drawn]


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_the_exact_solution_is_the_certified_one(problem: Problem) -> None:
    which, value = problem.certified
    assert float(exact(problem)[0][which]) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)
def test_as_many_digits_as_statsmodels_in_any_partition(problem: Problem) -> None:
    X, y = problem.floats
    params, ssr = exact(problem)
    true = [float(value) for value in params]
    reference = digits(sm.OLS(y, X).fit(method="qr").params, true)
    terms = tuple(f"b{j}" for j in range(X.shape[1]))
    for cuts in partitions(len(y)):
        blocks = [factor(X[a:b], y[a:b]) for a, b in itertools.pairwise([0, *cuts, len(y)])]
        first = solve(merge(blocks), terms)
        sums = [residual_sums(X[a:b], y[a:b], None, first) for a, b in itertools.pairwise([0, *cuts, len(y)])]
        solution = corrected(first, sums)
        assert digits(solution.params, true) >= reference - ROUNDING, cuts
        fit = infer(solution, "nonrobust")
        assert fit.df_resid == len(y) - len(terms)
        if ssr:
            # A residual is known as well as y is: to 1e-16 of the largest y.
            noise = len(y) * (1e-13 * max(abs(y))) ** 2
            assert fit.ssr == pytest.approx(float(ssr), rel=1e-6, abs=noise)
