"""The headline claims no more than the interval allows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raypipe.report import funnel, headline, regression, training_results
from raypipe.tables.root_tables import RootTables
from tests.report.root import Built


@pytest.fixture(scope="module")
def parts(shared: Built) -> tuple[funnel.FunnelCounts, regression.Regression | None, training_results.TrainingResults]:
    root_tables = RootTables.open(shared.storage)
    trained = training_results.build(root_tables)
    assert trained is not None
    return funnel.build(root_tables), regression.build(root_tables), trained


def test_headline_names_best_configuration_and_accuracy(
    parts: tuple[funnel.FunnelCounts, regression.Regression | None, training_results.TrainingResults],
) -> None:
    counted, fit, trained = parts
    found = headline.build(counted, fit, trained, ["bottom", "top"])
    best = trained.best
    assert best is not None
    assert best.measured is not None
    share = f"{100 * best.measured.value:.1f} %"
    assert found.title == f"Configuration {best.key} separates top from bottom in {share} of unseen test pictures"
    assert share in [fact.value for fact in found.facts]
    assert fit is not None
    assert f"{100 * fit.rsquared:.1f} %" in found.standfirst


def test_headline_says_no_better_than_chance(
    parts: tuple[funnel.FunnelCounts, regression.Regression | None, training_results.TrainingResults],
) -> None:
    counted, fit, trained = parts
    best = trained.best
    assert best is not None
    assert best.measured is not None
    poor = replace(best, measured=replace(best.measured, value=0.52, low=0.44, high=0.6))
    found = headline.build(counted, fit, replace(trained, rows=[poor]), ["bottom", "top"])
    assert found.title.endswith("no better than chance")


def test_headline_counts_labels_without_training(
    parts: tuple[funnel.FunnelCounts, regression.Regression | None, training_results.TrainingResults],
) -> None:
    counted, fit, _ = parts
    labelled = counted.count(funnel.LABELLED)
    assert headline.build(counted, fit, None, []).title == f"{labelled:,} labels from 1,205 posts"


def test_headline_of_empty_root() -> None:
    nothing = funnel.FunnelCounts([], {}, [], [], [], None, None)
    found = headline.build(nothing, None, None, [])
    assert found.title == "An empty root"
    assert found.facts == []


@pytest.mark.parametrize(("share", "text"), [(None, "–"), (0.5, "50.0 %"), (0.97654, "97.7 %")])
def test_shares_are_shown_in_percent(share: float | None, text: str) -> None:
    assert headline.percent(share) == text
