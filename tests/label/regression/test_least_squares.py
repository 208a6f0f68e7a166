"""Least squares by merged triangles: NIST's certified digits, numpy, and independence of the partition."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import statsmodels.datasets
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import InputError
from raypipe.label.formula.formula import Floats
from raypipe.label.regression.least_squares import Solution, check_residuals, merge_factors, qr_factor, solve

# NIST StRD, Longley: certified estimates, in the order of statsmodels' columns.
LONGLEY = {
    "Intercept": -3482258.63459582,
    "GNPDEFL": 15.0618722713733,
    "GNP": -0.358191792925910e-01,
    "UNEMP": -2.02022980381683,
    "ARMED": -1.03322686717359,
    "POP": -0.511041056535807e-01,
    "YEAR": 1829.15146461355,
}


def names(p: int) -> tuple[str, ...]:
    return tuple(f"x{j}" for j in range(p))


def fit(X: Floats, y: Floats, cuts: list[int] | None = None, terms: tuple[str, ...] = ()) -> Solution:
    bounds = [0, *sorted(cuts or []), len(y)]
    blocks = [qr_factor(X[a:b], y[a:b]) for a, b in itertools.pairwise(bounds)]
    return solve(merge_factors(blocks), terms or names(X.shape[1]))


def digits(found: float, certified: float) -> float:
    return -np.log10(max(abs(found - certified) / abs(certified), 1e-16))


@pytest.mark.parametrize("cuts", [[], [1], [3, 8, 12], list(range(1, 16))])
def test_longley_to_nine_certified_digits_in_any_partition(cuts: list[int]) -> None:
    data = statsmodels.datasets.longley.load_pandas()
    X = np.column_stack([np.ones(16), data.exog.to_numpy()])
    solution = fit(X, data.endog.to_numpy(), cuts, ("Intercept", *data.exog.columns))
    for term, value in zip(solution.terms, solution.params, strict=True):
        assert digits(value, LONGLEY[term]) > 9, term
    assert solution.ssr == pytest.approx(836424.055505915, rel=1e-9)
    assert solution.has_constant


def test_ill_conditioned_polynomial_is_fitted() -> None:
    # Wampler's design: y = 1 + x + … + x⁵ for x = 0…20. Its squared condition number exceeds double precision.
    x = np.arange(21.0)
    X = np.vander(x, 6, increasing=True)
    solution = fit(X, X.sum(axis=1), [5, 6, 13])
    np.testing.assert_allclose(solution.params, np.ones(6), rtol=1e-8)


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(12, 300),
    p=st.integers(1, 5),
    cuts=st.lists(st.integers(0, 12), max_size=8),
)
def test_partition_and_order_do_not_matter(seed: int, n: int, p: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    plain = np.column_stack([np.ones(n), rng.normal(size=(n, p - 1))])
    y = plain @ rng.normal(size=p) + rng.normal(size=n)
    units = 10.0 ** rng.integers(-6, 7, p)
    shuffled = rng.permutation(n)
    reference, ssr, *_ = np.linalg.lstsq(plain, y, rcond=None)
    whole, cut = fit(plain * units, y), fit(plain * units, y, cuts)
    for found in (whole, cut, fit((plain * units)[shuffled], y[shuffled], cuts)):
        np.testing.assert_allclose(found.params * units, reference, rtol=1e-9, atol=1e-10)
        assert found.ssr == pytest.approx(ssr[0], rel=1e-9)
        assert found.centered_tss == pytest.approx(np.sum((y - y.mean()) ** 2), rel=1e-9)
        assert found.uncentered_tss == pytest.approx(np.sum(y**2), rel=1e-9)
    np.testing.assert_allclose(cut.params * units, whole.params * units, rtol=1e-11, atol=1e-11)


def test_large_mean_of_y_does_not_lose_precision() -> None:
    rng = np.random.default_rng(1)
    y = 1e7 + rng.normal(size=500)
    solution = fit(np.column_stack([np.ones(500), rng.normal(size=500)]), y, [100, 101, 300])
    assert solution.centered_tss == pytest.approx(np.sum((y - y.mean()) ** 2), rel=1e-7)


def test_implicit_constant_is_detected() -> None:
    rng = np.random.default_rng(2)
    group, x = rng.integers(0, 3, 90), rng.normal(size=90) + 5
    dummies = np.eye(3)[group]
    y = rng.normal(size=90)
    assert fit(np.column_stack([x, dummies]), y).has_constant
    assert not fit(np.column_stack([x, dummies[:, :2]]), y).has_constant
    assert not fit(x[:, None], y).has_constant


@pytest.mark.parametrize("cuts", [[], [7, 20, 21, 50], list(range(4, 100, 4))])
@pytest.mark.parametrize("scale", [1.0, 1e-9, 1e9])
def test_collinear_terms_are_named(cuts: list[int], scale: float) -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(size=100), rng.normal(size=100)
    y = rng.normal(size=100)
    terms = ("Intercept", "a", "b", "c")
    with pytest.raises(InputError, match="term c is collinear with a, b in all 100 posts"):
        fit(np.column_stack([np.ones(100), a, b, scale * (a - 2 * b)]), y, cuts, terms)
    with pytest.raises(InputError, match="term a is collinear with Intercept in"):
        fit(np.column_stack([np.ones(100), np.full(100, scale * np.log10(301)), b]), y, cuts, terms[:3])
    with pytest.raises(InputError, match="term a is 0 in all 100 posts"):
        fit(np.column_stack([np.ones(100), np.zeros(100), b]), y, cuts, terms[:3])


def test_nearly_collinear_terms_are_kept() -> None:
    rng = np.random.default_rng(4)
    a, noise = rng.normal(size=200), rng.normal(size=200)
    X = np.column_stack([np.ones(200), a, a + 1e-9 * noise])
    np.testing.assert_allclose(fit(X, X @ [1.0, 2.0, 3.0], [50, 120]).params, [1, 2, 3], rtol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_too_few_posts_raise_error(n: int) -> None:
    X = np.random.default_rng(5).normal(size=(n, 3))
    with pytest.raises(InputError, match=rf"{n} usable posts for 3 terms \(x0, x1, x2\)"):
        fit(X, np.zeros(n))


def test_zero_residuals_raise_error() -> None:
    rng = np.random.default_rng(6)
    X = np.column_stack([np.ones(60), rng.normal(size=60)])
    with pytest.raises(InputError, match="y is the same in all 60 posts, so no residual is left as a score"):
        check_residuals(fit(X, np.full(60, 3.7)))
    with pytest.raises(InputError, match="the terms explain y in all 60 posts"):
        check_residuals(fit(X, X @ [0.3, 0.7], [20]))
    check_residuals(fit(X, X @ [0.3, 0.7] + 1e-6 * rng.normal(size=60)))


def test_long_lists_of_terms_are_shortened() -> None:
    with pytest.raises(InputError, match=r"9 terms \(x0, x1, x2, x3, x4, … \(4 more\)\)"):
        fit(np.ones((3, 9)), np.zeros(3))
