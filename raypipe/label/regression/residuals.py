"""Sums over the residuals that a second pass over the posts collects per block, in the order of the blocks.

Weighted fits use whitened residuals √w·e and rows √w·x, as statsmodels' WLS does.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from scipy import stats
from scipy.linalg import solve_triangular

from raypipe.errors import InputError
from raypipe.label.formula.formula import Floats
from raypipe.label.ranking.string_hashes import UInt64s, hash_strings
from raypipe.label.regression.least_squares import Solution, list_terms

_FEWEST_FOR_OMNIBUS = 8
_ILL_CONDITIONED = 1e3
# Below this value of 1 − h, a post's fitted value is its own y.
_ALONE = 1e-12


@dataclass(frozen=True)
class GroupSums:
    """Sums of eᵢ·zᵢ by group, of shape (groups, p), for one block; `n_null` counts the posts without a group.

    A group is stored as the hash of its name, because 100 million names would fill the memory.
    """

    groups: UInt64s
    sums: Floats
    n_null: int


@dataclass(frozen=True)
class SerialSums:
    """A block's part of the Durbin–Watson statistic: Σ (e_t − e_{t−1})², both ends, and whether times are sorted."""

    squares: float
    first: float
    last: float
    begins: int
    ends: int
    is_sorted: bool


@dataclass(frozen=True)
class ResidualSums:
    """Sums of one block: `powers` are Σ eᵏ for k = 1…4, and `gradient` (p,) is Σ eᵢxᵢ, which shows rounding errors.

    `scatter` (p, p), `groups` and `serial_sums` are None if they are not needed.
    """

    n: int
    powers: Floats
    gradient: npt.NDArray[np.longdouble]
    scatter: Floats | None = None
    groups: GroupSums | None = None
    serial_sums: SerialSums | None = None


@dataclass(frozen=True)
class ResidualTests:
    """Tests whether residuals are normal, and whether neighbours are alike. None means that it cannot be computed.

    `omnibus` is D'Agostino and Pearson's K² (from 8 rows on). `jarque_bera` is Jarque and Bera's statistic. Each has
    its p-value. `kurtosis` is 3 for a normal distribution. `durbin_watson` is None if posts are not sorted by creation.
    """

    skew: float
    kurtosis: float
    jarque_bera: float
    jarque_bera_p: float
    omnibus: float | None
    omnibus_p: float | None
    durbin_watson: float | None


def orthonormal_rows(X: Floats, solution: Solution) -> Floats:
    """zᵢ = R⁻ᵀxᵢ, the rows of Q. Sums over them stay well-conditioned even if sums over x do not."""
    return np.ascontiguousarray(solve_triangular(solution.R, X.T, trans="T").T)


def residual_sums(
    X: Floats,
    y: Floats,
    weights: Floats | None,
    solution: Solution,
    *,
    cov_type: str = "nonrobust",
    groups: pa.ChunkedArray | None = None,
    times: pa.ChunkedArray | None = None,
) -> ResidualSums:
    """The sums of one block: X of shape (n, p), y and weights of shape (n,).

    `groups` are the clusters for `cov_type` ``cluster``. `times` are times of creation (any type that casts to int64).
    """
    if weights is not None:
        root = np.sqrt(weights)
        X, y = X * root[:, None], y * root
    e = y - X @ solution.params
    squares = e * e
    powers = np.array([e.sum(), squares.sum(), squares @ e, squares @ squares])
    return ResidualSums(
        n=len(y),
        powers=powers,
        gradient=_gradient(X, y, e, solution),
        scatter=_scatter(X, e, solution, cov_type) if cov_type.startswith("HC") else None,
        groups=_group_sums(X, e, solution, groups) if groups is not None else None,
        serial_sums=_serial_sums(e, times) if times is not None else None,
    )


def _gradient(X: Floats, y: Floats, e: Floats, solution: Solution) -> npt.NDArray[np.longdouble]:
    if solution.condition_number < _ILL_CONDITIONED:
        return (X.T @ e).astype(np.longdouble)
    # If columns nearly cancel, residuals are no more exact than the coefficients. So they are computed with more digits
    # (64 bits of mantissa on x86; elsewhere as many as there are).
    wide = X.astype(np.longdouble)
    return wide.T @ (y - wide @ solution.params.astype(np.longdouble))


def refine_solution(solution: Solution, parts: Sequence[ResidualSums]) -> Solution:
    """The solution after one step of refinement, β + (RᵀR)⁻¹ Σ eᵢxᵢ, which removes rounding errors.

    Björck (1987), "Stability analysis of the method of seminormal equations for linear least squares problems", section
    4: corrected seminormal equations. The coefficients then no longer depend on how rows were cut into blocks.
    """
    gradient = np.sum([part.gradient for part in parts], axis=0).astype(np.float64)
    step = solve_triangular(solution.R, solve_triangular(solution.R, gradient, trans="T"))
    return replace(solution, params=solution.params + step)


def _scatter(X: Floats, e: Floats, solution: Solution, cov_type: str) -> Floats:
    # Σ uᵢ zᵢzᵢᵀ with u = e², for HC2 e²/(1−h), for HC3 e²/(1−h)².
    z = orthonormal_rows(X, solution)
    u = e**2
    if cov_type in ("HC2", "HC3"):
        rest = 1 - np.sum(z**2, axis=1)
        if (alone := rest < _ALONE).any():
            term_weights = np.abs(solve_triangular(solution.R, z[alone][0])) * np.linalg.norm(solution.R, axis=0)
            terms = [
                term
                for term, weight in zip(solution.terms, term_weights, strict=True)
                if weight > 1e-6 * term_weights.max()
            ]
            raise InputError(
                f"label.cov_type {cov_type}: only one post determines {list_terms(terms)}, so it has no "
                "residual; use HC1, or drop terms that only this post has"
            )
        u = u / rest ** (1 if cov_type == "HC2" else 2)
    return np.asarray((z * u[:, None]).T @ z)


def _group_sums(X: Floats, e: Floats, solution: Solution, groups: pa.ChunkedArray) -> GroupSums:
    names = hash_strings(groups)
    known = names != 0
    found, sums = _by_group(names[known], (orthonormal_rows(X, solution) * e[:, None])[known])
    return GroupSums(found, sums, int(np.sum(~known)))


def _by_group(groups: UInt64s, values: Floats) -> tuple[UInt64s, Floats]:
    """The distinct groups, sorted, and for each the sum of its rows of values (n, p)."""
    if not len(groups):
        return groups, values
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.append(True, np.diff(groups[order]) != 0))
    return groups[order][first], np.add.reduceat(values[order], first, axis=0)


def _serial_sums(e: Floats, times: pa.ChunkedArray) -> SerialSums | None:
    if len(e) == 0:
        return None
    is_sorted, when = not times.null_count, np.zeros(1, dtype=np.int64)
    if is_sorted:
        when = times.cast(pa.int64()).to_numpy()
        is_sorted = bool((np.diff(when) >= 0).all())
    return SerialSums(float(np.sum(np.diff(e) ** 2)), float(e[0]), float(e[-1]), int(when[0]), int(when[-1]), is_sorted)


def total_scatter(parts: Sequence[ResidualSums], cov_type: str) -> tuple[Floats | None, int | None]:
    """The middle matrix (p, p) of the sandwich estimator, and the number of clusters; each None if `cov_type` has none.

    For clusters it is Σ_g s_g s_gᵀ over all groups. Raises InputError if a group is null, or there is only one group.
    """
    if cov_type == "nonrobust":
        return None, None
    if cov_type != "cluster":
        return np.sum([part.scatter for part in parts if part.scatter is not None], axis=0), None
    groups = [part.groups for part in parts if part.groups is not None]
    if n_null := sum(part.n_null for part in groups):
        raise InputError(f"label.cov_type cluster: {n_null:,} posts have no user_id; use HC3, or add it to every post")
    _, sums = _by_group(np.concatenate([part.groups for part in groups]), np.vstack([part.sums for part in groups]))
    if len(sums) < 2:
        raise InputError("label.cov_type cluster: all posts are of one user; clusters need two users or more")
    return np.asarray(sums.T @ sums), len(sums)


def residual_tests(parts: Sequence[ResidualSums]) -> ResidualTests:
    """Skew, kurtosis and the tests built on them, and the Durbin–Watson statistic, from the blocks in their order.

    The values equal those of statsmodels' `jarque_bera`, `omni_normtest` (D'Agostino, Pearson 1973; Anscombe, Glynn
    1983) and `durbin_watson` of the residuals.
    """
    n = sum(part.n for part in parts)
    m1, m2, m3, m4 = np.sum([part.powers for part in parts], axis=0) / n
    variance = m2 - m1**2
    third = m3 - 3 * m1 * m2 + 2 * m1**3
    fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
    with np.errstate(divide="ignore", invalid="ignore"):
        skew, kurtosis = float(third / variance**1.5), float(fourth / variance**2)
    bera = n / 6 * (skew**2 + (kurtosis - 3) ** 2 / 4)
    omnibus = _omnibus(n, skew, kurtosis) if n >= _FEWEST_FOR_OMNIBUS else None
    return ResidualTests(
        skew=skew,
        kurtosis=kurtosis,
        jarque_bera=bera,
        jarque_bera_p=float(stats.chi2.sf(bera, 2)),
        omnibus=omnibus,
        omnibus_p=None if omnibus is None else float(stats.chi2.sf(omnibus, 2)),
        durbin_watson=_durbin_watson([part.serial_sums for part in parts if part.n], n * m2),
    )


def _omnibus(n: int, skew: float, kurtosis: float) -> float:
    # D'Agostino's transformation of skew and Anscombe and Glynn's of kurtosis to normal deviates.
    with np.errstate(divide="ignore", invalid="ignore"):
        y = skew * np.sqrt((n + 1) * (n + 3) / (6 * (n - 2)))
        beta2 = 3 * (n**2 + 27 * n - 70) * (n + 1) * (n + 3) / ((n - 2) * (n + 5) * (n + 7) * (n + 9))
        w2 = np.sqrt(2 * (beta2 - 1)) - 1
        z_skew = np.arcsinh(y / np.sqrt(2 / (w2 - 1))) / np.sqrt(np.log(w2) / 2)
        expected = 3 * (n - 1) / (n + 1)
        variance = 24 * n * (n - 2) * (n - 3) / ((n + 1) ** 2 * (n + 3) * (n + 5))
        x = (kurtosis - expected) / np.sqrt(variance)
        root = 6 * (n**2 - 5 * n + 2) / ((n + 7) * (n + 9)) * np.sqrt(6 * (n + 3) * (n + 5) / (n * (n - 2) * (n - 3)))
        a = 6 + 8 / root * (2 / root + np.sqrt(1 + 4 / root**2))
        base = 1 + x * np.sqrt(2 / (a - 4))
        z_kurtosis = (1 - 2 / (9 * a) - np.sign(base) * np.cbrt((1 - 2 / a) / np.abs(base))) / np.sqrt(2 / (9 * a))
    return float(z_skew**2 + z_kurtosis**2)


def _durbin_watson(parts: Sequence[SerialSums | None], ssr: float) -> float | None:
    if not parts or not all(part is not None and part.is_sorted for part in parts) or ssr == 0:
        return None
    found = [part for part in parts if part is not None]
    total = sum(part.squares for part in found)
    for before, after in itertools.pairwise(found):
        if after.begins < before.ends:
            return None
        total += (after.first - before.last) ** 2
    return float(total / ssr)
