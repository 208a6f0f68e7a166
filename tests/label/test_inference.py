"""Every statistic of the fit equals statsmodels' within 1e-9, for every kind of standard error, in any partition."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
import statsmodels.datasets

from raypipe.errors import InputError
from raypipe.label.formula import Floats
from raypipe.label.inference import Fit, cluster_scatter, group_sums, infer, scatter
from raypipe.label.lstsq import factor, merge, solve

COV_TYPES = ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")
Data = tuple[Floats, Floats, list[str], tuple[str, ...]]


def fit(data: Data, cov_type: str, cuts: tuple[int, ...] = ()) -> Fit:
    X, y, groups, terms = data
    bounds = [0, *cuts, len(y)]
    blocks = [(X[a:b], y[a:b], pa.chunked_array([groups[a:b]])) for a, b in itertools.pairwise(bounds)]
    solution = solve(merge([factor(X, y) for X, y, _ in blocks]), terms)
    if cov_type == "nonrobust":
        return infer(solution, cov_type)
    if cov_type == "cluster":
        return infer(solution, cov_type, *cluster_scatter([group_sums(X, y, solution, g) for X, y, g in blocks]))
    return infer(solution, cov_type, np.sum([scatter(X, y, solution, cov_type) for X, y, _ in blocks], axis=0))


@functools.cache
def heteroscedastic() -> Data:
    rng = np.random.default_rng(0)
    n = 700
    x = rng.normal(3, 1, n)
    h = rng.poisson(4, n).astype(float)
    users = rng.integers(0, 150, n)
    y = 0.3 + 0.5 * x + 0.01 * h + rng.normal(size=n) * 0.1 * (1 + x**2) + rng.normal(size=150)[users]
    return np.column_stack([np.ones(n), x, h]), y, [f"u{user}" for user in users], ("Intercept", "x", "h")


@functools.cache
def longley() -> Data:
    data = statsmodels.datasets.longley.load_pandas()
    X = np.column_stack([np.ones(16), data.exog.to_numpy()])
    return X, data.endog.to_numpy(), [f"u{i % 9}" for i in range(16)], ("Intercept", *data.exog.columns)


@functools.cache
def no_constant() -> Data:
    X, y, groups, terms = heteroscedastic()
    return X[:, 1:], y, groups, terms[1:]


@functools.cache
def implicit_constant() -> Data:
    X, y, groups, _ = heteroscedastic()
    kind = np.eye(3)[np.arange(len(y)) % 3]
    return np.column_stack([kind, X[:, 1]]), y, groups, ("a", "b", "c", "x")


@functools.cache
def mean_alone() -> Data:
    X, y, groups, terms = heteroscedastic()
    return X[:, :1], y, groups, terms[:1]


@pytest.mark.parametrize("cov_type", COV_TYPES)
@pytest.mark.parametrize("data", [heteroscedastic, longley, no_constant, implicit_constant, mean_alone])
def test_equals_statsmodels(data: Callable[[], Data], cov_type: str) -> None:
    X, y, groups, _ = data()
    options = {"cov_kwds": {"groups": np.array(groups)}} if cov_type == "cluster" else {}
    reference = sm.OLS(y, X).fit(cov_type=cov_type, **options)
    n = len(y)
    # Longley's condition number of 5e9 leaves both programs fewer digits of the covariance.
    rtol = 1e-6 if data is longley else 1e-9
    f_reference = reference
    if data is longley:
        # F does not depend on the terms' units, but statsmodels loses digits of it in the raw ones.
        Z = np.column_stack([X[:, 0], (X[:, 1:] - X[:, 1:].mean(axis=0)) / X[:, 1:].std(axis=0)])
        f_reference = sm.OLS(y, Z).fit(cov_type=cov_type, **options)
    for cuts in ((), (n // 3, n // 2, n - 2)):
        found = fit(data(), cov_type, cuts)
        for name in ("params", "bse", "tvalues", "pvalues", "rsquared", "rsquared_adj", "ssr", "llf", "aic", "bic"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(reference, name), rtol=rtol, atol=1e-14, err_msg=name
            )
        np.testing.assert_allclose(found.conf_int, reference.conf_int(), rtol=rtol)
        np.testing.assert_allclose(found.cov_params, reference.cov_params(), rtol=rtol)
        assert (found.nobs, found.df_model, found.df_resid) == (n, reference.df_model, reference.df_resid)
        if data is mean_alone:
            assert np.isnan(found.fvalue)
        else:
            np.testing.assert_allclose(found.fvalue, f_reference.fvalue, rtol=rtol)
            if np.isfinite(found.fvalue):
                np.testing.assert_allclose(found.f_pvalue, f_reference.f_pvalue, rtol=rtol)


def test_units_change_coefficients_and_nothing_else() -> None:
    X, y, groups, terms = heteroscedastic()
    units = np.array([1.0, 1e-6, 1e5])
    for cov_type in COV_TYPES:
        plain, scaled = fit((X, y, groups, terms), cov_type), fit((X * units, y, groups, terms), cov_type)
        np.testing.assert_allclose(scaled.params * units, plain.params, rtol=1e-10)
        np.testing.assert_allclose(scaled.tvalues, plain.tvalues, rtol=1e-9)
        assert scaled.rsquared == pytest.approx(plain.rsquared, rel=1e-10)


def test_a_users_posts_may_lie_in_any_blocks() -> None:
    X, y, groups, terms = heteroscedastic()
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = (X[order], y[order], [groups[i] for i in order], terms)
    one, many = fit((X, y, groups, terms), "cluster"), fit(shuffled, "cluster", tuple(range(50, 700, 50)))
    assert one.n_groups == many.n_groups == len(set(groups))
    np.testing.assert_allclose(many.cov_params, one.cov_params, rtol=1e-10)


def test_clusters_that_cannot_be_told() -> None:
    X, y, groups, terms = heteroscedastic()
    with pytest.raises(InputError, match="2 posts have no user_id"):
        fit((X, y, [None, *groups[1:-1], None], terms), "cluster", (300,))
    with pytest.raises(InputError, match="all posts are of one user"):
        fit((X, y, ["u"] * len(y), terms), "cluster")
