"""Diagnostics of a fit: residuals against variables they should not depend on, and the most influential users."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import statsmodels.api as sm
from scipy import stats

from raypipe import tables
from raypipe.errors import RaypipeError, one_line
from raypipe.label.formula.derived import all_source_columns, source_columns, variable_values
from raypipe.label.formula.formula import Floats
from raypipe.label.regression.fit_statistics import Z95
from raypipe.label.regression.influence import Influence, most_influential
from raypipe.label.regression.saved import SavedModel, load_model
from raypipe.statistics.clustered import effective_size, number_users
from raypipe.tables.root_tables import RootTables

_MOST_GROUPS = 24
_QUANTILES = 199
_ONE_AGE_DAYS = 0.1


@dataclass(frozen=True)
class GroupMeans:
    """Mean scores by value (`group_values`) of the variable `name`, with 95 % interval `mean` ± `half_width`."""

    name: str
    group_values: Floats
    mean: Floats
    half_width: Floats
    n: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Diagnostics:
    """Residuals (scores) of a fit: against fitted values, against a normal distribution, by group, and by user.

    `quantiles` are those of the normal distribution and those of the standardised scores. `age_slope` is the change
    of the score per day of a post's age when its likes were read, with all terms of the fit held equal, and its
    p-value. It is None if it cannot be estimated, for example if no age is known.
    """

    fitted: Floats
    scores: Floats
    quantiles: tuple[Floats, Floats]
    groups: list[GroupMeans]
    age_slope: tuple[float, float] | None
    influences: list[Influence]
    terms: tuple[str, ...]
    shape: dict[str, Any]


def build(root_tables: RootTables) -> Diagnostics | None:
    """The diagnostics of `labels/`. None if there are no posts, or no regression that can be read."""
    labels = root_tables.labels
    if root_tables.model is None or labels is None or "posts" not in root_tables:
        return None
    try:
        model = load_model(root_tables.storage)
    except RaypipeError:
        return None
    joined = _posts(root_tables, labels)
    scores, users = labels["score"].to_numpy(float), number_users(labels["user_id"])
    groups = [
        found
        for name, values in joined.items()
        if name != "age_days" and (found := _groups(name, values, scores, users))
    ]
    weighted = _fitted(root_tables, labels, model)
    age = joined.get("age_days")
    if age is not None and np.nanmax(age) - np.nanmin(age) < _ONE_AGE_DAYS:
        # Ages this close together cannot show the effect of a day.
        age = None
    if age is not None and (found := _groups("age_days", _decile_medians(age), scores, users)):
        groups.append(found)
    shape = model.fit.shape
    return Diagnostics(
        fitted=labels["fitted"].to_numpy(float),
        scores=scores,
        quantiles=_quantiles(scores),
        groups=groups,
        age_slope=None if age is None or "age_days" in model.design.formula.variables else _age_effect(age, weighted),
        influences=most_influential(weighted.X, weighted.e, weighted.users, model.fit.R, model.fit.bse),
        terms=model.fit.terms,
        shape={} if shape is None else vars(shape),
    )


def missing_reason(root_tables: RootTables) -> str | None:
    """Why a regression has no diagnostics. None if it has some, or if there is no regression.

    The reason is a fit of an earlier version, which stored less, or a changed file.
    """
    if root_tables.model is None:
        return None
    try:
        load_model(root_tables.storage)
    except RaypipeError as error:
        return one_line(error)
    return None


def _posts(root_tables: RootTables, labels: pd.DataFrame) -> dict[str, Floats]:
    """Columns of the labelled posts that the score should not depend on, in the labels' order. NaN means unknown."""
    schema = tables.open_dataset(root_tables.storage, "posts").schema
    wanted = [name for name in ("hour", "age_days") if set(source_columns(name, schema)) <= set(schema.names)]
    columns = {column for name in wanted for column in source_columns(name, schema)} | {"post_id", "n_hashtags"}
    posts = tables.read_table(root_tables.storage, "posts", sorted(columns))
    frame = pd.DataFrame({"post_id": posts["post_id"].to_pandas()})
    for name in (*wanted, "n_hashtags"):
        frame[name] = variable_values(name, posts).to_pandas().to_numpy(dtype=float, na_value=np.nan)
    joined = labels[["post_id"]].merge(frame, on="post_id", how="left")
    return {name: joined[name].to_numpy(float) for name in (*wanted, "n_hashtags") if joined[name].notna().any()}


def _groups(name: str, values: Floats, scores: Floats, users: npt.NDArray[np.int64]) -> GroupMeans | None:
    """Mean scores by value. Intervals take posts of one user together. Rare large values (of hashtags) form one group
    at the smallest of them. None if there are fewer than two groups."""
    known = np.isfinite(values)
    if not known.any():
        return None
    group_values = np.unique(values[known])
    if len(group_values) > _MOST_GROUPS:
        values = np.where(values > group_values[_MOST_GROUPS - 1], group_values[_MOST_GROUPS - 1], values)
    grouped = pd.DataFrame({"at": values[known], "score": scores[known], "user": users[known]}).groupby("at")
    found = grouped["score"].agg(["mean", "std", "size"]).reset_index()
    independent = [effective_size(own["score"].to_numpy(), own["user"].to_numpy()) for _, own in grouped]
    if len(found) < 2:
        return None
    return GroupMeans(
        name=name,
        group_values=found["at"].to_numpy(float),
        mean=found["mean"].to_numpy(float),
        # A group of one post has no standard deviation: its interval is NaN and is not drawn.
        half_width=(Z95 * found["std"] / np.sqrt(independent)).to_numpy(float),
        n=found["size"].to_numpy(np.int64),
    )


def _decile_medians(values: Floats) -> Floats:
    """Each value replaced by the median of its tenth of the values."""
    known = np.isfinite(values)
    bounds = np.unique(np.quantile(values[known], np.linspace(0, 1, 11)[1:-1]))
    place = np.searchsorted(bounds, values[known], side="left")
    out = np.full(len(values), np.nan)
    out[known] = pd.Series(values[known]).groupby(place).transform("median").to_numpy()
    return out


def _age_effect(age: Floats, weighted: _WeightedFit) -> tuple[float, float] | None:
    """The coefficient of the age if it is added to the fit, and its p-value with errors clustered by user."""
    known = np.isfinite(age)
    if known.sum() <= weighted.X.shape[1] + 1 or np.ptp(age[known]) == 0:
        return None
    users = pd.Series(weighted.users[known])
    groups = pd.factorize(users.where(users.notna(), "nobody " + users.index.astype(str)))[0]
    columns = np.column_stack([weighted.X[known], age[known] * weighted.root[known]])
    fit = sm.OLS(weighted.e[known], columns).fit(cov_type="cluster", cov_kwds={"groups": groups})
    slope, p = float(fit.params[-1]), float(fit.pvalues[-1])
    return (slope, p) if math.isfinite(p) else None


def _quantiles(scores: Floats) -> tuple[Floats, Floats]:
    # Never more quantiles than posts: beyond the first and the last post nothing is known.
    n = min(_QUANTILES, len(scores))
    share = (np.arange(1, n + 1) - 0.5) / n
    spread = float(np.std(scores)) or 1.0
    return stats.norm.ppf(share), (np.quantile(scores, share, method="hazen") - scores.mean()) / spread


@dataclass(frozen=True)
class _WeightedFit:
    """The fitted posts in the labels' order: √w·X (n, p), √w·e (n,), √w (n,) with weights w, and their users."""

    X: Floats
    e: Floats
    root: Floats
    users: npt.NDArray[np.object_]


def _fitted(root_tables: RootTables, labels: pd.DataFrame, model: SavedModel) -> _WeightedFit:
    schema = tables.open_dataset(root_tables.storage, "posts").schema
    names = set(all_source_columns(model.design.formula.variables, schema))
    names |= {"post_id", "user_id"} | ({model.design.weights} if model.design.weights else set())
    posts = tables.read_table(root_tables.storage, "posts", sorted(names))
    place = pd.Index(posts["post_id"].to_pandas()).get_indexer(pd.Index(labels["post_id"]))
    posts = posts.take(pa.array(place))
    matrices = model.design.matrices(posts)
    root = np.ones(len(matrices.y)) if matrices.weights is None else np.sqrt(matrices.weights)
    users = posts["user_id"].to_pandas().to_numpy(object)[matrices.kept]
    return _WeightedFit(matrices.X * root[:, None], (matrices.y - matrices.X @ model.fit.params) * root, root, users)
