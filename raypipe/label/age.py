"""The age of posts when their likes were read. The paper read the likes of each post after exactly seven days."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.config.learning_options import LabelOptions
from raypipe.label import schemes
from raypipe.label.formula.derived import DERIVED_COLUMNS, variable_values
from raypipe.label.formula.formula import Formula
from raypipe.label.passes import EligiblePosts

_SPREAD_DAYS = 0.5
"""Standard deviation of the ages above which a warning is given."""


@dataclass(frozen=True)
class _AgeSums:
    """Counts of a block's posts, of those without a revisit and of known ages; sums of ages and of their squares."""

    n: int
    not_revisited: int
    known: int
    total: float
    squares: float


def age_warnings(posts: EligiblePosts, options: LabelOptions, formula: Formula | None) -> list[str]:
    """A warning if likes were not read at the same age of all posts and the formula does not account for it."""
    needs = DERIVED_COLUMNS["age_days"].needs
    names = set(posts.schema.names)
    if formula is None or {"age_days", *needs} & set(formula.variables) or "revisited_at" not in names:
        return []
    columns = [name for name in needs if name in names]
    parts = posts.map_blocks(lambda _, rows: _ages(rows), columns, "Reading ages")
    n, missing = sum(part.n for part in parts), sum(part.not_revisited for part in parts)
    known = sum(part.known for part in parts)
    way = "add age_days to --label.formula (configs/outlook-age.yaml)"
    if not schemes.LABEL_SCHEMES[options.scheme].regression:
        way = f"label.scheme {options.scheme} cannot correct for it; residual can (configs/outlook-age.yaml)"
    elif not known:
        way = "add a column with their age to the posts and to --label.formula"
    if missing:
        who = "no post has a" if missing == n else f"{missing:,} of {n:,} posts have no"
        return [f"{who} revisit time: older posts had more time to get likes; {way}"]
    if known:
        mean = sum(part.total for part in parts) / known
        spread = math.sqrt(max(0.0, sum(part.squares for part in parts) / known - mean**2))
        if spread > _SPREAD_DAYS:
            return [f"likes were read {mean:.1f} days after posting, ± {spread:.1f}; {way}"]
    return []


def _ages(posts: pa.Table) -> _AgeSums:
    ages = np.empty(0)
    if set(DERIVED_COLUMNS["age_days"].needs) <= set(posts.column_names):
        ages = variable_values("age_days", posts).drop_null().to_numpy()
    n_missing = posts["revisited_at"].null_count
    return _AgeSums(len(posts), n_missing, len(ages), float(ages.sum()), float(ages @ ages))
