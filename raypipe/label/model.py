"""The regression over blocks of posts, wherever these are processed, and what is kept of it in ``_model.json``.

`over` is a function that applies a function to each block of eligible posts and returns the results in the blocks'
order: over Ray, or a plain loop.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa

from raypipe.errors import InputError
from raypipe.label.formula import Design, Floats, Formula, fixed_design, learn
from raypipe.label.inference import Fit, cluster_scatter, group_sums, infer, scatter
from raypipe.label.lstsq import factor, merge, solve

T = TypeVar("T")


class Over(Protocol):
    """Applies a picklable function to each block of eligible posts."""

    def __call__(self, function: Callable[[pa.Table], T], /) -> list[T]: ...


def make_design(over: Over, formula: Formula, schema: pa.Schema) -> Design:
    """The design of a formula on posts of this schema; one more pass where its terms learn from the data."""
    design = fixed_design(formula, schema)
    if design is not None:
        return design
    names = list(formula.variables)
    return learn(formula, pa.concat_tables(over(lambda posts: posts.select(names))))


def fit(over: Over, design: Design, cov_type: str) -> Fit:
    """Fit by ordinary least squares (paper, equation 1): a pass for the coefficients, one more for robust errors.

    InputError where there are too few posts, a term is collinear, or a cluster is unnamed.
    """

    def block_factor(posts: pa.Table) -> Any:
        matrices = design.matrices(posts)
        return factor(matrices.X, matrices.y)

    factors = over(block_factor)
    if not factors:
        raise InputError(f"label.formula: no post to fit {design.formula.text!r} on")
    solution = solve(merge(factors), design.terms)
    if cov_type == "nonrobust":
        return infer(solution, cov_type)
    if cov_type == "cluster":

        def block_groups(posts: pa.Table) -> Any:
            matrices = design.matrices(posts)
            return group_sums(matrices.X, matrices.y, solution, posts["user_id"].filter(pa.array(matrices.kept)))

        meat, n_groups = cluster_scatter(over(block_groups))
        return infer(solution, cov_type, meat, n_groups)

    def block_scatter(posts: pa.Table) -> Floats:
        matrices = design.matrices(posts)
        return scatter(matrices.X, matrices.y, solution, cov_type)

    return infer(solution, cov_type, np.sum(over(block_scatter), axis=0))


def predict(X: Floats, params: Floats) -> Floats:
    """Xβ of shape (n,), a term at a time: a matrix product may round equal rows differently by where they stand, and
    posts with equal columns must tie exactly.
    """
    fitted = np.zeros(len(X))
    for j, coefficient in enumerate(params):
        fitted += X[:, j] * coefficient
    return fitted


def describe(response: str, fitted: Fit) -> str:
    """The fitted formula as a person reads it."""
    line = ""
    for term, value in zip(fitted.terms, fitted.params, strict=True):
        sign = (" − " if value < 0 else " + ") if line else ("−" if value < 0 else "")
        line += f"{sign}{abs(value):.4g}" + ("" if term == "Intercept" else f"·{term}")
    return f"{response} = {line}   (R² {fitted.rsquared:.3f}, {fitted.nobs:,} posts)"


def as_json(fitted: Fit | None, **more: Any) -> bytes:
    """``_model.json``: the fit's statistics, those of terms by term name, after `more`; null where not finite."""
    values = dict(more)
    if fitted is not None:
        found = asdict(fitted)
        terms = found.pop("terms")
        for name, value in found.items():
            per_term = isinstance(value, np.ndarray)
            values[name] = dict(zip(terms, value.tolist(), strict=True)) if per_term else value
        values["cov_params"] = {term: dict(zip(terms, row, strict=True)) for term, row in values["cov_params"].items()}
    return json.dumps(_finite(values), indent=2, ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
