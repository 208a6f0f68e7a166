"""Logs trials as runs of MLflow if `sweep.mlflow` is set: hyperparameters, each epoch, the test at the end.

If the server fails while trials run, one line says so. Training goes on and is no longer logged to MLflow.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ray.tune.logger import LoggerCallback

from raypipe.config import Config
from raypipe.config.learning_options import TrainOptions
from raypipe.errors import ConfigError, StageError, one_line
from raypipe.progress import print_line
from raypipe.train.results.trial_result import staged_result
from raypipe.train.trial_plan import TrialPlan
from raypipe.train.trials.ray_event_files import best_measures, described, epoch_row, measures, test_measures

_TRIAL, _RUN = "raypipe.trial", "raypipe.run"


@contextlib.contextmanager
def mlflow_runs(config: Config, plans: Mapping[str, TrialPlan]) -> Iterator[list[LoggerCallback]]:
    """A list with the callback for Tune; empty if `sweep.mlflow` is not set.

    Runs that have not ended after the body are closed as killed. Raises ConfigError if mlflow is not installed,
    StageError if the server cannot be used."""
    if config.sweep.mlflow is None:
        yield []
        return
    runs = MlflowCallback(config.sweep.mlflow, config.train, plans)
    runs.connect()
    try:
        yield [runs]
    finally:
        runs.close()


class MlflowCallback(LoggerCallback):  # type: ignore[misc]
    """One MLflow run per trial. A resumed trial goes on in its run."""

    def __init__(self, where: str, train: TrainOptions, plans: Mapping[str, TrialPlan]) -> None:
        self._where, self._train, self._plans = where, train, dict(plans)
        self._runs: dict[str, str] = {}
        self._client: Any = None
        self._experiment = ""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its callbacks with the experiment. The connection is left out.
        return {**self.__dict__, "_client": None}

    def connect(self) -> None:
        """Find or create the experiment named by MLFLOW_EXPERIMENT_NAME, by default ``raypipe``."""
        try:
            from mlflow.tracking import MlflowClient
        except ImportError as error:
            raise ConfigError(
                "sweep.mlflow: the package mlflow is not installed; pip install 'raypipe[mlflow]', or do not set it"
            ) from error
        where = self._where
        if "://" not in where:
            # Without this variable, MLflow 3 refuses to use folders.
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            where = Path(where).absolute().as_uri()
        # By default, MLflow waits minutes per call for a server.
        for name, value in (("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"), ("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")):
            os.environ.setdefault(name, value)
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", "raypipe")
        try:
            self._client = MlflowClient(tracking_uri=where)
            found = self._client.get_experiment_by_name(name)
            self._experiment = found.experiment_id if found else self._client.create_experiment(name)
        except Exception as error:
            raise StageError(f"sweep.mlflow: {self._where} cannot be used: {one_line(error)}") from error

    def log_trial_start(self, trial: Any) -> None:
        """Continues the trial's run, or begins one with its hyperparameters."""
        name = str(trial.config["trial"])
        if name not in self._runs:
            self._call_mlflow(lambda client: self._begin(client, name))

    def log_trial_result(self, iteration: int, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        """Logs an epoch."""
        if "val_loss" not in result:
            return
        self.log_trial_start(trial)
        self._log(str(trial.config["trial"]), measures(epoch_row(result)), result["epoch"])

    def log_trial_end(self, trial: Any, failed: bool = False) -> None:
        """Logs the best epoch and the test, and ends the run as finished or failed."""
        name = str(trial.config["trial"])
        self.log_trial_start(trial)
        done = None if failed else staged_result(self._plans[name].writer, name)
        if done is not None:
            self._log(name, best_measures(done.best) | test_measures(done), done.best["epoch"])
        self._end(name, "FAILED" if done is None else "FINISHED")

    def close(self) -> None:
        """Ends the runs of trials that have not ended, as killed."""
        for name in list(self._runs):
            self._end(name, "KILLED")

    def _begin(self, client: Any, name: str) -> None:
        plan = self._plans[name]
        wanted = f"tags.`{_TRIAL}` = '{name}' and tags.`{_RUN}` = '{plan.writer.run_id}'"
        found = client.search_runs([self._experiment], wanted, max_results=1)
        if found:
            self._runs[name] = found[0].info.run_id
            client.update_run(self._runs[name], status="RUNNING")
            return
        tags = {_TRIAL: name, _RUN: plan.writer.run_id, "raypipe.root": plan.writer.storage.root}
        self._runs[name] = client.create_run(self._experiment, run_name=name, tags=tags).info.run_id
        for key, value in described(plan.trial, self._train).items():
            client.log_param(self._runs[name], key, value)

    def _log(self, name: str, found: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(key, value, now, int(step)) for key, value in found.items()]
        self._call_mlflow(lambda client: client.log_batch(self._runs[name], metrics=batch))

    def _end(self, name: str, status: str) -> None:
        run_id = self._runs.pop(name, None)
        if run_id is not None:
            self._call_mlflow(lambda client: client.set_terminated(run_id, status=status))

    def _call_mlflow(self, action: Callable[[Any], None]) -> None:
        if self._client is None:
            return
        try:
            action(self._client)
        except Exception as error:
            self._client = None
            print_line(f"  MLflow at {self._where} fails, training continues without it: {one_line(error)}")
