"""TensorBoard's files of each trial: scalars per epoch, and hyperparameters with their results.

Ray Tune's own writer restarts at step 1 when a trial is resumed, and knows only a trial's name.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray.tune.logger import TBXLoggerCallback

from raypipe.config.learning_options import TrainOptions
from raypipe.config.search_space import text_of
from raypipe.train.metrics import figure_of_merit
from raypipe.train.results.trial_result import TrialResult, staged_result
from raypipe.train.results.trial_tables import hyperparameters
from raypipe.train.trial_plan import Trial, TrialPlan

if TYPE_CHECKING:
    from tensorboardX import SummaryWriter

BEST_PREFIX = "best"


def described(trial: Trial, train: TrainOptions) -> dict[str, str | int | float | bool]:
    """A trial's hyperparameters in types that dashboards accept: numbers, strings and booleans."""
    values: dict[str, Any] = {"configuration": trial.configuration, "form": trial.form, "seed": trial.seed}
    values |= {"model": train.model, "weights": train.weights, **hyperparameters(trial, train)}
    return {name: text_of(value) if value is None else value for name, value in values.items()}


def measures(row: Mapping[str, Any]) -> dict[str, float]:
    """The numbers in an epoch's row of results.json, except seed and epoch."""
    left_out = ("seed", "epoch")
    return {
        name: float(value)
        for name, value in row.items()
        if name not in left_out and isinstance(value, int | float) and not isinstance(value, bool)
    }


def epoch_row(result: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an epoch to show, out of Tune's result for it."""
    further = ("images_per_s", "data_wait", "mfu")
    return {key: value for key, value in result.items() if key.startswith(("train_", "val_")) or key in further}


def best_measures(row: Mapping[str, Any]) -> dict[str, float]:
    """The validation measures of a trial's best epoch, with names that start with ``best/``."""
    return {f"{BEST_PREFIX}/{name}": value for name, value in measures(row).items() if name.startswith("val_")}


def test_measures(result: TrialResult) -> dict[str, float]:
    """The measures on the test pictures; empty if there are none."""
    found = {"accuracy": result.test_accuracy, **result.test_metrics}
    return {f"test/{name}": value for name, value in measures(found).items()}


class EventFileCallback(TBXLoggerCallback):  # type: ignore[misc]
    """Replaces Tune's own writer: Tune does not add its own if a callback is of the same type."""

    def __init__(self, train: TrainOptions, plans: Mapping[str, TrialPlan]) -> None:
        super().__init__()
        self._train, self._plans = train, dict(plans)
        self._writers: dict[str, SummaryWriter] = {}
        self._best: dict[str, float] = {}

    def log_trial_start(self, trial: Any) -> None:
        """Opens a file and writes the hyperparameters, so that TensorBoard lists the trial from its start."""
        from tensorboardX.summary import hparams

        name = str(trial.config["trial"])
        if name in self._writers:
            return
        trial.init_local_path()
        plan = self._plans[name]
        measure = "val_loss" if plan.pictures.target.kind == "score" else "val_accuracy"
        metrics = dict.fromkeys((f"{BEST_PREFIX}/{measure}", measure, f"train_{measure.removeprefix('val_')}"), 0.0)
        if plan.pictures.target.kind != "score":
            metrics["test/accuracy"] = 0.0
        writer = self._writers[name] = self._summary_writer_cls(trial.local_path, flush_secs=10)
        experiment, start, self._end = hparams(described(plan.trial, self._train), metrics)
        for summary in (experiment, start):
            writer.file_writer.add_summary(summary)
        writer.flush()

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        """Writes an epoch. Its number is the step, also after interruptions."""
        if "val_loss" not in result:
            return
        self.log_trial_start(trial)
        name = str(trial.config["trial"])
        row = epoch_row(result)
        merit = figure_of_merit(result["val_accuracy"], result["val_loss"])
        found = measures(row)
        if name not in self._best or merit > self._best[name]:
            self._best[name] = merit
            found |= best_measures(row)
        self._add(name, found, int(result["epoch"]))

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Writes the trial's results, if it has staged them, and closes the file."""
        name = str(trial.config["trial"])
        self.log_trial_start(trial)
        done = None if failed else staged_result(self._plans[name].writer, name)
        if done is not None:
            epoch = int(done.rows[-1]["epoch"])
            self._add(name, best_measures(done.best) | test_measures(done), epoch)
            self._writers[name].file_writer.add_summary(self._end)
        with contextlib.suppress(OSError):
            self._writers.pop(name).close()

    def _add(self, name: str, found: Mapping[str, float], step: int) -> None:
        for tag, value in found.items():
            self._writers[name].add_scalar(tag, value, step)
        self._writers[name].flush()
