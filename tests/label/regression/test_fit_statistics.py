"""Every statistic of the fit equals statsmodels' within 1e-9, for each kind of standard error and any partition."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
import statsmodels.api as sm
import statsmodels.datasets
from statsmodels.stats.stattools import durbin_watson, jarque_bera, omni_normtest

from raypipe.errors import InputError
from raypipe.label.formula.formula import Floats
from raypipe.label.regression.fit_statistics import Fit, compute_statistics
from raypipe.label.regression.least_squares import merge_factors, qr_factor, solve
from raypipe.label.regression.residuals import refine_solution, residual_sums, residual_tests, total_scatter

COV_TYPES = ("nonrobust", "HC0", "HC1", "HC2", "HC3", "cluster")
Data = tuple[Floats, Floats, list[str], tuple[str, ...]]


def fit(data: Data, cov_type: str, cuts: tuple[int, ...] = (), weights: Floats | None = None) -> Fit:
    X, y, groups, terms = data
    blocks = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, len(y)])]

    def part(block: slice) -> Floats | None:
        return None if weights is None else weights[block]

    solution = solve(merge_factors([qr_factor(X[block], y[block], part(block)) for block in blocks]), terms)
    sums = [
        residual_sums(
            X[block],
            y[block],
            part(block),
            solution,
            cov_type=cov_type,
            groups=pa.chunked_array([groups[block]]) if cov_type == "cluster" else None,
            times=pa.chunked_array([np.arange(len(y))[block]]),
        )
        for block in blocks
    ]
    summed_scatter, n_groups = total_scatter(sums, cov_type)
    better = refine_solution(solution, sums)
    return compute_statistics(
        better, cov_type, summed_scatter, n_groups, shape=residual_tests(sums), weighted=weights is not None
    )


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


def standardised(X: Floats) -> tuple[Floats, Floats]:
    """Terms with mean 0 and deviation 1 and the constant, and the matrix that gives X's coefficients."""
    mean, sd = X[:, 1:].mean(axis=0), X[:, 1:].std(axis=0)
    back = np.diag(np.r_[1, 1 / sd])
    back[0, 1:] = -mean / sd
    return np.column_stack([X[:, 0], (X[:, 1:] - mean) / sd]), back


@pytest.mark.parametrize("cov_type", COV_TYPES)
@pytest.mark.parametrize("data", [heteroscedastic, longley, no_constant, implicit_constant, mean_alone])
def test_statistics_equal_statsmodels(data: Callable[[], Data], cov_type: str) -> None:
    X, y, groups, _ = data()
    options = {"cov_kwds": {"groups": np.array(groups)}} if cov_type == "cluster" else {}
    n, p = X.shape
    # In Longley's raw units, with a condition number of 5e9, statsmodels keeps as few as six digits, depending on the
    # processor. So it fits standardised terms here. Linear combinations of those give the raw coefficients.
    design, back = standardised(X) if data is longley else (X, np.eye(p))
    reference = sm.OLS(y, design).fit(cov_type=cov_type, **options)
    raw = reference.t_test(back)
    wanted = {"params": raw.effect, "bse": raw.sd, "tvalues": raw.tvalue, "pvalues": raw.pvalue}
    # An orthogonal factorisation does not depend on the scale of columns. Its errors, and those of the inverse, are
    # within n p 2^-53 times the condition number of columns with equal length: 5e-10 for Longley, less for the others.
    rtol = 1e-9
    for cuts in ((), (n // 3, n // 2, n - 2)):
        found = fit(data(), cov_type, cuts)
        for name in ("params", "bse", "tvalues", "pvalues", "rsquared", "rsquared_adj", "ssr", "llf", "aic", "bic"):
            expected = np.squeeze(wanted[name]) if name in wanted else getattr(reference, name)
            np.testing.assert_allclose(np.squeeze(getattr(found, name)), expected, rtol=rtol, atol=1e-14, err_msg=name)
        # Interval ends and covariances may be close to 0. Their precision is relative to their parts.
        ends, products = (np.abs(raw.effect) + 2 * raw.sd)[:, None], np.outer(raw.sd, raw.sd)
        np.testing.assert_allclose(found.conf_int / ends, raw.conf_int() / ends, rtol=0, atol=rtol)
        covariances = back @ reference.cov_params() @ back.T
        np.testing.assert_allclose(found.cov_params / products, covariances / products, rtol=0, atol=rtol)
        assert (found.nobs, found.df_model, found.df_resid) == (n, reference.df_model, reference.df_resid)
        if data is mean_alone:
            assert np.isnan(found.fvalue)
        else:
            # F solves with the covariances, so their condition number limits its precision.
            errors = np.sqrt(np.diag(reference.cov_params()))
            lost = np.linalg.cond(reference.cov_params() / np.outer(errors, errors))
            np.testing.assert_allclose(found.fvalue, reference.fvalue, rtol=lost * rtol)
            if np.isfinite(found.fvalue):
                np.testing.assert_allclose(found.f_pvalue, reference.f_pvalue, rtol=lost * rtol)


def test_units_only_change_coefficients() -> None:
    X, y, groups, terms = heteroscedastic()
    units = np.array([1.0, 1e-6, 1e5])
    for cov_type in COV_TYPES:
        plain, scaled = fit((X, y, groups, terms), cov_type), fit((X * units, y, groups, terms), cov_type)
        np.testing.assert_allclose(scaled.params * units, plain.params, rtol=1e-10)
        np.testing.assert_allclose(scaled.tvalues, plain.tvalues, rtol=1e-9)
        assert scaled.rsquared == pytest.approx(plain.rsquared, rel=1e-10)


def test_posts_of_one_user_may_lie_in_any_blocks() -> None:
    X, y, groups, terms = heteroscedastic()
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = (X[order], y[order], [groups[i] for i in order], terms)
    one, many = fit((X, y, groups, terms), "cluster"), fit(shuffled, "cluster", tuple(range(50, 700, 50)))
    assert one.n_groups == many.n_groups == len(set(groups))
    np.testing.assert_allclose(many.cov_params, one.cov_params, rtol=1e-10)


def test_unusable_clusters_raise_error() -> None:
    X, y, groups, terms = heteroscedastic()
    with pytest.raises(InputError, match="2 posts have no user_id"):
        fit((X, y, [None, *groups[1:-1], None], terms), "cluster", (300,))
    with pytest.raises(InputError, match="all posts are of one user"):
        fit((X, y, ["u"] * len(y), terms), "cluster")


@pytest.mark.parametrize("cov_type", COV_TYPES)
@pytest.mark.parametrize("data", [heteroscedastic, no_constant, implicit_constant])
def test_weighted_fits_equal_statsmodels_wls(data: Callable[[], Data], cov_type: str) -> None:
    X, y, groups, _ = data()
    weights = np.random.default_rng(2).gamma(1.0, 3.0, len(y)) + 0.01
    options = {"cov_kwds": {"groups": np.array(groups)}} if cov_type == "cluster" else {}
    reference = sm.WLS(y, X, weights=weights).fit(cov_type=cov_type, **options)
    for cuts in ((), (1, 300, 301)):
        found = fit(data(), cov_type, cuts, weights)
        for name in ("params", "bse", "tvalues", "pvalues", "rsquared", "rsquared_adj", "ssr", "llf", "aic", "bic"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(reference, name), rtol=1e-9, atol=1e-14, err_msg=name
            )
        np.testing.assert_allclose([found.fvalue, found.f_pvalue], [reference.fvalue, reference.f_pvalue], rtol=1e-9)
        assert found.shape is not None
        assert found.shape.durbin_watson == pytest.approx(durbin_watson(reference.wresid), rel=1e-9)
        assert found.scale == pytest.approx(reference.scale, rel=1e-9)


def test_equal_weights_do_not_change_coefficients() -> None:
    y = heteroscedastic()[1]
    plain, weighted = fit(heteroscedastic(), "HC1"), fit(heteroscedastic(), "HC1", (5,), np.full(len(y), 1e7))
    np.testing.assert_allclose(weighted.params, plain.params, rtol=1e-11)
    np.testing.assert_allclose(weighted.bse, plain.bse, rtol=1e-9)


@pytest.mark.parametrize("data", [heteroscedastic, no_constant, mean_alone])
@pytest.mark.parametrize("cuts", [(), (1, 2, 350)])
def test_residual_statistics_equal_statsmodels(data: Callable[[], Data], cuts: tuple[int, ...]) -> None:
    X, y, *_ = data()
    reference = sm.OLS(y, X).fit()
    found = fit(data(), "nonrobust", cuts)
    bera, bera_p, skew, kurtosis = jarque_bera(reference.resid)
    omnibus, omnibus_p = omni_normtest(reference.resid)
    assert found.shape is not None
    wanted = [skew, kurtosis, bera, bera_p, omnibus, omnibus_p, durbin_watson(reference.resid)]
    np.testing.assert_allclose(list(vars(found.shape).values()), wanted, rtol=1e-9)
    assert found.condition_number == pytest.approx(reference.condition_number, rel=1e-9)


def test_durbin_watson_is_none_without_increasing_times() -> None:
    X, y, _, terms = heteroscedastic()
    solution = solve(qr_factor(X, y), terms)
    days = np.arange(len(y))

    def durbin(times: list[pa.Array], cuts: tuple[int, ...]) -> float | None:
        blocks = [slice(a, b) for a, b in itertools.pairwise([0, *cuts, len(y)])]
        sums = [
            residual_sums(X[block], y[block], None, solution, times=pa.chunked_array([when]))
            for block, when in zip(blocks, times, strict=True)
        ]
        return residual_tests(sums).durbin_watson

    assert durbin([pa.array(days)], ()) == pytest.approx(durbin_watson(y - X @ solution.params), rel=1e-9)
    two = durbin([pa.array(days[:300]), pa.array(days[300:])], (300,))
    assert two == pytest.approx(durbin([pa.array(days // 9)], ()), rel=1e-12)
    assert durbin([pa.array(days[400:]), pa.array(days[:400])], (300,)) is None
    assert durbin([pa.array(days[::-1])], ()) is None
    assert durbin([pa.array(days, mask=days == 5)], ()) is None


def test_hc2_and_hc3_refuse_leverage_of_one() -> None:
    X, y, groups, _ = heteroscedastic()
    alone = np.column_stack([X, np.arange(len(y)) == 5])
    data = (alone, y, groups, ("Intercept", "x", "h", "kind[T.rare]"))
    assert np.isfinite(fit(data, "HC1").bse).all()
    for cov_type in ("HC2", "HC3"):
        with pytest.raises(InputError, match=rf"label.cov_type {cov_type}: only one post determines kind\[T.rare\]"):
            fit(data, cov_type, (100, 300))


def test_partition_only_changes_rounding() -> None:
    X, whole = heteroscedastic()[0], fit(heteroscedastic(), "HC3")
    # Covariances contain the inverse twice, each within n p 2^-53 times the condition number: 1e-11.
    rounding = X.size * 2.0**-53 * np.linalg.cond(X / np.linalg.norm(X, axis=0)) ** 2
    assert rounding < 2e-11
    for cuts in ((1,), (350,), tuple(range(7, 700, 7))):
        found = fit(heteroscedastic(), "HC3", cuts)
        for name in ("params", "bse", "cov_params", "conf_int", "rsquared", "llf", "fvalue"):
            np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=rounding, err_msg=name)
