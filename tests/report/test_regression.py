"""Coefficients, points of figure 2 and thresholds, compared with the labels and model they come from."""

from __future__ import annotations

import numpy as np
import pytest

from raypipe.report.regression import build
from raypipe.tables.root_tables import RootTables
from tests.report.root import FORMULA, TERMS, TRUTH, Built, write_labels


def test_coefficients_are_paired_with_truth(shared: Built) -> None:
    fit = build(RootTables.open(shared.storage))
    assert fit is not None
    assert fit.formula == FORMULA
    assert [term.term for term in fit.coefficients] == list(TERMS)
    assert [term.truth for term in fit.coefficients] == list(TRUTH)
    assert fit.nobs == len(shared.labels)
    assert fit.residual_sd == pytest.approx(shared.labels["score"].std(ddof=0))


def test_figure_2_line_is_fit_at_mean_hashtags(shared: Built) -> None:
    fit = build(RootTables.open(shared.storage))
    assert fit is not None
    assert fit.cloud is not None
    params = list(shared.model["params"].values())
    own = shared.labels[["post_id"]].merge(shared.posts, on="post_id")
    for x, y in zip(fit.cloud.line_x, fit.cloud.line_y, strict=True):
        assert y == pytest.approx(params[0] + params[1] * x + params[2] * own["n_hashtags"].mean())
    # A least-squares line at the means of the other terms passes through the centre of the points.
    slope = (fit.cloud.line_y[1] - fit.cloud.line_y[0]) / (fit.cloud.line_x[1] - fit.cloud.line_x[0])
    centre = fit.cloud.line_y[0] + slope * (fit.cloud.x.mean() - fit.cloud.line_x[0])
    assert centre == pytest.approx(np.nanmean(fit.cloud.y))


def test_thresholds_bound_the_labelled_classes(shared: Built) -> None:
    fit = build(RootTables.open(shared.storage))
    assert fit is not None
    assert fit.thresholds is not None
    low, high = fit.thresholds
    scores = shared.labels["score"]
    assert (scores <= low).sum() == (shared.labels["label"] == "bottom").sum()
    assert (scores >= high).sum() == (shared.labels["label"] == "top").sum()


def test_other_formulas_show_observed_against_fitted(built: Built) -> None:
    model = {
        **built.model,
        **{
            name: {**built.model[name], "comments": built.model[name]["n_hashtags"]}
            for name in ("params", "bse", "tvalues", "pvalues", "conf_int")
        },
    }
    write_labels(built.storage, built.labels, model, len(built.posts))
    fit = build(RootTables.open(built.storage))
    assert fit is not None
    assert fit.cloud is not None
    assert fit.cloud.x_label == "fitted"
    assert fit.cloud.line_x == fit.cloud.line_y
    assert fit.coefficients[-1].truth is None


def test_missing_statistics_are_accepted(built: Built) -> None:
    nothing = {**built.model, "pvalues": dict.fromkeys(TERMS), "rsquared_adj": None}
    write_labels(built.storage, built.labels, nothing, len(built.posts))
    fit = build(RootTables.open(built.storage))
    assert fit is not None
    assert all(np.isnan(term.p) for term in fit.coefficients)
