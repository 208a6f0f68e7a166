"""How good the exported trial is, from the tables of its training, in the form of the model card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from raypipe.export.model.training_origin import TrainingOrigin
from raypipe.report.ceiling import PerfectClassifier
from raypipe.report.model_quality import ACCURACY, MetricResult, measure_predictions
from raypipe.statistics import paper
from raypipe.tables.root_tables import RootTables
from raypipe.train.data.target import Target
from raypipe.train.metrics import mean_and_sd
from raypipe.train.results.trial_result import TrialResult

_SPLITS = ("val", "test")


@dataclass(frozen=True)
class SeedRow:
    """One trial of the configuration, with its best epoch of `epochs`. Values are text."""

    seed: int
    best_epoch: int
    epochs: int
    val: str
    final: str
    test: str


@dataclass(frozen=True)
class ModelResults:
    """`measured`: results by split: val and, if it was set apart, test. `name`: the measure in the columns of `seeds`.

    `seed_spread`: mean and standard deviation over the seeds in words, empty for one seed. `paper_row`: the row of
    table 1 if the training was the paper's.
    """

    measured: dict[str, MetricResult]
    name: str
    seeds: list[SeedRow]
    seed_spread: str
    paper_row: paper.PaperResult | None

    @property
    def test_or_val(self) -> MetricResult | None:
        """The result on test pictures, or on validation pictures if there are no test pictures."""
        return self.measured.get("test", self.measured.get("val"))


def build(root_tables: RootTables, origin: TrainingOrigin, target: Target, *, is_paper: bool) -> ModelResults:
    """From ``predictions/`` and the trials of the training table. `is_paper`: the paper's table 1 is comparable."""
    frame = root_tables.frame(origin.record.table, "predictions")
    perfect_classifier = PerfectClassifier.from_root(root_tables) if origin.same_labels else None
    measured = {} if frame is None else _measured(frame, origin.trial, target, perfect_classifier, root_tables.users)
    name = "R²" if target.kind == "score" else "accuracy"
    rows = [_row(trial, target) for trial in origin.seeds]
    values = [value for trial in origin.seeds if (value := _best(trial, target)) is not None]
    mean, sd = mean_and_sd(values)
    seed_spread = "" if sd is None else f"{_text(mean, target)} ± {_text(sd, target)}"
    paper_row = paper.TABLE_1.get(origin.trial.configuration) if is_paper else None
    return ModelResults(measured, name, rows, seed_spread, paper_row)


def _measured(
    frame: pd.DataFrame,
    trial: TrialResult,
    target: Target,
    perfect_classifier: PerfectClassifier | None,
    users: Mapping[str, str | None],
) -> dict[str, MetricResult]:
    own = frame[frame["trial"] == trial.trial]
    accuracies = {"val": trial.best["val_accuracy"], "test": trial.test_accuracy}
    found = {
        split: measure_predictions(target, accuracies, own[own["split"] == split], perfect_classifier, users)
        for split in _SPLITS
    }
    return {split: value for split, value in found.items() if value is not None}


def _row(trial: TrialResult, target: Target) -> SeedRow:
    last = trial.rows[-1]
    score = target.kind == "score"
    return SeedRow(
        seed=trial.seed,
        best_epoch=trial.best["epoch"],
        epochs=len(trial.rows),
        val=_text(_best(trial, target), target),
        final=_text(last.get("val_r2") if score else last["val_accuracy"], target),
        test=_text(trial.test_metrics.get("r2") if score else trial.test_accuracy, target),
    )


def _best(trial: TrialResult, target: Target) -> Any:
    return trial.best.get("val_r2") if target.kind == "score" else trial.best["val_accuracy"]


def _text(value: float | None, target: Target) -> str:
    if target.kind != "score":
        return ACCURACY.text(value)
    return "–" if value is None else f"{value:.3f}".replace("-", "−")
