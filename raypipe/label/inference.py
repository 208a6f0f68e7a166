"""What a statistician asks of a fit: standard errors, tests, intervals, and how well it describes the data.

Definitions are those of statsmodels' OLS (`RegressionResults`), with its defaults: t distribution for nonrobust
errors, normal for HC0–HC3 (MacKinnon, White 1985) and cluster (Liang, Zeger 1986, with the G/(G−1)·(n−1)/(n−p)
correction).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy import stats
from scipy.linalg import solve_triangular

from raypipe.errors import InputError
from raypipe.label.formula import Floats
from raypipe.label.lstsq import Solution

ROBUST = ("HC0", "HC1", "HC2", "HC3")


@dataclass(frozen=True)
class Fit:
    """A fitted regression; arrays are of shape (p,) in the order of `terms`, `conf_int` (p, 2) at 95 %."""

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


@dataclass(frozen=True)
class GroupSums:
    """Sums of eᵢ·zᵢ by group, of shape (groups, p), for one block; null groups counted apart."""

    groups: pa.Array
    sums: Floats
    n_null: int


def whiten(X: Floats, solution: Solution) -> Floats:
    """zᵢ = R⁻ᵀxᵢ, the rows of Q: sums over them stay well-conditioned where sums over x would not."""
    return np.ascontiguousarray(solve_triangular(solution.R, X.T, trans="T").T)


def scatter(X: Floats, y: Floats, solution: Solution, cov_type: str) -> Floats:
    """One block's Σ wᵢ zᵢzᵢᵀ of shape (p, p), w = e², with HC2 e²/(1−h), HC3 e²/(1−h)²; blocks add up."""
    z = whiten(X, solution)
    weights = (y - X @ solution.params) ** 2
    if cov_type in ("HC2", "HC3"):
        weights = weights / (1 - np.sum(z**2, axis=1)) ** (1 if cov_type == "HC2" else 2)
    return np.asarray((z * weights[:, None]).T @ z)


def group_sums(X: Floats, y: Floats, solution: Solution, groups: pa.ChunkedArray) -> GroupSums:
    """One block's Σ eᵢzᵢ by group, the parts of the clustered scatter."""
    encoded = pc.dictionary_encode(groups).combine_chunks()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = pa.concat_arrays(encoded.chunks) if encoded.num_chunks else pa.array([], encoded.type)
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    known = ~pc.is_null(encoded).to_numpy(zero_copy_only=False)
    z = whiten(X, solution) * (y - X @ solution.params)[:, None]
    sums = np.zeros((len(encoded.dictionary), len(solution.terms)))
    np.add.at(sums, codes[known].astype(np.int64), z[known])
    return GroupSums(encoded.dictionary, sums, int(np.sum(~known)))


def cluster_scatter(parts: Sequence[GroupSums]) -> tuple[Floats, int]:
    """Σ_g s_g s_gᵀ over all groups, of shape (p, p), and the number of groups. InputError where a group is null."""
    if n_null := sum(part.n_null for part in parts):
        raise InputError(
            f"label.cov_type cluster: {n_null:,} posts have no user_id; choose HC3, or give every post one"
        )
    keys = pd.concat([part.groups.to_pandas() for part in parts])
    sums = pd.DataFrame(np.vstack([part.sums for part in parts])).groupby(keys.to_numpy()).sum().to_numpy()
    if len(sums) < 2:
        raise InputError("label.cov_type cluster: all posts are of one user; clusters need two users or more")
    return np.asarray(sums.T @ sums), len(sums)


def infer(solution: Solution, cov_type: str, meat: Floats | None = None, n_groups: int | None = None) -> Fit:
    """All statistics of a solution; `meat` is the summed scatter of the robust and clustered `cov_type`."""
    n, p = solution.n, len(solution.terms)
    k_constant = int(solution.has_constant)
    df_model, df_resid = p - k_constant, n - p
    inverse = solve_triangular(solution.R, np.eye(p))
    scale = solution.ssr / df_resid
    if cov_type == "nonrobust":
        cov = scale * inverse @ inverse.T
    else:
        assert meat is not None
        correction = n / df_resid if cov_type == "HC1" else 1.0
        if cov_type == "cluster":
            assert n_groups is not None
            correction = n_groups / (n_groups - 1) * (n - 1) / df_resid
        cov = correction * inverse @ meat @ inverse.T
    reference = stats.t(df_resid) if cov_type == "nonrobust" else stats.norm()
    total = solution.centered_tss if solution.has_constant else solution.uncentered_tss
    with np.errstate(divide="ignore", invalid="ignore"):
        bse = np.sqrt(np.diag(cov))
        tvalues = solution.params / bse
        margin = reference.ppf(0.975) * bse
        rsquared = 1 - np.float64(solution.ssr) / total
        llf = -n / 2 * (np.log(2 * np.pi * solution.ssr / n) + 1)
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
    )


def _f_test(solution: Solution, cov_type: str, cov: Floats, df_model: int, df_denom: int) -> tuple[float, float]:
    """That all coefficients but the constant's are zero: of sums of squares, or Wald's where errors are robust."""
    if df_model == 0:
        return float("nan"), float("nan")
    if cov_type == "nonrobust":
        total = solution.centered_tss if solution.has_constant else solution.uncentered_tss
        f = float((total - solution.ssr) / df_model / (np.float64(solution.ssr) / df_denom))
    else:
        tested = [i for i, term in enumerate(solution.terms) if term != "Intercept"]
        if len(tested) != df_model:
            # The constant is in the span of the terms but none of them: statsmodels gives nan too.
            return float("nan"), float("nan")
        # Through the correlations of the coefficients, so that the terms' units do not decide what counts as singular.
        bse = np.sqrt(np.diag(cov))[tested]
        t = solution.params[tested] / bse
        f = float(t @ np.linalg.pinv(cov[np.ix_(tested, tested)] / np.outer(bse, bse)) @ t / df_model)
    return f, float(stats.f.sf(f, df_model, df_denom))
