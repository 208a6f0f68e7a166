"""Statistics of a fit: standard errors, tests, intervals, and how well the fit describes the data.

The definitions and defaults are those of statsmodels' OLS and WLS (`RegressionResults`): the t distribution for
nonrobust errors, the normal distribution for HC0–HC3 (MacKinnon, White 1985) and cluster (Liang, Zeger 1986, with the
G/(G−1)·(n−1)/(n−p) correction).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.linalg import solve_triangular

from raypipe.label.formula.formula import Floats
from raypipe.label.regression.least_squares import Solution
from raypipe.label.regression.residuals import ResidualTests

Z95 = 1.959963984540054
"""Half the width of a 95 % interval of a normal distribution, in standard errors."""


@dataclass(frozen=True)
class Fit:
    """A fitted regression. Arrays have shape (p,) in the order of `terms`; `conf_int` has shape (p, 2), at 95 %.

    `cov_params` and `R` have shape (p, p). `R` is the triangular factor of √w·X. `scale` is the variance of an
    observation of weight 1. `shape` describes the residuals; a second pass finds it.
    """

    terms: tuple[str, ...]
    cov_type: str
    nobs: int
    df_model: int
    df_resid: int
    n_groups: int | None
    params: Floats
    cov_params: Floats
    bse: Floats
    tvalues: Floats
    pvalues: Floats
    conf_int: Floats
    rsquared: float
    rsquared_adj: float
    fvalue: float
    f_pvalue: float
    ssr: float
    llf: float
    aic: float
    bic: float
    scale: float
    condition_number: float
    has_constant: bool
    weighted: bool
    R: Floats
    shape: ResidualTests | None = None


def compute_statistics(
    solution: Solution,
    cov_type: str,
    summed_scatter: Floats | None = None,
    n_groups: int | None = None,
    *,
    shape: ResidualTests | None = None,
    weighted: bool = False,
) -> Fit:
    """Computes all statistics of a solution; `summed_scatter` is for a robust or clustered `cov_type`."""
    n, p = solution.n, len(solution.terms)
    k_constant = int(solution.has_constant)
    df_model, df_resid = p - k_constant, n - p
    inverse = solve_triangular(solution.R, np.eye(p))
    scale = solution.ssr / df_resid
    if cov_type == "nonrobust":
        cov = scale * inverse @ inverse.T
    else:
        assert summed_scatter is not None
        correction = n / df_resid if cov_type == "HC1" else 1.0
        if cov_type == "cluster":
            assert n_groups is not None
            correction = n_groups / (n_groups - 1) * (n - 1) / df_resid
        cov = correction * inverse @ summed_scatter @ inverse.T
    reference = stats.t(df_resid) if cov_type == "nonrobust" else stats.norm()
    total = solution.centered_tss if solution.has_constant else solution.uncentered_tss
    with np.errstate(divide="ignore", invalid="ignore"):
        bse = np.sqrt(np.diag(cov))
        tvalues = solution.params / bse
        margin = reference.ppf(0.975) * bse
        rsquared = 1 - np.float64(solution.ssr) / total
        llf = -n / 2 * (np.log(2 * np.pi * solution.ssr / n) + 1) + solution.log_weights / 2
        fvalue, f_pvalue = _f_test(solution, cov_type, cov, df_model, n_groups - 1 if n_groups else df_resid)
    return Fit(
        terms=solution.terms,
        cov_type=cov_type,
        nobs=n,
        df_model=df_model,
        df_resid=df_resid,
        n_groups=n_groups,
        params=solution.params,
        cov_params=cov,
        bse=bse,
        tvalues=tvalues,
        pvalues=2 * reference.sf(np.abs(tvalues)),
        conf_int=np.column_stack([solution.params - margin, solution.params + margin]),
        rsquared=float(rsquared),
        rsquared_adj=float(1 - (n - k_constant) / df_resid * (1 - rsquared)),
        fvalue=fvalue,
        f_pvalue=f_pvalue,
        ssr=solution.ssr,
        llf=float(llf),
        aic=float(-2 * llf + 2 * p),
        bic=float(-2 * llf + np.log(n) * p),
        scale=scale,
        condition_number=float(np.linalg.cond(solution.R)),
        has_constant=solution.has_constant,
        weighted=weighted,
        R=solution.R,
        shape=shape,
    )


def _f_test(solution: Solution, cov_type: str, cov: Floats, df_model: int, df_denom: int) -> tuple[float, float]:
    """F and p of the test that all coefficients but the constant are 0; it is Wald's test if errors are robust."""
    if df_model == 0:
        return float("nan"), float("nan")
    if cov_type == "nonrobust":
        total = solution.centered_tss if solution.has_constant else solution.uncentered_tss
        f = float((total - solution.ssr) / df_model / (np.float64(solution.ssr) / df_denom))
    else:
        tested = [i for i, term in enumerate(solution.terms) if term != "Intercept"]
        if len(tested) != df_model:
            # The terms span the constant, but none of them is the constant. statsmodels gives nan too.
            return float("nan"), float("nan")
        # This uses correlations, so that the units of the terms do not decide what counts as singular.
        bse = np.sqrt(np.diag(cov))[tested]
        t = solution.params[tested] / bse
        f = float(t @ np.linalg.pinv(cov[np.ix_(tested, tested)] / np.outer(bse, bse)) @ t / df_model)
    return f, float(stats.f.sf(f, df_model, df_denom))
