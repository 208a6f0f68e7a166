"""`trials.csv` and the final table of a sweep."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from raypipe.config.load import load_config
from raypipe.statistics.intervals import wilson_interval
from raypipe.train.results.comparisons import TrialAnswers
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.results.trial_tables import EvaluationData, TrialOutcome, hyperparameters, summary_table, trials_csv
from raypipe.train.trial_plan import Trial
from tests.train.small import TARGETS

TRAIN = load_config(train={"learning_rate": {"A": 0.01, "B": 0.001}, "patience": 4}).train
PICTURES = {"train": 60, "val": 40, "test": 20}


def outcome(
    trial: Trial, accuracies: list[float | None], test: float | None = None, early: bool = False
) -> TrialOutcome:
    rows: list[dict[str, Any]] = [
        {"epoch": i, "val_accuracy": accuracy, "val_loss": 1 / i, "images_per_s": 30.0}
        for i, accuracy in enumerate(accuracies, 1)
    ]
    return TrialOutcome(trial, TrialResult(trial.name, trial.label, trial.seed, rows, test), early)


def evaluation(outcomes: list[TrialOutcome], kind: str, users: dict[str, str | None] | None = None) -> EvaluationData:
    """As many right answers as the accuracies say. The first pictures of each split are right."""
    given = []
    for item in outcomes if kind == "binary" else []:
        accuracies = {"val": item.result.best["val_accuracy"], "test": item.result.test_accuracy}
        for split, accuracy in accuracies.items():
            n = PICTURES[split]
            if accuracy is not None:
                ids = tuple(f"{split}{i:02d}" for i in range(n))
                right = np.arange(n) < round(accuracy * n)
                given.append(TrialAnswers(item.trial.label, item.trial.seed, split, ids, right))
    return EvaluationData(TARGETS[kind], PICTURES, given, users or {})


def lines(
    outcomes: list[TrialOutcome], kind: str = "binary", users: dict[str, str | None] | None = None
) -> list[dict[str, str]]:
    data = trials_csv(outcomes, TRAIN, evaluation(outcomes, kind, users))
    return list(csv.DictReader(io.StringIO(data.decode())))


def shown(outcomes: list[TrialOutcome], kind: str = "binary", width: int = 100) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=width).print(summary_table(outcomes, evaluation(outcomes, kind)))
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_trial_row_has_best_epoch_interval_and_test() -> None:
    first, second = lines(
        [
            outcome(Trial("A", 3), [0.5, 0.75, 0.7], test=0.8),
            outcome(Trial("B", 3, "modern", (("batch_size", 16),)), [0.6], early=True),
        ]
    )
    assert (first["trial"], first["configuration"], first["form"], first["seed"]) == ("A-3", "A", "paper", "3")
    assert (first["best_epoch"], first["epochs_trained"], first["ended_early"]) == ("2", "3", "false")
    assert (first["val_accuracy"], first["final_val_accuracy"], first["test_accuracy"]) == ("0.75", "0.7", "0.8")
    assert [float(first[f"val_{end}"]) for end in ("low", "high")] == pytest.approx(wilson_interval(30, 40), abs=1e-6)
    assert [float(first[f"test_{end}"]) for end in ("low", "high")] == pytest.approx(wilson_interval(16, 20), abs=1e-6)
    assert float(first["seconds"]) == 6.0
    assert (first["learning_rate"], first["batch_size"], first["patience"]) == ("0.01", "32", "4")
    assert (second["trial"], second["configuration"], second["letter"]) == (
        "B-modern-batch_size-16-3", "B modern batch_size=16", "B",
    )  # fmt: skip
    assert (second["batch_size"], second["ended_early"], second["test_accuracy"], second["test_low"]) == (
        "16", "true", "", "",
    )  # fmt: skip


def test_intervals_group_pictures_by_user() -> None:
    # Both pictures of a pair are right or wrong, so they count as one, except for t with 19 degrees of freedom.
    users: dict[str, str | None] = {f"val{i:02d}": f"u{i // 2}" for i in range(40)}
    (line,) = lines([outcome(Trial("A", 3), [0.75], test=0.8)], users=users)
    found = float(line["val_low"]), float(line["val_high"])
    assert found == pytest.approx(wilson_interval(15, 20), abs=0.015)
    assert [float(line[f"test_{end}"]) for end in ("low", "high")] == pytest.approx(wilson_interval(16, 20), abs=1e-6)


def test_default_learning_rate_follows_form() -> None:
    train = load_config().train
    assert hyperparameters(Trial("A", 0), train)["learning_rate"] == 0.001
    assert hyperparameters(Trial("A", 0, "modern"), train)["learning_rate"] == 0.0001
    assert hyperparameters(Trial("D", 0), train)["epochs"] == 20


@pytest.mark.parametrize("kind", ["tags", "score"])
def test_tags_and_scores_have_no_accuracy_interval(kind: str) -> None:
    accuracy = 0.9 if kind == "tags" else None
    (line,) = lines([outcome(Trial("A", 0), [accuracy])], kind)
    assert (line["val_low"], line["val_high"]) == ("", "")
    assert line["val_loss"] == "1.0"
    assert "–" in shown([outcome(Trial("A", 0), [accuracy])], kind)[1]


def test_table_shows_each_configuration_once_with_paper() -> None:
    found = shown(
        [
            outcome(Trial("A", 0), [0.5, 0.7], test=0.6),
            outcome(Trial("A", 1), [0.8, 0.7], test=0.7),
            outcome(Trial("A", 0, values=(("batch_size", 16),)), [0.6], test=0.5),
        ]
    )
    low, high = wilson_interval(30, 40)
    assert found[0].split() == [
        "configuration",
        "seeds",
        "best",
        "val",
        "at",
        "epoch",
        "95",
        "%",
        "interval",
        "test",
        "paper",
    ]
    assert found[1].split() == [
        "A", "2", "0.750", "±", "0.071", "1–2", "of", "2", f"{low:.3f}–{high:.3f}", "0.650", "±", "0.071", "0.679",
    ]  # fmt: skip
    assert found[2].split()[:6] == ["A", "batch_size=16", "1", "0.600", "1", "of"]
    assert found[2].split()[-1] == "0.500"


def test_score_trials_show_loss() -> None:
    found = shown([outcome(Trial("C", 0), [None, None])], "score")
    assert "best val loss" in found[0]
    assert "paper" not in found[0]
    assert found[1].split()[:4] == ["C", "1", "0.500", "2"]
