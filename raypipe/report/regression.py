"""The fitted regression for the report: coefficients with their true values, the points of figure 2, residuals."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from raypipe.tables.root_tables import RootTables

FloatArray = npt.NDArray[np.float64]

_INTERCEPT, _HASHTAGS = "Intercept", "n_hashtags"
_FOLLOWERS = re.compile(r"log10\(\s*1\s*\+\s*followers\s*\)|log10\(\s*followers\s*\+\s*1\s*\)")


@dataclass(frozen=True)
class Coefficient:
    """One term of the fit. `truth` is its value in the generated world, None if that is not known."""

    term: str
    estimate: float
    std_err: float
    t: float
    p: float
    low: float
    high: float
    truth: float | None

    @property
    def covers_truth(self) -> bool | None:
        """Whether the 95 % interval contains the true value. None if that is not known."""
        return None if self.truth is None else self.low <= self.truth <= self.high


@dataclass(frozen=True)
class ScatterData:
    """The points of the paper's figure 2, and the two ends of the fitted line."""

    x: FloatArray
    y: FloatArray
    line_x: tuple[float, float]
    line_y: tuple[float, float]
    x_label: str
    y_label: str
    line_label: str


@dataclass(frozen=True)
class Regression:
    """A fitted model. `scores` are its residuals. `thresholds` are the scores that bound the extreme classes."""

    formula: str
    cov_type: str
    nobs: int
    rsquared: float
    rsquared_adj: float | None
    fvalue: float | None
    residual_sd: float
    coefficients: list[Coefficient]
    cloud: ScatterData | None
    scores: FloatArray
    thresholds: tuple[float, float] | None


def build(root_tables: RootTables) -> Regression | None:
    """The regression of `labels/`. None if the scheme fitted none."""
    model, labels = root_tables.model, root_tables.labels
    if model is None or labels is None:
        return None
    scores = labels["score"].to_numpy(dtype=float)
    truth = true_coefficients(root_tables)
    with root_tables.input_errors("labels", "_model.json"):
        coefficients = _coefficients(model, truth)
        formula, nobs, rsquared = str(model["formula"]), int(model["nobs"]), _or_nan(model["rsquared"])
        rsquared_adj, fvalue = _number(model.get("rsquared_adj")), _number(model.get("fvalue"))
    return Regression(
        formula=formula,
        cov_type=str(model.get("cov_type", "nonrobust")),
        nobs=nobs,
        rsquared=rsquared,
        rsquared_adj=rsquared_adj,
        fvalue=fvalue,
        residual_sd=float(np.nanstd(scores)),
        coefficients=coefficients,
        cloud=_scatter_data(root_tables, model, labels),
        scores=scores[np.isfinite(scores)],
        thresholds=score_thresholds(labels),
    )


def score_thresholds(labels: pd.DataFrame) -> tuple[float, float] | None:
    """The highest score of `bottom` and the lowest of `top`. None if one of these classes is missing."""
    bottom, top = (labels.loc[labels["label"].eq(name), "score"] for name in ("bottom", "top"))
    return None if bottom.empty or top.empty else (float(bottom.max()), float(top.min()))


def true_coefficients(root_tables: RootTables) -> dict[str, float]:
    """The coefficients of the generated world by term. Empty for real posts."""
    params = (root_tables.truth_facts or {}).get("params", {})
    with root_tables.input_errors("truth", "_truth.json"):
        return {str(term): float(value) for term, value in params.items()}


def _coefficients(model: dict[str, Any], truth: dict[str, float]) -> list[Coefficient]:
    return [
        Coefficient(
            term=term,
            estimate=_or_nan(estimate),
            std_err=_or_nan(model["bse"][term]),
            t=_or_nan(model["tvalues"][term]),
            p=_or_nan(model["pvalues"][term]),
            low=_or_nan(model["conf_int"][term][0]),
            high=_or_nan(model["conf_int"][term][1]),
            truth=truth.get(term),
        )
        for term, estimate in model["params"].items()
    ]


def _scatter_data(root_tables: RootTables, model: dict[str, Any], labels: pd.DataFrame) -> ScatterData | None:
    y = labels["y"].to_numpy(dtype=float)
    response = str(model["formula"]).partition("~")[0].strip()
    params = {str(term): float(value) for term, value in model["params"].items()}
    by_followers = [term for term in params if _FOLLOWERS.fullmatch(term)]
    if root_tables.posts is None or len(by_followers) != 1 or set(params) - {_INTERCEPT, _HASHTAGS, *by_followers}:
        # With other terms, no straight line in this plane represents the model. Show observed against fitted values.
        x = labels["fitted"].to_numpy(dtype=float)
        ends = _ends(x)
        return None if ends is None else ScatterData(x, y, ends, ends, "fitted", response, "observed = fitted")
    joined = labels[["post_id", "y"]].merge(root_tables.posts, on="post_id", how="left")
    x = np.log10(1 + joined["followers"].to_numpy(dtype=float))
    hashtags = float(joined["n_hashtags"].mean())
    ends = _ends(x)
    if ends is None:
        return None
    start = params.get(_INTERCEPT, 0.0) + params.get(_HASHTAGS, 0.0) * hashtags
    low, high = (start + params[by_followers[0]] * end for end in ends)
    label = f"fit at the mean of {hashtags:.1f} hashtags" if _HASHTAGS in params else "fit"
    return ScatterData(
        x, joined["y"].to_numpy(dtype=float), ends, (low, high), "log₁₀(1 + followers)", _pretty(response), label
    )


def _pretty(response: str) -> str:
    return re.sub(r"log10\((.*)\)", r"log₁₀(\1)", response)


def _ends(x: FloatArray) -> tuple[float, float] | None:
    finite = x[np.isfinite(x)]
    return (float(finite.min()), float(finite.max())) if finite.size else None


def _or_nan(value: Any) -> float:
    # JSON has no NaN. A value that could not be computed (without residual degrees of freedom, say) is null there.
    return math.nan if value is None else float(value)


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
