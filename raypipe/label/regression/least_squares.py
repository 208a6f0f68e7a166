"""Least squares over any number of blocks by merging their triangular factors (TSQR).

Each block of rows is reduced to the R of its QR factorisation, a small triangle. Another QR merges stacked triangles
into one. The regression needs only R of all rows. Unlike the normal equations, this does not square the condition
number. Demmel, Grigori, Hoemmen, Langou (2012), "Communication-optimal parallel and sequential QR and LU
factorizations", section 2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular

from raypipe.errors import InputError
from raypipe.label.formula.formula import Floats

_SHOWN = 5
# Residuals below this share of y are rounding errors.
_ROUNDING_SHARE = 1e-12
# Squares of larger values overflow.
_TOO_LARGE = 1e140
_CACHED_ROWS = 16_384
"""Rows that are factored at a time. With few columns they stay in a processor's cache, which is four times as fast."""


@dataclass(frozen=True)
class QRFactor:
    """R of ``√w·[X | y | 1]`` for `n` rows (at most p+2 rows of p+2 columns), and Σ log w.

    The last column, of ones, shows whether X spans the constant, and gives the mean of y without a second pass.
    """

    n: int
    R: Floats
    log_weights: float = 0.0


@dataclass(frozen=True)
class Solution:
    """The coefficients `params` that minimise Σ w (y − Xβ)². `ssr` is the minimum; `R` (p, p) is the triangle of √w·X.

    Sums of squares are weighted too. `log_weights` is Σ log w, 0 without weights.
    """

    terms: tuple[str, ...]
    n: int
    params: Floats
    R: Floats
    ssr: float
    uncentered_tss: float
    centered_tss: float
    has_constant: bool
    log_weights: float = 0.0

    @property
    def condition_number(self) -> float:
        """Condition number of the columns of √w·X, each scaled to length 1, so that units do not matter."""
        return float(np.linalg.cond(self.R / np.linalg.norm(self.R, axis=0)))


def qr_factor(X: Floats, y: Floats, weights: Floats | None = None) -> QRFactor:
    """The factor of one block: X of shape (n, p), y of shape (n,), positive weights of shape (n,)."""
    n, p = X.shape
    if n > _CACHED_ROWS:
        cuts = [slice(start, start + _CACHED_ROWS) for start in range(0, n, _CACHED_ROWS)]
        return merge_factors([qr_factor(X[cut], y[cut], None if weights is None else weights[cut]) for cut in cuts])
    columns = np.empty((n, p + 2), order="F")
    columns[:, :p], columns[:, p], columns[:, p + 1] = X, y, 1.0
    if weights is None:
        return QRFactor(n, triangle(columns))
    columns *= np.sqrt(weights)[:, None]
    return QRFactor(n, triangle(columns), float(np.sum(np.log(weights))))


def triangle(columns: Floats) -> Floats:
    """R of the QR factorisation of (n, m) columns, at most m rows, by Householder reflections."""
    return np.asarray(np.linalg.qr(columns, mode="r"))


def merge_factors(factors: Sequence[QRFactor]) -> QRFactor:
    """The factor of all rows. Pairs merge in a tree, so rounding errors grow with the logarithm of their number."""
    level = list(factors)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        level = [_merge_pair(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
    return level[0]


def _merge_pair(a: QRFactor, b: QRFactor) -> QRFactor:
    return QRFactor(a.n + b.n, triangle(np.vstack([a.R, b.R])), a.log_weights + b.log_weights)


def solve(whole: QRFactor, terms: tuple[str, ...], dropped: Mapping[str, int] | None = None) -> Solution:
    """Solves the regression of a merged factor; `dropped` counts the posts left out, by reason, for error messages.

    Raises InputError if there are not more posts than terms, a term is a linear combination of earlier ones (the
    message names them), or a term is too large to compute with.
    """
    p, n = len(terms), whole.n
    if n <= p:
        left_out = ", ".join(f"{count:,} {reason}" for reason, count in (dropped or {}).items())
        raise InputError(
            f"label.formula: {n:,} usable posts for {p} terms ({list_terms(terms)}); a fit needs more posts than terms"
            + (f" (left out: {left_out})" if left_out else "")
        )
    _check_size(whole.R, terms)
    R = np.zeros((p + 2, p + 2))
    R[: len(whole.R)] = whole.R
    X_R, y_R, one_R = R[:p, :p], R[:, p], R[:, p + 1]
    _check_rank(X_R, terms, n)
    # The length of the column of ones is the square root of the sum of weights.
    mean = float(y_R @ one_R) / float(one_R @ one_R)
    return Solution(
        terms=terms,
        n=n,
        params=solve_triangular(X_R, y_R[:p]),
        R=X_R,
        ssr=float(y_R[p] ** 2),
        uncentered_tss=float(y_R @ y_R),
        centered_tss=float(np.sum((y_R - mean * one_R) ** 2)),
        has_constant=bool(np.linalg.norm(one_R[p:]) <= _tolerance(p, n) ** 0.5 * np.linalg.norm(one_R)),
        log_weights=whole.log_weights,
    )


def check_residuals(solution: Solution) -> None:
    """Raises InputError if the terms explain y completely, or y is the same in all posts: no score is left."""
    if solution.ssr > _ROUNDING_SHARE**2 * solution.uncentered_tss:
        return
    what = (
        "y is the same"
        if solution.centered_tss <= _ROUNDING_SHARE**2 * solution.uncentered_tss
        else "the terms explain y"
    )
    raise InputError(
        f"label.formula: {what} in all {solution.n:,} posts, so no residual is left as a score; use another y or "
        "remove the term that contains it"
    )


def list_terms(terms: Sequence[str]) -> str:
    """The first five terms, and the number of the others, for a message."""
    return ", ".join(terms[:_SHOWN]) + (f", … ({len(terms) - _SHOWN:,} more)" if len(terms) > _SHOWN else "")


def _check_size(R: Floats, terms: tuple[str, ...]) -> None:
    largest = np.abs(R).max(axis=0)
    for name, value in zip((*terms, "y"), largest, strict=False):
        if not value < _TOO_LARGE:
            raise InputError(f"label.formula: {name} is too large to compute with ({value:.0e}); take its logarithm")


def _tolerance(p: int, n: int) -> float:
    # The largest rounding error of a column that the others explain, relative to its length, with a margin.
    return 10 * p * float(np.sqrt(n)) * float(np.finfo(np.float64).eps)


def _check_rank(R: Floats, terms: tuple[str, ...], n: int) -> None:
    # |R[j, j]| is the distance of column j from the span of the columns before it. It is compared with the column's
    # length, so that units (followers in millions) do not matter.
    lengths = np.linalg.norm(R, axis=0)
    for j, term in enumerate(terms):
        if lengths[j] == 0:
            raise InputError(f"label.formula: term {term} is 0 in all {n:,} posts; drop it")
        if abs(R[j, j]) > _tolerance(len(terms), n) * lengths[j]:
            continue
        weights = np.abs(solve_triangular(R[:j, :j], R[:j, j])) * lengths[:j] / lengths[j]
        others = [name for name, weight in zip(terms, weights, strict=False) if weight > 1e-8]
        raise InputError(
            f"label.formula: term {term} is collinear with {list_terms(others)} in all {n:,} posts, so their "
            f"coefficients cannot be separated; {_way_out(term)}"
        )


def _way_out(term: str) -> str:
    if term.startswith(("cr(", "cs(", "cc(")):
        return "add constraints='center' to the spline, or remove the intercept (- 1)"
    return "drop one"
