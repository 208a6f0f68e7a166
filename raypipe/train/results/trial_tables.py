"""Results of a sweep, per trial (``trials.csv``) and per configuration (the table printed at the end)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.table import Table

from raypipe.config.learning_options import TrainOptions, sweepable_options
from raypipe.config.search_space import text_of
from raypipe.statistics.clustered import clustered_share_interval, number_users
from raypipe.statistics.paper import TABLE_1
from raypipe.tables.csv_file import to_csv
from raypipe.train.data.target import Target
from raypipe.train.loop.recipe import RECIPES
from raypipe.train.metrics import mean_and_sd
from raypipe.train.results.comparisons import TrialAnswers
from raypipe.train.results.trial_result import TrialResult
from raypipe.train.trial_plan import Trial, value_for_configuration


@dataclass(frozen=True)
class TrialOutcome:
    """A trial, its result, and whether the sweep ended it before its last epoch."""

    trial: Trial
    result: TrialResult
    ended_early: bool = False


@dataclass(frozen=True)
class EvaluationData:
    """The data for evaluating outcomes: the target, the number of pictures per split, the trials' answers, and
    the users of the posts by post_id."""

    target: Target
    pictures: Mapping[str, int]
    trial_answers: Sequence[TrialAnswers]
    users: Mapping[str, str | None]

    def interval(
        self, accuracy: float | None, split: str, results: Sequence[TrialResult]
    ) -> tuple[float, float] | None:
        """Wilson's 95 % interval, by users, of an accuracy that is the mean over `results`.

        None without answers, for example for heads whose accuracy is not a share of pictures."""
        trials = {(result.configuration, result.seed) for result in results}
        found = [own for own in self.trial_answers if own.split == split and (own.configuration, own.seed) in trials]
        if accuracy is None or not found:
            return None
        right = np.mean([own.right for own in found], axis=0)
        return clustered_share_interval(accuracy, right, number_users(map(self.users.get, found[0].post_ids)))


def hyperparameters(trial: Trial, train: TrainOptions) -> dict[str, Any]:
    """Values of a trial by option of `train`. Numbers that are set per configuration, or by the form, are looked up."""
    options = trial.options(train)
    found = {name: value_for_configuration(getattr(options, name), trial.configuration) for name in sweepable_options()}
    if found["learning_rate"] is None:
        found["learning_rate"] = RECIPES[trial.form].learning_rate
    return found


def trials_csv(outcomes: Sequence[TrialOutcome], train: TrainOptions, evaluation: EvaluationData) -> bytes:
    """One row per trial: name, options, best epoch with Wilson's 95 % interval, and the test at that epoch.

    `seconds` is the time of training, without validation.
    """
    rows = [_row(outcome, train, evaluation) for outcome in outcomes]
    return to_csv(list(rows[0]), (list(row.values()) for row in rows))


def _row(outcome: TrialOutcome, train: TrainOptions, evaluation: EvaluationData) -> dict[str, Any]:
    trial, result = outcome.trial, outcome.result
    best, last = result.best, result.rows[-1]
    val = evaluation.interval(best["val_accuracy"], "val", [result]) or (None, None)
    test = evaluation.interval(result.test_accuracy, "test", [result]) or (None, None)
    n = evaluation.pictures.get("train", 0)
    found = {
        "trial": trial.name,
        "configuration": trial.label,
        "letter": trial.configuration,
        "form": trial.form,
        "seed": trial.seed,
        **{name: text_of(value) for name, value in hyperparameters(trial, train).items()},
        "best_epoch": best["epoch"],
        "epochs_trained": last["epoch"],
        "ended_early": text_of(outcome.ended_early),
        "val_accuracy": best["val_accuracy"],
        "val_low": val[0],
        "val_high": val[1],
        "val_loss": best["val_loss"],
        "final_val_accuracy": last["val_accuracy"],
        "test_accuracy": result.test_accuracy,
        "test_low": test[0],
        "test_high": test[1],
        "seconds": round(sum(n / row["images_per_s"] for row in result.rows), 2),
    }
    return {name: round(value, 6) if isinstance(value, float) else value for name, value in found.items()}


def summary_table(outcomes: Sequence[TrialOutcome], evaluation: EvaluationData) -> Table:
    """A table for the terminal, one row per configuration: its best epoch as mean over seeds ± standard deviation.

    All seeds share the same pictures, so the interval counts each picture once, not once per seed.
    """
    with_accuracy = outcomes[0].result.best["val_accuracy"] is not None
    with_test = any(outcome.result.test_accuracy is not None for outcome in outcomes)
    with_paper = evaluation.target.kind == "binary"
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("  configuration", overflow="fold")
    names = ["seeds", "best val" if with_accuracy else "best val loss", "at epoch", "95 % interval"]
    for name in [*names, *(["test"] if with_test else []), *(["paper"] if with_paper else [])]:
        table.add_column(name, justify="right", no_wrap=True)
    for label in sorted({outcome.trial.label for outcome in outcomes}):
        mine = [outcome.result for outcome in outcomes if outcome.trial.label == label]
        measure = "val_accuracy" if with_accuracy else "val_loss"
        best = [result.best[measure] for result in mine]
        interval = evaluation.interval(mean_and_sd(best)[0], "val", mine) if with_accuracy else None
        cells = [str(len(mine)), _spread(best), _epochs(mine), "–" if interval is None else _between(*interval)]
        if with_test:
            cells.append(_spread([result.test_accuracy for result in mine]))
        if with_paper:
            cells.append(f"{TABLE_1[label].max_val_accuracy:.3f}" if label in TABLE_1 else "")
        table.add_row(f"  {label}", *cells)
    return table


def _epochs(results: Sequence[TrialResult]) -> str:
    best = sorted({result.best["epoch"] for result in results})
    span = str(best[0]) if len(best) == 1 else f"{best[0]}–{best[-1]}"
    return f"{span} of {max(len(result.rows) for result in results)}"


def _spread(values: Sequence[float | None]) -> str:
    mean, sd = mean_and_sd(values)
    return ("–" if mean is None else f"{mean:.3f}") + ("" if sd is None else f" ± {sd:.3f}")


def _between(low: float, high: float) -> str:
    return f"{low:.3f}–{high:.3f}"
