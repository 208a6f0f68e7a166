"""Labels a sample again with other data and other formulas, to measure how stable labels are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from raypipe.errors import InputError
from raypipe.label.formula.formula import Floats, parse
from raypipe.label.ranking.ranks import extreme_ranks, rank
from raypipe.label.regression.fitting import fit, make_design, predict
from raypipe.label.regression.least_squares import qr_factor, solve
from raypipe.statistics.clustered import number_users

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ExtremeLabels:
    """Which posts are bottom and which are top."""

    bottom: Bools
    top: Bools


@dataclass(frozen=True)
class LabelAgreement:
    """Shares of the posts labelled one way that another way labels the same, the opposite, or not at all."""

    same: float
    opposite: float
    unlabelled: float


@dataclass(frozen=True)
class FormulaResult:
    """One formula on the posts that all compared formulas can use; `kept` compares with the first formula."""

    formula: str
    nobs: int
    n_terms: int
    rsquared_adj: float
    aic: float | None
    bic: float | None
    score_correlation: float
    kept: LabelAgreement


@dataclass(frozen=True)
class Stability:
    """Over bootstrap samples of `unit`: mean, 5th and 95th percentile of the share of labels that stay."""

    replicates: int
    failed: int
    same: tuple[float, float, float]
    opposite: float
    unit: str


def label_extremes(score: Floats, post_ids: pd.Series, q: float) -> ExtremeLabels:
    """The labels of the scheme `residual` on a sample (see `raypipe.label.ranking.ranks.extreme_ranks`)."""
    low, high = extreme_ranks(len(score), q)
    ranks = rank(score, pa.chunked_array([pa.array(post_ids, pa.string())]))
    return ExtremeLabels(ranks <= low, ranks > high)


def compare_labels(first: ExtremeLabels, other: ExtremeLabels) -> LabelAgreement:
    """The shares of `first`'s labels that are the same, the opposite or missing in `other`."""
    n = int(first.bottom.sum() + first.top.sum())
    if not n:
        return LabelAgreement(0.0, 0.0, 0.0)
    same = int((first.bottom & other.bottom).sum() + (first.top & other.top).sum())
    opposite = int((first.bottom & other.top).sum() + (first.top & other.bottom).sum())
    return LabelAgreement(same / n, opposite / n, (n - same - opposite) / n)


def _prepare_formula(posts: pa.Table, text: str, weights: str | None) -> Any:
    def map_blocks(function: Callable[[pa.Table], Any], more: tuple[str, ...] = ()) -> list[Any]:  # noqa: ARG001
        return [function(posts)]

    design = make_design(map_blocks, parse(text), posts.schema, weights)
    return map_blocks, design, design.matrices(posts)


def score_by(posts: pd.DataFrame, formula: str) -> pd.DataFrame:
    """The posts that a formula can use, with its `y` and `score`."""
    _, design, matrices = _prepare_formula(pa.Table.from_pandas(posts, preserve_index=False), formula, None)
    solution = solve(qr_factor(matrices.X, matrices.y), design.terms)
    kept: pd.DataFrame = posts[matrices.kept]
    return kept.assign(y=matrices.y, score=matrices.y - predict(matrices.X, solution.params))


def compare_formulas(
    posts: pd.DataFrame, formulas: Sequence[str], q: float, weights: str | None = None
) -> list[FormulaResult]:
    """Fits each formula to the posts that all formulas can use, so that AIC and BIC are comparable.

    AIC and BIC are None if a formula has another y than the first. Raises InputError or ConfigError, as `label` does,
    if a formula cannot be fitted.
    """
    table = pa.Table.from_pandas(posts, preserve_index=False)
    usable = np.ones(len(posts), dtype=bool)
    for text in formulas:
        usable &= _prepare_formula(table, text, weights)[2].kept
        if not usable.any():
            raise InputError(f"judge.formulas: no post has a value in each column of {text!r} and earlier formulas")
    table = table.filter(pa.array(usable))
    ids = posts.loc[usable, "post_id"]
    first: tuple[str, Floats, ExtremeLabels] | None = None
    found = []
    for text in formulas:
        map_blocks, design, matrices = _prepare_formula(table, text, weights)
        fitted = fit(map_blocks, design)
        score = matrices.y - predict(matrices.X, fitted.params)
        labels = label_extremes(score, ids, q)
        first = first or (design.formula.response, score, labels)
        alike = design.formula.response.replace(" ", "") == first[0].replace(" ", "")
        found.append(
            FormulaResult(
                formula=text,
                nobs=fitted.nobs,
                n_terms=len(fitted.terms),
                rsquared_adj=fitted.rsquared_adj,
                aic=fitted.aic if alike else None,
                bic=fitted.bic if alike else None,
                score_correlation=float(np.corrcoef(first[1], score)[0, 1]),
                kept=compare_labels(first[2], labels),
            )
        )
    return found


def bootstrap(
    posts: pd.DataFrame, formula: str, q: float, replicates: int, seed: int, weights: str | None = None
) -> Stability:
    """Draws users with replacement (posts, if no user is known), refits, and labels the sample's posts again.

    This is a cluster bootstrap, as posts of a user depend on each other (Cameron, Gelbach, Miller 2008, section II). A
    draw without a solution (a class was not drawn) is counted, not used. Raises InputError if all draws fail.
    """
    table = pa.Table.from_pandas(posts, preserve_index=False)
    _, design, matrices = _prepare_formula(table, formula, weights)
    X, y = matrices.X, matrices.y
    post_weights = np.ones(len(y)) if matrices.weights is None else matrices.weights
    kept = posts[matrices.kept]
    named = bool(kept["user_id"].notna().any())
    units = number_users(kept["user_id"])
    n_units = int(units.max()) + 1
    ids = kept["post_id"]
    first = label_extremes(y - predict(X, solve(qr_factor(X, y, post_weights), design.terms).params), ids, q)
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(replicates):
        counts = np.bincount(rng.integers(0, n_units, n_units), minlength=n_units)[units]
        drawn = counts > 0
        try:
            solution = solve(qr_factor(X[drawn], y[drawn], (counts * post_weights)[drawn]), design.terms)
        except InputError:
            continue
        results.append(compare_labels(first, label_extremes_of_draw(y - predict(X, solution.params), ids, counts, q)))
    if not results:
        raise InputError(f"judge.bootstraps {replicates}: {formula!r} could not be fitted in any draw")
    same = np.array([result.same for result in results])
    low, high = np.percentile(same, [5, 95])
    return Stability(
        replicates=len(results),
        failed=replicates - len(results),
        same=(float(same.mean()), float(low), float(high)),
        opposite=float(np.mean([result.opposite for result in results])),
        unit="users" if named else "posts",
    )


def label_extremes_of_draw(
    score: Floats, post_ids: pd.Series, counts: npt.NDArray[np.int64], q: float
) -> ExtremeLabels:
    """Labels all posts by the quantiles of a draw; `counts` (n,) is how often each post was drawn.

    The rule is that of `label_extremes` on the drawn posts. The two agree if each post is drawn once.
    """
    order = np.argsort(rank(score, pa.chunked_array([pa.array(post_ids, pa.string())])))
    upto = np.cumsum(counts[order])
    low, high = extreme_ranks(int(upto[-1]), q)
    bottom, top = np.zeros(len(score), dtype=bool), np.zeros(len(score), dtype=bool)
    bottom[order[: int(np.searchsorted(upto, low)) + 1]] = low > 0
    top[order[int(np.searchsorted(upto, high, side="right")) :]] = True
    return ExtremeLabels(bottom, top)
