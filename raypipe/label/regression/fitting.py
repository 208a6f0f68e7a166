"""Fits the regression over blocks of posts.

`map_blocks` applies a function to each block of eligible posts and returns the results in the order of the blocks.
It may use Ray, threads or a plain loop.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.errors import InputError
from raypipe.label.formula.design import (
    Design,
    design_without_learning,
    join_learning_data,
    learn_design,
    learning_data,
)
from raypipe.label.formula.formula import Floats, Formula
from raypipe.label.regression.fit_statistics import Fit, compute_statistics
from raypipe.label.regression.least_squares import QRFactor, Solution, check_residuals, merge_factors, qr_factor, solve
from raypipe.label.regression.residuals import (
    ResidualSums,
    refine_solution,
    residual_sums,
    residual_tests,
    total_scatter,
)

T = TypeVar("T")


class BlockMapper(Protocol):
    """Applies a picklable function to each block of eligible posts, with the formula's columns and `more`."""

    def __call__(self, function: Callable[[pa.Table], T], more: tuple[str, ...] = (), /) -> list[T]: ...


def make_design(map_blocks: BlockMapper, formula: Formula, schema: pa.Schema, weights: str | None = None) -> Design:
    """The design of a formula for posts of this schema. It takes one more pass if its terms learn from the data.

    That pass collects the numbers of the formula's columns, 8 bytes per post and column, and each class once.
    """
    design = design_without_learning(formula, schema, weights)
    if design is not None:
        return design
    variables, n = join_learning_data(formula, map_blocks(lambda posts: learning_data(formula, posts, weights)))
    return learn_design(formula, variables, n, weights)


def fit_coefficients(map_blocks: BlockMapper, design: Design) -> Solution:
    """The least squares solution, in one pass. Raises InputError if there are too few posts or a term is collinear."""

    def block_factors(posts: pa.Table) -> list[tuple[QRFactor, Counter[str]]]:
        parts = map(design.matrices, design.slices(posts))
        return [(qr_factor(part.X, part.y, part.weights), part.dropped) for part in parts]

    found = list(itertools.chain.from_iterable(map_blocks(block_factors)))
    if not found:
        raise InputError(f"label.formula: no post to fit {design.formula.text!r} on")
    dropped = sum((part[1] for part in found), Counter[str]())
    return solve(merge_factors([part[0] for part in found]), design.terms, dropped)


def fit(map_blocks: BlockMapper, design: Design, cov_type: str = "nonrobust", *, timed: bool = False) -> Fit:
    """Fits by least squares (paper, equation 1): one pass for the coefficients, one for sums over the residuals.

    `timed`: posts have ``created_at``, which the Durbin–Watson statistic needs. Raises InputError if there are too few
    posts, a term is collinear, no residual is left, or a post has no cluster.
    """
    solution = fit_coefficients(map_blocks, design)
    check_residuals(solution)

    def slice_residuals(posts: pa.Table) -> ResidualSums:
        matrices = design.matrices(posts)
        kept = pa.array(matrices.kept)
        groups = posts["user_id"].filter(kept) if cov_type == "cluster" else None
        times = posts["created_at"].filter(kept) if timed else None
        return residual_sums(
            matrices.X, matrices.y, matrices.weights, solution, cov_type=cov_type, groups=groups, times=times
        )

    def block_residuals(posts: pa.Table) -> list[ResidualSums]:
        return [slice_residuals(part) for part in design.slices(posts)]

    parts = map_blocks(
        block_residuals, (("user_id",) if cov_type == "cluster" else ()) + (("created_at",) if timed else ())
    )
    sums = list(itertools.chain.from_iterable(parts))
    summed_scatter, n_groups = total_scatter(sums, cov_type)
    solution = refine_solution(solution, sums)
    return compute_statistics(
        solution, cov_type, summed_scatter, n_groups, shape=residual_tests(sums), weighted=design.weights is not None
    )


def predict(X: Floats, params: Floats) -> Floats:
    """Xβ of shape (n,), summed one term at a time. A matrix product may round equal rows differently by their position,
    but posts with equal columns must tie exactly.
    """
    fitted = np.zeros(len(X))
    for j, coefficient in enumerate(params):
        fitted += X[:, j] * coefficient
    return fitted


def format_fit(response: str, fitted: Fit) -> str:
    """The fitted formula as one line of text."""
    line = ""
    for term, value in zip(fitted.terms, fitted.params, strict=True):
        sign = (" − " if value < 0 else " + ") if line else ("−" if value < 0 else "")
        line += f"{sign}{abs(value):.4g}" + ("" if term == "Intercept" else f"·{term}")
    return f"{response} = {line}   (R² {fitted.rsquared:.3f}, {fitted.nobs:,} posts)"
