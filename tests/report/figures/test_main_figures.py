"""Figures can be drawn for unusual data, and histogram bars do not mix classes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.report import funnel, regression, training_results
from raypipe.report.figures import main_figures
from raypipe.report.figures.main_figures import _score_edges
from raypipe.tables.root_tables import RootTables
from tests.report.root import Built

finite = st.floats(-5, 5, allow_nan=False)


@given(st.lists(finite, min_size=4, max_size=300, unique=True), st.floats(0.1, 0.5))
def test_bars_have_equal_width_and_end_at_thresholds(scores: list[float], share: float) -> None:
    values = np.sort(np.array(scores))
    count = max(int(share * len(values)), 1)
    inside = (float(values[count - 1]), float(values[-count]))
    edges = _score_edges(values, inside)
    assert np.allclose(np.diff(edges), edges[1] - edges[0])
    assert edges[0] <= np.quantile(values, 0.0005) + 1e-9
    assert edges[-1] >= np.quantile(values, 0.9995) - 1e-9
    width = edges[1] - edges[0]
    assert len(edges) <= 150
    assert np.abs(edges - inside[0]).min() <= 1e-6 * width
    if width <= inside[1] - inside[0] and inside[1] <= edges[-1]:
        assert np.abs(edges - inside[1]).min() <= 1e-6 * width


@pytest.mark.parametrize("scores", [[0.0], [1.0, 1.0], [-1.0, 1.0]])
def test_a_few_scores_or_equal_ones_can_be_drawn(shared: Built, scores: list[float]) -> None:
    fit = regression.build(RootTables.open(shared.storage))
    assert fit is not None
    drawing = main_figures.draw_residuals(replace(fit, scores=np.array(scores), thresholds=None))
    assert drawing.inline.startswith("<svg")


def test_single_epochs_and_missing_values_can_be_drawn(shared: Built) -> None:
    trained = training_results.build(RootTables.open(shared.storage))
    assert trained is not None
    one = training_results.TrialCurve("A", 0, [1], [None], [0.5])
    for trials in ({"A": [one]}, {"A": [one, replace(one, seed=1)], "B": [], "C": [one]}):
        drawn = replace(trained, trials=trials)
        assert "epochs of training" in main_figures.draw_validation(drawn).inline
        assert main_figures.draw_overfitting(drawn).png.startswith(b"\x89PNG")


def test_accuracy_figure_shows_each_accuracy(shared: Built) -> None:
    trained = training_results.build(RootTables.open(shared.storage))
    assert trained is not None
    drawing = main_figures.draw_intervals(trained.rows)
    for line in shared.table1:
        assert f"{100 * line['test_accuracy']:.1f} %" in drawing.inline


def test_funnel_figure_shows_each_count(shared: Built) -> None:
    counted = funnel.build(RootTables.open(shared.storage))
    drawing = main_figures.draw_funnel(counted)
    for step in counted.steps:
        assert f"{step.count:,} ({100 * step.share:.1f} %)" in drawing.inline
